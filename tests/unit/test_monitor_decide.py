"""The monitor's decisions: what a record tells, how windows fold it, what a closed window says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ruminate.monitor.decide import (
    BUCKET_OFFSETS,
    WATCHED_TOPICS,
    Assessment,
    Cut,
    Observation,
    Tally,
    batch_fill,
    bucket_of,
    due_windows,
    extends,
    glimpse,
    stored,
    summarise,
    taken_buckets,
    window_start,
    with_offset,
)
from ruminate.schemas.envelope import Envelope
from ruminate.schemas.flow import INTERACTION_COMPLETED, REASONING_ASSESSED, TRAINING_BATCH_SEALED
from ruminate.schemas.topic import Topic

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
TARGET = "default/qwen3:8b"


def headers_of(topic: Topic[Any], time: datetime = NOON) -> list[tuple[str, bytes]]:
    return Envelope(id=str(UUID(int=1)), source="/test", type=topic.event_type, time=time).to_headers()


def look(topic: Topic[Any], value: bytes | None, *, seconds_later: float = 0.0) -> Observation | None:
    read_at = NOON.timestamp() + seconds_later
    return glimpse(topic.name, headers_of(topic), value, written_at=read_at, read_at=read_at)


def assessed(*, decision: str = "keep", overall: float | None = 0.5, thinking: str | None = "so") -> bytes:
    return orjson.dumps(
        {
            "target_model": "qwen3:8b",
            "verdict": {"decision": decision, "overall": {"value": overall}},
            "interaction": {"response": {"content": "4", "thinking": thinking}},
        }
    )


def test_the_age_of_an_event_runs_from_its_own_time_to_its_being_read() -> None:
    seen = look(INTERACTION_COMPLETED, b"{}", seconds_later=7.5)
    assert seen == Observation(topic=INTERACTION_COMPLETED.name, value_bytes=2, age_seconds=7.5)


def test_an_event_from_the_future_has_age_zero() -> None:
    seen = look(INTERACTION_COMPLETED, b"{}", seconds_later=-60)
    assert seen is not None
    assert seen.age_seconds == 0.0


def test_a_tombstone_is_no_event() -> None:
    assert look(REASONING_ASSESSED, None) is None


def test_an_assessed_interaction_tells_its_target_decision_score_and_thinking() -> None:
    seen = look(REASONING_ASSESSED, assessed(thinking=" \n", overall=None, decision="reject"))
    assert seen is not None
    assert seen.assessment == Assessment(target=TARGET, kept=False, thought=False, overall=None)


@pytest.mark.parametrize("value", [b"", b"no json", b"[]", assessed(overall=7.0), assessed(decision="perhaps"), b"[" * 100_000])
def test_what_is_no_assessed_interaction_is_unreadable(value: bytes) -> None:
    seen = look(REASONING_ASSESSED, value)
    assert seen is not None
    assert not seen.readable
    assert seen.assessment is None


@given(
    topic=st.sampled_from(WATCHED_TOPICS),
    headers=st.lists(
        st.tuples(
            st.sampled_from(("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "other")),
            st.one_of(st.none(), st.binary(max_size=9), st.sampled_from((b"1.0", b"0001-01-01T00:00:00+23:59"))),
        )
    ),
    value=st.binary(max_size=30),
    written_at=st.floats(allow_nan=False),
)
@example(topic=INTERACTION_COMPLETED.name, headers=headers_of(INTERACTION_COMPLETED)[:4], value=b"", written_at=1e300)
def test_no_record_whatsoever_stops_the_monitor(
    topic: str, headers: list[tuple[str, bytes]], value: bytes, written_at: float
) -> None:
    seen = glimpse(topic, headers, value, written_at=written_at, read_at=NOON.timestamp())
    assert seen is not None
    assert Tally().plus(seen).events == 1


def test_a_tally_comes_back_from_its_table_as_it_went_in() -> None:
    seen = look(REASONING_ASSESSED, assessed(), seconds_later=2)
    assert seen is not None
    tally = Tally().plus(seen).plus(seen)
    assert Tally(**orjson.loads(orjson.dumps(stored(tally)))) == tally


def test_a_window_tells_rates_ages_and_ratios_of_what_it_holds() -> None:
    tally = Tally()
    for number, (decision, overall, thinking) in enumerate(
        [("keep", 0.9, "so"), ("keep", None, "so"), ("reject", 0.1, None), ("reject", 0.2, "so")]
    ):
        seen = look(REASONING_ASSESSED, assessed(decision=decision, overall=overall, thinking=thinking), seconds_later=number)
        assert seen is not None
        tally = tally.plus(seen)
    dead = f"{INTERACTION_COMPLETED.name}-collector-dlq"

    window = summarise(
        {REASONING_ASSESSED.name: tally, dead: Tally(events=3)}, start=NOON, window_seconds=8.0, lag=(), fill={TARGET: 2}
    )

    told = next(topic for topic in window.topics if topic.topic == REASONING_ASSESSED.name)
    assert (told.events, told.events_per_second, told.age_seconds_mean, told.age_seconds_max) == (4, 0.5, 1.5, 3.0)
    assert window.overall_mean == pytest.approx(0.4)
    assert (window.kept_ratio, window.reasoning_ratio) == (0.5, 0.75)
    assert window.dead_letters == {dead: 3}
    assert window.batch_fill == {TARGET: 2}


def test_a_window_in_which_nothing_happened_has_no_means() -> None:
    window = summarise({}, start=NOON, window_seconds=10.0, lag=(), fill={})
    assert (window.overall_mean, window.kept_ratio, window.reasoning_ratio) == (None, None, None)
    assert {topic.age_seconds_max for topic in window.topics} == {None}


@given(
    scores=st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=50),
)
@example(scores=[0.1] * 10 + [1.0] * 7)
def test_the_mean_of_scores_never_leaves_the_ratio(scores: list[float]) -> None:
    tally = Tally()
    for score in scores:
        judged = Assessment(target=TARGET, kept=True, thought=True, overall=score)
        tally = tally.plus(Observation(topic=REASONING_ASSESSED.name, value_bytes=1, assessment=judged))
    window = summarise({REASONING_ASSESSED.name: tally}, start=NOON, window_seconds=1.0, lag=(), fill={})
    assert window.overall_mean is not None
    assert min(scores) - 1e-9 <= window.overall_mean <= 1.0


@given(
    kept=st.lists(st.integers(0, 5 * BUCKET_OFFSETS)),
    cut=st.one_of(st.none(), st.integers(0, 5 * BUCKET_OFFSETS)),
)
@example(kept=[BUCKET_OFFSETS - 1, BUCKET_OFFSETS, BUCKET_OFFSETS], cut=BUCKET_OFFSETS - 1)
def test_the_fill_of_a_batch_counts_each_kept_offset_beyond_the_cut_once(kept: list[int], cut: int | None) -> None:
    buckets: dict[str, str] = {}
    for offset in kept:
        key = bucket_of(TARGET, offset)
        buckets[key] = with_offset(buckets.get(key, ""), offset)
    expected = len({offset for offset in kept if cut is None or offset > cut})
    cuts = {} if cut is None else {TARGET: cut}

    assert batch_fill(buckets, cuts).get(TARGET, 0) == expected
    if cut is not None:
        for key in taken_buckets(Cut(target=TARGET, batch_id="b", previous_batch_id=None, to_offset=cut), list(buckets)):
            del buckets[key]
        assert batch_fill(buckets, cuts)[TARGET] == expected


def test_a_cut_forgets_buckets_of_its_own_target_only() -> None:
    cut = Cut(target="a/x#1", batch_id="b", previous_batch_id=None, to_offset=BUCKET_OFFSETS - 1)
    assert taken_buckets(cut, ["a/x#1#0", "a/x#1#1", "a/x#0", "a/x#1#10"]) == ["a/x#1#0"]


def test_only_the_record_that_extends_the_chain_is_the_next_batch() -> None:
    second = Cut(target=TARGET, batch_id="b-2", previous_batch_id="b-1", to_offset=9)
    assert extends("b-1", second)
    assert not extends("b-2", second)
    assert extends(None, second)


def test_a_sealed_batch_tells_its_cut() -> None:
    value = orjson.dumps(
        {
            "batch_id": "b-1",
            "target_model": "qwen3:8b",
            "number": 1,
            "assessed_partition": 3,
            "after_offset": -1,
            "to_offset": 41,
            "sealed_at": "2026-01-31T12:00:00Z",
            "reason": "count",
            "explanation": "64 of 64",
            "dataset": {"uri": "file:///x", "sha256": "0" * 64, "size_bytes": 1},
            "rows": 64,
            "reasoning_rows": 48,
            "direct_rows": 16,
            "reasoning_ratio": 0.75,
        }
    )
    seen = look(TRAINING_BATCH_SEALED, value)
    assert seen is not None
    assert seen.cut == Cut(target=TARGET, batch_id="b-1", previous_batch_id=None, to_offset=41)


def test_a_first_start_tells_the_window_that_has_just_passed() -> None:
    assert list(due_windows(now=25.0, last=None, window_seconds=10.0, at_most=6)) == [10.0]


def test_a_window_is_due_once() -> None:
    assert list(due_windows(now=29.9, last=0.0, window_seconds=10.0, at_most=6)) == [10.0]
    assert list(due_windows(now=29.9, last=10.0, window_seconds=10.0, at_most=6)) == []


def test_of_many_missed_windows_the_latest_are_due_oldest_first() -> None:
    assert list(due_windows(now=1005.0, last=0.0, window_seconds=10.0, at_most=3)) == [970.0, 980.0, 990.0]


def test_a_clock_that_was_set_back_makes_no_window_due() -> None:
    assert list(due_windows(now=5.0, last=500.0, window_seconds=10.0, at_most=6)) == []


@given(now=st.floats(min_value=0, max_value=4e9), length=st.floats(min_value=1, max_value=3600))
def test_a_moment_lies_in_its_window(now: float, length: float) -> None:
    start = window_start(now, length)
    assert start <= now + 1e-6
    assert now < start + length + 1e-6
