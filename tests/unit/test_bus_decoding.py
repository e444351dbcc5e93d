"""Decoding: an event comes back equal, anything else is told why without its contents."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka import partitioner
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from ruminate.schemas.envelope import Envelope, moment
from ruminate.schemas.flow import INTERACTION_COMPLETED
from ruminate.schemas.payload import FiniteJson, Payload, Text
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import Unprocessable
from ruminate.shared.decoding import decode, encode
from ruminate.shared.partitioning import murmur2, partition_of

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Note(Payload):
    """Anything."""

    text: Text
    other: dict[str, FiniteJson] = Field(default_factory=dict)


NOTES: Topic[Note] = Topic(
    name="notes-v1",
    says="A note was taken.",
    carries=Note,
    record_key="event_id",
    partitioned_by=("tenant",),
    cleanup="delete",
    written_by=("tests",),
    read_by=(),
)
HEADERS = Envelope(id="1", source="/tests", type=NOTES.event_type, time=NOW).to_headers()

finite_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(), st.dictionaries(st.text(max_size=8), finite_json, max_size=3))
def test_whatever_is_encoded_comes_back_equal(text: str, other: dict[str, Any]) -> None:
    note = Note(text=text, other=other)
    assert decode(NOTES, encode(note), HEADERS, timestamp_ms=0)[0] == note


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_unprocessable(value: bytes) -> None:
    with pytest.raises(Unprocessable) as refused:
        decode(NOTES, value, HEADERS, timestamp_ms=0)
    assert refused.value.explanation


@given(
    st.lists(st.tuples(st.sampled_from(["ce_id", "ce_type", "ce_time", "CE_Source", "content-type", "x"]), st.binary(max_size=20)))
)
def test_any_headers_are_an_envelope_or_unprocessable(headers: list[tuple[str, bytes]]) -> None:
    with pytest.raises(Unprocessable) as refused:
        decode(NOTES, encode(Note(text="")), headers, timestamp_ms=0)
    assert refused.value.reason in ("missing_header", "invalid_header")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ('"ä NaN" , "other": {"x": NaN}', "not_finite"),
        ('"a", "other": {"x": [1, {"y": Infinity}]}', "not_finite"),
        ('"a", "other": {"x": -Infinity}', "not_finite"),
        ('"a", "other": {"x": -1e999}', "not_finite"),
        ('"a", "other": {"x": NULL}', "not_json"),
        (r'"\ud83d"', "not_unicode"),
        (r'"a", "other": {"\udc00": 1}', "not_unicode"),
        ("7", "invalid_payload"),
    ],
)
def test_the_reason_is_a_constant_word_for_what_is_wrong(raw: str, reason: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        decode(NOTES, ('{"text": ' + raw + "}").encode(), HEADERS, timestamp_ms=0)
    assert refused.value.reason == reason


def test_an_explanation_names_the_place_and_what_is_allowed_and_quotes_nothing() -> None:
    topic = INTERACTION_COMPLETED
    secret = "Rumpelstilzchen"
    value = {
        "tenant": 1,
        "messages": [{"role": secret, "content": 3, "tool_calls": [{"name": "f", "arguments": secret}]}],
        "occurred_at": secret,
        "context": {"other": {secret: {"deep": "x"}}, "codebase_lines": secret},
    }
    headers = Envelope(id="1", source="/tests", type=topic.event_type, time=NOW).to_headers()
    with pytest.raises(Unprocessable) as refused:
        decode(topic, json.dumps(value).encode(), headers, timestamp_ms=0)
    said = refused.value.explanation
    assert "tenant: Input should be a valid string" in said
    assert "and " in said
    assert secret not in said


def test_a_timestamp_that_is_no_time_is_the_epoch() -> None:
    assert moment(2**62) == moment(-(2**62)) == datetime(1970, 1, 1, tzinfo=UTC)
    assert moment(1_000) == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


def test_partitions_are_those_of_kafkas_own_clients() -> None:
    # From org.apache.kafka.common.utils.UtilsTest: murmur2 of these, before the sign is cleared.
    for key, hashed in {"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536}.items():
        assert partition_of(key, 12) == (hashed & 0x7FFFFFFF) % 12


@given(st.binary(max_size=100))
def test_our_murmur2_is_that_of_aiokafka(data: bytes) -> None:
    assert murmur2(data) == partitioner.murmur2(data)
