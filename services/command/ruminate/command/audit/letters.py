"""Dead letters and what became of them: does one explain that a record has no effect? Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ruminate.command.audit.snapshot import Snapshot
from ruminate.schemas.dead_letter import DeadLetterSettled
from ruminate.shared.dead_letters import DeadLetter
from ruminate.shared.letters import Action, Box, letter_of
from ruminate.shared.record import Position, Record

Fate = Literal["none", "standing", "dropped", "replayed"]
"""`replayed`: whoever wants to know the effect has to look at what stands on the retry topic."""


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


@dataclass(frozen=True, slots=True)
class Word:
    """What was decided about a letter, by whom and why."""

    action: Action
    at_ms: int
    says: str


class DeadLetters:
    """All that is known of dead letters."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._standing: dict[bytes, _Standing] = {}
        self._known: set[Input] = set()
        self._given_up: dict[Input, bytes] = {}
        self._words: dict[Input, Word] = {}
        self._retried: set[Input] = set()

    def take_letter(self, box: Box, record: Record) -> None:
        """Take in a record of a dead-letter topic. Raises ValueError that says why it is no dead letter."""
        if record.key is None:
            raise ValueError("it has no key")
        if record.value is None:
            self._standing.pop(record.key, None)
            return
        letter = letter_of(box, record)
        if not letter.tries:
            raise ValueError(letter.explanation)
        given = Input(box.reader, *letter.position)
        self._standing[record.key] = _Standing(given, letter.reason)
        self._given_up[given] = record.key
        self._known.add(given)

    def take_settled(self, settled: DeadLetterSettled) -> None:
        """Take in what somebody decided about a letter; the last word counts."""
        given = Input(settled.reader, settled.topic, settled.partition, settled.offset)
        says = f"by {settled.settled_by}: {settled.why}"
        self._words[given] = Word(settled.action, int(settled.settled_at.timestamp() * 1000), says)
        self._known.add(given)

    def take_retry(self, box: Box, record: Record) -> None:
        """Take in what was sent back. Raises ValueError where it does not say where it stood."""
        try:
            letter = DeadLetter.from_headers(record.headers)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ValueError("it does not say where it stood") from error
        if letter.reader != box.reader or letter.position.topic not in (box.topic.name, box.retries.name):
            raise ValueError(f"it was no dead letter of {box.reader} about {box.topic.name}")
        given = Input(box.reader, *letter.position)
        self._retried.add(given)
        self._known.add(given)

    def known(self, given: Input) -> bool:
        """Whether this reader ever gave up this record."""
        return given in self._known

    def fate(self, given: Input, *, retry_topic: str) -> Fate:
        """What became of the record that this reader gave up; `none` where nothing explains a missing effect.

        Who takes a letter away has sent the record back and said so before: what the tombstone hides, the log explains.
        """
        if not self.known(given):
            return "none"  # for millions of records, where all is well
        word = self._words.get(given)
        fate: Fate = "none"
        if self._given_up.get(given) in self._standing:
            fate = "standing"
        elif word is not None and word.action == "dropped":
            fate = "dropped"
        elif given in self._retried or (word is not None and self._snapshot.may_have_lost(retry_topic, word.at_ms)):
            fate = "replayed"
        return fate

    def standing(self) -> Iterator[tuple[Input, str]]:
        """Letters that wait for somebody, with their reasons."""
        for letter in self._standing.values():
            yield letter.given, letter.reason

    def settled(self) -> Iterator[tuple[Input, Word]]:
        """The last word about each letter that was settled."""
        yield from self._words.items()
