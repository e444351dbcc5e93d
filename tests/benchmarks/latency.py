"""How long it takes from an interaction's being published to its assessment's being read, through collector and assessor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from confluent_kafka import Consumer, Producer, TopicPartition

from ruminate.schemas.flow import INTERACTION_COMPLETED
from ruminate.shared.partitioning import partition_of
from tests.benchmarks import workload
from tests.benchmarks.race import JOBS, Course, look, output_of
from tests.benchmarks.workload import Written

_FIRST_SECONDS: Final = 60.0
_LAST_SECONDS: Final = 120.0
WARM_SECONDS: Final = 10
"""So long the stream runs before its messages count."""
BROKER_WARM_SECONDS: Final = 60
"""So long a broker that has just started compiles its code, which takes most of a core meanwhile."""


@dataclass(frozen=True, slots=True)
class Latency:
    """In milliseconds, of every message after the warm-up; and how busy all cores of the machine were meanwhile."""

    p50: float
    p99: float
    most: float
    messages: int
    busy: float


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
        busy = stream.run(records, a_second, skip=a_second * warm_seconds)
        took = stream.took(skip=1 + a_second * warm_seconds)
    took.sort()
    return Latency(_at(took, 0.5), _at(took, 0.99), took[-1], len(took), busy)


def warm(course: Course, *, a_second: int) -> None:
    """Let a stream run that nobody counts, so that who is first on a new broker has no worse one than who comes later."""
    measure(course, "ruminate", a_second=a_second, seconds=1, warm_seconds=BROKER_WARM_SECONDS)


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
        self._producer.produce(INTERACTION_COMPLETED.name, record.value, record.key, partition, headers=list(record.headers))
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

    def run(self, records: Iterator[Written], a_second: int, *, skip: int) -> float:
        """Publish all of them at this pace and wait for the last; how busy the machine was after the first ones."""
        begun, number, before = time.monotonic(), 0, _ticks()
        for number, record in enumerate(records, 1):
            if number == skip:
                before = _ticks()
            while time.monotonic() < begun + number / a_second:
                self.read()
            self.publish(record, number)
        deadline = time.monotonic() + _LAST_SECONDS
        while len(self._took) < number + 1:
            self.read()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{number + 1} interactions were published and {len(self._took)} came back assessed")
        busy, total = (after - earlier for after, earlier in zip(_ticks(), before, strict=True))
        return busy / max(1, total)

    def took(self, *, skip: int) -> list[float]:
        """Milliseconds of each but the first ones."""
        return [seconds * 1000 for number, seconds in self._took.items() if number >= skip]

    def close(self) -> None:
        self._producer.flush(_LAST_SECONDS)
        self._consumer.close()


def _ticks() -> tuple[int, int]:
    """What the cores of this machine have worked since it runs, and that together with their idle time."""
    ticks = [int(each) for each in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
    _user, _nice, _system, idle, waiting, *_ = ticks
    return sum(ticks) - idle - waiting, sum(ticks)


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
