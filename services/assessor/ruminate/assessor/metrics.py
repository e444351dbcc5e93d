"""What the assessor counts. Each metric says what to do when it looks wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from ruminate.assessor.judging.knowledge import Knowledge
from ruminate.grading.checking.answers import Comparison
from ruminate.schemas.assessment import Verdict
from ruminate.schemas.interaction import AnswerCheck


@dataclass(frozen=True, slots=True)
class AskerCounts:
    """Where one who asks a model counts: what it told (model, what), what it passed over (reason), how long it took (model)."""

    told: Counter
    passed_over: Counter
    seconds: Histogram


def _counts_of(asker: str, *, told: tuple[str, str], passed_over: str, seconds: str) -> AskerCounts:
    """Each with its sentence; `told` with the word for what this one does, too."""
    did, says = told
    return AskerCounts(
        Counter(f"ruminate_{asker}_{did}", says, ["model", "what"]),
        Counter(f"ruminate_{asker}_passed_over", passed_over, ["reason"]),
        Histogram(f"ruminate_{asker}_seconds", seconds, ["model"], buckets=(0.3, 1, 3, 10, 30, 100, 300)),
    )


INTERACTIONS_ASSESSED: Final = Counter(
    "ruminate_interactions_assessed",
    "Verdicts by decision; if nothing is kept for long, no batch fills: read the reasons for rejection.",
    ["decision"],
)
REJECTIONS: Final = Counter(
    "ruminate_rejections",
    "Reasons for rejection, several a verdict; if one grows suddenly, look at the agent or the model version behind it.",
    ["reason"],
)
EVIDENCE_WEIGHED: Final = Counter(
    "ruminate_evidence_weighed",
    "Interactions judged again, by what spoke for or against them; if there is none, nobody says what answers are worth.",
    ["kind"],
)
CHECKS_MADE: Final = Counter(
    "ruminate_checks_made",
    "Checks that answers came with, by what they came to; if many are undecided, read in the evidence of verdicts why.",
    ["kind", "result"],
)
CRITIC: Final = _counts_of(
    "critic",
    told=(
        "judged",
        "Words of the critic that became evidence, by model; if there are none, read ruminate_critic_passed_over_total.",
    ),
    passed_over="Answers that were judged without the critic's word, by why; if its node is away or slow, give it one of its own.",
    seconds="Time of one question to the critic; if it grows towards the timeout, choose a smaller model or turn its thinking off.",
)
CRITIC_COMPARED: Final = Counter(
    "ruminate_critic_compared",
    "Answers whose worth is known, by what the critic had said; if the share of `opposite` nears a third, switch it off.",
    ["model", "said"],
)
PANEL: Final = _counts_of(
    "panel",
    told=(
        "told",
        "Counts of a panel that became evidence, by what it mostly says; if there are none, read ruminate_panel_passed_over_total.",
    ),
    passed_over="Questions that a panel said nothing or not enough about, by why; if its budget is spent early, lower its share or "
    "its doubt.",
    seconds="Time of one answer of a panel; if it grows towards the timeout, choose a smaller model or ask for fewer answers.",
)
PANEL_ANSWERS: Final = Counter(
    "ruminate_panel_answers",
    "Answers that a panel gave, by what they say; if most have nothing to compare, name another model or switch it off.",
    ["model", "said"],
)
WRITER: Final = _counts_of(
    "writer",
    told=("told", "Thinking that was written, verified and told; if there is none, read ruminate_writer_passed_over_total."),
    passed_over="Answers that thinking was asked for in vain, by why; if most are refused, read ruminate_writer_refused_total.",
    seconds="Time of one question to a writer; if it grows towards the timeout, choose a smaller model or turn its thinking off.",
)
WRITER_REFUSED: Final = Counter(
    "ruminate_writer_refused",
    "Faults of thinking that was written and not told; if nearly all of it is refused, choose a larger model or switch it off.",
    ["model", "fault"],
)
ANSWERS_COMPARED: Final = Counter(
    "ruminate_answers_compared",
    "Answers to a question that others answered, too; if there are none, every question is asked once, and agreement says nothing.",
)
LESSONS_LEARNED: Final = Counter(
    "ruminate_lessons_learned",
    "Answers whose worth became known, by what they turned out; if only good ones come, scores learn little: ask for complaints.",
    ["turned_out"],
)
BRIER_SCORE: Final = Gauge(
    "ruminate_brier_score",
    "Mean squared error of overall scores before their lesson, over the last thousand; if it grows, pin an earlier snapshot.",
    ["tenant"],
)
CALIBRATION_ERROR: Final = Gauge(
    "ruminate_calibration_error",
    "How far scores are from the share that turns out good, over the last thousand lessons; over 0.1, trust references alone.",
    ["tenant"],
)
SCORER_SNAPSHOT: Final = Gauge(
    "ruminate_scorer_snapshot",
    "Number of the snapshot by which interactions are judged; if it stands still while lessons come, read the assessor's log.",
    ["tenant"],
)
OVERALL_SCORE: Final = Histogram(
    "ruminate_overall_score",
    "Overall scores; if they sink after a promotion, compare the version with its parent and roll it back.",
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
)
ASSESSMENT_SECONDS: Final = Histogram(
    "ruminate_assessment_seconds",
    "Time to judge one interaction; if it grows, lower `most_characters` of the policy or add replicas.",
    buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1),
)
ERASED: Final = Counter(
    "ruminate_assessments_erased",
    "What was not judged, for it is erased, by kind (interaction, evidence); if evidence grows, tell whoever sends the feedback.",
    ["kind"],
)


def count_check(check: AnswerCheck, comparison: Comparison) -> None:
    """Count one check that an answer came with, and what it came to."""
    CHECKS_MADE.labels(check.kind, comparison.result).inc()


def count_critique(knowledge: Knowledge) -> None:
    """Count whether a critic said what turned out; nothing where one of the two is not known."""
    critique, good = knowledge.critique, knowledge.turned_out
    score = critique.score if critique is not None else None
    if critique is None or score is None or good is None:
        return
    unclear = abs(score - 0.5) < _UNCLEAR
    CRITIC_COMPARED.labels(critique.model, "neither" if unclear else "same" if (score > 0.5) == good else "opposite").inc()


_UNCLEAR: Final = 0.1
"""Nearer than that to a half, a critic's score says neither."""


def count_verdict(verdict: Verdict) -> None:
    """Count one verdict."""
    INTERACTIONS_ASSESSED.labels(verdict.decision).inc()
    if verdict.overall.value is not None:
        OVERALL_SCORE.observe(verdict.overall.value)
    if verdict.decision == "reject":
        for reason in verdict.reasons:
            REJECTIONS.labels(reason.partition(":")[0]).inc()
