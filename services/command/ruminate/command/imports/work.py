"""The work of an import: read records, tell what they hold, send it, note how far it was acknowledged.

Progress is noted only behind records of which everything was acknowledged, refused or passed over. Memory holds one record
and one batch, however long the file is.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from ruminate.collector.chat import Json, Untellable
from ruminate.command.imports.formats import Format, read_record, recognise
from ruminate.command.imports.openai import Requests
from ruminate.command.imports.progress import Counts, Progress, load, path_of
from ruminate.command.imports.records import Container, Place, Record, container_of, hash_of, read_records
from ruminate.command.imports.sinks import NotAcknowledged, Ready, Sink
from ruminate.command.imports.told import Options, PassedOver, Refused, Told, interaction_of
from ruminate.schemas.envelope import Envelope
from ruminate.schemas.flow import INTERACTION_COMPLETED
from ruminate.schemas.topic import MEBIBYTE
from ruminate.shared.bus import Unprocessable
from ruminate.shared.decoding import decode

_BATCH: Final = 512
_BATCH_BYTES: Final = 4 * MEBIBYTE
_LOOKED_AT: Final = 20
_RECORDS_BETWEEN_TURNS: Final = 32
_HEADERS: Final = Envelope(
    id="import", source="/imports", type=INTERACTION_COMPLETED.event_type, time=datetime.fromtimestamp(0, UTC)
).to_headers()


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """What was asked for. `form` None: look. `source` None: `/imports/FORMAT`. `state` None keeps no progress: nothing is sent."""

    options: Options
    form: Format | None
    destination: str
    source: str | None = None
    requests: Path | None = None
    limit: int | None = None
    state: Path | None = None
    restart: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of one file. `finished` is false where a limit ended it before its end."""

    file: Path
    form: Format
    why: str
    counts: Counts
    resumed_at_record: int
    finished: bool


Tell = Callable[[str, int, int, int], None]
"""Hears what is done, bytes done, bytes in all, and records done."""


async def import_file(file: Path, asked: Import, sink: Sink, tell: Tell) -> Outcome:
    """Import one file, from where an earlier import of it stopped. Raises CannotRead, UnknownFormat, CannotGoOn,
    NotAcknowledged and OSError; what was acknowledged until then is noted.
    """
    container = container_of(file)
    form, why = _format(file, container, asked.form)
    source = asked.source or f"/imports/{form}"
    size = file.stat().st_size
    path = None if asked.state is None else path_of(asked.state, file, asked.destination)
    progress = Progress({}, Place(), Counts(duplicates=0 if sink.tells_duplicates else None))
    if path is not None:
        progress.asked = _asked(file, form, source, asked, await asyncio.to_thread(_hashed, file, size, tell))
        if asked.restart:
            path.unlink(missing_ok=True)
        progress = load(path, progress.asked) or progress
    resumed_at = progress.place.records
    with _lookup(asked.requests, tell) as requests:
        work = _Work(asked, form, source, sink, progress, path, requests)
        records = read_records(file, container, progress.place)
        finished = True
        for record in islice(records, None if asked.limit is None else asked.limit + 1):
            if asked.limit is not None and record.number > resumed_at + asked.limit:
                finished = False
                break
            await work.take(record)
            if work.is_full:
                await work.flush()
                tell("importing", record.read_bytes, size, record.number)
            elif record.number % _RECORDS_BETWEEN_TURNS == 0:
                await asyncio.sleep(0)  # what is under way has its turn
        await work.flush()
    if path is not None and finished:
        path.unlink(missing_ok=True)
    tell("importing", size, size, progress.place.records)
    return Outcome(file, form, why, progress.counts, resumed_at, finished)


@dataclass(slots=True)
class _Work:
    """The batch that is filled, and what is noted once it was sent."""

    asked: Import
    form: Format
    source: str
    sink: Sink
    progress: Progress
    path: Path | None
    requests: Requests | None
    batch: list[tuple[Ready, int, int | None]] = field(default_factory=list)
    batch_bytes: int = 0
    read: int = 0
    place: Place | None = None

    @property
    def is_full(self) -> bool:
        return len(self.batch) >= _BATCH or self.batch_bytes >= _BATCH_BYTES or self.read >= 4 * _BATCH

    async def take(self, record: Record) -> None:
        """Tell what a record holds, and send what is too much to hold. Nothing is noted before `flush`."""
        counts = self.progress.counts
        counts.records += 1
        self.read += 1
        found = (
            (record.value,)
            if isinstance(record.value, Refused)
            else read_record(record.value, self.form, self.asked.options.mode, self.requests)
        )
        for each in found:
            if isinstance(each, PassedOver):
                counts.passed_over[each.what] += 1
                continue
            made = self._made(each) if isinstance(each, Told) else each
            if isinstance(made, Refused):
                counts.refuse(made, record=record.number, line=record.line)
            else:
                self.batch.append((made, record.number, record.line))
                self.batch_bytes += len(made.value)
                if self.batch_bytes >= _BATCH_BYTES:  # a long conversation is many times its own length
                    await self._send()
        self.place = record.after

    def _made(self, told: Told) -> Ready | Refused:
        counts = self.progress.counts
        try:
            value = orjson.dumps(interaction_of(told, self.asked.options))
            payload, _ = decode(INTERACTION_COMPLETED, value, _HEADERS, timestamp_ms=0)
        except (Untellable, Unprocessable) as error:
            return Refused(error.reason, error.explanation)
        except orjson.JSONEncodeError:
            return Refused("not_json", "the record holds an integer of more than 64 bits")
        counts.undated += told.occurred_at is None
        return Ready(payload, value)

    async def flush(self) -> None:
        """Send the batch, then note how far that was. Raises NotAcknowledged."""
        await self._send()
        self.read = 0
        if self.place is not None:
            self.progress.place = self.place
            if self.path is not None:
                self.progress.save(self.path)

    async def _send(self) -> None:
        counts = self.progress.counts
        try:
            sent = await self.sink.send([ready for ready, _, _ in self.batch], self.source)
        except NotAcknowledged as error:
            done = self.progress.place.records
            raise NotAcknowledged(f"{error}; {done} records are done, and the same command goes on behind them") from None
        for word, (_, record, line) in zip(sent, self.batch, strict=True):
            if isinstance(word, Refused):
                counts.refuse(word, record=record, line=line)
            elif word == "taken":
                counts.taken += 1
            else:
                counts.duplicates = (counts.duplicates or 0) + 1
        self.batch, self.batch_bytes = [], 0


def _format(file: Path, container: Container, form: Format | None) -> tuple[Format, str]:
    if form is not None:
        return form, "as you said"
    first = islice(read_records(file, container, Place()), _LOOKED_AT)
    return recognise(record.value for record in first if isinstance(record.value, dict))


def _hashed(file: Path, size: int, tell: Tell) -> str:
    done = 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        tell("looking at it", done, size, 0)

    return hash_of(file, told)


def _asked(file: Path, form: Format, source: str, asked: Import, sha256: str) -> dict[str, Any]:
    """What has to be the same when an import goes on."""
    options = asked.options
    return {
        "file": str(file),
        "sha256": sha256,
        "format": form,
        "source": source,
        "tenant": options.tenant,
        "agent": options.agent,
        "target": options.target,
        "model": dict(options.targets),
        "training_allowed": options.training_allowed,
        "mode": options.mode,
        "occurred_at": options.occurred_at.isoformat(),
        "requests": None if asked.requests is None else str(asked.requests),
    }


@contextmanager
def _lookup(path: Path | None, tell: Tell) -> Iterator[Requests | None]:
    """Finds lines of a batch's input file by their custom_id: an index on disk of where each stands, made anew each time."""
    if path is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="ruminate-import-") as folder, path.open("rb") as file:
        index = sqlite3.connect(Path(folder) / "requests.sqlite")
        try:
            index.execute("PRAGMA journal_mode = OFF")
            index.execute("CREATE TABLE line (custom_id TEXT PRIMARY KEY, offset INTEGER, length INTEGER) WITHOUT ROWID")
            size = path.stat().st_size
            index.executemany("INSERT OR IGNORE INTO line VALUES (?, ?, ?)", _where_each_stands(path, size, tell))
            index.commit()

            def requests(custom_id: str) -> Json | None:
                row = index.execute("SELECT offset, length FROM line WHERE custom_id = ?", (custom_id,)).fetchone()
                if row is None:
                    return None
                file.seek(row[0])
                found: Json = orjson.loads(file.read(row[1]))
                return found

            yield requests
        finally:
            index.close()


def _where_each_stands(path: Path, size: int, tell: Tell) -> Iterator[tuple[str, int, int]]:
    before = 0
    for record in read_records(path, "jsonl", Place()):
        if isinstance(record.value, dict) and "custom_id" in record.value:
            yield str(record.value["custom_id"]), before, record.after.offset - before
        before = record.after.offset
        if record.number % 1000 == 0:
            tell("looking at the requests", before, size, record.number)
