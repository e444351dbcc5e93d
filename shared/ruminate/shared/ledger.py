"""Which offsets of one partition are finished, and what may be committed: the lowest that is not.

Pure bookkeeping. The commit's metadata carries how often each unfinished offset ended the service.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Commit:
    """Where a reader goes on, and what it has to remember until then."""

    offset: int
    metadata: str = ""

    @property
    def crashes(self) -> dict[int, int]:
        """How often the service ended at each offset. Metadata of another writer counts as none."""
        try:
            recorded = json.loads(self.metadata or "{}")["crashed"]
            return {int(offset): int(count) for offset, count in recorded.items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            return {}


class Ledger:
    """The offsets of one partition from `next_offset` on."""

    def __init__(self, next_offset: int, crashes: Mapping[int, int] | None = None) -> None:
        self.next_offset = next_offset
        self._unfinished: dict[int, None] = {}  # in the order of the log
        self._crashes = {offset: count for offset, count in (crashes or {}).items() if offset >= next_offset}

    def begin(self, offset: int) -> bool:
        """Note that the record at `offset` is under way; False when it was seen before."""
        if offset < self.next_offset:
            return False
        self.next_offset = offset + 1
        self._unfinished[offset] = None
        return True

    def finish(self, offset: int) -> None:
        """Note that the record at `offset` needs nothing any more."""
        del self._unfinished[offset]
        if self._crashes:
            self._crashes.pop(offset, None)

    def crash(self, offset: int) -> int:
        """Count one more end of the service at `offset`, and give the count."""
        self._crashes[offset] = self._crashes.get(offset, 0) + 1
        return self._crashes[offset]

    def unfinished(self) -> Iterator[int]:
        """The offsets that are under way, in the order of the log."""
        return iter(self._unfinished)

    def commit(self) -> Commit:
        """What can be committed now."""
        return self._commit(next(iter(self._unfinished), self.next_offset), ())

    def commit_after(self, offsets: Collection[int]) -> Commit:
        """What can be committed once these are finished, which are the first unfinished ones."""
        rest = iter(self._unfinished)
        for _ in offsets:
            next(rest)
        return self._commit(next(rest, self.next_offset), offsets)

    def _commit(self, offset: int, without: Iterable[int]) -> Commit:
        crashes = {at: count for at, count in self._crashes.items() if at not in set(without)} if self._crashes else {}
        if not crashes:
            return Commit(offset)
        crashed = {str(at): count for at, count in sorted(crashes.items())}
        return Commit(offset, json.dumps({"crashed": crashed}, separators=(",", ":")))
