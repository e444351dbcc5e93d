"""Scorers: by which snapshot an interaction is judged: the last that was in effect when it occurred, or the one that is pinned.

A redelivered interaction has to give the same verdict, byte for byte, whatever was learned meanwhile, and on whichever replica.
So a snapshot is in effect only some time after it was told, and nobody judges who has not read the chains far enough by then.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from ruminate.assessor.judging.combiner import Combiner
from ruminate.assessor.learning.classroom import snapshot_of
from ruminate.assessor.metrics import SCORER_SNAPSHOT
from ruminate.assessor.policy import Weights
from ruminate.schemas.flow import SCORER_TAUGHT
from ruminate.schemas.scoring import ScorerTaught
from ruminate.shared.bus import Bus, Unavailable
from ruminate.shared.decoding import now
from ruminate.shared.following import follow

_LOOK_SECONDS: Final = 0.25
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class Scorers:
    """The combiners of each tenant, as far as its chain of snapshots was read. `pins`: numbers by tenant, 0 is untaught.

    A context: within it, the chains are followed. `effective_after`: what the classrooms give everybody to hear of a snapshot.
    """

    def __init__(
        self,
        bus: Bus,
        weights: Weights,
        *,
        pins: Mapping[str, int],
        effective_after: timedelta,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._bus = bus
        self._weights = weights
        self._pins = pins
        self._clock = clock
        self._most_behind = effective_after / 2  # the other half is for what was told and is not visible yet
        self._untaught = Combiner(weights)
        self._numbers: dict[str, int] = {}
        self._pinned: dict[str, Combiner] = {}
        self._chains: defaultdict[str, tuple[list[datetime], list[Combiner]]] = defaultdict(lambda: ([], []))
        self._read_up_to = _NEVER
        self._following: asyncio.Task[None] | None = None

    def combiner_of(self, tenant: str, at: datetime) -> Combiner:
        """By what is judged what occurred at that time.

        Raises Unavailable while the chains are not read far enough to say so.
        """
        pin = self._pins.get(tenant)
        if pin == 0:
            return self._untaught
        if pin is not None and tenant in self._pinned:
            return self._pinned[tenant]
        if self._following is not None and self._following.done():
            self._following.result()  # whatever ended it ends the service
        # A time to come, by a clock that is ahead, waits for nobody.
        if self._read_up_to < min(at, self._clock()) - self._most_behind:
            raise Unavailable("what the scorers have learned is not read yet", retry_after_seconds=_LOOK_SECONDS)
        if pin is not None:
            return self._untaught  # its snapshot is not there yet, or never will be
        effective, combiners = self._chains.get(tenant, ((), ()))
        place = bisect_right(effective, at)
        return combiners[place - 1] if place else self._untaught

    def take(self, taught: ScorerTaught) -> None:
        """One more snapshot of a chain: the first of its number counts, and only where it extends the chain."""
        tenant = taught.tenant
        if taught.number != self._numbers.get(tenant, 0) + 1:
            return
        self._numbers[tenant] = taught.number
        pin = self._pins.get(tenant)
        if pin is not None and taught.number != pin:
            return
        combiner = Combiner(self._weights, snapshot_of(taught))
        SCORER_SNAPSHOT.labels(tenant).set(taught.number)
        if pin is not None:
            self._pinned[tenant] = combiner
            return
        effective, combiners = self._chains[tenant]
        effective.append(max(taught.effective_at, effective[-1]) if effective else taught.effective_at)
        combiners.append(combiner)

    def caught_up(self, moment: datetime) -> None:
        """Everything that was told by then is read."""
        self._read_up_to = max(self._read_up_to, moment)

    async def __aenter__(self) -> Self:
        self._following = asyncio.create_task(self._follow(), name="follow-scorers")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def _follow(self) -> None:
        await follow(self._bus, SCORER_TAUGHT, lambda snapshot: self.take(snapshot.payload), caught_up=self.caught_up)
