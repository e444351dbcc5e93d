"""What the assessor counts. Each metric says what to do when it looks wrong."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Histogram

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
