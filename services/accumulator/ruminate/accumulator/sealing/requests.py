"""Requests: operators' words that a target is to be sealed, as long as no batch has answered them.

    batch-requested-v1  ->  who has asked for what  ->  the next batch of the chain, which names them

A word counts once. Which are answered is said by the batches themselves, so a restart knows it from the log.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import aclosing
from typing import Final

import structlog

from ruminate.schemas.batch import BatchRequested
from ruminate.schemas.flow import BATCH_REQUESTED
from ruminate.shared.bus import Bus, Delivery

log = structlog.get_logger()

_NONE: Final[tuple[str, ...]] = ()


class Requests:
    """What is asked for, of every partition; following the topic is its owner's, who hands it every word once or more."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._open: dict[tuple[str, str], dict[str, BatchRequested]] = {}
        self._answered: set[str] = set()

    def of(self, tenant: str, target: str) -> Collection[str]:
        """The event ids of the words that no batch has answered, in the order in which they were said."""
        asked = self._open.get((tenant, target))
        return _NONE if asked is None else asked.keys()

    def take(self, delivery: Delivery[BatchRequested]) -> None:
        """One more word; the first of an id counts."""
        asked, event_id = delivery.payload, delivery.envelope.id
        waiting = self._open.setdefault((asked.tenant, asked.target_model), {})
        if event_id not in self._answered and event_id not in waiting:
            waiting[event_id] = asked
            log.info(
                "batch_requested",
                tenant=asked.tenant,
                target=asked.target_model,
                event_id=event_id,
                requested_at=asked.requested_at.isoformat(),
            )

    def answered(self, tenant: str, target: str, event_ids: Iterable[str]) -> None:
        """A batch of the chain names these."""
        waiting = self._open.get((tenant, target), {})
        for event_id in event_ids:
            self._answered.add(event_id)
            waiting.pop(event_id, None)

    async def read(self, partitions: Collection[int]) -> None:
        """Read what was asked for in these partitions until now. Raises BrokerUnavailable."""
        async with aclosing(self._bus.read(BATCH_REQUESTED, partitions=partitions)) as words:
            async for word in words:
                self.take(word)
