"""Which model on which node a version is: by the log, or by its name on the node itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ruminate.command.connection import open_bus
from ruminate.deployer.decide import listed_name
from ruminate.schemas.flow import MODEL_REGISTERED
from ruminate.schemas.model import ModelRegistered
from ruminate.shared.bus import Bus
from ruminate.shared.ollama import NodeUnavailable, OllamaClient

BASE: Final = "base"


class NotFound(Exception):
    """A version cannot be asked: why, and what to type."""


@dataclass(frozen=True)
class Subject:
    """Who is asked: the name as it was typed, and the model's name on the node."""

    name: str
    model: str


async def find(
    names: Sequence[str], *, node: str | None, target: str | None, tenant: str | None, state: Path, kafka: str | None
) -> tuple[str, list[Subject]]:
    """The node's address, and a model for each name. Raises NotFound, and what `open_bus` raises where the log is needed.

    A name that the node lists is that model, and no log is read for it; any other is a version that was registered, or `base`: the
    target as it was before anything was learned.
    """
    held = await _held(node) if node is not None else frozenset[str]()
    if node is not None and all(listed_name(name) in held for name in names):
        return node, [Subject(name, listed_name(name)) for name in names]
    async with open_bus(state.resolve(), kafka) as bus:
        registered = await _registered(bus, target, tenant)
    by_name = {name: _model(name, registered, held) for name in names}
    if node is None:
        node = registered[-1].nodes[0].url
        held = await _held(node)
    for name, model in by_name.items():
        if listed_name(model) not in held:
            there = ", ".join(sorted(held)) or "nothing"
            raise NotFound(
                f"{name} is {model}, which {node} does not hold: older versions go when newer ones come "
                f"(RUMINATE_KEEP_PREVIOUS_VERSIONS). It holds {there}"
            )
    return node, [Subject(name, model) for name, model in by_name.items()]


async def _held(node: str) -> frozenset[str]:
    async with OllamaClient(node) as client:
        try:
            return frozenset(listed.name for listed in await client.tags())
        except NodeUnavailable as error:
            raise NotFound(f"{error}; start it, or name another by --node") from error


async def _registered(bus: Bus, target: str | None, tenant: str | None) -> list[ModelRegistered]:
    """Every version that was registered, in the order of the log, of one tenant and target."""
    every = [told.payload async for told in bus.read(MODEL_REGISTERED)]
    found = [each for each in every if target in (None, each.target_model) and tenant in (None, each.tenant)]
    whose = sorted({(each.target_model, each.tenant) for each in found})
    if not found:
        others = ", ".join(sorted({each.target_model for each in every}))
        raise NotFound(
            f"no version {f'of {target} ' if target else ''}is registered{f'; there are some of {others}' if others else ''}. "
            "To ask a model by its name on a node:  ruminate eval NAME --node URL --set FILE"
        )
    if len(whose) > 1:
        told = ", ".join(f"{target} (tenant {tenant})" for target, tenant in whose)
        raise NotFound(f"there are versions of {told}; name one: --target, --tenant")
    return found


def _model(name: str, registered: Sequence[ModelRegistered], held: frozenset[str]) -> str:
    if listed_name(name) in held:
        return listed_name(name)
    if name == BASE:
        return registered[-1].target_model
    for record in registered:
        if record.version == name:
            return record.model_name
    newest = ", ".join(record.version for record in registered[-5:])
    raise NotFound(f"no version is named {name!r}; the last ones are {newest}, and `{BASE}` is what they began with")
