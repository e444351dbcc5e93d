"""The question in a request: an Ollama or OpenAI body, read into the messages of an interaction.

    chat       POST /api/chat
    generate   POST /api/generate
    openai     POST /v1/chat/completions

Pure: bytes in, findings out.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import orjson
from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter

from ruminate.schemas.interaction import AnswerCheck, Effort, ImageReference, Message, Role, ToolCall, ToolDefinition
from ruminate.shared.tools_offered import UnreadableTools, read_tools

MOST_CHECK_BYTES: Final = 64 * 1024
"""Of a JSON Schema that is kept beside the answer: nobody holds an answer against a longer one."""

Dialect = Literal["chat", "generate", "openai"]
Json: TypeAlias = dict[str, Any]
"""A stranger's JSON object: nothing is known of its fields."""


class Unrepresentable(ValueError):
    """The exchange cannot be told as an interaction; the message says why, without contents."""


def read_object(body: bytes) -> Json | None:
    """The JSON object in a request body, or None where there is none. A lone surrogate becomes U+FFFD, as on the nodes."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            lenient = json.loads(body, parse_constant=_refuse_constant)
            text = json.dumps(lenient, ensure_ascii=False).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            parsed = orjson.loads(text)
        except (ValueError, RecursionError):
            return None
    return parsed if isinstance(parsed, dict) else None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What was asked. `shaped_by` names what else took part in the prompt and is neither in the messages nor in the tools."""

    messages: tuple[Message, ...]
    tools: tuple[ToolDefinition, ...] = ()
    mode_asked: Literal["thinking", "direct"] | None
    effort_asked: Effort | None
    shaped_by: tuple[str, ...] = ()
    answer_check: AnswerCheck | None = None
    """The form that was asked of the answer, where it was a JSON Schema."""


class _Loose(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class _Function(_Loose):
    name: str
    arguments: dict[str, JsonValue] | str | None = None


class _Call(_Loose):
    function: _Function
    id: str | None = None


class _Part(_Loose):
    type: str
    text: str | None = None
    image_url: dict[str, JsonValue] | str | None = None


class _Message(_Loose):
    role: str
    content: str | list[_Part] | None = None
    thinking: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None
    tool_name: str | None = None
    name: str | None = None
    tool_call_id: str | None = None
    images: list[str] | None = None


class _Request(_Loose):
    messages: list[_Message] | None = None
    tools: Any = None
    prompt: str | None = None
    system: str | None = None
    images: list[str] | None = None
    think: bool | str | None = None
    reasoning_effort: str | None = None
    reasoning: dict[str, JsonValue] | None = None
    raw: bool | None = None
    template: str | None = None
    suffix: str | None = None
    context: list[int] | None = None
    format: Any = None
    response_format: Any = None


_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


def read_question(dialect: Dialect, body: Json) -> Question | None:
    """What the request asks, or None where it asks nothing (it loads or unloads a model).

    Raises Unrepresentable and pydantic.ValidationError.
    """
    request = _Request.model_validate(body)
    shaped_by: list[str] = []
    tools: tuple[ToolDefinition, ...] = ()
    if dialect == "generate":
        messages = [Message(role="system", content=request.system)] if request.system else []
        if request.prompt or request.images:
            images = tuple(map(_image, request.images or ()))
            messages.append(Message(role="user", content=request.prompt or "", images=images))
        else:
            messages = []
        shaped_by = [name for name in ("raw", "template", "suffix", "context") if getattr(request, name)]
    else:
        messages = [_message(message) for message in request.messages or ()]
        try:
            tools = read_tools(request.tools)
        except UnreadableTools:  # the answer stays of use to whoever reads it, and is no row
            shaped_by = ["tools"]
    if not messages:
        return None
    mode, effort = _asked(request)
    asked_form = _schema(request.response_format) if dialect == "openai" else request.format
    return Question(
        messages=tuple(messages),
        tools=tools,
        mode_asked=mode,
        effort_asked=effort,
        shaped_by=tuple(shaped_by),
        answer_check=_check(asked_form),
    )


def _schema(response_format: Any) -> Any:
    """The schema in `{"type": "json_schema", "json_schema": {"name": …, "schema": {…}}}`."""
    named = response_format.get("json_schema") if isinstance(response_format, dict) else None
    return named.get("schema") if isinstance(named, dict) else None


def _check(form: Any) -> AnswerCheck | None:
    """The check that a JSON Schema is, where it is no longer than a check may be; `json` alone is no schema."""
    if not isinstance(form, dict):
        return None
    try:
        content = orjson.dumps(form)
    except orjson.JSONEncodeError:  # deeper than any schema
        return None
    return AnswerCheck(kind="json_schema", content=content.decode()) if len(content) <= MOST_CHECK_BYTES else None


def _asked(request: _Request) -> tuple[Literal["thinking", "direct"] | None, Effort | None]:
    word = request.think
    if word is None:
        word = request.reasoning_effort or (request.reasoning or {}).get("effort")  # type: ignore[assignment]
    if word is None:
        return None, None
    if word is False or word == "none":
        return "direct", None
    effort = next((known for known in get_args(Effort) if known == word), None)
    return "thinking", effort


def _message(message: _Message) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise Unrepresentable(f"a message has a role of {len(message.role)} characters that is none of {', '.join(_ROLES)}")
    parts = message.content if isinstance(message.content, list) else []
    sent = [*(message.images or ()), *(_address(part) for part in parts if part.type == "image_url")]
    return Message(
        role=role,
        content=message.content if isinstance(message.content, str) else "\n".join(part.text or "" for part in parts if part.text),
        thinking=message.thinking or message.reasoning or None,
        tool_calls=tuple(tool_call(call.function.name, call.function.arguments, call.id) for call in message.tool_calls or ()),
        tool_name=(message.tool_name or message.name or None) if role == "tool" else None,
        tool_call_id=message.tool_call_id or None,
        images=tuple(map(_image, sent)),
    )


def _address(part: _Part) -> str:
    address = part.image_url.get("url") if isinstance(part.image_url, dict) else part.image_url
    if not isinstance(address, str) or not address.startswith("data:"):
        raise Unrepresentable("an image is given by an address; only its bytes (data:…;base64,…) are known")
    return address.partition(",")[2]


_MAGIC = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))


def _image(encoded: str) -> ImageReference:
    try:
        data = base64.b64decode(encoded)
    except (binascii.Error, ValueError):
        raise Unrepresentable("an image is not base64") from None
    found = (kind for magic, kind in _MAGIC if data.startswith(magic))
    webp = "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else "application/octet-stream"
    return ImageReference(sha256=hashlib.sha256(data).hexdigest(), media_type=next(found, webp), size_bytes=len(data))


_ARGUMENTS: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


def tool_call(name: str, arguments: dict[str, JsonValue] | str | None, call_id: str | None) -> ToolCall:
    """A call of a tool, its arguments an object (Ollama) or JSON in a string (OpenAI). Raises pydantic.ValidationError."""
    if isinstance(arguments, str):
        arguments = _ARGUMENTS.validate_json(arguments) if arguments.strip() else {}
    return ToolCall(name=name, arguments=arguments or {}, id=call_id or None)
