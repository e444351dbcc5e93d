"""What the assessor counts. Each metric says what to do when it looks wrong."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from ruminate.schemas.assessment import Verdict

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


def count_verdict(verdict: Verdict) -> None:
    """Count one verdict."""
    INTERACTIONS_ASSESSED.labels(verdict.decision).inc()
    if verdict.overall.value is not None:
        OVERALL_SCORE.observe(verdict.overall.value)
    if verdict.decision == "reject":
        for reason in verdict.reasons:
            REJECTIONS.labels(reason.partition(":")[0]).inc()
