"""The gateway's side of the broker: what was spooled goes out, what was registered comes in.

Neither is in the way of an answer: while the broker is away, answers flow, the spool grows, and the versions that were
last known keep serving (they are kept in a file).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

import orjson
import structlog

from ruminate.gateway.decide import Catalogue
from ruminate.gateway.spool import Spool, Spooled
from ruminate.schemas.flow import INTERACTION_COMPLETED, MODEL_REGISTERED, MODEL_ROLLED_BACK
from ruminate.schemas.interaction import InteractionCompleted
from ruminate.schemas.model import ModelRegistered, ModelRolledBack
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import Bus, BusError
from ruminate.shared.store import whole_file

log = structlog.get_logger()

_IN_FLIGHT = 64
_IN_FLIGHT_BYTES = 32 * 1024 * 1024
_FIRST_DELAY_SECONDS = 0.25
_LONGEST_DELAY_SECONDS = 10.0

V = TypeVar("V", ModelRegistered, ModelRolledBack)


class Versions:
    """The catalogue, kept up to date from the log and, across restarts, in a file."""

    def __init__(self, file: Path) -> None:
        self.catalogue = Catalogue()
        self._file = file
        self._unread = {MODEL_REGISTERED.name, MODEL_ROLLED_BACK.name}
        if file.exists():
            self._load()

    def readiness(self) -> Collection[str]:
        """Why the promoted versions are unknown; empty once they were read, now or in an earlier life."""
        return [f"{topic} was never read: a promoted version may be missing" for topic in sorted(self._unread)]

    async def follow(self, bus: Bus, topic: Topic[V]) -> None:
        """Fold the topic from its beginning, on and on."""
        async for delivery in bus.read(topic):
            self._take(delivery.payload)
        self._unread.discard(topic.name)
        if not self._unread:
            self._save()
        async for delivery in bus.read(topic, follow=True):
            self._take(delivery.payload)

    def _take(self, event: ModelRegistered | ModelRolledBack) -> None:
        if not self.catalogue.take(event):
            return
        log.info("version_learned", fact=type(event).__name__, target=event.target_model, version=event.version)
        if not self._unread:
            self._save()

    def _load(self) -> None:
        try:
            kept = orjson.loads(self._file.read_bytes())
            events: list[ModelRegistered | ModelRolledBack] = [
                *map(ModelRegistered.model_validate_json, kept["registered"]),
                *map(ModelRolledBack.model_validate_json, kept["rolled_back"]),
            ]
        except (ValueError, KeyError, TypeError) as error:
            log.warning("kept_versions_unreadable", path=str(self._file), error=type(error).__name__)
            return
        for event in events:
            self.catalogue.take(event)
        self._unread.clear()

    def _save(self) -> None:
        events = self.catalogue.events()
        kept = {
            "registered": [event.model_dump_json() for event in events if isinstance(event, ModelRegistered)],
            "rolled_back": [event.model_dump_json() for event in events if isinstance(event, ModelRolledBack)],
        }
        with whole_file(self._file) as out:
            out.write(orjson.dumps(kept))


async def forward(spool: Spool, bus: Bus) -> None:
    """Publish what is in the spool, oldest first, and remove what the broker acknowledged. Raises what the bus raises."""
    while True:
        events = await spool.oldest(count=_IN_FLIGHT, limit_bytes=_IN_FLIGHT_BYTES)
        results = await asyncio.gather(*(_publish(bus, event) for _, event in events), return_exceptions=True)
        for (number, _), result in zip(events, results, strict=True):
            if result is None:
                spool.remove(number)
        failures = [result for result in results if result is not None]
        if failures:
            raise failures[0]


async def _publish(bus: Bus, event: Spooled) -> None:
    payload = InteractionCompleted.model_validate_json(event.payload)
    await bus.publish(INTERACTION_COMPLETED, payload, event.envelope)


async def stay_connected(open_bus: Callable[[], AbstractAsyncContextManager[Bus]], spool: Spool, versions: Versions) -> None:
    """Forward and follow, and begin again whenever the broker went away."""
    clock = asyncio.get_running_loop().time
    delay_seconds = _FIRST_DELAY_SECONDS
    while True:
        began = clock()
        try:
            async with open_bus() as bus:
                log.info("broker_connected")
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(forward(spool, bus))
                    tasks.create_task(versions.follow(bus, MODEL_REGISTERED))
                    tasks.create_task(versions.follow(bus, MODEL_ROLLED_BACK))
        except Exception as error:  # whatever it is, answers flow on, and nothing spooled is given up
            first = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
            log.warning(
                "broker_lost",
                error=f"{type(first).__name__}: {first}"[:300],
                retry_seconds=delay_seconds,
                exc_info=first if not isinstance(first, BusError) else None,
            )
        if clock() - began > _LONGEST_DELAY_SECONDS:
            delay_seconds = _FIRST_DELAY_SECONDS
        await asyncio.sleep(delay_seconds)
        delay_seconds = min(2 * delay_seconds, _LONGEST_DELAY_SECONDS)
