"""One recorded interaction in, one verdict out, and a lesson where its worth is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ruminate.assessor.classroom import noted_of
from ruminate.assessor.combiner import Combiner
from ruminate.assessor.decide import SCORER_VERSION, around, judged, knowledge_of, weigh
from ruminate.assessor.findings import find
from ruminate.assessor.mathematics import Equal, nobody
from ruminate.assessor.metrics import ASSESSMENT_SECONDS, count_verdict
from ruminate.assessor.policy import Policy
from ruminate.assessor.teacher import lesson_of
from ruminate.schemas.flow import LESSON_NOTED, REASONING_ASSESSED
from ruminate.schemas.interaction import InteractionRecorded
from ruminate.shared.bus import Delivery

CombinerOf = Callable[[str], Combiner]
"""By what a tenant's interactions are judged."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """By what everything is judged. `equal` compares expressions, and keeps the others waiting meanwhile."""

    policy: Policy
    policy_version: str
    combiner_of: CombinerOf
    equal: Equal = nobody


async def assess_one(delivery: Delivery[InteractionRecorded], *, scorer: Scorer) -> None:
    """Answer one recorded interaction with a verdict."""
    interaction, policy = delivery.payload, scorer.policy
    with ASSESSMENT_SECONDS.time():
        found = find(interaction, most_characters=policy.most_characters)
        knowledge = knowledge_of(found, interaction, scorer.equal)
        verdict, shown = weigh(interaction, found, knowledge, policy, scorer.combiner_of(interaction.tenant))
        assessed = judged(interaction, verdict, policy_version=scorer.policy_version)
    count_verdict(verdict)
    value = around(delivery.value, assessed)
    delivery.tell_encoded(REASONING_ASSESSED, value, order=REASONING_ASSESSED.order_of(assessed))
    if (lesson := lesson_of(shown, knowledge, source=interaction.agent)) is not None:
        about = {"tenant": interaction.tenant, "recorded_id": interaction.recorded_id, "scorer_version": SCORER_VERSION}
        delivery.tell(LESSON_NOTED, noted_of(lesson, **about))
