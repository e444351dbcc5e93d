"""The eraser's decisions: whose a record is, what has to get a tombstone, when an erasure is done, until when the rest stays."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.eraser.decide import (
    FOR_EVER,
    Found,
    Life,
    Search,
    Told,
    account,
    due_at,
    life_of,
    next_stage,
    settles_in,
    told_by,
    tombstone_header,
)
from ruminate.eraser.glimpse import glimpse
from ruminate.eraser.lives import COMPACTED, LASTING
from ruminate.schemas.envelope import Envelope
from ruminate.schemas.flow import (
    ERASABLE,
    EVIDENCE_RECORDED,
    FEEDBACK_GIVEN,
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    REASONING_ASSESSED,
)
from ruminate.shared.decoding import encode
from ruminate.shared.memory import StoredRecord
from ruminate.shared.topic_plan import settings_of
from tests.integration.erasing import ASKED, OCCURRED, planted, request

HOUR, SETTLE = timedelta(hours=1), timedelta(hours=6)
TOPICS = [INTERACTION_COMPLETED.name, FEEDBACK_GIVEN.name, *(topic.name for topic in ERASABLE)]
AT_MS = int(OCCURRED.timestamp() * 1000)
LIVES = dict.fromkeys((*COMPACTED, *LASTING), FOR_EVER)


def stored(value: bytes | None, *, key: str = "k", at_ms: int = AT_MS, headers: Any = ()) -> StoredRecord:
    return StoredRecord("of no interest", 0, 0, at_ms, key.encode(), value, list(headers))


# Whose a record is.


FIELDS = ("tenant", "interaction", "interaction_id", "occurred_at", "recorded_id", "target_model", "given_at", "agent")
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6), max_leaves=12
)
anything = st.binary(max_size=300) | trees.map(lambda value: json.dumps(value).encode())


@given(st.sampled_from(TOPICS), anything, st.integers(-(2**40), 2**50))
def test_whatever_lies_in_a_topic_a_look_at_it_ends(topic: str, value: bytes, timestamp_ms: int) -> None:
    seen = glimpse(topic, value, [("ce_source", b"\xff")], timestamp_ms=timestamp_ms)
    assert seen is None or seen.names.tenant


def test_a_dead_letter_that_is_no_valid_event_is_somebodys_all_the_same() -> None:
    value = orjson.dumps({"conversation_id": "c-forget", "occurred_at": 7, "target_model": "qwen3:8b:latest", "messages": "?"})
    seen = glimpse(INTERACTION_COMPLETED.name, value, [("CE_Source", b"/a")], timestamp_ms=AT_MS)
    assert seen is not None
    assert (seen.names.tenant, seen.names.conversation_id, seen.names.target) == ("default", "c-forget", "qwen3:8b")
    assert (seen.names.source, seen.names.occurred_at) == ("/a", OCCURRED)
    assert glimpse(INTERACTION_COMPLETED.name, b"[]", [], timestamp_ms=0) is None
    assert glimpse(REASONING_ASSESSED.name, b'{"interaction": 3}', [], timestamp_ms=0) is None


def test_a_clock_that_is_ahead_lays_nothing_behind_the_request_that_was_there_before_it() -> None:
    ahead = planted("i-1", occurred_at=ASKED + 100 * HOUR)
    search = Search({"e": request()})
    search.take(INTERACTION_RECORDED, stored(encode(ahead)))
    assert list(search.live(INTERACTION_RECORDED.name).values()) == ["e"]


def test_a_completed_interaction_has_the_id_that_it_is_recorded_under() -> None:
    each = planted("i-1")
    headers = Envelope("i-1", each.source, INTERACTION_COMPLETED.event_type, OCCURRED).to_headers()
    seen = glimpse(INTERACTION_COMPLETED.name, encode(each).replace(b'"recorded_id"', b'"x"'), headers, timestamp_ms=AT_MS)
    assert seen is not None
    assert seen.names.recorded_id == str(each.recorded_id)


# What has to get a tombstone.


def test_what_has_a_tombstone_gets_no_other_until_it_is_written_again() -> None:
    value = encode(planted("i-1"))
    search = Search({"e": request()})
    for each, live in ((value, 1), (None, 0), (None, 0), (value, 1)):
        search.take(INTERACTION_RECORDED, stored(each))
        assert len(search.live(INTERACTION_RECORDED.name)) == live
    search.count()
    assert search.found["e"].live == {INTERACTION_RECORDED.name: 1}
    assert search.found["e"].touched == {INTERACTION_RECORDED.name: {0}}


def test_a_chain_of_turns_goes_with_its_first_as_far_as_it_occurred_by_then() -> None:
    search = Search({"e": request(scope="interaction", subject="i-1")})
    turns = [planted("i-1"), *(planted(f"i-{n}", continues_interaction=f"i-{n - 1}") for n in (2, 3))]
    late = planted("i-4", continues_interaction="i-3", occurred_at=ASKED + HOUR)
    for each in (*turns, late, planted("i-5", continues_interaction="i-1", tenant="another")):
        at_ms = int(each.occurred_at.timestamp() * 1000)
        search.take(INTERACTION_RECORDED, stored(encode(each), key=str(each.recorded_id), at_ms=at_ms))
    assert {key.decode() for _, key in search.live(INTERACTION_RECORDED.name)} == {str(each.recorded_id) for each in turns}


@pytest.mark.parametrize(
    ("headers", "erased"),
    [
        (tombstone_header("e", "default"), 1),
        (tombstone_header("an-earlier-one", "default"), 1),
        (tombstone_header("an-earlier-one", "another"), 0),
        ([], 0),
    ],
)
def test_a_tombstone_of_ours_says_of_what_is_left_of_its_interaction_that_it_is_erased(headers: Any, erased: int) -> None:
    each = planted("i-1")
    search = Search({"e": request(scope="agent", subject="ledger")})
    search.take(INTERACTION_RECORDED, stored(None, key=str(each.recorded_id), headers=headers))
    said = {"recorded_id": str(each.recorded_id), "conversation_id": "c", "comment": "…"}
    search.take(EVIDENCE_RECORDED, stored(orjson.dumps(said)))
    assert len(search.live(EVIDENCE_RECORDED.name)) == erased


def test_a_markers_key_is_nobodys_id() -> None:
    search = Search({"e": request()})
    search.take(INTERACTION_RECORDED, stored(None, key="erasure-marker", headers=tombstone_header("e", "default")))
    search.count()
    assert not search.found["e"].touched


# When it is done.


def test_a_first_pass_is_due_at_once_and_the_next_when_what_was_in_flight_has_come() -> None:
    told = Told(1, ASKED + HOUR, finished=False)
    assert due_at(request(), None, SETTLE) < OCCURRED
    assert due_at(request(), told, SETTLE) == ASKED + HOUR + SETTLE
    assert due_at(request(requested_at=ASKED + 9 * HOUR), told, SETTLE) == ASKED + 9 * HOUR + SETTLE


def test_nothing_is_finished_before_it_was_looked_for_twice_and_its_last_tombstone_is_old_enough() -> None:
    told, nothing = Told(1, ASKED, finished=False), Found()
    began_at = ASKED + SETTLE
    assert next_stage(request(), None, nothing, began_at=began_at, settle=SETTLE) == "tombstoned"
    assert next_stage(request(), told, nothing, began_at=began_at, settle=SETTLE) == "finished"
    some = Found()
    some.live["t"] = 1
    assert next_stage(request(), told, some, began_at=began_at, settle=SETTLE) == "tombstoned"
    # A pass that was cut short has written tombstones just now, and told nobody.
    recent = Found(newest_ms=int((ASKED + HOUR / 2).timestamp() * 1000))
    assert next_stage(request(), told, recent, began_at=began_at, settle=SETTLE) == ASKED + HOUR / 2 + SETTLE
    # A writer's clock that is wrong by years keeps nobody waiting for years.
    mad = Found(newest_ms=int((ASKED + 9_999 * HOUR).timestamp() * 1000))
    assert next_stage(request(), told, mad, began_at=began_at, settle=SETTLE) == ASKED + HOUR + SETTLE


def test_what_was_told_is_known_in_whatever_order_it_is_read() -> None:
    search = Search({"e": request()})
    first = account("e", request(), None, stage="tombstoned", search=search, lives=LIVES, at=ASKED)
    last = account("e", request(), Told(1, ASKED, finished=False), stage="finished", search=search, lives=LIVES, at=ASKED + HOUR)
    assert (first.pass_number, last.pass_number) == (1, 2)
    assert told_by(told_by(None, first), last) == told_by(told_by(None, last), first) == Told(2, ASKED + HOUR, finished=True)


# How long things stay.


def test_a_topics_life_is_what_its_settings_say() -> None:
    assert life_of(settings_of(INTERACTION_RECORDED, replication=1)) == Life(
        segment=6 * HOUR, retention=None, compaction=timedelta(days=3), files=timedelta(minutes=1)
    )
    raw = life_of(settings_of(INTERACTION_COMPLETED, replication=1))
    assert (raw.segment, raw.retention, raw.compaction) == (6 * HOUR, timedelta(days=7), None)
    theirs = life_of({"cleanup.policy": "compact", "max.compaction.lag.ms": str(2**63 - 1), "segment.ms": str(2**63 - 1)})
    assert theirs.compaction is None
    assert theirs.segment > timedelta(days=365)
    assert settles_in([raw, theirs], at_least=HOUR) > theirs.segment
    assert settles_in([], at_least=HOUR) == HOUR


def test_it_is_said_until_when_what_no_tombstone_takes_stays_and_until_when_bytes_are_gone() -> None:
    letters = INTERACTION_COMPLETED.dead_letters("collector")
    search = Search({"e": request()})
    search.take(INTERACTION_RECORDED, stored(encode(planted("i-1"))))
    search.take(INTERACTION_COMPLETED, stored(b"garbage", key="x"), within=letters)
    search.take_lasting(INTERACTION_COMPLETED, stored(encode(planted("i-1")), at_ms=AT_MS + 1))
    search.count()
    topics = (INTERACTION_COMPLETED, INTERACTION_RECORDED, letters)
    lives = {topic.name: life_of(settings_of(topic, replication=1)) for topic in topics}
    event = account("e", request(), Told(1, ASKED, finished=False), stage="finished", search=search, lives=lives, at=ASKED)
    minute = timedelta(minutes=1)
    assert event.ends_by == {
        INTERACTION_COMPLETED.name: OCCURRED + timedelta(days=7, milliseconds=1) + SETTLE + minute,
        letters.name: OCCURRED + timedelta(days=30) + SETTLE + minute,
    }
    assert event.unreadable == {letters.name: 1}
    assert event.gone_by == ASKED + timedelta(days=3) + minute + HOUR
    ever = account("e", request(), None, stage="finished", search=search, lives=LIVES, at=ASKED)
    assert (ever.gone_by, set(ever.ends_by.values())) == (None, {None})
    search.take(INTERACTION_COMPLETED, stored(None, key="x"), within=letters)
    assert search.unreadable() == {}
