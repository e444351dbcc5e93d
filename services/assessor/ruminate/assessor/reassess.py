"""Evidence in, the interaction judged again out: with all that is known of it by then.

The revision is the evidence's place in its partition, so it rises with what is known, and the same evidence always gives the same
event, however often it is delivered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from ruminate.assessor.asking.panel import Panel
from ruminate.assessor.asking.writer import Writer
from ruminate.assessor.evidence.casebook import MOST_EVIDENCE, Casebook
from ruminate.assessor.finding.findings import find
from ruminate.assessor.handle import Scorer, is_erased
from ruminate.assessor.judging.decide import SCORER_VERSION, around, judged, knowledge_of, weigh
from ruminate.assessor.learning.classroom import noted_of
from ruminate.assessor.learning.teacher import lesson_of
from ruminate.assessor.metrics import ERASED, EVIDENCE_WEIGHED, count_critique, count_verdict
from ruminate.schemas.erasure import Erasures, Names
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import EVIDENCE_RECORDED, LESSON_NOTED, REASONING_ASSESSED
from ruminate.shared.bus import BrokerUnavailable, Delivery, Unavailable, Unprocessable
from ruminate.shared.member import Member
from ruminate.shared.shares import Outgoing

Erase = Callable[[Delivery[EvidenceRecorded]], Awaitable[None]]
"""Writes a tombstone for a piece of evidence. Raises BrokerUnavailable."""

UNKNOWN_INTERACTION: Final = "unknown_interaction"
_RETRY_SECONDS: Final = 1.0
EARLY_SECONDS: Final = 5.0
"""How much earlier than its interaction evidence may arrive. Until then nobody looks further back than the window."""


async def reassess(
    delivery: Delivery[EvidenceRecorded],
    *,
    casebook: Casebook,
    scorer: Scorer,
    panel: Panel | None = None,
    writer: Writer | None = None,
    early_seconds: float = EARLY_SECONDS,
    erasures: Erasures | None = None,
    erase: Erase | None = None,
) -> None:
    """Judge an interaction again because of one more piece of evidence; one that is erased is judged no more, and `erase` is asked
    to take the evidence with it."""
    said = delivery.payload
    if erasures is not None and erasures.concern(said.tenant) and erasures.covers_said(_names(delivery)):
        await _let_go(delivery, erase)
        return
    combiner = scorer.combiner_of(said.tenant, min(said.said_at, delivery.envelope.time))
    early = (datetime.now(UTC) - delivery.envelope.time).total_seconds() < early_seconds
    try:
        recorded = await casebook.interaction(delivery.position.partition, said.recorded_id, look_far=not early)
        if recorded is None and not casebook.is_erased(delivery.position.partition, said.recorded_id):
            raise _unknown(early=early)
        if recorded is None or is_erased(recorded, erasures):
            await _let_go(delivery, erase)
            return
        evidence = await casebook.evidence(delivery)
    except BrokerUnavailable as error:
        raise Unavailable(str(error), retry_after_seconds=_RETRY_SECONDS) from error
    if recorded.payload.tenant != said.tenant:
        raise Unprocessable(UNKNOWN_INTERACTION, "the interaction belongs to another tenant")
    interaction, weighed = recorded.payload, carried([each for _, each in evidence])
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
    if panel is not None:
        panel.reconsider(interaction, verdict, knowledge)
    if writer is not None and all(each.kind != "thinking" for each in weighed):
        writer.offer(interaction, found, verdict, knowledge)  # whose answer may be known to be right only now
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


def carried(evidence: Sequence[EvidenceRecorded]) -> tuple[EvidenceRecorded, ...]:
    """What of all evidence is weighed and passed on, in its order. Of written thinking the latest, however much was said since."""
    latest = max((at for at, each in enumerate(evidence) if each.kind == "thinking"), default=None)
    others = [at for at, each in enumerate(evidence) if each.kind != "thinking"][-MOST_EVIDENCE:]
    return tuple(evidence[at] for at in sorted(others if latest is None else [*others, latest]))


_TELL_OF_CRITICS: Final = frozenset({"judged", "feedback"})
"""Evidence after which it may be known whether a critic was right: its own word, and what people say later."""
_TEACH: Final = frozenset({"feedback", "asked_again"})
"""Evidence that says what an answer is worth; what others answered and what a model says or writes are no lesson."""


async def erase_evidence(delivery: Delivery[EvidenceRecorded], *, bus: Member) -> None:
    """Take a piece of evidence out of the log: a tombstone under its key."""
    key = delivery.envelope.id.encode()
    await bus.write([Outgoing(EVIDENCE_RECORDED.name, delivery.position.partition, key, None, [])])


async def _let_go(delivery: Delivery[EvidenceRecorded], erase: Erase | None) -> None:
    # The eraser may have looked for the last time: what is said later of what an agent asked names nothing that it could know.
    if erase is not None:
        try:
            await erase(delivery)
        except BrokerUnavailable as error:
            raise Unavailable(str(error), retry_after_seconds=_RETRY_SECONDS) from error
    ERASED.labels("evidence").inc()


def _names(delivery: Delivery[EvidenceRecorded]) -> Names:
    said = delivery.payload
    said_at = min(said.said_at, delivery.envelope.time)
    return Names(said.tenant, said_at, recorded_id=str(said.recorded_id), conversation_id=said.conversation_id)


def _unknown(*, early: bool) -> Exception:
    if early:
        return Unavailable("the interaction that evidence is about is not recorded yet", retry_after_seconds=_RETRY_SECONDS)
    return Unprocessable(
        UNKNOWN_INTERACTION,
        "no interaction of that id, source and conversation is recorded; send all three as the interaction has them",
    )
