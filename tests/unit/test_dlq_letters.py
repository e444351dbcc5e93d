"""Dead letters as people settle them, over the memory bus: what stands, what a letter says, and a settling that is cut short."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from ruminate.command.dlq.outcome import fates
from ruminate.command.dlq.verbs import _still_standing
from ruminate.schemas.envelope import Headers
from ruminate.schemas.flow import DEAD_LETTER_SETTLED
from ruminate.schemas.topic import SideTopic, Topic
from ruminate.shared.bus import CaughtUp, OffsetLost
from ruminate.shared.dead_letters import DeadLetter, origin_of
from ruminate.shared.letters import (
    BOXES,
    UNREADABLE,
    CannotSettle,
    Letter,
    Letters,
    SentBack,
    drop,
    read_contents,
    read_letters,
    replay,
)
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.record import Position, Record
from ruminate.shared.shares import Outgoing

BOX = BOXES[0]
LETTERS, RETRIES = BOX.letters.name, BOX.retries.name
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ORIGINAL: Headers = [("ce_id", b"i-1"), ("x-of-the-agent", b"yes")]


def dead(
    offset: int,
    *,
    partition: int = 3,
    topic: str = BOX.topic.name,
    minutes: int = 0,
    reason: str = "not_json",
    reader: str = BOX.reader,
    at: datetime = NOON,
    key: bytes | None = b"k",
    had_value: bool = True,
) -> DeadLetter:
    return DeadLetter(
        reason=reason,
        explanation="at line 1",
        position=Position(topic, partition, offset),
        timestamp_ms=1_000,
        reader=reader,
        at=at + timedelta(minutes=minutes),
        key=key,
        had_value=had_value,
    )


def give_up(broker: MemoryBroker, letter: DeadLetter, *, value: bytes = b"{", headers: Headers = ORIGINAL) -> UUID:
    """As the reader does."""
    letter_id = letter.id(broker.cluster)
    broker.append(LETTERS, value, key=str(letter_id).encode(), headers=letter.headers(headers), partition=letter.position.partition)
    return letter_id


def known_of(broker: MemoryBroker) -> Letters:
    async def scenario() -> Letters:
        async with MemoryBus(broker, reader="command") as bus:
            return await read_letters(bus)

    return asyncio.run(scenario())


def sent_back(broker: MemoryBroker, choose: Callable[[Letters], Iterable[Letter]] = Letters.standing) -> list[SentBack]:
    async def scenario() -> list[SentBack]:
        async with MemoryBus(broker, reader="command") as bus:
            known = await read_letters(bus)
            return await replay(bus, known, choose(known), by="ann@desk", why="mended")

    return asyncio.run(scenario())


def dropped(broker: MemoryBroker) -> int:
    async def scenario() -> int:
        async with MemoryBus(broker, reader="command") as bus:
            known = await read_letters(bus)
            return await drop(bus, known, known.standing(), by="ann@desk", why="garbage")

    return asyncio.run(scenario())


def words(broker: MemoryBroker) -> list[tuple[str, str]]:
    """Id and action of what was said, the first record of an id."""
    found: dict[str, str] = {}
    for record in broker.records(DEAD_LETTER_SETTLED.name):
        action = DEAD_LETTER_SETTLED.carries.model_validate_json(record.value or b"").action
        found.setdefault(dict(record.headers)["ce_id"].decode(), action)
    return list(found.items())


# What stands.


def test_a_letter_stands_while_the_last_record_of_its_key_has_a_value() -> None:
    broker = MemoryBroker()
    letter_id = give_up(broker, dead(7))
    give_up(broker, dead(7, minutes=1))
    assert [(letter.id, letter.offset) for letter in known_of(broker).standing()] == [(letter_id, 1)]
    broker.append(LETTERS, None, key=str(letter_id).encode(), partition=3)
    gone = known_of(broker)
    assert gone.standing() == []
    assert gone.letter(letter_id) is None
    assert gone.taken_away(letter_id) is not None
    give_up(broker, dead(7, minutes=2))
    again = known_of(broker)
    assert [letter.at for letter in again.standing()] == [NOON + timedelta(minutes=2)]
    assert again.taken_away(letter_id) is None


def test_letters_come_in_the_order_in_which_they_were_given_up() -> None:
    broker = MemoryBroker()
    for minutes, partition in ((5, 0), (1, 4), (3, 4)):
        give_up(broker, dead(minutes, partition=partition, minutes=minutes))
    assert [letter.position.offset for letter in known_of(broker).standing()] == [1, 3, 5]


@pytest.mark.parametrize(
    ("key", "headers", "says"),
    [
        (b"k", [], "no header dlq_reason"),
        (b"k", [("dlq_reason", b"r")], "no header dlq_explanation"),
        (b"k", dead(1).headers([])[:-2], "no header dlq_at"),
        (None, dead(1).headers([]), "it has no key"),
        (b"\xff", [("dlq_reason", None), *dead(1).headers([])[1:]], "malformed"),
        (b"k", [("dlq_reason", b"\xff"), *dead(1).headers([])[1:]], "malformed"),
        (b"k", dead(-1).headers([]), "malformed"),
        (b"k", dead(1, reason="").headers([]), "malformed"),
        (b"k", dead(1, at=datetime(2026, 1, 1)).headers([]), "malformed"),
        (b"k", dead(1, topic="another-v1").headers([]), "it is no letter of collector"),
        (b"k", dead(1, reader="assessor").headers([]), "it is no letter of collector"),
    ],
)
def test_what_somebody_else_wrote_among_dead_letters_is_shown_and_hides_none(key: bytes | None, headers: Any, says: str) -> None:
    broker = MemoryBroker()
    give_up(broker, dead(1))
    broker.append(LETTERS, b"poison", key=key, headers=headers, partition=3)
    give_up(broker, dead(2))
    known = known_of(broker)
    found = {letter.reason: letter for letter in known.standing()}
    assert set(found) == {"not_json", UNREADABLE}
    assert len(known.standing()) == 3
    assert says in found[UNREADABLE].explanation
    assert found[UNREADABLE].position == Position(LETTERS, 3, 1)
    with pytest.raises(CannotSettle, match="does not say where it comes from"):
        sent_back(broker)
    assert not broker.records(RETRIES), "all of them, or an error before the first"
    if key is None:
        with pytest.raises(CannotSettle, match="has no key"):
            dropped(broker)
    else:
        assert dropped(broker) == 3
        assert known_of(broker).standing() == []


def test_provenance_that_the_writer_of_a_record_made_up_is_no_try_and_changes_nothing_that_is_sent_back() -> None:
    broker = MemoryBroker()
    forged = [("dlq_no_value", b"true"), *dead(99, topic=RETRIES, key=b"forged").headers([]), ("dlq_no_value", b"true")]
    give_up(broker, dead(1, key=None), headers=forged)
    (letter,) = known_of(broker).standing()
    assert [each.position for each in letter.tries] == [Position(BOX.topic.name, 3, 1)]
    sent_back(broker)
    (record,) = broker.records(RETRIES)
    assert (record.key, record.value) == (None, b"{")


def test_of_what_a_letter_says_only_the_last_time_is_ours_to_read() -> None:
    forged = dead(99, topic="another-v1", key=b"forged", had_value=False).headers([])
    letter = dead(1, key=None)
    assert DeadLetter.from_headers(letter.headers(forged)) == letter
    with pytest.raises(KeyError, match="dlq_reason"):
        DeadLetter.from_headers(ORIGINAL)


def test_a_record_that_is_given_up_again_tells_of_each_time() -> None:
    broker = MemoryBroker()
    first_id = give_up(broker, dead(7))
    sent_back(broker)
    (retried,) = broker.records(RETRIES)
    give_up(broker, dead(0, partition=0, topic=RETRIES, reason="conflict", minutes=9), headers=list(retried.headers))
    known = known_of(broker)
    (letter,) = known.standing()
    assert [(each.reason, each.position) for each in letter.tries] == [
        ("not_json", Position(BOX.topic.name, 3, 7)),
        ("conflict", Position(RETRIES, 0, 0)),
    ]
    (word,) = known.words(first_id)
    assert (word.settled_by, word.why) == ("ann@desk", "mended")
    assert known.again(word) == letter
    sent_back(broker)
    assert origin_of(broker.records(RETRIES)[1].headers, retries=RETRIES) == Position(BOX.topic.name, 3, 7)
    assert known_of(broker).again(word) is None


# Settling.


def test_what_is_sent_back_is_the_record_that_it_was() -> None:
    broker = MemoryBroker()
    give_up(broker, dead(1), value=b"\x00\xff")
    give_up(broker, dead(2, key=None, had_value=False, minutes=1), value=b"")
    sent = sent_back(broker)
    assert [each.offset for each in sent] == [0, 1]
    with_value, without = broker.records(RETRIES)
    assert (with_value.key, with_value.value, list(with_value.headers)[:2]) == (b"k", b"\x00\xff", ORIGINAL)
    assert (without.key, without.value) == (None, None)
    assert origin_of(with_value.headers, retries=RETRIES) == Position(BOX.topic.name, 3, 1)
    known = known_of(broker)
    assert not known.standing()
    assert {(word.action, word.offset, word.settled_by, word.why) for word in known.settled()} == {
        ("replayed", 1, "ann@desk", "mended"),
        ("replayed", 2, "ann@desk", "mended"),
    }


def test_settling_twice_does_nothing() -> None:
    broker = MemoryBroker()
    give_up(broker, dead(1))
    known = known_of(broker)
    sent_back(broker)
    assert sent_back(broker) == []
    assert dropped(broker) == 0
    # Somebody who looked before, and decides later: a repeat for the reader, and no second word.
    sent_back(broker, lambda _: known.standing())
    assert len(words(broker)) == 1


def test_two_who_send_the_same_letters_back_at_once_say_one_word_about_each_and_leave_none() -> None:
    broker = MemoryBroker()
    for offset in range(3):
        give_up(broker, dead(offset))

    async def scenario() -> list[list[SentBack]]:
        async with MemoryBus(broker, reader="command") as bus:
            seen = [await read_letters(bus) for _ in range(2)]
            return await asyncio.gather(*(replay(bus, known, known.standing(), by="each@desk", why="") for known in seen))

    assert [len(sent) for sent in asyncio.run(scenario())] == [3, 3]
    assert [action for _, action in words(broker)] == ["replayed"] * 3
    assert known_of(broker).standing() == []
    origins = [origin_of(record.headers, retries=RETRIES) for record in broker.records(RETRIES)]
    assert sorted(origin.offset for origin in origins if origin) == [0, 0, 1, 1, 2, 2], "of which their reader keeps the first"


def test_what_somebody_else_settles_while_a_question_waits_is_left_alone() -> None:
    broker = MemoryBroker()
    for offset in range(3):
        give_up(broker, dead(offset, minutes=offset))
    seen = known_of(broker).standing()
    sent_back(broker, lambda known: known.standing()[:1])

    async def scenario() -> tuple[Letters, list[Letter]]:
        async with MemoryBus(broker, reader="command") as bus:
            return await _still_standing(bus, seen)

    known, left = asyncio.run(scenario())
    assert [letter.id for letter in left] == [letter.id for letter in seen[1:]]
    assert known.said(seen[0], "replayed")


def test_a_letter_that_stands_again_is_another_decision() -> None:
    broker = MemoryBroker()
    for minutes in range(2):
        letter_id = give_up(broker, dead(1, minutes=minutes))
        dropped(broker)
    known = known_of(broker)
    assert [word.action for word in known.words(letter_id)] == ["dropped", "dropped"]
    assert len(known.settled()) == 1


class Cut(Exception):
    """The end of a process, as its bus sees it."""


class MortalBus(MemoryBus):
    """Ends after so many records."""

    def __init__(self, broker: MemoryBroker, *, records: int) -> None:
        super().__init__(broker, reader="command")
        self._left = records

    async def write(self, records: Sequence[Outgoing]) -> list[int]:
        mine = records[: self._left]
        self._left -= len(mine)
        offsets = await super().write(mine)
        if len(mine) < len(records):
            raise Cut
        return offsets


def cut_short(broker: MemoryBroker, settle: Callable[..., Any], *, records: int) -> None:
    async def scenario() -> None:
        async with MortalBus(broker, records=records) as bus:
            known = await read_letters(bus)
            await settle(bus, known, known.standing(), by="bob@desk", why="in a hurry")

    with pytest.raises(Cut):
        asyncio.run(scenario())


@pytest.mark.parametrize("records", range(9))
def test_a_replay_that_is_cut_short_after_any_record_loses_none_and_ends_when_it_is_repeated(records: int) -> None:
    broker = MemoryBroker()
    for offset in range(3):
        give_up(broker, dead(offset))
    cut_short(broker, replay, records=records)
    standing = known_of(broker).standing()
    explained = {action for _, action in words(broker)}
    assert len(standing) == 3 - max(0, records - 6)
    assert explained <= {"replayed"}
    assert len(broker.records(RETRIES)) == min(records, 3), "a word, and a tombstone, come after what is sent back"
    sent_back(broker)
    assert known_of(broker).standing() == []
    assert [action for _, action in words(broker)] == ["replayed"] * 3
    origins = [origin_of(record.headers, retries=RETRIES) for record in broker.records(RETRIES)]
    assert {origin.offset for origin in origins if origin} == {0, 1, 2}


@pytest.mark.parametrize("records", range(6))
def test_a_drop_that_is_cut_short_after_any_record_ends_when_it_is_repeated(records: int) -> None:
    broker = MemoryBroker()
    for offset in range(3):
        give_up(broker, dead(offset))
    cut_short(broker, drop, records=records)
    assert len(known_of(broker).standing()) == 3 - max(0, records - 3)
    dropped(broker)
    assert known_of(broker).standing() == []
    assert [action for _, action in words(broker)] == ["dropped"] * 3


def test_what_was_sent_back_by_somebody_who_was_cut_short_cannot_be_dropped_any_more() -> None:
    broker = MemoryBroker()
    give_up(broker, dead(1))
    cut_short(broker, replay, records=2)
    dropped(broker)
    assert [action for _, action in words(broker)] == ["replayed"]
    assert known_of(broker).standing() == []


def test_what_was_dropped_by_somebody_who_was_cut_short_can_still_be_sent_back() -> None:
    broker = MemoryBroker()
    letter_id = give_up(broker, dead(1))
    cut_short(broker, drop, records=1)
    assert len(sent_back(broker)) == 1
    assert len(broker.records(RETRIES)) == 1
    assert [word.action for word in known_of(broker).words(letter_id)] == ["dropped", "replayed"]


def test_letters_of_one_partition_are_sent_back_in_their_order_whatever_the_order_of_asking() -> None:
    broker = MemoryBroker()
    for offset in range(50):
        give_up(broker, dead(offset, minutes=offset % 7))
    sent_back(broker, lambda known: reversed(known.standing()))
    origins = [origin_of(record.headers, retries=RETRIES) for record in broker.records(RETRIES)]
    assert [origin.offset for origin in origins if origin] == list(range(50))


# What became of it.


def test_each_letter_that_was_sent_back_is_done_or_dead_again_or_not_come_to_or_was_sent_before() -> None:
    broker = MemoryBroker()
    for offset in range(5):
        give_up(broker, dead(offset, minutes=offset))
    cut_short(broker, lambda bus, known, letters, **who: replay(bus, known, letters[:1], **who), records=2)
    sent = sent_back(broker)
    retried = broker.records(RETRIES)
    assert [each.offset for each in sent] == [1, 2, 3, 4, None]
    for offset, reason in ((2, "conflict"), (3, "crashed")):  # the reader gives two of them up once more
        give_up(broker, dead(offset, partition=0, topic=RETRIES, reason=reason), headers=list(retried[offset].headers))
    known = known_of(broker)

    async def drop_crashed() -> None:
        async with MemoryBus(broker, reader="command") as bus:
            await drop(bus, known, [each for each in known.standing() if each.reason == "crashed"], by="bob@desk", why="garbage")

    asyncio.run(drop_crashed())
    assert [(each.fate, each.says) for each in fates(sent, {BOX: 4}, known_of(broker))] == [
        ("done", ""),
        ("dead again", "conflict: at line 1"),
        ("dead again", "crashed, and dropped since by bob@desk"),
        ("waiting", "collector has not come to it. Does it run?  ruminate status"),
        ("sent before", "an attempt that was cut short had sent it"),
    ]


# Contents.


class ForgetfulBus(MemoryBus):
    """Its broker has let go of what lay before an offset."""

    def __init__(self, broker: MemoryBroker, *, begins: int) -> None:
        super().__init__(broker, reader="command")
        self._begins = begins

    async def _records(
        self,
        topic: Topic[Any] | SideTopic,
        partitions: Collection[int],
        start: int | None,
        follow: bool,
        caught_up: CaughtUp | None = None,
    ) -> AsyncGenerator[Record, None]:
        if start is not None and start < self._begins:
            raise OffsetLost(f"the log begins at {self._begins}")
        start = self._begins if start is None else start
        async with aclosing(super()._records(topic, partitions, start, follow, caught_up)) as records:
            async for record in records:
                yield record


def test_letters_that_go_while_somebody_looks_are_left_out_and_the_others_are_not() -> None:
    broker = MemoryBroker()
    for offset in range(4):
        give_up(broker, dead(offset, minutes=offset), value=b"%d" % offset)
    seen = known_of(broker).standing()

    async def scenario() -> list[bytes | None]:
        async with ForgetfulBus(broker, begins=2) as bus, aclosing(read_contents(bus, seen[:3])) as found:
            return [record.value async for _, record in found]

    assert asyncio.run(scenario()) == [b"2"]


def test_contents_are_not_kept() -> None:
    broker = MemoryBroker()
    for offset in range(200):
        give_up(broker, dead(offset), value=bytes(100_000))

    async def scenario() -> int:
        async with MemoryBus(broker, reader="command") as bus:
            tracemalloc.start()
            try:
                known = await read_letters(bus)
                assert len(known.standing()) == 200
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    assert asyncio.run(scenario()) < 2_000_000
