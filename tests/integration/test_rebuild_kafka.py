"""Rebuilds out of what Apache Kafka has left of a log: after retention, after compaction, after an erasure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from infra.real.kafka import KafkaCluster, kafka_cluster
from ruminate.accumulator.making.dataset import load_manifest
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.command.datasets.policy import ReplayPolicy
from ruminate.command.datasets.replay import replay
from ruminate.schemas.flow import INTERACTION_RECORDED, REASONING_ASSESSED
from ruminate.schemas.interaction import InteractionRecorded
from ruminate.schemas.topic import Topic
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.store import FileStore
from ruminate.shared.topics import ensure_topics
from tests.integration.recorded_log import (
    LENIENT,
    SETTINGS,
    TARGET,
    Pieces,
    assess,
    chain_of,
    interaction,
    outcomes,
    rebuild,
    record,
    seal,
)
from tests.plugins.real import installed

pytestmark = pytest.mark.real

DEADLINE_SECONDS = 90.0
REPLAY = ReplayPolicy(LENIENT, AccumulatorSettings.written_down({"seal_at_rows": 6, "holdout_ratio": 0.25}), given_name="six")


@pytest.fixture
def cluster() -> Iterator[KafkaCluster]:
    """A broker of our own, whose cleaner looks often."""
    with installed(), kafka_cluster(settings={"log.cleaner.backoff.ms": "200"}) as running:
        yield running


def some(end: int) -> list[InteractionRecorded]:
    return [interaction(n, thinks=n % 5 != 0, training_allowed=n % 7 != 3) for n in range(end)]


def filler(topic: Topic[Any], partition: int, bus: KafkaBus) -> InteractionRecorded:
    """An interaction of another target, or another conversation, in this partition."""
    for number in range(10_000, 11_000):
        each = interaction(number, target_model=f"filler-{number}", conversation_id=f"filler-{number}", training_allowed=False)
        if bus.partition_of(topic, topic.order_of(each)) == partition:
            return each
    raise AssertionError(f"no filler for partition {partition}")


def place_of_chain(bus: KafkaBus) -> int:
    return bus.partition_of(REASONING_ASSESSED, f"default/{TARGET}")


async def erase(cluster: KafkaCluster, topic: Topic[Any], partition: int, event_ids: Collection[str]) -> None:
    """Write tombstones."""
    async with AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, acks="all") as producer:
        for event_id in event_ids:
            await producer.send_and_wait(topic.name, None, key=event_id.encode(), partition=partition)


def configure(cluster: KafkaCluster, topic: Topic[Any], **values: str) -> None:
    """Change a topic's configuration, dots written as underscores."""
    entries = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET) for name, value in values.items()
    ]
    with AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 2}) as admin:
        changes = [ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries)]
        for future in admin.incremental_alter_configs(changes).values():
            future.result()


def begin_at(cluster: KafkaCluster, topic: Topic[Any], partition: int, offset: int) -> None:
    """Let the log begin here, as retention does; Kafka refuses it on a topic that is only compacted."""
    configure(cluster, topic, cleanup_policy="compact,delete")
    with AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 2}) as admin:
        for future in admin.delete_records([TopicPartition(topic.name, partition, offset)]).values():
            future.result()
    configure(cluster, topic, cleanup_policy="compact")


async def compact(cluster: KafkaCluster, bus: KafkaBus, topic: Topic[Any], partition: int, gone: Collection[int]) -> None:
    """Let the cleaner run until these offsets are out of the log, tombstones included."""
    soon = {"segment_ms": "100", "min_cleanable_dirty_ratio": "0.001", "delete_retention_ms": "0", "min_compaction_lag_ms": "0"}
    await asyncio.to_thread(configure, cluster, topic, **soon)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        # An idle topic never closes its segment: only what is appended makes the cleaner look at what came before.
        each = filler(topic, partition, bus)
        await (record(bus, each) if topic is INTERACTION_RECORDED else assess(bus, each))
        left = {delivery.position.offset async for delivery in bus.read(topic, partitions={partition})}
        if not left & set(gone):
            return
        assert time.monotonic() < deadline, f"{len(left & set(gone))} of {len(gone)} records are still there"
        await asyncio.sleep(0.3)


def test_a_chain_is_rebuilt_from_what_retention_compaction_and_an_erasure_have_left(cluster: KafkaCluster, tmp_path: Path) -> None:
    async def scenario() -> None:
        settings, store, pieces = ServiceSettings(kafka_bootstrap=cluster.bootstrap), FileStore(tmp_path), Pieces(tmp_path)
        await ensure_topics(settings)
        async with KafkaBus(settings, reader="accumulator") as bus:
            await assess(bus, *some(64))
            await seal(bus, store, 5)
        async with KafkaBus(settings, reader="command") as bus:
            first, second, *_ = (await chain_of(bus)).batches
            assert {(each.outcome, each.decided) for each in await rebuild(bus, store)} == {("identical", "anew")}
            assert outcomes(await rebuild(bus, store, without_manifests=True)) == ["identical"] * 5

            # Retention: the log begins within the second batch's interval.
            await asyncio.to_thread(begin_at, cluster, REASONING_ASSESSED, place_of_chain(bus), second.after_offset + 2)
            rebuilt = await rebuild(bus, store)
            assert outcomes(rebuilt)[0] == "incomplete"
            assert outcomes(rebuilt)[2:] == ["identical"] * 3
            assert len(rebuilt[0].vanished) == first.to_offset - first.after_offset
            assert [each.offset for each in rebuilt[1].vanished] == [second.after_offset + 1]

            # The same events again, later in the log, then compaction: what batches are made of lies elsewhere now.
            await assess(bus, *some(64))
            await compact(cluster, bus, REASONING_ASSESSED, place_of_chain(bus), range(second.to_offset + 1))
            pieces.blob_of(first, "train.jsonl").unlink()
            rebuilt = await rebuild(bus, store)
            assert {(each.outcome, each.decided) for each in rebuilt} == {("identical", "anew")}
            assert [each.put_back for each in rebuilt] == [True, False, False, False, False]

            # An erasure: one row, and one record that was left out anyway.
            row = (await load_manifest(store, first.dataset)).rows[0]
            left_out = (await load_manifest(store, second.dataset)).left_out[0]
            places = {
                delivery.envelope.id: (delivery.position.offset, delivery.payload.recorded_id)
                async for delivery in bus.read(REASONING_ASSESSED, partitions={place_of_chain(bus)})
            }
            erased = [event_id for event_id, (_, recorded) in places.items() if recorded in (row.recorded_id, left_out.recorded_id)]
            await erase(cluster, REASONING_ASSESSED, place_of_chain(bus), erased)
            await compact(cluster, bus, REASONING_ASSESSED, place_of_chain(bus), [places[event_id][0] for event_id in erased])
            rebuilt = await rebuild(bus, store)
            assert outcomes(rebuilt) == ["incomplete", *["identical"] * 4]
            assert [(each.offset, each.event) for each in rebuilt[0].vanished] == [(row.offset, row.event_id)]
            assert (rebuilt[1].decided, [each.offset for each in rebuilt[1].vanished]) == ("by_manifest", [left_out.offset])

    asyncio.run(scenario())


def test_a_replay_is_the_same_before_and_after_compaction(cluster: KafkaCluster, tmp_path: Path) -> None:
    async def scenario() -> None:
        settings, store = ServiceSettings(kafka_bootstrap=cluster.bootstrap), FileStore(tmp_path)
        await ensure_topics(settings)
        async with KafkaBus(settings, reader="command") as bus:
            await record(bus, *some(64))
            once = await replay(bus, store, REPLAY, target=TARGET)
            assert len(once.datasets["default", TARGET]) > 4
            await record(bus, *reversed(some(64)))
            repeated = await replay(bus, store, REPLAY, target=TARGET)
            assert repeated == once
            partition = bus.partition_of(INTERACTION_RECORDED, "c-0")
            places = [delivery.position.offset async for delivery in bus.read(INTERACTION_RECORDED, partitions={partition})]
            await compact(cluster, bus, INTERACTION_RECORDED, partition, places[: len(places) // 2])
            compacted = await replay(bus, store, REPLAY, target=TARGET)
            # What was found elsewhere in the log is told in the summary; the datasets know nothing of it.
            assert (compacted.chains, compacted.datasets, compacted.report) == (once.chains, once.datasets, once.report)
            assert compacted.summary != once.summary

    asyncio.run(scenario())


def test_an_accumulator_on_kafka_and_a_rebuild_of_its_lost_store_agree(cluster: KafkaCluster, tmp_path: Path) -> None:
    async def scenario() -> None:
        settings = ServiceSettings(kafka_bootstrap=cluster.bootstrap)
        await ensure_topics(settings)
        async with KafkaBus(settings, reader="accumulator") as bus:
            await assess(bus, *some(64))
            await seal(bus, FileStore(tmp_path / "store"), 5)
        (tmp_path / "store").rename(tmp_path / "lost")
        async with KafkaBus(settings, reader="command") as bus:
            rebuilt = await rebuild(bus, FileStore(tmp_path / "store"), settings=SETTINGS)
        assert [(each.outcome, each.put_back) for each in rebuilt] == [("identical", True)] * 5
        lost, found = (
            {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            for folder in (tmp_path / "lost", tmp_path / "store")
        )
        assert found == lost

    asyncio.run(scenario())
