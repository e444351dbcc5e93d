"""`list`, `show` and `verify`: what the chains hold, and whether it is what was sealed. The store alone, and the sealed cuts."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from ruminate.accumulator.chain import digest_of
from ruminate.accumulator.dataset import MANIFEST, Manifest, load_manifest
from ruminate.accumulator.rebuild import Artifact, SealedChain, artifact_of, read_chains
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.shared.bus import Bus
from ruminate.shared.store import Store, StoreError

_SHOWN_CHAINS: Final = 10
DIGITS: Final = 8
"""So many digits of a SHA-256 are asked for at least."""
FILES: Final = {"train": "train.jsonl", "holdout": "holdout.jsonl"}


class NotFound(Exception):
    """What was named fits nothing; the message says what there is."""


@dataclass(frozen=True)
class Listed:
    """One batch as `list` shows it."""

    batch: TrainingBatchSealed
    artifact: Artifact

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return self.batch.model_dump(mode="json") | {"artifact": self.artifact}


async def chains_of(bus: Bus, *, tenant: str | None = None, target: str | None = None) -> list[SealedChain]:
    """Every chain, or those of a tenant and a target. Raises NotFound where there are chains, and none of them."""
    every = await read_chains(bus)
    chosen = [chain for chain in every if tenant in (None, chain.tenant) and target in (None, chain.target)]
    if every and not chosen:
        raise not_found("no batch is sealed", tenant, target, ((chain.tenant, chain.target) for chain in every))
    return chosen


def not_found(what: str, tenant: str | None, target: str | None, there: Iterable[tuple[str, str]]) -> NotFound:
    """Says that nothing is there of a tenant and a target, and of which there is something."""
    asked = " ".join((*([f"for {target}"] if target is not None else ()), *([f"of {tenant}"] if tenant is not None else ())))
    found = sorted({f"{target} of {tenant}" for tenant, target in there})
    more = ", …" if len(found) > _SHOWN_CHAINS else ""
    return NotFound(f"{what} {asked}; there is something for {', '.join(found[:_SHOWN_CHAINS]) or 'nobody'}{more}")


async def listed(store: Store, chain: SealedChain) -> AsyncIterator[Listed]:
    """The batches of a chain, each read whole to see whether it is."""
    for batch in chain.batches:
        yield Listed(batch, await artifact_of(store, batch.dataset))


def find(chains: list[SealedChain], batch_id: str) -> TrainingBatchSealed:
    """The batch of this id. Raises NotFound."""
    for chain in chains:
        for batch in chain.batches:
            if batch.batch_id == batch_id:
                return batch
    last = ", ".join(chain.batches[-1].batch_id for chain in chains) or "none yet"
    raise NotFound(f"no batch is named {batch_id!r}; the last of each chain: {last}. All of them:  ruminate datasets list")


def pick(chains: list[SealedChain], text: str) -> tuple[SealedChain, TrainingBatchSealed]:
    """The batch that `text` means: a number, an id, the dataset's address, or the beginning of its SHA-256. Raises NotFound."""
    found = [(chain, batch) for chain in chains for batch in chain.batches if _means(text, batch)]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(f"{batch.batch_id} of {chain.tenant}" for chain, batch in found[:_SHOWN_CHAINS])
        raise NotFound(f"{text!r} is {len(found)} batches: {several}. Name the chain (--target, --tenant), or the batch by its id")
    last = ", ".join(f"{chain.batches[-1].number} ({chain.batches[-1].batch_id})" for chain in chains) or "none yet"
    raise NotFound(
        f"no batch is {text!r}; a batch is named by its number, its id, or its dataset's address or SHA-256 (at least "
        f"{DIGITS} digits). The last of each chain: {last}. All of them:  ruminate datasets list"
    )


def _means(text: str, batch: TrainingBatchSealed) -> bool:
    if text.isdecimal() and len(text) < DIGITS:
        return int(text) == batch.number
    dataset = batch.dataset
    return text in (batch.batch_id, dataset.uri) or (len(text) >= DIGITS and dataset.sha256.startswith(text.lower()))


def described(batch: TrainingBatchSealed, manifest: Manifest) -> dict[str, Any]:
    """Everything about a batch but its single rows."""
    rows = manifest.model_dump(mode="json", exclude={"rows", "left_out"})
    indicators: dict[str, int] = {}
    for row in manifest.rows:
        for name in row.indicators:
            indicators[name] = indicators.get(name, 0) + 1
    return rows | {
        "rejected_interactions": manifest.rejected_interactions,
        "indicators": dict(sorted(indicators.items())),
        "conversations": len({row.conversation for row in manifest.rows}),
        "sealed_at": batch.sealed_at.isoformat(),
        "reason": batch.reason,
        "explanation": batch.explanation,
        "dataset": batch.dataset.model_dump(mode="json"),
    }


async def verify(store: Store, chain: SealedChain) -> AsyncIterator[tuple[TrainingBatchSealed, list[str]]]:
    """Every batch of a chain with what is wrong with it: its bytes, its account of them, and its place in the chain."""
    fresh: dict[bytes, str] = {}
    held_out: dict[str, bool] = {}
    for batch in chain.batches:
        try:
            manifest = await load_manifest(store, batch.dataset)
            problems = [
                *_not_as_sealed(batch, manifest),
                *[problem async for problem in _lines(store, batch, manifest)],
                *_across(batch, manifest, fresh, held_out),
            ]
        except StoreError as error:
            problems = [str(error)]
        yield batch, problems


def _not_as_sealed(batch: TrainingBatchSealed, manifest: Manifest) -> Iterator[str]:
    said = {
        "batch_id": batch.batch_id,
        "number": batch.number,
        "previous": batch.previous_batch_id,
        "tenant": batch.tenant,
        "target_model": batch.target_model,
        "partition": batch.assessed_partition,
        "after_offset": batch.after_offset,
        "to_offset": batch.to_offset,
    }
    for name, value in said.items():
        if getattr(manifest, name) != value:
            yield f"{name} is {getattr(manifest, name)} in the manifest and {value} in the sealed record"
    for name, rows in (("train", batch.rows), ("reasoning", batch.reasoning_rows), ("holdout", batch.holdout_rows)):
        if manifest.counts[name] != rows:
            yield f"{name} counts {manifest.counts[name]} in the manifest and {rows} in the sealed record"


async def _lines(store: Store, batch: TrainingBatchSealed, manifest: Manifest) -> AsyncIterator[str]:
    for split, path in FILES.items():
        lines = (await store.read_file(batch.dataset, path)).splitlines(keepends=True)
        rows = [row for row in manifest.rows if row.split == split]
        if len(lines) != len(rows):
            yield f"{path} has {len(lines)} lines, {MANIFEST} names {len(rows)}"
        for number, (line, row) in enumerate(zip(lines, rows, strict=False), start=1):
            if hashlib.sha256(line).hexdigest() != row.sha256:
                yield f"line {number} of {path} (offset {row.offset}) is not the one that {MANIFEST} names"


def _across(batch: TrainingBatchSealed, manifest: Manifest, fresh: dict[bytes, str], held_out: dict[str, bool]) -> Iterator[str]:
    for row in manifest.rows:
        first = fresh.setdefault(row.recorded_id.bytes, batch.batch_id)
        if first != batch.batch_id:
            yield f"the interaction of offset {row.offset} is fresh in {first}, too"
        if held_out.setdefault(row.conversation, row.split == "holdout") != (row.split == "holdout"):
            yield f"the conversation of offset {row.offset} is both trained and held out"
    repeated = len(manifest.rows) - len({digest_of(row.event_id) for row in manifest.rows})
    if repeated:
        yield f"{repeated} rows repeat an event"
