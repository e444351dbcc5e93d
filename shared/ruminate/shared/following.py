"""Following: a topic that is small is folded from its beginning, on and on; whoever needs what it says waits until it is read.

    async with Following(bus, TOPIC, take) as following:
        await bus.serve(…, following.before(handler))

Every partition is read, by every replica. What follows may die of a fault: then the next delivery raises it, and the service ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final, Generic, Self, TypeVar

import structlog

from ruminate.schemas.payload import Payload
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import BrokerUnavailable, Bus, CaughtUp, Delivery, Handler, Unavailable

log = structlog.get_logger()

P = TypeVar("P", bound=Payload)

MOST_BEHIND_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.25


async def follow(bus: Bus, topic: Topic[P], take: Callable[[Delivery[P]], object], *, caught_up: CaughtUp) -> None:
    """Hand every event of a topic to `take`, on and on; from the beginning again where the broker was away."""
    while True:
        try:
            async with aclosing(bus.read(topic, follow=True, caught_up=caught_up)) as deliveries:
                async for delivery in deliveries:
                    take(delivery)
        except BrokerUnavailable as error:
            log.warning("topic_not_followed", topic=topic.name, why=str(error))
        await asyncio.sleep(_AGAIN_SECONDS)


class Following(Generic[P]):
    """Follows within its context. `take` hears an event again where the broker was away, so hearing it twice changes nothing."""

    def __init__(
        self,
        bus: Bus,
        topic: Topic[P],
        take: Callable[[Delivery[P]], object],
        *,
        most_behind_seconds: float = MOST_BEHIND_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus = bus
        self._topic = topic
        self._take = take
        self._most_behind_seconds = most_behind_seconds
        self._clock = clock
        self._behind_since = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Return where the topic was read to its end a moment ago. Raises Unavailable where it was not, or what ended us."""
        if self._task is not None and self._task.done():
            self._task.result()
        if self._clock() - self._behind_since > self._most_behind_seconds:
            raise Unavailable(f"{self._topic.name} is not read to its end yet", retry_after_seconds=_LOOK_SECONDS)

    def before(self, handler: Handler[Any]) -> Handler[Any]:
        """The handler, which handles nothing before the topic is read."""

        def handle(delivery: Delivery[Any]) -> Any:
            self.check()
            return handler(delivery)

        return handle

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow(), name=f"follow-{self._topic.name}")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        await follow(self._bus, self._topic, self._take, caught_up=self._caught_up)

    def _caught_up(self, _: datetime) -> None:
        self._behind_since = self._clock()
