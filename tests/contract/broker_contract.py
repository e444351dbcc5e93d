"""What the services, and programs beside them, may ask of a broker: a subclass names one by the fixtures `bench` and `own_broker`.

Some tests ask by KafkaBus, as a service does; others by a plain client, for what the bus does where it can.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import InvalidSessionTimeoutError, MessageSizeTooLargeError
from aiokafka.structs import OffsetAndMetadata

from ruminate.shared.bus import BrokerUnavailable, Delivery, OffsetLost
from ruminate.shared.decoding import encode
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.lag import Lag, LagProbe
from ruminate.shared.profiles import PROFILES
from ruminate.shared.record import Record
from ruminate.shared.topics import TopicsDiffer, ensure_topics
from tests.contract.bench import (
    VALID,
    Sample,
    headers_for,
    publish,
    sample_topic,
    served_until_it_ends,
    serving,
    until,
    until_async,
)
from tests.contract.kafka_bench import ANSWER_SECONDS, KafkaBench, OwnBroker, relay


@asynccontextmanager
async def administrator(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


@asynccontextmanager
async def producer_at(bootstrap: str, **how: Any) -> AsyncIterator[AIOKafkaProducer]:
    """A plain producer; unlike with its own context, nothing of it is left where it could not start."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", **how)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await producer.start()
            yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def consumer_at(bootstrap: str, *topics: str, **how: Any) -> AsyncIterator[AIOKafkaConsumer]:
    """A plain consumer, of a group or of none; it commits what it is told to."""
    consumer = AIOKafkaConsumer(*topics, bootstrap_servers=bootstrap, enable_auto_commit=False, **how)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await consumer.start()
            yield consumer
    finally:
        await consumer.stop()


async def topic_of(bootstrap: str, *, partitions: int = 1, settings: Mapping[str, str] | None = None) -> str:
    """A fresh topic, as anybody makes one."""
    name = f"plain-{uuid4().hex[:12]}"
    async with administrator(bootstrap) as admin:
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=dict(settings or {}))])

        async def seen() -> bool:
            return name in await admin.list_topics()

        await until_async(seen, seconds=ANSWER_SECONDS)
    return name


async def setting_of(bootstrap: str, topic: str, name: str) -> str | None:
    async with administrator(bootstrap) as admin:
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    (resource,) = answer.resources
    values = {entry[0]: entry[1] for entry in resource[4]}
    return values.get(name)


async def put(bootstrap: str, topic: str, *records: tuple[bytes, bytes | None]) -> None:
    """Keys and values, one acknowledged after the other, in partition 0."""
    async with producer_at(bootstrap) as producer:
        for key, value in records:
            await producer.send_and_wait(topic, value, key=key, partition=0)


async def write(bootstrap: str, topic: str, *values: bytes, **how: Any) -> None:
    """All of the values in one batch of partition 0."""
    async with producer_at(bootstrap, **how) as producer:
        batch = producer.create_batch()
        for value in values:
            batch.append(key=None, value=value, timestamp=None)
        await (await producer.send_batch(batch, topic, partition=0))


class BrokerContract:
    """Run with `bench`, at a broker that others use too, and `own_broker`, which may be killed."""

    # Topics.

    def test_topics_are_created_once_and_another_number_of_partitions_is_refused(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            settings = bench.settings(kafka_bootstrap=bench.bootstrap)
            topic = sample_topic(partitions=2)
            assert await ensure_topics(settings, [topic]) == [topic.name]
            assert await ensure_topics(settings, [topic]) == []
            with pytest.raises(TopicsDiffer, match="partitions is 2 and should be 1"):
                await ensure_topics(settings, [replace(topic, partitions=1)])

        asyncio.run(scenario())

    def test_a_topic_keeps_the_settings_that_it_was_created_with(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = await topic_of(bench.bootstrap, settings={"retention.ms": "123456"})
            assert await setting_of(bench.bootstrap, topic, "retention.ms") == "123456"

        asyncio.run(scenario())

    def test_a_setting_of_a_topic_can_be_changed(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = await topic_of(bench.bootstrap)
            async with administrator(bench.bootstrap) as admin:
                change = ConfigResource(ConfigResourceType.TOPIC, topic, configs={"retention.ms": "654321"})
                await admin.alter_configs([change])

            async def seen() -> bool:
                return await setting_of(bench.bootstrap, topic, "retention.ms") == "654321"

            await until_async(seen, seconds=ANSWER_SECONDS)

        asyncio.run(scenario())

    def test_partitions_can_be_added_to_a_topic(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = await topic_of(bench.bootstrap)
            async with administrator(bench.bootstrap) as admin:
                await admin.create_partitions({topic: NewPartitions(3)})

                async def three() -> None:
                    while len((await admin.describe_topics([topic]))[0]["partitions"]) != 3:
                        await asyncio.sleep(0.05)

                await asyncio.wait_for(three(), ANSWER_SECONDS)

        asyncio.run(scenario())

    # Records.

    def test_a_record_that_is_larger_than_its_topic_allows_is_refused(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = await topic_of(bench.bootstrap, settings={"max.message.bytes": "2000"})
            await write(bench.bootstrap, topic, b"x" * 1000)
            with pytest.raises(MessageSizeTooLargeError):
                await write(bench.bootstrap, topic, b"x" * 3000)

        asyncio.run(scenario())

    def test_what_a_tombstone_took_the_place_of_is_gone_once_a_later_record_has_closed_its_segment(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            soon = {"segment.ms": "100", "max.compaction.lag.ms": "200"}
            topic = await topic_of(bench.bootstrap, settings={"cleanup.policy": "compact", **soon})
            await put(bench.bootstrap, topic, (b"kept", b"1"), (b"erased", b"2"), (b"erased", None))
            await asyncio.sleep(0.15)  # the age of a segment is the only thing that closes it
            await put(bench.bootstrap, topic, (b"marker", None))

            async def gone() -> bool:
                values = {record.value for record in await bench.records(topic, 1)}
                assert b"1" in values, "nobody erased that"
                return b"2" not in values

            deadline = time.monotonic() + ANSWER_SECONDS
            while not await gone():  # no look is cancelled half-way: aiokafka may wait for ever, then
                assert time.monotonic() < deadline, "its bytes are still in the log"
                await asyncio.sleep(0.2)

        asyncio.run(scenario())

    def test_a_producer_may_be_idempotent(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = await topic_of(bench.bootstrap)
            await write(bench.bootstrap, topic, b"x", enable_idempotence=True)

        asyncio.run(scenario())

    def test_records_of_aborted_transactions_are_not_seen_and_reading_still_ends(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            await bench.create(topic, reader=bench.reader)
            async with producer_at(bench.bootstrap, transactional_id=topic.name) as producer:
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

    def test_a_record_is_fetched_as_soon_as_it_is_there(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = await topic_of(bench.bootstrap)
            async with consumer_at(bench.bootstrap, fetch_max_wait_ms=5000) as consumer:
                place = TopicPartition(topic, 0)
                consumer.assign([place])
                consumer.seek(place, 0)
                await write(bench.bootstrap, topic, b"x")
                assert (await consumer.getone()).value == b"x"
                # The next fetch is on its way long before a producer has found the broker.
                fetch = asyncio.create_task(consumer.getone())
                await write(bench.bootstrap, topic, b"y")
                async with asyncio.timeout(1.8):
                    assert (await fetch).value == b"y"

        asyncio.run(scenario())

    # Offsets.

    def test_the_end_of_a_partition_is_the_offset_after_its_last_record(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = await topic_of(bench.bootstrap)
            await write(bench.bootstrap, topic, b"0", b"1", b"2")
            await write(bench.bootstrap, topic, b"3", b"4")
            place = TopicPartition(topic, 0)
            async with consumer_at(bench.bootstrap) as consumer:
                assert await consumer.end_offsets([place]) == {place: 5}

        asyncio.run(scenario())

    def test_the_first_offset_from_a_time_on_is_found(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = await topic_of(bench.bootstrap)
            place = TopicPartition(topic, 0)
            async with producer_at(bench.bootstrap) as producer:
                for moment_ms in (1_700_000_000_000, 1_700_000_001_000, 1_700_000_002_000):
                    await producer.send_and_wait(topic, b"x", partition=0, timestamp_ms=moment_ms)
            async with consumer_at(bench.bootstrap) as consumer:
                found = await consumer.offsets_for_times({place: 1_700_000_000_500})
            assert found[place] is not None
            assert (found[place].offset, found[place].timestamp) == (1, 1_700_000_001_000)

        asyncio.run(scenario())

    def test_a_new_group_starts_where_the_log_begins(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            await bench.create(topic, reader=bench.reader)
            done: list[int] = []

            async def handle(delivery: Delivery[Sample]) -> None:
                done.append(delivery.position.offset)

            async with bench.bus(bench.reader) as bus:
                await publish(bus, topic, *(Sample(conversation="c", number=n) for n in range(5)))
                await _delete_records(bench, topic.name, before=2)
                async with serving(bus, topic, handle):
                    await until(lambda: done == [2, 3, 4])

        asyncio.run(scenario())

    def test_a_committed_offset_that_is_gone_stops_the_service_and_the_lost_range_is_named(self, bench: KafkaBench) -> None:
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
            await _delete_records(bench, topic.name, before=7)
            async with bench.bus(bench.reader) as bus:
                with pytest.raises(OffsetLost, match=r"offsets 3 to 6 of .* partition 0 are gone, the log begins at 7"):
                    await served_until_it_ends(bus, topic, handle)
                with pytest.raises(OffsetLost, match="offsets 2 to 6"):
                    _ = [d async for d in bus.read(topic, start=2)]

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

    # Groups.

    def test_a_commit_keeps_its_metadata(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = await topic_of(bench.bootstrap)
            place = TopicPartition(topic, 0)
            async with consumer_at(bench.bootstrap, group_id=bench.reader) as consumer:
                consumer.assign([place])
                await consumer.commit({place: OffsetAndMetadata(1, "twice")})
            async with administrator(bench.bootstrap) as admin:
                found = await admin.list_consumer_group_offsets(bench.reader, partitions=[place])
            assert found == {place: OffsetAndMetadata(1, "twice")}

        asyncio.run(scenario())

    def test_a_session_of_less_than_six_seconds_is_refused(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = await topic_of(bench.bootstrap)
            short = {"session_timeout_ms": 2000, "heartbeat_interval_ms": 500, "rebalance_timeout_ms": 2000}
            with pytest.raises(InvalidSessionTimeoutError):
                async with consumer_at(bench.bootstrap, topic, group_id=bench.reader, **short):
                    pass

        asyncio.run(scenario())

    def test_a_static_member_that_was_killed_reads_again_before_its_session_is_over(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            await bench.create(topic, reader=bench.reader)
            profile = replace(PROFILES[bench.profile], static_membership=True)
            done: list[int] = []

            async def handle(delivery: Delivery[Sample]) -> None:
                done.append(delivery.payload.number)

            # `stop` of a static member does not leave the group, so to the group it is like a kill.
            async with bench.bus(bench.reader, broker_profile=profile) as bus:
                await publish(bus, topic, VALID)
                async with serving(bus, topic, handle):
                    await until(lambda: len(done) == 1)
            async with bench.bus(bench.reader, broker_profile=profile) as bus:
                await publish(bus, topic, VALID)
                async with serving(bus, topic, handle):
                    await until(lambda: len(done) == 2, seconds=0.4 * profile.session_timeout_ms / 1000)

        asyncio.run(scenario())

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

            profile = replace(PROFILES[bench.profile], max_poll_interval_ms=1000)
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
                process = relay(bench, source, target)
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

    def test_what_a_frozen_member_read_is_read_by_others_once_its_session_is_over(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            source, target = sample_topic(partitions=2), sample_topic(partitions=2)
            await bench.create(source, target, reader=bench.reader)
            async with bench.bus(bench.reader, replica="b") as bus:
                await publish(bus, source, *(Sample(conversation=str(n), number=n) for n in range(10)))
                frozen = relay(bench, source, target)
                try:
                    async with asyncio.timeout(60):
                        while len(await bench.records(target.name, 2)) < 10:
                            assert frozen.poll() is None
                    frozen.send_signal(signal.SIGSTOP)
                    await publish(bus, source, *(Sample(conversation=str(n), number=n) for n in range(10, 20)))
                    done: set[int] = set()

                    async def handle(delivery: Delivery[Sample]) -> None:
                        done.add(delivery.payload.number)

                    async with serving(bus, source, handle):
                        await until(lambda: done >= set(range(10, 20)))
                finally:
                    frozen.kill()
                    frozen.wait()

        asyncio.run(scenario())

    # Brokers that go and come.

    def test_what_was_written_outlives_the_broker(self, own_broker: OwnBroker) -> None:
        async def prepare() -> str:
            topic = await topic_of(own_broker.bootstrap)
            await write(own_broker.bootstrap, topic, b"0", b"1")
            return topic

        async def read(topic: str) -> list[bytes | None]:
            async with consumer_at(own_broker.bootstrap) as consumer:
                consumer.assign([TopicPartition(topic, 0)])
                consumer.seek(TopicPartition(topic, 0), 0)
                return [(await consumer.getone()).value for _ in range(2)]

        async def topics() -> list[str]:
            async with administrator(own_broker.bootstrap) as admin:
                return list(await admin.list_topics())

        topic = asyncio.run(prepare())
        own_broker.kill()
        own_broker.start()
        assert topic in asyncio.run(topics())
        assert asyncio.run(read(topic)) == [b"0", b"1"]

    def test_a_broker_that_is_away_is_said_and_found_again_when_it_comes_back(
        self, bench: KafkaBench, own_broker: OwnBroker
    ) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            done: list[int] = []

            async def handle(delivery: Delivery[Sample]) -> None:
                done.append(delivery.payload.number)

            own_broker.kill()
            settings = bench.settings(kafka_bootstrap=own_broker.bootstrap)
            profile = replace(PROFILES[bench.profile], delivery_timeout_seconds=0.3)
            async with KafkaBus(settings, reader=bench.reader, profile=profile) as bus:
                with pytest.raises(BrokerUnavailable, match="no broker answers"):
                    await bus.publish(topic, VALID, bus.begin(topic, VALID))
                assert any("no broker answers" in reason for reason in bus.readiness())
                task = asyncio.create_task(bus.serve(topic, handle))
                await asyncio.to_thread(own_broker.start)
                await ensure_topics(settings, [topic, topic.dead_letters(bench.reader), topic.retries(bench.reader)])
                await until(lambda: not bus.readiness())
                await bus.publish(topic, VALID, bus.begin(topic, VALID))
                await until(lambda: done == [1])
                await bus.stop()
                await task

        asyncio.run(scenario())

    def test_a_broker_that_dies_is_said_and_both_serving_and_publishing_can_still_be_ended(
        self, bench: KafkaBench, own_broker: OwnBroker
    ) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            done: list[int] = []

            async def handle(delivery: Delivery[Sample]) -> None:
                done.append(delivery.payload.number)

            settings = bench.settings(kafka_bootstrap=own_broker.bootstrap)
            await ensure_topics(settings, [topic, topic.dead_letters(bench.reader), topic.retries(bench.reader)])
            profile = replace(PROFILES[bench.profile], delivery_timeout_seconds=1.0)
            async with KafkaBus(settings, reader=bench.reader, profile=profile) as bus:
                task = asyncio.create_task(bus.serve(topic, handle))
                await bus.publish(topic, VALID, bus.begin(topic, VALID))
                await until(lambda: done == [1])
                own_broker.kill()
                with pytest.raises(BrokerUnavailable):
                    await bus.publish(topic, VALID, bus.begin(topic, VALID))
                await until(bus.readiness)
                async with asyncio.timeout(40):
                    await bus.stop()
                    await task

        asyncio.run(scenario())
        # aiokafka leaves futures behind whose exceptions nobody reads; they are complained of here and in no other test.
        gc.collect()


async def _delete_records(bench: KafkaBench, topic: str, *, before: int) -> None:
    async with administrator(bench.bootstrap) as admin:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=before)})
