"""Assess: was the thinking in this interaction good enough to learn from? Pure: the same input gives the same verdict.

texts -> findings -> parts -> signals ──▶ combiner ──▶ overall -> keep or reject, and why
                       ▲                     ▲
reference, check, outcome, feedback, others ─┴─ knowledge, and a critic's opinion
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import Final

from ruminate.assessor.finding.findings import Findings, find
from ruminate.assessor.finding.reading import Reading, control_characters, mostly_symbols
from ruminate.assessor.judging import parts
from ruminate.assessor.judging.combiner import Combiner, probability
from ruminate.assessor.judging.knowledge import Agreement, Critique, Knowledge, Opinion, together
from ruminate.assessor.judging.parts import ModeFit
from ruminate.assessor.judging.signals import Signals, signals
from ruminate.assessor.policy import Policy
from ruminate.grading.checking.answers import Comparison, compare
from ruminate.grading.checking.checks import Checks, checked_by, surer, unchecked
from ruminate.grading.checking.mathematics import Equal, nobody
from ruminate.grading.finding.wording import words
from ruminate.schemas.assessment import ReasoningAssessed, ReasoningQuality, Score, Verdict
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.interaction import InteractionRecorded

SCORER_VERSION: Final = "rules-4"
"""Changes with every change of what a part finds."""

_JUDGED: Final = ("answer_quality", *ReasoningQuality.model_fields)
"""The parts that a model may be asked about."""


@lru_cache(maxsize=64)
def untaught(policy: Policy) -> Combiner:
    """The combiner of a policy's weights, which has learned nothing."""
    return Combiner(policy.weights)


def knowledge_of(
    found: Findings,
    interaction: InteractionRecorded,
    equal: Equal = nobody,
    checked: Comparison | None = None,
    evidence: Iterable[EvidenceRecorded] = (),
) -> Knowledge:
    """What the interaction itself brings along, its reference, compared, what its check came to, and its outcome; and evidence."""
    reference = interaction.reference_answer
    comparison = compare(found.reading, reference, equal) if reference is not None else None
    opinions: list[Opinion] = []
    asked_again, critique = False, None
    agreements: dict[str | None, Agreement] = {}
    for each in evidence:
        if each.kind == "agreement":
            # The log counts anew each time, and so does each model that was asked: of one source the latest count is all of it.
            agreements[each.model] = Agreement(each.agreeing or 0, each.disagreeing or 0)
        elif each.kind == "asked_again":
            asked_again = True
        elif each.kind == "judged":
            critique = _with_words(critique, each)
        elif each.kind == "feedback":
            corrected = each.correction is not None and _is_another(found, each.correction)
            opinions.append(Opinion(each.said_by, each.thumb, each.score, each.outcome, corrected))
    return Knowledge(
        comparison=surer(comparison, checked),
        outcome=interaction.outcome,
        opinions=tuple(opinions),
        asked_again=asked_again,
        agreement=together(agreements.values()),
        critique=critique,
    )


def _with_words(critique: Critique | None, said: EvidenceRecorded) -> Critique:
    """What a model says by now: its latest scores, and its latest preference. Of several models the latest is heard."""
    model = said.model or said.said_by
    before = critique if critique is not None and critique.model == model else Critique(model)
    scores = before.scores if said.judged is None else {part: said.judged[part] for part in _JUDGED if part in said.judged}
    return Critique(model, scores, before.preferred if said.preferred is None else said.preferred)


def _is_another(found: Findings, correction: str) -> bool:
    """Whether a correction is another answer than the one that was given: whoever repeats it, confirms it."""
    if words(correction) == found.reading.answer_words:
        return False
    return compare(found.reading, correction).result != "right"


def assess(
    interaction: InteractionRecorded,
    policy: Policy,
    combiner: Combiner | None = None,
    equal: Equal = nobody,
    checks: Checks = unchecked,
) -> Verdict:
    """Judge every part that can be judged, weigh them, and say whether to learn from the interaction, and why."""
    found = find(interaction, most_characters=policy.most_characters)
    knowledge = knowledge_of(found, interaction, equal, checked_by(checks, interaction))
    return weigh(interaction, found, knowledge, policy, combiner or untaught(policy))[0]


def weigh(
    interaction: InteractionRecorded, found: Findings, knowledge: Knowledge, policy: Policy, combiner: Combiner
) -> tuple[Verdict, Signals]:
    """The verdict on what was found and what is known, and the signals that it rests on."""
    reading = found.reading
    answer = parts.answer_quality(reading, knowledge, found.blocks, interaction)
    reasoning = ReasoningQuality(
        logical_coherence=parts.logical_coherence(reading, found.trail, found.structure),
        problem_decomposition=parts.problem_decomposition(reading, found.trail),
        evidence_usage=parts.evidence_usage(reading, found.trail, found.blocks),
        conclusion_validity=parts.conclusion_validity(reading, knowledge),
        step_by_step_clarity=parts.step_by_step_clarity(reading, found.structure),
    )
    mode = parts.mode_appropriateness(reading, parts.demand(reading, interaction, policy), knowledge, interaction, policy)
    shown = signals(
        found,
        reasoning,
        mode.score,
        truncated=parts.truncated(interaction),
        declined=parts.declines(reading.answer),
        agreement=knowledge.agreement,
    )
    weighed = [(answer, policy.weights.answer_quality), (mode.score, policy.weights.mode_appropriateness)]
    if reading.steps:  # without thinking there is no reasoning to judge, so its five parts are no missing evidence
        weighed += [(score, getattr(policy.weights, part)) for part, score in reasoning]
    overall, evidence_ratio = _overall(weighed, shown, knowledge, combiner, examined_ratio=reading.examined_ratio)
    against = (*_faults(found, interaction, knowledge, mode, policy), *_shortfalls(overall, evidence_ratio, policy))
    verdict = Verdict(
        answer_quality=answer,
        reasoning_quality=reasoning,
        mode_appropriateness=mode.score,
        overall=overall,
        evidence_ratio=evidence_ratio,
        decision="reject" if against else "keep",
        reasons=against or (f"good_enough: overall {overall.value:.2f} on {evidence_ratio:.0%} of the evidence",),
        thinking_words=reading.thinking_words,
        reasoning_steps=len(reading.steps),
        context_words=sum(len(message.content.split()) for message in interaction.messages),
        combiner=combiner.version,
    )
    return verdict, shown


def judge(
    interaction: InteractionRecorded,
    policy: Policy,
    *,
    policy_version: str,
    combiner: Combiner | None = None,
    equal: Equal = nobody,
    checks: Checks = unchecked,
    evidence: tuple[EvidenceRecorded, ...] = (),
) -> ReasoningAssessed:
    """The interaction with its verdict, in the light of all this evidence, oldest first."""
    found = find(interaction, most_characters=policy.most_characters)
    knowledge = knowledge_of(found, interaction, equal, checked_by(checks, interaction), evidence)
    verdict, _ = weigh(interaction, found, knowledge, policy, combiner or untaught(policy))
    return judged(interaction, verdict, policy_version=policy_version, evidence=evidence)


def judged(
    interaction: InteractionRecorded,
    verdict: Verdict,
    *,
    policy_version: str,
    revision: int = 0,
    evidence: tuple[EvidenceRecorded, ...] = (),
) -> ReasoningAssessed:
    """The event of a verdict."""
    return ReasoningAssessed(
        tenant=interaction.tenant,
        target_model=interaction.target_model,
        recorded_id=interaction.recorded_id,
        revision=revision,
        policy_version=policy_version,
        scorer_version=SCORER_VERSION,
        verdict=verdict,
        evidence=evidence,
        interaction=interaction,
    )


def around(recorded: bytes, assessed: ReasoningAssessed) -> bytes:
    """The JSON of the assessed event, with its interaction in the very bytes that were recorded.

    So an assessor that is older than the collector passes on what it does not know; and to write the interaction once more
    would cost as much as to read it.
    """
    verdict = assessed.__pydantic_serializer__.to_json(assessed, exclude={"interaction"})
    return b'%b,"interaction":%b}' % (verdict[:-1], recorded)


def _overall(
    weighed: list[tuple[Score, float]], shown: Signals, knowledge: Knowledge, combiner: Combiner, *, examined_ratio: float
) -> tuple[Score, float]:
    """How probable it is that the answer is good, and the share of the weight of those parts that know."""
    known = [weight for score, weight in weighed if score.value is not None]
    evidence = [f"{len(known)} of {len(weighed)} parts could be judged"]
    if examined_ratio < 1:
        evidence.append(f"{examined_ratio:.0%} of the text was read, from both ends")
    if not sum(known):
        return Score(value=None, evidence=tuple(evidence)), 0.0
    evidence += knowledge.said()
    critique = knowledge.critique
    evidence += critique.said() if critique is not None else ()
    evidence += [f"{name} {moved:+.2f}" for name, moved in combiner.telling(shown)]
    value = probability(combiner.logit(shown, critique.logit() if critique is not None else 0.0) + knowledge.logit())
    return Score(value=round(value, 4), evidence=tuple(evidence)), _share(sum(known), sum(weight for _, weight in weighed))


def _share(part: float, whole: float) -> float:
    return round(min(1.0, part / whole), 4)


def _faults(
    found: Findings, interaction: InteractionRecorded, knowledge: Knowledge, mode: ModeFit, policy: Policy
) -> Iterator[str]:
    """What rules an interaction out, whatever its scores: a constant word, then a sentence without contents."""
    reading, response = found.reading, interaction.response
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
    yield from _wrong_answers(reading, knowledge)
    blocks, trail = found.blocks, found.trail
    if blocks.broken:
        yield f"broken_code: {len(blocks.broken)} of {blocks.checked} code blocks do not parse ({blocks.broken[0]})"
    if trail.wrong > policy.wrong_equations_at_most * trail.results:
        yield f"wrong_arithmetic: {trail.wrong} of {trail.results} equations in the thinking do not hold"
    if mode.fault == "wasted" and policy.reject_wasted_thinking:
        yield f"thinking_wasted: {reading.thinking_words} words of thinking about a simple question"
    if mode.fault == "missing" and policy.reject_missing_thinking:
        yield "thinking_missing: a demanding question was answered directly"


def _wrong_answers(reading: Reading, knowledge: Knowledge) -> Iterator[str]:
    comparison = knowledge.comparison
    if comparison is not None and comparison.result == "wrong":
        what = "it fails the check that came with it" if comparison.by == "check" else "the reference answer is another one"
        yield f"wrong_answer: {what}, by {comparison.how}"
    elif parts.declines(reading.answer) and knowledge.sure != "right":
        yield "declined: the model declined to answer"
    if knowledge.outcome == "failed":
        yield "failed_outcome: whoever asked reported that the answer failed"
    if any(opinion.corrected for opinion in knowledge.opinions):
        yield "corrected: somebody gave another answer in its place"


def _shortfalls(overall: Score, evidence_ratio: float, policy: Policy) -> Iterator[str]:
    if evidence_ratio < policy.keep_evidence_at_least:
        yield f"little_evidence: {evidence_ratio:.0%} of it is at hand; learning needs {policy.keep_evidence_at_least:.0%}"
    if overall.value is not None and overall.value < policy.keep_overall_at_least:
        yield f"low_score: overall {overall.value:.2f}; learning needs {policy.keep_overall_at_least:.2f}"
