"""The classroom: lessons in, numbered snapshots of what they taught out. A fold over the log, so it survives everything.

    lesson-noted-v1  ->  learn  ->  scorer-taught-v1  (every so many lessons)

A snapshot names the last lesson that is in it; whoever comes after it reads on from there. The first record of a number that
extends a tenant's chain *is* that snapshot. It takes effect only later, so that everybody knows of it by then, and what is judged
twice is judged by the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog

from ruminate.assessor import metrics
from ruminate.assessor.judging.combiner import Snapshot
from ruminate.assessor.judging.signals import NAMES, Signals
from ruminate.assessor.learning.teacher import Lesson, Teacher, packed
from ruminate.assessor.policy import Weights
from ruminate.schemas.flow import LESSON_NOTED, SCORER_TAUGHT
from ruminate.schemas.scoring import LessonNoted, ScorerTaught
from ruminate.shared.bus import BrokerUnavailable, Bus, Delivery, OffsetLost, Unavailable
from ruminate.shared.decoding import now

log = structlog.get_logger()

_RETRY_SECONDS: Final = 1.0
_FIRST_CUT: Final = 20
_MOST_IDS: Final = 50_000


@dataclass(slots=True)
class _Room:
    """One tenant's teacher, and how far in the log it has come."""

    teacher: Teacher
    to_offset: int = -1
    cut_at: int = 0
    effective_at: datetime | None = None
    seen: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def due(self, every: int) -> bool:
        """Whether a snapshot is worth it: soon in the beginning, and after that every so many lessons."""
        return self.teacher.lessons >= self.cut_at + max(_FIRST_CUT, min(every, self.cut_at))


class Classroom:
    """The teachers of the tenants whose lessons are ours."""

    def __init__(
        self,
        bus: Bus,
        weights: Weights,
        *,
        snapshot_every: int,
        effective_after: timedelta,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._bus = bus
        self._weights = weights
        self._every = snapshot_every
        self._effective_after = effective_after
        self._clock = clock
        self._rooms: dict[tuple[int, str], _Room] = {}

    async def learn(self, delivery: Delivery[LessonNoted]) -> None:
        """Take one lesson in; tell what was learned where a snapshot is due."""
        partition, tenant = delivery.position.partition, delivery.payload.tenant
        room = self._rooms.get((partition, tenant))
        if room is None:
            try:
                room = self._rooms[partition, tenant] = await self._enter(partition, tenant, delivery.position.offset)
            except BrokerUnavailable as error:
                raise Unavailable(str(error), retry_after_seconds=_RETRY_SECONDS) from error
        if not self._take(room, delivery):
            return
        if room.due(self._every):
            delivery.tell(SCORER_TAUGHT, self._cut(room, tenant))
            measured = room.teacher.reliability()
            metrics.BRIER_SCORE.labels(tenant).set(measured.brier)
            metrics.CALIBRATION_ERROR.labels(tenant).set(measured.calibration_error)

    async def forget(self, partitions: frozenset[int]) -> None:
        """These partitions are another replica's now."""
        self._rooms = {key: room for key, room in self._rooms.items() if key[0] not in partitions}

    def _take(self, room: _Room, delivery: Delivery[LessonNoted]) -> bool:
        """Learn, unless it is in already: before the snapshot, or said twice."""
        offset, name = delivery.position.offset, delivery.envelope.id
        if offset <= room.to_offset or name in room.seen:
            return False
        room.seen[name] = None
        if len(room.seen) > _MOST_IDS:
            room.seen.popitem(last=False)
        room.to_offset = offset
        room.teacher.learn(lesson_from(delivery.payload))
        metrics.LESSONS_LEARNED.labels("good" if delivery.payload.good else "bad").inc()
        return True

    async def _enter(self, partition: int, tenant: str, end: int) -> _Room:
        """The tenant's teacher as it is before the lesson at `end`."""
        room = _Room(Teacher(self._weights))
        async with aclosing(self._bus.read(SCORER_TAUGHT, partitions=(partition,))) as snapshots:
            async for snapshot in snapshots:
                taught = snapshot.payload
                if taught.tenant == tenant and taught.number == room.teacher.number + 1:
                    room = self._going_on(taught)
        try:
            await self._catch_up(room, partition, tenant, room.to_offset + 1, end)
        except OffsetLost:
            await self._catch_up(room, partition, tenant, None, end)  # the oldest have left the log
        log.info("classroom_entered", tenant=tenant, number=room.teacher.number, lessons=room.teacher.lessons)
        return room

    def _going_on(self, taught: ScorerTaught) -> _Room:
        teacher = Teacher.going_on(
            self._weights,
            number=taught.number,
            lessons=taught.lessons,
            names=taught.names,
            corrections=taught.exact,
            covariance=taught.covariance,
            taught=taught.taught,
        )
        return _Room(teacher, to_offset=taught.to_offset, cut_at=taught.lessons, effective_at=taught.effective_at)

    async def _catch_up(self, room: _Room, partition: int, tenant: str, start: int | None, end: int) -> None:
        lessons: AsyncGenerator[Delivery[LessonNoted], None] = self._bus.read(LESSON_NOTED, partitions=(partition,), start=start)
        async with aclosing(lessons) as earlier:
            async for delivery in earlier:
                if delivery.position.offset >= end:
                    return
                if delivery.payload.tenant == tenant and self._take(room, delivery) and room.due(self._every):
                    # Whoever was here before us has told it, or was about to: its cause comes to us again then.
                    self._cut(room, tenant)

    def _cut(self, room: _Room, tenant: str) -> ScorerTaught:
        snapshot, teacher = room.teacher.snapshot(), room.teacher
        room.cut_at = teacher.lessons
        effective_at = self._clock() + self._effective_after
        room.effective_at = effective_at if room.effective_at is None else max(room.effective_at, effective_at)
        measured = teacher.reliability()
        return ScorerTaught(
            tenant=tenant,
            number=snapshot.number,
            combiner=snapshot.version,
            lessons=snapshot.lessons,
            to_offset=room.to_offset,
            effective_at=room.effective_at,
            bias=snapshot.bias,
            corrections=snapshot.corrections,
            names=NAMES,
            exact=tuple(teacher.corrections),
            covariance=packed(teacher.covariance),
            taught=teacher.taught,
            reliability_lessons=measured.lessons,
            brier=measured.brier,
            calibration_error=measured.calibration_error,
        )


def lesson_from(noted: LessonNoted) -> Lesson:
    """The lesson of an event; signals that we do not know are left out."""
    shown = Signals(*(noted.signals.get(name, 0.0) for name in NAMES))
    return Lesson(shown, noted.good, noted.weight, noted.source, noted.by_reference)


def noted_of(lesson: Lesson, **about: object) -> LessonNoted:
    """The event of a lesson."""
    return LessonNoted.model_validate(
        {
            "signals": {name: round(value, 4) for name, value in zip(NAMES, lesson.shown, strict=True) if round(value, 4)},
            "good": lesson.good,
            "weight": lesson.weight,
            "source": lesson.source,
            "by_reference": lesson.by_reference,
            **about,
        }
    )


def snapshot_of(taught: ScorerTaught) -> Snapshot:
    """What a verdict rests on."""
    return Snapshot(number=taught.number, lessons=taught.lessons, bias=taught.bias, corrections=taught.corrections)
