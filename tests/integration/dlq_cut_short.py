"""Settle a dead letter, as the command does, and be killed (-9) after so many steps.

    python -m tests.integration.dlq_cut_short replay|drop ID STEPS

A step is one acknowledged write: what is sent back, the words about it, the tombstones. The broker comes from RUMINATE_*.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from uuid import UUID

from ruminate.shared.kafka import KafkaBus
from ruminate.shared.letters import drop, read_letters, replay
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.shares import Outgoing


class DoomedBus(KafkaBus):
    steps: int

    async def write(self, records: Sequence[Outgoing]) -> list[int]:
        if not self.steps:
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps -= 1
        return await super().write(records)


async def main(settle: str, letter_id: UUID, steps: int) -> None:
    async with DoomedBus(ServiceSettings(), reader="command") as bus:
        bus.steps = steps
        known = await read_letters(bus)
        chosen = [letter for letter in known.standing() if letter.id == letter_id]
        await (replay if settle == "replay" else drop)(bus, known, chosen, by="doomed@desk", why="to be killed")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], UUID(sys.argv[2]), int(sys.argv[3])))
