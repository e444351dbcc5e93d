"""The tools that a request offers, as the world defines them, read into ours. Pure.

    OpenAI, Ollama   {"type": "function", "function": {"name", "description", "parameters"}}
    OpenTelemetry    {"type": "function", "name", "description", "parameters"}
    Anthropic        {"name", "description", "input_schema"}

What a model may call is part of what it is asked, so a definition that cannot be told is not left out: the whole list is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from pydantic import ValidationError

from ruminate.schemas.interaction import ToolDefinition


class UnreadableTools(ValueError):
    """The tools that were offered cannot be told; the message says which and why, without contents."""


def read_tools(offered: Any) -> tuple[ToolDefinition, ...]:
    """Every definition of a list, or of its JSON text; none where nothing was offered. Raises UnreadableTools."""
    return tuple(_definitions(offered))


def _definitions(offered: Any) -> Iterator[ToolDefinition]:
    tools = _parsed(offered, "the list of tools")
    if tools is None:
        return
    if not isinstance(tools, list):
        raise UnreadableTools(f"the tools are of type {type(tools).__name__}; they are a list of definitions")
    for place, tool in enumerate(tools):
        yield _definition(_parsed(tool, f"tool {place}"), place)


def _definition(tool: Any, place: int) -> ToolDefinition:
    if not isinstance(tool, Mapping):
        raise UnreadableTools(f"tool {place} is of type {type(tool).__name__}; it is an object with a name and parameters")
    if tool.get("type") not in (None, "function") and "input_schema" not in tool:
        raise UnreadableTools(f"tool {place} is no function: only functions with a name and parameters are known")
    inner = tool.get("function", tool)
    if not isinstance(inner, Mapping):
        raise UnreadableTools(f"the function of tool {place} is of type {type(inner).__name__}; it is an object with a name")
    parameters: Any = next((inner[name] for name in ("parameters", "input_schema") if inner.get(name) is not None), {})
    described: dict[str, Any] = {"name": inner.get("name"), "parameters": _parsed(parameters, f"what tool {place} takes") or {}}
    if inner.get("description") is not None:
        described["description"] = inner["description"]
    try:
        return ToolDefinition.model_validate(described)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise UnreadableTools(f"tool {place}: {field}: {first['type']}") from None


def _parsed(value: Any, what: str) -> Any:
    """JSON text is what it says."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        raise UnreadableTools(f"{what} is text that is no JSON") from None
