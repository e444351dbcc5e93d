"""Lag on Apache Kafka: markers of transactions are no records, large records hide none, one dead topic spoils no other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from infra.real.kafka import KafkaCluster
from ruminate.schemas.topic import Topic
from ruminate.shared.lag import PEEK_BYTES, Lag, LagProbe
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics
from tests.contract.bench import Sample, sample_topic

pytestmark = pytest.mark.real


@pytest.fixture
def settings(kafka: KafkaCluster, tmp_path: Path) -> ServiceSettings:
    return ServiceSettings(kafka_bootstrap=kafka.bootstrap, state_dir=tmp_path)


def producer(settings: ServiceSettings, transactional_id: str | None = None) -> AIOKafkaProducer:
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap, transactional_id=transactional_id, max_request_size=32 * 1024 * 1024
    )


async def commit(settings: ServiceSettings, group: str, offsets: Mapping[TopicPartition, int]) -> None:
    async with AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap, group_id=group, enable_auto_commit=False) as consumer:
        consumer.assign(list(offsets))
        await consumer.commit(dict(offsets))


async def one_lag(settings: ServiceSettings, group: str, topic: Topic[Sample]) -> Lag:
    async with LagProbe(settings, {group: (topic,)}) as probe:
        (lag,) = await probe.measure()
        return lag


@pytest.mark.parametrize("last", ["commit", "abort"])
def test_a_log_that_ends_in_markers_is_read_to_its_end(settings: ServiceSettings, last: str) -> None:
    async def scenario() -> None:
        topic, group = sample_topic(partitions=3), f"reader-{uuid4().hex}"
        await ensure_topics(settings, [topic])
        places = [TopicPartition(topic.name, number) for number in range(3)]
        async with producer(settings, topic.name) as writer:
            for outcome in ("commit", "abort", last):
                await writer.begin_transaction()
                for place in places:
                    await writer.send_and_wait(topic.name, b"{}", partition=place.partition)
                await (writer.abort_transaction() if outcome == "abort" else writer.commit_transaction())
        # Each transaction is a record and a marker: offsets 0 to 5. What was aborted is no work for anybody.
        committed = 1 if last == "abort" else 2
        lag = await one_lag(settings, group, topic)
        assert lag.messages == 3 * committed
        assert lag.seconds is not None
        for behind, read_to in ((0, 6), (0, 5), (0 if last == "abort" else 3, 4)):
            await commit(settings, group, dict.fromkeys(places, read_to))
            assert (await one_lag(settings, group, topic)).messages == behind, f"read up to {read_to}"

    asyncio.run(scenario())


def test_what_an_open_transaction_has_written_is_not_yet_there_to_be_read(settings: ServiceSettings) -> None:
    async def scenario() -> None:
        topic, group = sample_topic(partitions=1), f"reader-{uuid4().hex}"
        await ensure_topics(settings, [topic])
        async with producer(settings) as plain, producer(settings, topic.name) as writer:
            await plain.send_and_wait(topic.name, b"{}", partition=0)
            await writer.begin_transaction()
            await writer.send_and_wait(topic.name, b"{}", partition=0)
            await plain.send_and_wait(topic.name, b"{}", partition=0)
            async with LagProbe(settings, {group: (topic,)}) as probe:
                assert [lag.messages for lag in await probe.measure()] == [1]
                await commit(settings, group, {TopicPartition(topic.name, 0): 1})
                assert await probe.measure() == [Lag(group, topic.name, 0, None)]
                await writer.commit_transaction()
                assert [lag.messages for lag in await probe.measure()] == [2]

    asyncio.run(scenario())


def test_records_larger_than_a_look_are_counted_in_every_partition(settings: ServiceSettings) -> None:
    async def scenario() -> None:
        topic = replace(sample_topic(partitions=12), max_message_bytes=4 * 1024 * 1024)
        await ensure_topics(settings, [topic])
        async with producer(settings) as writer:
            for number in range(24):
                await writer.send_and_wait(topic.name, b"x" * 3 * PEEK_BYTES, partition=number % 12)
        lag = await one_lag(settings, f"reader-{uuid4().hex}", topic)
        assert lag.messages == 24
        assert lag.seconds is not None

    asyncio.run(scenario())


def test_a_topic_that_does_not_answer_spoils_no_other(settings: ServiceSettings) -> None:
    async def scenario() -> None:
        there, missing = sample_topic(partitions=2), sample_topic(partitions=2)
        groups = f"reader-{uuid4().hex}", f"reader-{uuid4().hex}"
        await ensure_topics(settings, [there])
        async with producer(settings) as writer:
            await writer.send_and_wait(there.name, b"{}", partition=1)
        async with LagProbe(settings, {groups[0]: (missing,), groups[1]: (there,)}) as probe:
            for _ in range(2):
                nothing, one = await probe.measure()
                assert nothing == Lag(groups[0], missing.name, None, None)
                assert (one.topic, one.messages) == (there.name, 1)

    asyncio.run(scenario())


def test_offsets_past_the_end_of_a_topic_that_was_made_anew_are_no_negative_lag(settings: ServiceSettings) -> None:
    async def scenario() -> None:
        topic, group = sample_topic(partitions=1), f"reader-{uuid4().hex}"
        await ensure_topics(settings, [topic])
        async with producer(settings) as writer:
            await writer.send_and_wait(topic.name, b"{}", partition=0)
        await commit(settings, group, {TopicPartition(topic.name, 0): 100})
        lag = await one_lag(settings, group, topic)
        assert lag.messages is not None
        assert lag.messages >= 0

    asyncio.run(scenario())
