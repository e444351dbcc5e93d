"""Eraser: what has to be forgotten is taken out of the log, and the log says when it is gone.

    erasure-requested-v1  ->  look through everything, decide  ->  tombstones, records-erased-v1

At least once. A pass that was cut short is begun again: what has a tombstone gets no second one, and nothing is committed before
nothing is left.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from ruminate.eraser.erase import Eraser
from ruminate.eraser.lives import read_lives
from ruminate.eraser.settings import EraserSettings
from ruminate.schemas.flow import ERASURE_REQUESTED
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.operations import serve_operations
from ruminate.shared.service import Buses, run, stop_on_signals


async def main(settings: EraserSettings) -> None:
    """Open what we need, in order; close it in reverse, whatever happens."""
    async with AsyncExitStack() as resources:
        enter = resources.enter_async_context
        bus = await enter(KafkaBus(settings, reader="eraser"))
        buses = Buses(bus)
        host, port = settings.operations_host, settings.operations_port
        await enter(serve_operations(host=host, port=port, ready=buses.readiness, turned_at=buses.turned_at))
        stop_on_signals(buses.stop)
        eraser = Eraser(bus, partial(read_lives, settings), settle_seconds=settings.erasure_settle_seconds)
        requests = bus.serve(ERASURE_REQUESTED, eraser.take, on_assigned=eraser.know, on_revoked=eraser.forget)
        await buses.serve(requests, beside=eraser.run())


if __name__ == "__main__":
    run("eraser", EraserSettings, main)
