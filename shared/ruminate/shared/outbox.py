"""Records in, acknowledgements out: everything leaves in batches and is settled when all in-sync replicas have it.

The order of a partition is kept: one batch of it is under way, and what is written meanwhile gathers in the next one, so
batches grow with the load. Partitions leave together, because a request costs as much as many records do: at once where
nothing has left for `linger_seconds`, else as soon as that has passed. Building batches ourselves costs a third of `send`.
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
    written: int = 0
    settled: int = 0


class Outbox:
    """The batches of one producer."""

    def __init__(self, producer: AIOKafkaProducer, *, linger_seconds: float, delivery_timeout_seconds: float) -> None:
        self._producer = producer
        self._linger_seconds = linger_seconds
        self._delivery_timeout_seconds = delivery_timeout_seconds
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._gathering: list[_Lane] = []
        """Those with something to send, and nothing under way."""
        self._timer: asyncio.TimerHandle | None = None
        self._left_at = -linger_seconds
        """When the latest batches left, in the loop's time."""
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
            if not lane.batches and lane.sending is None:
                self._oldest[place] = self._loop.time()
                self._gather(lane)
            lane.batches.append((batch, []))
        lane.batches[-1][1].append(settled)
        lane.written += 1

    async def flush(self) -> None:
        """Return when everything enqueued so far is settled."""
        goals = [(lane, lane.written) for lane in self._lanes.values()]
        while missing := [lane for lane, written in goals if lane.settled < written]:
            self._send_gathered()
            sending = [lane.sending for lane in missing if lane.sending is not None and not lane.sending.done()]
            if not sending:
                return  # `close` has given up what was missing
            await asyncio.wait(sending)

    def waits_for_seconds(self) -> float:
        """How long the oldest batch has been waiting for its acknowledgement."""
        return self._loop.time() - min(self._oldest.values()) if self._oldest else 0.0

    async def close(self) -> None:
        """Give up what is not acknowledged."""
        if self._timer is not None:
            self._timer.cancel()
        sending = [lane.sending for lane in self._lanes.values() if lane.sending is not None]
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)

    def _gather(self, lane: _Lane) -> None:
        self._gathering.append(lane)
        if self._timer is None:  # also "at once" is after whatever runs now, and may have more to write
            self._timer = self._loop.call_at(self._left_at + self._linger_seconds, self._send_gathered)

    def _send_gathered(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._left_at = self._loop.time()
        gathered, self._gathering = self._gathering, []
        for lane in gathered:
            lane.sending = self._loop.create_task(self._send_first(lane))

    async def _send_first(self, lane: _Lane) -> None:
        place = (lane.topic, lane.partition)
        batch, waiting = lane.batches.popleft()
        self._oldest[place] = self._loop.time()
        try:
            outcome = await self._send(lane, batch)
        finally:
            lane.sending = None
            del self._oldest[place]
        lane.settled += len(waiting)
        if lane.batches:
            self._oldest[place] = self._loop.time()
            self._gather(lane)
        for index, settled in enumerate(waiting):
            settled(outcome if isinstance(outcome, Exception) else outcome + index)

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
