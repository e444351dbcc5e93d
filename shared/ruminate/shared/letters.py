"""Dead letters as people settle them: which stand, and what became of the others; sent back or dropped, and none ever lost.

A letter *stands* while the last record of its key has a value. To settle it is to write, each step acknowledged before the next:

    replay   the record as it was, to <topic>-<reader>-retry  ──▶  the word about it  ──▶  a tombstone under its key
    drop                                                           the word about it  ──▶  a tombstone under its key

Whoever dies between two steps leaves a letter that stands, and settling it again goes on from there: the id of the word derives
from the letter. At worst a record is sent back twice, of which its reader keeps the first. A tombstone is never seen before the
word that explains it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID, uuid5

from pydantic import TypeAdapter

from ruminate.schemas.dead_letter import DeadLetterSettled
from ruminate.schemas.envelope import moment
from ruminate.schemas.flow import DEAD_LETTER_SETTLED, GROUP_READERS
from ruminate.schemas.payload import Name
from ruminate.schemas.topic import SideTopic, Topic
from ruminate.shared.bus import OffsetLost, Told
from ruminate.shared.dead_letters import DeadLetter, times_given_up
from ruminate.shared.decoding import now
from ruminate.shared.member import Member
from ruminate.shared.outgoing import to_record
from ruminate.shared.record import Position, Record
from ruminate.shared.shares import Outgoing

UNREADABLE: Final = "unreadable"
"""The reason of what lies among dead letters and does not say where it comes from: somebody else wrote it."""

LETTERS_AT_ONCE: Final = 500
BYTES_AT_ONCE: Final = 16 * 1024 * 1024

Action = Literal["replayed", "dropped"]

_NAMESPACE: Final = UUID("b0a4c1de-7f4e-5d0b-9a63-5f3b1c7d2e90")
_REASON: Final = TypeAdapter[str](Name)


class CannotSettle(ValueError):
    """This letter cannot be settled in this way; the message says why, and the way out."""


@dataclass(frozen=True, slots=True)
class Box:
    """What one reader has given up of one topic."""

    topic: Topic[Any]
    reader: str

    @property
    def letters(self) -> SideTopic:
        """Where they lie."""
        return self.topic.dead_letters(self.reader)

    @property
    def retries(self) -> SideTopic:
        """Where they are sent back to."""
        return self.topic.retries(self.reader)


BOXES: Final = tuple(Box(topic, reader) for reader, topics in GROUP_READERS.items() for topic in topics)
"""All of them, in the order of the flow."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter, without its contents.

    `tries` says of each time that the record was given up where it stood and why, the latest last. It is empty where the letter
    is unreadable; `explanation` says why, then.
    """

    id: UUID
    box: Box
    key: bytes | None
    partition: int
    offset: int
    value_bytes: int
    at: datetime
    reason: str
    explanation: str
    tries: tuple[DeadLetter, ...]

    @property
    def position(self) -> Position:
        """Where the record stood when it was given up last; of an unreadable letter, its own place."""
        return self.tries[-1].position if self.tries else Position(self.box.letters.name, self.partition, self.offset)


@dataclass(frozen=True, slots=True)
class SentBack:
    """A letter that was sent back, and the offset that it has on the retry topic; None where an earlier attempt had sent it."""

    letter: Letter
    offset: int | None


def letter_of(box: Box, record: Record) -> Letter:
    """The letter in a record that has a value. Whatever is wrong with it, it is a letter: somebody has to see it."""
    tries, wrong = _tries(box, record)
    last = tries[-1] if tries else None
    return Letter(
        id=_id_of(box, record),
        box=box,
        key=record.key,
        partition=record.partition,
        offset=record.offset,
        value_bytes=len(record.value or b""),
        at=last.at if last else moment(record.timestamp),
        reason=last.reason if last else UNREADABLE,
        explanation=last.explanation if last else f"it does not say where it comes from: {wrong}",
        tries=tries,
    )


def _tries(box: Box, record: Record) -> tuple[tuple[DeadLetter, ...], str]:
    """What the letter says of each time that it was given up, or what is wrong with that."""
    told = times_given_up(record.headers)
    if record.key is None:
        return (), "it has no key"
    if not told:
        return (), "no header dlq_reason"
    try:
        tries = [_checked(box, DeadLetter.from_headers(told.pop()))]
    except KeyError as error:
        return (), f"no header {error.args[0]}"
    except (ValueError, TypeError, AttributeError) as error:
        return (), str(error) if isinstance(error, CannotSettle) else "a header of it is malformed"
    # What stands before belongs to it only where it came from the retry topic: else the record's writer wrote it.
    while told and tries[0].position.topic == box.retries.name:
        try:
            tries.insert(0, _checked(box, DeadLetter.from_headers(told.pop())))
        except (KeyError, ValueError, TypeError, AttributeError):
            break
    return tuple(tries), ""


def _checked(box: Box, letter: DeadLetter) -> DeadLetter:
    """Raises ValueError where this is no letter of this box."""
    place = letter.position
    if place.topic not in (box.topic.name, box.retries.name) or letter.reader != box.reader:
        raise CannotSettle(f"it is no letter of {box.reader} about {box.topic.name}")
    if place.partition < 0 or place.offset < 0 or letter.at.tzinfo is None:
        raise ValueError
    _REASON.validate_python(letter.reason)
    return letter


def _id_of(box: Box, record: Record) -> UUID:
    found = _key_as_id(record.key)
    if found is not None:
        return found
    key = f"{record.partition}/{record.offset}".encode() if record.key is None else record.key
    return uuid5(_NAMESPACE, f"{box.letters.name}/{key.hex()}")


def _key_as_id(key: bytes | None) -> UUID | None:
    try:
        return UUID((key or b"").decode())
    except ValueError:
        return None


# What stands, and what was decided.


class Letters:
    """Everything that is known of dead letters, folded from their topics and from what was decided about them. Pure."""

    def __init__(self) -> None:
        self._standing: dict[tuple[str, int, object], Letter] = {}
        self._taken_away: dict[UUID, datetime] = {}
        self._words: defaultdict[UUID, list[DeadLetterSettled]] = defaultdict(list)
        self._word_ids: set[str] = set()

    def take(self, box: Box, record: Record) -> None:
        """Take in a record of a dead-letter topic, each partition in its order."""
        place = (box.letters.name, record.partition, record.offset if record.key is None else record.key)
        self._standing.pop(place, None)
        if record.value is not None:
            self._standing[place] = letter_of(box, record)
        elif (letter_id := _key_as_id(record.key)) is not None:
            self._taken_away[letter_id] = moment(record.timestamp)

    def take_word(self, event_id: str, word: DeadLetterSettled) -> None:
        """Take in what somebody decided; the first record of an id counts."""
        if event_id not in self._word_ids:
            self._word_ids.add(event_id)
            self._words[word.letter_id].append(word)

    def standing(self) -> list[Letter]:
        """The letters that stand, in the order in which they were given up."""
        return sorted(self._standing.values(), key=lambda letter: (letter.at, letter.partition, letter.offset))

    def settled(self) -> list[DeadLetterSettled]:
        """The last word about each letter that no longer stands, in the order in which they were said."""
        standing = {letter.id for letter in self._standing.values()}
        last = (words[-1] for letter_id, words in self._words.items() if letter_id not in standing)
        return sorted(last, key=lambda word: word.settled_at)

    def letter(self, letter_id: UUID) -> Letter | None:
        """The letter of that id, where it stands."""
        return next((letter for letter in self._standing.values() if letter.id == letter_id), None)

    def words(self, letter_id: UUID) -> tuple[DeadLetterSettled, ...]:
        """What was decided about this letter, the last word last."""
        return tuple(self._words.get(letter_id, ()))

    def taken_away(self, letter_id: UUID) -> datetime | None:
        """When a letter that no longer stands was taken away, as far as its tombstone is still there."""
        return None if self.letter(letter_id) else self._taken_away.get(letter_id)

    def ids(self) -> set[UUID]:
        """Every letter that is known, standing or not."""
        return {letter.id for letter in self._standing.values()} | self._words.keys() | self._taken_away.keys()

    def again(self, word: DeadLetterSettled) -> Letter | None:
        """The letter that stands because the record that was sent back by this word was given up once more."""
        place = Position(word.topic, word.partition, word.offset)
        for letter in self._standing.values():
            if letter.box.reader == word.reader and any(earlier.position == place for earlier in letter.tries[:-1]):
                return letter
        return None

    def said(self, letter: Letter, action: Action) -> bool:
        """Whether this has been decided of the letter as it stands: then only its tombstone is missing."""
        return str(word_id(letter, action)) in self._word_ids


def word_id(letter: Letter, action: Action) -> UUID:
    """The id of the word about a letter. One that stands again later, at another offset, is another decision."""
    return uuid5(_NAMESPACE, f"{letter.id}/{letter.partition}/{letter.offset}/{action}")


# Reading.


async def read_letters(bus: Member, boxes: Iterable[Box] = BOXES) -> Letters:
    """What stands in these boxes, and what was decided. Contents are let go as they come. Raises BrokerUnavailable."""
    letters = Letters()
    try:
        async with asyncio.TaskGroup() as group:
            for box in boxes:
                group.create_task(_read_box(bus, box, letters))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    # Last: whoever takes a letter away has said so before, so that nothing that we saw go is without its word.
    async with aclosing(bus.read(DEAD_LETTER_SETTLED)) as deliveries:
        async for delivery in deliveries:
            letters.take_word(delivery.envelope.id, delivery.payload)
    return letters


async def _read_box(bus: Member, box: Box, letters: Letters) -> None:
    async with aclosing(bus.records(box.letters)) as records:
        async for record in records:
            letters.take(box, record)


async def read_contents(bus: Member, chosen: Iterable[Letter]) -> AsyncGenerator[tuple[Letter, Record], None]:
    """The records of these letters, box by box, each partition in its order; one that has gone meanwhile is left out."""
    by_place: defaultdict[tuple[str, int], dict[int, Letter]] = defaultdict(dict)
    for letter in chosen:
        by_place[letter.box.letters.name, letter.partition][letter.offset] = letter
    for _, by_offset in sorted(by_place.items()):
        last = max(by_offset)
        async with aclosing(_records_of(bus, by_offset)) as records:
            async for record in records:
                if record.offset in by_offset and record.value is not None:
                    yield by_offset[record.offset], record
                if record.offset >= last:
                    break


async def _records_of(bus: Member, by_offset: dict[int, Letter]) -> AsyncGenerator[Record, None]:
    """A partition from the first of these letters on, or from its beginning where retention has come so far."""
    first = by_offset[min(by_offset)]
    for start in (first.offset, None):
        try:
            async with aclosing(bus.records(first.box.letters, partitions=(first.partition,), start=start)) as records:
                async for record in records:
                    yield record
        except OffsetLost:
            continue
        return


# Settling.


def why_not(letter: Letter, action: Action) -> str:
    """Why a letter cannot be settled in this way, and the way out; empty where it can."""
    if action == "replayed" and not letter.tries:
        way = "It goes when its topic forgets it" if letter.key is None else f"Type:  ruminate dlq drop {letter.id}"
        return f"{letter.id} cannot be sent back: {letter.explanation}. {way}"
    if letter.key is None:
        return f"{letter.id} has no key, so that nothing can take its place: it goes when its topic forgets it"
    return ""


def _check(letters: Iterable[Letter], action: Action) -> None:
    """Raises CannotSettle."""
    for letter in letters:
        if reason := why_not(letter, action):
            raise CannotSettle(reason)


async def replay(
    bus: Member, known: Letters, chosen: Iterable[Letter], *, by: str, why: str, told: Callable[[int], None] = lambda _: None
) -> list[SentBack]:
    """Send letters back to their readers, as the records that they were; `told` hears how many are settled.

    Those of one partition are sent in the order in which they were given up. Raises CannotSettle before anything is written.
    """
    letters = list(chosen)
    _check(letters, "replayed")
    settled: list[SentBack] = []
    unsent = [letter for letter in letters if not known.said(letter, "replayed")]
    async with aclosing(_in_portions(read_contents(bus, unsent))) as portions:
        async for portion in portions:
            offsets = await bus.write([_as_it_was(letter, record) for letter, record in portion])
            sent = [letter for letter, _ in portion]
            await _settle(bus, known, sent, "replayed", by=by, why=why)
            settled += map(SentBack, sent, offsets)
            told(len(settled))
    ended = [letter for letter in letters if known.said(letter, "replayed")]
    await _settle(bus, known, ended, "replayed", by=by, why=why)
    return [*settled, *(SentBack(letter, None) for letter in ended)]


async def drop(bus: Member, known: Letters, chosen: Iterable[Letter], *, by: str, why: str) -> int:
    """Settle letters for good, and give their number. One that was being sent back is no longer ours to drop: that is ended.

    Raises CannotSettle before anything is written.
    """
    letters = list(chosen)
    _check(letters, "dropped")
    await _settle(bus, known, [letter for letter in letters if known.said(letter, "replayed")], "replayed", by=by, why=why)
    await _settle(bus, known, [letter for letter in letters if not known.said(letter, "replayed")], "dropped", by=by, why=why)
    return len(letters)


async def _settle(bus: Member, known: Letters, letters: Sequence[Letter], action: Action, *, by: str, why: str) -> None:
    """Say what was decided, where it is not said yet; then take the letters away."""
    await bus.write([_word(bus, letter, action, by=by, why=why) for letter in letters if not known.said(letter, action)])
    await bus.write([Outgoing(letter.box.letters.name, letter.partition, letter.key, None, []) for letter in letters])


def _as_it_was(letter: Letter, record: Record) -> Outgoing:
    # All of its headers: its reader takes the provenance away, and learns from it where the record stood at first.
    last = letter.tries[-1]
    value = record.value if last.had_value else None
    return Outgoing(letter.box.retries.name, 0, last.key, value, list(record.headers))


def _word(bus: Member, letter: Letter, action: Action, *, by: str, why: str) -> Outgoing:
    place = letter.position
    word = DeadLetterSettled(
        letter_id=letter.id,
        action=action,
        reader=letter.box.reader,
        topic=place.topic,
        partition=place.partition,
        offset=place.offset,
        reason=letter.reason,
        settled_by=by,
        why=why,
        settled_at=now(),
    )
    envelope = bus.begin(DEAD_LETTER_SETTLED, word, event_id=str(word_id(letter, action)))
    return to_record(Told(DEAD_LETTER_SETTLED, word, envelope, DEAD_LETTER_SETTLED.order_of(word)))


async def _in_portions(contents: AsyncIterator[tuple[Letter, Record]]) -> AsyncGenerator[list[tuple[Letter, Record]], None]:
    """As many as fit into memory with ease, whatever their size."""
    portion: list[tuple[Letter, Record]] = []
    portion_bytes = 0
    async for letter, record in contents:
        portion.append((letter, record))
        portion_bytes += letter.value_bytes
        if len(portion) >= LETTERS_AT_ONCE or portion_bytes >= BYTES_AT_ONCE:
            yield portion
            portion, portion_bytes = [], 0
    if portion:
        yield portion
