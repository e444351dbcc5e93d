"""Feedback: somebody's word about an answer becomes evidence about the interaction that was recorded."""

from __future__ import annotations

import unicodedata
from datetime import UTC
from typing import Final

from ruminate.collector.decide import check_source
from ruminate.collector.metrics import FEEDBACK_COLLECTED
from ruminate.schemas.envelope import derive_event_id
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.feedback import FeedbackGiven
from ruminate.schemas.flow import EVIDENCE_RECORDED, INTERACTION_RECORDED
from ruminate.shared.bus import Delivery, Unprocessable

SAYS_NOTHING: Final = "says_nothing"


async def record_feedback(delivery: Delivery[FeedbackGiven]) -> None:
    """Answer one word of feedback with the evidence that it is. Repeats have one id, and readers keep the first."""
    delivery.tell(EVIDENCE_RECORDED, evidence_of(delivery.payload))
    FEEDBACK_COLLECTED.inc()


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
        # As the recorder derives it: the interaction's name from the names that its sender knows.
        recorded_id=derive_event_id(
            tenant=feedback.tenant,
            cause_source=feedback.interaction_source,
            cause_id=feedback.interaction_id,
            topic=INTERACTION_RECORDED.name,
        ),
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
