"""The spool: rows on their way into datasets. Their lines lie in a file without a name, so memory holds none of them."""

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
class Entry:
    """One assessed interaction: what the decisions look at, and where its line lies. Without a row it has none."""

    row: Candidate
    start: int
    line_bytes: int

    def item(self, *, offset: int, row_max_bytes: int) -> Item:
        """Its item as the fold of a batch with this limit has it, at this place."""
        item = self.row.item
        if self.line_bytes > row_max_bytes:
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
        self._file.seek(self._end)
        self._file.write(row.line)
        entry = Entry(replace(row, line=b""), self._end, len(row.line))
        self._end += len(row.line)
        return entry

    def candidate(self, entry: Entry, item: Item, *, held_out: bool) -> Candidate:
        """The row of an entry, chosen by this item, with its line."""
        self._file.seek(entry.start)
        return replace(entry.row, item=item, held_out=held_out, line=self._file.read(entry.line_bytes))
