"""Rows: what a kept interaction becomes in a dataset, or the one word that says why it becomes nothing. Pure.

    {"prompt": [message, …], "completion": [answer], "chat_template_kwargs": {"enable_thinking": bool}}

A row that keeps its captured thinking (`reasoning_content` of the answer) is a *reasoning* row, every other is *direct*.
Eight indicators say whether thinking was *called for*. They are recorded and say where thinking is missing; they never
take captured thinking away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson
from pydantic import ConfigDict, Field

from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.interaction import InteractionRecorded, Message, Role, ToolCall
from ruminate.schemas.payload import Part

LeftOut = Literal[
    "rejected",  # the assessor's verdict
    "not_allowed",  # no consent
    "images",  # a text model would learn to invent what it cannot see
    "no_question",  # nothing was asked, or the last word before the answer is not the user's or a tool's
    "empty_answer",  # neither an answer nor a tool call
    "too_large",  # RUMINATE_ROW_MAX_BYTES
    "duplicate",  # an event id that stood earlier in the log
    "superseded",  # a later revision of the same interaction stands in this batch's interval
    "sealed_before",  # in an earlier batch, or replaced by a row of one
    "continued",  # a later interaction of the conversation contains and replaces it
    "over_ratio",  # a direct row that would bring the batch below the reasoning ratio
]

REPEATS: Final[frozenset[LeftOut]] = frozenset({"duplicate", "superseded"})
"""Records left out that speak of an interaction which another record of the interval speaks for."""


class _Strict(Part):
    model_config = ConfigDict(extra="forbid")


class Function(_Strict):
    """What a tool call calls. `arguments` is JSON text: columns of differing keys would otherwise be filled with nulls."""

    name: str
    arguments: str


class Call(_Strict):
    """A tool call, as chat templates read it."""

    type: Literal["function"] = "function"
    id: str | None = None
    function: Function


class Turn(_Strict):
    """One message, as chat templates read it."""

    role: Role
    content: str
    reasoning_content: str | None = None
    tool_calls: tuple[Call, ...] | None = None
    name: str | None = None
    tool_call_id: str | None = None


class TemplateArguments(_Strict):
    """What the chat template is told beside the messages."""

    enable_thinking: bool


class Row(_Strict):
    """One line of `train.jsonl` and `holdout.jsonl`: only the answer, the one message of `completion`, is trained."""

    prompt: tuple[Turn, ...] = Field(min_length=1)
    completion: tuple[Turn] = Field(description="The answer.")
    chat_template_kwargs: TemplateArguments


@dataclass(frozen=True, slots=True)
class Built:
    """A row as its line, and what the decisions need to know of it."""

    line: bytes
    reasoning: bool


def thinking_of(interaction: InteractionRecorded) -> str | None:
    """The captured thinking, as it was captured; None where there is none but white space."""
    thinking = interaction.response.thinking
    return thinking if thinking is not None and thinking.strip() else None


def build(assessed: ReasoningAssessed, *, row_max_bytes: int) -> Built | LeftOut:
    """The row of an assessed interaction, or why it has none. Looks at nothing but this one record."""
    interaction = assessed.interaction
    if assessed.verdict.decision != "keep":
        return "rejected"
    if not interaction.training_allowed:
        return "not_allowed"
    if any(message.images for message in interaction.messages):
        return "images"
    if interaction.messages[-1].role not in ("user", "tool") or not any(m.role == "user" for m in interaction.messages):
        return "no_question"
    if not interaction.response.content.strip() and not interaction.response.tool_calls:
        return "empty_answer"
    thinking = thinking_of(interaction)
    answer = _turn("assistant", interaction.response.content, thinking, interaction.response.tool_calls)
    line = orjson.dumps(
        {
            "prompt": [_message(message) for message in interaction.messages],
            "completion": [answer],
            "chat_template_kwargs": {"enable_thinking": thinking is not None},
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )
    return Built(line, thinking is not None) if len(line) <= row_max_bytes else "too_large"


# Plain values: a model for each of the hundred thousand records that a restart reads would cost as much as all the rest.
# Whatever goes into a dataset is validated as a `Row` before.


def _message(message: Message) -> dict[str, Any]:
    # Templates drop the thinking of earlier turns themselves, but keep it between a tool's call and its result.
    thinking = message.thinking if message.thinking and message.thinking.strip() else None
    turn = _turn(message.role, message.content, thinking, message.tool_calls)
    if message.tool_name is not None:
        turn["name"] = message.tool_name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _turn(role: Role, content: str, thinking: str | None, calls: tuple[ToolCall, ...]) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": role, "content": content}
    if thinking is not None:
        turn["reasoning_content"] = thinking
    if calls:
        turn["tool_calls"] = [_call(call) for call in calls]
    return turn


def _call(call: ToolCall) -> dict[str, Any]:
    # json.dumps spells arguments as Qwen's template does, so that the model learns the spelling it is shown.
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    named = {} if call.id is None else {"id": call.id}
    return {"type": "function", **named, "function": function}


def _asks(pattern: str) -> Callable[[InteractionRecorded], bool]:
    word = re.compile(rf"\b{pattern}\b", re.IGNORECASE)
    return lambda interaction: word.search(question_of(interaction)) is not None


INDICATORS: Final[Mapping[str, Callable[[InteractionRecorded], bool]]] = {
    "complexity": lambda interaction: interaction.complexity in ("complex", "expert"),
    "architecture": lambda interaction: "architecture" in interaction.tags,
    "debug": lambda interaction: "debug" in interaction.tags,
    "analyze": _asks("analy[sz]e"),
    "explain": _asks("explain"),
    "why": _asks("why"),
    "long_question": lambda interaction: len(question_of(interaction).split()) > 50,
    "large_codebase": lambda interaction: (interaction.context.codebase_lines or 0) > 10_000,
}
"""The eight signs that a question calls for thinking."""


def question_of(interaction: InteractionRecorded) -> str:
    """What the user asked last: the input that the answer answers."""
    return next((message.content for message in reversed(interaction.messages) if message.role == "user"), "")


def indicators_of(interaction: InteractionRecorded) -> tuple[str, ...]:
    """The indicators that hold, in the order of `INDICATORS`."""
    return tuple(name for name, holds in INDICATORS.items() if holds(interaction))


def thinking_called_for(shown: tuple[str, ...], *, weights: Mapping[str, float], at: float) -> bool:
    """Whether the weights of what was shown reach the threshold."""
    return sum(weights.get(name, 0.0) for name in shown) >= at
