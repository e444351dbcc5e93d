"""One contestant at one job: its input topic is full before it starts, and every output is counted and looked at."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError

from infra.real.ports import hold_port
from ruminate.schemas.flow import (
    FLOW,
    GROUP_READERS,
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    REASONING_ASSESSED,
    TRAINING_BATCH_SEALED,
    service_of,
)
from ruminate.schemas.topic import Topic
from tests.benchmarks import workload
from tests.benchmarks.notes import NOTES_IN, NOTES_OUT
from tests.benchmarks.peers.environment import import_path, quixstreams_python
from tests.benchmarks.peers.task import FOLDED
from tests.benchmarks.process import Measured
from tests.benchmarks.topics import Topics

_LOOK_SECONDS: Final = 0.1
_DEADLINE_SECONDS: Final = 900.0
_SILENCE_SECONDS: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is raced, on how many messages."""

    name: str
    module: str
    source: Topic[Any]
    sink: Topic[Any]
    messages: int
    contestants: tuple[str, ...] = ("ruminate", "quixstreams", "faust")


JOBS: Final = (
    Job(
        name="pipe",
        module="tests.benchmarks.pipe",
        source=NOTES_IN,
        sink=NOTES_OUT,
        messages=300_000,
        contestants=("ruminate", "transactions", "quixstreams", "aiokafka", "faust"),
    ),
    Job(
        name="collector",
        module="ruminate.collector",
        source=INTERACTION_COMPLETED,
        sink=INTERACTION_RECORDED,
        messages=150_000,
    ),
    Job(
        name="assessor",
        module="ruminate.assessor",
        source=INTERACTION_RECORDED,
        sink=REASONING_ASSESSED,
        messages=20_000,
    ),
    Job(
        name="accumulator",
        module="ruminate.accumulator",
        source=REASONING_ASSESSED,
        sink=TRAINING_BATCH_SEALED,
        messages=120_000,
    ),
)

SLOW: Final = {"faust": 4, "aiokafka": 2}
"""These get a part of the messages, so that their runs last about as long."""

_SAME_WORK: Final = {"RUMINATE_COMPARE_ANSWERS": "false"}
"""Peers compare no answers, and write one verdict an interaction."""
OURS: Final[Mapping[str, Mapping[str, str]]] = {
    "ruminate": _SAME_WORK,
    "transactions": {**_SAME_WORK, "RUMINATE_KAFKA_TRANSACTIONS": "true"},
}
"""Our own ways to do it, with the settings that make them; both write to the topic of the flow."""

_PEERS: Final = {"quixstreams": "quix", "faust": "faust_app", "aiokafka": "plain_aiokafka"}


@dataclass(frozen=True, slots=True)
class Result:
    """What a run cost, from its first output to its last."""

    events_per_second: float
    cpu_us: float
    peak_megabytes: float


@dataclass(frozen=True, slots=True)
class Alone:
    """Microseconds of CPU a message: the decision alone, and with decoding before it and encoding after it."""

    decide_us: float
    step_us: float


@dataclass(frozen=True)
class Course:
    """Where races are run."""

    topics: Topics
    folder: Path
    cores: set[int] | None
    """Of the process under test; None leaves it to the system."""

    def prepare(self, job: Job) -> None:
        """Fill the input topics, once for all rounds: what ours reads may be what another job has written."""
        for name, messages in {input_of(job, contestant): messages_of(job, contestant) for contestant in job.contestants}.items():
            self.topics.renew({name: job.source.partitions})
            self.topics.fill(name, workload.RECORDS[job.name](range(messages)))

    def run(self, job: Job, contestant: str) -> Result:
        """Let it work its input off. Raises where an output is missing or there twice."""
        sink = output_of(job, contestant)
        self.topics.renew({sink: job.sink.partitions})
        group = job.name if contestant in OURS else f"{contestant}-{job.name}"
        self.topics.forget_group(group)
        expected = messages_of(job, contestant)
        with self.started(job, contestant, group=group, source=input_of(job, contestant), sink=sink) as (process, port):
            progress = self._progress(job, contestant, group, sink, port)
            deadline = time.monotonic() + _DEADLINE_SECONDS
            while (first := progress()) == 0:
                look(process, deadline, f"the first output of {contestant}")
            begun, cpu_begun = time.monotonic(), process.cpu_seconds()
            done, silent_since = first, begun
            while done < expected:
                look(process, deadline, f"{expected} outputs of {contestant}, has {done}")
                before, done = done, progress()
                silent_since = time.monotonic() if done > before else silent_since
                if time.monotonic() - silent_since > _SILENCE_SECONDS:
                    raise RuntimeError(f"{contestant} at {job.name} stands still at {done} of {expected} outputs")
            seconds, cpu_seconds = time.monotonic() - begun, process.cpu_seconds() - cpu_begun
            peak = process.peak_megabytes()
        self._verify(job, contestant, sink, expected, done)
        counted = max(1, done - first)
        return Result(counted / seconds, cpu_seconds / counted * 1e6, peak)

    def alone(self, job: Job) -> Alone:
        """The cost without a bus, on the core that the contestants get."""
        pinned = ("taskset", "--cpu-list", ",".join(map(str, sorted(self.cores)))) if self.cores else ()
        found = subprocess.run(
            (*pinned, sys.executable, "-m", "tests.benchmarks.alone", job.name),
            env={**os.environ, **_settings(self)},
            capture_output=True,
            text=True,
            check=True,
        )
        return Alone(**json.loads(found.stdout))

    @contextmanager
    def started(
        self, job: Job, contestant: str, *, group: str, source: str, sink: str, settings: Mapping[str, str] | None = None
    ) -> Iterator[tuple[Measured, int]]:
        """The contestant's process, and the port of its metrics."""
        if contestant in OURS:  # what is not there is looked for again and again
            self.topics.add(_topics_beside(job, group))
        with ExitStack() as held:
            port = hold_port(held)
            environment = {**_settings(self), "RUMINATE_OPERATIONS_PORT": str(port), **OURS.get(contestant, {}), **(settings or {})}
            if contestant in OURS:
                command = [sys.executable, "-m", job.module]
            else:
                python = quixstreams_python() if contestant == "quixstreams" else sys.executable
                command = [python, "-W", "ignore", "-m", f"tests.benchmarks.peers.{_PEERS[contestant]}"]
                environment |= {
                    "PYTHONPATH": import_path(),
                    "BENCH_JOB": job.name,
                    "BENCH_BOOTSTRAP": self.topics.bootstrap,
                    "BENCH_GROUP": group,
                    "BENCH_SOURCE": source,
                    "BENCH_SINK": sink,
                    "BENCH_FOLDER": str(self.folder / f"{group}-{port}"),
                }
            log = self.folder / f"{job.name}-{contestant}.log"
            process = Measured(command, log=log, environment=environment, cores=self.cores)
            held.callback(process.stop)
            yield process, port

    def _progress(self, job: Job, contestant: str, group: str, sink: str, port: int) -> Callable[[], int]:
        if contestant == "transactions":  # its markers have offsets, too
            return lambda: self.topics.committed(group, job.source.name)
        if job.name != "accumulator":
            return lambda: self.topics.count(sink)
        metric = "ruminate_held" if contestant in OURS else FOLDED
        return lambda: _metric(port, metric)

    def _verify(self, job: Job, contestant: str, sink: str, expected: int, done: int) -> None:
        if job.name == "accumulator":  # it folds and cuts no batch: what it has taken in is all there is to count
            if done != expected:
                raise RuntimeError(f"{contestant} at {job.name} has folded {done} of {expected} records")
            return
        keys = self.topics.keys(sink)
        if not len(keys) == len(set(keys)) == expected:
            raise RuntimeError(f"{contestant} at {job.name} wrote {len(keys)} records with {len(set(keys))} keys of {expected}")


def _topics_beside(job: Job, group: str) -> dict[str, int]:
    """Everything else that our service reads or writes, with its partitions: retries, dead letters, its further topics."""
    found = {topic.name: topic.partitions for topic in FLOW if job.name in (*topic.read_by, *topic.written_by)}
    readers = {
        group: (job.source,),
        **{reader: topics for reader, topics in GROUP_READERS.items() if service_of(reader) == job.name},
    }
    for reader, topics in readers.items():
        for topic in topics:
            found |= {side.name: side.partitions for side in (topic.retries(reader), topic.dead_letters(reader))}
    return {name: partitions for name, partitions in found.items() if name not in (job.source.name, job.sink.name)}


def look(process: Measured, deadline: float, what: str) -> None:
    """Wait until the next look. Raises where the process has ended, or where it took too long."""
    time.sleep(_LOOK_SECONDS)
    process.check()
    if time.monotonic() > deadline:
        raise TimeoutError(f"waited in vain for {what}")


def messages_of(job: Job, contestant: str) -> int:
    """How many messages the contestant gets."""
    return job.messages // SLOW.get(contestant, 1)


def input_of(job: Job, contestant: str) -> str:
    """Ours reads the topic of the flow; who gets as much as ours reads the same."""
    return f"bench-{job.source.name}-{SLOW[contestant]}" if contestant in SLOW else job.source.name


def output_of(job: Job, contestant: str) -> str:
    """Everyone writes to a topic of its own, made anew for each run."""
    return job.sink.name if contestant in OURS else f"bench-{contestant}-{job.sink.name}"


def _settings(course: Course) -> Mapping[str, str]:
    return {
        "RUMINATE_KAFKA_BOOTSTRAP": course.topics.bootstrap,
        "RUMINATE_STATE_DIR": str(course.folder / "state"),
        "RUMINATE_STORE_URI": f"file://{course.folder / 'store'}",
        "RUMINATE_COLLECTOR_PORT": "0",
        "RUMINATE_LOG_LEVEL": "warning",
        "RUMINATE_SEAL_AT_ROWS": "1000000",
        "RUMINATE_SEAL_AT_RECORDS": "1000000",
        "RUMINATE_SEAL_AFTER_SECONDS": "31536000",
    }


def _metric(port: int, name: str) -> int:
    """The sum of a metric over its labels, at the service's own `/metrics`; 0 before it answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except URLError:
        return 0
    return int(sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)))
