"""Waiting: what the batches in hand wait for, shown to whoever asks, and how a wait or a job is ended by what comes first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.flow import TRAINING_PROGRESSED
from ruminate.schemas.training import TrainingProgressed
from ruminate.shared.bus import BrokerUnavailable, Bus
from ruminate.trainer import metrics
from ruminate.trainer.decide import Wait

log = structlog.get_logger()

_Key = tuple[str, str, str]
_OWED: Final = frozenset({"parent", "base"})


class Waits:
    """By batch. Each reason is told once, on training-progressed-v1, where `ruminate train list` reads it."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._shown: dict[_Key, Wait] = {}

    def reasons(self) -> list[str]:
        """Why the trainer is not ready: what others owe it."""
        return [f"a batch waits: {wait.what}" for wait in self._shown.values() if wait.why in _OWED]

    def notes(self) -> list[str]:
        """What else is waited for: other jobs, and operators."""
        return [wait.what for wait in self._shown.values() if wait.why not in _OWED]

    async def show(self, batch: TrainingBatchSealed, attempt: int, wait: Wait) -> None:
        """The batch waits for this, until it is forgotten or waits for something else."""
        if self._shown.get(_key(batch)) != wait:
            self.forget(batch)
            self._shown[_key(batch)] = wait
            metrics.WAITING.labels(wait.why).inc()
            await self._tell(batch, attempt, wait)

    def forget(self, batch: TrainingBatchSealed) -> None:
        """It waits no more."""
        wait = self._shown.pop(_key(batch), None)
        if wait is not None:
            metrics.WAITING.labels(wait.why).dec()

    async def _tell(self, batch: TrainingBatchSealed, attempt: int, wait: Wait) -> None:
        log.info("batch_waits", batch_id=batch.batch_id, attempt=attempt, why=wait.why)
        told = TrainingProgressed(
            tenant=batch.tenant,
            job_id=batch.batch_id,
            target_model=batch.target_model,
            phase="waiting",
            attempt=attempt,
            waits_for=wait.what,
            at=datetime.now(UTC),
        )
        try:
            await self._bus.publish(TRAINING_PROGRESSED, told, self._bus.begin(TRAINING_PROGRESSED, told))
        except BrokerUnavailable as error:
            log.warning("progress_lost", job_id=batch.batch_id, phase="waiting", error=str(error))


def _key(batch: TrainingBatchSealed) -> _Key:
    return (batch.tenant, batch.target_model, batch.batch_id)


async def first_of(
    word: Coroutine[Any, Any, None], other: asyncio.Future[Any] | None = None, *, within_seconds: float = 0.0
) -> None:
    """Return when one of the two has come, or after so many seconds where there are any. The word is heard no further then."""
    hearing = asyncio.create_task(word)
    try:
        await asyncio.wait(
            {hearing} if other is None else {hearing, other},
            timeout=within_seconds or None,
            return_when=asyncio.FIRST_COMPLETED,
        )
    finally:
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)


class Stopped(Exception):
    """What ran was stopped because somebody said so."""


@asynccontextmanager
async def stopped_by(word: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Cancel the body once the word has come, and raise Stopped when it is gone; a cancellation from outside stays one."""
    loop = asyncio.get_running_loop()
    scope = asyncio.timeout(None)
    hearing = asyncio.create_task(word)

    def stop(_: asyncio.Task[None]) -> None:
        scope.reschedule(loop.time())

    hearing.add_done_callback(stop)
    try:
        async with scope:
            yield
    except TimeoutError as error:
        if scope.expired():
            raise Stopped from error
        raise
    finally:
        hearing.remove_done_callback(stop)
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)
