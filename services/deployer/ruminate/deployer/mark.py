"""Which versions have learned from what was erased since: told on `model-marked-v1`, each mark once.

    dataset-revised-v1, adapter-trained-v1  ->  marks  ->  model-marked-v1

Nothing is taken out of service for it. A mark's event id derives from version, batch and revision, so that a second deployer, or a
second start before the first mark is read back, tells the same event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import structlog

from ruminate.deployer import metrics
from ruminate.schemas.batch import DatasetRevised
from ruminate.schemas.envelope import derive_event_id
from ruminate.schemas.flow import ADAPTER_TRAINED, DATASET_REVISED, MODEL_MARKED
from ruminate.schemas.marking import Mark, marks_by_chain
from ruminate.schemas.model import ModelMarked
from ruminate.schemas.training import AdapterTrained
from ruminate.shared.bus import BrokerUnavailable, Bus, Delivery, Readiness, Unavailable
from ruminate.shared.following import Following

log = structlog.get_logger()

SOURCE: Final = "/ruminate/deployer"


@asynccontextmanager
async def marking(bus: Bus, *, every_seconds: float) -> AsyncIterator[Readiness]:
    """Mark versions while the context is open; gives why a mark that is due is not told yet."""
    marker = Marker(bus)
    async with AsyncExitStack() as followed:
        for following in marker.followings:
            await followed.enter_async_context(following)
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(_look_again(marker, every_seconds))
            try:
                yield marker.readiness
            finally:
                looking.cancel()


async def _look_again(marker: Marker, every_seconds: float) -> None:
    while True:
        await marker.look()
        await asyncio.sleep(every_seconds)


class Marker:
    """What was trained, what was revised, and what was told of it: followed, from the beginning of each topic."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        # By their places in the log, for a topic is heard again where the broker was away.
        self._trained: dict[tuple[int, int], AdapterTrained] = {}
        self._revised: dict[tuple[int, int], DatasetRevised] = {}
        self._told: set[str] = set()
        self._looked_at = (0, 0)
        self._waits_for = ""
        self.followings: Final = (
            Following(bus, ADAPTER_TRAINED, self._take_trained),
            Following(bus, DATASET_REVISED, self._take_revised),
            Following(bus, MODEL_MARKED, self._take_marked),
        )

    def readiness(self) -> list[str]:
        """Why a mark that is due is not told yet; nothing where none is."""
        return [f"versions that learned from what was erased are not marked: {self._waits_for}"] if self._waits_for else []

    async def look(self) -> None:
        """Tell every mark that is due and was not told. What is in the way is said, and looked for again."""
        there = (len(self._trained), len(self._revised))
        if there == self._looked_at:
            return
        try:
            for following in self.followings:
                following.check()
            for (tenant, target), of_chain in marks_by_chain(self._trained.values(), self._revised.values()).items():
                for mark in of_chain:
                    await self._tell(tenant, target, mark)
        except (Unavailable, BrokerUnavailable) as error:
            self._waits_for = str(error)
            log.info("marking_postponed", why=self._waits_for)
        else:
            self._looked_at, self._waits_for = there, ""

    async def _tell(self, tenant: str, target: str, mark: Mark) -> None:
        cause = f"{target}/{mark.version}/{mark.batch_id}/{mark.revision}"
        event_id = str(derive_event_id(tenant=tenant, cause_source=SOURCE, cause_id=cause, topic=MODEL_MARKED.name))
        if event_id in self._told:
            return
        marked = ModelMarked(tenant=tenant, target_model=target, marked_at=datetime.now(UTC), **mark._asdict())
        await self._bus.publish(MODEL_MARKED, marked, self._bus.begin(MODEL_MARKED, marked, event_id=event_id, source=SOURCE))
        self._told.add(event_id)
        metrics.MARKS.labels("directly" if mark.inherited_from is None else "by_parent").inc()
        log.warning(
            "model_marked", tenant=tenant, target=target, version=mark.version, batch_id=mark.batch_id, revision=mark.revision
        )

    def _take_trained(self, delivery: Delivery[AdapterTrained]) -> None:
        self._trained[delivery.position.partition, delivery.position.offset] = delivery.payload

    def _take_revised(self, delivery: Delivery[DatasetRevised]) -> None:
        self._revised[delivery.position.partition, delivery.position.offset] = delivery.payload

    def _take_marked(self, delivery: Delivery[ModelMarked]) -> None:
        self._told.add(delivery.envelope.id)
