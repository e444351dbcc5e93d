"""A broker that speaks Kafka's protocol, as the tests of a bus and of brokers need it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from confluent_kafka.admin import AdminClient

from ruminate.schemas.envelope import Headers
from ruminate.schemas.topic import Topic
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.profiles import BrokerProfile
from ruminate.shared.record import Record
from ruminate.shared.topics import ensure_topics
from tests.contract.bench import Bench

ANSWER_SECONDS = 10.0
"""How long one answer of a broker may take in tests."""


class OwnBroker(Protocol):
    """A broker of a test's own, which comes back at the same address."""

    @property
    def bootstrap(self) -> str: ...

    def kill(self) -> None: ...

    def start(self) -> None: ...


class KafkaBench(Bench):
    def __init__(self, state: Path, bootstrap: str, profile: Literal["kafka", "embedded"], **fields: Any) -> None:
        super().__init__(state, **fields)
        self.profile = profile
        self.bootstrap = bootstrap

    def bus(self, reader: str, **fields: Any) -> KafkaBus:
        profile: BrokerProfile | None = fields.pop("broker_profile", None)
        return KafkaBus(self.settings(kafka_bootstrap=self.bootstrap, **fields), reader=reader, profile=profile)

    async def create(self, *topics: Topic[Any], reader: str) -> None:
        all_of_it = [made for topic in topics for made in (topic, topic.dead_letters(reader), topic.retries(reader))]
        await ensure_topics(self.settings(kafka_bootstrap=self.bootstrap), all_of_it)

    async def put(
        self, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Headers | None = None, partition: int = 0
    ) -> int:
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all", max_request_size=64 * 1024 * 1024) as producer:
            written = await producer.send_and_wait(topic, value, key=key, headers=headers, partition=partition)
            return int(written.offset)

    async def records(self, topic: str, partitions: int, *, committed: bool = False) -> Sequence[Record]:
        places = [TopicPartition(topic, number) for number in range(partitions)]
        found: list[Record] = []
        async with AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=50,
            isolation_level="read_committed" if committed else "read_uncommitted",
        ) as consumer:
            consumer.assign(places)
            unread = set(places)
            async with asyncio.timeout(20):
                while unread:
                    for records in (await consumer.getmany(timeout_ms=50)).values():
                        found.extend(records)
                    for place in list(unread):
                        end = consumer.last_stable_offset(place) if committed else consumer.highwater(place)
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


def shares_of(bootstrap: str, group: str) -> dict[str, set[tuple[str, int]]]:
    """What each member of a group is assigned, topics and partitions, by its static name."""
    with AdminClient({"bootstrap.servers": bootstrap, "log_level": 2}) as admin:
        (found,) = admin.describe_consumer_groups([group]).values()
        members = found.result(ANSWER_SECONDS).members
    return {
        member.group_instance_id: {(place.topic, place.partition) for place in member.assignment.topic_partitions}
        for member in members
    }


def relay(
    bench: KafkaBench, source: Topic[Any], target: Topic[Any], *, seconds: float = 0.005, **settings: str
) -> subprocess.Popen[bytes]:
    """Start a reader in a process of its own (`tests.contract.relay`)."""
    fields = {"kafka_bootstrap": bench.bootstrap, "kafka_profile": bench.profile, "state_dir": str(bench.state), **settings}
    command = (sys.executable, "-m", "tests.contract.relay", bench.reader, source.name, target.name, str(seconds))
    return subprocess.Popen(command, env={**os.environ, **{f"RUMINATE_{name.upper()}": value for name, value in fields.items()}})
