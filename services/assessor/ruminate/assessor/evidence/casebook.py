"""The casebook: where each recorded interaction stands in the log, and what evidence there is about it.

    interaction-recorded-v1 ──(ids and offsets)──▶ casebook ◀──(ids and offsets)── evidence-recorded-v1

One page a partition that is ours: both topics have the same partitions. It holds the place of the latest interactions, the latest
texts as long as they fit, and the offsets of the evidence of the window, of each interaction as much as is weighed; everything
else is read from the log when it is asked for. What is older than the window is looked for in the whole partition, once: late
evidence is rare, and counts.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import OrderedDict
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Self
from uuid import UUID

import structlog

from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import EVIDENCE_RECORDED, INTERACTION_RECORDED
from ruminate.schemas.interaction import InteractionRecorded
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import BrokerUnavailable, Bus, Delivery, OffsetLost, Unprocessable
from ruminate.shared.decoding import decode
from ruminate.shared.record import Position, Record

log = structlog.get_logger()

_AGAIN_SECONDS: Final = 1.0
MOST_EVIDENCE: Final = 50
"""Pieces of evidence about one interaction that are weighed and passed on: the latest, and thinking that was written for it."""
_SPARE: Final = 14
"""More of them than that, of which some may have been written twice, or later than what is delivered again."""
_MOST_THINKING: Final = 4


@dataclass(slots=True)
class _Said:
    """Where the evidence about one interaction stands: the latest pieces, however many there were."""

    offsets: list[int] = field(default_factory=list)
    thinking: tuple[int, ...] = ()

    def note(self, offset: int, *, is_thinking: bool) -> None:
        if is_thinking:
            self.thinking = tuple(sorted({*self.thinking, offset}))[-_MOST_THINKING:]
        elif offset not in self.offsets:
            insort(self.offsets, offset)
            del self.offsets[: -MOST_EVIDENCE - _SPARE]

    def up_to(self, offset: int) -> list[int]:
        return sorted(each for each in (*self.offsets, *self.thinking, offset) if each <= offset)


@dataclass(slots=True)
class _Page:
    """One partition. Keys are the 16 bytes of recorded ids."""

    following: asyncio.Task[None] | None = None
    caught_up: asyncio.Event = field(default_factory=asyncio.Event)
    places: OrderedDict[bytes, int] = field(default_factory=OrderedDict)
    evidence: OrderedDict[bytes, _Said] = field(default_factory=OrderedDict)
    evidence_read: bool = False
    erased: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    """Whose tombstone was seen, as many as places."""


@dataclass(frozen=True, slots=True)
class CasebookWindow:
    """How much of the log is at hand, of all partitions together."""

    interactions: int
    """Latest ones whose place is known."""
    interaction_bytes: int
    """Latest texts that are kept."""
    evidence: int
    """Interactions whose evidence is known, those of which something was said last."""


class Casebook:
    """The pages of the partitions that are ours. A context: it follows nothing any more once that is left."""

    def __init__(self, bus: Bus, window: CasebookWindow) -> None:
        self._bus = bus
        self._most_interactions = max(1, window.interactions // INTERACTION_RECORDED.partitions)
        self._most_evidence = max(1, window.evidence // EVIDENCE_RECORDED.partitions)
        self._most_bytes = window.interaction_bytes
        self._pages: dict[int, _Page] = {}
        self._recent: OrderedDict[bytes, Record] = OrderedDict()
        self._recent_bytes = 0

    async def open(self, partitions: frozenset[int]) -> None:
        """Begin to follow the interactions of these partitions, from the window's beginning on."""
        for number in partitions:
            page = self._pages.setdefault(number, _Page())
            page.following = page.following or asyncio.create_task(self._follow(number, page), name=f"follow-{number}")

    async def forget(self, partitions: frozenset[int]) -> None:
        """These partitions are another replica's now."""
        pages = [page for number in partitions if (page := self._pages.pop(number, None)) is not None]
        tasks = [page.following for page in pages if page.following is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.forget(frozenset(self._pages))

    async def interaction(self, partition: int, recorded_id: UUID, *, look_far: bool) -> Delivery[InteractionRecorded] | None:
        """The recorded interaction; None where it is not in the window, and, with `look_far`, not in the log.

        Raises BrokerUnavailable.
        """
        page = self._pages.get(partition)
        if page is not None:
            # Evidence that comes right behind its interaction waits until we have read as far as the log goes now.
            await page.caught_up.wait()
            if page.following is not None and page.following.done() and not page.following.cancelled():
                page.following.result()  # whatever ended it ends the service, and nobody waits for ever
        record = self._recent.get(recorded_id.bytes)
        if record is None:
            place = page.places.get(recorded_id.bytes) if page is not None else None
            if place is not None:
                record = await self._record_at(partition, place)
            elif look_far:
                record = await self._look_for(partition, recorded_id)
        return None if record is None else _delivered(INTERACTION_RECORDED, record, self._bus.source)

    def is_erased(self, partition: int, recorded_id: UUID) -> bool:
        """Whether the interaction that was looked for has a tombstone in the log."""
        page = self._pages.get(partition)
        return page is not None and recorded_id.bytes in page.erased

    async def evidence(self, delivery: Delivery[EvidenceRecorded]) -> list[tuple[int, EvidenceRecorded]]:
        """The latest evidence about the same interaction up to this one, by offset, each said once. Raises BrokerUnavailable.

        Of what is no thinking at least MOST_EVIDENCE pieces, or all that the window has: of a question that a thousand people
        judge, each word costs as much as the fiftieth did.
        """
        partition, offset = delivery.position.partition, delivery.position.offset
        key = delivery.payload.recorded_id.bytes
        page = self._pages.setdefault(partition, _Page())
        if not page.evidence_read:
            await self._read_evidence(partition, page, offset)
        said = self._note_evidence(page, key, offset, delivery.payload)
        found: dict[str, tuple[int, EvidenceRecorded]] = {}
        for each in dict.fromkeys(said.up_to(offset)):  # what came later is judged with what came later
            if each == offset:
                found.setdefault(delivery.envelope.id, (each, delivery.payload))
                continue
            earlier = await self._evidence_at(partition, each)
            if earlier is not None:
                found.setdefault(earlier.envelope.id, (each, earlier.payload))
        return list(found.values())

    # Reading.

    async def _follow(self, number: int, page: _Page) -> None:
        """Keep the places of what is recorded in a partition, and the texts of the latest."""
        try:
            await self._follow_on(number, page)
        finally:
            page.caught_up.set()

    async def _follow_on(self, number: int, page: _Page) -> None:
        start: int | None = -self._most_interactions
        while True:
            try:
                # To the end as it is now first, so that we know when we are there; then on and on.
                for follow in (False, True):
                    records = self._bus.records(INTERACTION_RECORDED, partitions=(number,), start=start, follow=follow)
                    async with aclosing(records) as reading:
                        async for record in reading:
                            self._note(page, record)
                            start = record.offset + 1
                    page.caught_up.set()
            except (BrokerUnavailable, OffsetLost) as error:
                log.warning("casebook_not_followed", partition=number, why=str(error))
                start = -self._most_interactions
                await asyncio.sleep(_AGAIN_SECONDS)

    def _note(self, page: _Page, record: Record) -> None:
        key = _id_of(record)
        if key is None:
            return
        if record.value is None:  # erased
            page.places.pop(key, None)
            self._drop(key)
            self._note_erased(page, key)
            return
        page.erased.pop(key, None)
        page.places.setdefault(key, record.offset)
        if len(page.places) > self._most_interactions:
            page.places.popitem(last=False)
        if key not in self._recent:
            self._recent[key] = record
            self._recent_bytes += len(record.value)
            while self._recent_bytes > self._most_bytes and self._recent:
                self._drop(next(iter(self._recent)))

    def _note_erased(self, page: _Page, key: bytes) -> None:
        page.erased[key] = None
        if len(page.erased) > self._most_interactions:
            page.erased.popitem(last=False)

    def _drop(self, key: bytes) -> None:
        record = self._recent.pop(key, None)
        if record is not None:
            self._recent_bytes -= len(record.value or b"")

    async def _read_evidence(self, partition: int, page: _Page, end: int) -> None:
        """Note what evidence stands before the first that is delivered."""
        reading = self._bus.read(EVIDENCE_RECORDED, partitions=(partition,), start=-self._most_evidence)
        async with aclosing(reading) as deliveries:
            async for earlier in deliveries:
                if earlier.position.offset >= end:
                    break
                self._note_evidence(page, earlier.payload.recorded_id.bytes, earlier.position.offset, earlier.payload)
        page.evidence_read = True

    def _note_evidence(self, page: _Page, key: bytes, offset: int, evidence: EvidenceRecorded) -> _Said:
        said = page.evidence.setdefault(key, _Said())
        page.evidence.move_to_end(key)
        said.note(offset, is_thinking=evidence.kind == "thinking")
        if len(page.evidence) > self._most_evidence:  # the interaction of which nothing was said for longest
            page.evidence.popitem(last=False)
        return said

    async def _evidence_at(self, partition: int, offset: int) -> Delivery[EvidenceRecorded] | None:
        record = await self._first(EVIDENCE_RECORDED, partition, offset)
        if record is None or record.offset != offset or record.value is None:
            return None  # erased since
        return _delivered(EVIDENCE_RECORDED, record, self._bus.source)

    async def _record_at(self, partition: int, offset: int) -> Record | None:
        record = await self._first(INTERACTION_RECORDED, partition, offset)
        return record if record is not None and record.offset == offset and record.value is not None else None

    async def _first(self, topic: Topic[Any], partition: int, offset: int) -> Record | None:
        try:
            async with aclosing(self._bus.records(topic, partitions=(partition,), start=offset)) as records:
                async for record in records:
                    return record
        except OffsetLost:
            return None
        return None

    async def _look_for(self, partition: int, recorded_id: UUID) -> Record | None:
        """In the whole partition: what is older than the window, or not there at all."""
        found: Record | None = None
        async with aclosing(self._bus.records(INTERACTION_RECORDED, partitions=(partition,))) as records:
            async for record in records:
                if _id_of(record) == recorded_id.bytes:
                    # To the end: a tombstone may follow.
                    found = None if record.value is None else found or record
                    if record.value is None and (page := self._pages.get(partition)) is not None:
                        self._note_erased(page, recorded_id.bytes)
        log.info("interaction_looked_for", partition=partition, found=found is not None)
        return found


def _id_of(record: Record) -> bytes | None:
    """The event's id, which is the record's key."""
    try:
        return UUID((record.key or b"").decode()).bytes
    except ValueError:
        return None


def _delivered(topic: Topic[Any], record: Record, source: str) -> Delivery[Any] | None:
    try:
        payload, envelope = decode(topic, record.value, record.headers, timestamp_ms=record.timestamp)
    except Unprocessable:
        return None
    place = Position(topic.name, record.partition, record.offset)
    return Delivery(topic, payload, envelope, place, record.headers, record.value or b"", source)
