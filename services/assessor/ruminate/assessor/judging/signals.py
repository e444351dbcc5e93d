"""Signals: what was found, as numbers that a combiner can weigh. Zero is *nothing to say*; none is larger than about one.

The question's difficulty is among them, the answering model's name is not, nor is anything that says whether the answer was
right: a reference, an outcome, feedback. Those are what the combiner is taught with.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from ruminate.assessor.finding.findings import Findings
from ruminate.assessor.judging.knowledge import Agreement
from ruminate.schemas.assessment import ReasoningQuality, Score


class Signals(NamedTuple):
    """Of one interaction. Names are kept for ever: a snapshot of the combiner names what it weighs."""

    # How hard the question is, and how much was thought.
    long_question: float
    many_given: float
    long_thinking: float
    many_steps: float
    percentages: float
    comparisons: float
    # Where the numbers come from, and where they go.
    unused_given: float
    all_given_used: float
    unfounded_operands: float
    unfounded_numbers: float
    unused_results: float
    few_steps: float
    wrong_arithmetic: float
    numbers_reused: float
    long_sums: float
    differences: float
    concludes: float
    ends_in_a_number: float
    concludes_nowhere: float
    odd_form: float
    fractional_answer: float
    large_answer: float
    zero_answer: float
    echoes_question: float
    # How the thinking is built.
    contradictions: float
    said_again: float
    repeats: float
    unfinished: float
    hedges: float
    off_question: float
    foreign_language: float
    truncated: float
    declined: float
    # What could be checked as it is.
    broken_blocks: float
    misquotations: float
    # What others answered.
    agreeing: float
    disagreeing: float
    # The parts of the verdict: 0 is what most thinking gets.
    logical_coherence: float
    problem_decomposition: float
    evidence_usage: float
    conclusion_validity: float
    step_by_step_clarity: float
    mode_appropriateness: float


NAMES: Final = Signals._fields

MOST_WEIGHED: Final = 3
"""Other answers that say the same, or another thing, from which more of them alter nothing."""
_COMPARING: Final = frozenset({"more", "less", "fewer", "than", "twice", "half", "third", "quarter", "double", "triple", "times"})


def signals(
    found: Findings,
    reasoning: ReasoningQuality,
    mode: Score,
    *,
    truncated: bool,
    declined: bool,
    agreement: Agreement | None,
) -> Signals:
    """What was found, as numbers."""
    reading, trail, structure, blocks = found.reading, found.trail, found.structure, found.blocks
    thought, final = bool(reading.steps), found.final
    numeric = trail.given > 0
    return Signals(
        long_question=_between(math.log((len(reading.question_words) + 1) / 50), 1.5),
        many_given=_between((trail.given - 4) / 4, 1.0) if numeric else 0.0,
        long_thinking=_between(math.log((reading.thinking_words + 1) / 100), 1.5) if thought else 0.0,
        many_steps=_between((trail.results - 4) / 4, 1.0) if trail.results else 0.0,
        percentages=float("%" in reading.question or "percent" in reading.question_words),
        comparisons=_count(len([word for word in reading.question_words if word in _COMPARING]), 3),
        unused_given=_count(trail.unused_given, 3),
        all_given_used=float(numeric and thought and trail.unused_given == 0),
        unfounded_operands=_count(trail.unfounded, 3),
        unfounded_numbers=_count(structure.unfounded_numbers, 3),
        unused_results=_count(trail.unused_results, 3),
        few_steps=_count(max(0, trail.given - 1 - trail.results), 3) if trail.results else 0.0,
        wrong_arithmetic=_count(trail.wrong, 2),
        numbers_reused=_count(trail.reused, 3),
        long_sums=_between((trail.longest - 2) / 3, 1.0) if trail.results else 0.0,
        differences=_count(trail.differences, 3),
        concludes=float(trail.conclusion == "last result"),
        ends_in_a_number=float(trail.conclusion == "last number"),
        concludes_nowhere=float(trail.conclusion in ("nowhere", "in an earlier step", "earlier result")),
        odd_form=float(trail.odd_form),
        fractional_answer=float(final is not None and final != math.floor(final)),
        large_answer=_between(math.log10(abs(final) + 1) - 2, 2.0) / 2 if final is not None and thought else 0.0,
        zero_answer=float(final == 0),
        echoes_question=float(trail.echoes),
        contradictions=_count(structure.contradictions, 2),
        said_again=_count(structure.said_again, 3),
        repeats=float(reading.thinking_repeats or reading.answer_repeats),
        unfinished=float(structure.unfinished),
        hedges=_count(structure.hedges, 4),
        off_question=0.0 if structure.asked is None else 0.5 - structure.asked,
        foreign_language=min(1.0, structure.foreign_ratio * 2),
        truncated=float(truncated),
        declined=float(declined),
        broken_blocks=_count(len(blocks.broken), 2),
        misquotations=_count(blocks.misquoted, 2),
        agreeing=_count(agreement.agreeing, MOST_WEIGHED) if agreement else 0.0,
        disagreeing=_count(agreement.disagreeing, MOST_WEIGHED) if agreement else 0.0,
        logical_coherence=_part(reasoning.logical_coherence),
        problem_decomposition=_part(reasoning.problem_decomposition),
        evidence_usage=_part(reasoning.evidence_usage),
        conclusion_validity=_part(reasoning.conclusion_validity),
        step_by_step_clarity=_part(reasoning.step_by_step_clarity),
        mode_appropriateness=_part(mode),
    )


_USUAL_PART = 0.9
"""What a part of ordinary thinking scores: not to know is neither praise nor blame."""


def _between(value: float, bound: float) -> float:
    return max(-bound, min(bound, value))


def _count(found: int, most: int) -> float:
    return min(found, most) / most


def _part(score: Score) -> float:
    return 0.0 if score.value is None else (score.value - _USUAL_PART) * 2
