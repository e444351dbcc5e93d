"""ShareGPT: conversations of turns with `from` and `value`. Pure.

    {"id", "system", "tools", "conversations": [{"from": "human" | "gpt" | …, "value": text, "reasoning": text}]}

Tool calls are turns from `function_call` with a call as JSON, results turns from `observation`; or, as Hermes writes them,
`<tool_call>…</tool_call>` in the answer and `<tool_response>…</tool_response>` from `tool`. Thinking is in `<think>…</think>`
at the head of an answer, or beside it as reasoning, reasoning_content or thinking.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from ruminate.collector.chat import NOT_A_MESSAGE, TOOL_ARGUMENTS, UNKNOWN_ROLE, Json, Untellable
from ruminate.command.imports.told import (
    UNKNOWN_SHAPE,
    Conversation,
    Found,
    Mode,
    Refused,
    named,
    text_or_none,
    told_turns,
    tools_offered,
)

_FROM: Final = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
_CALLS: Final = frozenset({"function_call", "tool_call"})
_CALL_TAG: Final = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_RESPONSE_TAG: Final = re.compile(r"\s*<tool_response>\s*(.*?)\s*</tool_response>\s*", re.DOTALL)
_THOUGHTS: Final = ("reasoning", "reasoning_content", "thinking")


def looks_like(record: Json) -> str | None:
    """Why this is a record of ShareGPT; None where it is not."""
    turns = _turns(record)
    first = turns[0] if isinstance(turns, list) and turns else None
    return "it has conversations with from and value" if isinstance(first, Mapping) and "from" in first else None


def read(record: Json, mode: Mode) -> Iterator[Found]:
    """What a record tells. Raises Untellable where its turns cannot be told."""
    turns = _turns(record)
    if not isinstance(turns, list):
        yield Refused(UNKNOWN_SHAPE, "the record has no list of conversations")
        return
    conversation = Conversation()
    if system := text_or_none(record.get("system")):
        conversation.add({"role": "system", "content": system})
    for turn in turns:
        conversation.add(_message(turn))
    yield from told_turns(
        conversation,
        own_id=record.get("id"),
        mode=mode,
        models=named(record.get("model")),
        tools=tools_offered(record.get("tools")),
    )


def _turns(record: Json) -> Any:
    return record.get("conversations", record.get("conversation"))


def _message(turn: Any) -> Json:
    if not isinstance(turn, Mapping):
        raise Untellable(NOT_A_MESSAGE, f"a turn is of type {type(turn).__name__}; it is an object with from and value")
    speaker = turn.get("from", turn.get("role"))
    value = turn.get("value", turn.get("content"))
    role = _FROM.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        raise Untellable(UNKNOWN_ROLE, f"a turn is from none of {', '.join(_FROM)}")
    message: Json = {"role": role, "content": value, "name": turn.get("name")}
    message |= {name: turn[name] for name in _THOUGHTS if text_or_none(turn.get(name))}
    if not isinstance(value, str):
        return message
    if speaker.lower() in _CALLS:
        message |= {"content": "", "tool_calls": _calls(value)}
    elif role == "tool" and (match := _RESPONSE_TAG.fullmatch(value)):
        message["content"] = match[1]
    elif role == "assistant" and "<tool_call>" in value:
        message |= {
            "content": _CALL_TAG.sub("", value).strip(),
            "tool_calls": [call for match in _CALL_TAG.finditer(value) for call in _calls(match[1])],
        }
    return message


def _calls(value: str) -> list[Json]:
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        raise Untellable(TOOL_ARGUMENTS, "a tool call is no JSON; it is an object with name and arguments") from None
    calls = found if isinstance(found, list) else [found]
    if not all(isinstance(call, dict) for call in calls):
        raise Untellable(TOOL_ARGUMENTS, "a tool call is no object with name and arguments")
    return calls
