"""Files of others, read record by record: what each format tells, what it refuses and why, and that ids stay the same."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruminate.collector.chat import Untellable
from ruminate.command.imports.formats import UnknownFormat, read_record, recognise
from ruminate.command.imports.told import Found, Options, PassedOver, Refused, Told, interaction_of
from ruminate.schemas.interaction import InteractionCompleted, ToolDefinition

SECRET = "Rumpelstilzchen"
TO_QWEN = Options(target="qwen3:8b")


def made(found: Iterable[Found], options: Options = TO_QWEN) -> list[InteractionCompleted]:
    """The interactions, as the topic's own gate takes them; nothing else may be found."""
    interactions = []
    for told in found:
        assert isinstance(told, Told), told
        interactions.append(InteractionCompleted.model_validate_json(orjson.dumps(interaction_of(told, options))))
    return interactions


def openai(record: dict[str, Any], **how: Any) -> list[Found]:
    return list(read_record(record, "openai", how.get("mode", "every"), how.get("requests")))


def langfuse(record: dict[str, Any]) -> list[Found]:
    return list(read_record(record, "langfuse", "every"))


def sharegpt(record: dict[str, Any], mode: Any = "every") -> list[Found]:
    return list(read_record(record, "sharegpt", mode))


def reasons(found: Iterable[Found]) -> list[str]:
    said = [each for each in found if isinstance(each, Refused)]
    assert all(SECRET not in each.says for each in said)
    return [each.reason for each in said]


# OpenAI.

REQUEST = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]}],
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}],
}
RESPONSE = {
    "id": "chatcmpl-A1",
    "object": "chat.completion",
    "created": 1724858089,
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "4", "reasoning_content": "Two and two.", "refusal": None},
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 24,
        "completion_tokens": 8,
        "total_tokens": 32,
        "completion_tokens_details": {"reasoning_tokens": 5},
    },
}


def test_a_request_with_its_response_is_one_interaction_with_thinking_usage_and_time() -> None:
    (found,) = made(openai({"request": REQUEST, "response": RESPONSE, "session_id": "s-1"}))
    assert [message.role for message in found.messages] == ["system", "user"]
    assert found.messages[1].content == "2 + 2?"
    assert (found.response.content, found.response.thinking, found.thinking.mode_used) == ("4", "Two and two.", "thinking")
    assert (found.usage.prompt_tokens, found.usage.response_tokens, found.usage.thinking_tokens) == (24, 8, 5)
    assert (found.usage.done_reason, found.conversation_id) == ("stop", "s-1")
    assert found.occurred_at == datetime.fromtimestamp(1724858089, UTC)
    assert found.interaction_id.startswith("chatcmpl-A1-")
    assert (found.tools, found.context.other) == ((ToolDefinition(name="add"),), {"model": "gpt-4o-mini"})
    assert (found.training_allowed, found.outcome) == (False, "unknown")


def test_the_same_pair_has_the_same_id_wherever_it_stands_and_another_answer_another() -> None:
    def name(record: dict[str, Any]) -> str:
        return made(openai(record))[0].interaction_id

    pair = {"request": REQUEST, "response": RESPONSE}
    shuffled = {"logged_by": "somebody", "response": dict(reversed(RESPONSE.items())), "request_body": json.dumps(REQUEST)}
    assert name(pair) == name(shuffled)
    other = RESPONSE | {"choices": [{"message": {"role": "assistant", "content": "5"}}]}
    assert name(pair) != name({"request": REQUEST, "response": other})
    assert len(name({"request": REQUEST, "response": {"choices": other["choices"]}})) == 32


def test_a_pair_may_stand_in_one_object_and_its_calls_are_kept() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}
    answer = {"role": "assistant", "content": None, "tool_calls": [call]}
    (found,) = made(openai({"messages": REQUEST["messages"], "response": {"choices": [{"message": answer}]}}))
    assert found.response.tool_calls[0].arguments == {"a": 2, "b": 2}


BATCH_OUTPUT = {
    "id": "batch_req_1",
    "custom_id": "request-1",
    "response": {"status_code": 200, "request_id": "r", "body": RESPONSE},
    "error": None,
}
BATCH_INPUT = {"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": REQUEST}


def test_output_of_a_batch_is_joined_with_its_input() -> None:
    (found,) = made(openai(BATCH_OUTPUT, requests={"request-1": BATCH_INPUT}.get))
    assert (found.messages[1].content, found.response.content) == ("2 + 2?", "4")
    assert reasons(openai(BATCH_OUTPUT)) == ["no_request"]
    assert reasons(openai(BATCH_OUTPUT, requests=lambda _: None)) == ["no_request"]
    assert reasons(openai(BATCH_INPUT)) == ["no_answer"]
    failed = BATCH_OUTPUT | {"response": {"status_code": 429, "body": {"error": {"message": SECRET}}}}
    assert reasons(openai(failed)) == ["failed_request"]
    expired = BATCH_OUTPUT | {"response": None, "error": {"code": "batch_expired", "message": SECRET}}
    assert reasons(openai(expired)) == ["failed_request"]


FINE_TUNING = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi.", "weight": 0},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "<think>Two and two.</think>\n4"},
        {"role": "user", "content": "And 3?"},
        {"role": "assistant", "content": "7"},
    ]
}


def test_each_answered_turn_of_a_conversation_has_its_own_prefix_and_continues_the_one_before() -> None:
    second, third = made(openai(FINE_TUNING))
    assert [len(each.messages) for each in (second, third)] == [4, 6]  # weight 0 is not learned from
    assert (second.response.content, second.response.thinking) == ("4", "Two and two.")
    assert third.messages[4].thinking == "Two and two."
    assert (second.continues_interaction, third.continues_interaction) == (None, second.interaction_id)
    assert second.conversation_id == third.conversation_id
    (last,) = made(openai(FINE_TUNING, mode="last"))
    assert (last.interaction_id, last.continues_interaction) == (third.interaction_id, None)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"request": REQUEST, "response": {"error": {"message": SECRET}}}, "failed_request"),
        ({"request": {"input": SECRET}, "response": {"output": []}}, "unknown_shape"),
        ({"request": REQUEST, "response": {"choices": []}}, "no_answer"),
        ({"request": "{" + SECRET, "response": RESPONSE}, "not_json"),
        ({"messages": [{"role": "user", "content": SECRET}]}, "no_answer"),
        ({"messages": [{"role": "wizard", "content": SECRET}]}, "unknown_role"),
        ({"messages": [SECRET]}, "not_a_message"),
        ({"messages": [{"role": "user", "content": {"a": SECRET}}]}, "not_text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": SECRET}}]}]}, "image_by_address"),
        ({"prompt": SECRET, "completion": SECRET}, "unknown_shape"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": SECRET}}]}]}, "tool_arguments"),
        ({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}], "id": 2**70}, None),
        ({"messages": [{"role": "assistant", "tool_calls": [{"name": "x", "args": {"n": 2**70}}]}]}, "no_answer"),
    ],
)
def test_what_cannot_be_told_is_refused_with_a_word_and_without_contents(record: dict[str, Any], reason: str | None) -> None:
    assert reasons(openai(record)) == ([] if reason is None else [reason])


# Langfuse.

OBSERVATION = {
    "id": "obs-1",
    "traceId": "trace-1",
    "type": "GENERATION",
    "name": "answer",
    "startTime": "2026-01-01T00:00:00.000Z",
    "completionStartTime": "2026-01-01T00:00:00.500Z",
    "endTime": "2026-01-01T00:00:02.000Z",
    "model": "gpt-4o",
    "level": "DEFAULT",
    "input": [{"role": "user", "content": "2 + 2?"}],
    "output": {"role": "assistant", "content": "<think>Two and two.</think>4"},
    "usageDetails": {"input": 10, "output": 5, "output_reasoning_tokens": 3, "total": 15},
}


def test_an_observation_is_an_interaction_under_its_own_id() -> None:
    (found,) = made(langfuse(OBSERVATION | {"sessionId": "session-1", "traceTags": ["shop"]}))
    assert (found.interaction_id, found.conversation_id, found.tags) == ("obs-1", "session-1", ("shop",))
    assert (found.response.content, found.response.thinking) == ("4", "Two and two.")
    usage = found.usage
    assert (usage.prompt_tokens, usage.response_tokens, usage.thinking_tokens) == (10, 5, 3)
    assert (usage.total_seconds, usage.first_token_seconds) == (2.0, 0.5)
    assert found.context.other == {"trace_id": "trace-1", "model": "gpt-4o"}


def test_rows_of_csv_and_of_the_blob_storage_tell_the_same() -> None:
    row = {key: json.dumps(value) if isinstance(value, (dict, list)) else value for key, value in OBSERVATION.items()}
    snake = {
        "id": "obs-1",
        "trace_id": "trace-1",
        "type": "GENERATION",
        "start_time": "2026-01-01 00:00:00.000000",
        "completion_start_time": "2026-01-01 00:00:00.500000",
        "end_time": "2026-01-01 00:00:02.000000",
        "provided_model_name": "gpt-4o",
        "level": "DEFAULT",
        "session_id": "",
        "input": json.dumps(OBSERVATION["input"]),
        "output": json.dumps(OBSERVATION["output"]),
        "usage_details": json.dumps(OBSERVATION["usageDetails"]),
    }
    assert made(langfuse(row)) == made(langfuse(snake)) == made(langfuse(OBSERVATION))


@pytest.mark.parametrize(
    ("asked", "answered", "content"),
    [
        ("2 + 2?", "4", "4"),
        ({"messages": [{"role": "user", "content": "2 + 2?"}], "tools": []}, {"choices": [{"message": {"content": "4"}}]}, "4"),
        ({"prompt": "2 + 2?"}, [{"role": "assistant", "content": "4"}], "4"),
        ({"role": "user", "content": "2 + 2?"}, 4, "4"),
        ([{"role": "human", "content": "2 + 2?"}], {"role": "ai", "content": '{"sum": 4}'}, '{"sum": 4}'),
    ],
)
def test_input_and_output_are_read_in_every_shape_that_integrations_write(asked: Any, answered: Any, content: str) -> None:
    (found,) = made(langfuse(OBSERVATION | {"input": asked, "output": answered}))
    assert (found.messages[0].content, found.response.content) == ("2 + 2?", content)


def test_a_trace_is_told_by_its_generations_and_everything_else_is_passed_over() -> None:
    retrieval = {"id": "obs-2", "traceId": "trace-1", "type": "RETRIEVER", "startTime": "2026-01-01T00:00:00Z", "input": SECRET}
    trace = {"id": "trace-1", "timestamp": "2026-01-01T00:00:00Z", "sessionId": "session-1", "input": "app", "output": "app"}
    for record in (trace | {"observations": [OBSERVATION, retrieval]}, {"trace": trace, "observations": [OBSERVATION, retrieval]}):
        told, passed = langfuse(record)
        assert isinstance(told, Told)
        assert (told.key, told.conversation) == ("obs-1", "session-1")
        assert passed == PassedOver("retriever")
    page = langfuse({"data": [OBSERVATION, retrieval, 7], "meta": {"page": 1}})
    assert [type(each) for each in page] == [Told, PassedOver, Refused]
    (found,) = made(langfuse(trace))
    assert (found.interaction_id, found.messages[0].content) == ("trace-1", "app")


def score(name: str, kind: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "dataType": kind, "value": value} | more


@pytest.mark.parametrize(
    ("scores", "level", "outcome"),
    [
        ([], "DEFAULT", "unknown"),
        ([], "ERROR", "failed"),
        ([score("correct", "BOOLEAN", 1)], "DEFAULT", "succeeded"),
        ([score("Success", "BOOLEAN", 0, observationId="obs-1")], "DEFAULT", "failed"),
        ([score("outcome", "CATEGORICAL", None, stringValue="Succeeded")], "DEFAULT", "succeeded"),
        ([score("correct", "BOOLEAN", 1), score("passed", "BOOLEAN", 0)], "DEFAULT", "unknown"),
        ([score("correct", "NUMERIC", 1)], "DEFAULT", "unknown"),
        ([score("user-feedback", "BOOLEAN", 1)], "DEFAULT", "unknown"),
        ([score("correct", "BOOLEAN", 1, observationId="obs-9")], "DEFAULT", "unknown"),
        ([score("outcome", "CATEGORICAL", None, stringValue="fine")], "DEFAULT", "unknown"),
    ],
)
def test_an_outcome_is_taken_only_where_a_score_can_mean_nothing_else(scores: list[Any], level: str, outcome: str) -> None:
    (found,) = made(langfuse({"id": "trace-1", "observations": [OBSERVATION | {"level": level}], "scores": scores}))
    assert found.outcome == outcome


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"output": None}, "no_answer"),
        ({"output": {"answer": SECRET}}, "no_answer"),
        ({"input": ""}, "no_question"),
        ({"input": {"question": SECRET}}, "no_question"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "not_text"),
    ],
)
def test_an_observation_that_cannot_be_told_is_refused(changed: dict[str, Any], reason: str) -> None:
    assert reasons(langfuse(OBSERVATION | changed)) == [reason]


# ShareGPT.


def test_sharegpt_tells_system_tools_calls_results_and_thinking() -> None:
    record = {
        "id": "identity_0",
        "system": "Be brief.",
        "tools": json.dumps([{"name": "add", "parameters": {}}]),
        "conversations": [
            {"from": "human", "value": "2 + 2?"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2, "b": 2}}'},
            {"from": "observation", "value": "4"},
            {"from": "gpt", "value": "It is 4.", "reasoning": "The tool says 4."},
            {"from": "human", "value": "And 3?"},
            {"from": "gpt", "value": "<think>\nFour and three.\n</think>\n\n7"},
        ],
    }
    call, first, second = made(sharegpt(record))
    assert call.response.tool_calls[0].arguments == {"a": 2, "b": 2}
    assert [message.role for message in first.messages] == ["system", "user", "assistant", "tool"]
    assert (first.response.content, first.response.thinking) == ("It is 4.", "The tool says 4.")
    assert (second.response.content, second.response.thinking) == ("7", "Four and three.")
    assert second.continues_interaction == first.interaction_id
    assert second.interaction_id.startswith("identity_0-")
    assert call.tools == second.tools == (ToolDefinition(name="add"),)


def test_calls_and_results_in_the_tags_of_hermes_are_calls_and_results() -> None:
    value = 'I look.\n<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
    turns = [
        {"from": "user", "value": "2 + 2?"},
        {"from": "gpt", "value": value},
        {"from": "tool", "value": "<tool_response>\n4\n</tool_response>"},
        {"from": "gpt", "value": "4"},
    ]
    call, answer = made(sharegpt({"conversations": turns}))
    assert (call.response.content, call.response.tool_calls[0].name) == ("I look.", "add")
    assert answer.messages[2].content == "4"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"conversations": SECRET}, "unknown_shape"),
        ({"conversations": []}, "no_answer"),
        ({"conversations": [SECRET]}, "not_a_message"),
        ({"conversations": [{"from": SECRET, "value": "x"}]}, "unknown_role"),
        ({"conversations": [{"from": "gpt", "value": "Hello, how can I help?"}]}, "no_answer"),
        ({"conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": SECRET}]}, "tool_arguments"),
        ({"conversations": [{"from": "human", "value": 7}]}, "not_a_message"),
    ],
)
def test_a_conversation_that_cannot_be_told_is_refused(record: dict[str, Any], reason: str) -> None:
    assert reasons(sharegpt(record)) == [reason]


# What all have in common.


@pytest.mark.parametrize(
    ("record", "form"),
    [
        ({"request": REQUEST, "response": RESPONSE}, "openai"),
        (BATCH_OUTPUT, "openai"),
        (FINE_TUNING, "openai"),
        (OBSERVATION, "langfuse"),
        ({"id": "t", "observations": [OBSERVATION]}, "langfuse"),
        ({"id": "t", "input": "?", "output": "!", "sessionId": "s"}, "langfuse"),
        ({"conversations": [{"from": "human", "value": "?"}]}, "sharegpt"),
    ],
)
def test_a_format_is_recognised_by_its_first_record_and_says_why(record: dict[str, Any], form: str) -> None:
    found, why = recognise([{"meaningless": 1}, record])
    assert found == form
    assert why.startswith("record 2: it ")


def test_what_looks_like_nothing_names_the_way_out() -> None:
    with pytest.raises(UnknownFormat, match="--format"):
        recognise([{"text": SECRET}, {"type": ["GENERATION"]}])


def test_what_learns_is_named_by_the_mapping_then_by_the_loop_then_by_the_target_else_it_is_refused() -> None:
    (told,) = openai({"request": REQUEST, "response": RESPONSE})
    assert isinstance(told, Told)

    def target(**options: Any) -> str:
        return str(interaction_of(told, Options(**options))["target_model"])

    mapping = {"gpt-4o-mini-2024-07-18": "qwen3:4b"}
    assert target(targets=mapping, target="qwen3:8b") == "qwen3:4b"
    assert target(targets={"gpt-4": "qwen3:4b"}, target="qwen3:8b") == "qwen3:8b"
    assert target(learns=frozenset({"gpt-4o-mini"}), target="qwen3:8b") == "gpt-4o-mini"
    with pytest.raises(Untellable, match="--model gpt-4o-mini=TARGET"):
        target()


def test_the_options_say_whose_it_is_and_whether_it_may_be_learned_from() -> None:
    options = Options(tenant="acme", agent="clerk", target="m", training_allowed=True, occurred_at=datetime(2026, 1, 1, tzinfo=UTC))
    found = made(openai(FINE_TUNING), options)
    assert {(each.tenant, each.agent, each.training_allowed, each.occurred_at.year) for each in found} == {
        ("acme", "clerk", True, 2026)
    }
    assert {each.occurred_at.year for each in made(openai(FINE_TUNING))} == {1970}


names = st.sampled_from(
    [
        *("messages", "role", "content", "request", "response", "body", "choices", "message", "custom_id", "error", "tool_calls"),
        *("function", "name", "arguments", "conversations", "from", "value", "system", "tools", "id", "type", "text", "usage"),
        *("observations", "trace", "data", "meta", "input", "output", "scores", "level", "startTime", "endTime", "tags", "created"),
    ]
)
words = st.sampled_from(
    ["user", "assistant", "tool", "gpt", "human", "function_call", "GENERATION", "text", "tool_use", "image_url", "{}", "[]", '"x"']
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5),
    max_leaves=25,
)
messages = st.lists(st.fixed_dictionaries({"role": words, "content": anything}, optional={"tool_calls": anything}), max_size=3)
turns = st.lists(st.fixed_dictionaries({"from": words, "value": anything}), max_size=3)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(names, anything, max_size=6),
    st.fixed_dictionaries({}, optional={"messages": messages, "conversations": turns, "input": messages, "response": anything}),
    st.sampled_from(["openai", "langfuse", "sharegpt"]),
)
def test_whatever_a_record_holds_it_is_told_passed_over_or_refused(record: dict[str, Any], more: dict[str, Any], form: Any) -> None:
    whole = record | more
    with suppress(UnknownFormat):
        recognise([whole])
    for found in read_record(whole, form, "every", requests=lambda _: {"body": whole}):
        if isinstance(found, Told):
            try:
                orjson.dumps(interaction_of(found, TO_QWEN))
            except (Untellable, orjson.JSONEncodeError):
                continue
