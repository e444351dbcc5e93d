"""With the generated access lists each service does its own work, and nothing else: every other right is tried and refused."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import OffsetOutOfRangeError, TopicAuthorizationFailedError, TransactionalIdAuthorizationFailed
from aiokafka.protocol.fetch import FetchRequest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, Message, Producer
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
)

from ruminate.command.acls import bindings_of
from ruminate.eraser.lives import COMPACTED
from ruminate.schemas.flow import (
    ERASURE_REQUESTED,
    FEEDBACK_GIVEN,
    FLOW,
    GROUP_READERS,
    INTERACTION_COMPLETED,
    MODEL_REGISTERED,
    MONITOR_APP,
    PIPELINE_METRICS,
    SIDE_TOPICS,
    service_of,
    topic_named,
)
from ruminate.schemas.topic import Topic
from ruminate.shared.access import Grant, grants, principal_of, transactional_ids_of
from ruminate.shared.bus import BrokerUnavailable, Delivery
from ruminate.shared.connection import aiokafka_options, librdkafka_options
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.service import EXIT_CRASHED
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import EVERY_TOPIC, open_admin
from tests.integration.erasing import MARKER, every_record, holding, plant, request, tell, told
from tests.plugins.guarded import ACTORS, GuardedKafka, environment_of, run_to_its_end, user_of

pytestmark = pytest.mark.real

EXAMPLES = Path(__file__).parents[2] / "schemas/examples"
ANSWER_SECONDS = 20.0
DEADLINE_SECONDS = 60.0
DENIED: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
GROUPS: Final = (*GROUP_READERS, MONITOR_APP)


def example(topic: Topic[Any]) -> Any:
    """A payload of the topic, as its examples have it."""
    path = min((EXAMPLES / topic.name / "valid").glob("*.json"))
    return topic.carries.model_validate_json(json.dumps(json.loads(path.read_bytes())["value"]))


def may(actor: str, operation: str, resource: str) -> set[str]:
    """Names of what somebody may do something with."""
    mine = [each for each in grants() if each.principal == principal_of(actor)]
    return {each.name for each in mine if each.resource == resource and operation in each.operations}


# Its own work.


@pytest.mark.parametrize("reader", GROUP_READERS)
def test_a_reader_does_its_whole_work(guarded_flow: GuardedKafka, reader: str) -> None:
    (source,) = GROUP_READERS[reader]
    targets = [topic for topic in FLOW if service_of(reader) in topic.written_by]
    done = asyncio.Event()

    async def handle(delivery: Delivery[Any]) -> None:
        for ordinal, target in enumerate(targets):
            delivery.tell(target, example(target), ordinal=ordinal)
        done.set()

    async def scenario() -> None:
        super_user = guarded_flow.settings("INTERNAL")
        async with KafkaBus(super_user, reader="tests") as outside:
            payload = example(source)
            envelope = outside.begin(source, payload)
            where = await outside.publish(source, payload, envelope)
        async with AIOKafkaProducer(bootstrap_servers=super_user.kafka_bootstrap) as producer:
            await producer.send_and_wait(source.name, b"no event", key=b"none", partition=where.partition)
        settings = guarded_flow.settings("LOGIN", service_of(reader))
        async with KafkaBus(settings, reader=reader) as bus:
            serving = asyncio.create_task(bus.serve(source, handle))
            async with asyncio.timeout(DEADLINE_SECONDS):
                await asyncio.wait((serving, asyncio.create_task(done.wait())), return_when=asyncio.FIRST_COMPLETED)
                if serving.done():
                    serving.result()
                while await committed(super_user.kafka_bootstrap, reader, source, where.partition) < where.offset + 2:
                    await asyncio.sleep(0.05)
            await bus.stop()
            await serving
            for target in targets:
                told = example(target)
                await bus.publish(target, told, bus.begin(target, told))
            await reads_what_it_should(guarded_flow, bus, service_of(reader))
        async with KafkaBus(super_user, reader="tests") as outside:
            assert b"no event" in [record.value async for record in outside.records(source.dead_letters(reader))]
            for target in targets:
                causes = [found.envelope.cause async for found in outside.read(target)]
                assert envelope.id in causes, target.name

    asyncio.run(scenario())


async def reads_what_it_should(kafka: GuardedKafka, bus: KafkaBus, actor: str) -> None:
    async with KafkaBus(kafka.settings("INTERNAL"), reader="tests") as outside:
        for topic in FLOW:
            if actor in topic.read_by:
                payload = example(topic)
                await outside.publish(topic, payload, outside.begin(topic, payload))
                assert payload in [found.payload async for found in bus.read(topic)], topic.name


async def committed(bootstrap: str, group: str, topic: Topic[Any], partition: int) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        place = TopicPartition(topic.name, partition)
        found = await admin.list_consumer_group_offsets(group, partitions=[place])
        return int(found[place].offset) if place in found else -1
    finally:
        await admin.close()


@pytest.mark.parametrize("reader", GROUP_READERS)
def test_a_reader_writes_and_commits_in_a_transaction_of_its_own(guarded_flow: GuardedKafka, reader: str) -> None:
    settings = guarded_flow.settings("LOGIN", service_of(reader))
    source, target = GROUP_READERS[reader][0], next(topic for topic in FLOW if service_of(reader) in topic.written_by)
    identity = f"{transactional_ids_of(reader)}{uuid4()}"

    async def scenario() -> None:
        client = AIOKafkaProducer(**aiokafka_options(settings), transactional_id=identity)
        async with client as producer, producer.transaction():
            await producer.send(target.name, b"{}", key=b"probe", partition=0)
            await producer.send_offsets_to_transaction({TopicPartition(source.name, source.partitions - 1): 0}, reader)

    asyncio.run(scenario())


def test_the_gateway_publishes_and_follows_what_serves(guarded_flow: GuardedKafka) -> None:
    async def scenario() -> None:
        async with KafkaBus(guarded_flow.settings("LOGIN", "gateway"), reader="gateway") as bus:
            payload = example(INTERACTION_COMPLETED)
            await bus.publish(INTERACTION_COMPLETED, payload, bus.begin(INTERACTION_COMPLETED, payload))
            await reads_what_it_should(guarded_flow, bus, "gateway")
            async with asyncio.timeout(DEADLINE_SECONDS):
                following = bus.read(MODEL_REGISTERED, follow=True)
                async with KafkaBus(guarded_flow.settings("LOGIN", "deployer"), reader="deployer") as deployer:
                    registered = example(MODEL_REGISTERED)
                    await deployer.publish(MODEL_REGISTERED, registered, deployer.begin(MODEL_REGISTERED, registered))
                assert (await anext(following)).payload == registered
                await following.aclose()

    asyncio.run(scenario())


def test_agents_produce_what_they_did_and_what_they_think_of_it(guarded_flow: GuardedKafka) -> None:
    async def scenario() -> None:
        async with KafkaBus(guarded_flow.settings("CLIENT", "agents"), reader="agents") as bus:
            for topic in (INTERACTION_COMPLETED, FEEDBACK_GIVEN):
                payload = example(topic)
                await bus.publish(topic, payload, bus.begin(topic, payload))

    asyncio.run(scenario())


def test_operators_keep_topics_as_the_flow_says_and_settle_dead_letters(guarded_flow: GuardedKafka) -> None:
    settings = guarded_flow.settings("CLIENT", "operators")
    changed = ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, FEEDBACK_GIVEN.name, incremental_configs=[changed])
    [outcome] = guarded_flow.admin.incremental_alter_configs([resource]).values()
    outcome.result(ANSWER_SECONDS)

    async def scenario() -> None:
        async with open_admin(settings) as admin:
            plan = await admin.plan()
            assert [change.name for change in plan.changes] == [FEEDBACK_GIVEN.name]
            assert await admin.apply() == plan
            assert not (await admin.plan()).to_do
        async with AIOKafkaProducer(**aiokafka_options(settings)) as producer:
            for side in SIDE_TOPICS:
                await producer.send_and_wait(side.name, None if "compact" in side.cleanup else b"{}", key=b"letter", partition=0)

    asyncio.run(scenario())


def _by_certificate(kafka: GuardedKafka) -> ServiceSettings:
    made = kafka.authority.issue(user_of("monitor"))
    return kafka.settings("MUTUAL", kafka_certificate_file=made.certificate, kafka_key_file=made.key)


WAYS_OF_THE_MONITOR: Final[dict[str, Callable[[GuardedKafka], ServiceSettings]]] = {
    "SCRAM over TLS": lambda kafka: kafka.settings("CLIENT", "monitor"),
    "OAUTHBEARER over TLS": lambda kafka: kafka.by_token("monitor"),
    "a certificate": _by_certificate,
}
"""Faust has a client of its own, and its own words for who we are."""


@pytest.mark.parametrize("way", WAYS_OF_THE_MONITOR)
def test_the_monitor_watches_everything(guarded_flow: GuardedKafka, tmp_path: Path, way: str) -> None:
    environment = {
        **os.environ,
        **environment_of(WAYS_OF_THE_MONITOR[way](guarded_flow)),
        "RUMINATE_STATE_DIR": str(tmp_path),
        "RUMINATE_METRICS_WINDOW_SECONDS": "1",
    }
    log, begun = tmp_path / "monitor.log", datetime.now(UTC)

    async def scenario(process: subprocess.Popen[bytes]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS), KafkaBus(guarded_flow.settings("INTERNAL"), reader="tests") as outside:
            async for told in outside.read(PIPELINE_METRICS, follow=True):
                if told.payload.window_start < begun:
                    continue  # told by another one
                measured = {(lag.reader, lag.topic) for lag in told.payload.lag}
                if measured >= {(reader, topic.name) for reader, topics in GROUP_READERS.items() for topic in topics}:
                    assert process.poll() is None
                    return

    with (
        log.open("wb") as output,
        subprocess.Popen([sys.executable, "-m", "ruminate.monitor"], env=environment, stderr=output) as process,
    ):
        try:
            asyncio.run(scenario(process))
        except TimeoutError:
            pytest.fail(log.read_text()[-3000:])
        finally:
            process.kill()
    assert "broker_not_reached" not in log.read_text()


def test_the_eraser_finds_and_erases_and_asks_how_long_the_rest_stays(guarded_flow: GuardedKafka, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        **environment_of(guarded_flow.settings("CLIENT", "eraser")),
        "RUMINATE_STATE_DIR": str(tmp_path),
    }
    log, name = tmp_path / "eraser.log", f"forget-{uuid4().hex[:8]}"

    async def scenario() -> None:
        async with asyncio.timeout(DEADLINE_SECONDS), KafkaBus(guarded_flow.settings("INTERNAL"), reader="tests") as outside:
            await plant(outside)
            await tell(outside, ERASURE_REQUESTED, request(), event_id=name)
            while not (told_of := [each for each in await told(outside) if each.erasure_id == name]):
                await asyncio.sleep(0.2)
            assert told_of[0].erased.keys() == set(COMPACTED)
            assert holding(await every_record(outside), MARKER) == {}
            assert told_of[0].ends_by[FEEDBACK_GIVEN.name] is not None

    with (
        log.open("wb") as output,
        subprocess.Popen([sys.executable, "-m", "ruminate.eraser"], env=environment, stderr=output) as process,
    ):
        try:
            asyncio.run(scenario())
        except TimeoutError:
            pytest.fail(log.read_text()[-3000:])
        finally:
            process.kill()


# Nothing else.


@pytest.mark.parametrize("actor", ACTORS)
def test_nobody_writes_or_reads_what_the_flow_does_not_give_them(guarded_flow: GuardedKafka, actor: str) -> None:
    settings = guarded_flow.settings("LOGIN", actor)
    names = {topic.name for topic in EVERY_TOPIC}
    assert written(settings, names) == may(actor, "Write", "topic") & names
    assert asyncio.run(read(settings, names)) == may(actor, "Read", "topic") & names


def written(settings: ServiceSettings, topics: Iterable[str]) -> set[str]:
    """The topics that take a record; every other one must say that it is not allowed."""
    producer = Producer(librdkafka_options(settings) | {"message.timeout.ms": int(ANSWER_SECONDS * 1000), "log_level": 2})
    outcomes: dict[str, KafkaError | None] = {}

    def settled(error: KafkaError | None, message: Message) -> None:
        outcomes[str(message.topic())] = error

    for topic in topics:
        producer.produce(topic, b"{}", key=b"probe", partition=0, on_delivery=settled)
    assert producer.flush(ANSWER_SECONDS) == 0
    assert {error.code() for error in outcomes.values() if error is not None} <= {KafkaError.TOPIC_AUTHORIZATION_FAILED}
    return {topic for topic, error in outcomes.items() if error is None}


async def read(settings: ServiceSettings, topics: Iterable[str]) -> set[str]:
    """The topics that give their records; every other one must say that it is not allowed."""
    options = aiokafka_options(settings)
    [(host, port, _)] = collect_hosts(options.pop("bootstrap_servers"))
    connection = await create_conn(host, port, **options)
    try:
        answer = await connection.send(FetchRequest(0, 0, 2**20, 0, [(topic, [(0, 0, 1024)]) for topic in topics]))
    finally:
        await connection.close()
    codes = {topic: partitions[0][1] for topic, partitions in answer.topics}
    assert codes.keys() == set(topics)
    assert set(codes.values()) <= {0, OffsetOutOfRangeError.errno, TopicAuthorizationFailedError.errno}
    return {topic for topic, code in codes.items() if code != TopicAuthorizationFailedError.errno}


def test_a_service_without_a_right_says_which_one_and_what_to_do(guarded_flow: GuardedKafka, tmp_path: Path) -> None:
    settings = guarded_flow.settings("LOGIN", "gateway")
    hint = "TopicAuthorizationFailed.*: our user has no right to it; `ruminate acls plan` shows what is missing"

    async def scenario() -> None:
        async with KafkaBus(settings, reader="gateway") as bus, asyncio.timeout(ANSWER_SECONDS):
            with pytest.raises(BrokerUnavailable, match=f"{FEEDBACK_GIVEN.name} could not be read: {hint}"):
                assert [found async for found in bus.read(FEEDBACK_GIVEN)]

    asyncio.run(scenario())
    done = run_to_its_end("assessor", settings, tmp_path)
    assert done.returncode == EXIT_CRASHED
    crash = next(line for line in map(json.loads, done.stderr.splitlines()) if line["event"] == "service_crashed")
    assert crash["why"].startswith("GroupAuthorizationFailedError: our user has no right to it")


@pytest.mark.parametrize("actor", ACTORS)
def test_nobody_uses_the_group_or_the_transactions_of_another(guarded_flow: GuardedKafka, actor: str) -> None:
    settings = guarded_flow.settings("LOGIN", actor)
    others = set(GROUPS) - may(actor, "Read", "group")
    place = Place(min(may(actor, "Read", "topic") or {INTERACTION_COMPLETED.name}), 0, 0)
    with AdminClient(librdkafka_options(settings) | {"log_level": 2}) as admin:
        for group in others:
            assert_denied(admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, [place])]))
        for group in others - may(actor, "Describe", "group"):
            assert_denied(admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]))

    async def take(identity: str) -> None:
        producer = AIOKafkaProducer(**aiokafka_options(settings), transactional_id=identity)
        try:
            with pytest.raises(TransactionalIdAuthorizationFailed):
                await producer.start()
        finally:
            await producer.stop()

    async def scenario() -> None:
        identities = [f"{transactional_ids_of(reader)}probe" for reader in GROUP_READERS if service_of(reader) != actor]
        await asyncio.gather(*map(take, [*identities, "probe"]))

    asyncio.run(scenario())


@pytest.mark.parametrize("actor", ACTORS)
def test_nobody_but_operators_changes_topics_and_nobody_at_all_grants_rights(guarded_flow: GuardedKafka, actor: str) -> None:
    name = INTERACTION_COMPLETED.name
    seen = min(may(actor, "Write", "topic"))
    changed = ConfigEntry("retention.ms", "1", incremental_operation=AlterConfigOpType.SET)
    ours = Grant(principal_of(actor), "topic", "probe", "literal", ("Read",))
    with AdminClient(librdkafka_options(guarded_flow.settings("LOGIN", actor)) | {"log_level": 2}) as admin:
        attempts: dict[str, Callable[[], Any]] = {
            "create another topic": lambda: admin.create_topics([NewTopic("probe", 1, 1)]),
            "delete a topic": lambda: admin.delete_topics([name]),
            "delete records": lambda: admin.delete_records([Place(seen, 0, 0)]),
            "grant rights": lambda: admin.create_acls(list(bindings_of(ours))),
        }
        if actor != "operators":
            attempts |= {
                "add partitions": lambda: admin.create_partitions([NewPartitions(name, 99)]),
                "change a setting": lambda: admin.incremental_alter_configs(
                    [ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=[changed])]
                ),
            }
            if name not in may(actor, "DescribeConfigs", "topic"):
                attempts["see settings"] = lambda: admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name)])
        for attempt in attempts.values():
            assert_denied(attempt())
        cluster = admin.describe_cluster(include_authorized_operations=True).result(ANSWER_SECONDS)
        assert not cluster.authorized_operations  # to create, to alter, to see access lists
    assert topic_named(name).partitions == len(guarded_flow.admin.list_topics(name, timeout=ANSWER_SECONDS).topics[name].partitions)


def assert_denied(outcomes: dict[Any, Any]) -> None:
    for outcome in outcomes.values():
        try:
            found = outcome.result(ANSWER_SECONDS)
        except KafkaException as error:
            errors = [error.args[0]]
        else:
            errors = [place.error for place in getattr(found, "topic_partitions", [])]
        assert errors, "allowed"
        assert {None if error is None else error.code() for error in errors} <= DENIED, errors
