"""How long it takes from an interaction's being published to its assessment's being read, through collector and assessor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Consumer, Producer, TopicPartition

from ruminate.schemas.flow import INTERACTION_COMPLETED
from ruminate.shared.partitioning import partition_of
from tests.benchmarks import workload
from tests.benchmarks.race import JOBS, Course, look, output_of
from tests.benchmarks.workload import Written

_FIRST_SECONDS: Final = 60.0
_LAST_SECONDS: Final = 120.0
WARM_SECONDS: Final = 20
"""So long the stream runs before its messages count: a broker that has just started is slower by far."""


@dataclass(frozen=True, slots=True)
class Latency:
    """In milliseconds, of every message after the warm-up."""

    p50: float
    p99: float
    most: float
    messages: int


def measure(course: Course, contestant: str, *, a_second: int, seconds: int, warm_seconds: int = WARM_SECONDS) -> Latency:
    """Publish at a steady pace and read what comes out. Raises where something does not."""
    collector, assessor = (next(job for job in JOBS if job.name == name) for name in ("collector", "assessor"))
    source = INTERACTION_COMPLETED.name
    between, sink = output_of(collector, contestant), output_of(assessor, contestant)
    course.topics.renew(dict.fromkeys((source, between, sink), INTERACTION_COMPLETED.partitions))
    with ExitStack() as resources:
        processes = []
        for job, read, written in ((collector, source, between), (assessor, between, sink)):
            group = job.name if contestant == "ruminate" else f"{contestant}-{job.name}-latency"
            course.topics.forget_group(group)
            started = course.started(job, contestant, group=group, source=read, sink=written)
            processes.append(resources.enter_context(started)[0])
        stream = _Stream(course.topics.bootstrap, sink)
        resources.callback(stream.close)
        deadline = time.monotonic() + _FIRST_SECONDS
        records = workload.interactions(range(1 + a_second * (warm_seconds + seconds)))
        stream.publish(next(records), 0)
        while not stream.read():
            for process in processes:
                look(process, deadline, f"the first assessment by {contestant}")
        stream.run(records, a_second)
        took = stream.took(skip=1 + a_second * warm_seconds)
    took.sort()
    return Latency(_at(took, 0.5), _at(took, 0.99), took[-1], len(took))


class _Stream:
    def __init__(self, bootstrap: str, sink: str) -> None:
        self._producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "linger.ms": 0})
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False})
        places = [TopicPartition(sink, number, 0) for number in range(INTERACTION_COMPLETED.partitions)]
        self._consumer.assign(places)
        self._published: dict[bytes, tuple[int, float]] = {}
        self._took: dict[int, float] = {}

    def publish(self, record: Written, number: int) -> None:
        """Write one interaction, now."""
        partition = partition_of(record.order, INTERACTION_COMPLETED.partitions)
        self._published[workload.assessed_id(number).encode()] = (number, time.monotonic())
        self._producer.produce(INTERACTION_COMPLETED.name, record.value, record.key, partition, headers=record.headers)
        self._producer.poll(0)

    def read(self) -> int:
        """Take what has arrived, and give how many that were."""
        arrived = self._consumer.consume(1000, 0.001)
        now = time.monotonic()
        for record in arrived:
            key = record.key()
            if record.error() is not None or not isinstance(key, bytes):
                raise RuntimeError(f"an assessment could not be read: {record.error()}")
            number, published = self._published[key]
            self._took.setdefault(number, now - published)
        return len(arrived)

    def run(self, records: Iterator[Written], a_second: int) -> None:
        """Publish all of them at this pace, and wait for the last."""
        begun, number = time.monotonic(), 0
        for number, record in enumerate(records, 1):
            while time.monotonic() < begun + number / a_second:
                self.read()
            self.publish(record, number)
        deadline = time.monotonic() + _LAST_SECONDS
        while len(self._took) < number + 1:
            self.read()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{number + 1} interactions were published and {len(self._took)} came back assessed")

    def took(self, *, skip: int) -> list[float]:
        """Milliseconds of each but the first ones."""
        return [seconds * 1000 for number, seconds in self._took.items() if number >= skip]

    def close(self) -> None:
        self._producer.flush(_LAST_SECONDS)
        self._consumer.close()


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
