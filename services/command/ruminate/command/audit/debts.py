"""What a reader owes for a record: an effect by now, an effect some day, or one that nobody can tell any more. Pure."""

from __future__ import annotations

from typing import Any, Final

from ruminate.command.audit.letters import DeadLetters, Input
from ruminate.command.audit.snapshot import Snapshot
from ruminate.schemas.topic import Topic

SETTLED: Final = 0
OWED: Final = 1
PENDING: Final = 2
TOO_OLD: Final = 4
"""Bits, so that the debts for several records of one subject add up."""


class Debts:
    """What a reader owes for a record that it has read, has yet to read, or gave up."""

    def __init__(self, snapshot: Snapshot, letters: DeadLetters) -> None:
        self._snapshot = snapshot
        self._letters = letters

    def of(self, topic: Topic[Any], given: Input, at_ms: int) -> int:
        """OWED, PENDING, TOO_OLD or SETTLED, for a record of this time; `given` may stand on the topic or on its retry topic."""
        if not self.read(given):
            return PENDING
        if self._letters.fate(given, retry_topic=topic.retries(given.reader).name) != "none":
            return SETTLED
        since = self._snapshot.whole_since_ms.get(topic.dead_letters(given.reader).name, 0)
        return OWED if at_ms >= since else TOO_OLD

    def read(self, given: Input) -> bool:
        """Whether the reader has acknowledged this record."""
        return given.offset < self._snapshot.committed.get((given.reader, given.topic), {}).get(given.partition, 0)

    def given_up(self, given: Input) -> bool:
        """Whether the reader ever made a dead letter of this record: then it states no fact."""
        return self._letters.known(given)
