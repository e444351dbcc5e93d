"""Words: what operators say about training, heard as it is said, beside whatever runs.

What is decided is decided from the log. This wakes whoever waits to look there again, and stops a job that is cancelled.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

import structlog

from ruminate.schemas.training import TrainingDirected
from ruminate.shared.bus import Delivery
from ruminate.trainer.turns import Chain

log = structlog.get_logger()


class Words:
    """Of every target, also of those that others train. Used from one event loop alone."""

    def __init__(self) -> None:
        self._counts: defaultdict[Chain, int] = defaultdict(int)
        self._cancelled: set[tuple[Chain, str, int]] = set()
        self._said: asyncio.Event = asyncio.Event()

    def take(self, delivery: Delivery[TrainingDirected]) -> None:
        """One more word; hearing it again wakes in vain, and no more."""
        word = delivery.payload
        chain = (word.tenant, word.target_model)
        if word.direction == "cancel" and word.batch_id is not None and word.attempt is not None:
            self._cancelled.add((chain, word.batch_id, word.attempt))
        log.info("training_directed", direction=word.direction, target=word.target_model, batch_id=word.batch_id)
        self.wake(chain)

    def wake(self, chain: Chain) -> None:
        """Something else has come to pass that a batch of this target may wait for."""
        self._counts[chain] += 1
        self._said.set()
        self._said = asyncio.Event()

    def count(self, chain: Chain) -> int:
        """How many were heard about a target: to be asked before the log is, so that none slips in between."""
        return self._counts[chain]

    async def after(self, count: int, chain: Chain) -> None:
        """Return once more than so many were heard."""
        while self._counts[chain] <= count:
            await self._said.wait()

    async def cancels(self, chain: Chain, batch_id: str, attempt: int) -> None:
        """Return once this attempt is cancelled."""
        while (chain, batch_id, attempt) not in self._cancelled:
            await self._said.wait()
