"""Which dead letters are meant, and what a screen shows of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import pytest

from ruminate.command.dlq.choose import Filter, NotChosen, find, moment, shown_length
from ruminate.command.dlq.show import contents, counted, letter_as_json
from ruminate.command.terminal import printable
from ruminate.schemas.dead_letter import DeadLetterSettled
from ruminate.shared.dead_letters import DeadLetter
from ruminate.shared.letters import BOXES, Letters, letter_of
from ruminate.shared.memory import StoredRecord
from ruminate.shared.record import Position

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
COLLECTOR, ASSESSOR = (next(box for box in BOXES if box.reader == reader) for reader in ("collector", "assessor"))
IDS = [UUID(f"{beginning}-0000-4000-8000-{number:012}") for number, beginning in enumerate(("abcd0000", "abcd1111", "ffff0000"))]


def known() -> Letters:
    """Three letters that stand, an hour, two and three ago, and one that was dropped."""
    letters = Letters()
    for number, (box, reason) in enumerate(((COLLECTOR, "not_json"), (COLLECTOR, "conflict"), (ASSESSOR, "not_json"))):
        letter = DeadLetter(
            reason=reason,
            explanation="",
            position=Position(box.topic.name, 0, number),
            timestamp_ms=0,
            reader=box.reader,
            at=NOW - timedelta(hours=1 + number),
            key=None,
        )
        record = StoredRecord(box.letters.name, 0, number, 0, str(IDS[number]).encode(), b"{", letter.headers([]))
        letters.take(box, record)
    word = DeadLetterSettled(
        letter_id=uuid5(IDS[0], "dropped"),
        action="dropped",
        reader="collector",
        topic=COLLECTOR.retries.name,
        partition=0,
        offset=9,
        reason="conflict",
        settled_by="ann",
        why="",
        settled_at=NOW - timedelta(minutes=90),
    )
    letters.take_word("w", word)
    letters.take_word("w", word.model_copy(update={"settled_by": "somebody else"}))
    return letters


@pytest.mark.parametrize(
    ("wanted", "standing", "settled"),
    [
        (Filter(), [2, 1, 0], 1),
        (Filter(topic=COLLECTOR.topic.name), [1, 0], 1),
        (Filter(reader="assessor"), [2], 0),
        (Filter(reader="collector", reasons=frozenset({"conflict", "crashed"})), [1], 1),
        (Filter(reasons=frozenset({"not_json"})), [2, 0], 0),
        (Filter(since=NOW - timedelta(hours=2)), [1, 0], 1),
        (Filter(until=NOW - timedelta(hours=2)), [2], 0),
        (Filter(since=NOW - timedelta(hours=2), until=NOW - timedelta(minutes=100)), [1], 0),
        (Filter(reasons=frozenset({"crashed"})), [], 0),
    ],
)
def test_letters_are_chosen_by_what_they_have_in_common_the_oldest_first(wanted: Filter, standing: list[int], settled: int) -> None:
    assert [letter.id for letter in wanted.letters(known())] == [IDS[number] for number in standing]
    assert [word.settled_by for word in wanted.settled(known())] == ["ann"] * settled


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (
            Filter(reader="colector"),
            "no reader is named 'colector'; there are collector, collector-feedback, assessor, assessor-answers,",
        ),
        (
            Filter(topic="node-status-v1"),
            "nobody makes dead letters of 'node-status-v1'; they are made of interaction-completed",
        ),
        (
            Filter(topic="interaction-completed-v1", reader="assessor"),
            "assessor does not read interaction-completed-v1; it reads interaction-recorded-v1",
        ),
    ],
)
def test_who_names_what_is_not_there_hears_what_is(wanted: Filter, says: str) -> None:
    with pytest.raises(NotChosen) as raised:
        wanted.boxes()
    assert str(raised.value).startswith(says)


def test_the_beginning_of_an_id_is_enough_where_no_other_begins_so() -> None:
    letters = known()
    assert find(letters, "abcd1") == IDS[1]
    assert find(letters, "FFFF0000-0000") == find(letters, "ffff00000000") == IDS[2]
    assert find(letters, str(uuid5(IDS[0], "dropped"))[:8]) == uuid5(IDS[0], "dropped")
    with pytest.raises(NotChosen, match=f"2 dead letters begin with 'abcd': {IDS[0]}, {IDS[1]}$"):
        find(letters, "abcd")
    with pytest.raises(NotChosen, match="too short for an id: give 4"):
        find(letters, "ff")
    with pytest.raises(NotChosen, match=r"no dead letter's id begins with '0123'.*30 days"):
        find(letters, "0123")


def test_ids_are_shown_as_long_as_they_have_to_be() -> None:
    assert shown_length([]) == shown_length(IDS) == 8
    assert shown_length([IDS[0], UUID(int=IDS[0].int + 1)]) == 36
    assert shown_length([IDS[0], UUID(int=IDS[0].int + (1 << 80))]) == 13


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("30m", NOW - timedelta(minutes=30)),
        ("2h", NOW - timedelta(hours=2)),
        (" 7d ", NOW - timedelta(days=7)),
        ("2w", NOW - timedelta(weeks=2)),
        ("2026-01-31T10:00:00Z", NOW - timedelta(hours=2)),
        ("2026-01-31T11:00:00+01:00", NOW - timedelta(hours=2)),
        ("2026-01-31T10:00", NOW - timedelta(hours=2)),
        ("2026-01-31", NOW - timedelta(hours=12)),
    ],
)
def test_times_are_said_as_people_say_them(text: str, means: datetime) -> None:
    assert moment(text, now=NOW) == means


@pytest.mark.parametrize("text", ["yesterday", "", "2 hours", "-1h", "999999w"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(NotChosen):
        moment(text, now=NOW)


def test_a_screen_is_told_nothing_that_it_would_obey() -> None:
    assert printable("a\x1b[2J\x9bb\u202ec\nd") == "a\\x1b[2J\\x9bb\\u202ec\nd"
    assert counted(["x", "y\x07", "x"]) == "x 2, y\\x07 1"
    shown = "\n".join(contents(b'{"a": "\\u009b\\ud800", "b": [NaN]}'))
    assert printable(shown) == '{\n  "a": "\\x9b\\ud800",\n  "b": [\n    NaN\n  ]\n}'


@pytest.mark.parametrize("value", [b"\x00\xffno json at all", b"[" * 100_000, b"\xff\xfe1\x00"])
def test_what_is_no_json_is_shown_in_hexadecimal(value: bytes) -> None:
    lines = list(contents(value))
    assert len(lines) == -(-len(value) // 16)
    assert bytes.fromhex("".join(line[10:57] for line in lines)) == value
    assert all(line.isprintable() for line in lines)


def test_json_for_programs_says_all_but_the_contents() -> None:
    letter = known().standing()[0]
    found = letter_as_json(letter)
    assert found["id"] == str(IDS[2])
    assert found["tries"] == [
        {
            "record": {"topic": "interaction-recorded-v1", "partition": 0, "offset": 2},
            "given_up_at": "2026-01-31T09:00:00+00:00",
            "reason": "not_json",
        }
    ]
    assert letter_of(ASSESSOR, StoredRecord(ASSESSOR.letters.name, 0, 2, 0, None, b"{", [])).reason == "unreadable"
