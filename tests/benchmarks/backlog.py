"""A backlog that is worked off by one service after the other, and the memory of each meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.benchmarks import workload
from tests.benchmarks.race import JOBS, Course, look

_DEADLINE_SECONDS: Final = 3 * 3600.0
_UNSEALED_AT_MOST: Final = 1000
"""A batch that is not full yet keeps its records uncommitted."""
_SETTINGS: Final = {"RUMINATE_SEAL_AT_ROWS": "500"}


@dataclass(frozen=True, slots=True)
class Worked:
    """One service's work on it. Megabytes resident at a tenth, at half and at the end, and the most at any time."""

    service: str
    messages: int
    seconds: float
    megabytes: tuple[float, float, float]
    peak_megabytes: float


def work_off(course: Course, messages: int) -> Iterator[Worked]:
    """Collector, assessor, accumulator, each on what the one before has written, with the settings that it has by default."""
    services = [job for job in JOBS if job.name != "pipe"]
    for job in services:
        course.topics.renew({job.source.name: job.source.partitions, job.sink.name: job.sink.partitions})
    course.topics.fill(services[0].source.name, workload.interactions(range(messages)))
    for job in services:
        course.topics.forget_group(job.name)
        samples: list[tuple[int, float]] = []
        begun = time.monotonic()
        started = course.started(job, "ruminate", group=job.name, source=job.source.name, sink=job.sink.name, settings=_SETTINGS)
        with started as (process, _):
            enough = messages - (_UNSEALED_AT_MOST if job.name == "accumulator" else 0)
            done = 0
            while done < enough:
                look(process, begun + _DEADLINE_SECONDS, f"{job.name} to work off {messages}, has {done}")
                done = course.topics.committed(job.name, job.source.name)
                samples.append((done, process.megabytes()))
            seconds, peak = time.monotonic() - begun, process.peak_megabytes()
        tenth, half = (next(memory for done, memory in samples if done >= enough * share) for share in (0.1, 0.5))
        yield Worked(job.name, done, seconds, (tenth, half, samples[-1][1]), peak)
