"""Transactions on Apache Kafka: the bus contract under them, and owners that are killed, frozen, fenced or held up."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError

from infra.real.kafka import KafkaCluster
from ruminate.schemas.topic import Topic
from ruminate.shared import settling
from ruminate.shared.bus import Delivery
from tests.contract.bench import Sample, publish, sample_topic, serving, until_async
from tests.contract.bus_contract import BusContract
from tests.contract.kafka_bench import KafkaBench, relay, shares_of
from tests.contract.transactions_contract import TransactionsContract

pytestmark = pytest.mark.real


@pytest.fixture
def bench(tmp_path: Path, kafka: KafkaCluster) -> KafkaBench:
    return KafkaBench(tmp_path, kafka.bootstrap, "kafka", kafka_transactions=True)


class TestKafkaBusWithTransactions(BusContract, TransactionsContract):
    pass


async def seen(bench: KafkaBench, topic: Topic[Sample]) -> Counter[int]:
    records = await bench.records(topic.name, topic.partitions, committed=True)
    return Counter(json.loads(record.value or b"")["number"] for record in records)


async def given(bench: KafkaBench, source: Topic[Sample], target: Topic[Sample], count: int) -> None:
    await bench.create(source, target, reader=bench.reader)
    async with bench.bus("writer") as bus:
        await publish(bus, source, *(Sample(conversation=str(n), number=n) for n in range(count)))


@contextmanager
def relaying(
    bench: KafkaBench, source: Topic[Sample], target: Topic[Sample], *, replica: str = "0", seconds: float = 0.005
) -> Iterator[subprocess.Popen[bytes]]:
    process = relay(bench, source, target, seconds=seconds, kafka_transactions="true", replica=replica)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_every_third_transaction_is_aborted_and_each_effect_is_seen_once(
    bench: KafkaBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = Counter[str]()
    commit, abort = AIOKafkaProducer.commit_transaction, AIOKafkaProducer.abort_transaction

    async def commit_twice_of_three(producer: Any) -> None:
        ends["tried"] += 1
        if ends["tried"] % 3 == 0:
            raise KafkaTimeoutError("the coordinator is late")
        await commit(producer)

    async def count_aborts(producer: Any) -> None:
        ends["aborted"] += 1
        await abort(producer)

    monkeypatch.setattr(settling, "MOST_RECORDS_A_TRANSACTION", 10)  # many small ones
    monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", commit_twice_of_three)
    monkeypatch.setattr(AIOKafkaProducer, "abort_transaction", count_aborts)

    async def scenario() -> None:
        source, target = sample_topic(partitions=2), sample_topic(partitions=2)
        await given(bench, source, target, 400)

        async def handle(delivery: Delivery[Sample]) -> None:
            await asyncio.sleep(0.002)
            delivery.tell(target, delivery.payload)

        async def all_seen() -> bool:
            return len(await seen(bench, target)) == 400

        async with bench.bus(bench.reader) as bus, serving(bus, source, handle, concurrency=4):
            await until_async(all_seen)
        assert await seen(bench, target) == Counter(range(400))
        assert ends["aborted"] >= 10
        everything = await bench.records(target.name, 2)
        assert len(everything) > 400, "a reader of uncommitted records sees what was aborted"

    asyncio.run(scenario())


def test_an_owner_that_is_killed_again_and_again_leaves_each_effect_once(bench: KafkaBench) -> None:
    async def scenario() -> None:
        source, target = sample_topic(partitions=2), sample_topic(partitions=2)
        moments, kills, count = random.Random(20260417), 0, 300
        await given(bench, source, target, count)
        before: Counter[int] = Counter()

        async def more() -> bool:
            return len(await seen(bench, target)) > len(before)

        while len(before) < count:
            with relaying(bench, source, target):
                await until_async(more, seconds=60)
                await asyncio.sleep(moments.uniform(0.0, 0.3))
            kills += 1
            before = await seen(bench, target)
        assert kills >= 2
        assert before == Counter(range(count))

    asyncio.run(scenario())


def test_an_owner_that_froze_and_comes_back_when_another_has_its_partitions_adds_nothing(bench: KafkaBench) -> None:
    async def scenario() -> None:
        source, target = sample_topic(partitions=2), sample_topic(partitions=2)
        count = 400
        await given(bench, source, target, count)

        async def some() -> bool:
            return len(await seen(bench, target)) >= 20

        async def all_seen() -> bool:
            return len(await seen(bench, target)) == count

        async def committed() -> bool:
            return sum((await bench.committed(bench.reader, source)).values()) == count

        async def owners() -> set[str]:
            shares = await asyncio.to_thread(shares_of, bench.bootstrap, bench.reader)
            return {name.removeprefix(f"{bench.reader}-") for name, share in shares.items() if share}

        async def both_are_at_work() -> bool:
            return await owners() == {"frozen", "heir"}

        with relaying(bench, source, target, replica="frozen") as frozen:
            await until_async(some, seconds=60)
            frozen.send_signal(signal.SIGSTOP)  # with handlers, a buffer and perhaps a transaction under way
            assert len(await seen(bench, target)) < count
            with relaying(bench, source, target, replica="heir"):
                await until_async(all_seen, seconds=90)  # its session has to end first
                assert await owners() == {"heir"}
                frozen.send_signal(signal.SIGCONT)
                await until_async(committed, seconds=60)
                await until_async(both_are_at_work, seconds=60)
                async with bench.bus("writer") as bus:
                    await publish(bus, source, *(Sample(conversation=str(n), number=n) for n in range(count, count + 100)))

                async def rest_seen() -> bool:
                    return len(await seen(bench, target)) == count + 100

                await until_async(rest_seen, seconds=60)
            assert frozen.poll() is None, "it is the one that came back"
        assert await seen(bench, target) == Counter(range(count + 100))

    asyncio.run(scenario())
