"""One recorded interaction in, one verdict out, and a lesson where its worth is known."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from ruminate.assessor.asking.critic import Critic
from ruminate.assessor.asking.panel import Panel
from ruminate.assessor.asking.writer import Writer
from ruminate.assessor.evidence.agreement import answer_key, asks_again, question_key
from ruminate.assessor.finding.findings import find
from ruminate.assessor.judging.combiner import Combiner
from ruminate.assessor.judging.decide import SCORER_VERSION, around, judged, knowledge_of, weigh
from ruminate.assessor.learning.classroom import noted_of
from ruminate.assessor.learning.teacher import lesson_of
from ruminate.assessor.metrics import ASSESSMENT_SECONDS, ERASED, count_verdict
from ruminate.assessor.policy import Policy
from ruminate.grading.checking.answers import Comparison
from ruminate.grading.checking.checks import Checks, can_be_checked, checked_by, unchecked
from ruminate.grading.checking.mathematics import Equal, nobody
from ruminate.schemas.envelope import derive_event_id
from ruminate.schemas.erasure import Erasures, names_of
from ruminate.schemas.evidence import AnswerNoted, EvidenceRecorded
from ruminate.schemas.flow import ANSWER_NOTED, EVIDENCE_RECORDED, INTERACTION_RECORDED, LESSON_NOTED, REASONING_ASSESSED
from ruminate.schemas.interaction import InteractionRecorded
from ruminate.shared.bus import Delivery

CombinerOf = Callable[[str, datetime], Combiner]
"""By what is judged what occurred in a tenant at a time. Raises Unavailable where that cannot be said yet."""


_CHECKING: Final = ThreadPoolExecutor(4, thread_name_prefix="check")
"""Threads of their own: in those that the loop looks names up in, slow tests would keep the broker waiting."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """By what everything is judged. `equal` compares expressions, and keeps the others waiting meanwhile."""

    policy: Policy
    policy_version: str
    combiner_of: CombinerOf
    equal: Equal = nobody
    checks: Checks = unchecked
    compares: bool = True
    """Whether answers to the same question are compared: one more event for each interaction."""

    async def checked(self, interaction: InteractionRecorded) -> Comparison | None:
        """What the interaction's own check comes to. It may take seconds, and keeps nobody waiting meanwhile."""
        if not can_be_checked(interaction):
            return None
        return await asyncio.get_running_loop().run_in_executor(_CHECKING, checked_by, self.checks, interaction)


async def assess_one(
    delivery: Delivery[InteractionRecorded],
    *,
    scorer: Scorer,
    critic: Critic | None = None,
    panel: Panel | None = None,
    writer: Writer | None = None,
    erasures: Erasures | None = None,
) -> None:
    """Answer one recorded interaction with a verdict; one that is erased with nothing.

    The three who ask a model are offered it, and keep nobody waiting.
    """
    interaction, policy = delivery.payload, scorer.policy
    if is_erased(delivery, erasures):
        ERASED.labels("interaction").inc()
        return
    # When it occurred, not now: a redelivery is judged by the same. Nobody lays it into the future.
    combiner = scorer.combiner_of(interaction.tenant, min(interaction.occurred_at, delivery.envelope.time))
    checked = await scorer.checked(interaction)
    with ASSESSMENT_SECONDS.time():
        found = find(interaction, most_characters=policy.most_characters)
        knowledge = knowledge_of(found, interaction, scorer.equal, checked)
        verdict, shown = weigh(interaction, found, knowledge, policy, combiner)
        assessed = judged(interaction, verdict, policy_version=scorer.policy_version)
    count_verdict(verdict)
    if critic is not None:
        critic.offer(interaction, verdict, knowledge)
    if panel is not None:
        panel.offer(interaction, found, verdict, knowledge)
    if writer is not None:
        writer.offer(interaction, found, verdict, knowledge)
    value = around(delivery.value, assessed)
    delivery.tell_encoded(REASONING_ASSESSED, value, order=REASONING_ASSESSED.order_of(assessed))
    if scorer.compares:
        delivery.tell(ANSWER_NOTED, _noted(interaction, answer_key(found)))
    if interaction.continues_interaction is not None and asks_again(interaction.messages):
        delivery.tell(EVIDENCE_RECORDED, _asked_again(delivery, interaction.continues_interaction))
    if (lesson := lesson_of(shown, knowledge, source=interaction.agent)) is not None:
        about = {"tenant": interaction.tenant, "recorded_id": interaction.recorded_id, "scorer_version": SCORER_VERSION}
        delivery.tell(LESSON_NOTED, noted_of(lesson, **about))


def is_erased(recorded: Delivery[InteractionRecorded], erasures: Erasures | None) -> bool:
    """Whether an erasure covers this interaction."""
    interaction = recorded.payload
    if erasures is None or not erasures.concern(interaction.tenant):
        return False
    source, recorded_id = interaction.source, interaction.recorded_id
    names = names_of(interaction, source=source, recorded_id=recorded_id, seen_at=recorded.envelope.time)
    return erasures.covers(names) is not None


def _noted(interaction: InteractionRecorded, said: str | None) -> AnswerNoted:
    response, seconds = interaction.response, interaction.usage.total_seconds or 0.0
    return AnswerNoted(
        tenant=interaction.tenant,
        question=question_key(interaction).hex(),
        answer=None if said is None else _digest(said),
        wording=_digest(f"{response.thinking or ''}\x1e{response.content}"),
        recorded_id=interaction.recorded_id,
        conversation_id=interaction.conversation_id,
        began_at=interaction.occurred_at - timedelta(seconds=min(seconds, _LONGEST_SECONDS)),
        occurred_at=interaction.occurred_at,
    )


_LONGEST_SECONDS = 86_400.0


def _asked_again(delivery: Delivery[InteractionRecorded], earlier: str) -> EvidenceRecorded:
    """Evidence about the interaction that this one goes on from: what it answered is asked once more."""
    interaction = delivery.payload
    return EvidenceRecorded(
        tenant=interaction.tenant,
        recorded_id=derive_event_id(
            tenant=interaction.tenant, cause_source=interaction.source, cause_id=earlier, topic=INTERACTION_RECORDED.name
        ),
        conversation_id=interaction.conversation_id,
        kind="asked_again",
        said_by=interaction.agent,
        said_at=interaction.occurred_at,
    )


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
