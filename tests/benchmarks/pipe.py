"""The bus alone: read a note, validate it, write it. What a service costs before it decides anything."""

from __future__ import annotations

from ruminate.shared.bus import Delivery
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.service import run, stop_bus_on_signals
from ruminate.shared.settings import ServiceSettings
from tests.benchmarks.notes import NOTES_IN, NOTES_OUT, Note


async def pass_on(delivery: Delivery[Note]) -> None:
    """Tell what was read."""
    delivery.tell(NOTES_OUT, delivery.payload)


async def main(settings: ServiceSettings) -> None:
    """Serve until a signal."""
    async with KafkaBus(settings, reader="pipe") as bus:
        stop_bus_on_signals(bus)
        await bus.serve(NOTES_IN, pass_on, concurrency=64)


if __name__ == "__main__":
    run("pipe", ServiceSettings, main)
