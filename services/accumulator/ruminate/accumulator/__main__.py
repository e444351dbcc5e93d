"""Accumulator: which assessed interactions make a batch that is worth training?

    reasoning-assessed-v1  ->  fold, decide  ->  dataset in the store  ->  training-batch-sealed-v1

At least once. The first record that extends a chain is the batch; whatever else was published is ignored by everyone.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime

from ruminate.accumulator.accumulate import Accumulator
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.operations import serve_operations
from ruminate.shared.service import run, stop_bus_on_signals
from ruminate.shared.store import open_store


async def main(settings: AccumulatorSettings) -> None:
    """Open what we need, in order; close it in reverse, whatever happens."""
    async with AsyncExitStack() as resources:
        bus = await resources.enter_async_context(KafkaBus(settings, reader="accumulator"))
        accumulator = Accumulator(bus, open_store(settings.store_uri), settings, clock=lambda: datetime.now(UTC))
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
