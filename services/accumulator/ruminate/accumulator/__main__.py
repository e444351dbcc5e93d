"""Accumulator: which assessed interactions make a batch that is worth training?

    reasoning-assessed-v1  ->  fold, decide  ->  dataset in the store  ->  training-batch-sealed-v1

At least once. The first record that extends a chain is the batch; whatever else was published is ignored by everyone.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime

from ruminate.accumulator.accumulate import Accumulator
from ruminate.accumulator.curation.protect import read_protected
from ruminate.accumulator.making.anchors import read_anchors
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.operations import serve_operations
from ruminate.shared.service import run, stop_bus_on_signals
from ruminate.shared.store import open_store


async def main(settings: AccumulatorSettings) -> None:
    """Open what we need, in order; close it in reverse, whatever happens."""
    async with AsyncExitStack() as resources:
        bus = await resources.enter_async_context(KafkaBus(settings, reader="accumulator"))
        # Whatever this reads must not be trained: so a file that cannot be read ends us before anything is cut.
        protected = read_protected(settings.protected_sets)
        anchors = read_anchors(settings.anchor_rows)
        store = open_store(settings.store_uri)
        accumulator = Accumulator(bus, store, settings, clock=lambda: datetime.now(UTC), protected=protected, anchors=anchors)
        await resources.enter_async_context(
            serve_operations(
                host=settings.operations_host,
                port=settings.operations_port,
                ready=lambda: [*bus.readiness(), *accumulator.readiness()],
                turned_at=bus.turned_at,
            )
        )
        stop_bus_on_signals(bus)
        await accumulator.serve()


if __name__ == "__main__":
    run("accumulator", AccumulatorSettings, main)
