"""Assess: was the thinking in this interaction good enough to learn from? Pure: the same input gives the same verdict."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

from ruminate.assessor import parts
from ruminate.assessor.answers import Comparison, compare
from ruminate.assessor.policy import Policy, Weights
from ruminate.assessor.reading import Reading, control_characters, mostly_symbols, read
from ruminate.schemas.assessment import ReasoningAssessed, ReasoningQuality, Score, Verdict
from ruminate.schemas.interaction import InteractionRecorded

SCORER_VERSION: Final = "rules-1"
"""Changes with every change of what a part finds."""


def assess(interaction: InteractionRecorded, policy: Policy) -> Verdict:
    """Judge every part that can be judged, weigh them, and say whether to learn from the interaction, and why."""
    reading = read(interaction, most_characters=policy.most_characters)
    reference = interaction.reference_answer
    comparison = compare(reading, reference) if reference is not None else None
    asked = parts.demand(reading, interaction, policy)
    answer = parts.answer_quality(reading, comparison, interaction)
    reasoning = ReasoningQuality(
        logical_coherence=parts.logical_coherence(reading),
        problem_decomposition=parts.problem_decomposition(reading),
        evidence_usage=parts.evidence_usage(reading),
        conclusion_validity=parts.conclusion_validity(reading, comparison, interaction.outcome),
        step_by_step_clarity=parts.step_by_step_clarity(reading),
    )
    mode = parts.mode_appropriateness(reading, asked, policy)
    overall, evidence_ratio = _weigh(answer, reasoning, mode, policy.weights, reading)
    against = (*_faults(reading, interaction, comparison, mode, policy), *_shortfalls(overall, evidence_ratio, policy))
    return Verdict(
        answer_quality=answer,
        reasoning_quality=reasoning,
        mode_appropriateness=mode,
        overall=overall,
        evidence_ratio=evidence_ratio,
        decision="reject" if against else "keep",
        reasons=against or (f"good_enough: overall {overall.value:.2f} on {evidence_ratio:.0%} of the evidence",),
        thinking_words=reading.thinking_words,
        reasoning_steps=len(reading.steps),
    )


def judge(interaction: InteractionRecorded, policy: Policy, *, policy_version: str) -> ReasoningAssessed:
    """The interaction with its verdict."""
    return ReasoningAssessed(
        tenant=interaction.tenant,
        target_model=interaction.target_model,
        recorded_id=interaction.recorded_id,
        policy_version=policy_version,
        scorer_version=SCORER_VERSION,
        verdict=assess(interaction, policy),
        interaction=interaction,
    )


def around(recorded: bytes, assessed: ReasoningAssessed) -> bytes:
    """The JSON of the assessed event, with its interaction in the very bytes that were recorded.

    So an assessor that is older than the collector passes on what it does not know; and to write the interaction once more
    would cost as much as to read it.
    """
    verdict = assessed.__pydantic_serializer__.to_json(assessed, exclude={"interaction"})
    return b'%b,"interaction":%b}' % (verdict[:-1], recorded)


def _weigh(answer: Score, reasoning: ReasoningQuality, mode: Score, weights: Weights, reading: Reading) -> tuple[Score, float]:
    """The weighted mean of the parts that know, and the share of the weight that they hold.

    An answer without thinking has no reasoning to judge, so its five parts are no missing evidence.
    """
    weighed = [(answer, weights.answer_quality), (mode, weights.mode_appropriateness)]
    if reading.steps:
        weighed += [(score, getattr(weights, part)) for part, score in reasoning]
    known = [(score.value, weight) for score, weight in weighed if score.value is not None]
    weight_known = sum(weight for _, weight in known)
    evidence = [f"{len(known)} of {len(weighed)} parts could be judged"]
    if reading.examined_ratio < 1:
        evidence.append(f"{reading.examined_ratio:.0%} of the text was read, from both ends")
    if weight_known == 0:
        return Score(value=None, evidence=tuple(evidence)), 0.0
    value = sum(value * weight for value, weight in known) / weight_known
    ratio = weight_known / sum(weight for _, weight in weighed)
    return Score(value=round(min(1.0, value), 4), evidence=tuple(evidence)), round(min(1.0, ratio), 4)


def _faults(
    reading: Reading, interaction: InteractionRecorded, comparison: Comparison | None, mode: Score, policy: Policy
) -> Iterator[str]:
    """What rules an interaction out, whatever its scores: a constant word, then a sentence without contents."""
    response = interaction.response
    if not reading.answer and not response.tool_calls:
        yield "empty_answer: the model answered nothing"
    if strange := control_characters(response.content) + control_characters(response.thinking or ""):
        yield f"control_characters: {strange} characters that no readable text holds"
    if reading.thinking_repeats or reading.answer_repeats:
        yield "repeated_text: the model says the same again and again"
    if mostly_symbols(reading.answer, reading.answer_words) or mostly_symbols(reading.thinking, chain(*reading.step_words)):
        yield "unreadable: most characters are neither letters nor digits"
    if parts.truncated(interaction):
        yield "truncated: the answer was cut off at the token limit"
    if comparison is not None and comparison.result == "wrong":
        yield f"wrong_answer: the reference answer is another one, by {comparison.how}"
    elif parts.declines(reading.answer) and (comparison is None or comparison.result != "right"):
        yield "declined: the model declined to answer"
    if interaction.outcome == "failed":
        yield "failed_outcome: whoever asked reported that the answer failed"
    wrong = sum(not equation.holds for equation in reading.equations)
    if wrong > policy.wrong_equations_at_most * len(reading.equations):
        yield f"wrong_arithmetic: {wrong} of {len(reading.equations)} equations in the thinking do not hold"
    if mode.value is not None and mode.value < 0.5:
        if reading.steps and policy.reject_wasted_thinking:
            yield f"thinking_wasted: {reading.thinking_words} words of thinking about a simple question"
        if not reading.steps and policy.reject_missing_thinking:
            yield "thinking_missing: a demanding question was answered directly"


def _shortfalls(overall: Score, evidence_ratio: float, policy: Policy) -> Iterator[str]:
    if evidence_ratio < policy.keep_evidence_at_least:
        yield f"little_evidence: {evidence_ratio:.0%} of it is at hand; learning needs {policy.keep_evidence_at_least:.0%}"
    if overall.value is not None and overall.value < policy.keep_overall_at_least:
        yield f"low_score: overall {overall.value:.2f}; learning needs {policy.keep_overall_at_least:.2f}"
