"""What the collector decides: normal form, content, repeats; and what its window remembers."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from ruminate.collector.decide import Seen, check_id, check_source, check_tenant, judge_repeat, normalise, record
from ruminate.collector.window import Window
from ruminate.schemas.interaction import (
    ContextFacts,
    InteractionCompleted,
    InteractionRecorded,
    Message,
    Response,
    Thinking,
    ToolCall,
)
from ruminate.shared.bus import Unprocessable
from ruminate.shared.decoding import encode

DECOMPOSED = "Zu\u0308rich"
COMPOSED = "Z\u00fcrich"


def completed(**changed: Any) -> InteractionCompleted:
    fields: dict[str, Any] = {
        "interaction_id": "i-1",
        "conversation_id": "c-1",
        "agent": "tester",
        "target_model": "qwen3",
        "occurred_at": datetime(2026, 1, 1, tzinfo=UTC),
        "messages": (Message(role="user", content="Where?"),),
        "response": Response(content="There."),
        "thinking": Thinking(mode_used="direct"),
    } | changed
    return InteractionCompleted(**fields)


def with_arguments(arguments: dict[str, JsonValue]) -> InteractionCompleted:
    return completed(response=Response(content="", tool_calls=(ToolCall(name="look", arguments=arguments),)))


@pytest.mark.parametrize("text", ["plain", COMPOSED, "", '\x00\n\t"\\', "한국어", "👩‍👩‍👧", "n\n\u0303"])
def test_what_is_in_normal_form_is_left_as_it_is(text: str) -> None:
    payload = completed(response=Response(content=text), reference_answer=text)
    found = normalise(payload)
    assert found.payload == payload
    assert not found.changed


def test_every_string_is_normalised_at_any_depth_keys_included() -> None:
    payload = completed(
        agent=DECOMPOSED,
        tags=(DECOMPOSED,),
        messages=(
            Message(role="user", content=DECOMPOSED, tool_calls=(ToolCall(name="t", arguments={DECOMPOSED: [{"x": DECOMPOSED}]}),)),
        ),
        context=ContextFacts(other={"deep": {"list": [1, None, DECOMPOSED, 2**70]}}),
    )
    found = normalise(payload)
    assert found.changed
    assert unicodedata.is_normalized("NFC", found.payload.model_dump_json())
    assert found.payload.agent == COMPOSED
    assert found.payload.messages[0].tool_calls[0].arguments == {COMPOSED: [{"x": COMPOSED}]}
    assert found.payload.context.other == {"deep": {"list": [1, None, COMPOSED, 2**70]}}


@given(st.text(max_size=200), st.text(max_size=50))
def test_any_text_comes_out_in_normal_form_and_stays_there(content: str, tag: str) -> None:
    once = normalise(completed(response=Response(content=content), context=ContextFacts(other={tag: content})))
    assert once.payload.response.content == unicodedata.normalize("NFC", content)
    assert once.changed == (not (unicodedata.is_normalized("NFC", content) and unicodedata.is_normalized("NFC", tag)))
    again = normalise(once.payload)
    assert not again.changed
    assert again.fingerprint == once.fingerprint


def test_two_keys_that_become_one_are_refused_rather_than_merged() -> None:
    with pytest.raises(Unprocessable) as refused:
        normalise(with_arguments({DECOMPOSED: 1, COMPOSED: 2}))
    assert refused.value.reason == "not_normalisable"
    assert DECOMPOSED not in str(refused.value)


def test_a_name_that_grows_over_its_limit_is_refused_with_its_place() -> None:
    grows = "\u0958" * 200  # one character, two in NFC
    with pytest.raises(Unprocessable, match="agent") as refused:
        normalise(completed(agent=grows))
    assert refused.value.reason == "not_normalisable"


def test_content_is_the_same_in_any_order_of_free_keys_and_in_any_normal_form_and_differs_otherwise() -> None:
    one = normalise(with_arguments({"a": 1, "b": {"c": 2, "d": 3}})).fingerprint
    assert one == normalise(with_arguments({"b": {"d": 3, "c": 2}, "a": 1})).fingerprint
    assert one != normalise(with_arguments({"a": 1, "b": {"c": 2, "d": 4}})).fingerprint
    assert normalise(completed(agent=DECOMPOSED)).fingerprint == normalise(completed(agent=COMPOSED)).fingerprint
    assert normalise(completed()).fingerprint != normalise(completed(agent="other")).fingerprint


def test_arguments_as_deep_as_the_gate_lets_through_are_hashed() -> None:
    deep: JsonValue = 1
    for _ in range(150):
        deep = [deep]
    assert normalise(with_arguments({"a": deep})).fingerprint


@given(st.text(max_size=50), st.text(min_size=1, max_size=200).filter(lambda name: name.isprintable()))
def test_a_record_is_the_interaction_with_its_source_its_id_and_what_was_changed(content: str, source: str) -> None:
    for agent, normalised in ((DECOMPOSED, ("nfc",)), (COMPOSED, ())):
        completed_one = completed(agent=agent, response=Response(content=unicodedata.normalize("NFC", content)))
        found = record(normalise(completed_one), source=source, recorded_id=UUID(int=7))
        fields = {**completed_one.__dict__, "agent": COMPOSED}
        assert found == encode(InteractionRecorded(**fields, source=source, recorded_id=UUID(int=7), normalised=normalised))


def test_what_contradicts_the_envelope_is_refused_without_showing_it() -> None:
    check_id(completed(), "i-1")
    refusals: list[tuple[Callable[[], None], str]] = [
        (lambda: check_id(completed(), "i-2"), "id_mismatch"),
        (lambda: check_source("secret" * 40), "invalid_source"),
        (lambda: check_source(""), "invalid_source"),
        (lambda: check_tenant("a\nb"), "invalid_tenant"),
    ]
    for refuse, reason in refusals:
        with pytest.raises(Unprocessable) as refused:
            refuse()
        assert refused.value.reason == reason
        assert "secret" not in str(refused.value)


def test_a_redelivered_record_is_still_the_first_and_only_another_one_is_a_repeat() -> None:
    seen = Seen(b"content", partition=3, offset=10)
    assert judge_repeat(None, b"content", (3, 10)) == "first"
    assert judge_repeat(seen, b"content", (3, 10)) == "first"
    assert judge_repeat(seen, b"content", (3, 9)) == "first"
    assert judge_repeat(seen, b"content", (3, 11)) == "duplicate"
    assert judge_repeat(seen, b"content", (4, 2)) == "duplicate"
    assert judge_repeat(seen, b"content", None) == "duplicate"
    assert judge_repeat(seen, b"other", (3, 11)) == "conflict"
    assert judge_repeat(seen, b"other", None) == "conflict"


def test_the_window_keeps_the_earliest_record_of_an_id_and_forgets_the_oldest_id() -> None:
    window = Window(most=2)
    window.remember(b"a", Seen(b"1", 0, 5))
    window.remember(b"a", Seen(b"1", 0, 3))
    window.remember(b"a", Seen(b"1", 0, 9))
    window.remember(b"a", Seen(b"1", 1, 0))
    assert window.seen(b"a") == Seen(b"1", 0, 3)
    window.remember(b"b", Seen(b"1", 0, 6))
    window.remember(b"c", Seen(b"1", 0, 7))
    assert window.seen(b"a") is None
    assert window.seen(b"b") is not None
