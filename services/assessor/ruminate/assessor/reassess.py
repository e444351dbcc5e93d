"""Evidence in, the interaction judged again out: with all that is known of it by then.

The revision is the evidence's place in its partition, so it rises with what is known, and the same evidence always gives the same
event, however often it is delivered.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from ruminate.assessor.casebook import Casebook
from ruminate.assessor.classroom import noted_of
from ruminate.assessor.decide import SCORER_VERSION, around, judged, knowledge_of, weigh
from ruminate.assessor.findings import find
from ruminate.assessor.handle import Scorer
from ruminate.assessor.metrics import EVIDENCE_WEIGHED, count_critique, count_verdict
from ruminate.assessor.teacher import lesson_of
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import LESSON_NOTED, REASONING_ASSESSED
from ruminate.shared.bus import BrokerUnavailable, Delivery, Unavailable, Unprocessable

UNKNOWN_INTERACTION: Final = "unknown_interaction"
_RETRY_SECONDS: Final = 1.0
EARLY_SECONDS: Final = 5.0
"""How much earlier than its interaction evidence may arrive. Until then nobody looks further back than the window."""
MOST_EVIDENCE: Final = 50
"""Pieces of evidence about one interaction that are weighed and passed on: the latest."""


async def reassess(
    delivery: Delivery[EvidenceRecorded], *, casebook: Casebook, scorer: Scorer, early_seconds: float = EARLY_SECONDS
) -> None:
    """Judge an interaction again because of one more piece of evidence."""
    said = delivery.payload
    combiner = scorer.combiner_of(said.tenant, min(said.said_at, delivery.envelope.time))
    early = (datetime.now(UTC) - delivery.envelope.time).total_seconds() < early_seconds
    try:
        recorded = await casebook.interaction(delivery.position.partition, said.recorded_id, look_far=not early)
        if recorded is None:
            raise _unknown(early=early)
        evidence = (await casebook.evidence(delivery))[-MOST_EVIDENCE:]
    except BrokerUnavailable as error:
        raise Unavailable(str(error), retry_after_seconds=_RETRY_SECONDS) from error
    if recorded.payload.tenant != said.tenant:
        raise Unprocessable(UNKNOWN_INTERACTION, "the interaction belongs to another tenant")
    interaction, weighed = recorded.payload, tuple(each for _, each in evidence)
    policy = scorer.policy
    checked = await scorer.checked(interaction)
    found = find(interaction, most_characters=policy.most_characters)
    knowledge = knowledge_of(found, interaction, scorer.equal, checked, weighed)
    verdict, shown = weigh(interaction, found, knowledge, policy, combiner)
    revision = delivery.position.offset + 1
    assessed = judged(interaction, verdict, policy_version=scorer.policy_version, revision=revision, evidence=weighed)
    count_verdict(verdict)
    EVIDENCE_WEIGHED.labels(said.kind).inc()
    if said.kind in _TELL_OF_CRITICS:
        count_critique(knowledge)
    value = around(recorded.value, assessed)
    order = REASONING_ASSESSED.order_of(assessed)
    delivery.tell_about(recorded, REASONING_ASSESSED, value, order=order, ordinal=assessed.revision)
    lesson = lesson_of(shown, knowledge, source=interaction.agent) if said.kind in _TEACH else None
    if lesson is not None:
        about = {
            "tenant": interaction.tenant,
            "recorded_id": interaction.recorded_id,
            "revision": assessed.revision,
            "scorer_version": SCORER_VERSION,
        }
        delivery.tell(LESSON_NOTED, noted_of(lesson, **about))


_TELL_OF_CRITICS: Final = frozenset({"judged", "feedback"})
"""Evidence after which it may be known whether a critic was right: its own word, and what people say later."""
_TEACH: Final = frozenset({"feedback", "asked_again"})
"""Evidence that says what an answer is worth; what others answered and what a model says are signals, and no lesson."""


def _unknown(*, early: bool) -> Exception:
    if early:
        return Unavailable("the interaction that evidence is about is not recorded yet", retry_after_seconds=_RETRY_SECONDS)
    return Unprocessable(
        UNKNOWN_INTERACTION,
        "no interaction of that id, source and conversation is recorded; send all three as the interaction has them",
    )
