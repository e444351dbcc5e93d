"""The broker's side of a benchmark: topics made anew, filled once, and counted by their end offsets."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from ruminate.shared.partitioning import partition_of
from tests.benchmarks.workload import Written

_DEADLINE_SECONDS: Final = 60.0
_FILL: Final = {"acks": "all", "enable.idempotence": True, "linger.ms": 20, "batch.size": 1 << 20, "message.max.bytes": 1 << 24}

_NOT_YET: Final = (
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)
"""What is answered for a topic that was made a moment ago."""


class Topics:
    """The topics of one broker."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        self._partitions: dict[str, int] = {}

    def renew(self, names: Mapping[str, int]) -> None:
        """Make these topics (name: partitions) empty ones."""
        # All of them, whatever is listed: one that was made a moment ago may not be yet.
        for name, deleted in self._admin.delete_topics(list(names)).items():
            try:
                deleted.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise RuntimeError(f"{name} could not be deleted") from error
        self._until(lambda: self._are_gone(names), f"{', '.join(names)} to be gone")
        settings = {"max.message.bytes": str(1 << 24), "cleanup.policy": "delete"}
        for name, partitions in names.items():
            new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=settings)
            self._until(lambda new=new: self._created(new), f"{name} to be created")
        self._partitions.update(names)
        self._until(lambda: all(self._has_leaders(name) for name in names), "every partition to have a leader")

    def add(self, names: Mapping[str, int]) -> None:
        """Make those of these topics (name: partitions) that are not there."""
        there = self._admin.list_topics(timeout=_DEADLINE_SECONDS).topics
        if missing := {name: partitions for name, partitions in names.items() if name not in there}:
            self.renew(missing)

    def fill(self, name: str, records: Iterable[Written]) -> None:
        """Write the records where their order says."""
        producer = Producer({"bootstrap.servers": self.bootstrap, **_FILL})
        failures: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: object) -> None:
            if error is not None:
                failures.append(error)

        for record in records:
            partition = partition_of(record.order, self._partitions[name])
            while True:
                try:
                    producer.produce(name, record.value, record.key, partition, headers=list(record.headers), on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        if producer.flush(_DEADLINE_SECONDS) or failures:
            raise RuntimeError(f"{name} could not be filled: {failures[:1] or 'no acknowledgement'}")

    def count(self, name: str) -> int:
        """Records in the topic, by its end offsets: for topics without transactions, and from which nothing is removed."""
        places = {TopicPartition(name, number): OffsetSpec.latest() for number in range(self._partitions[name])}
        return sum(found.result().offset for found in self._admin.list_offsets(places).values())

    def committed(self, group: str, name: str) -> int:
        """How many records of the topic the group has committed."""
        places = [TopicPartition(name, number) for number in range(self._partitions[name])]
        wanted = ConsumerGroupTopicPartitions(group, places)
        found = self._admin.list_consumer_group_offsets([wanted])[group].result()
        return sum(max(0, place.offset) for place in found.topic_partitions)

    def keys(self, name: str) -> list[bytes]:
        """The record keys of the whole topic, those of aborted transactions left out."""
        settings = {"group.id": "unused", "auto.offset.reset": "earliest", "enable.partition.eof": True}
        consumer = Consumer({"bootstrap.servers": self.bootstrap, **settings})
        keys, ended = list[bytes](), set[int | None]()
        try:
            consumer.assign([TopicPartition(name, number, 0) for number in range(self._partitions[name])])
            deadline = time.monotonic() + _DEADLINE_SECONDS
            while len(ended) < self._partitions[name]:
                for record in consumer.consume(10_000, 1.0):
                    if (error := record.error()) is None:
                        keys += [key] if isinstance(key := record.key(), bytes) else []
                    elif error.code() == KafkaError._PARTITION_EOF:
                        ended.add(record.partition())
                    else:
                        raise RuntimeError(f"{name} could not be read: {error}")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{name} was not read to its end within {_DEADLINE_SECONDS:.0f} s")
        finally:
            consumer.close()
        return keys

    def forget_group(self, group: str) -> None:
        """Remove the group's offsets, so that it begins at the beginning."""

        def forgotten() -> bool:
            try:
                self._admin.delete_consumer_groups([group])[group].result()
            except KafkaException as error:
                # A member that has not left yet, or a static one whose session lasts on.
                return bool(error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND)
            return True

        self._until(forgotten, f"the group {group} to be empty")

    def _are_gone(self, names: Iterable[str]) -> bool:
        return not set(names) & set(self._admin.list_topics(timeout=_DEADLINE_SECONDS).topics)

    def _created(self, new: NewTopic) -> bool:
        try:
            self._admin.create_topics([new])[new.topic].result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise
        return True

    def _has_leaders(self, name: str) -> bool:
        # Asked of the broker: once librdkafka has looked for a leader that was not there yet, it does not look again.
        found = self._admin.list_topics(name, timeout=_DEADLINE_SECONDS).topics[name]
        leaders = [partition.leader for partition in found.partitions.values()]
        if found.error is not None or len(leaders) < self._partitions[name] or min(leaders) < 0:
            return False
        try:
            self.count(name)
        except KafkaException as error:
            if error.args[0].code() not in _NOT_YET:
                raise
            return False
        return True

    @staticmethod
    def _until(condition: Any, what: str) -> None:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {_DEADLINE_SECONDS:.0f} s for {what}")
            time.sleep(0.05)
