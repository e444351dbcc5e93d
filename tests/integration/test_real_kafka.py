"""Apache Kafka as the tests run it: ready when it says so, three that survive one, and the same address after a restart."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from infra.real.kafka import BrokerDidNotStart, KafkaCluster, kafka_cluster
from tests.plugins.real import installed

pytestmark = pytest.mark.real

DEADLINE_SECONDS = 60.0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def create(cluster: KafkaCluster) -> str:
    topic = f"real-{uuid4().hex[:8]}"
    with AdminClient({"bootstrap.servers": cluster.bootstrap}) as admin:
        # As many replicas as the cluster says by default.
        admin.create_topics([NewTopic(topic, 1, -1)])[topic].result(DEADLINE_SECONDS)
        until(lambda: topic in admin.list_topics(timeout=DEADLINE_SECONDS).topics)
    return topic


def refused(cluster: KafkaCluster, topic: str, *values: bytes, within_seconds: float = 3.0) -> list[KafkaError]:
    """Write, and give the error of each value that was not acknowledged in time."""
    failures: list[KafkaError] = []
    settings = {"bootstrap.servers": cluster.bootstrap, "acks": "all", "log_level": 0}
    with Producer(settings | {"message.timeout.ms": int(within_seconds * 1000)}) as producer:
        for value in values:
            producer.produce(topic, value, on_delivery=lambda error, _: failures.append(error) if error else None)
        assert producer.flush(DEADLINE_SECONDS) == 0
    return failures


def write(cluster: KafkaCluster, topic: str, *values: bytes) -> None:
    assert refused(cluster, topic, *values, within_seconds=DEADLINE_SECONDS) == []


def read(cluster: KafkaCluster, topic: str, count: int) -> list[bytes | None]:
    with Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "reader", "log_level": 0}) as consumer:
        consumer.assign([TopicPartition(topic, 0, 0)])
        return [message.value() for message in consumer.consume(count, DEADLINE_SECONDS)]


def in_sync(cluster: KafkaCluster, topic: str) -> set[int]:
    with AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0}) as admin:
        return set(admin.list_topics(topic, timeout=DEADLINE_SECONDS).topics[topic].partitions[0].isrs)


def test_what_was_acknowledged_is_there_after_a_kill_and_a_restart_at_the_same_address(kafka_of_one: KafkaCluster) -> None:
    topic, before = create(kafka_of_one), kafka_of_one.bootstrap
    write(kafka_of_one, topic, b"0", b"1")
    kafka_of_one.kill(0)
    kafka_of_one.start(0)
    assert kafka_of_one.bootstrap == before
    write(kafka_of_one, topic, b"2")
    assert read(kafka_of_one, topic, 3) == [b"0", b"1", b"2"]


def test_a_topic_takes_no_more_than_the_usual_megabyte_unless_it_says_so(kafka: KafkaCluster) -> None:
    with AdminClient({"bootstrap.servers": kafka.bootstrap}) as admin:
        (asked,) = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, create(kafka))]).values()
        assert int(asked.result(DEADLINE_SECONDS)["max.message.bytes"].value) < 2 * 1024 * 1024


def test_topics_are_not_created_by_writing_to_them(kafka: KafkaCluster) -> None:
    topic = f"nobody-made-{uuid4().hex[:8]}"
    assert len(refused(kafka, topic, b"0")) == 1
    with AdminClient({"bootstrap.servers": kafka.bootstrap}) as admin:
        assert topic not in admin.list_topics(timeout=DEADLINE_SECONDS).topics


def test_a_broker_that_is_paused_answers_nothing_and_goes_on_when_it_is_resumed(kafka_of_one: KafkaCluster) -> None:
    topic = create(kafka_of_one)
    kafka_of_one.pause(0)
    with (
        AdminClient({"bootstrap.servers": kafka_of_one.bootstrap, "log_level": 0}) as admin,
        pytest.raises(KafkaException),
    ):
        admin.list_topics(timeout=1.0)
    kafka_of_one.resume(0)
    write(kafka_of_one, topic, b"0")


def test_of_three_brokers_one_may_be_lost_and_a_second_one_stops_the_writing(kafka_of_three: KafkaCluster) -> None:
    topic = create(kafka_of_three)
    write(kafka_of_three, topic, b"0")
    assert in_sync(kafka_of_three, topic) == {0, 1, 2}
    kafka_of_three.kill(0)
    write(kafka_of_three, topic, b"1")
    kafka_of_three.stop(1)
    assert len(refused(kafka_of_three, topic, b"lost")) == 1
    kafka_of_three.start(0, 1)
    assert in_sync(kafka_of_three, topic) == {0, 1, 2}
    write(kafka_of_three, topic, b"2")
    found = read(kafka_of_three, topic, 3)
    assert [value for value in found if value != b"lost"][:2] == [b"0", b"1"]


def test_a_broker_that_cannot_start_shows_what_it_said() -> None:
    with (
        installed(),
        pytest.raises(BrokerDidNotStart, match=r"broker 0 ended with code 1:(?s:.*)log\.retention"),
        kafka_cluster(settings={"log.retention.ms": "much"}),
    ):
        pass


def test_run_by_hand_it_says_its_address_and_ends_when_it_is_asked_to(kafka: KafkaCluster) -> None:
    command = (sys.executable, "-m", "infra.real", "kafka")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        bootstrap = process.stdout.readline().strip()
        assert re.fullmatch(r"127\.0\.0\.1:\d+", bootstrap)
        assert bootstrap != kafka.bootstrap
        port = int(bootstrap.rsplit(":", 1)[1])
        listening = {pid for pid, ports in _listeners().items() if port in ports}
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_SECONDS) == 0
    assert listening
    until(lambda: not any(map(psutil.pid_exists, listening)))


def _listeners() -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.pid and connection.laddr:
            found.setdefault(connection.pid, set()).add(connection.laddr.port)
    return found


def test_data_in_a_folder_that_was_named_stays_for_the_next_cluster(tmp_path: Path) -> None:
    with installed(), kafka_cluster(folder=tmp_path) as first:
        topic = create(first)
        write(first, topic, b"0")
        first.stop(0)
    with kafka_cluster(folder=tmp_path) as second:
        assert read(second, topic, 1) == [b"0"]
    assert [path.name for path in tmp_path.iterdir()] == ["broker-0"]


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            installed(),
            pytest.raises(BrokerDidNotStart, match="Address already in use"),
            kafka_cluster(port=taken.getsockname()[1]),
        ):
            pass
