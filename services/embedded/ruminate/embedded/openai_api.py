"""OpenAI's chat API in terms of Ollama's: the same question, the same answer, other words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from pydantic import Field

from ruminate.embedded.decide import Refused, Think
from ruminate.embedded.requests import Body, CallFunction, ChatRequest, Message, ToolCall

EFFORTS: Mapping[str, Think] = {
    "none": False, "minimal": "low", "low": "low", "medium": "medium", "high": "high", "max": "max", "xhigh": "max", "ultra": "max",
}  # fmt: skip


class OpenAiFunction(Body):
    """A call of an earlier turn; its arguments are JSON in a string."""

    name: str = ""
    arguments: str = "{}"


class OpenAiToolCall(Body):
    """A call of an earlier turn."""

    id: str = ""
    function: OpenAiFunction = OpenAiFunction()


class OpenAiMessage(Body):
    """One message; its content is a text or a list of parts."""

    role: str = ""
    content: Any = None
    reasoning: str = ""
    name: str = ""
    tool_calls: list[OpenAiToolCall] = Field(default_factory=list)
    tool_call_id: str = ""


class OpenAiChatRequest(Body):
    """`POST /v1/chat/completions`."""

    model: str = ""
    messages: list[OpenAiMessage] = Field(default_factory=list)
    stream: bool = False
    stream_options: dict[str, Any] = Field(default_factory=dict)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    response_format: dict[str, Any] = Field(default_factory=dict)
    reasoning: dict[str, Any] = Field(default_factory=dict)
    reasoning_effort: str = ""
    tools: list[dict[str, Any]] = Field(default_factory=list)
    logprobs: bool = False


def to_chat(asked: OpenAiChatRequest) -> ChatRequest:
    """The same question as `/api/chat` would take it; Refused where OpenAI's words mean nothing here."""
    if not asked.messages:
        raise Refused(400, "[] is too short - 'messages'")
    limit = asked.max_tokens if asked.max_tokens is not None else asked.max_completion_tokens
    options = {
        "num_predict": limit,
        "seed": asked.seed,
        "stop": [asked.stop] if isinstance(asked.stop, str) else asked.stop,
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "top_p": 1.0 if asked.top_p is None else asked.top_p,
        "frequency_penalty": asked.frequency_penalty,
        "presence_penalty": asked.presence_penalty,
    }
    return ChatRequest(
        model=asked.model,
        messages=[message for said in asked.messages for message in _messages(said, asked.messages)],
        stream=asked.stream,
        format=_format(asked.response_format),
        think=_think(str(asked.reasoning.get("effort", "")) or asked.reasoning_effort),
        options={name: value for name, value in options.items() if value is not None},
        tools=asked.tools,
        logprobs=asked.logprobs,
    )


def _think(effort: str) -> Think | None:
    if effort and effort not in EFFORTS:
        known = ", ".join(f'"{word}"' for word in EFFORTS)
        raise Refused(400, f"invalid reasoning value: {orjson.dumps(effort).decode()} (must be one of {known})")
    return EFFORTS.get(effort)


def _format(response_format: Mapping[str, Any]) -> str | dict[str, Any] | None:
    kind = str(response_format.get("type", "")).strip().lower()
    if kind == "json_schema":
        schema: dict[str, Any] | None = response_format.get("json_schema", {}).get("schema")
        return schema
    return "json" if kind == "json_object" else None


def _messages(said: OpenAiMessage, all_said: Iterable[OpenAiMessage]) -> list[Message]:
    calls = [
        ToolCall(id=call.id, function=CallFunction(name=call.function.name, arguments=_arguments(call))) for call in said.tool_calls
    ]
    names = {call.id: call.function.name for message in all_said for call in message.tool_calls}
    rest: dict[str, Any] = {
        "role": said.role,
        "thinking": said.reasoning,
        "tool_calls": calls,
        "tool_name": said.name or names.get(said.tool_call_id, ""),
        "tool_call_id": said.tool_call_id,
    }
    if said.content is None and said.tool_calls:
        return [Message(**rest)]
    if isinstance(said.content, str):
        return [Message(content=said.content, **rest)]
    if not isinstance(said.content, list):
        raise Refused(400, f"invalid message content type: {type(said.content).__name__}")
    texts: list[str] = []
    for part in said.content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise Refused(400, "invalid message format")
        texts.append(part["text"])
    return [Message(content="\n\n".join(texts), **rest)]


def _arguments(call: OpenAiToolCall) -> dict[str, Any]:
    try:
        read = orjson.loads(call.function.arguments or "{}")
    except orjson.JSONDecodeError:
        raise Refused(400, "invalid tool call arguments") from None
    if not isinstance(read, dict):
        raise Refused(400, "invalid tool call arguments")
    return read


def completion(answer_id: str, created: int, answer: Mapping[str, Any]) -> dict[str, Any]:
    """A whole answer of `/api/chat` in OpenAI's words."""
    said = answer["message"]
    message = {"role": "assistant", "content": said["content"]} | _extras(said)
    reason = _reason(answer, called=bool(said.get("tool_calls")))
    return {
        **_frame(answer_id, created, answer, "chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": _usage(answer),
    }


class Chunks:
    """Turns the lines of a streamed `/api/chat` answer into OpenAI's chunks."""

    def __init__(self, answer_id: str, created: int, *, include_usage: bool) -> None:
        self._id, self._created, self._include_usage = answer_id, created, include_usage
        self._begun = self._called = False

    def of(self, line: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The chunks that one line becomes."""
        if "error" in line:
            return [error_body(500, str(line["error"]))]
        said = line["message"]
        self._called |= bool(said.get("tool_calls"))
        chunks: list[dict[str, Any]] = []
        if said["content"] or _extras(said) or not self._begun:
            delta = ({} if self._begun else {"role": "assistant"}) | {"content": said["content"]} | _extras(said)
            chunks.append(self._chunk(line, delta, None))
            self._begun = True
        if line["done"]:
            chunks.append(self._chunk(line, {}, _reason(line, called=self._called)))
            if self._include_usage:
                frame = _frame(self._id, self._created, line, "chat.completion.chunk")
                chunks.append({**frame, "choices": [], "usage": _usage(line)})
        return chunks

    def _chunk(self, line: Mapping[str, Any], delta: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
        frame = _frame(self._id, self._created, line, "chat.completion.chunk")
        return {**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def error_body(status: int, error: str) -> dict[str, Any]:
    """An error in OpenAI's form."""
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
    return {"error": {"message": error, "type": kind, "param": None, "code": None}}


def _frame(answer_id: str, created: int, answer: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {"id": answer_id, "object": kind, "created": created, "model": answer["model"], "system_fingerprint": "fp_ollama"}


def _extras(said: Mapping[str, Any]) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    if said.get("thinking"):
        extras["reasoning"] = said["thinking"]
    if said.get("tool_calls"):
        extras["tool_calls"] = [
            {
                "id": call["id"],
                "index": call["function"]["index"],
                "type": "function",
                "function": {"name": call["function"]["name"], "arguments": orjson.dumps(call["function"]["arguments"]).decode()},
            }
            for call in said["tool_calls"]
        ]
    return extras


def _reason(answer: Mapping[str, Any], *, called: bool) -> str:
    reason = str(answer.get("done_reason") or "stop")
    return "tool_calls" if called and reason == "stop" else reason


def _usage(answer: Mapping[str, Any]) -> dict[str, int]:
    prompt, answered = int(answer.get("prompt_eval_count", 0)), int(answer.get("eval_count", 0))
    return {"prompt_tokens": prompt, "completion_tokens": answered, "total_tokens": prompt + answered}
