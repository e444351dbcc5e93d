"""Facts: what a record tells beside its row: its stratum, what its question is like, what people said, how to check it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from ruminate.accumulator.records.rows import (
    asks_something,
    generated_thinking_of,
    indicators_of,
    question_of,
    shows_something,
    thinking_of,
)
from ruminate.schemas.assessment import ReasoningAssessed, Verdict
from ruminate.schemas.interaction import InteractionRecorded

Mark = Literal["up", "down"]
CheckKind = Literal["reference", "exact", "json_schema", "python_tests"]

_NUMBER: Final = re.compile(r"\d+")
_SENTENCE: Final = re.compile(r"[.!?\u3002\uff01\uff1f](?:\s|$)")
_FIRST: Final = (
    "calculate compare compute count explain find give how if is list name prove say show solve sum translate was what when where "
    "which who whose why write"
)
_FIRST_WORDS: Final = frozenset(_FIRST.split())
UNSTATED: Final = "unstated"
_THINKING_WORDS: Final = ((40, "simple"), (200, "moderate"), (1_000, "complex"))
"""Words of thinking up to which an answer was as hard; the mean of a grade-school problem's solution is about 100."""
_WASTED_OR_MISSING: Final = 0.5
"""Below it, the mode that was used did not fit the question."""


class Stratum(NamedTuple):
    """What a batch is balanced over, beside mode and tenant."""

    domain: str
    difficulty: str


@dataclass(frozen=True, slots=True)
class Check:
    """How an answer can be found to be right."""

    kind: CheckKind
    content: str


@dataclass(frozen=True, slots=True)
class Aside:
    """Texts of a record beside its row."""

    check: Check | None = None
    correction: str | None = None


class Facts(NamedTuple):
    """What the choice of rows looks at. No texts: names that many records share."""

    stratum: Stratum
    signs: tuple[str, ...]
    """What the question is like, `sign=value` each."""
    needed_thinking: bool
    """By the mode that was used, unless the verdict says that it did not fit."""
    generated: bool
    """Its thinking was written by a model afterwards."""
    mark: Mark | None
    """What people thought of the answer."""
    check: CheckKind | None


def facts_of(assessed: ReasoningAssessed) -> Facts:
    """The facts of one record."""
    interaction, verdict = assessed.interaction, assessed.verdict
    thinks = thinking_of(interaction) is not None
    fits = verdict.mode_appropriateness.value
    check = check_of(interaction)
    return Facts(
        stratum=Stratum(_domain_of(interaction), _difficulty_of(interaction, verdict)),
        signs=signs_of(interaction),
        needed_thinking=thinks if fits is None or fits >= _WASTED_OR_MISSING else not thinks,
        generated=not thinks and generated_thinking_of(assessed) is not None,
        mark=mark_of(assessed),
        check=None if check is None else check.kind,
    )


def aside_of(assessed: ReasoningAssessed) -> Aside | None:
    """The texts of a record beside its row; None where it has none."""
    check, correction = check_of(assessed.interaction), correction_of(assessed)
    return None if check is None and correction is None else Aside(check, correction)


def gives_something(assessed: ReasoningAssessed) -> bool:
    """Whether a record without a row may still teach: what people prefer, or a question whose answers can be checked."""
    interaction = assessed.interaction
    if not interaction.training_allowed:
        return False
    # Asked of every record of a backlog: what most of them lack comes first.
    if interaction.reference_answer is None and interaction.answer_check is None and not assessed.evidence:
        return False
    if check_of(interaction) is None and mark_of(assessed) is None and correction_of(assessed) is None:
        return False
    return asks_something(interaction) and not shows_something(interaction)


def check_of(interaction: InteractionRecorded) -> Check | None:
    """How its answer can be found to be right. A form that must be met says less than what the answer has to be."""
    stated = interaction.answer_check
    if stated is not None and stated.kind != "json_schema":
        return Check(stated.kind, stated.content)
    if interaction.reference_answer is not None and interaction.reference_answer.strip():
        return Check("reference", interaction.reference_answer)
    return None if stated is None else Check(stated.kind, stated.content)


def mark_of(assessed: ReasoningAssessed) -> Mark | None:
    """Which way the thumbs point: the last of each who gave one. None where they are at odds, or nobody gave any."""
    thumbs = {said.said_by: said.thumb for said in assessed.evidence if said.kind == "feedback" and said.thumb is not None}
    up = sum(thumb == "up" for thumb in thumbs.values())
    down = len(thumbs) - up
    return None if up == down else "up" if up > down else "down"


def correction_of(assessed: ReasoningAssessed) -> str | None:
    """The answer that should have been given, as it was said last."""
    said = [each.correction for each in assessed.evidence if each.kind == "feedback" and each.correction is not None]
    return said[-1] if said and said[-1].strip() and said[-1].strip() != assessed.interaction.response.content.strip() else None


def signs_of(interaction: InteractionRecorded) -> tuple[str, ...]:
    """What a question is like, without any word of it: a value for each of a fixed number of signs."""
    question = question_of(interaction)
    words = question.split()
    first = words[0].strip(",:").lower() if words else ""
    shown = indicators_of(interaction)
    return (
        *(f"shows={name}" for name in shown),
        f"shown={min(len(shown), 3)}",
        f"words={len(words).bit_length()}",
        f"numbers={min(len(_NUMBER.findall(question)), 6)}",
        f"sentences={min(len(_SENTENCE.findall(question)), 6)}",
        f"code={'```' in question}",
        f"first={first if first in _FIRST_WORDS else 'other'}",
        f"complexity={interaction.complexity or UNSTATED}",
        f"turns={min(len(interaction.messages), 8).bit_length()}",
        f"tools={any(message.role == 'tool' for message in interaction.messages)}",
    )


def _domain_of(interaction: InteractionRecorded) -> str:
    if interaction.domain is not None:
        return interaction.domain
    if interaction.tags:
        return interaction.tags[0]
    question = question_of(interaction)
    if "```" in question or interaction.context.codebase_lines is not None:
        return "code"
    return "numbers" if len(_NUMBER.findall(question)) > 1 else "general"


def _difficulty_of(interaction: InteractionRecorded, verdict: Verdict) -> str:
    """As it was stated, else by the words that were thought; what was answered directly does not say."""
    if interaction.complexity is not None:
        return interaction.complexity
    if not verdict.thinking_words:
        return UNSTATED
    return next((name for most, name in _THINKING_WORDS if verdict.thinking_words <= most), "expert")
