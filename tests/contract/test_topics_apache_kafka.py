"""Topics on Apache Kafka: an empty cluster becomes what the flow says, each kind of drift is found, and mended or refused."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
)

from infra.real.kafka import KafkaCluster, kafka_cluster
from ruminate.schemas.flow import (
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    PIPELINE_METRICS,
    REASONING_ASSESSED,
    TRAINING_BATCH_SEALED,
    TRAINING_PROGRESSED,
)
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topic_plan import Plan
from ruminate.shared.topics import EVERY_TOPIC, TopicsDiffer, ensure_topics, open_admin
from tests.plugins.real import installed

pytestmark = pytest.mark.real

LETTERS = REASONING_ASSESSED.dead_letters("accumulator").name
RETRIES = REASONING_ASSESSED.retries("accumulator").name
ANSWER_SECONDS = 20.0
DAY_MS = 24 * 3600 * 1000


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    """A broker of our own: what is done to its topics here would be in the way of everybody else."""
    with installed(), kafka_cluster() as running:
        yield running


@pytest.fixture
def admin(cluster: KafkaCluster) -> Iterator[AdminClient]:
    """Whoever works by hand."""
    with AdminClient({"bootstrap.servers": cluster.bootstrap}) as client:
        yield client


@pytest.fixture
def empty(admin: AdminClient) -> None:
    """No topic but the broker's own."""
    if there := [name for name in topics_at(admin) if not name.startswith("_")]:
        delete(admin, *there)


@pytest.fixture
def in_order(cluster: KafkaCluster) -> None:
    """Every topic as the flow says it is, whatever was done to it before."""
    plan(cluster, apply=True, allow_loss=tuple(topic.name for topic in EVERY_TOPIC))


def topics_at(admin: AdminClient) -> dict[str, int]:
    """Names, and numbers of partitions."""
    return {name: len(topic.partitions) for name, topic in admin.list_topics(timeout=ANSWER_SECONDS).topics.items()}


def delete(admin: AdminClient, *names: str) -> None:
    done(admin.delete_topics(list(names)))
    until(lambda: not set(names) & topics_at(admin).keys())


def done(outcomes: Mapping[Any, Any]) -> None:
    for outcome in outcomes.values():
        outcome.result(ANSWER_SECONDS)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ANSWER_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def set_by_hand(admin: AdminClient, topic: str, settings: Mapping[str, str]) -> None:
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)  # one by one: what is not named stays
        for name, value in settings.items()
    ]
    done(admin.incremental_alter_configs([ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)]))


def settings_at(admin: AdminClient, topic: str) -> dict[str, str]:
    (described,) = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
    return {entry.name: entry.value for entry in described.result(ANSWER_SECONDS).values()}


def settings_for(cluster: KafkaCluster) -> ServiceSettings:
    return ServiceSettings(kafka_bootstrap=cluster.bootstrap)


def plan(cluster: KafkaCluster, *, allow_loss: tuple[str, ...] = (), apply: bool = False) -> Plan:
    async def ask() -> Plan:
        async with open_admin(settings_for(cluster)) as topics:
            return await (topics.apply if apply else topics.plan)(allow_loss=allow_loss)

    return asyncio.run(ask())


def write(cluster: KafkaCluster, topic: str, *, days_ago: float = 0.0, partition: int = 0) -> None:
    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, acks="all") as producer:
            moment = int(time.time() * 1000 - days_ago * DAY_MS)
            await producer.send_and_wait(topic, b"{}", key=b"k", partition=partition, timestamp_ms=moment)

    asyncio.run(send())


def ruminate(cluster: KafkaCluster, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "ruminate.command", "topics", *arguments, "--kafka", cluster.bootstrap, "--state", str(folder))
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.usefixtures("empty")
def test_an_empty_cluster_is_given_every_topic_and_then_needs_nothing(
    cluster: KafkaCluster, admin: AdminClient, tmp_path: Path
) -> None:
    planned = ruminate(cluster, tmp_path, "plan", "--json")
    assert planned.returncode == 2
    assert {each["name"] for each in json.loads(planned.stdout)["creations"]} == {topic.name for topic in EVERY_TOPIC}
    assert not {topic.name for topic in EVERY_TOPIC} & topics_at(admin).keys()

    applied = ruminate(cluster, tmp_path, "apply")
    assert applied.returncode == 0, applied.stderr
    assert f"Topics: {len(EVERY_TOPIC)} to create, 0 to change, 0 refused." in applied.stdout

    again = ruminate(cluster, tmp_path, "plan")
    assert (again.returncode, again.stdout) == (0, "Every topic is what the flow says.\n")
    assert settings_at(admin, TRAINING_BATCH_SEALED.name)["retention.ms"] == "-1"
    assert settings_at(admin, INTERACTION_RECORDED.name)["cleanup.policy"] == "compact"
    assert settings_at(admin, LETTERS)["max.message.bytes"] == str(REASONING_ASSESSED.max_message_bytes + 1024 * 1024)


@pytest.mark.usefixtures("empty")
def test_two_who_apply_at_once_end_with_one_cluster(cluster: KafkaCluster, admin: AdminClient) -> None:
    async def both() -> list[list[str]]:
        return await asyncio.gather(*(ensure_topics(settings_for(cluster)) for _ in range(2)))

    asyncio.run(both())
    assert plan(cluster) == Plan()


@pytest.mark.usefixtures("in_order")
def test_drift_that_costs_nothing_is_mended_and_what_others_have_set_stays(cluster: KafkaCluster, admin: AdminClient) -> None:
    delete(admin, PIPELINE_METRICS.name)
    set_by_hand(admin, INTERACTION_COMPLETED.name, {"max.message.bytes": "1000", "segment.bytes": "600000000"})
    set_by_hand(admin, TRAINING_BATCH_SEALED.name, {"retention.ms": "1000000000", "retention.bytes": "1000000000"})
    set_by_hand(admin, INTERACTION_RECORDED.name, {"cleanup.policy": "delete"})

    found = plan(cluster, apply=True)
    assert [creation.name for creation in found.creations] == [PIPELINE_METRICS.name]
    assert {(change.name, change.what) for change in found.changes} == {
        (INTERACTION_COMPLETED.name, "max.message.bytes"),
        (INTERACTION_RECORDED.name, "cleanup.policy"),
        (TRAINING_BATCH_SEALED.name, "retention.bytes"),
        (TRAINING_BATCH_SEALED.name, "retention.ms"),
    }
    assert found.refusals == ()
    again = plan(cluster)
    assert again.to_do == 0
    assert [(left.name, left.what, left.value) for left in again.left] == [
        (INTERACTION_COMPLETED.name, "segment.bytes", "600000000")
    ]
    assert settings_at(admin, INTERACTION_COMPLETED.name)["segment.bytes"] == "600000000"


@pytest.mark.usefixtures("in_order")
def test_a_shorter_life_is_refused_until_it_is_allowed_by_name(cluster: KafkaCluster, admin: AdminClient, tmp_path: Path) -> None:
    name = INTERACTION_COMPLETED.name
    set_by_hand(admin, name, {"retention.ms": "-1"})
    write(cluster, name)
    assert [change.what for change in plan(cluster).changes] == ["retention.ms"], "nothing is older than a week"

    write(cluster, name, days_ago=8, partition=3)
    refused = ruminate(cluster, tmp_path, "apply")
    assert refused.returncode == 1
    assert "retention.ms: for ever -> 7 days" in refused.stdout
    assert "refused: 1 of its 2 records are older than 7 days and would vanish." in refused.stdout
    assert settings_at(admin, name)["retention.ms"] == "-1"
    with pytest.raises(TopicsDiffer, match="1 of its 2 records are older than 7 days"):
        asyncio.run(ensure_topics(settings_for(cluster)))

    assert ruminate(cluster, tmp_path, "apply", "--allow-loss", name).returncode == 0
    assert settings_at(admin, name)["retention.ms"] == str(7 * DAY_MS)


@pytest.mark.usefixtures("in_order")
def test_delete_where_the_flow_compacts_is_taken_back_and_compaction_where_it_deletes_is_refused(
    cluster: KafkaCluster, admin: AdminClient
) -> None:
    name = TRAINING_PROGRESSED.name
    set_by_hand(admin, name, {"cleanup.policy": "compact"})
    write(cluster, name, days_ago=30)
    (refusal,) = plan(cluster, apply=True).refusals
    assert (refusal.name, refusal.what, refusal.old, refusal.new) == (name, "cleanup.policy", "compact", "delete")
    assert settings_at(admin, name)["cleanup.policy"] == "compact"
    assert plan(cluster, allow_loss=(name,), apply=True).refusals == ()
    assert settings_at(admin, name)["cleanup.policy"] == "delete"


@pytest.mark.usefixtures("in_order")
def test_smaller_records_are_refused_while_larger_ones_may_exist(cluster: KafkaCluster, admin: AdminClient) -> None:
    for name in (INTERACTION_RECORDED.name, REASONING_ASSESSED.name):
        set_by_hand(admin, name, {"max.message.bytes": str(64 * 1024 * 1024)})
    write(cluster, INTERACTION_RECORDED.name)
    found = plan(cluster, apply=True)
    assert [(refusal.name, refusal.what) for refusal in found.refusals] == [(INTERACTION_RECORDED.name, "max.message.bytes")]
    assert [change.name for change in found.changes] == [REASONING_ASSESSED.name]


@pytest.mark.usefixtures("in_order")
def test_partitions_are_added_where_no_order_breaks_and_refused_elsewhere(cluster: KafkaCluster, admin: AdminClient) -> None:
    wrong = {REASONING_ASSESSED.name: 6, INTERACTION_RECORDED.name: 1, LETTERS: 6, RETRIES: 3}
    delete(admin, *wrong)
    done(admin.create_topics([NewTopic(name, count, 1) for name, count in wrong.items()]))
    for name in wrong.keys() - {INTERACTION_RECORDED.name}:
        write(cluster, name)
    found = plan(cluster, apply=True)
    assert {(refusal.name, refusal.what, refusal.old, refusal.new) for refusal in found.refusals} == {
        (REASONING_ASSESSED.name, "partitions", "6", "12"),
        (RETRIES, "partitions", "3", "1"),
    }
    there = topics_at(admin)
    assert {name: there[name] for name in wrong} == {
        REASONING_ASSESSED.name: 6,
        INTERACTION_RECORDED.name: 12,
        LETTERS: 12,
        RETRIES: 3,
    }
    # The settings of a topic whose partitions we do not touch are still ours.
    assert settings_at(admin, REASONING_ASSESSED.name)["cleanup.policy"] == "compact"
    # Whatever follows, the next test finds the topics in order.
    delete(admin, *wrong)
    done(admin.create_partitions([NewPartitions(PIPELINE_METRICS.name, 2)]))
    until(lambda: PIPELINE_METRICS.name in {refusal.name for refusal in plan(cluster).refusals})
    delete(admin, PIPELINE_METRICS.name)


@pytest.mark.usefixtures("in_order")
def test_a_replication_that_nobody_gave_is_refused_and_the_way_is_said(
    cluster: KafkaCluster, admin: AdminClient, tmp_path: Path
) -> None:
    command = (sys.executable, "-m", "ruminate.command", "topics", "plan", "--state", str(tmp_path))
    environment = os.environ | {"RUMINATE_KAFKA_REPLICATION": "3", "RUMINATE_KAFKA_BOOTSTRAP": cluster.bootstrap}
    asked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert asked.returncode == 1
    assert asked.stdout.count("replication: 1 -> 3") == len(EVERY_TOPIC)
    assert "kafka-reassign-partitions.sh --reassignment-json-file" in asked.stdout


@pytest.mark.usefixtures("in_order")
def test_what_nothing_owns_any_more_is_shown_and_not_touched(cluster: KafkaCluster, admin: AdminClient) -> None:
    left = ["interaction-recorded-v0", "interaction-recorded-v1-judge-dlq", "ruminate-monitor-old-changelog"]
    done(admin.create_topics([NewTopic(name, 1, 1) for name in [*left, "orders-v1"]]))
    until(lambda: set(left) <= topics_at(admin).keys())
    found = plan(cluster, apply=True)
    assert (found.to_do, found.refusals, found.unowned) == (0, (), tuple(left))
    assert set(left) <= topics_at(admin).keys()


def test_where_nothing_answers_a_line_says_so(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "ruminate.command", "topics", "plan", "--kafka", "127.0.0.1:1", "--state", str(tmp_path))
    asked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (asked.returncode, asked.stdout) == (1, "")
    assert asked.stderr.startswith("ruminate: ")
    assert "127.0.0.1:1" in asked.stderr
    assert asked.stderr.count("\n") == 1
