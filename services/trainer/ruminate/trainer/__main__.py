"""Trainer: what does this batch make of the model?

    training-batch-sealed-v1  ->  decide, train, merge, export, check  ->  adapter-trained-v1 or training-failed-v1

At least once, one accepted result a batch: the first in the log. One job at a time, in a child process.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from ruminate.schemas.flow import TRAINING_BATCH_SEALED
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.operations import serve_operations
from ruminate.shared.service import run, stop_bus_on_signals
from ruminate.shared.store import open_store
from ruminate.trainer.settings import TrainerSettings
from ruminate.trainer.train import forget_all_texts, train_one


async def main(settings: TrainerSettings) -> None:
    """Open what we need, in order; close it in reverse, whatever happens."""
    store = open_store(settings.store_uri)
    forget_all_texts(settings.state_dir / "jobs")
    async with AsyncExitStack() as resources:
        enter = resources.enter_async_context
        bus = await enter(KafkaBus(settings, reader="trainer"))
        await enter(
            serve_operations(
                host=settings.operations_host, port=settings.operations_port, ready=bus.readiness, turned_at=bus.turned_at
            )
        )
        stop_bus_on_signals(bus)
        await bus.serve(
            TRAINING_BATCH_SEALED, partial(train_one, bus=bus, store=store, settings=settings), concurrency=1, max_in_flight=1
        )


if __name__ == "__main__":
    run("trainer", TrainerSettings, main)
