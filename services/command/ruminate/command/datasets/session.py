"""What `ruminate datasets` and `ruminate why` do alike: find log and store, tell how far they are, end with the right exit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Final

import typer

from ruminate.accumulator.rebuilding.replay import Unsound
from ruminate.command.connection import find_settings, open_bus_at
from ruminate.command.datasets.look import NotFound
from ruminate.command.datasets.policy import PolicyError
from ruminate.command.terminal import complaints, console, line, run
from ruminate.shared.bus import Bus
from ruminate.shared.store import Store, StoreError, open_store

_TOLD_EVERY_SECONDS: Final = 5.0

StoreUri = Annotated[
    str | None,
    typer.Option("--store", metavar="URI", help="Where datasets lie; else that of the loop in --state, else RUMINATE_STORE_URI."),
]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Only chains of this tenant.")]
Target = Annotated[str | None, typer.Option("--target", help="Only chains of this target.")]


@asynccontextmanager
async def open_parts(state: Path, kafka: str | None, store_uri: str | None) -> AsyncIterator[tuple[Bus, Store]]:
    """Log and store of what runs in `state`, or of what the caller names."""
    settings = find_settings(state.resolve(), kafka, store_uri)
    async with open_bus_at(settings) as bus:
        yield bus, open_store(settings.store_uri)


@asynccontextmanager
async def telling() -> AsyncIterator[Callable[[str], None]]:
    """Say on stderr how far long work is, every few seconds."""
    counts: dict[str, int] = {}
    began = told_at = monotonic()

    def told(what: str) -> None:
        nonlocal told_at
        counts[what] = counts.get(what, 0) + 1
        if (now := monotonic()) - told_at >= _TOLD_EVERY_SECONDS:
            told_at = now
            so_far = ", ".join(f"{count} {name}" for name, count in counts.items())
            line(complaints, f"{so_far} in {now - began:.0f} s", style="dim")

    yield told


def say(text: str, *, bad: bool = False) -> None:
    """One line of what was asked for."""
    line(console, text, style="red" if bad else None)


def run_verb(work: Coroutine[Any, Any, int]) -> int:
    """The exit code that `work` gives, or that of what was in its way."""
    return run(work, failures=(StoreError, Unsound), mistakes=(PolicyError, NotFound))
