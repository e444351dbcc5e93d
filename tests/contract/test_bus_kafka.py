"""KafkaBus on the embedded broker honours the bus contract, and what only a real broker can show."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from ruminate.embedded.broker import EmbeddedBroker, embedded_broker
from ruminate.schemas.envelope import Headers
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import BrokerUnavailable, Delivery
from ruminate.shared.dead_letters import Record
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.profiles import EMBEDDED, BrokerProfile
from ruminate.shared.topics import Lag, LagProbe, TopicsDiffer, ensure_topics
from tests.contract.bus_contract import VALID, Bench, BusContract, Sample, publish, sample_topic, serving, until


class KafkaBench(Bench):
    def __init__(self, state: Path, bootstrap: str, profile: str) -> None:
        super().__init__(state)
        self.profile = profile
        self.bootstrap = bootstrap

    def bus(self, reader: str, **fields: Any) -> KafkaBus:
        profile: BrokerProfile | None = fields.pop("broker_profile", None)
        return KafkaBus(self.settings(kafka_bootstrap=self.bootstrap, **fields), reader=reader, profile=profile)

    async def create(self, *topics: Topic[Any], reader: str) -> None:
        both = [made for topic in topics for made in (topic, topic.dead_letters(reader))]
        await ensure_topics(self.settings(kafka_bootstrap=self.bootstrap), both)

    async def put(
        self, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Headers | None = None, partition: int = 0
    ) -> int:
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all", max_request_size=64 * 1024 * 1024) as producer:
            written = await producer.send_and_wait(topic, value, key=key, headers=headers, partition=partition)
            return int(written.offset)

    async def records(self, topic: str, partitions: int) -> Sequence[Record]:
        places = [TopicPartition(topic, number) for number in range(partitions)]
        found: list[Record] = []
        async with AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=50
        ) as consumer:
            consumer.assign(places)
            unread = set(places)
            async with asyncio.timeout(20):
                while unread:
                    for records in (await consumer.getmany(timeout_ms=50)).values():
                        found.extend(records)
                    for place in list(unread):
                        end = consumer.highwater(place)
                        if end is not None and await consumer.position(place) >= end:
                            unread.discard(place)
        return found

    async def committed(self, reader: str, topic: Topic[Any]) -> dict[int, int]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
            found = await admin.list_consumer_group_offsets(reader, partitions=places)
        finally:
            await admin.close()
        return {place.partition: commit.offset for place, commit in found.items() if commit.offset > 0}


class TestKafkaBusOnTheEmbeddedBroker(BusContract):
    @pytest.fixture
    def bench(self, tmp_path: Path, broker: EmbeddedBroker) -> KafkaBench:
        return KafkaBench(tmp_path, broker.bootstrap, "embedded")

    def test_a_handler_that_takes_longer_than_the_poll_interval_keeps_its_partition(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            await bench.create(topic, reader=bench.reader)
            begun: list[int] = []
            revoked: list[frozenset[int]] = []
            done = asyncio.Event()

            async def handle(delivery: Delivery[Sample]) -> None:
                begun.append(delivery.position.offset)
                await asyncio.sleep(4.0)
                done.set()

            async def on_revoked(partitions: frozenset[int]) -> None:
                revoked.append(partitions)

            profile = replace(EMBEDDED, max_poll_interval_ms=1000)
            async with bench.bus(bench.reader, broker_profile=profile) as bus:
                await publish(bus, topic, VALID)
                async with serving(bus, topic, handle, on_revoked=on_revoked):
                    await asyncio.wait_for(done.wait(), 30)
                    assert not revoked
            assert begun == [0]
            assert await bench.committed(bench.reader, topic) == {0: 1}

        asyncio.run(scenario())

    def test_a_reader_that_is_killed_at_any_moment_loses_nothing(self, bench: KafkaBench) -> None:
        source, target = sample_topic(partitions=2), sample_topic(partitions=2)
        moments = random.Random(20260131)
        count = 250

        async def prepare() -> None:
            await bench.create(source, target, reader=bench.reader)
            async with bench.bus("writer") as bus:
                await publish(bus, source, *(Sample(conversation=str(n), number=n) for n in range(count)))

        async def told() -> list[Record]:
            return list(await bench.records(target.name, 2))

        async def scenario() -> None:
            await prepare()
            kills = 0
            written = 0
            while written < count:
                process = subprocess.Popen(  # noqa: ASYNC220 - starting takes a moment, and nothing else runs here
                    (
                        sys.executable,
                        "-m",
                        "tests.contract.relay",
                        bench.bootstrap,
                        str(bench.state),
                        bench.reader,
                        source.name,
                        target.name,
                    )
                )
                try:
                    # Killed some milliseconds after it wrote something new, so that every life has got into its work.
                    before = written
                    async with asyncio.timeout(60):
                        while written == before:
                            assert process.poll() is None
                            written = len({record.value for record in await told()})
                    await asyncio.sleep(moments.uniform(0.0, 0.4))
                finally:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                kills += 1
                written = len({record.value for record in await told()})
            assert kills >= 2
            found = await told()
            ids = {dict(record.headers)["ce_id"] for record in found}
            assert len(ids) == count, "the same cause gave different ids"
            assert {json.loads(record.value or b"")["number"] for record in found} == set(range(count))

        asyncio.run(scenario())

    def test_lag_counts_what_is_unread_and_says_how_old_it_is(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=2)
            await bench.create(topic, reader=bench.reader)
            settings = bench.settings(kafka_bootstrap=bench.bootstrap)
            done: list[int] = []

            async def handle(delivery: Delivery[Sample]) -> None:
                done.append(delivery.payload.number)

            async with LagProbe(settings, {bench.reader: (topic,)}) as probe, bench.bus(bench.reader) as bus:
                assert await probe.measure() == [Lag(bench.reader, topic.name, 0, None)]
                await publish(bus, topic, *(Sample(conversation=str(n), number=n) for n in range(10)))
                (behind,) = await probe.measure()
                assert behind.messages == 10
                assert behind.seconds is not None
                assert 0 <= behind.seconds < 10
                async with serving(bus, topic, handle):
                    await until(lambda: len(done) == 10)
                assert await probe.measure() == [Lag(bench.reader, topic.name, 0, None)]

        asyncio.run(scenario())

    def test_topics_are_created_once_and_another_number_of_partitions_is_refused(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            settings = bench.settings(kafka_bootstrap=bench.bootstrap)
            topic = sample_topic(partitions=2)
            assert await ensure_topics(settings, [topic]) == [topic.name]
            assert await ensure_topics(settings, [topic]) == []
            with pytest.raises(TopicsDiffer, match="has 2 partitions and needs 3"):
                await ensure_topics(settings, [replace(topic, partitions=3)])

        asyncio.run(scenario())

    def test_a_broker_that_is_away_is_said_and_found_again_when_it_comes_back(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            done: list[int] = []

            async def handle(delivery: Delivery[Sample]) -> None:
                done.append(delivery.payload.number)

            with embedded_broker() as broker:
                port = int(broker.bootstrap.rsplit(":", 1)[1])
            settings = bench.settings(kafka_bootstrap=broker.bootstrap)
            async with KafkaBus(settings, reader=bench.reader, profile=replace(EMBEDDED, delivery_timeout_seconds=0.3)) as bus:
                with pytest.raises(BrokerUnavailable, match="no broker answers"):
                    await bus.publish(topic, VALID, bus.begin(topic, VALID))
                assert any("no broker answers" in reason for reason in bus.readiness())
                task = asyncio.create_task(bus.serve(topic, handle))
                with embedded_broker(port):
                    await ensure_topics(settings, [topic, topic.dead_letters(bench.reader)])
                    await until(lambda: not bus.readiness())
                    await bus.publish(topic, VALID, bus.begin(topic, VALID))
                    await until(lambda: done == [1])
                    await bus.stop()
                    await task

        asyncio.run(scenario())

    def test_a_broker_that_dies_is_said_and_both_serving_and_publishing_can_still_be_ended(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            done: list[int] = []

            async def handle(delivery: Delivery[Sample]) -> None:
                done.append(delivery.payload.number)

            with embedded_broker() as broker:
                settings = bench.settings(kafka_bootstrap=broker.bootstrap)
                await ensure_topics(settings, [topic, topic.dead_letters(bench.reader)])
                async with KafkaBus(settings, reader=bench.reader, profile=replace(EMBEDDED, delivery_timeout_seconds=1.0)) as bus:
                    task = asyncio.create_task(bus.serve(topic, handle))
                    await bus.publish(topic, VALID, bus.begin(topic, VALID))
                    await until(lambda: done == [1])
                    broker.process.kill()
                    broker.process.wait()
                    with pytest.raises(BrokerUnavailable):
                        await bus.publish(topic, VALID, bus.begin(topic, VALID))
                    await until(bus.readiness)
                    async with asyncio.timeout(40):
                        await bus.stop()
                        await task

        asyncio.run(scenario())
        # aiokafka leaves futures behind whose exceptions nobody reads; they are complained of here and in no other test.
        gc.collect()
