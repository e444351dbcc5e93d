"""How a service's process begins and ends: settings, logs, signals, exit codes.

0    stopped by SIGTERM or SIGINT, everything finished is committed
70   crashed; a supervisor starts it again
78   the fault is ours (too many dead letters, a lost offset, wrong settings): no supervisor starts it again
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, NoReturn, TypeVar

import structlog
from pydantic import ValidationError

from ruminate.shared.bus import EXIT_FAULT_IS_OURS, Bus, OffsetLost, TooManyDeadLetters, TransactionsRefused
from ruminate.shared.kafka_settings import WrongConnectionSettings
from ruminate.shared.log import configure_logging
from ruminate.shared.obstacles import missing_right
from ruminate.shared.process import die_with_parent
from ruminate.shared.settings import ServiceSettings, WrongSettings, problems_of

log = structlog.get_logger()

S = TypeVar("S", bound=ServiceSettings)

EXIT_CRASHED = 70


def run(service: str, settings_class: type[S], main: Callable[[S], Coroutine[Any, Any, None]]) -> NoReturn:
    """Read the settings, run `main` until it returns, and end the process with the code that says how it went."""
    die_with_parent()
    try:
        settings = settings_class()
    except ValidationError as error:
        for problem in problems_of(error):
            print(f"{service}: {problem}", file=sys.stderr)  # noqa: T201 - there is no log yet
        sys.exit(EXIT_FAULT_IS_OURS)
    configure_logging(service=service, level=settings.log_level)
    # What is imported stays, and a record leaves no cycles: looking for them after every 700 objects costs 6 µs a record.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    try:
        asyncio.run(out_of_groups(main(settings)))
    except (WrongConnectionSettings, WrongSettings) as error:
        log.error("settings_refused", why=str(error))  # noqa: TRY400 - the sentence says it all
        sys.exit(EXIT_FAULT_IS_OURS)
    except (TooManyDeadLetters, OffsetLost, TransactionsRefused):
        log.exception("service_ended_for_an_operator")
        sys.exit(EXIT_FAULT_IS_OURS)
    except Exception as error:
        hint = missing_right(error)
        log.exception("service_crashed", **({"why": hint} if hint else {}))
        sys.exit(EXIT_CRASHED)
    log.info("service_stopped")
    sys.exit(0)


async def out_of_groups(work: Coroutine[Any, Any, None]) -> None:
    """Do the work. What ends it within task groups is raised as it is: the first failure, which ended what ran beside it."""
    try:
        await work
    except BaseExceptionGroup as several:
        cause: BaseException = several
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        raise cause from None


def stop_on_signals(stop: Callable[[], Awaitable[None]]) -> None:
    """On SIGTERM or SIGINT, call `stop` once; a second signal changes nothing."""
    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Task[None]] = []

    async def stop_once() -> None:
        log.info("stop_requested")
        await stop()

    def on_signal() -> None:
        if not stopping:
            stopping.append(loop.create_task(stop_once()))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


async def wait_for_stop() -> None:
    """Return when SIGTERM or SIGINT arrives: for a service that serves HTTP alone."""
    asked = asyncio.Event()

    async def stop() -> None:
        asked.set()

    stop_on_signals(stop)
    await asked.wait()


def stop_bus_on_signals(bus: Bus) -> None:
    """SIGTERM and SIGINT let `serve` finish what it has begun and return."""
    stop_on_signals(bus.stop)


class Buses:
    """Several buses of one process, each with a topic of its own, as one: ready when all are, alive while all turn."""

    def __init__(self, *buses: Bus) -> None:
        self._buses = buses

    def readiness(self) -> Collection[str]:
        """Why one of them is not ready; a sentence that several say is said once."""
        return list(dict.fromkeys(reason for bus in self._buses for reason in bus.readiness()))

    def turned_at(self) -> float:
        """When the one turned whose last turn is the longest ago."""
        return min(bus.turned_at() for bus in self._buses)

    async def stop(self) -> None:
        """Ask all of them to finish what they have begun."""
        await asyncio.gather(*(bus.stop() for bus in self._buses))

    async def serve(self, *servings: Coroutine[Any, Any, None], beside: Coroutine[Any, Any, None] | None = None) -> None:
        """Until all have stopped. Where one fails, the others finish what they have begun, and its failure is raised.

        `beside` runs as long as they do, and is cancelled then; it never ends but by failing.
        """
        tasks = [asyncio.create_task(serving) for serving in servings]
        working = None if beside is None else asyncio.create_task(beside)
        try:
            await self._serve(tasks, working)
        finally:
            every = tasks if working is None else [*tasks, working]
            for task in every:
                task.cancel()
            await asyncio.gather(*every, return_exceptions=True)

    async def _serve(self, tasks: list[asyncio.Task[None]], working: asyncio.Task[None] | None) -> None:
        pending: set[asyncio.Task[None]] = set(tasks)
        while pending:
            watched = pending if working is None else {*pending, working}
            done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            pending -= done
            if any(task.exception() for task in done):
                await self.stop()
                break
            if working in done:
                raise RuntimeError(f"{working} ended, and should not have")
        await asyncio.gather(*tasks)
        if working is not None and working.done():
            working.result()
