"""A broker as the tests of a bus need it, whichever it is, and what is sent over it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from ruminate.schemas.envelope import Headers
from ruminate.schemas.payload import Payload, Ratio, Text
from ruminate.schemas.topic import Cleanup, Topic
from ruminate.shared.bus import Bus, Delivery
from ruminate.shared.record import Position, Record
from ruminate.shared.settings import ServiceSettings

DEADLINE_SECONDS = 30.0


class Sample(Payload):
    """Something to send."""

    conversation: Text
    number: int
    share: Ratio = 0.0
    text: Text = ""


VALID = Sample(conversation="c", number=1)


class Bench(ABC):
    """A broker, as a test needs it: buses at it, and what any other client would write and see there."""

    profile: Literal["kafka", "embedded"] = "kafka"

    def __init__(self, state: Path, **fields: Any) -> None:
        self.state = state
        self.fields = fields
        self.reader = f"reader-{uuid4().hex[:8]}"

    def settings(self, **fields: Any) -> ServiceSettings:
        return ServiceSettings(
            **{"state_dir": self.state, "kafka_profile": self.profile, "grace_seconds": 5.0, **self.fields, **fields}
        )

    @abstractmethod
    def bus(self, reader: str, **fields: Any) -> AbstractAsyncContextManager[Bus]: ...

    @abstractmethod
    async def create(self, *topics: Topic[Any], reader: str) -> None: ...

    @abstractmethod
    async def put(
        self, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Headers | None = None, partition: int = 0
    ) -> int: ...

    @abstractmethod
    async def records(self, topic: str, partitions: int, *, committed: bool = False) -> Sequence[Record]:
        """Every record of a topic; `committed`: without those of transactions that were aborted or have not ended."""
        ...

    @abstractmethod
    async def committed(self, reader: str, topic: Topic[Any]) -> dict[int, int]: ...

    async def has_committed(self, topic: Topic[Any], offsets: dict[int, int]) -> None:
        """Our reader has committed exactly these: what a transaction commits is seen a moment later."""
        found: dict[int, int] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE_SECONDS):
                while (found := await self.committed(self.reader, topic)) != offsets:
                    await asyncio.sleep(0.05)
        assert found == offsets


def sample_topic(*, partitions: int = 3, cleanup: Cleanup = "delete") -> Topic[Sample]:
    return Topic(
        name=f"sample-{uuid4().hex[:12]}-v1",
        says="A sample was taken.",
        carries=Sample,
        record_key="event_id",
        partitioned_by=("conversation",),
        cleanup=cleanup,
        written_by=("tests",),
        read_by=("reader",),
        partitions=partitions,
        max_message_bytes=32 * 1024 * 1024,
    )


async def until(condition: Callable[[], object], *, seconds: float = DEADLINE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def until_async(condition: Callable[[], Awaitable[object]], *, seconds: float = DEADLINE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


@asynccontextmanager
async def serving(
    bus: Bus, topic: Topic[Sample], handler: Callable[[Delivery[Sample]], Awaitable[None]], **how: Any
) -> AsyncIterator[asyncio.Task[None]]:
    """`serve` in the background; stopped at the end, and what it raised is raised here."""
    task = asyncio.create_task(bus.serve(topic, handler, **how))
    try:
        yield task
    finally:  # what a handler asserted is why a test waited in vain, so it is raised also where that raises
        async with asyncio.timeout(DEADLINE_SECONDS):
            await bus.stop()
            await task


async def served_until_it_ends(
    bus: Bus, topic: Topic[Sample], handler: Callable[[Delivery[Sample]], Awaitable[None]], **how: Any
) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        await bus.serve(topic, handler, **how)


async def publish(bus: Bus, topic: Topic[Sample], *samples: Sample) -> list[Position]:
    return list(await asyncio.gather(*(bus.publish(topic, sample, bus.begin(topic, sample)) for sample in samples)))


async def events_of(bus: Bus, topic: Topic[Sample], count: int) -> list[Delivery[Sample]]:
    """What is on a topic, once that many events are: a transaction that is committed is seen a moment later."""
    found: list[Delivery[Sample]] = []

    async def enough() -> bool:
        found[:] = [delivery async for delivery in bus.read(topic)]
        return len(found) >= count

    await until_async(enough)
    return found


def in_partition(bus: Bus, topic: Topic[Sample], partition: int) -> str:
    """A conversation of this partition."""
    return next(name for name in map(str, range(1000)) if bus.partition_of(topic, name) == partition)


def headers_for(topic: Topic[Any], **changes: str | None) -> Headers:
    names = {"ce_specversion": "1.0", "ce_id": uuid4().hex, "ce_source": "/agent", "ce_type": topic.event_type} | changes
    return [(name, value.encode()) for name, value in names.items() if value is not None]
