"""Notes: what is to be told of one attempt at a batch, a line each, on disk until its run has ended.

A line is added in microseconds, and is read again from the beginning by whoever comes after a kill: what is told twice is the
same to MLflow. Who has a file has its lock, so that trainers that share a folder do not tell for each other.
"""

from __future__ import annotations

import fcntl
import os
from errno import ENOSPC
from pathlib import Path
from typing import Final, Self

from pydantic import ValidationError

from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.payload import Count, Part
from ruminate.trainer.outcome import Progress
from ruminate.trainer.plan import JobPlan

SUFFIX: Final = ".jsonl"
MOST_BYTES: Final = 64 * 2**20
"""Of one job: some hundred thousand steps. What is beyond is told at the end, from the evidence."""
READ_BYTES: Final = 256 * 1024


class Note(Part):
    """One line: that an attempt has begun, or where it stands."""

    at_ms: Count
    batch: TrainingBatchSealed | None = None
    attempt: Count = 1
    plan: JobPlan | None = None
    progress: Progress | None = None


class NotesTaken(Exception):
    """Another process has these notes."""


class Notes:
    """One file, open and locked."""

    def __init__(self, path: Path) -> None:
        """Raises NotesTaken, and OSError where the disk does not have it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.size_bytes = self._whole()
        except BlockingIOError:
            os.close(self._file)
            raise NotesTaken(str(path)) from None
        except OSError:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether nothing can be added."""
        return self._file < 0

    def add(self, note: Note) -> bool:
        """Write one down; False where there are too many. Raises OSError where the disk does not take it."""
        line = note.model_dump_json(exclude_defaults=True).encode() + b"\n"
        if self.size_bytes + len(line) > MOST_BYTES:
            return False
        if os.write(self._file, line) < len(line):
            os.ftruncate(self._file, self.size_bytes)  # no half line: the next one would belong to it
            raise OSError(ENOSPC, "no room for a whole line", str(self.path))
        self.size_bytes += len(line)
        return True

    def after(self, offset: int) -> tuple[list[Note], int, int]:
        """The next notes behind an offset, the offset behind them, and how many of the lines were none."""
        content = os.pread(self._file, READ_BYTES, offset)
        whole = content.rfind(b"\n") + 1
        if not whole and len(content) == READ_BYTES:
            content = os.pread(self._file, self.size_bytes - offset, offset)  # a line of that length
            whole = content.find(b"\n") + 1
        notes, damaged = [], 0
        for line in content[:whole].splitlines():
            try:
                notes.append(Note.model_validate_json(line))
            except ValidationError:
                damaged += 1
        return notes, offset + whole, damaged

    def remove(self) -> None:
        """All of it is told."""
        self.path.unlink(missing_ok=True)
        self.close()

    def set_aside(self) -> Path:
        """Nobody shall try again."""
        aside = self.path.with_suffix(".aside")
        self.path.replace(aside)
        self.close()
        return aside

    def close(self) -> None:
        """Whoever comes next may have them."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _whole(self) -> int:
        """Cut off what a loss of power has left of a line; how long it is then."""
        size = os.fstat(self._file).st_size
        at = size
        while at > 0:
            begin = max(0, at - READ_BYTES)
            found = os.pread(self._file, at - begin, begin).rfind(b"\n")
            if found >= 0:
                at = begin + found + 1
                break
            at = begin
        if at < size:
            os.ftruncate(self._file, at)
        return at
