"""Trainer: what does this batch make of the model?

    training-batch-sealed-v1  ->  decide, train, merge, export, check  ->  adapter-trained-v1 or training-failed-v1
    training-directed-v1 (an operator's word)

At least once, one accepted result an attempt: the first in the log. One job a device at a time, each in a child process.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from functools import partial

from ruminate.shared.kafka import KafkaBus
from ruminate.shared.operations import serve_operations
from ruminate.shared.service import run, stop_bus_on_signals
from ruminate.shared.store import open_store
from ruminate.trainer.attend import attend
from ruminate.trainer.mirror.mirror import mirror_for
from ruminate.trainer.settings import TrainerSettings
from ruminate.trainer.train import Trainer, ask, forget_all_texts
from ruminate.trainer.turns import VISIBLE_DEVICES, Turns, devices_for
from ruminate.trainer.waiting import Waits
from ruminate.trainer.words import Words


async def main(settings: TrainerSettings) -> None:
    """Open what we need, in order; close it in reverse, whatever happens."""
    settings.policy()  # a file of questions that cannot be asked ends the service here, and not at its first batch
    store = open_store(settings.store_uri)
    turns = Turns(devices_for(settings.training_at_once, os.environ.get(VISIBLE_DEVICES)))
    forget_all_texts(settings.state_dir / "jobs")
    async with AsyncExitStack() as resources:
        enter = resources.enter_async_context
        bus = await enter(KafkaBus(settings, reader="trainer"))
        waits = Waits(bus)
        mirror = await enter(mirror_for(settings, ask=partial(ask, bus), store=store))
        await enter(
            serve_operations(
                host=settings.operations_host,
                port=settings.operations_port,
                ready=lambda: [*bus.readiness(), *waits.reasons()],
                notes=lambda: [*waits.notes(), *(mirror.notes() if mirror is not None else ())],
                turned_at=bus.turned_at,
            )
        )
        stop_bus_on_signals(bus)
        await attend(Trainer(bus=bus, store=store, settings=settings, turns=turns, words=Words(), waits=waits, mirror=mirror))


if __name__ == "__main__":
    run("trainer", TrainerSettings, main)
