"""Rows: what a kept interaction becomes in a dataset, or the one word that says why it becomes nothing. Pure.

    {"prompt": [message, …], "completion": [answer], "chat_template_kwargs": {"enable_thinking": bool}, "tools": JSON text}

A row that keeps its captured thinking (`reasoning_content` of the answer) is a *reasoning* row, and so is one whose thinking was
written and verified afterwards, which says so (*generated*); every other is *direct*.
Eight indicators say whether thinking was *called for*. They are recorded and say where thinking is missing; they never
take captured thinking away.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import orjson
from pydantic import ConfigDict, Field

from ruminate.accumulator.records import template
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.interaction import ImageReference, InteractionRecorded, Message, Role, ToolCall, ToolDefinition, Usage
from ruminate.schemas.payload import Part

LeftOut = Literal[
    "rejected",  # the assessor's verdict
    "not_allowed",  # no consent
    "withdrawn",  # it is to be forgotten, or consent was taken back, before the batch was cut
    "images",  # RUMINATE_KEEP_IMAGES: a text model would learn to invent what it cannot see
    "no_question",  # nothing was asked, or the last word before the answer is not the user's or a tool's
    "empty_answer",  # neither an answer nor a tool call
    "too_large",  # RUMINATE_ROW_MAX_BYTES
    "over_context",  # RUMINATE_CONTEXT_TOKENS
    "breaks_template",  # a text holds marks of the chat template, and would be read as something else
    "duplicate",  # an event id that stood earlier in the log
    "superseded",  # a later revision of the same interaction stands in this batch's interval
    "sealed_before",  # in an earlier batch, or replaced by a row of one
    "continued",  # a later interaction of the conversation contains and replaces it
    "duplicate_exact",  # question and answer are those of a row that is kept, here or in an earlier batch
    "over_cluster_limit",  # so many better answers to the same question are kept
    "contaminated",  # it gives away what the model is measured on
    "over_generated",  # its thinking was written afterwards, and the batch has its share of such
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
    images: str | None = Field(default=None, description="JSON text: a list of what is known of each image, never its bytes.")


class TemplateArguments(_Strict):
    """What the chat template is told beside the messages."""

    enable_thinking: bool


class Row(_Strict):
    """One line of `train.jsonl` and `holdout.jsonl`: only the answer, the one message of `completion`, is trained."""

    prompt: tuple[Turn, ...] = Field(min_length=1)
    completion: tuple[Turn] = Field(description="The answer.")
    chat_template_kwargs: TemplateArguments
    tools: str | None = Field(default=None, description="JSON text: the list of definitions that the template is given.")


class RowLimits(NamedTuple):
    """What a row may be, by policy; of itself, whatever its record says."""

    max_bytes: int = sys.maxsize
    context_tokens: int = sys.maxsize
    images: bool = True

    def why_not(self, *, size_bytes: int, tokens: int) -> LeftOut | None:
        """Why a row of this length is none."""
        if size_bytes > self.max_bytes:
            return "too_large"
        return "over_context" if tokens > self.context_tokens else None


NO_LIMITS: Final = RowLimits()


@dataclass(frozen=True, slots=True)
class Built:
    """A row as its line, and what the decisions need to know of it."""

    line: bytes
    reasoning: bool
    tokens: int
    generated: bool = False


def thinking_of(interaction: InteractionRecorded) -> str | None:
    """The captured thinking, as it was captured; None where there is none but white space."""
    thinking = interaction.response.thinking
    return thinking if thinking is not None and thinking.strip() else None


def generated_thinking_of(assessed: ReasoningAssessed) -> str | None:
    """Thinking that a model wrote for an answer which had none, and the assessor has verified: the latest."""
    written = [each.thinking for each in assessed.evidence if each.kind == "thinking" and each.thinking is not None]
    return written[-1] if written and written[-1].strip() else None


def asks_something(interaction: InteractionRecorded) -> bool:
    """Whether there is a question."""
    messages = interaction.messages
    return messages[-1].role in ("user", "tool") and any(message.role == "user" for message in messages)


def shows_something(interaction: InteractionRecorded) -> bool:
    """Whether there are images."""
    return any(message.images for message in interaction.messages)


def shows(line: bytes) -> bool:
    """Whether a row has images, from its line: within a text, quotation marks of JSON bear a backslash."""
    return b'"images":' in line


def build(assessed: ReasoningAssessed, limits: RowLimits = NO_LIMITS, *, as_if_kept: bool = False) -> Built | LeftOut:
    """The row of an assessed interaction, or why it has none. Looks at nothing but this one record.

    `as_if_kept` is for what a rejected answer is good for beside: its question, and another answer that was preferred.
    """
    interaction = assessed.interaction
    if assessed.verdict.decision != "keep" and not as_if_kept:
        return "rejected"
    captured = thinking_of(interaction)
    thinking = captured if captured is not None else generated_thinking_of(assessed)
    offered = _as_text([_definition(tool) for tool in interaction.tools]) if interaction.tools else None
    if (why_not := _why_not(interaction, thinking, offered, limits)) is not None:
        return why_not
    answer = _turn("assistant", interaction.response.content, thinking, interaction.response.tool_calls)
    row = {
        "prompt": [_message(message) for message in interaction.messages],
        "completion": [answer],
        "chat_template_kwargs": {"enable_thinking": thinking is not None},
    }
    if offered is not None:
        row["tools"] = offered
    line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    generated = captured is None and thinking is not None
    # What the node counted knows nothing of what was written afterwards.
    tokens = tokens_of(Usage() if generated else interaction.usage, line)
    return limits.why_not(size_bytes=len(line), tokens=tokens) or Built(line, thinking is not None, tokens, generated)


def _why_not(interaction: InteractionRecorded, thinking: str | None, offered: str | None, limits: RowLimits) -> LeftOut | None:
    if not interaction.training_allowed:
        return "not_allowed"
    if not limits.images and shows_something(interaction):
        return "images"
    if not asks_something(interaction):
        return "no_question"
    if not interaction.response.content.strip() and not interaction.response.tool_calls:
        return "empty_answer"
    asked = [offered or "", *(message.content for message in interaction.messages)]
    return "breaks_template" if template.breaks(asked, (interaction.response.content, thinking or "")) else None


def tokens_of(usage: Usage, line: bytes) -> int:
    """The tokens of a row, prompt and answer together: as the node counted them, else estimated from its line.

    Qwen3 takes each digit for a token, and 3.6 to 4.9 bytes of other text in a line, with its JSON in place of the template's
    marks; taking 4 errs on the side of too many (docs/experiments.md). A count with which a token has less than 2 bytes or
    more than 8 is not of this row: agents report what they like, images are counted and have no bytes.
    """
    if usage.prompt_tokens is not None and usage.response_tokens is not None:
        counted = usage.prompt_tokens + usage.response_tokens
        if 2 * counted <= len(line) <= 8 * counted:
            return counted
    others = len(line.translate(None, b"0123456789"))
    return len(line) - others + (others + _BYTES_A_TOKEN - 1) // _BYTES_A_TOKEN


_BYTES_A_TOKEN: Final = 4


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
    if message.images:
        turn["images"] = _as_text([_image(image) for image in message.images])
    return turn


def _turn(role: Role, content: str, thinking: str | None, calls: tuple[ToolCall, ...]) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": role, "content": content}
    if thinking is not None:
        turn["reasoning_content"] = thinking
    if calls:
        turn["tool_calls"] = [_call(call) for call in calls]
    return turn


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": _as_text(call.arguments)}
    named = {} if call.id is None else {"id": call.id}
    return {"type": "function", **named, "function": function}


def _definition(tool: ToolDefinition) -> dict[str, Any]:
    described = {} if tool.description is None else {"description": tool.description}
    return {"type": "function", "function": {"name": tool.name, **described, "parameters": tool.parameters}}


def _image(image: ImageReference) -> dict[str, Any]:
    lies = {} if image.uri is None else {"uri": image.uri}
    return {"sha256": image.sha256, "media_type": image.media_type, "size_bytes": image.size_bytes, **lies}


def _as_text(value: Any) -> str:
    # json.dumps spells it as Qwen's template does, so that the model learns the spelling it is shown.
    return json.dumps(value, ensure_ascii=False)


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
