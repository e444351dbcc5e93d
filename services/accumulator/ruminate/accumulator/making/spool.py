"""The spool: what is on its way into files lies in a file without a name meanwhile, so memory holds no texts."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType
from typing import Self

import orjson

from ruminate.accumulator.making.candidate import Candidate, candidate_of
from ruminate.accumulator.records.facts import Aside, Check, aside_of
from ruminate.accumulator.records.rows import RowLimits
from ruminate.accumulator.sealing.chain import Item, item_of
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
    aside: Slice
    """What it gives beside its row, as JSON; empty where that is nothing."""

    def item(self, *, offset: int, limits: RowLimits) -> Item:
        """Its item as the fold of a batch with these limits has it, at this place."""
        item = self.row.item
        why_not = item.why_not
        if item.shows and not limits.images and why_not not in ("rejected", "not_allowed"):
            why_not = "images"
        elif why_not is None:
            why_not = limits.why_not(size_bytes=self.line.size_bytes, tokens=item.tokens)
        if why_not != item.why_not:
            item = replace(item, reasoning=False, why_not=why_not, tokens=0)
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
        item = item_of(assessed, event_id=event_id, assessed_at=assessed_at, offset=offset)
        return self.take(assessed, item, event_id=event_id)

    def take(self, assessed: ReasoningAssessed, item: Item, *, event_id: str) -> Entry:
        """Take in an assessed interaction whose item is known already."""
        row = candidate_of(assessed, item, event_id=event_id, held_out=False)
        aside = aside_of(assessed) if item.gives else None
        return Entry(replace(row, line=b""), self.keep(row.line), self.keep(b"" if aside is None else orjson.dumps(aside)))

    def aside(self, entry: Entry) -> Aside:
        """What an entry gives beside its row."""
        said = orjson.loads(self.read(entry.aside)) if entry.aside.size_bytes else {}
        check = said.get("check")
        return Aside(None if check is None else Check(**check), said.get("correction"))

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
