"""The spool: what was answered and the broker does not have yet, one file an event, as in a mail queue.

    <folder>/lock                     held by the one process that writes here
    <folder>/0000000000000042.event   crc32 and length of the rest, the envelope, the payload: a line each
    <folder>/*.partial                being written: nobody was answered yet, so it may go
    <folder>/damaged/                 what could not be read back, for people, for some days

An event is written beside its place and renamed, so it is there whole or not at all once the process is killed; the
checksum finds what a power cut left behind. Files go one by one as the broker acknowledges them, so that a restart sends
again only what was in flight, under the same ids.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
import zlib
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import orjson
import structlog

from ruminate.gateway.metrics import SPOOL_BYTES, SPOOL_DAMAGED, SPOOL_EVENTS
from ruminate.gateway.settings import GatewaySettings
from ruminate.schemas.envelope import Envelope

log = structlog.get_logger()

_LARGE_BYTES = 256 * 1024
_FORGET_EVERY_SECONDS = 3_600.0


class SpoolTaken(RuntimeError):
    """Another process writes here; the message names the folder and the setting."""


class SpoolFull(Exception):
    """There is no room for this event; the message says how much is taken and by what setting."""


class SpoolDamaged(ValueError):
    """These bytes are no event; the message says what is wrong with them."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """One event, as it will be published. `payload` is JSON."""

    envelope: Envelope
    payload: bytes

    def to_bytes(self) -> bytes:
        """The contents of its file."""
        rest = orjson.dumps(self.envelope._asdict()) + b"\n" + self.payload
        return b"%08x %d\n%b" % (zlib.crc32(rest), len(rest), rest)

    @classmethod
    def from_bytes(cls, data: bytes) -> Spooled:
        """Read the contents of a file. Raises SpoolDamaged."""
        head, _, rest = data.partition(b"\n")
        if head != b"%08x %d" % (zlib.crc32(rest), len(rest)):
            raise SpoolDamaged(f"{len(data)} bytes do not have the checksum and length that their first line names")
        envelope, _, payload = rest.partition(b"\n")
        try:
            fields = orjson.loads(envelope)
            return cls(Envelope(**{**fields, "time": datetime.fromisoformat(fields["time"])}), payload)
        except (TypeError, KeyError, ValueError):
            raise SpoolDamaged("the second line is no envelope that this version knows") from None


class Spool:
    """A bounded queue on disk. `append` before the client has its last chunk, `remove` once the broker has the event."""

    def __init__(self, folder: Path, *, limit_bytes: int, fsync: bool, damaged_seconds: float) -> None:
        self._folder = folder
        self._damaged_seconds = damaged_seconds
        self._limit_bytes = limit_bytes
        self._fsync = fsync
        self._waiting: OrderedDict[int, int] = OrderedDict()  # number -> bytes, oldest first
        self._bytes = 0
        self._next = 0
        self._arrived = asyncio.Event()
        self._trouble: str | None = None

    def readiness(self) -> Collection[str]:
        """Why answers are not captured now; empty when they are."""
        return [self._trouble] if self._trouble else []

    async def append(self, event: Spooled) -> None:
        """Keep the event: it is with the operating system, or with `fsync` on the disk, when this returns.

        Raises SpoolFull, and OSError where the disk refuses.
        """
        data = event.to_bytes()
        if self._bytes + len(data) > self._limit_bytes:
            self._trouble = (
                f"spool {self._folder} holds {self._bytes} of {self._limit_bytes} bytes (RUMINATE_SPOOL_LIMIT_BYTES): "
                "answers are not captured; bring the broker back or give more room"
            )
            raise SpoolFull(self._trouble)
        number, self._next = self._next, self._next + 1
        self._bytes += len(data)
        # A thread costs more than writing a few kilobytes to the page cache.
        if self._fsync or len(data) > _LARGE_BYTES:
            # A client that leaves meanwhile must not leave the file and our count of it apart.
            await asyncio.shield(asyncio.create_task(self._write_in_thread(number, data)))
            return
        with self._counted(number, data):
            self._write(number, data)

    async def _write_in_thread(self, number: int, data: bytes) -> None:
        with self._counted(number, data):
            await asyncio.to_thread(self._write, number, data)

    @contextmanager
    def _counted(self, number: int, data: bytes) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._bytes -= len(data)
            self._trouble = f"spool {self._folder}: {error.strerror}: answers are not captured; make room or mend the disk"
            raise
        self._trouble = None
        self._waiting[number] = len(data)
        self._arrived.set()
        self._tell_size()

    async def oldest(self, *, count: int, limit_bytes: int) -> list[tuple[int, Spooled]]:
        """Wait until there is an event, then give the oldest in order, at most `count` and about `limit_bytes`."""
        found: list[tuple[int, Spooled]] = []
        while not found:
            await self._arrived.wait()
            numbers: list[int] = []
            size = 0
            for number, length in self._waiting.items():
                if numbers and (len(numbers) == count or size + length > limit_bytes):
                    break
                numbers.append(number)
                size += length
            found = await asyncio.to_thread(self._read, numbers)
            for damaged in set(numbers) - {number for number, _ in found}:
                self._forget(damaged)
        return found

    def remove(self, number: int) -> None:
        """The broker has this event."""
        self._path(number).unlink(missing_ok=True)
        self._forget(number)

    def _forget(self, number: int) -> None:
        self._bytes -= self._waiting.pop(number)
        if not self._waiting:
            self._arrived.clear()
        if self._bytes < self._limit_bytes // 2:
            self._trouble = None
        self._tell_size()

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:016d}.event"

    def _write(self, number: int, data: bytes) -> None:
        path = self._path(number)
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                if self._fsync:
                    os.fsync(file.fileno())
            partial.rename(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        if self._fsync:
            _fsync_folder(self._folder)

    def _read(self, numbers: list[int]) -> list[tuple[int, Spooled]]:
        found = []
        for number in numbers:
            path = self._path(number)
            try:
                found.append((number, Spooled.from_bytes(path.read_bytes())))
            except (OSError, SpoolDamaged) as error:
                aside = self._folder / "damaged" / path.name
                if path.exists():
                    path.rename(aside)
                SPOOL_DAMAGED.inc()
                log.error("spooled_event_set_aside", path=str(aside), reason=str(error))  # noqa: TRY400 - the reason is all there is
        return found

    def recover(self) -> None:
        """Find what an earlier process left."""
        for partial in self._folder.glob("*.partial"):
            log.info("unfinished_event_removed", path=str(partial))
            partial.unlink()
        for path in sorted(self._folder.glob("*.event")):
            number, size = int(path.stem), path.stat().st_size
            self._waiting[number] = size
            self._bytes += size
        # Numbers of what was set aside are not used again, so that nothing there is ever overwritten.
        self._next = 1 + max((int(path.stem) for path in self._folder.rglob("*.event")), default=-1)
        if self._waiting:
            log.info("spool_found", events=len(self._waiting), bytes=self._bytes)
            self._arrived.set()
        self._tell_size()

    def forget_damaged(self, *, now: float) -> None:
        """Remove what was set aside and is too old. `now` as files have their times."""
        for path in (self._folder / "damaged").iterdir():
            if path.stat().st_mtime < now - self._damaged_seconds:
                path.unlink()
                log.info("damaged_event_removed", path=str(path))

    async def keep_forgetting(self) -> None:
        """Do so for as long as this lasts."""
        while True:
            await asyncio.to_thread(self.forget_damaged, now=time.time())
            await asyncio.sleep(_FORGET_EVERY_SECONDS)

    def _tell_size(self) -> None:
        SPOOL_EVENTS.set(len(self._waiting))
        SPOOL_BYTES.set(self._bytes)


@contextmanager
def open_spool(folder: Path, settings: GatewaySettings) -> Iterator[Spool]:
    """The spool in this folder, with all that an earlier process left in it. Raises SpoolTaken."""
    (folder / "damaged").mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpoolTaken(
                f"{folder} is in use by another gateway; give each its own RUMINATE_STATE_DIR or RUMINATE_REPLICA"
            ) from None
        spool = Spool(
            folder,
            limit_bytes=settings.spool_limit_bytes,
            fsync=settings.spool_fsync,
            damaged_seconds=settings.spool_damaged_days * 86_400,
        )
        spool.recover()
        yield spool


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
