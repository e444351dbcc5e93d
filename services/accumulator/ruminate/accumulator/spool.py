"""The spool: what is on its way into files lies in a file without a name meanwhile, so memory holds no texts."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType
from typing import Self

from ruminate.accumulator.chain import Item, item_of
from ruminate.accumulator.decide import Candidate, candidate_of
from ruminate.schemas.assessment import ReasoningAssessed


@dataclass(frozen=True, slots=True)
class Slice:
    """Where in the spool something lies."""

    start: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One assessed interaction: what the decisions look at, and where its line lies. Without a row the line is empty."""

    row: Candidate
    line: Slice

    def item(self, *, offset: int, row_max_bytes: int) -> Item:
        """Its item as the fold of a batch with this limit has it, at this place."""
        item = self.row.item
        if self.line.size_bytes > row_max_bytes:
            item = replace(item, reasoning=False, why_not="too_large")
        return item if item.offset == offset else replace(item, offset=offset)


class Spool:
    """Takes assessed interactions in, whatever their length, and gives their rows back. A context manager."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="ruminate-rows-")  # noqa: SIM115 - closed with the spool
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def add(self, assessed: ReasoningAssessed, *, event_id: str, assessed_at: datetime, offset: int) -> Entry:
        """Boil an assessed interaction down."""
        item = item_of(assessed, event_id=event_id, assessed_at=assessed_at, offset=offset, row_max_bytes=sys.maxsize)
        row = candidate_of(assessed, item, event_id=event_id, held_out=False, row_max_bytes=sys.maxsize)
        return Entry(replace(row, line=b""), self.keep(row.line))

    def candidate(self, entry: Entry, item: Item, *, held_out: bool) -> Candidate:
        """The row of an entry, chosen by this item, with its line."""
        return replace(entry.row, item=item, held_out=held_out, line=self.read(entry.line))

    def keep(self, data: bytes) -> Slice:
        """Take anything in."""
        self._file.seek(self._end)
        self._file.write(data)
        kept = Slice(self._end, len(data))
        self._end += len(data)
        return kept

    def read(self, kept: Slice) -> bytes:
        """Give it back."""
        self._file.seek(kept.start)
        return self._file.read(kept.size_bytes)
