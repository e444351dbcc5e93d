"""From HTTP callers to the topic: validate, publish, and say what became of each interaction.

*taken* means acknowledged by all in-sync replicas. Whatever was not acknowledged may still be in the log, and sending it
again is safe: it carries the same id, and the first record of an id counts.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal
from urllib.parse import quote

from ruminate.collector.decide import Seen, check_source, check_tenant, judge_repeat, normalise
from ruminate.collector.feedback import evidence_of
from ruminate.collector.metrics import FEEDBACK_SUBMITTED, INTERACTIONS_SUBMITTED
from ruminate.collector.settings import CollectorSettings
from ruminate.collector.window import Window
from ruminate.schemas.envelope import Envelope, derive_event_id
from ruminate.schemas.feedback import FeedbackGiven
from ruminate.schemas.flow import FEEDBACK_GIVEN, INTERACTION_COMPLETED, INTERACTION_RECORDED
from ruminate.schemas.interaction import InteractionCompleted
from ruminate.shared.bus import BrokerUnavailable, Bus, Unprocessable
from ruminate.shared.decoding import decode

Status = Literal["taken", "duplicate", "conflict", "invalid", "unavailable"]

_EPOCH: Final = datetime.fromtimestamp(0, UTC)
# The gate of the topics wants an envelope; a body has none yet.
_HEADERS: Final = Envelope(id="body", source="/http", type=INTERACTION_COMPLETED.event_type, time=_EPOCH).to_headers()
_FEEDBACK_HEADERS: Final = Envelope(id="body", source="/http", type=FEEDBACK_GIVEN.event_type, time=_EPOCH).to_headers()


@dataclass(frozen=True, slots=True)
class Sender:
    """What a request says of who sends: both may be left out."""

    source: str | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one interaction."""

    line: int
    status: Status
    interaction_id: str | None = None
    error: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Submission:
    payload: InteractionCompleted
    source: str
    key: bytes
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class FeedbackAnswer:
    """What became of one word of feedback."""

    status: Literal["taken", "invalid", "unavailable"]
    feedback_id: str | None = None
    error: str | None = None
    reason: str | None = None


FEEDBACK_BYTES: Final = 512 * 1024
"""Largest feedback; its topic takes 1 MiB."""


def _read_feedback(value: bytes, sender: Sender) -> FeedbackGiven:
    """Decode, and see that it says something. Raises Unprocessable."""
    feedback, _ = decode(FEEDBACK_GIVEN, value, _FEEDBACK_HEADERS, timestamp_ms=0)
    if sender.tenant is not None and sender.tenant != feedback.tenant:
        if "tenant" in feedback.model_fields_set:
            raise Unprocessable(
                "tenant_mismatch", "tenant and the header x-ruminate-tenant differ; send one of them, or both equal"
            )
        check_tenant(sender.tenant)
        feedback = FeedbackGiven.model_validate(feedback.__dict__ | {"tenant": sender.tenant})
    if sender.source is not None:
        check_source(sender.source)
    evidence_of(feedback)
    return feedback


class Intake:
    """Publishes what callers send. Many at once; one interaction id at a time."""

    def __init__(self, bus: Bus, window: Window, settings: CollectorSettings) -> None:
        self._bus = bus
        self._window = window
        self._interaction_bytes = settings.collector_interaction_bytes
        self._acknowledgement_seconds = settings.collector_acknowledgement_seconds
        self._under_way: dict[bytes, asyncio.Future[None]] = {}

    async def take(self, value: bytes, sender: Sender, *, line: int = 1) -> Answer:
        """Take one interaction as JSON."""
        answer = await self._take(value, sender, line)
        INTERACTIONS_SUBMITTED.labels(answer.status).inc()
        return answer

    async def _take(self, value: bytes, sender: Sender, line: int) -> Answer:
        try:
            submission = self._read(value, sender)
        except Unprocessable as error:
            return Answer(line, "invalid", error=error.explanation, reason=error.reason)
        name = submission.payload.interaction_id
        while (other := self._under_way.get(submission.key)) is not None:
            await asyncio.wait((other,))
        repeat = judge_repeat(self._window.seen(submission.key), submission.fingerprint, None)
        if repeat == "duplicate":
            return Answer(line, "duplicate", name)
        if repeat == "conflict":
            return Answer(line, "conflict", name, "this interaction id was taken with other content; give the new one its own id")
        try:
            await self._publish(submission)
        except Unprocessable as error:
            return Answer(line, "invalid", name, error.explanation, error.reason)
        except (BrokerUnavailable, TimeoutError):
            return Answer(line, "unavailable", name, "the broker did not acknowledge in time; send it again with the same id")
        return Answer(line, "taken", name)

    async def take_feedback(self, value: bytes, sender: Sender) -> FeedbackAnswer:
        """Take one word of feedback as JSON. The same words have the same id, so that sending them again is safe."""
        answer = await self._take_feedback(value, sender)
        FEEDBACK_SUBMITTED.labels(answer.status).inc()
        return answer

    async def _take_feedback(self, value: bytes, sender: Sender) -> FeedbackAnswer:
        try:
            feedback = _read_feedback(value, sender)
        except Unprocessable as error:
            return FeedbackAnswer("invalid", error=error.explanation, reason=error.reason)
        source = sender.source or f"/agents/{quote(feedback.given_by, safe='')}"
        said = hashlib.sha256(feedback.__pydantic_serializer__.to_json(feedback)).hexdigest()
        envelope = self._bus.begin(FEEDBACK_GIVEN, feedback, event_id=said[:32], source=source)
        try:
            async with asyncio.timeout(self._acknowledgement_seconds):
                await self._bus.publish(FEEDBACK_GIVEN, feedback, envelope)
        except (BrokerUnavailable, TimeoutError):
            return FeedbackAnswer("unavailable", envelope.id, "the broker did not acknowledge in time; send the same again")
        return FeedbackAnswer("taken", envelope.id)

    def _read(self, value: bytes, sender: Sender) -> _Submission:
        """Decode, check against what the request says, normalise. Raises Unprocessable."""
        if len(value) > self._interaction_bytes:
            raise Unprocessable("too_large", f"the interaction has {len(value)} bytes; {self._interaction_bytes} are allowed")
        payload, _ = decode(INTERACTION_COMPLETED, value, _HEADERS, timestamp_ms=0)
        if sender.tenant is not None and sender.tenant != payload.tenant:
            if "tenant" in payload.model_fields_set:
                raise Unprocessable(
                    "tenant_mismatch", "tenant and the header x-ruminate-tenant differ; send one of them, or both equal"
                )
            check_tenant(sender.tenant)
            payload = InteractionCompleted.model_validate(payload.__dict__ | {"tenant": sender.tenant})
        source = sender.source or f"/agents/{quote(payload.agent, safe='')}"
        check_source(source)
        key = derive_event_id(
            tenant=payload.tenant, cause_source=source, cause_id=payload.interaction_id, topic=INTERACTION_RECORDED.name
        ).bytes
        return _Submission(payload, source, key, normalise(payload).fingerprint)

    async def _publish(self, submission: _Submission) -> None:
        payload = submission.payload
        envelope = self._bus.begin(INTERACTION_COMPLETED, payload, event_id=payload.interaction_id, source=submission.source)
        under_way = self._under_way[submission.key] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._acknowledgement_seconds):
                position = await self._bus.publish(INTERACTION_COMPLETED, payload, envelope)
            self._window.remember(submission.key, Seen(submission.fingerprint, position.partition, position.offset))
        finally:
            del self._under_way[submission.key]
            under_way.set_result(None)
