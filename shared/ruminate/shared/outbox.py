"""Records in, acknowledgements out: everything leaves in batches and is settled when all in-sync replicas have it.

The order of a partition is kept: one batch of it is under way, and what is written meanwhile gathers in the next one, so
batches grow with the load. Building batches ourselves costs a third of `send`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from ruminate.shared.bus import BrokerUnavailable, BusError
from ruminate.shared.settling import Settled
from ruminate.shared.shares import Outgoing


class RecordRefused(BusError):
    """The broker answered, and will never take this batch: trying again is no use."""


@dataclass(slots=True)
class _Lane:
    """The way to one partition."""

    topic: str
    partition: int
    batches: deque[tuple[BatchBuilder, list[Settled]]] = field(default_factory=deque)
    sending: asyncio.Task[None] | None = None


class Outbox:
    """The batches of one producer."""

    def __init__(self, producer: AIOKafkaProducer, *, linger_seconds: float, delivery_timeout_seconds: float) -> None:
        self._producer = producer
        self._linger_seconds = linger_seconds
        self._delivery_timeout_seconds = delivery_timeout_seconds
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._loop = asyncio.get_running_loop()
        self._oldest: dict[tuple[str, int], float] = {}

    def write(self, record: Outgoing, settled: Settled) -> None:
        """Enqueue a record; `settled` is called with its offset, or with why it has none."""
        place = (record.topic, record.partition)
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = _Lane(record.topic, record.partition)
        if not lane.batches or not append(lane.batches[-1][0], record):
            batch = self._producer.create_batch()
            append(batch, record)  # the first record always fits
            lane.batches.append((batch, []))
        lane.batches[-1][1].append(settled)
        if lane.sending is None:
            self._oldest[place] = self._loop.time()
            lane.sending = self._loop.create_task(self._send_all(lane))

    async def flush(self) -> None:
        """Return when everything enqueued so far is settled."""
        sending = [lane.sending for lane in self._lanes.values() if lane.sending is not None]
        if sending:
            await asyncio.wait(sending)

    def waits_for_seconds(self) -> float:
        """How long the oldest batch has been waiting for its acknowledgement."""
        return self._loop.time() - min(self._oldest.values()) if self._oldest else 0.0

    async def close(self) -> None:
        """Give up what is not acknowledged."""
        sending = [lane.sending for lane in self._lanes.values() if lane.sending is not None]
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)

    async def _send_all(self, lane: _Lane) -> None:
        place = (lane.topic, lane.partition)
        try:
            await asyncio.sleep(self._linger_seconds)
            while lane.batches:
                self._oldest[place] = self._loop.time()
                batch, waiting = lane.batches.popleft()
                outcome = await self._send(lane, batch)
                for index, settled in enumerate(waiting):
                    settled(outcome if isinstance(outcome, Exception) else outcome + index)
        finally:
            lane.sending = None
            self._oldest.pop(place, None)

    async def _send(self, lane: _Lane, batch: BatchBuilder) -> int | Exception:
        try:
            async with asyncio.timeout(self._delivery_timeout_seconds):
                acknowledged = await self._producer.send_batch(batch, lane.topic, partition=lane.partition)
                return int((await acknowledged).offset)
        except TimeoutError:
            why = "nothing came back"
        except KafkaError as error:
            if not error.retriable:
                return RecordRefused(f"{lane.topic} partition {lane.partition} refused a batch: {type(error).__name__}")
            why = type(error).__name__
        return BrokerUnavailable(
            f"{lane.topic} partition {lane.partition} did not acknowledge within {self._delivery_timeout_seconds:.0f} s: {why}"
        )


def append(batch: BatchBuilder, record: Outgoing) -> bool:
    """Put a record into a batch; False when it is full. An empty one takes any record."""
    appended: object | None = batch.append(timestamp=None, key=record.key, value=record.value, headers=record.headers)
    return appended is not None
