"""A line of a file becomes an interaction, and what is known of it; or the reason why it does not.

{"question": "…", "answer": "…", "thinking": "…", "reference": "…", "right": true}     the shortest
{"messages": [{"role": "user", …}, …, {"role": "assistant", "content": "…"}]}          a chat log
{"prompt": […], "completion": [{"content": "…", "reasoning_content": "…"}]}            a row of a dataset
an event of interaction-completed-v1, interaction-recorded-v1 or reasoning-assessed-v1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

import orjson
from pydantic import ValidationError

from ruminate.schemas.interaction import InteractionRecorded

LABELS: Final = ("right", "correct", "is_correct")
"""Names under which a line may say whether its answer is right."""
_REFERENCES: Final = ("reference", "reference_answer", "ground_truth")
_THINKING: Final = ("thinking", "reasoning_content", "reasoning")
_OPENED, _CLOSED = "<think>", "</think>"
_WHEN: Final = "1970-01-01T00:00:00Z"


class Refused(Exception):
    """This line is no interaction; the message says why, without its contents."""


@dataclass(frozen=True, slots=True)
class Taken:
    """An interaction from a file. `right` is what the line says of its answer, where it does."""

    line: int
    interaction: InteractionRecorded
    right: bool | None


def take(data: bytes, line: int) -> Taken:
    """The interaction of a line. Raises Refused."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Refused(f"no JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(value, dict):
        raise Refused("no JSON object")
    right = next((value[name] for name in LABELS if isinstance(value.get(name), bool)), None)
    fields = _fields_of(value)
    fields.setdefault("interaction_id", f"line-{line}")
    for name, text in _DEFAULTS.items():
        fields.setdefault(name, text)
    fields.setdefault("recorded_id", str(uuid5(NAMESPACE_URL, f"{fields['source']}/{fields['interaction_id']}")))
    response = fields.get("response")
    thought = isinstance(response, dict) and bool(response.get("thinking"))
    fields.setdefault("thinking", {"mode_used": "thinking" if thought else "direct"})
    try:
        return Taken(line, InteractionRecorded.model_validate_json(orjson.dumps(fields)), right)
    except ValidationError as error:
        places = [f"{'.'.join(map(str, each['loc']))}: {each['type']}" for each in error.errors(include_input=False)]
        raise Refused("; ".join(places[:3])) from None


_DEFAULTS: Final = {
    "conversation_id": "file",
    "agent": "file",
    "target_model": "file",
    "occurred_at": _WHEN,
    "source": "/file",
}


def _fields_of(value: dict[str, Any]) -> dict[str, Any]:
    """The fields of an interaction, whichever form the line has."""
    if isinstance(value.get("interaction"), dict):
        return dict(value["interaction"])
    if "response" in value and "messages" in value:
        return dict(value)
    reference = next((value[name] for name in _REFERENCES if value.get(name) is not None), None)
    known: dict[str, Any] = {} if reference is None else {"reference_answer": str(reference)}
    for name in ("outcome", "agent", "conversation_id", "complexity", "domain"):
        if isinstance(value.get(name), str):
            known[name] = value[name]
    if "completion" in value and "prompt" in value:
        prompt, completion = value["prompt"], value["completion"]
        answer = completion[0] if isinstance(completion, list) and completion else {"content": completion}
        messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        return known | {"messages": _messages(messages), "response": _response(answer)}
    if isinstance(value.get("messages"), list) and value["messages"]:
        *messages, answer = value["messages"]
        if not isinstance(answer, dict) or answer.get("role") != "assistant":
            raise Refused("the last of `messages` is not the assistant's, so there is no answer")
        return known | {"messages": _messages(messages), "response": _response(answer)}
    if isinstance(value.get("question"), str) and isinstance(value.get("answer"), str):
        thinking = next((value[name] for name in _THINKING if isinstance(value.get(name), str)), None)
        response = _response({"content": value["answer"], "thinking": thinking})
        return known | {"messages": [{"role": "user", "content": value["question"]}], "response": response}
    raise Refused(f"none of the forms that are read: it has {', '.join(sorted(value)[:8]) or 'no fields'}")


def _messages(messages: list[Any]) -> list[dict[str, Any]]:
    made = []
    for message in messages:
        if not isinstance(message, dict):
            raise Refused("a message is no JSON object")
        role = {"developer": "system", "function": "tool"}.get(message.get("role", ""), message.get("role"))
        made.append({"role": role, "content": _text(message.get("content"))})
    return made


def _response(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise Refused("the answer is no JSON object")
    content = _text(answer.get("content"))
    thinking = next((answer[name] for name in _THINKING if isinstance(answer.get(name), str)), None)
    if thinking is None and content.lstrip().startswith(_OPENED) and _CLOSED in content:
        thinking, _, content = content.lstrip().removeprefix(_OPENED).partition(_CLOSED)
    return {"content": content.strip(), "thinking": thinking, "tool_calls": _calls(answer.get("tool_calls"))}


def _calls(calls: Any) -> list[dict[str, Any]]:
    made = []
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function", call) if isinstance(call, dict) else {}
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = orjson.loads(arguments)
            except orjson.JSONDecodeError:
                arguments = {"text": arguments}
        made.append({"name": function.get("name"), "arguments": arguments if isinstance(arguments, dict) else {}})
    return made


def _text(content: Any) -> str:
    """The text of a message, which may come in parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    raise Refused("the content of a message is neither text nor parts")
