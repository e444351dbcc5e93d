"""The benchmarks still run, on a few hundred messages: what they measure says nothing here, what they verify does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from infra.real.kafka import kafka_cluster
from tests.benchmarks import backlog, latency, report, workload
from tests.benchmarks.race import JOBS, Alone, Course
from tests.benchmarks.topics import Topics
from tests.plugins.real import installed

MESSAGES = 400


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    """On a broker of our own: topics of the flow are made anew again and again."""
    with installed(), kafka_cluster() as cluster:
        yield Course(Topics(cluster.bootstrap), tmp_path_factory.mktemp("bench"), None)


@pytest.mark.real
@pytest.mark.parametrize(
    "job", [job.name if job.name == "assessor" else pytest.param(job.name, marks=pytest.mark.long) for job in JOBS]
)
def test_every_contestant_works_its_input_off_and_the_table_names_each(course: Course, job: str) -> None:
    raced = next(replace(each, messages=MESSAGES) for each in JOBS if each.name == job)
    if job != "pipe":  # Faust starts slowly, and there is one way to call a step
        raced = replace(raced, contestants=("ruminate", "quixstreams"))
    course.prepare(raced)
    results = {contestant: [course.run(raced, contestant)] for contestant in raced.contestants}
    table = report.races({job: results}, {job: [Alone(1.0, 2.0)]})
    assert [line.split(" | ")[1] for line in table.splitlines() if line.startswith(f"| {job} | ")][:-1] == list(raced.contestants)
    assert all(result.peak_megabytes > 10 for of_contestant in results.values() for result in of_contestant)


@pytest.mark.real
def test_a_steady_stream_comes_back_assessed(course: Course) -> None:
    found = latency.measure(course, "ruminate", a_second=100, seconds=1, warm_seconds=1)
    assert found.messages == 100
    assert 0 < found.p50 <= found.p99 <= found.most
    assert 0 < found.busy <= 1


@pytest.mark.real
def test_a_backlog_is_worked_off_by_one_service_after_the_other(course: Course) -> None:
    worked = list(backlog.work_off(course, 2000))
    assert [each.service for each in worked] == ["collector", "assessor", "accumulator"]
    assert all(each.peak_megabytes >= max(each.megabytes) > 10 for each in worked)


@pytest.mark.parametrize("job", workload.RECORDS)
def test_records_of_the_workload_are_as_long_as_they_should_be_and_no_two_are_alike(job: str) -> None:
    records = list(workload.RECORDS[job](range(50)))
    assert len({record.value for record in records}) == len({record.key for record in records}) == len(records)
    longest = max(len(record.value) for record in records)
    wanted = {"pipe": 1024, "collector": 2048, "assessor": 2200, "accumulator": 3300}[job]
    assert 0.8 * wanted < longest < 1.25 * wanted


def test_a_bar_says_whether_it_is_met() -> None:
    fast, slow = latency.Latency(5.0, 50.0, 60.0, 10, 0.5), latency.Latency(5.0, 101.0, 120.0, 10, 0.5)
    assert "p99 ≤ 100 ms: **met**" in report.latencies({1000: {"ruminate": fast}, 300: {"ruminate": slow}})
    assert "p99 ≤ 100 ms: **not met**" in report.latencies({1000: {"ruminate": slow}, 300: {"ruminate": fast}})
