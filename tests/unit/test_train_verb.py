"""What `ruminate train` says of a batch, and which words it refuses because they could come to nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ruminate.command.training.jobs import Job, jobs_of, read_end, read_jobs
from ruminate.command.training.show import curves, end_in_full, in_a_line, in_full, span, sparkline
from ruminate.command.training.verbs import Refused, check_retry, job_named
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    TRAINING_BATCH_SEALED,
    TRAINING_FAILED,
    TRAINING_PROGRESSED,
)
from ruminate.schemas.model import ServedExam
from ruminate.schemas.training import TrainingProgressed
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.partitioning import partition_of
from tests.unit.test_trainer_decide import NOW, failed, registered, rolled_back, sealed, trained
from tests.unit.test_trainer_directions import again, said

BATCHES = tuple(sealed(number) for number in (1, 2, 3))


def told(batch: int, *, attempt: int = 1, **given: Any) -> TrainingProgressed:
    """Where a job stands."""
    phase = {"phase": "training"} if "phase" not in given else {}
    return TrainingProgressed(job_id=f"tiny-{batch}", target_model="tiny", attempt=attempt, at=NOW, **(phase | given))


def one(**events: Any) -> Job:
    """The first job that these events speak of."""
    return jobs_of(sealed=BATCHES, **events).jobs[0]


def test_a_batch_waits_runs_is_trained_or_has_failed_by_what_was_told_last() -> None:
    assert in_a_line(one()) == "job tiny-1 of tiny: waiting for its trainer to look at it"
    waits = told(1, phase="waiting", waits_for="tiny was paused by ada. Type:  ruminate resume tiny")
    assert in_a_line(one(progress=[waits], directed=[said("prioritise", 1, priority=4)])) == (
        "job tiny-1 of tiny: waiting for this: tiny was paused by ada. Type:  ruminate resume tiny; priority 4"
    )
    runs = told(
        1,
        stage="reasoning_rl",
        step=3,
        steps=10,
        loss=0.512345,
        reward=0.61,
        tokens_per_second=5120.4,
        memory_bytes=3 * 2**30,
        eta_seconds=4000,
    )
    assert in_a_line(one(progress=[waits, runs])) == (
        "job tiny-1 of tiny: running, training reasoning_rl, step 3 of 10, loss 0.5123, reward 0.61, 5,120 tokens/s, 3.0 GiB, "
        "1 h 07 min to go"
    )
    assert in_a_line(one(progress=[runs], trained=[trained(BATCHES[0])])) == "job tiny-1 of tiny: trained into v1 in 1 s"
    assert in_a_line(one(progress=[runs], failed=[failed(BATCHES[0])])) == "job tiny-1 of tiny: failed (crashed) "


def test_a_retry_is_an_attempt_of_its_own_and_what_was_told_before_it_is_not_its_progress() -> None:
    first, progress = [failed(BATCHES[0])], [told(1, loss=1.0), told(1, loss=0.5)]
    job = one(failed=first, progress=progress, directed=[said("retry", 1)])
    assert (job.state, job.attempt, list(curves(job))) == ("waiting", 2, [])
    progress += [told(1, attempt=2, loss=0.75), told(1, attempt=2, loss=0.25)]
    job = one(failed=first, progress=progress, directed=[said("retry", 1)])
    assert (job.state, list(curves(job))) == ("running", [("training", [0.75, 0.25])])
    assert job.as_json()["loss"] == 0.25
    job = one(failed=[failed(BATCHES[0]), again(failed(BATCHES[0]), 2)], directed=[said("retry", 1)])
    assert [text for text in in_full(job) if "attempt" in text] == [
        "job tiny-1 of tiny, attempt 2: failed (crashed) ",
        "  attempt 1 failed 2026-01-31 00:00 while training: crashed",
        "  attempt 2 failed 2026-01-31 00:00 while training: crashed",
        "  ada said retry attempt 1 2026-01-31 00:00",
    ]


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ({}, "only what has failed is tried again"),
        ({"trained": [trained(BATCHES[0])]}, "only what has failed is tried again"),
        ({"failed": [failed(BATCHES[0])], "directed": [said("retry", 1)]}, "It is attempt 2 already"),
        ({"failed": [failed(BATCHES[0]).model_copy(update={"reason": "no_rows"})]}, "it has no rows to train on"),
        ({"failed": [failed(BATCHES[0])], "trained": [trained(BATCHES[1])]}, "v2 was trained on tiny-2 since"),
        ({"failed": [failed(BATCHES[0])], "progress": [told(2)]}, "tiny-2 is in training, which comes after tiny-1"),
    ],
)
def test_a_retry_that_could_come_to_nothing_is_refused_with_the_way_out(events: dict[str, Any], why: str) -> None:
    jobs = jobs_of(sealed=BATCHES, **events).jobs
    with pytest.raises(Refused, match=why):
        check_retry(jobs[0], jobs)


def test_a_failure_behind_which_nothing_was_trained_may_be_tried_again() -> None:
    jobs = jobs_of(sealed=BATCHES, failed=[failed(batch) for batch in BATCHES]).jobs
    for job in jobs:
        check_retry(job, jobs)


def test_a_batch_is_found_by_its_name_and_where_several_have_it_by_its_chain() -> None:
    other = BATCHES[0].model_copy(update={"tenant": "acme"})
    found = jobs_of(sealed=[*BATCHES, other])
    assert job_named(found, "tiny-2", None, None).batch.number == 2
    assert job_named(found, "tiny-1", None, "acme").batch.tenant == "acme"
    with pytest.raises(Refused, match=r"a batch of tiny \(tenant default\), tiny \(tenant acme\). Name the chain"):
        job_named(found, "tiny-1", None, None)
    with pytest.raises(Refused, match="no batch is named 'tiny-9'; the last ones are tiny-2, tiny-3, tiny-1"):
        job_named(found, "tiny-9", None, None)


def test_a_curve_fits_in_a_line_however_many_values_it_has() -> None:
    assert sparkline([0.0, 3.0, 7.0]) == "▁▄█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert len(sparkline([float(n) for n in range(1000)])) == 60
    assert sparkline([float(n) for n in range(1000)])[-1] == "█"


@pytest.mark.parametrize(("seconds", "says"), [(5.4, "5 s"), (90, "2 min"), (3600, "1 h 00 min"), (93_600, "26 h 00 min")])
def test_a_time_is_said_as_people_say_it(seconds: float, says: str) -> None:
    assert span(seconds) == says


async def jobs_told(told_in_turn: list[tuple[int, int]], *, whole: str | None = None) -> list[tuple[int | None, int]]:
    """Of three batches that speak in turn, the second of which failed: the last step, and how many records are read."""
    async with MemoryBus(MemoryBroker(), reader="trainer") as bus:
        for batch in BATCHES:
            await bus.publish(TRAINING_BATCH_SEALED, batch, bus.begin(TRAINING_BATCH_SEALED, batch))
        for number, count in told_in_turn:
            for step in range(count):
                progress = told(number, step=step + 1, steps=count)
                await bus.publish(TRAINING_PROGRESSED, progress, bus.begin(TRAINING_PROGRESSED, progress))
        await bus.publish(TRAINING_FAILED, failed(BATCHES[1]), bus.begin(TRAINING_FAILED, failed(BATCHES[1])))
        jobs = (await read_jobs(bus, whole=whole)).jobs
    return [(job.last.step if job.last else None, len(job.progress)) for job in jobs]


def test_of_what_jobs_tell_once_a_second_no_more_is_read_than_says_how_they_stand() -> None:
    assert partition_of("tiny-1", TRAINING_PROGRESSED.partitions) == partition_of("tiny-3", TRAINING_PROGRESSED.partitions)
    assert asyncio.run(jobs_told([(1, 300), (2, 5), (3, 5)])) == [(300, 195), (None, 0), (5, 5)]
    assert asyncio.run(jobs_told([(3, 5), (1, 300)])) == [(300, 300), (None, 0), (5, 5)]
    assert asyncio.run(jobs_told([(1, 300), (2, 5), (3, 5)], whole="tiny-2")) == [(300, 195), (5, 5), (5, 5)]


SERVED = ServedExam(
    node="a",
    engine_version="0.34.0",
    encoding="f16",
    questions=64,
    gone=2,
    kept=True,
    findings=({"measure": "right", "group": "sums, thinking", "verdict": "kept", "questions": 32, "before": 1.0, "after": 0.97},),
    seconds=3.0,
)


def ended(*versions: int, back: tuple[int, ...] = ()) -> list[list[str]]:
    """What is said of the end of each of the first two batches' versions, where these are registered, and those taken back."""

    async def read() -> list[list[str]]:
        async with MemoryBus(MemoryBroker(), reader="command") as bus:
            for batch in BATCHES[:2]:
                await bus.publish(TRAINING_BATCH_SEALED, batch, bus.begin(TRAINING_BATCH_SEALED, batch))
                result = trained(batch)
                await bus.publish(ADAPTER_TRAINED, result, bus.begin(ADAPTER_TRAINED, result))
            for number in versions:
                record = registered(number).model_copy(update={"served": (SERVED,)})
                await bus.publish(MODEL_REGISTERED, record, bus.begin(MODEL_REGISTERED, record))
            for number in back:
                taken = rolled_back(number)
                await bus.publish(MODEL_ROLLED_BACK, taken, bus.begin(MODEL_ROLLED_BACK, taken))
            return [list(end_in_full(await read_end(bus, job))) for job in (await read_jobs(bus)).jobs]

    return asyncio.run(read())


def test_what_became_of_a_version_is_said_with_what_was_asked_again_where_it_is_served() -> None:
    first, second = ended(1)
    assert first[0].startswith("  serves as tiny-v1 on ")
    assert first[1] == (
        "  64 questions asked again on a (f16, engine 0.34.0), 2 stand in the dataset no longer: it serves what was proven"
    )
    assert first[2] == "    right of sums, thinking: 1 -> 0.97, kept (32 questions)"
    assert second == []


def test_a_version_that_served_and_was_taken_back_is_said_to_be_taken_back() -> None:
    first, second = ended(1, 2, back=(1,))
    assert first == [f"  rolled back {NOW:%Y-%m-%d %H:%M} at probe: it does not think"]
    assert second[0].startswith("  serves as tiny-v2 on ")
