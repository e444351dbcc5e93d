"""From the topic: a completed interaction in, a recorded one out, once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Final

import structlog

from ruminate.collector.decide import CONFLICT, Normalised, Seen, check_id, check_source, judge_repeat, normalise, record, redact
from ruminate.collector.metrics import INTERACTIONS_COLLECTED, READ_BACK_SECONDS, VALUES_REDACTED
from ruminate.collector.privacy.redaction import Privacy
from ruminate.collector.settings import CollectorSettings
from ruminate.collector.window import Window
from ruminate.schemas.erasure import Erasures, names_of
from ruminate.schemas.flow import INTERACTION_COMPLETED, INTERACTION_RECORDED
from ruminate.schemas.interaction import InteractionCompleted
from ruminate.shared.bus import BrokerUnavailable, Bus, Delivery, OffsetLost, Unavailable, Unprocessable

log = structlog.get_logger()

_BROKER_RETRY_SECONDS: Final = 1.0
_RECORDED, _DUPLICATES, _CONFLICTS, _ERASED = map(INTERACTIONS_COLLECTED.labels, ("recorded", "duplicate", "conflict", "erased"))


class Recorder:
    """Records each interaction of the topic once, as far as the window reaches."""

    def __init__(
        self, bus: Bus, window: Window, settings: CollectorSettings, privacy: Privacy, erasures: Erasures | None = None
    ) -> None:
        self._bus = bus
        self._erasures = erasures
        self._window = window
        self._privacy = privacy
        self._read_back_records = settings.collector_read_back_records
        self._read_back_seconds = settings.collector_read_back_seconds
        self._known: set[int] = set()
        self._reading_back: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def record_one(self, delivery: Delivery[InteractionCompleted]) -> None:
        """Answer one completed interaction with its record, redacted; drop a repeat and what is erased, refuse a conflict."""
        # Before anything else: what is refused becomes a dead letter, with all that it says.
        if self._is_erased(delivery):
            _ERASED.inc()
            return
        if delivery.retried:
            # It may have stood in a partition that is not ours: what is read back for it says nothing of later records there.
            await self._know(delivery, for_good=False)
        elif delivery.position.partition not in self._known:
            await self._know(delivery)
        completed = _admit(delivery)
        recorded_id = delivery.derived_id(INTERACTION_RECORDED)
        match self._judge(delivery, recorded_id.bytes, completed.fingerprint):
            case "duplicate":
                _DUPLICATES.inc()
            case "conflict":
                _CONFLICTS.inc()
                raise Unprocessable(CONFLICT, "this interaction id was recorded with other content; give the new one its own id")
            case "first":
                completed = redact(completed, self._privacy)
                recorded = record(completed, source=delivery.envelope.source, recorded_id=recorded_id)
                delivery.tell_encoded(INTERACTION_RECORDED, recorded, order=completed.payload.conversation_id)
                _RECORDED.inc()
                for kind, values in completed.redacted.items():
                    VALUES_REDACTED.labels(kind).inc(values)

    async def forget(self, partitions: frozenset[int]) -> None:
        """These partitions are another replica's now: read them back when they return. What was seen stays true."""
        self._known -= partitions

    def _is_erased(self, delivery: Delivery[InteractionCompleted]) -> bool:
        payload, envelope = delivery.payload, delivery.envelope
        if self._erasures is None or not self._erasures.concern(payload.tenant):
            return False
        recorded_id = delivery.derived_id(INTERACTION_RECORDED)
        names = names_of(payload, source=envelope.source, recorded_id=recorded_id, seen_at=envelope.time)
        return self._erasures.covers(names) is not None

    def _judge(self, delivery: Delivery[InteractionCompleted], key: bytes, fingerprint: bytes) -> str:
        position = (delivery.position.partition, delivery.position.offset)
        outcome = judge_repeat(self._window.seen(key), fingerprint, position)
        if outcome == "first":
            self._window.remember(key, Seen(fingerprint, *position))
        return outcome

    async def _know(self, delivery: Delivery[InteractionCompleted], *, for_good: bool = True) -> None:
        """Read back what stands before the first delivery of a partition, which is where its group has committed to."""
        partition, end = delivery.position.partition, delivery.position.offset
        async with self._reading_back[partition]:
            if partition in self._known:
                return
            with READ_BACK_SECONDS.time():
                try:
                    async with asyncio.timeout(self._read_back_seconds):
                        await self._read_back(partition, end)
                except TimeoutError:
                    log.warning("window_read_back_cut_short", partition=partition, limit_seconds=self._read_back_seconds)
                except BrokerUnavailable as error:
                    raise Unavailable(str(error), retry_after_seconds=_BROKER_RETRY_SECONDS) from error
            if for_good:
                self._known.add(partition)

    async def _read_back(self, partition: int, end: int) -> None:
        if end == 0 or self._read_back_records == 0:
            return
        try:
            await self._read_span(partition, max(0, end - self._read_back_records), end)
        except OffsetLost:
            # The oldest of them have left the log; from its beginning, then.
            await self._read_span(partition, None, end)

    async def _read_span(self, partition: int, start: int | None, end: int) -> None:
        async for earlier in self._bus.read(INTERACTION_COMPLETED, partitions=(partition,), start=start):
            if earlier.position.offset >= end:
                return
            try:
                completed = _admit(earlier)
            except Unprocessable:
                continue  # a dead letter: it was not recorded, so it is no first record
            self._judge(earlier, earlier.derived_id(INTERACTION_RECORDED).bytes, completed.fingerprint)


def _admit(delivery: Delivery[InteractionCompleted]) -> Normalised:
    """The interaction, normalised. Raises Unprocessable where it contradicts its envelope."""
    check_id(delivery.payload, delivery.envelope.id)
    check_source(delivery.envelope.source)
    return normalise(delivery.payload)
