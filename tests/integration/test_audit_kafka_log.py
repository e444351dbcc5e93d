"""A history that is poured into a broker reads there as in memory; and what only Kafka does to a log is no fault."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiokafka
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    OffsetSpec,
)

from infra.real.kafka import KafkaCluster, kafka_cluster
from ruminate.command.audit.findings import Report
from ruminate.command.audit.gather import audit
from ruminate.command.audit.kafka_log import KafkaLog
from ruminate.command.audit.snapshot import CouldNotJudge
from ruminate.embedded.broker import embedded_broker
from ruminate.schemas.flow import (
    DATASET_REVISED,
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    REASONING_ASSESSED,
    TRAINING_BATCH_SEALED,
)
from ruminate.schemas.topic import Topic
from ruminate.shared.memory import StoredRecord
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics
from tests.plugins.guarded import GuardedKafka
from tests.plugins.real import installed
from tests.unit.audit_history import History, sound, with_fields
from tests.unit.test_audit_erased import erased

DEADLINE_SECONDS = 60.0
TIDY = {
    # Retention and compaction look at once.
    "log.retention.check.interval.ms": "200",
    "log.cleaner.backoff.ms": "200",
    "log.segment.delete.delay.ms": "100",
}


def settings_of(history: History, bootstrap: str, profile: str) -> ServiceSettings:
    return ServiceSettings(
        kafka_bootstrap=bootstrap,
        kafka_profile="embedded" if profile == "embedded" else "kafka",
        state_dir=history.folder,
        store_uri=(history.folder / "store").as_uri(),
    )


@asynccontextmanager
async def producing(settings: ServiceSettings, **options: object) -> AsyncIterator[AIOKafkaProducer]:
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, acks="all", **options) as producer:
        yield producer


async def write(producer: AIOKafkaProducer, record: StoredRecord) -> None:
    await producer.send_and_wait(
        record.topic, record.value, key=record.key, headers=list(record.headers), partition=record.partition
    )


async def pour(history: History, settings: ServiceSettings) -> None:
    """Write everything at the places where it stands, and commit what was committed."""
    await ensure_topics(settings)
    async with producing(settings) as producer:
        for log in history.logs.values():
            for record in log:
                await write(producer, record)
    for (reader, topic), offsets in history.committed.items():
        if offsets:
            consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap, group_id=reader, enable_auto_commit=False)
            await consumer.start()
            try:
                places = {aiokafka.TopicPartition(topic, number): offset for number, offset in offsets.items()}
                consumer.assign(list(places))
                await consumer.commit(places)
            finally:
                await consumer.stop()


def eventful(folder: Path) -> History:
    """A history with something of everything that is no fault."""
    history = sound(folder)
    history.again(INTERACTION_COMPLETED, value=b"garbage")
    history.complete("a", agent="somebody else")
    history.collect()
    history.settle(INTERACTION_COMPLETED, "collector", "dropped")
    history.committed["assessor", INTERACTION_RECORDED.name].clear()
    history.assess()
    history.complete("pending")
    return history


def same(one: Report, other: Report) -> None:
    assert one.faults == other.faults == ()
    assert one.pending == other.pending
    assert {kind: listed.count for kind, listed in one.apart.items()} == {
        kind: listed.count for kind, listed in other.apart.items()
    }
    filled = {name: counts for name, counts in other.topics.items() if counts.records}
    assert {name: counts for name, counts in one.topics.items() if counts.records} == filled
    assert (one.batches, one.rows, one.artifacts) == (other.batches, other.rows, other.artifacts)


def test_the_embedded_broker_shows_what_memory_shows(tmp_path: Path) -> None:
    history = eventful(tmp_path)
    with embedded_broker() as broker:
        settings = settings_of(history, broker.bootstrap, "embedded")
        asyncio.run(pour(history, settings))
        same(asyncio.run(audit(settings)), history.audit())


def test_revised_datasets_read_at_the_embedded_broker_as_in_memory_and_a_later_revision_is_noticed(tmp_path: Path) -> None:
    history = erased(tmp_path)
    in_memory = history.audit()

    async def scenario(settings: ServiceSettings) -> None:
        await pour(history, settings)
        same(await audit(settings), in_memory)
        async with KafkaLog(settings) as log:
            snapshot = await log.snapshot()
            assert not await log.has_grown(DATASET_REVISED.name, snapshot)
            async with producing(settings) as producer:
                await write(producer, history.records(DATASET_REVISED.name)[0])
            assert await log.has_grown(DATASET_REVISED.name, snapshot)

    with embedded_broker() as broker:
        asyncio.run(scenario(settings_of(history, broker.bootstrap, "embedded")))


# Apache Kafka.


@pytest.fixture(scope="module")
def tidy_kafka() -> Iterator[KafkaCluster]:
    """A broker of our own: what is done to its topics here would be in the way of everybody else."""
    with installed(), kafka_cluster(settings=TIDY) as cluster:
        yield cluster


@pytest.fixture
def admin(tidy_kafka: KafkaCluster) -> Iterator[AdminClient]:
    """Whoever works by hand, at a broker without topics and groups."""
    with AdminClient({"bootstrap.servers": tidy_kafka.bootstrap}) as client:
        if topics := topics_at(client):
            for done in client.delete_topics(topics).values():
                done.result()
        until(lambda: not topics_at(client), "the topics are gone")
        groups = [group.group_id for group in client.list_consumer_groups().result().valid]
        if groups:
            for done in client.delete_consumer_groups(groups).values():
                done.result()
        yield client


def topics_at(admin: AdminClient) -> list[str]:
    return [name for name in admin.list_topics(timeout=DEADLINE_SECONDS).topics if not name.startswith("__")]


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_SECONDS:.0f} s"
        time.sleep(0.1)


def configure(admin: AdminClient, topic: str, **values: str) -> None:
    """Set values of a topic's configuration, `_` for `.` in their names."""
    entries = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET) for name, value in values.items()
    ]
    for done in admin.incremental_alter_configs(
        [ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)]
    ).values():
        done.result()


def begins(admin: AdminClient, topic: Topic[Any]) -> list[int]:
    places = {TopicPartition(topic.name, number): OffsetSpec.earliest() for number in range(topic.partitions)}
    return [done.result().offset for done in admin.list_offsets(places).values()]


@pytest.mark.real
def test_kafka_shows_what_memory_shows(tmp_path: Path, admin: AdminClient, tidy_kafka: KafkaCluster) -> None:
    del admin
    history = eventful(tmp_path)
    settings = settings_of(history, tidy_kafka.bootstrap, "kafka")
    asyncio.run(pour(history, settings))
    same(asyncio.run(audit(settings)), history.audit())


@pytest.mark.real
def test_whoever_may_not_see_a_topic_of_the_flow_cannot_judge(tmp_path: Path, guarded_flow: GuardedKafka) -> None:
    """A topic that is hidden from us is none of those that do not exist, which count as empty."""
    store = tmp_path.as_uri()
    report = asyncio.run(audit(guarded_flow.settings("LOGIN", "operators", store_uri=store)))
    assert report.absent_topics == ()
    with pytest.raises(CouldNotJudge, match="is not described: TopicAuthorizationFailedError"):
        asyncio.run(audit(guarded_flow.settings("LOGIN", "trainer", store_uri=store)))


@pytest.mark.real
def test_what_retention_took_is_older_than_the_horizon(tmp_path: Path, admin: AdminClient, tidy_kafka: KafkaCluster) -> None:
    history = sound(tmp_path)
    settings = settings_of(history, tidy_kafka.bootstrap, "kafka")
    asyncio.run(pour(history, settings))
    configure(admin, INTERACTION_COMPLETED.name, retention_ms="1000")
    until(lambda: sum(begins(admin, INTERACTION_COMPLETED)) == 6, "retention took everything")
    report = asyncio.run(audit(settings))
    assert report.faults == ()
    assert report.apart["older"].count == 6
    assert list(report.whole_since_ms) == [INTERACTION_COMPLETED.name]
    assert report.horizon is not None
    assert 0 < report.taken_at_ms - report.whole_since_ms[INTERACTION_COMPLETED.name] <= 1_000


@pytest.mark.real
def test_what_compaction_took_is_no_fault(tmp_path: Path, admin: AdminClient, tidy_kafka: KafkaCluster) -> None:
    history = sound(tmp_path)
    settings = settings_of(history, tidy_kafka.bootstrap, "kafka")
    history.committed["assessor", INTERACTION_RECORDED.name].clear()
    history.assess()
    asyncio.run(pour(history, settings))
    configure(admin, REASONING_ASSESSED.name, segment_ms="100", min_cleanable_dirty_ratio="0.001", delete_retention_ms="100")
    assert asyncio.run(audit(settings)).topics[REASONING_ASSESSED.name].records == 12

    def compacted() -> bool:
        # An idle topic never rolls its segment: only what is behind the active one is compacted.
        history.again(REASONING_ASSESSED)
        asyncio.run(append(settings, history.records(REASONING_ASSESSED.name)[-1]))
        report = asyncio.run(audit(settings))
        assert report.faults == ()
        return report.topics[REASONING_ASSESSED.name].records < 12

    until(compacted, "compaction took repeats")


async def append(settings: ServiceSettings, *records: StoredRecord) -> None:
    async with producing(settings) as producer:
        for record in records:
            await write(producer, record)


@pytest.mark.real
def test_aborted_records_are_none_and_what_stands_in_an_open_transaction_is_waited_for(
    tmp_path: Path, admin: AdminClient, tidy_kafka: KafkaCluster
) -> None:
    del admin
    history = sound(tmp_path)
    settings = settings_of(history, tidy_kafka.bootstrap, "kafka")
    victim = history.records(INTERACTION_RECORDED.name)[0]
    forged = replace(victim, value=with_fields(victim, agent="nobody"))

    async def scenario() -> Report:
        await pour(history, settings)
        async with producing(settings, transactional_id="tests") as producer:
            await producer.begin_transaction()
            await write(producer, forged)
            await producer.abort_transaction()
            assert (await audit(settings)).faults == ()

            await producer.begin_transaction()
            await write(producer, victim)
            before = asyncio.Event()

            def progress(what: str, done: int, of: int) -> None:
                del done, of
                if what == INTERACTION_COMPLETED.name:
                    before.set()  # all ends are taken

            auditing = asyncio.create_task(audit(settings, progress=progress))
            await before.wait()
            await producer.commit_transaction()
            return await auditing

    report = asyncio.run(scenario())
    assert report.faults == ()
    assert report.topics[INTERACTION_RECORDED.name].repeats == 1


@pytest.mark.real
def test_a_log_that_is_cut_under_its_hands_cannot_be_judged(tmp_path: Path, admin: AdminClient, tidy_kafka: KafkaCluster) -> None:
    history = sound(tmp_path)
    settings = settings_of(history, tidy_kafka.bootstrap, "kafka")
    asyncio.run(pour(history, settings))

    def cut(what: str, done: int, of: int) -> None:
        del done, of
        if what == TRAINING_BATCH_SEALED.name:
            places = [
                TopicPartition(INTERACTION_COMPLETED.name, number, history.ends[INTERACTION_COMPLETED.name, number])
                for number in range(INTERACTION_COMPLETED.partitions)
            ]
            for done_ in admin.delete_records(places).values():
                done_.result()

    with pytest.raises(CouldNotJudge, match="lost records while it was read"):
        asyncio.run(audit(settings, progress=cut))
