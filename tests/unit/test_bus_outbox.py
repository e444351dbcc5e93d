"""The outbox: who leaves when, over a producer that acknowledges when the test says so; and fetches that keep their distance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import MessageSizeTooLargeError, NotEnoughReplicasError
from aiokafka.producer.message_accumulator import BatchBuilder

from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.kafka import pace_fetches
from ruminate.shared.outbox import Outbox, RecordRefused
from ruminate.shared.profiles import EMBEDDED
from ruminate.shared.shares import Outgoing

LONG = 3600.0


@dataclass
class Sent:
    """One batch on its way."""

    place: tuple[str, int]
    values: list[bytes]
    turn: int
    acknowledged: asyncio.Future[Any]

    def acknowledge(self, offset: int) -> None:
        self.acknowledged.set_result(SimpleNamespace(offset=offset))


@dataclass
class Batch:
    """Takes three records."""

    values: list[bytes] = field(default_factory=list)

    def append(self, *, value: bytes, **_: object) -> object | None:
        if len(self.values) == 3:
            return None
        self.values.append(value)
        return self


@dataclass
class Producer:
    """Counts turns of the event loop: what was sent in one turn is one request."""

    sent: list[Sent] = field(default_factory=list)
    turn: int = 0

    def create_batch(self) -> Batch:
        return Batch()

    async def send_batch(self, batch: BatchBuilder | Batch, topic: str, *, partition: int) -> asyncio.Future[Any]:
        assert isinstance(batch, Batch)
        future = asyncio.get_running_loop().create_future()
        self.sent.append(Sent((topic, partition), list(batch.values), self.turn, future))
        return future

    async def count_turns(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)

    async def has_sent(self, batches: int) -> None:
        while len(self.sent) < batches:
            await asyncio.sleep(0)


def outbox_of(producer: Producer, *, linger_seconds: float, delivery_timeout_seconds: float = 30.0) -> Outbox:
    producing: Any = producer
    return Outbox(producing, linger_seconds=linger_seconds, delivery_timeout_seconds=delivery_timeout_seconds)


def record(value: str, *, partition: int = 0) -> Outgoing:
    return Outgoing("words-v1", partition, None, value.encode(), [])


def into(outcomes: list[int | Exception]) -> Callable[[int | Exception], None]:
    return outcomes.append


def test_partitions_leave_together() -> None:
    async def scenario() -> None:
        producer, outcomes = Producer(), list[int | Exception]()
        outbox = outbox_of(producer, linger_seconds=0.2)
        counting = asyncio.create_task(producer.count_turns())
        outbox.write(record("the first waits for nobody", partition=99), into(outcomes))
        await producer.has_sent(1)
        for number in range(12):
            outbox.write(record(f"{number}", partition=number), into(outcomes))
            await asyncio.sleep(0)
        assert len(producer.sent) == 1
        await producer.has_sent(13)
        counting.cancel()
        assert len({sent.turn for sent in producer.sent[1:]}) == 1
        assert [sent.place for sent in producer.sent[1:]] == [("words-v1", number) for number in range(12)]
        for number, sent in enumerate(producer.sent):
            sent.acknowledge(number * 10)
        await outbox.flush()
        assert outcomes == [number * 10 for number in range(13)]

    asyncio.run(scenario())


def test_what_is_written_in_one_turn_leaves_in_one_request() -> None:
    async def scenario() -> None:
        producer = Producer()
        outbox = outbox_of(producer, linger_seconds=LONG)
        for value, partition in (("a", 0), ("b", 1), ("c", 0)):
            outbox.write(record(value, partition=partition), into([]))
        await producer.has_sent(2)
        assert [sent.values for sent in producer.sent] == [[b"a", b"c"], [b"b"]]
        await outbox.close()

    asyncio.run(scenario())


def test_a_partition_has_one_batch_under_way_and_keeps_its_order() -> None:
    async def scenario() -> None:
        producer, outcomes = Producer(), list[int | Exception]()
        outbox = outbox_of(producer, linger_seconds=0.0)
        outbox.write(record("a"), into(outcomes))
        await producer.has_sent(1)
        for value in "bcdef":
            outbox.write(record(value), into(outcomes))
        for _ in range(10):
            await asyncio.sleep(0)
        assert [sent.values for sent in producer.sent] == [[b"a"]]
        producer.sent[0].acknowledge(0)
        await producer.has_sent(2)
        producer.sent[1].acknowledge(1)
        await producer.has_sent(3)
        producer.sent[2].acknowledge(4)
        await outbox.flush()
        assert [sent.values for sent in producer.sent] == [[b"a"], [b"b", b"c", b"d"], [b"e", b"f"]]
        assert outcomes == [0, 1, 2, 3, 4, 5]

    asyncio.run(scenario())


def test_one_partition_that_is_not_acknowledged_keeps_no_other_waiting() -> None:
    async def scenario() -> None:
        producer, outcomes = Producer(), list[int | Exception]()
        outbox = outbox_of(producer, linger_seconds=0.0)
        outbox.write(record("stuck", partition=0), into([]))
        await producer.has_sent(1)
        outbox.write(record("behind it", partition=0), into([]))
        outbox.write(record("free", partition=1), into(outcomes))
        await producer.has_sent(2)
        producer.sent[1].acknowledge(7)
        while not outcomes:
            await asyncio.sleep(0)
        assert [sent.values for sent in producer.sent] == [[b"stuck"], [b"free"]]
        assert outbox.waits_for_seconds() > 0
        await outbox.close()

    asyncio.run(scenario())


def test_a_flush_waits_for_no_linger_and_for_every_acknowledgement() -> None:
    async def scenario() -> None:
        producer, outcomes = Producer(), list[int | Exception]()
        outbox = outbox_of(producer, linger_seconds=LONG)
        for value in "abcd":
            outbox.write(record(value), into(outcomes))
        flushing = asyncio.create_task(outbox.flush())
        await producer.has_sent(1)
        producer.sent[0].acknowledge(0)
        await producer.has_sent(2)
        assert not flushing.done()
        producer.sent[1].acknowledge(3)
        await flushing
        assert outcomes == [0, 1, 2, 3]
        assert outbox.waits_for_seconds() == 0

    asyncio.run(scenario())


def test_what_a_closed_outbox_has_given_up_is_not_waited_for_and_not_sent() -> None:
    async def scenario() -> None:
        producer, outcomes = Producer(), list[int | Exception]()
        outbox = outbox_of(producer, linger_seconds=LONG)
        for value in "abcd":
            outbox.write(record(value), into(outcomes))
        flushing = asyncio.create_task(outbox.flush())
        await producer.has_sent(1)
        await outbox.close()
        await flushing
        assert [sent.values for sent in producer.sent] == [[b"a", b"b", b"c"]]
        assert outcomes == []

    asyncio.run(scenario())


def test_a_flush_ends_with_an_outbox_that_is_closed_before_its_batch_has_left() -> None:
    async def scenario() -> None:
        producer = Producer()
        outbox = outbox_of(producer, linger_seconds=LONG)
        outbox.write(record("a"), into([]))
        flushing = asyncio.create_task(outbox.flush())
        await asyncio.sleep(0)
        await outbox.close()
        async with asyncio.timeout(10):
            await flushing
        assert producer.sent == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "becomes", "says"),
    [
        (NotEnoughReplicasError(), BrokerUnavailable, "words-v1 partition 0 did not acknowledge within 30 s"),
        (MessageSizeTooLargeError(), RecordRefused, "words-v1 partition 0 refused a batch"),
    ],
)
def test_a_batch_that_fails_says_so_to_each_of_its_records(error: Exception, becomes: type[Exception], says: str) -> None:
    async def scenario() -> None:
        producer, outcomes = Producer(), list[int | Exception]()
        outbox = outbox_of(producer, linger_seconds=0.0)
        for value in "ab":
            outbox.write(record(value), into(outcomes))
        await producer.has_sent(1)
        producer.sent[0].acknowledged.set_exception(error)
        await outbox.flush()
        assert [type(outcome) for outcome in outcomes] == [becomes, becomes]
        assert says in str(outcomes[0])

    asyncio.run(scenario())


def test_fetches_from_one_node_keep_their_distance_and_nodes_do_not_wait_for_each_other() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        begun: list[tuple[int, float]] = []

        async def fetch(_: object, node: int, __: object) -> bool:
            begun.append((node, loop.time()))
            return True

        fetcher: Any = SimpleNamespace(_proc_fetch_request=fetch)
        pace_fetches(fetcher, replace(EMBEDDED, fetch_interval_seconds=0.05))
        first = loop.time()
        fetches = [asyncio.create_task(fetcher._proc_fetch_request(None, node, None)) for node in (1, 1, 2)]
        assert all(await asyncio.gather(*fetches))
        assert [node for node, _ in begun] == [1, 2, 1]
        assert begun[2][1] - first >= 0.05

    asyncio.run(scenario())


def test_a_fetch_that_is_cancelled_while_it_keeps_its_distance_ends_as_one_that_found_nothing() -> None:
    async def scenario() -> None:
        async def fetch(_: object, __: int, ___: object) -> bool:
            return True

        fetcher: Any = SimpleNamespace(_proc_fetch_request=fetch)
        pace_fetches(fetcher, replace(EMBEDDED, fetch_interval_seconds=LONG))
        assert await fetcher._proc_fetch_request(None, 1, None)
        waiting = asyncio.create_task(fetcher._proc_fetch_request(None, 1, None))
        await asyncio.sleep(0)
        waiting.cancel()
        assert await waiting is False

    asyncio.run(scenario())


def test_a_reader_to_whom_nothing_comes_fetches_less_often_until_something_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        comes, now = False, 0.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)

        async def fetch(_: object, __: int, ___: object) -> bool:
            return comes

        fetcher: Any = SimpleNamespace(_proc_fetch_request=fetch, _fetch_max_wait_ms=EMBEDDED.fetch_max_wait_ms)
        pace_fetches(fetcher, replace(EMBEDDED, fetch_interval_seconds=0.0))

        async def waits_after(seconds: float) -> int:
            nonlocal now
            now += seconds
            await fetcher._proc_fetch_request(None, 1, None)
            waits: int = fetcher._fetch_max_wait_ms
            return waits

        assert await waits_after(1.0) == EMBEDDED.fetch_max_wait_ms
        assert await waits_after(10.0) == EMBEDDED.idle_max_wait_ms > EMBEDDED.fetch_max_wait_ms
        comes = True
        assert await waits_after(0.0) == EMBEDDED.fetch_max_wait_ms

    asyncio.run(scenario())
