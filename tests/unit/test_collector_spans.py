"""Spans become interactions, in every way in which instrumentations write them; what cannot be told is refused by a word."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from ruminate.collector.chat import Untellable, conversation_of, read_message, read_turns, split_thinking
from ruminate.collector.spans import attributes_of, interaction_of
from ruminate.gateway.conversation import chain, conversation_id
from ruminate.schemas.interaction import InteractionCompleted, Message, ToolDefinition

RESOURCE = {"service.name": "clerk"}
CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "qwen3:8b"}
ASKED = {"gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": "Where?"}]}])}
SECRET = "Rumpelstilzchen"


def any_value(value: Any) -> AnyValue:
    if value is None:
        return AnyValue()
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    found = AnyValue()
    if isinstance(value, Mapping):
        found.kvlist_value.values.extend(pairs(value))
    else:
        found.array_value.values.extend(any_value(item) for item in value)
    found.kvlist_value.SetInParent() if isinstance(value, Mapping) else found.array_value.SetInParent()
    return found


def pairs(attributes: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=any_value(value)) for key, value in attributes.items()]


def span(attributes: Mapping[str, Any], *events: tuple[str, Mapping[str, Any]], error: bool = False) -> Span:
    return Span(
        trace_id=bytes(range(16)),
        span_id=bytes(range(1, 9)),
        name="chat qwen3:8b",
        start_time_unix_nano=1_767_225_600_000_000_000,
        end_time_unix_nano=1_767_225_602_500_000_000,
        attributes=pairs(attributes),
        events=[Span.Event(name=name, attributes=pairs(fields)) for name, fields in events],
        status=Status(code=Status.STATUS_CODE_ERROR if error else Status.STATUS_CODE_UNSET),
    )


def read(told: Span, resource: Mapping[str, Any] = RESOURCE) -> InteractionCompleted:
    """The interaction, as the collector's own gate takes it."""
    found = interaction_of(told, dict(resource))
    assert found is not None
    return InteractionCompleted.model_validate_json(orjson.dumps(found))


TOOL = {
    "name": "weather",
    "description": "Tells it.",
    "parameters": {"type": "object", "properties": {"where": {"type": "string"}}},
}
TOLD = {
    **CHAT,
    **ASKED,
    "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "Here."}]}]),
}
FUNCTION = {
    f"llm.request.functions.0.{name}": value if isinstance(value, str) else json.dumps(value) for name, value in TOOL.items()
}


@pytest.mark.parametrize(
    "read_from",
    [
        span(TOLD | {"gen_ai.tool.definitions": json.dumps([{"type": "function", **TOOL}])}),
        span(TOLD | {"gen_ai.tool.definitions": [{"type": "function", **TOOL}]}),
        span(TOLD, ("gen_ai.client.inference.operation.details", {"gen_ai.tool.definitions": json.dumps([TOOL])})),
        span(TOLD | {"llm.tools.0.tool.json_schema": json.dumps({"type": "function", "function": TOOL})}),
        span(TOLD | FUNCTION),
    ],
)
def test_the_tools_that_were_offered_are_told_in_every_way(read_from: Span) -> None:
    assert read(read_from).tools == (ToolDefinition.model_validate(TOOL),)


def test_of_tools_that_cannot_be_told_nothing_is_learned() -> None:
    consent = {"ruminate.training_allowed": True}
    assert read(span(TOLD), RESOURCE | consent).training_allowed
    found = read(span(TOLD | {"gen_ai.tool.definitions": f'[{{"{SECRET}": 1}}]'}), RESOURCE | consent)
    assert (found.tools, found.training_allowed, found.context.other["prompt_shaped_by"]) == ((), False, ["tools"])


def refused(told: Span) -> Untellable:
    with pytest.raises(Untellable) as error:
        interaction_of(told, dict(RESOURCE))
    assert SECRET not in str(error.value)
    return error.value


# The conventions' own attributes.

WEATHER = [
    {"role": "user", "parts": [{"type": "text", "content": "Weather in Paris?"}]},
    {
        "role": "assistant",
        "parts": [
            {"type": "reasoning", "content": "I need a tool."},
            {"type": "tool_call", "id": "call_1", "name": "get_weather", "arguments": {"location": "Paris"}},
        ],
    },
    {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_1", "response": {"sky": "rainy"}}]},
]
RAINY = [
    {
        "role": "assistant",
        "parts": [{"type": "reasoning", "content": "The tool says rainy."}, {"type": "text", "content": "It rains."}],
        "finish_reason": "stop",
    }
]


@pytest.mark.parametrize("written", [json.dumps, lambda value: value], ids=["as JSON text", "structured"])
def test_attributes_tell_messages_thinking_tools_usage_and_where_it_was_answered(written: Any) -> None:
    told = span(
        CHAT
        | {
            "gen_ai.provider.name": "openai",
            "gen_ai.response.model": "qwen3:8b-q4",
            "gen_ai.conversation.id": "conv-5",
            "gen_ai.system_instructions": written([{"type": "text", "content": "Be brief."}]),
            "gen_ai.input.messages": written(WEATHER),
            "gen_ai.output.messages": written(RAINY),
            "gen_ai.usage.input_tokens": 52,
            "gen_ai.usage.output_tokens": 47,
            "gen_ai.usage.reasoning.output_tokens": 30,
            "gen_ai.response.time_to_first_chunk": 0.5,
            "server.address": "gpu-1",
            "server.port": 11434,
        }
    )
    found = read(told)
    assert found.interaction_id == "000102030405060708090a0b0c0d0e0f-0102030405060708"
    assert (found.agent, found.tenant, found.target_model, found.conversation_id) == ("clerk", "default", "qwen3:8b", "conv-5")
    assert [message.role for message in found.messages] == ["system", "user", "assistant", "tool"]
    assert found.messages[0].content == "Be brief."
    assert found.messages[2].thinking == "I need a tool."
    assert found.messages[2].tool_calls[0].arguments == {"location": "Paris"}
    assert (found.messages[3].tool_call_id, found.messages[3].content) == ("call_1", '{"sky":"rainy"}')
    assert (found.response.content, found.response.thinking) == ("It rains.", "The tool says rainy.")
    assert found.thinking.mode_used == "thinking"
    usage = found.usage
    assert (usage.prompt_tokens, usage.response_tokens, usage.thinking_tokens, usage.done_reason) == (52, 47, 30, "stop")
    assert (usage.total_seconds, usage.first_token_seconds) == (2.5, 0.5)
    assert found.node == "gpu-1:11434"
    assert found.occurred_at.isoformat() == "2026-01-01T00:00:02.500000+00:00"
    assert found.context.other["provider"] == "openai"
    assert found.context.other["response_model"] == "qwen3:8b-q4"
    assert (found.outcome, found.training_allowed) == ("unknown", False)


def test_the_event_of_an_inference_tells_what_its_span_does_not() -> None:
    details = ASKED | {"gen_ai.output.messages": json.dumps(RAINY)}
    assert read(span(CHAT, ("gen_ai.client.inference.operation.details", details))).response.content == "It rains."


@pytest.mark.parametrize(
    ("text", "thinking", "content"),
    [
        ("<think>\nTwo and two.\n</think>\n\n4", "Two and two.", "4"),
        ("<think>\n\n</think>\n\n4", None, "4"),
        ("The tag <think> opens, </think> closes.", None, "The tag <think> opens, </think> closes."),
    ],
)
def test_thinking_in_tags_is_thinking_only_at_the_head_of_a_text(text: str, thinking: str | None, content: str) -> None:
    found = read(
        span(CHAT | ASKED | {"gen_ai.output.messages": [{"role": "assistant", "parts": [{"type": "text", "content": text}]}]})
    )
    assert (found.response.thinking, found.response.content) == (thinking, content)
    assert found.thinking.mode_used == ("direct" if thinking is None else "thinking")


def test_tags_that_never_close_hold_no_answer() -> None:
    assert split_thinking("<think>and on and on") == ("and on and on", "")
    told = CHAT | ASKED | {"gen_ai.output.messages": [{"role": "assistant", "parts": [{"type": "text", "content": "<think>on"}]}]}
    assert refused(span(told)).reason == "no_answer"


# Older events.


def test_events_of_one_message_each_tell_the_conversation_as_fields_or_as_json() -> None:
    call = [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}]
    found = read(
        span(
            CHAT | {"gen_ai.response.finish_reasons": ["stop"]},
            ("gen_ai.system.message", {"gen_ai.system": "openai", "content": "Be brief."}),
            ("gen_ai.user.message", {"gen_ai.event.content": json.dumps({"role": "user", "content": "Where?"})}),
            ("gen_ai.assistant.message", {"tool_calls": json.dumps(call)}),
            ("gen_ai.tool.message", {"id": "c1", "content": "There."}),
            ("gen_ai.choice", {"index": 0, "message": json.dumps({"role": "assistant", "content": "Over there."})}),
        )
    )
    assert [message.role for message in found.messages] == ["system", "user", "assistant", "tool"]
    assert found.messages[2].tool_calls[0].name == "look"
    assert found.messages[3].tool_call_id == "c1"
    assert (found.response.content, found.usage.done_reason) == ("Over there.", "stop")


def test_a_choice_may_hold_its_calls_beside_its_message_or_its_parts_as_json() -> None:
    user = ("gen_ai.user.message", {"content": "Where?"})
    calls = [{"id": "c1", "function": {"name": "look", "arguments": "{}"}}]
    beside = {"finish_reason": "tool_calls", "message": {"content": ""}, "tool_calls": calls}
    found = read(span(CHAT, user, ("gen_ai.choice", {"gen_ai.event.content": json.dumps(beside)})))
    assert (found.response.tool_calls[0].id, found.usage.done_reason) == ("c1", "tool_calls")
    parts = read(span(CHAT, user, ("gen_ai.choice", {"message": json.dumps([{"text": "Over "}, {"text": "there."}])})))
    assert parts.response.content == "Over \nthere."
    plain = read(span(CHAT, user, ("gen_ai.choice", {"message": '{"place": "there"}'})))
    assert plain.response.content == '{"place": "there"}'


def test_prompt_and_completion_tell_it_as_text_or_as_json() -> None:
    def told(prompt: str, completion: str) -> InteractionCompleted:
        return read(
            span(
                CHAT,
                ("gen_ai.content.prompt", {"gen_ai.prompt": prompt}),
                ("gen_ai.content.completion", {"gen_ai.completion": completion}),
            )
        )

    as_json = told(json.dumps([{"role": "user", "content": "Where?"}]), json.dumps([{"role": "assistant", "content": "There."}]))
    as_text = told("Where?", "There.")
    for found in (as_json, as_text):
        assert (found.messages[0].content, found.response.content) == ("Where?", "There.")
    assert told("Where?", '{"place": 3}').response.content == '{"place": 3}'
    spoken = read(span({"gen_ai.request.model": "m", "gen_ai.prompt": "Where?", "gen_ai.completion": "There."}))
    assert spoken.response.content == "There."


# OpenInference and Traceloop.


def test_openinference_tells_messages_contents_and_calls_in_flattened_attributes() -> None:
    message = "llm.input_messages"
    answer = "llm.output_messages.0.message"
    found = read(
        span(
            {
                "openinference.span.kind": "LLM",
                "llm.model_name": "qwen3:8b",
                "session.id": "s-1",
                f"{message}.10.message.role": "tool",
                f"{message}.10.message.content": "There.",
                f"{message}.10.message.tool_call_id": "c1",
                f"{message}.0.message.role": "system",
                f"{message}.0.message.content": "Be brief.",
                f"{message}.1.message.role": "user",
                f"{message}.1.message.contents.0.message_content.type": "text",
                f"{message}.1.message.contents.0.message_content.text": "Where?",
                f"{message}.2.message.role": "assistant",
                f"{message}.2.message.tool_calls.0.tool_call.id": "c1",
                f"{message}.2.message.tool_calls.0.tool_call.function.name": "look",
                f"{message}.2.message.tool_calls.0.tool_call.function.arguments": '{"at": 1}',
                f"{answer}.role": "assistant",
                f"{answer}.contents.0.message_content.type": "reasoning",
                f"{answer}.contents.0.message_content.text": "The tool knows.",
                f"{answer}.contents.1.message_content.type": "text",
                f"{answer}.contents.1.message_content.text": "Over there.",
                "llm.token_count.prompt": 10,
                "llm.token_count.completion": 5,
            }
        )
    )
    assert [message.role for message in found.messages] == ["system", "user", "assistant", "tool"]
    assert found.messages[1].content == "Where?"
    assert found.messages[2].tool_calls[0].arguments == {"at": 1}
    assert (found.response.content, found.response.thinking) == ("Over there.", "The tool knows.")
    assert (found.usage.prompt_tokens, found.usage.response_tokens, found.conversation_id) == (10, 5, "s-1")


def test_openinference_keeps_thinking_and_the_name_that_was_asked_for_only_in_the_raw_call() -> None:
    raw = {"choices": [{"message": {"role": "assistant", "content": "There.", "reasoning_content": "Not here."}}]}
    found = read(
        span(
            {
                "openinference.span.kind": "LLM",
                "llm.model_name": "served-as",
                "llm.invocation_parameters": json.dumps({"model": "qwen3:8b", "temperature": 0}),
                "llm.input_messages.0.message.role": "user",
                "llm.input_messages.0.message.content": "Where?",
                "llm.output_messages.0.message.role": "assistant",
                "llm.output_messages.0.message.content": "There.",
                "llm.finish_reason": "stop",
                "output.value": json.dumps(raw),
            }
        )
    )
    assert (found.target_model, found.response.thinking, found.usage.done_reason) == ("qwen3:8b", "Not here.", "stop")


def test_traceloop_tells_prompts_and_completions_and_thinking_as_a_completion_of_its_own() -> None:
    found = read(
        span(
            {
                "llm.request.type": "chat",
                "gen_ai.request.model": "qwen3:8b",
                "gen_ai.prompt.0.role": "user",
                "gen_ai.prompt.0.content": json.dumps([{"type": "text", "text": "Where?"}]),
                "gen_ai.prompt.1.role": "assistant",
                "gen_ai.prompt.1.tool_calls.0.id": "c1",
                "gen_ai.prompt.1.tool_calls.0.name": "look",
                "gen_ai.prompt.1.tool_calls.0.arguments": '{"at": 1}',
                "gen_ai.prompt.2.role": "tool",
                "gen_ai.prompt.2.content": "There.",
                "gen_ai.prompt.2.tool_call_id": "c1",
                "gen_ai.completion.0.role": "thinking",
                "gen_ai.completion.0.content": "The tool knows.",
                "gen_ai.completion.1.role": "assistant",
                "gen_ai.completion.1.content": "Over there.",
                "gen_ai.completion.1.finish_reason": "stop",
                "gen_ai.usage.prompt_tokens": 10,
                "gen_ai.usage.completion_tokens": 5,
            }
        )
    )
    assert [message.content for message in found.messages] == ["Where?", "", "There."]
    assert found.messages[1].tool_calls[0].id == found.messages[2].tool_call_id == "c1"
    assert (found.response.content, found.response.thinking) == ("Over there.", "The tool knows.")
    assert (found.usage.done_reason, found.usage.response_tokens) == ("stop", 5)


# What is decided of a span.

ANSWERED = CHAT | ASKED | {"gen_ai.output.messages": json.dumps(RAINY)}


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"http.request.method": "GET"},
        {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": "m"},
        {"gen_ai.operation.name": "execute_tool"},
        ANSWERED | {"gen_ai.operation.name": "invoke_agent"},
        ANSWERED | {"gen_ai.operation.name": ["chat"]},
        {"openinference.span.kind": "CHAIN", "llm.input_messages.0.message.role": "user"},
        {"llm.request.type": "embedding", "gen_ai.request.model": "m"},
        {"gen_ai.request.model": "m"},
    ],
)
def test_a_span_that_is_no_answer_of_a_model_is_passed_over(attributes: dict[str, Any]) -> None:
    assert interaction_of(span(attributes), dict(RESOURCE)) is None


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        (CHAT, "no_messages"),
        (CHAT | ASKED, "no_answer"),
        (CHAT | {"gen_ai.output.messages": json.dumps(RAINY)}, "no_messages"),
        ({"gen_ai.operation.name": "chat"} | ASKED | {"gen_ai.output.messages": json.dumps(RAINY)}, "no_model"),
        (ANSWERED | {"gen_ai.input.messages": json.dumps([{"role": SECRET, "parts": []}])}, "unknown_role"),
        (ANSWERED | {"gen_ai.input.messages": json.dumps([SECRET])}, "not_a_message"),
        (ANSWERED | {"gen_ai.input.messages": [{"role": "user", "parts": [{"type": "uri", "uri": SECRET}]}]}, "image_by_address"),
        (ANSWERED | {"gen_ai.input.messages": [{"role": "user", "parts": [{"type": "audio", "data": SECRET}]}]}, "not_text"),
        (
            ANSWERED | {"gen_ai.output.messages": [{"parts": [{"type": "tool_call", "name": "x", "arguments": SECRET}]}]},
            "tool_arguments",
        ),
    ],
)
def test_a_span_of_ours_from_which_nothing_can_be_learned_is_refused_with_a_reason(attributes: dict[str, Any], reason: str) -> None:
    assert refused(span(attributes)).reason == reason


def test_ids_and_times_are_the_spans_own_or_it_is_refused() -> None:
    nameless = span(ANSWERED)
    nameless.span_id = bytes(8)
    assert refused(nameless).reason == "invalid_id"
    timeless = span(ANSWERED)
    timeless.start_time_unix_nano = timeless.end_time_unix_nano = 0
    assert refused(timeless).reason == "no_time"


def test_an_error_beside_an_answer_is_a_failed_outcome_and_without_one_nothing_was_completed() -> None:
    assert read(span(ANSWERED, error=True)).outcome == "failed"
    assert refused(span(CHAT | ASKED, error=True)).reason == "no_answer"


@pytest.mark.parametrize(
    ("on_span", "on_resource", "allowed"),
    [(None, None, False), (None, True, True), (True, None, True), (False, True, False), ("true", None, True), (1, None, False)],
)
def test_consent_is_an_attribute_that_says_true_and_nothing_else(on_span: Any, on_resource: Any, allowed: bool) -> None:
    name = "ruminate.training_allowed"
    attributes = ANSWERED if on_span is None else ANSWERED | {name: on_span}
    resource = RESOURCE if on_resource is None else RESOURCE | {name: on_resource}
    assert read(span(attributes), resource).training_allowed is allowed


def test_tenant_and_target_come_from_attributes_of_ours() -> None:
    found = read(span(ANSWERED), RESOURCE | {"ruminate.tenant": "acme", "ruminate.target": "qwen3:4b"})
    assert (found.tenant, found.target_model) == ("acme", "qwen3:4b")
    assert read(span(ANSWERED | {"ruminate.target": "qwen3:1.7b"}), {"ruminate.target": "qwen3:4b"}).target_model == "qwen3:1.7b"


def test_an_image_is_kept_by_reference_and_counts_that_make_no_sense_are_left_out() -> None:
    png = base64.b64encode(b"\x89PNG and so on").decode()
    asked = [{"role": "user", "parts": [{"type": "blob", "modality": "image", "content": png}]}]
    found = read(span(ANSWERED | {"gen_ai.input.messages": asked, "gen_ai.usage.input_tokens": -1}))
    assert found.messages[0].images[0].media_type == "image/png"
    assert found.usage.prompt_tokens is None


def test_a_conversation_has_the_name_that_the_gateway_would_give_it() -> None:
    messages = [
        {"role": "system", "content": "It is five o'clock."},
        {"role": "assistant", "content": " Hello. ", "tool_calls": [{"function": {"name": "look", "arguments": {"b": 1, "a": 2}}}]},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "There."},
    ]
    for count in (1, 3, 4):
        turns = read_turns(messages[:count])
        ours = [Message.model_validate_json(orjson.dumps(turn)) for turn in turns]
        links = chain("acme", "clerk", ours)
        assert conversation_of("acme", "clerk", turns) == conversation_id(ours, links)


def test_a_message_with_the_results_of_two_tools_is_two_turns_and_its_text_a_third() -> None:
    content = [
        {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "1"}]},
        {"type": "tool_result", "tool_use_id": "c2", "content": "2"},
        {"type": "text", "text": "And now?"},
    ]
    turns = read_message({"role": "user", "content": content})
    assert [(turn["role"], turn["content"]) for turn in turns] == [("tool", "1"), ("tool", "2"), ("user", "And now?")]


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "parts", "content", "type", "text", "message", "tool_calls", "name", "id", "0", "messages"]),
            inner | st.sampled_from(["user", "assistant", "tool", "text", "reasoning", "tool_call", "tool_call_response", "blob"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)
names = st.sampled_from(
    [
        *("gen_ai.operation.name", "gen_ai.request.model", "gen_ai.input.messages", "gen_ai.output.messages"),
        *("gen_ai.system_instructions", "gen_ai.prompt", "gen_ai.completion", "gen_ai.prompt.0", "gen_ai.prompt.0.content"),
        *("gen_ai.completion.0.content", "llm.input_messages.0.message", "llm.input_messages.0.message.contents.0.message_content"),
        *("llm.output_messages.0.message.tool_calls.0.tool_call", "gen_ai.response.finish_reasons", "server.port", "message"),
        *("gen_ai.event.content", "content", "tool_calls", "id", "gen_ai.usage.input_tokens", "ruminate.target"),
    ]
)
written = anything | anything.map(lambda value: json.dumps(value, allow_nan=False) if _finite(value) else "NaN")


def _finite(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(names, written, max_size=8), st.sampled_from(["gen_ai.choice", "gen_ai.user.message", "gen_ai.content.prompt"])
)
def test_whatever_a_span_holds_it_is_read_passed_over_or_refused(attributes: dict[str, Any], event: str) -> None:
    for told in (span(attributes), span(ANSWERED | attributes, (event, attributes))):
        try:
            found = interaction_of(told, attributes_of(told.attributes))
        except Untellable:
            continue
        orjson.dumps(found)
