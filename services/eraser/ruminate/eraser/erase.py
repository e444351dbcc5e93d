"""From a request to the word that it is done: every open erasure is looked for in one pass, again and again until nothing is left.

    erasure-requested-v1  ──▶  held  ──▶  pass  ──▶  records-erased-v1: tombstoned
                                 ▲          │
                                 └── waits ─┴──▶  nothing left: markers  ──▶  records-erased-v1: finished  ──▶  committed

All state is in the log: a request is committed only when it is finished, and what was told of it says how far it is. So whoever
reads its partition next goes on from there; at worst a pass is run twice, and finds nothing the second time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from ruminate.eraser.decide import Life, Told, account, due_at, next_stage, settles_in, told_by
from ruminate.eraser.lives import COMPACTED
from ruminate.eraser.metrics import FINISHED, OLDEST, OPEN, PASS_SECONDS, PASSES, SECONDS
from ruminate.eraser.sweep import mark, sweep
from ruminate.schemas.erasure import ErasureRequested, RecordsErased
from ruminate.schemas.flow import RECORDS_ERASED
from ruminate.shared.bus import BrokerUnavailable, Delivery, Hold, OffsetLost, Unavailable, Unprocessable
from ruminate.shared.decoding import now
from ruminate.shared.member import Member

log = structlog.get_logger()

NOT_ITS_TENANT: Final = "subject_is_not_the_tenant"
_AGAIN: Final = timedelta(seconds=2)
_LONGEST_WAIT: Final = timedelta(hours=1)

ReadLives = Callable[[], Awaitable[Mapping[str, Life]]]


@dataclass(slots=True)
class _Open:
    """An erasure that is asked for, ours, and not finished."""

    delivery: Delivery[ErasureRequested]
    hold: Hold
    told: Told | None
    due: datetime


class Eraser:
    """The erasures of the partitions that are ours."""

    def __init__(self, bus: Member, read_lives: ReadLives, *, settle_seconds: float, clock: Callable[[], datetime] = now) -> None:
        self._bus = bus
        self._read_lives = read_lives
        self._at_least = timedelta(seconds=settle_seconds)
        self._clock = clock
        self._open: dict[str, _Open] = {}
        self._told: dict[str, Told] = {}
        self._changed = asyncio.Event()

    async def know(self, _: frozenset[int]) -> None:
        """Read what was told so far: others may have gone on with what is ours now."""
        try:
            async with aclosing(self._bus.read(RECORDS_ERASED)) as deliveries:
                async for delivery in deliveries:
                    event = delivery.payload
                    self._told[event.erasure_id] = told_by(self._told.get(event.erasure_id), event)
        except BrokerUnavailable as error:
            raise Unavailable(str(error)) from error

    async def take(self, delivery: Delivery[ErasureRequested]) -> None:
        """Take a request in; it stays uncommitted until it is finished."""
        request, erasure_id = delivery.payload, delivery.envelope.id
        if request.scope == "tenant" and request.subject != request.tenant:
            raise Unprocessable(NOT_ITS_TENANT, "scope is tenant, and subject another than tenant: send the tenant's name in both")
        told = self._told.get(erasure_id)
        if request.what != "everything" or erasure_id in self._open or (told is not None and told.finished):
            return
        self._open[erasure_id] = _Open(delivery, delivery.hold(), told, due_at(request, told, self._at_least))
        log.info("erasure_taken", erasure_id=erasure_id, scope=request.scope, passes=told.passes if told else 0)
        self._show()
        self._changed.set()

    async def forget(self, partitions: frozenset[int]) -> None:
        """These partitions are another replica's now."""
        for erasure_id, each in list(self._open.items()):
            if each.delivery.position.partition in partitions:
                del self._open[erasure_id]
        self._show()

    async def run(self) -> None:
        """Work for as long as this lasts."""
        while True:
            due = [each.due for each in self._open.values()]
            waits = min(due, default=self._clock() + _LONGEST_WAIT) - self._clock()
            if waits > timedelta():
                self._changed.clear()
                try:
                    async with asyncio.timeout(min(waits, _LONGEST_WAIT).total_seconds()):
                        await self._changed.wait()
                except TimeoutError:
                    pass  # then one of them is due
                continue
            try:
                await self._pass()
            except (BrokerUnavailable, OffsetLost) as error:
                log.warning("erasure_pass_broken_off", why=str(error))
                PASSES.labels("broken_off").inc()
                self._put_off(self._clock() + _AGAIN)

    async def _pass(self) -> None:
        began_at = self._clock()
        wanted = {erasure_id: each for erasure_id, each in self._open.items() if each.due <= began_at}
        lives = await self._read_lives()
        settle = settles_in((lives[name] for name in COMPACTED), at_least=self._at_least)
        with PASS_SECONDS.time():
            search = await sweep(self._bus, {erasure_id: each.delivery.payload for erasure_id, each in wanted.items()})
        events: dict[str, RecordsErased] = {}
        for erasure_id, each in wanted.items():
            request, found = each.delivery.payload, search.found[erasure_id]
            stage = next_stage(request, each.told, found, began_at=began_at, settle=settle)
            if isinstance(stage, datetime):
                each.due = stage
            else:
                events[erasure_id] = account(
                    erasure_id, request, each.told, stage=stage, search=search, lives=lives, at=self._clock()
                )
        finished = [(erasure_id, event) for erasure_id, event in events.items() if event.stage == "finished"]
        await mark(self._bus, finished)
        for erasure_id, event in events.items():
            await self._tell(erasure_id, wanted[erasure_id], event, settle)
        PASSES.labels("erased" if any(found.live.total() for found in search.found.values()) else "nothing_left").inc()

    async def _tell(self, erasure_id: str, each: _Open, event: RecordsErased, settle: timedelta) -> None:
        if self._open.get(erasure_id) is not each:
            return  # its partition went elsewhere meanwhile
        ordinal = 2 * event.pass_number + (event.stage == "finished")
        await self._bus.publish(RECORDS_ERASED, event, each.delivery.follow(RECORDS_ERASED, event, ordinal=ordinal))
        each.told = self._told[erasure_id] = told_by(each.told, event)
        each.due = due_at(each.delivery.payload, each.told, settle)
        log.info("records_erased", erasure_id=erasure_id, stage=event.stage, passes=event.pass_number, erased=event.erased)
        if event.stage == "finished":
            del self._open[erasure_id]
            each.hold.release()
            FINISHED.inc()
            SECONDS.observe(max(0.0, (event.erased_at - each.delivery.payload.requested_at).total_seconds()))
        self._show()

    def _put_off(self, until: datetime) -> None:
        for each in self._open.values():
            each.due = max(each.due, until)

    def _show(self) -> None:
        OPEN.set(len(self._open))
        asked = [each.delivery.payload.requested_at.timestamp() for each in self._open.values()]
        OLDEST.set(min(asked, default=0.0))
