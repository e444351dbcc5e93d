"""Scorers: by which snapshot each tenant's interactions are judged: the newest, or the one that is pinned."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Final, Self

import structlog

from ruminate.assessor.classroom import snapshot_of
from ruminate.assessor.combiner import Combiner
from ruminate.assessor.metrics import SCORER_SNAPSHOT
from ruminate.assessor.policy import Weights
from ruminate.schemas.flow import SCORER_TAUGHT
from ruminate.schemas.scoring import ScorerTaught
from ruminate.shared.bus import BrokerUnavailable, Bus

log = structlog.get_logger()

_AGAIN_SECONDS: Final = 1.0


class Scorers:
    """The combiner of each tenant, as far as its chain of snapshots was read. `pins`: numbers by tenant, 0 is untaught.

    A context: within it, the chains are followed. Until a broker answers, everybody is untaught.
    """

    def __init__(self, bus: Bus, weights: Weights, *, pins: Mapping[str, int]) -> None:
        self._bus = bus
        self._weights = weights
        self._pins = pins
        self._untaught = Combiner(weights)
        self._numbers: dict[str, int] = {}
        self._combiners: dict[str, Combiner] = {}
        self._following: asyncio.Task[None] | None = None

    def combiner_of(self, tenant: str) -> Combiner:
        """By what this tenant's interactions are judged now."""
        return self._combiners.get(tenant, self._untaught)

    def take(self, taught: ScorerTaught) -> None:
        """One more snapshot of a chain: the first of its number counts, and only where it extends the chain."""
        tenant = taught.tenant
        if taught.number != self._numbers.get(tenant, 0) + 1:
            return
        self._numbers[tenant] = taught.number
        pin = self._pins.get(tenant)
        if pin is None or taught.number == pin:
            self._combiners[tenant] = Combiner(self._weights, snapshot_of(taught))
            SCORER_SNAPSHOT.labels(tenant).set(taught.number)

    async def __aenter__(self) -> Self:
        self._following = asyncio.create_task(self._follow(), name="follow-scorers")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            try:
                async with aclosing(self._bus.read(SCORER_TAUGHT, follow=True)) as snapshots:
                    async for snapshot in snapshots:
                        self.take(snapshot.payload)
            except BrokerUnavailable as error:
                log.warning("scorers_not_followed", why=str(error))
            await asyncio.sleep(_AGAIN_SECONDS)
