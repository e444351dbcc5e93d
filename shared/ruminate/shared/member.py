"""What every bus does the same way, whichever broker is behind it: serve, publish, begin, read, stop."""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import structlog

from ruminate.schemas.envelope import Envelope
from ruminate.schemas.flow import service_of
from ruminate.schemas.payload import Payload
from ruminate.schemas.topic import SideTopic, Topic
from ruminate.shared import metrics
from ruminate.shared.bus import BrokerUnavailable, CaughtUp, Delivery, Handler, PartitionsListener, Told, Unprocessable, nothing
from ruminate.shared.decoding import decode, now
from ruminate.shared.outgoing import to_record
from ruminate.shared.partitioning import partition_of
from ruminate.shared.record import Position, Record
from ruminate.shared.serving import GroupLog, Serving, ServingSettings
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.settling import Writer
from ruminate.shared.shares import Outgoing

log = structlog.get_logger()

P = TypeVar("P", bound=Payload)


class Member(ABC):
    """One replica of one reader at one broker. A bus says how records are fetched, written and read; the rest is here."""

    def __init__(self, settings: ServiceSettings, *, reader: str) -> None:
        self._settings = settings
        self._reader = reader
        self._serving: Serving[Any] | None = None
        self._stopping = asyncio.Event()
        self._served = asyncio.Event()
        self._served.set()

    # What a bus adds.

    @abstractmethod
    async def _writer(self) -> Writer:
        """The writer, once the broker answers. Raises BrokerUnavailable after the delivery timeout."""

    @abstractmethod
    def _group_log(self, topic: Topic[Any], serving: Serving[Any]) -> AbstractAsyncContextManager[GroupLog]:
        """Join the group for `topic`; `serving` hears of every rebalance. Leave at the end."""

    @abstractmethod
    def _records(
        self,
        topic: Topic[Any] | SideTopic,
        partitions: Collection[int],
        start: int | None,
        follow: bool,
        caught_up: CaughtUp | None = None,
    ) -> AsyncGenerator[Record, None]:
        """Records from `start` (None: the beginning) to the end, or on and on: then `caught_up` hears how far they came."""

    @abstractmethod
    def _cluster(self) -> str:
        """The cluster's id, once the broker answered."""

    @abstractmethod
    def _trouble(self) -> Collection[str]:
        """Why the broker's side is not ready, a sentence each."""

    _delivery_timeout_seconds: float

    # What a service sees: see `ruminate.shared.bus.Bus`.

    @property
    def source(self) -> str:
        return f"/ruminate/{service_of(self._reader)}"

    def readiness(self) -> Collection[str]:
        return [*self._trouble(), *(self._serving.readiness() if self._serving else ())]

    def turned_at(self) -> float:
        return self._serving.turned_at if self._serving else time.monotonic()

    async def serve(
        self,
        topic: Topic[P],
        handler: Handler[P],
        *,
        concurrency: int = 1,
        max_in_flight: int = 1000,
        max_in_flight_bytes: int = 64 * 1024 * 1024,
        on_assigned: PartitionsListener = nothing,
        on_revoked: PartitionsListener = nothing,
    ) -> None:
        if not self._served.is_set():
            raise RuntimeError(f"the bus of {self._reader} serves a topic already; a second topic needs a bus of its own")
        self._served.clear()
        try:
            writer = await self._wait_for_writer()
            if writer is None:
                return
            settings = ServingSettings(
                reader=self._reader,
                source=self.source,
                cluster=self._cluster(),
                grace_seconds=self._settings.grace_seconds,
                dead_letter_limit=self._settings.dead_letter_limit,
                transactions=self._settings.kafka_transactions,
            )
            self._serving = Serving(
                topic,
                handler,
                writer,
                settings,
                concurrency=concurrency,
                max_in_flight=max_in_flight,
                max_in_flight_bytes=max_in_flight_bytes,
                on_assigned=on_assigned,
                on_revoked=on_revoked,
            )
            async with self._group_log(topic, self._serving) as group_log:
                if not self._stopping.is_set():
                    await self._serving.run(group_log)
        finally:
            self._serving = None
            self._served.set()

    async def publish(self, topic: Topic[P], payload: P, envelope: Envelope) -> Position:
        record = to_record(Told(topic, payload, envelope, topic.order_of(payload)))
        [offset] = await self.write([record])
        metrics.PUBLISHED.labels(topic.name).inc()
        return Position(topic.name, record.partition, offset)

    async def write(self, records: Sequence[Outgoing]) -> list[int]:
        """Write records as they are, in this order; give their offsets once all in-sync replicas have all of them.

        Raises BrokerUnavailable after the delivery timeout.
        """
        deadline = time.monotonic() + self._delivery_timeout_seconds
        writer = await self._writer()
        loop = asyncio.get_running_loop()
        written: list[asyncio.Future[int]] = [loop.create_future() for _ in records]
        for record, future in zip(records, written, strict=True):
            writer.write(record, partial(_settle, future))
        try:
            # `wait_for` of Python 3.11 swallows a cancellation that arrives together with the result.
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await asyncio.gather(*written)
        except TimeoutError:
            names = ", ".join(sorted({record.topic for record in records}))
            raise BrokerUnavailable(
                f"{names} did not acknowledge within {self._delivery_timeout_seconds:.0f} s; it may still arrive: "
                "publish it again with the same id"
            ) from None

    def records(
        self,
        topic: Topic[Any] | SideTopic,
        *,
        partitions: Collection[int] | None = None,
        start: int | None = None,
        follow: bool = False,
    ) -> AsyncGenerator[Record, None]:
        """Everything that lies on a topic, events or not, to the end as it is now, or on and on: for who takes no part.

        A negative `start` counts from the end of each partition.
        """
        chosen = range(topic.partitions) if partitions is None else sorted(partitions)
        return self._records(topic, chosen, start, follow)

    def begin(self, topic: Topic[P], payload: P, *, event_id: str | None = None, source: str | None = None) -> Envelope:
        return Envelope(
            id=event_id or str(uuid4()),
            source=source or self.source,
            type=topic.event_type,
            time=now(),
            traceparent=f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
            order=topic.order_of(payload),
        )

    async def read(
        self,
        topic: Topic[P],
        *,
        partitions: Collection[int] | None = None,
        start: int | None = None,
        follow: bool = False,
        caught_up: CaughtUp | None = None,
    ) -> AsyncGenerator[Delivery[P], None]:
        chosen = range(topic.partitions) if partitions is None else sorted(partitions)
        async with aclosing(self._records(topic, chosen, start, follow, caught_up)) as records:
            async for record in records:
                try:
                    payload, envelope = decode(topic, record.value, record.headers, timestamp_ms=record.timestamp)
                except Unprocessable as error:
                    if record.value is not None:
                        log.warning(
                            "record_passed_over",
                            topic=topic.name,
                            partition=record.partition,
                            offset=record.offset,
                            reason=error.reason,
                        )
                    continue
                position = Position(topic.name, record.partition, record.offset)
                yield Delivery(topic, payload, envelope, position, record.headers, record.value or b"", self.source)

    def partition_of(self, topic: Topic[Any], order: str) -> int:
        return partition_of(order, topic.partitions)

    async def stop(self) -> None:
        self._stopping.set()
        if self._serving is not None:
            self._serving.stop()
        await self._served.wait()

    async def _wait_for_writer(self) -> Writer | None:
        """The writer; None when we are stopped before the broker answers."""
        while not self._stopping.is_set():
            stopping = asyncio.create_task(self._stopping.wait())
            writer = asyncio.create_task(self._writer())
            await asyncio.wait((stopping, writer), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not writer.done():
                writer.cancel()
                continue
            try:
                return writer.result()
            except BrokerUnavailable as error:
                log.warning("broker_unavailable", what=str(error))
        return None


def _settle(written: asyncio.Future[int], outcome: int | Exception) -> None:
    if written.done():
        return  # nobody waits any more
    if isinstance(outcome, Exception):
        written.set_exception(outcome)
    else:
        written.set_result(outcome)
