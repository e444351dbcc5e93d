"""Spans of OpenTelemetry, read into completed interactions. Pure.

Four ways in which a span tells what was asked and answered; the first that holds an answer counts:

    attributes    gen_ai.input.messages, gen_ai.output.messages, gen_ai.system_instructions, as JSON text or structured;
                  also on an event gen_ai.client.inference.operation.details (GenAI semantic conventions v0.1.0, which follow
                  v1.41.0 of the semantic conventions; since v1.37.0)
    events        gen_ai.system|user|assistant|tool.message and gen_ai.choice (v1.28.0 to v1.36.0), gen_ai.content.prompt and
                  gen_ai.content.completion (v1.27.0)
    OpenInference llm.input_messages.N.message.…, llm.output_messages.N.message.…
    Traceloop     gen_ai.prompt.N.…, gen_ai.completion.N.… (OpenLLMetry)

The tools that were offered are in gen_ai.tool.definitions, llm.tools.N.tool.json_schema or llm.request.functions.N.….

Ours are the spans of a model's answer: gen_ai.operation.name chat, text_completion or generate_content; without that name,
openinference.span.kind LLM, llm.request.type chat or completion, or a gen_ai.request.model with something said beside it.
Every other span is none of our business. One of ours without an answer is refused: nothing was completed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from ruminate.collector.chat import Json, Turn, Untellable, conversation_of, is_part, read_message, read_turns
from ruminate.shared.tools_offered import UnreadableTools, read_tools

NO_ANSWER: Final = "no_answer"
NO_MESSAGES: Final = "no_messages"
NO_MODEL: Final = "no_model"
NO_TIME: Final = "no_time"
INVALID_ID: Final = "invalid_id"

_OUR_KINDS: Final = (
    ("gen_ai.operation.name", frozenset({"chat", "text_completion", "generate_content"})),
    ("openinference.span.kind", frozenset({"LLM"})),
    ("llm.request.type", frozenset({"chat", "completion"})),
)
_DETAILS: Final = "gen_ai.client.inference.operation.details"
_ASKED_EVENTS: Final = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}
_EPOCH: Final = datetime.fromtimestamp(0, UTC)

_ASKED_MODEL: Final = ("gen_ai.request.model", "llm.request.model_name")
_MODEL: Final = ("llm.model_name", "gen_ai.response.model")
_PROVIDER: Final = ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system")
_RESPONSE_MODEL: Final = ("gen_ai.response.model", "llm.response.model_name")
_CONVERSATION: Final = ("gen_ai.conversation.id", "session.id", "traceloop.association.properties.session_id")
_PROMPT_TOKENS: Final = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt")
_RESPONSE_TOKENS: Final = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion")
_THINKING_TOKENS: Final = (
    "gen_ai.usage.reasoning.output_tokens",
    "gen_ai.usage.reasoning_tokens",
    "llm.token_count.completion_details.reasoning",
)


@dataclass(slots=True)
class _Said:
    """What was asked and answered, as one of the ways tells it."""

    turns: list[Turn] = field(default_factory=list)
    answer: Turn | None = None
    done_reason: str | None = None


def attributes_of(pairs: Sequence[KeyValue]) -> Json:
    """Attributes as plain values. The first of a repeated key counts."""
    found: Json = {}
    for pair in pairs:
        found.setdefault(pair.key, _plain(pair.value))
    return found


def interaction_of(span: Span, resource: Json, *, tenant: str | None = None) -> Json | None:
    """The interaction that a span tells, as the JSON object of `InteractionCompleted`, or None where it is none of ours.

    `tenant` is what the request says; the resource's own is left to contradict it. Its texts are not checked here.
    Raises Untellable with a reason where the span is ours and nothing can be learned from it.
    """
    told = attributes_of(span.attributes)
    events = [(event.name, attributes_of(event.attributes)) for event in span.events]
    if not _is_ours(told, events):
        return None
    trace, name = span.trace_id.hex(), span.span_id.hex()
    if len(span.trace_id) != 16 or len(span.span_id) != 8 or not trace.strip("0") or not name.strip("0"):
        raise Untellable(INVALID_ID, "a span has 16 bytes of trace id and 8 of span id, and neither is all zero")
    said = _said(told, events)
    target = told.get("ruminate.target") or resource.get("ruminate.target") or _model(told)
    if not target:
        raise Untellable(NO_MODEL, "the span names no model; set gen_ai.request.model, or ruminate.target on the resource")
    answer = _answered(said)
    thinking = answer.get("thinking")
    agent = str(resource.get("service.name") or "unknown")
    owner = resource.get("ruminate.tenant")
    conversation = _first_text(told, _CONVERSATION)
    told_of: Json = {"trace_id": trace, "span_id": name}
    for key, value in (("provider", _first_text(told, _PROVIDER)), ("response_model", _first_text(told, _RESPONSE_MODEL))):
        if value:
            told_of[key] = value
    allowed = _allowed(told, resource)
    try:
        tools = [tool.model_dump(mode="json") for tool in read_tools(_tools(told, events))]
    except UnreadableTools:  # what was asked is not known as a whole, so nothing is to be learned from the answer
        tools, allowed = [], False
        told_of["prompt_shaped_by"] = ["tools"]
    interaction: Json = {
        "interaction_id": f"{trace}-{name}",
        "conversation_id": conversation or conversation_of(str(owner or tenant or "default"), agent, said.turns),
        "agent": agent,
        "target_model": str(target),
        "node": _node(told),
        "occurred_at": _ended(span),
        "messages": said.turns,
        "tools": tools,
        "response": {
            "content": answer["content"],
            "thinking": thinking,
            "tool_calls": answer.get("tool_calls", []),
        },
        "thinking": {
            "mode_used": "direct" if thinking is None else "thinking",
            "reason": "as the span tells it",
        },
        "usage": _usage(span, told, said),
        "context": {"other": told_of},
        "outcome": "failed" if span.status.code == Status.STATUS_CODE_ERROR else "unknown",
        "training_allowed": allowed,
    }
    if owner:
        interaction["tenant"] = str(owner)
    return interaction


def _is_ours(told: Json, events: Sequence[tuple[str, Json]]) -> bool:
    for name, ours in _OUR_KINDS:
        if (kind := told.get(name)) is not None:
            return isinstance(kind, str) and kind in ours
    if "gen_ai.request.model" not in told:
        return False
    told_here = any(key.startswith(("gen_ai.prompt", "gen_ai.completion", "gen_ai.input.messages")) for key in told)
    return told_here or any(name in _ASKED_EVENTS or name.startswith(("gen_ai.content.", "gen_ai.choice")) for name, _ in events)


def _answered(said: _Said) -> Turn:
    """The answer to something that was asked. Raises Untellable."""
    if said.turns and said.answer is not None:
        return said.answer
    if not said.turns and said.answer is None:
        raise Untellable(
            NO_MESSAGES,
            "the span holds no messages; let the instrumentation capture them "
            "(OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT, TRACELOOP_TRACE_CONTENT)",
        )
    if said.answer is None:
        raise Untellable(NO_ANSWER, "the span holds no answer: the call failed, or its output was not captured")
    raise Untellable(NO_MESSAGES, "the span holds an answer and no question; let the instrumentation capture its input, too")


def _said(told: Json, events: Sequence[tuple[str, Json]]) -> _Said:
    """The first way that tells an answer; else the first that tells anything."""
    partly: _Said | None = None
    for way in _WAYS:
        said = way(told, events)
        if said.answer is not None and _is_empty(said.answer):
            said.answer = None
        if said.turns and said.answer is not None:
            return said
        if partly is None and (said.turns or said.answer is not None):
            partly = said
    return partly or _Said()


def _is_empty(answer: Turn) -> bool:
    # Thinking alone is no answer: it was cut off before it came to one.
    return not answer["content"].strip() and not answer.get("tool_calls")


def _by_attributes(told: Json, events: Sequence[tuple[str, Json]]) -> _Said:
    sources = [told, *(attributes for name, attributes in events if name == _DETAILS)]
    asked, answered, instructions = (
        next((source[key] for source in sources if source.get(key) is not None), None)
        for key in ("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions")
    )
    said = _Said(read_turns(_listed(asked, "user")))
    if instructions is not None:
        parts = _parsed(instructions)
        whole = isinstance(parts, list) and bool(parts) and isinstance(parts[0], Mapping) and "role" in parts[0]
        system = read_turns(parts) if whole else read_message({"role": "system", "content": parts})
        said.turns = [*system, *said.turns]
    choices = _listed(answered, "assistant")
    if choices:
        said.answer = _answer(choices[0])
        said.done_reason = _text(choices[0].get("finish_reason")) if isinstance(choices[0], Mapping) else None
    return said


def _by_events(told: Json, events: Sequence[tuple[str, Json]]) -> _Said:
    said = _Said()
    for name, attributes in events:
        if name in _ASKED_EVENTS:
            said.turns.extend(read_message(_event_message(attributes), role=_ASKED_EVENTS[name]))
        elif name == "gen_ai.choice" and said.answer is None:
            choice = _event_message(attributes)
            inner = _message_in(choice["message"]) if "message" in choice else choice
            said.answer = _answer({"tool_calls": choice.get("tool_calls"), **inner})  # calls may stand beside the message
            said.done_reason = _text(choice.get("finish_reason"))
        elif name == "gen_ai.content.prompt":
            said.turns.extend(read_turns(_spoken(attributes.get("gen_ai.prompt"), "user")))
        elif name == "gen_ai.content.completion" and said.answer is None:
            said.answer, said.done_reason = _completion(attributes.get("gen_ai.completion"))
    if not said.turns and said.answer is None:
        said.turns = read_turns(_spoken(told.get("gen_ai.prompt"), "user"))
        said.answer, said.done_reason = _completion(told.get("gen_ai.completion"))
    return said


def _event_message(attributes: Json) -> Json:
    """The message of an event: as JSON in one attribute, or its fields as attributes."""
    content = _parsed(attributes.get("gen_ai.event.content"))
    if isinstance(content, Mapping):
        return dict(content)
    message = {key.rpartition(".")[2] if key.startswith("gen_ai.") else key: value for key, value in attributes.items()}
    if content is not None:
        message["content"] = content
    message["content"] = _parts_or_text(message.get("content"))
    message["tool_calls"] = _in_order(message.get("tool_calls"))
    if message.get("id") and "tool_call_id" not in message:  # v1.28.0 names the call that a tool answers `id`
        message["tool_call_id"] = message["id"]
    return message


def _by_openinference(told: Json, _: Sequence[tuple[str, Json]]) -> _Said:
    said = _Said()
    for message in _numbered(told, "llm.input_messages."):
        said.turns.extend(read_message(_openinference_message(message), role="user"))
    answers = list(_numbered(told, "llm.output_messages."))
    if answers:
        said.answer = _answer(_openinference_message(answers[0]))
        if said.answer is not None and "thinking" not in said.answer and (thinking := _thinking_in(told.get("output.value"))):
            said.answer["thinking"] = thinking
    return said


def _thinking_in(output: Any) -> str | None:
    """The thinking in a whole response of OpenAI's API: OpenInference flattens it without the field that holds it."""
    response = _parsed(output)
    choices = response.get("choices") if isinstance(response, Mapping) else None
    message = choices[0].get("message") if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else None
    if not isinstance(message, Mapping):
        return None
    return _first_text(dict(message), ("reasoning_content", "reasoning"))


def _openinference_message(node: Json) -> Json:
    inner = node.get("message")
    fields: Json = inner if isinstance(inner, dict) else {}
    message: Json = {name: fields.get(name) for name in ("role", "content", "tool_call_id", "name")}
    parts = [part.get("message_content") for part in _in_order(fields.get("contents"))]
    if parts:
        message["content"] = [_openinference_part(part) for part in parts]
    message["tool_calls"] = [call.get("tool_call", {}) for call in _in_order(fields.get("tool_calls"))]
    if isinstance(fields.get("function_call_name"), str):
        message["function_call"] = {
            "name": fields["function_call_name"],
            "arguments": fields.get("function_call_arguments_json"),
        }
    return message


def _openinference_part(part: Any) -> Any:
    if isinstance(part, Mapping) and part.get("type") == "image":
        image: Any = part.get("image")
        while isinstance(image, Mapping):
            image = image.get("image", image.get("url"))
        return {"type": "image_url", "image_url": image}
    return part


def _by_traceloop(told: Json, _: Sequence[tuple[str, Json]]) -> _Said:
    said = _Said()
    for message in _numbered(told, "gen_ai.prompt."):
        said.turns.extend(read_message(_traceloop_message(message), role="user"))
    thoughts: list[str] = []
    for completion in _numbered(told, "gen_ai.completion."):
        if completion.get("role") == "thinking":  # a completion of its own, before the answer
            thoughts.append(str(completion.get("content") or ""))
            continue
        said.answer = _answer(_traceloop_message(completion))
        said.done_reason = _text(completion.get("finish_reason"))
        if thoughts and said.answer is not None and "thinking" not in said.answer:
            said.answer["thinking"] = "\n".join(thoughts)
        break
    return said


def _traceloop_message(node: Json) -> Json:
    return {**node, "content": _parts_or_text(node.get("content")), "tool_calls": _in_order(node.get("tool_calls"))}


_Way = Callable[[Json, Sequence[tuple[str, Json]]], _Said]
_WAYS: Final[tuple[_Way, ...]] = (_by_attributes, _by_events, _by_openinference, _by_traceloop)


def _answer(message: Any) -> Turn | None:
    """The model's own turn, whatever role it was given."""
    fields = message if isinstance(message, Mapping) else {"content": message}
    return next((turn for turn in read_message({**fields, "role": "assistant"}) if turn["role"] == "assistant"), None)


def _completion(value: Any) -> tuple[Turn | None, str | None]:
    """The answer in the older `gen_ai.completion`: text, or JSON of choices."""
    for choice in _spoken(value, "assistant"):
        return _answer(choice.get("message") or choice), _text(choice.get("finish_reason"))
    return None, None


def _listed(value: Any, role: str) -> list[Any]:
    """The messages in an attribute that is to hold a list of them; a text that is no JSON is one."""
    found = _parsed(value)
    if found is None:
        return []
    if isinstance(found, str):
        return [{"role": role, "content": found}]
    return found if isinstance(found, list) else [found]


def _spoken(value: Any, role: str) -> list[Json]:
    """The messages in an older attribute, which holds JSON of some or a text; a text that happens to be JSON stays one."""
    found = _parsed(value)
    if isinstance(found, Mapping):
        found = found.get("messages") or found.get("choices") or [found]
    if isinstance(found, list) and found and all(_is_message(item) for item in found):
        return [{"role": role, **item} for item in found]
    return [{"role": role, "content": value}] if isinstance(value, str) else []


def _message_in(value: Any) -> Json:
    found = _parsed(value)
    return found if _is_message(found) else {"content": _parts_or_text(value)}


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and not value.keys().isdisjoint(("role", "content", "parts", "message", "tool_calls"))


def _numbered(told: Json, prefix: str) -> Iterator[Json]:
    """The objects that were flattened into `prefix` N `.` field, in the order of N."""
    tree: Json = {}
    for key, value in told.items():
        if not key.startswith(prefix):
            continue
        *way, last = key[len(prefix) :].split(".")
        node = tree
        for step in way:
            below = node.setdefault(step, {})
            if not isinstance(below, dict):
                break
            node = below
        else:
            node.setdefault(last, value)
    yield from _in_order(tree)


def _in_order(node: Any) -> list[Json]:
    if isinstance(node, Mapping):
        numbers = sorted((key for key in node if key.isdecimal()), key=int)
        return [node[number] for number in numbers if isinstance(node[number], dict)]
    found = _parsed(node)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _parsed(value: Any) -> Any:
    """A value that may have been written as JSON text; text that is none stays text."""
    if not isinstance(value, str):
        return value
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
    return found if isinstance(found, (dict, list)) else value


def _parts_or_text(value: Any) -> Any:
    """The parts of a message where JSON text is a list of them; a text that happens to be JSON stays text."""
    found = _parsed(value)
    return found if isinstance(found, list) and found and all(is_part(item) for item in found) else value


def _tools(told: Json, events: Sequence[tuple[str, Json]]) -> Any:
    """The definitions of the tools that were offered, as whichever way has them: semantic conventions, OpenInference, Traceloop."""
    for attributes in (told, *(inner for name, inner in events if name == _DETAILS)):
        if (defined := attributes.get("gen_ai.tool.definitions")) is not None:
            return defined
    flattened = [each["tool"].get("json_schema") for each in _numbered(told, "llm.tools.") if isinstance(each.get("tool"), dict)]
    return flattened or list(_numbered(told, "llm.request.functions."))


def _usage(span: Span, told: Json, said: _Said) -> Json:
    usage: Json = {
        "prompt_tokens": _count(told, _PROMPT_TOKENS),
        "response_tokens": _count(told, _RESPONSE_TOKENS),
        "thinking_tokens": _count(told, _THINKING_TOKENS),
        "done_reason": said.done_reason or _finish_reason(told),
    }
    if 0 < span.start_time_unix_nano <= span.end_time_unix_nano:
        usage["total_seconds"] = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
    first = told.get("gen_ai.response.time_to_first_chunk")
    if isinstance(first, (int, float)) and 0 <= first < float("inf"):
        usage["first_token_seconds"] = float(first)
    return usage


def _finish_reason(told: Json) -> str | None:
    reasons = told.get("gen_ai.response.finish_reasons")
    if isinstance(reasons, list) and reasons:
        return _text(reasons[0])
    return _text(reasons) or _text(told.get("llm.finish_reason")) or _text(told.get("llm.response.finish_reason"))


def _count(told: Json, names: Sequence[str]) -> int | None:
    found = (told[name] for name in names if name in told)
    return next((int(value) for value in found if isinstance(value, (int, float)) and 0 <= value < 2**53), None)


def _model(told: Json) -> str | None:
    """The name that was asked for; OpenInference has the name that the server gave itself where it should be."""
    parameters = _parsed(told.get("llm.invocation_parameters"))
    asked = _text(parameters.get("model")) if isinstance(parameters, Mapping) else None
    return _first_text(told, _ASKED_MODEL) or asked or _first_text(told, _MODEL)


def _node(told: Json) -> str | None:
    address = _text(told.get("server.address"))
    port = told.get("server.port")
    return f"{address}:{port}" if address and port else address


def _ended(span: Span) -> str:
    nanoseconds = span.end_time_unix_nano or span.start_time_unix_nano
    if not nanoseconds:
        raise Untellable(NO_TIME, "the span has neither start nor end; it ends before it is exported")
    return (_EPOCH + timedelta(microseconds=nanoseconds // 1000)).isoformat()


def _allowed(told: Json, resource: Json) -> bool:
    """Consent, by attribute alone; that of a span stands over that of its resource. OTEL_RESOURCE_ATTRIBUTES holds only text."""
    said = told.get("ruminate.training_allowed", resource.get("ruminate.training_allowed"))
    return said is True or (isinstance(said, str) and said.strip().lower() == "true")


def _first_text(told: Json, names: Sequence[str]) -> str | None:
    return next((found for name in names if (found := _text(told.get(name)))), None)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_plain(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return attributes_of(value.kvlist_value.values)
    if kind == "bytes_value":
        return None  # no attribute that we read holds bytes
    return getattr(value, kind)
