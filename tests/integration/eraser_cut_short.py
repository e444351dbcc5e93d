"""Erase, as the service does, and be killed (-9) as soon as so many writes are acknowledged.

    python -m tests.integration.eraser_cut_short WRITES

A write is one acknowledged call: the tombstones of a topic, the words about dead letters, the markers, what is told of it. Calls
without a record are not counted. The broker comes from RUMINATE_*.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial

from ruminate.eraser.erase import Eraser
from ruminate.eraser.lives import read_lives
from ruminate.eraser.settings import EraserSettings
from ruminate.schemas.flow import ERASURE_REQUESTED
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.service import Buses
from ruminate.shared.shares import Outgoing


class DoomedBus(KafkaBus):
    writes: int

    async def write(self, records: Sequence[Outgoing]) -> list[int]:
        offsets = await super().write(records)
        self.writes -= bool(records)
        if self.writes <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return offsets


async def main(writes: int) -> None:
    settings = EraserSettings()
    async with DoomedBus(settings, reader="eraser") as bus:
        bus.writes = writes
        eraser = Eraser(bus, partial(read_lives, settings), settle_seconds=settings.erasure_settle_seconds)
        requests = bus.serve(ERASURE_REQUESTED, eraser.take, on_assigned=eraser.know, on_revoked=eraser.forget)
        await Buses(bus).serve(requests, beside=eraser.run())


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
