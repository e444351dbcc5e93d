"""KafkaBus on Apache Kafka honours the bus contract, and what the embedded broker cannot show.

Needs a broker: RUMINATE_TEST_KAFKA=host:port, that creates no topics by itself and takes records of 32 MiB by topic.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from ruminate.shared.bus import Delivery, OffsetLost
from ruminate.shared.decoding import encode
from ruminate.shared.topics import Lag, LagProbe
from tests.contract.bus_contract import (
    VALID,
    BusContract,
    Sample,
    headers_for,
    publish,
    sample_topic,
    served_until_it_ends,
    serving,
    until,
)
from tests.contract.test_bus_kafka import KafkaBench

pytestmark = pytest.mark.real


@pytest.fixture
def bench(tmp_path: Path) -> KafkaBench:
    bootstrap = os.environ.get("RUMINATE_TEST_KAFKA")
    if bootstrap is None:
        if "CI" in os.environ:
            pytest.fail("RUMINATE_TEST_KAFKA names no Apache Kafka")
        pytest.skip("start an Apache Kafka, for instance `docker compose up kafka`, and set RUMINATE_TEST_KAFKA=127.0.0.1:9092")
    return KafkaBench(tmp_path, bootstrap, "kafka")


class TestKafkaBusOnApacheKafka(BusContract):
    pass


def test_a_committed_offset_that_is_gone_stops_the_service_and_the_lost_range_is_named(bench: KafkaBench) -> None:
    async def scenario() -> None:
        topic = sample_topic(partitions=1)
        await bench.create(topic, reader=bench.reader)
        async with bench.bus("writer") as bus:
            await publish(bus, topic, *(Sample(conversation="c", number=n) for n in range(10)))
        done: list[int] = []

        async def handle(delivery: Delivery[Sample]) -> None:
            done.append(delivery.position.offset)
            if delivery.position.offset == 3:
                await asyncio.Event().wait()

        async with bench.bus(bench.reader, grace_seconds=0.1) as bus, serving(bus, topic, handle):
            await until(lambda: done[-1:] == [3])
        admin = AIOKafkaAdminClient(bootstrap_servers=bench.bootstrap)
        await admin.start()
        await admin.delete_records({TopicPartition(topic.name, 0): RecordsToDelete(before_offset=7)})
        await admin.close()
        async with bench.bus(bench.reader) as bus:
            with pytest.raises(OffsetLost, match=r"offsets 3 to 6 of .* partition 0 are gone, the log begins at 7"):
                await served_until_it_ends(bus, topic, handle)
            with pytest.raises(OffsetLost, match="offsets 2 to 6"):
                _ = [d async for d in bus.read(topic, start=2)]

    asyncio.run(scenario())


def test_a_new_group_starts_where_the_log_begins(bench: KafkaBench) -> None:
    async def scenario() -> None:
        topic = sample_topic(partitions=1)
        await bench.create(topic, reader=bench.reader)
        done: list[int] = []

        async def handle(delivery: Delivery[Sample]) -> None:
            done.append(delivery.position.offset)

        async with bench.bus(bench.reader) as bus:
            await publish(bus, topic, *(Sample(conversation="c", number=n) for n in range(5)))
            admin = AIOKafkaAdminClient(bootstrap_servers=bench.bootstrap)
            await admin.start()
            await admin.delete_records({TopicPartition(topic.name, 0): RecordsToDelete(before_offset=2)})
            await admin.close()
            async with serving(bus, topic, handle):
                await until(lambda: done == [2, 3, 4])

    asyncio.run(scenario())


def test_records_of_aborted_transactions_are_not_seen_and_reading_still_ends(bench: KafkaBench) -> None:
    async def scenario() -> None:
        topic = sample_topic(partitions=1)
        await bench.create(topic, reader=bench.reader)
        async with AIOKafkaProducer(bootstrap_servers=bench.bootstrap, transactional_id=topic.name) as producer:
            for n in range(6):
                await producer.begin_transaction()
                value = encode(Sample(conversation="c", number=n))
                await producer.send_and_wait(topic.name, value, key=b"k", headers=headers_for(topic), partition=0)
                await (producer.abort_transaction() if n % 2 else producer.commit_transaction())
        done: list[int] = []

        async def handle(delivery: Delivery[Sample]) -> None:
            done.append(delivery.payload.number)

        async with bench.bus(bench.reader) as bus:
            assert [d.payload.number async for d in bus.read(topic)] == [0, 2, 4]
            async with serving(bus, topic, handle):
                await until(lambda: done == [0, 2, 4])
        settings = bench.settings(kafka_bootstrap=bench.bootstrap)
        async with LagProbe(settings, {bench.reader: (topic,)}) as probe:
            assert await probe.measure() == [Lag(bench.reader, topic.name, 0, None)]

    asyncio.run(scenario())


def test_a_static_member_that_was_killed_reads_again_before_its_session_is_over(bench: KafkaBench) -> None:
    async def scenario() -> None:
        topic = sample_topic(partitions=1)
        await bench.create(topic, reader=bench.reader)
        done: list[int] = []

        async def handle(delivery: Delivery[Sample]) -> None:
            done.append(delivery.payload.number)

        # `stop` of a static member does not leave the group, so to the group it is like a kill.
        async with bench.bus(bench.reader) as bus:
            await publish(bus, topic, VALID)
            async with serving(bus, topic, handle):
                await until(lambda: len(done) == 1)
        begun = asyncio.get_running_loop().time()
        async with bench.bus(bench.reader) as bus:
            await publish(bus, topic, VALID)
            async with serving(bus, topic, handle):
                await until(lambda: len(done) == 2)
        assert asyncio.get_running_loop().time() - begun < 4

    asyncio.run(scenario())
