"""What every payload promises: strict, finite, NUL kept, lone surrogates refused, unknown fields ignored."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ruminate.schemas.envelope import Envelope, EnvelopeError, derive_event_id, derive_event_id_text
from ruminate.schemas.interaction import InteractionCompleted

LEAST: dict[str, Any] = {
    "interaction_id": "i-1",
    "conversation_id": "c-1",
    "agent": "a",
    "target_model": "qwen3:8b",
    "occurred_at": "2026-01-01T00:00:00Z",
    "messages": [{"role": "user", "content": "q"}],
    "response": {"content": "a"},
    "thinking": {"mode_used": "direct"},
}


def test_nul_inside_a_string_is_kept() -> None:
    raw = json.dumps(LEAST | {"response": {"content": "a\x00b"}})
    read = InteractionCompleted.model_validate_json(raw)
    assert read.response.content == "a\x00b"
    assert InteractionCompleted.model_validate_json(read.model_dump_json()) == read


def test_a_lone_surrogate_is_refused_from_json_and_from_python() -> None:
    with pytest.raises(ValidationError):
        InteractionCompleted.model_validate_json(json.dumps(LEAST | {"response": {"content": "\ud800"}}))
    with pytest.raises(ValidationError):
        InteractionCompleted.model_validate(
            LEAST | {"response": {"content": "\ud800"}, "occurred_at": datetime.now(UTC), "messages": ()}
        )


@given(st.sampled_from([math.nan, math.inf, -math.inf]), st.lists(st.sampled_from(["list", "dict"]), max_size=6))
def test_a_number_that_is_not_finite_is_refused_at_any_depth(number: float, nesting: list[str]) -> None:
    value: Any = number
    for kind in nesting:
        value = [value] if kind == "list" else {"k": value}
    raw = json.dumps(LEAST | {"context": {"other": {"deep": value}}})
    with pytest.raises(ValidationError):
        InteractionCompleted.model_validate_json(raw)


def test_fields_that_nobody_knows_are_ignored_and_types_are_not_bent() -> None:
    read = InteractionCompleted.model_validate_json(json.dumps(LEAST | {"from_the_future": {"x": 1}}))
    assert "from_the_future" not in read.model_dump()
    with pytest.raises(ValidationError):
        InteractionCompleted.model_validate_json(json.dumps(LEAST | {"training_allowed": "true"}))


def test_consent_is_refused_unless_it_is_given() -> None:
    assert InteractionCompleted.model_validate_json(json.dumps(LEAST)).training_allowed is False


def test_a_target_has_one_spelling_however_it_was_asked_for() -> None:
    spellings = ("qwen3", "qwen3:latest", "qwen3:8b")
    read = [InteractionCompleted.model_validate_json(json.dumps(LEAST | {"target_model": name})) for name in spellings]
    assert [one.target_model for one in read] == ["qwen3", "qwen3", "qwen3:8b"]


_parts = st.text(max_size=12)


@given(_parts, _parts, _parts, _parts, st.integers(0, 3), _parts, _parts, _parts, _parts, st.integers(0, 3))
def test_derived_ids_are_equal_exactly_when_everything_they_come_from_is(
    t1: str, s1: str, i1: str, n1: str, o1: int, t2: str, s2: str, i2: str, n2: str, o2: int
) -> None:
    one = derive_event_id(tenant=t1, cause_source=s1, cause_id=i1, topic=n1, ordinal=o1)
    two = derive_event_id(tenant=t2, cause_source=s2, cause_id=i2, topic=n2, ordinal=o2)
    assert (one == two) == ((t1, s1, i1, n1, o1) == (t2, s2, i2, n2, o2))
    assert derive_event_id_text(tenant=t1, cause_source=s1, cause_id=i1, topic=n1, ordinal=o1) == str(one)


def test_an_envelope_comes_back_from_its_headers() -> None:
    envelope = Envelope(
        id="1",
        source="/agents/ä",
        type="dev.ruminate.x-v1",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        order="c-1",
        cause="0",
    )
    assert Envelope.from_headers(envelope.to_headers(), timestamp_ms=0) == envelope


def test_a_malformed_traceparent_begins_a_new_trace_and_a_missing_time_is_the_brokers() -> None:
    recorded_at = datetime(2026, 5, 5, tzinfo=UTC)
    headers = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/s"), ("ce_type", b"t"), ("traceparent", b"00-0-0-0")]
    read = Envelope.from_headers(headers, timestamp_ms=int(recorded_at.timestamp() * 1000))
    assert (read.traceparent, read.time) == (None, recorded_at)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ce_id", None, "ce_id is missing"),
        ("ce_source", b"", "ce_source is missing"),
        ("ce_specversion", b"0.3", "only '1.0'"),
        ("ce_time", b"yesterday", "RFC 3339"),
        ("ce_time", b"2026-01-01T00:00:00", "offset"),
        ("content-type", b"text/plain", "application/json"),
        ("ce_type", b"\xff", "UTF-8"),
    ],
)
def test_a_header_that_is_missing_or_malformed_is_named(name: str, value: bytes | None, says: str) -> None:
    headers = {"ce_specversion": b"1.0", "ce_id": b"1", "ce_source": b"/s", "ce_type": b"t"}
    if value is None:
        del headers[name]
    else:
        headers[name] = value
    with pytest.raises(EnvelopeError, match=says):
        Envelope.from_headers(headers.items(), timestamp_ms=0)
