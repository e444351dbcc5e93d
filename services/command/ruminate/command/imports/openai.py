"""Logs of OpenAI's chat API: requests with their responses, output of the batch API, and fine-tuning files. Pure.

    {"request": {"model", "messages"}, "response": {"id", "created", "choices": [{"message"}], "usage"}}    a pair a line
    {"custom_id", "response": {"status_code", "body"}, "error"}           batch output; its input file holds the question
    {"messages": [{"role", "content", "tool_calls", "weight"}], "tools"}  fine-tuning; weight 0 is not learned from

A pair is one interaction: the answers within its messages were logged as pairs of their own. A fine-tuning record is a
conversation. The first choice counts, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from ruminate.collector.chat import Json, Turn, Untellable, read_message, read_turns
from ruminate.command.imports.told import (
    NO_ANSWER,
    UNKNOWN_SHAPE,
    Conversation,
    Found,
    Mode,
    Refused,
    Told,
    count_of,
    key_of,
    named,
    text_or_none,
    time_of,
    told_turns,
    tools_offered,
)

Requests = Callable[[str], Json | None]
"""The line of a batch's input file with this custom_id."""

_REQUEST = ("request", "request_body", "body")
_RESPONSE = ("response", "response_body")


def looks_like(record: Json) -> str | None:
    """Why this is a record of such a log; None where it is not."""
    if "custom_id" in record:
        return "it has custom_id, as files of the batch API"
    if _object(record, _REQUEST) is not None and _object(record, _RESPONSE) is not None:
        return "it has a request and a response"
    if isinstance(record.get("messages"), list):
        return "it has messages with roles"
    return None


def read(record: Json, mode: Mode, requests: Requests | None = None) -> Iterator[Found]:
    """What a record tells. Raises Untellable where its messages cannot be told."""
    if "custom_id" in record:
        yield _batch(record, requests)
        return
    request, response = _object(record, _REQUEST), _object(record, _RESPONSE)
    if response is None and isinstance(record.get("messages"), list):
        yield from _conversation(record, mode)
        return
    if request is None and isinstance(record.get("messages"), list):
        request = record
    if request is None or response is None:
        yield Refused(UNKNOWN_SHAPE, "the record has neither messages nor a request with its response")
        return
    yield _pair(record, request, response, own_id=None)


def _batch(record: Json, requests: Requests | None) -> Found:
    response = record.get("response")
    if "response" not in record and "error" not in record:
        return Refused(NO_ANSWER, "this is a batch's input; import its output, and name this file by --requests")
    status = response.get("status_code") if isinstance(response, Mapping) else None
    if record.get("error") or not isinstance(response, Mapping) or (isinstance(status, int) and status >= 400):
        return Refused("failed_request", f"the batch says that the request failed (status {status})")
    if requests is None:
        return Refused("no_request", "output of a batch holds no questions; name the batch's input by --requests FILE")
    asked = requests(str(record["custom_id"]))
    body = asked.get("body") if asked is not None else None
    if not isinstance(body, dict):
        return Refused("no_request", "the file named by --requests has no request with this custom_id")
    return _pair(record, body, dict(response), own_id=record["custom_id"])


def _pair(record: Json, request: Json, response: Json, *, own_id: Any) -> Found:
    messages = request.get("messages")
    if not isinstance(messages, list):
        return Refused(UNKNOWN_SHAPE, "the request has no messages; only the chat API is read, neither Responses nor completions")
    body = response["body"] if isinstance(response.get("body"), dict) else response
    if body.get("error"):
        return Refused("failed_request", "the response is an error")
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else body
    answer = _answer(choice)
    if answer is None:
        return Refused(NO_ANSWER, "the response has no choices[0].message")
    turns = read_turns(messages)
    occurred_at = time_of(body.get("created")) or _logged_at(record)
    counted = body.get("usage")
    usage: Json = counted if isinstance(counted, dict) else {}
    details = usage.get("completion_tokens_details")
    return Told(
        key=key_of(body.get("id") or own_id or record.get("id"), turns, answer, str(occurred_at)),
        turns=turns,
        answer=answer,
        models=named(request.get("model"), body.get("model"), record.get("model")),
        conversation=text_or_none(record.get("conversation_id") or record.get("session_id")),
        occurred_at=occurred_at,
        usage={
            "prompt_tokens": count_of(usage.get("prompt_tokens")),
            "response_tokens": count_of(usage.get("completion_tokens")),
            "thinking_tokens": count_of(details.get("reasoning_tokens")) if isinstance(details, Mapping) else None,
            "done_reason": text_or_none(choice.get("finish_reason")) if isinstance(choice, Mapping) else None,
        },
        tools=tools_offered(request.get("tools")),
    )


def _answer(choice: Any) -> Turn | None:
    message = choice.get("message", choice) if isinstance(choice, Mapping) else None
    if not isinstance(message, Mapping) or message.keys().isdisjoint(("content", "tool_calls", "function_call")):
        return None
    turns = read_message({**message, "role": "assistant"})
    return next((turn for turn in turns if turn["role"] == "assistant"), None)


def _conversation(record: Json, mode: Mode) -> Iterator[Found]:
    conversation = Conversation()
    for message in record["messages"]:
        conversation.add(message, untaught=isinstance(message, Mapping) and message.get("weight") == 0)
    yield from told_turns(
        conversation,
        own_id=record.get("id"),
        mode=mode,
        models=named(record.get("model")),
        tools=tools_offered(record.get("tools")),
    )


def _logged_at(record: Json) -> Any:
    return next((found for name in ("timestamp", "created_at", "time") if (found := time_of(record.get(name)))), None)


def _object(record: Json, names: tuple[str, ...]) -> Json | None:
    """The first of these fields that is an object, or JSON text of one. Raises Untellable where the text is none."""
    for name in names:
        value = record.get(name)
        if isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                value = orjson.loads(value)
            except orjson.JSONDecodeError:
                raise Untellable("not_json", f"{name} is text that begins like a JSON object and is none") from None
        if isinstance(value, dict):
            return value
    return None
