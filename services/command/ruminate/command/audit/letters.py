"""Dead letters and what became of them: does one explain that a record has no effect? Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from ruminate.command.audit.findings import moment_of
from ruminate.command.audit.snapshot import Snapshot
from ruminate.schemas.dead_letter import DeadLetterSettled
from ruminate.shared.bus import Position
from ruminate.shared.dead_letters import DeadLetter, Record

Fate = Literal["none", "standing", "dropped", "replayed"]
"""`replayed`: whoever wants to know the effect has to look at what stands on the retry topic."""

SETTLING_MS: Final = 60_000
"""A letter that was taken away this shortly before the cut is being settled: the word about it may still be on its way."""


class Input(NamedTuple):
    """A record as one reader's input: what it may have given up."""

    reader: str
    topic: str
    partition: int
    offset: int

    @property
    def position(self) -> Position:
        """Where it stands."""
        return Position(self.topic, self.partition, self.offset)


@dataclass(frozen=True, slots=True)
class _Standing:
    given: Input
    reason: str


class DeadLetters:
    """All that is known of dead letters."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._standing: dict[bytes, _Standing] = {}
        self._being_settled: set[bytes] = set()
        self._given_up: dict[Input, bytes] = {}
        self._settled: dict[Input, DeadLetterSettled] = {}
        self._retried: dict[Input, Position] = {}

    def take_letter(self, record: Record) -> None:
        """Take in a record of a dead-letter topic. Raises KeyError or ValueError where it is no dead letter."""
        if record.key is None:
            raise KeyError("key")
        if record.value is None:
            self._standing.pop(record.key, None)
            if record.timestamp > self._snapshot.taken_at_ms - SETTLING_MS:
                self._being_settled.add(record.key)
            return
        letter = DeadLetter.from_headers(record.headers)
        given = Input(letter.reader, letter.position.topic, letter.position.partition, letter.position.offset)
        self._standing[record.key] = _Standing(given, letter.reason)
        self._given_up[given] = record.key

    def take_settled(self, settled: DeadLetterSettled) -> None:
        """Take in what somebody decided about a letter; the last word counts."""
        self._settled[Input(settled.reader, settled.topic, settled.partition, settled.offset)] = settled

    def take_retry(self, topic: str, record: Record) -> None:
        """Take in what was sent back. Raises KeyError or ValueError where it does not say where it stood."""
        letter = DeadLetter.from_headers(record.headers)
        given = Input(letter.reader, letter.position.topic, letter.position.partition, letter.position.offset)
        self._retried[given] = Position(topic, record.partition, record.offset)

    def known(self, given: Input) -> bool:
        """Whether this reader ever gave up this record."""
        return given in self._given_up or given in self._settled

    def fate(self, given: Input, *, retry_topic: str) -> Fate:
        """What became of the record that this reader gave up; `none` where nothing explains a missing effect."""
        if not (self._given_up or self._settled or self._being_settled):
            return "none"  # for millions of records, where all is well
        key, settled = self._given_up.get(given), self._settled.get(given)
        if key in self._standing or (self._being_settled and (key or self._key_of(given)) in self._being_settled):
            fate: Fate = "standing"
        elif settled is not None and settled.action == "dropped":
            fate = "dropped"
        elif given in self._retried or (settled is not None and self._is_forgotten(settled, retry_topic)):
            fate = "replayed"
        else:
            fate = "none"
        return fate

    def _is_forgotten(self, settled: DeadLetterSettled, retry_topic: str) -> bool:
        """Whether it was sent back so long ago that the retry topic no longer has it."""
        return settled.settled_at.timestamp() * 1000 < self._snapshot.whole_since_ms.get(retry_topic, 0)

    def standing(self) -> Iterator[tuple[Input, str]]:
        """Letters that wait for somebody, with their reasons."""
        for letter in self._standing.values():
            yield letter.given, letter.reason

    def settled(self) -> Iterator[DeadLetterSettled]:
        """The last word about each letter that was settled."""
        yield from self._settled.values()

    def _key_of(self, given: Input) -> bytes:
        letter = DeadLetter(
            reason="", explanation="", position=given.position, timestamp_ms=0, reader=given.reader, at=moment_of(0), key=None
        )
        return str(letter.id(self._snapshot.cluster)).encode()
