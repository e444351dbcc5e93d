"""Run a service as it runs, and be killed (-9) at one of its steps.

    python -m tests.e2e.cut_short SERVICE STEP

A step is what is left of it: a file below the store, the state folder or the folder for temporary files is about to be opened
for writing, made, renamed or removed; or the broker has acknowledged something, and the service has not heard of it yet. They are
counted from 1. What is written in one call is one step; of what handlers tell, each event is one.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ruminate.shared.kafka import KafkaBus
from ruminate.shared.service import run
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.settling import Settled, Writer
from ruminate.shared.shares import Outgoing

CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
"""Audit events of Python that may change a file."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Countdown:
    """Ends the process at the given step."""

    def __init__(self, steps: int) -> None:
        self._left = steps
        self._lock = threading.Lock()

    def step(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def watch_files(countdown: Countdown, folders: Sequence[str]) -> None:
    """Count each change of a file below these folders, before it happens."""

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES and _changes(event, arguments, folders):
            countdown.step()

    sys.addaudithook(heard)


def _changes(event: str, arguments: tuple[Any, ...], folders: Sequence[str]) -> bool:
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
        return False
    if not isinstance(arguments[0], (str, os.PathLike)):
        return False
    path = os.fspath(arguments[0])
    if not path.startswith("/"):
        # Relative to a folder that is open: what `shutil.rmtree` removes.
        return event in {"os.remove", "os.rmdir"} and arguments[1] != -1
    return path.startswith(tuple(folders)) and not path.endswith("lock")


class CountingWriter:
    """What handlers tell."""

    def __init__(self, writer: Writer, countdown: Countdown) -> None:
        self._writer = writer
        self._countdown = countdown

    def write(self, record: Outgoing, settled: Settled) -> None:
        def acknowledged(outcome: int | Exception) -> None:
            self._countdown.step()
            settled(outcome)

        self._writer.write(record, acknowledged)

    async def flush(self) -> None:
        await self._writer.flush()


def counting_bus(countdown: Countdown) -> type[KafkaBus]:
    class CountingBus(KafkaBus):
        async def write(self, records: Sequence[Outgoing]) -> list[int]:
            offsets = await super().write(records)
            if records:
                countdown.step()
            return offsets

        async def _wait_for_writer(self) -> Writer | None:
            writer = await super()._wait_for_writer()
            return None if writer is None else CountingWriter(writer, countdown)

    return CountingBus


def main(service: str, steps: int) -> None:
    module = import_module(f"ruminate.{service}.__main__")
    (settings,) = {each for each in vars(module).values() if isinstance(each, type) and issubclass(each, ServiceSettings)}
    countdown = Countdown(steps)
    vars(module)["KafkaBus"] = counting_bus(countdown)
    store = urlsplit(os.environ["RUMINATE_STORE_URI"]).path
    watch_files(countdown, [str(Path(each).resolve()) for each in (store, os.environ["RUMINATE_STATE_DIR"], tempfile.gettempdir())])
    run(service, settings, module.main)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
