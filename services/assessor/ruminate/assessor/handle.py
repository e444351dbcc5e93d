"""One recorded interaction in, one verdict out."""

from __future__ import annotations

from ruminate.assessor.decide import around, judge
from ruminate.assessor.mathematics import Equal, nobody
from ruminate.assessor.metrics import ASSESSMENT_SECONDS, INTERACTIONS_ASSESSED, OVERALL_SCORE, REJECTIONS
from ruminate.assessor.policy import Policy
from ruminate.schemas.assessment import Verdict
from ruminate.schemas.flow import REASONING_ASSESSED
from ruminate.schemas.interaction import InteractionRecorded
from ruminate.shared.bus import Delivery


async def assess_one(
    delivery: Delivery[InteractionRecorded], *, policy: Policy, policy_version: str, equal: Equal = nobody
) -> None:
    """Answer one recorded interaction with a verdict. `equal` compares expressions, and keeps the others waiting meanwhile."""
    with ASSESSMENT_SECONDS.time():
        assessed = judge(delivery.payload, policy, policy_version=policy_version, equal=equal)
    _count(assessed.verdict)
    value = around(delivery.value, assessed)
    delivery.tell_encoded(REASONING_ASSESSED, value, order=REASONING_ASSESSED.order_of(assessed))


def _count(verdict: Verdict) -> None:
    INTERACTIONS_ASSESSED.labels(verdict.decision).inc()
    if verdict.overall.value is not None:
        OVERALL_SCORE.observe(verdict.overall.value)
    if verdict.decision == "reject":
        for reason in verdict.reasons:
            REJECTIONS.labels(reason.partition(":")[0]).inc()
