"""Chat messages as the world writes them, read into ours. Pure.

    OpenAI          {"role", "content": text or parts, "tool_calls", "reasoning_content" or "reasoning"}
    OpenTelemetry   {"role", "parts": [{"type": "text" | "reasoning" | "tool_call" | "tool_call_response", …}]}
    Anthropic       parts "thinking", "tool_use" and "tool_result" among those of "content"

Whatever has no place in an interaction (audio, an image that is only an address, arguments that are no object) is refused
with a word that says why; nothing is left out silently, because a model that is taught the rest would learn to invent it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NotRequired, TypeAlias, TypedDict

import orjson

from ruminate.schemas.interaction import Role

Json: TypeAlias = dict[str, Any]
"""A stranger's JSON object: nothing is known of its fields."""


class Untellable(Exception):
    """This is no interaction that we can tell. `reason` is a constant word, `explanation` is for people, without contents."""

    def __init__(self, reason: str, explanation: str) -> None:
        super().__init__(f"{reason}: {explanation}")
        self.reason = reason
        self.explanation = explanation


UNKNOWN_ROLE: Final = "unknown_role"
NOT_A_MESSAGE: Final = "not_a_message"
NOT_TEXT: Final = "not_text"
IMAGE_BY_ADDRESS: Final = "image_by_address"
TOOL_ARGUMENTS: Final = "tool_arguments"

_ROLES: Final[dict[str, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
}
_THOUGHT_FIELDS: Final = ("reasoning_content", "reasoning", "thinking")
_THINK: Final = re.compile(r"\s*<think>(.*?)(?:</think>(.*)|\Z)", re.DOTALL)
_MAGIC: Final = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))


class Call(TypedDict):
    """A call of a tool, as `ruminate.schemas.interaction.ToolCall` takes it."""

    name: str
    arguments: Json
    id: NotRequired[str]


class Turn(TypedDict):
    """A message, as `ruminate.schemas.interaction.Message` takes it. Names are not checked for their length here."""

    role: Role
    content: str
    thinking: NotRequired[str]
    tool_calls: NotRequired[list[Call]]
    tool_name: NotRequired[str]
    tool_call_id: NotRequired[str]
    images: NotRequired[list[Json]]


@dataclass(slots=True)
class _Pieces:
    """What one message holds, sorted."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    results: list[Turn] = field(default_factory=list)
    images: list[Json] = field(default_factory=list)


def read_turns(messages: Iterable[Any]) -> list[Turn]:
    """All messages, in order. Raises Untellable for the first that cannot be told."""
    return [turn for message in messages for turn in read_message(message)]


def read_message(message: Any, *, role: str | None = None) -> list[Turn]:
    """One message; several turns where it holds the results of several tools. Raises Untellable.

    `role` stands in where the message names none.
    """
    if not isinstance(message, Mapping):
        raise Untellable(NOT_A_MESSAGE, f"a message is of type {type(message).__name__}; it is an object with role and content")
    ours = role_of(message.get("role") or role)
    pieces = _Pieces()
    for name in ("content", "parts"):
        _take_content(message.get(name), pieces)
    for name in _THOUGHT_FIELDS:
        # The same thoughts stand under two names in what some servers send.
        if isinstance(thought := message.get(name), str) and thought.strip() and thought not in pieces.thoughts:
            pieces.thoughts.append(thought)
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise Untellable(TOOL_ARGUMENTS, f"tool_calls is of type {type(calls).__name__}; it is a list")
    pieces.calls.extend(_openai_call(call) for call in calls)
    if isinstance(message.get("function_call"), Mapping):
        pieces.calls.append(_openai_call({"function": message["function_call"]}))
    own = _turn(ours, pieces)
    if ours == "tool":
        _name_result(own, message.get("tool_call_id"), message.get("tool_name") or message.get("name"))
    holds_own = own["content"] or pieces.calls or pieces.images or pieces.thoughts
    return [*pieces.results, own] if holds_own or not pieces.results else pieces.results


def role_of(role: Any) -> Role:
    """Our word for a role. Raises Untellable with `unknown_role`."""
    known = _ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        said = f"{len(role)} characters" if isinstance(role, str) else type(role).__name__
        raise Untellable(UNKNOWN_ROLE, f"a message has a role ({said}) that is none of {', '.join(_ROLES)}")
    return known


def split_thinking(text: str) -> tuple[str | None, str]:
    """Thinking and answer of a text that begins with `<think>…</think>`; a text that does not is the answer.

    An empty pair of tags, as a model writes that was told not to think, is no thinking. Tags that never close hold all of it.
    """
    match = _THINK.match(text)
    if match is None:
        return None, text
    return match[1].strip() or None, (match[2] or "").lstrip()


def tool_call(name: Any, arguments: Any, call_id: Any) -> Call:
    """A call, its arguments an object or JSON in a string. Raises Untellable with `tool_arguments`."""
    if not isinstance(name, str) or not name:
        raise Untellable(TOOL_ARGUMENTS, "a tool call has no name")
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments) if arguments.strip() else {}
        except orjson.JSONDecodeError:
            raise Untellable(TOOL_ARGUMENTS, "the arguments of a tool call are no JSON; they are one JSON object") from None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise Untellable(TOOL_ARGUMENTS, f"the arguments of a tool call are of type {type(arguments).__name__}, not an object")
    call = Call(name=name, arguments=arguments)
    if call_id:
        call["id"] = str(call_id)
    return call


def text_of(value: Any) -> str:
    """A tool's result as text: as it is, else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def conversation_of(tenant: str, agent: str, turns: Sequence[Turn]) -> str:
    """The name of a conversation without one, from its first user message: the same that the gateway gives.

    So a conversation that comes in two ways has one name, and stands on one side of the hold-out.
    """
    link = hashlib.sha256(orjson.dumps([tenant, agent])).digest()
    opening = next((index for index, turn in enumerate(turns) if turn["role"] == "user"), 0)
    for turn in turns[: opening + 1]:
        if turn["role"] != "system":
            link = hashlib.sha256(link + _words(turn)).digest()
    return link.hex()[:32]


def _words(turn: Turn) -> bytes:
    calls = [[call["name"], call["arguments"]] for call in turn.get("tool_calls", ())]
    images = [image["sha256"] for image in turn.get("images", ())]
    return orjson.dumps([turn["role"], turn["content"].strip(), calls, images], option=orjson.OPT_SORT_KEYS)


def _turn(role: Role, pieces: _Pieces) -> Turn:
    content = "\n".join(pieces.texts)
    if role == "assistant" and not pieces.thoughts:
        thought, content = split_thinking(content)
        if thought is not None:
            pieces.thoughts.append(thought)
    turn = Turn(role=role, content=content)
    if pieces.thoughts:
        turn["thinking"] = "\n".join(pieces.thoughts)
    if pieces.calls:
        turn["tool_calls"] = pieces.calls
    if pieces.images:
        turn["images"] = pieces.images
    return turn


def _name_result(turn: Turn, call_id: Any, name: Any) -> None:
    if call_id:
        turn["tool_call_id"] = str(call_id)
    if name:
        turn["tool_name"] = str(name)


def _take_content(content: Any, pieces: _Pieces) -> None:
    if content is None:
        return
    if isinstance(content, str):
        pieces.texts.append(content)
        return
    parts = [content] if isinstance(content, Mapping) else content
    if not isinstance(parts, Sequence):
        raise Untellable(NOT_A_MESSAGE, f"the content of a message is of type {type(content).__name__}; it is text or parts")
    for part in parts:
        if isinstance(part, str):
            pieces.texts.append(part)
        elif isinstance(part, Mapping):
            _take_part(part, pieces)
        else:
            raise Untellable(NOT_A_MESSAGE, f"a part of a message is of type {type(part).__name__}; it is an object with a type")


def _take_part(part: Mapping[str, Any], pieces: _Pieces) -> None:
    kind = part.get("type") or ("text" if "text" in part else None)
    take = _PARTS.get(kind) if isinstance(kind, str) else None
    if take is None:
        raise Untellable(NOT_TEXT, f"a message holds a part whose type is none of {', '.join(_PARTS)}")
    take(part, pieces)


def _take_text(part: Mapping[str, Any], pieces: _Pieces) -> None:
    _append(pieces.texts, part, ("text", "content", "refusal"))


def _take_thought(part: Mapping[str, Any], pieces: _Pieces) -> None:
    _append(pieces.thoughts, part, ("content", "thinking", "text", "reasoning"))


def _append(where: list[str], part: Mapping[str, Any], fields: Sequence[str]) -> None:
    found = next((part[name] for name in fields if isinstance(part.get(name), str)), None)
    if found is None:
        raise Untellable(NOT_A_MESSAGE, f"a part of a message has its text in none of {', '.join(fields)}")
    if found:
        where.append(found)


def _take_call(part: Mapping[str, Any], pieces: _Pieces) -> None:
    arguments = part.get("arguments") if "arguments" in part else part.get("input")
    pieces.calls.append(tool_call(part.get("name"), arguments, part.get("id")))


def _take_result(part: Mapping[str, Any], pieces: _Pieces) -> None:
    # OpenTelemetry's schema says `response`, its examples and earlier versions `result`, Anthropic `content`.
    result = next((part[name] for name in ("response", "result", "content") if part.get(name) is not None), None)
    if isinstance(result, list) and all(isinstance(item, Mapping) and "text" in item for item in result):
        result = "\n".join(text_of(item["text"]) for item in result)
    turn = Turn(role="tool", content=text_of(result))
    _name_result(turn, part.get("id") or part.get("tool_use_id"), part.get("name"))
    pieces.results.append(turn)


def _take_image(part: Mapping[str, Any], pieces: _Pieces) -> None:
    address = part.get("image_url")
    if isinstance(address, Mapping):
        address = address.get("url")
    if not isinstance(address, str) or not address.startswith("data:"):
        raise Untellable(IMAGE_BY_ADDRESS, "an image is given by its address; only its bytes (data:…;base64,…) can be referenced")
    pieces.images.append(_image(address.partition(",")[2]))


def _take_blob(part: Mapping[str, Any], pieces: _Pieces) -> None:
    if part.get("modality") != "image" or not isinstance(part.get("content"), str):
        raise Untellable(NOT_TEXT, "a message holds bytes that are no image; text and images are known")
    pieces.images.append(_image(part["content"]))


def _take_address(part: Mapping[str, Any], pieces: _Pieces) -> None:
    raise Untellable(IMAGE_BY_ADDRESS, "a message names a file by its address; only bytes can be referenced")


_PARTS: Final[dict[str, Callable[[Mapping[str, Any], _Pieces], None]]] = {
    "text": _take_text,
    "input_text": _take_text,
    "output_text": _take_text,
    "refusal": _take_text,
    "reasoning": _take_thought,
    "thinking": _take_thought,
    "tool_call": _take_call,
    "tool_use": _take_call,
    "tool_call_response": _take_result,
    "tool_result": _take_result,
    "image_url": _take_image,
    "input_image": _take_image,
    "blob": _take_blob,
    "uri": _take_address,
    "file": _take_address,
}


def is_part(value: Any) -> bool:
    """Whether this is a part of a message as somebody writes them."""
    if not isinstance(value, Mapping):
        return False
    if "type" not in value:
        return value.keys() == {"text"}
    return isinstance(value["type"], str) and value["type"] in _PARTS


def _openai_call(call: Any) -> Call:
    if not isinstance(call, Mapping):
        raise Untellable(TOOL_ARGUMENTS, "a tool call is no object")
    function = call.get("function")
    if isinstance(function, Mapping):
        return tool_call(function.get("name"), function.get("arguments"), call.get("id"))
    # LangChain and others write the function's fields beside the id, and `args`.
    return tool_call(call.get("name"), call.get("arguments", call.get("args")), call.get("id"))


def _image(encoded: str) -> Json:
    try:
        data = base64.b64decode(encoded)
    except (binascii.Error, ValueError):
        raise Untellable(NOT_TEXT, "an image is not base64") from None
    found = (kind for magic, kind in _MAGIC if data.startswith(magic))
    other = "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else "application/octet-stream"
    return {"sha256": hashlib.sha256(data).hexdigest(), "media_type": next(found, other), "size_bytes": len(data)}
