"""Monitor: what crosses each topic, how old it is, how good, and who lags behind?

    every topic  ->  glimpse, fold, summarise  ->  pipeline-metrics-v1 and /metrics

At least once, and a record may count twice after a crash: windows are for looking, nothing decides by them.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from ruminate.monitor.settings import MonitorSettings
from ruminate.monitor.topics import TopicsGate
from ruminate.monitor.windows import Windows
from ruminate.shared.connection import ConnectionWatch
from ruminate.shared.lag import LagProbe
from ruminate.shared.operations import serve_operations
from ruminate.shared.service import run, wait_for_stop


async def main(settings: MonitorSettings) -> None:
    """Open what we need, in order; close it in reverse, whatever happens."""
    watching = asyncio.create_task(watch(settings), name="watch")
    stopped = asyncio.create_task(wait_for_stop(), name="stop")
    await asyncio.wait({watching, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    watching.cancel()
    try:
        await watching
    except asyncio.CancelledError:
        return


async def watch(settings: MonitorSettings) -> None:
    """Tell windows until cancelled."""
    gate, windows = TopicsGate(settings), Windows(settings)
    async with AsyncExitStack() as resources:
        enter = resources.enter_async_context
        connection = await enter(ConnectionWatch(settings))
        await enter(
            serve_operations(
                host=settings.operations_host,
                port=settings.operations_port,
                ready=lambda: connection.reasons() or gate.readiness() or windows.readiness(),
                turned_at=windows.turned_at,
            )
        )
        await gate.passed()
        probe = await enter(LagProbe(settings))
        await enter(windows.reading())
        await windows.tell_windows(probe)


if __name__ == "__main__":
    run("monitor", MonitorSettings, main)
