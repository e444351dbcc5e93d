"""Ours beside the same work written plainly: `make bench`, or `python -m tests.benchmarks`.

    pipe, collector, assessor, accumulator     events/s, CPU a message, memory; contestants in turn, three rounds
    latency                                    published to assessed, at 1,000 and at 300 a second
    backlog                                    a million messages, memory meanwhile

One Apache Kafka on one core, the process under test on another. Nothing here gates: the bars say met or not met. What is
measured in full goes into docs/experiments.md.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import replace
from typing import Annotated, Final

import typer

from infra.real.kafka import kafka_cluster
from infra.real.tied import temporary_folder
from tests.benchmarks import backlog, latency, report
from tests.benchmarks.race import JOBS, Alone, Course, Job, Result
from tests.benchmarks.topics import Topics

RACES: Final = tuple(job.name for job in JOBS)
PARTS: Final = (*RACES, "latency", "backlog")
BROKER: Final = {"log.cleaner.enable": "false"}
app = typer.Typer(name="python -m tests.benchmarks", add_completion=False, pretty_exceptions_enable=False)
ROUNDS, BACKLOG, SECONDS = 3, 1_000_000, 30
RATES: Final = (1000, 300)


@app.command(help=__doc__)
def main(
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(PARTS)}; may be given again.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Of each race.")] = ROUNDS,
    messages: Annotated[int | None, typer.Option(min=100, help="Of each race and of the backlog, instead of theirs.")] = None,
    beside: Annotated[list[str] | None, typer.Option(help="Only these race beside ours; may be given again.")] = None,
    pin: Annotated[bool, typer.Option(help="Broker on one core, process under test on the other.")] = True,
) -> None:
    """Measure, print tables, and keep what was measured in full in docs/experiments.md."""
    parts = only or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        raise typer.BadParameter(f"nothing is named {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    first, *others = sorted(os.sched_getaffinity(0))
    pinned = pin and bool(others)
    full = pinned and rounds >= ROUNDS and messages is None and beside is None
    if pinned:
        os.sched_setaffinity(0, others)  # what we start inherits it: the broker, too
    how = f"Broker and clock pinned to core {others}, process under test to core {first}. " if pinned else "Nothing pinned. "
    with temporary_folder("bench") as folder, kafka_cluster(folder=folder / "kafka", settings=BROKER, jvm=()) as cluster:
        course = Course(Topics(cluster.bootstrap), folder, {first} if pinned else None)
        if jobs := [job for job in JOBS if job.name in parts]:
            jobs = [_tailored(job, messages, beside) for job in jobs]
            _publish("races", how + report.measured_on(), _races(course, jobs, rounds), keep=full and len(jobs) == len(JOBS))
        if "latency" in parts:
            anywhere = replace(course, cores=set(os.sched_getaffinity(0)) | {first} if pinned else None)
            who = ("ruminate", *(beside or ("quixstreams", "faust")))
            latency.warm(anywhere, a_second=max(RATES))
            found = {
                a_second: {each: latency.measure(anywhere, each, a_second=a_second, seconds=SECONDS) for each in who}
                for a_second in RATES
            }
            about = "Only the broker and the clock are pinned. " + report.measured_on()
            _publish("latency", about, report.latencies(found), keep=full)
        if "backlog" in parts:
            worked = list(backlog.work_off(course, messages or BACKLOG))
            _publish("backlog", how + report.measured_on(), report.backlogs(worked), keep=full)


def _tailored(job: Job, messages: int | None, beside: list[str] | None) -> Job:
    chosen = tuple(who for who in job.contestants if beside is None or who in ("ruminate", *beside))
    return replace(job, messages=messages or job.messages, contestants=chosen)


def _races(course: Course, jobs: list[Job], rounds: int) -> str:
    results: dict[str, dict[str, list[Result]]] = {}
    alone: defaultdict[str, list[Alone]] = defaultdict(list)
    for job in jobs:
        of_job = results[job.name] = {contestant: [] for contestant in job.contestants}
        print(f"{job.name}: filling {job.messages:,} messages …", flush=True)
        course.prepare(job)
        for number in range(rounds):
            alone[job.name].append(course.alone(job))
            for contestant in job.contestants:
                result = course.run(job, contestant)
                of_job[contestant].append(result)
                print(
                    f"{job.name}, round {number + 1}: {contestant} {result.events_per_second:,.0f}/s, "
                    f"{result.cpu_us:.1f} µs a message, {result.peak_megabytes:.0f} MB",
                    flush=True,
                )
    return report.races(results, alone)


def _publish(part: str, about: str, table: str, *, keep: bool) -> None:
    text = f"{about}\n\n{table}"
    print(f"\n{text}\n", flush=True)
    if keep:
        report.keep(part, text)


if __name__ == "__main__":
    app()
