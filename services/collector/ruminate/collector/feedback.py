"""Feedback: somebody's word about an answer becomes evidence about the interaction that was recorded."""

from __future__ import annotations

import unicodedata
from datetime import UTC
from typing import Final
from uuid import UUID

from ruminate.collector.decide import check_source
from ruminate.collector.metrics import FEEDBACK_COLLECTED, FEEDBACK_ERASED
from ruminate.collector.privacy.redaction import Privacy
from ruminate.schemas.envelope import derive_event_id
from ruminate.schemas.erasure import Erasures, Names
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.feedback import FeedbackGiven
from ruminate.schemas.flow import EVIDENCE_RECORDED, INTERACTION_RECORDED
from ruminate.shared.bus import Delivery, Unprocessable

SAYS_NOTHING: Final = "says_nothing"


async def record_feedback(delivery: Delivery[FeedbackGiven], *, privacy: Privacy, erasures: Erasures | None = None) -> None:
    """Answer one word of feedback with the evidence that it is. Repeats have one id, and readers keep the first."""
    if erasures is not None and erasures.concern(delivery.payload.tenant) and erasures.covers_said(_names(delivery)):
        FEEDBACK_ERASED.inc()
        return
    delivery.tell(EVIDENCE_RECORDED, without_personal_data(evidence_of(delivery.payload), privacy))
    FEEDBACK_COLLECTED.inc()


def _names(delivery: Delivery[FeedbackGiven]) -> Names:
    feedback = delivery.payload
    return Names(
        feedback.tenant,
        min(feedback.given_at, delivery.envelope.time),
        recorded_id=str(_recorded_id(feedback)),
        interaction_id=feedback.interaction_id,
        source=feedback.interaction_source,
        conversation_id=feedback.conversation_id,
    )


def _recorded_id(feedback: FeedbackGiven) -> UUID:
    """As the recorder derives it: the interaction's name from the names that its sender knows."""
    return derive_event_id(
        tenant=feedback.tenant,
        cause_source=feedback.interaction_source,
        cause_id=feedback.interaction_id,
        topic=INTERACTION_RECORDED.name,
    )


def without_personal_data(evidence: EvidenceRecorded, privacy: Privacy) -> EvidenceRecorded:
    """The evidence with placeholders in what somebody wrote, as the tenant's policy wants it."""
    changed: dict[str, object] = {}
    kinds: set[str] = set()
    for name in ("correction", "comment"):
        text = getattr(evidence, name)
        if text is not None and (redacted := privacy.redact_text(text, tenant=evidence.tenant)).counts:
            changed[name] = redacted.text
            kinds.update(redacted.counts)
    if not changed:
        return evidence
    return evidence.model_copy(
        update={**changed, "normalised": (*evidence.normalised, *(f"redacted:{kind}" for kind in sorted(kinds)))}
    )


def evidence_of(feedback: FeedbackGiven) -> EvidenceRecorded:
    """The evidence in a word of feedback. Raises Unprocessable where it says nothing."""
    said = (feedback.thumb, feedback.score, feedback.outcome, feedback.correction, feedback.comment)
    if all(value is None for value in said):
        raise Unprocessable(SAYS_NOTHING, "it has neither thumb, score, outcome, correction nor comment; give one of them")
    check_source(feedback.interaction_source)
    correction, comment = _nfc(feedback.correction), _nfc(feedback.comment)
    changed = (correction, comment) != (feedback.correction, feedback.comment)
    return EvidenceRecorded(
        tenant=feedback.tenant,
        recorded_id=_recorded_id(feedback),
        conversation_id=feedback.conversation_id,
        kind="feedback",
        said_by=feedback.given_by,
        said_at=feedback.given_at.astimezone(UTC),
        thumb=feedback.thumb,
        score=feedback.score,
        outcome=feedback.outcome,
        correction=correction,
        comment=comment,
        normalised=("nfc",) if changed else (),
    )


def _nfc(text: str | None) -> str | None:
    return None if text is None else unicodedata.normalize("NFC", text)
