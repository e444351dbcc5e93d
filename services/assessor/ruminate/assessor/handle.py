"""One recorded interaction in, one verdict out."""

from __future__ import annotations

from ruminate.assessor.decide import SCORER_VERSION, assess
from ruminate.assessor.metrics import ASSESSMENT_SECONDS, INTERACTIONS_ASSESSED, OVERALL_SCORE, REJECTIONS
from ruminate.assessor.policy import Policy
from ruminate.schemas.assessment import ReasoningAssessed, Verdict
from ruminate.schemas.flow import REASONING_ASSESSED
from ruminate.schemas.interaction import InteractionRecorded
from ruminate.shared.bus import Delivery


async def assess_one(delivery: Delivery[InteractionRecorded], *, policy: Policy, policy_version: str) -> None:
    """Answer one recorded interaction with a verdict."""
    interaction = delivery.payload
    with ASSESSMENT_SECONDS.time():
        verdict = assess(interaction, policy)
    _count(verdict)
    delivery.tell(
        REASONING_ASSESSED,
        ReasoningAssessed(
            tenant=interaction.tenant,
            target_model=interaction.target_model,
            recorded_id=interaction.recorded_id,
            policy_version=policy_version,
            scorer_version=SCORER_VERSION,
            verdict=verdict,
            interaction=interaction,
        ),
    )


def _count(verdict: Verdict) -> None:
    INTERACTIONS_ASSESSED.labels(verdict.decision).inc()
    if verdict.overall.value is not None:
        OVERALL_SCORE.observe(verdict.overall.value)
    if verdict.decision == "reject":
        for reason in verdict.reasons:
            REJECTIONS.labels(reason.partition(":")[0]).inc()
