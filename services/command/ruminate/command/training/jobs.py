"""Jobs: what the log says of every sealed batch, and of what operators have said of it.

training-batch-sealed-v1, adapter-trained-v1, training-failed-v1, training-directed-v1, training-progressed-v1  ->  a job a batch
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.directing import NOTHING_SAID, Directions, first_after, standing, taken_together
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    TRAINING_BATCH_SEALED,
    TRAINING_DIRECTED,
    TRAINING_FAILED,
    TRAINING_PROGRESSED,
)
from ruminate.schemas.model import ModelRegistered, ModelRolledBack
from ruminate.schemas.training import AdapterTrained, TrainingDirected, TrainingFailed, TrainingProgressed
from ruminate.shared.bus import Bus

State = Literal["waiting", "running", "trained", "failed"]
Chain = tuple[str, str]
"""Tenant and target."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One batch, and how far it is."""

    batch: TrainingBatchSealed
    state: State
    attempt: int
    """The one that has the result, runs or is due."""
    result: AdapterTrained | TrainingFailed | None
    progress: tuple[TrainingProgressed, ...]
    """Of every attempt, in the order of the log; what is older than its retention is gone."""
    failures: tuple[TrainingFailed, ...]
    """The first of each attempt."""
    priority: int
    paused: TrainingDirected | None
    words: tuple[TrainingDirected, ...]
    """What operators have said of this batch."""
    later_version: AdapterTrained | None
    """The first version of a later batch: behind it nothing is tried again."""

    @property
    def chain(self) -> Chain:
        """Tenant and target."""
        return (self.batch.tenant, self.batch.target_model)

    @property
    def last(self) -> TrainingProgressed | None:
        """Where this attempt stood when it was last heard of."""
        return next((each for each in reversed(self.progress) if each.attempt == self.attempt), None)

    @property
    def waits_for(self) -> str | None:
        """In the trainer's own words, as far as they are in the log."""
        if self.state != "waiting":
            return None
        said = self.last.waits_for if self.last is not None else None
        return said if said is not None else "its trainer to look at it"

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        told: dict[str, Any] = {
            "job": self.batch.batch_id,
            "tenant": self.batch.tenant,
            "target": self.batch.target_model,
            "number": self.batch.number,
            "rows": self.batch.rows,
            "sealed_at": self.batch.sealed_at.isoformat(),
            "state": self.state,
            "attempt": self.attempt,
            "priority": self.priority,
            "paused": self.paused is not None,
            "waits_for": self.waits_for,
        }
        if self.state == "running" and self.last is not None:
            told |= self.last.model_dump(mode="json", include=_OF_PROGRESS) | {"told_at": self.last.at.isoformat()}
        if isinstance(self.result, AdapterTrained):
            told |= {"version": self.result.version, "seconds": self.result.duration_seconds}
        if isinstance(self.result, TrainingFailed):
            told |= {"phase": self.result.phase, "reason": self.result.reason, "explanation": self.result.explanation}
        return told


_OF_PROGRESS = {"phase", "stage", "step", "steps", "loss", "reward", "eta_seconds", "tokens_per_second", "memory_bytes"}


@dataclass
class Jobs:
    """Everything that was sealed, in the order of the log."""

    jobs: list[Job] = field(default_factory=list)
    directions: dict[Chain, Directions] = field(default_factory=dict)

    def of(self, *, tenant: str | None = None, target: str | None = None) -> list[Job]:
        """Those of a tenant, of a target."""
        return [job for job in self.jobs if tenant in (None, job.batch.tenant) and target in (None, job.batch.target_model)]

    def paused(self) -> list[tuple[Chain, TrainingDirected]]:
        """Targets of which nothing starts, and by whose word."""
        return [(chain, said.paused) for chain, said in sorted(self.directions.items()) if said.paused is not None]


_TAIL: Final = 200
"""So many of the last records of a partition are looked at first: a job speaks about once a second, for hours."""


async def read_jobs(bus: Bus, *, whole: str | None = None) -> Jobs:
    """What the log says now; of the progress no more than how open jobs stand, and all that is there of the batch `whole`.

    Raises BrokerUnavailable.
    """
    said: dict[str, list[Any]] = {
        "sealed": [each.payload async for each in bus.read(TRAINING_BATCH_SEALED)],
        "directed": [each.payload async for each in bus.read(TRAINING_DIRECTED)],
        "trained": [each.payload async for each in bus.read(ADAPTER_TRAINED)],
        "failed": [each.payload async for each in bus.read(TRAINING_FAILED)],
    }
    open_jobs = {job.batch.batch_id for job in jobs_of(**said).jobs if job.result is None}
    of_partition: dict[int, set[str]] = {}
    for batch_id in open_jobs if whole is None else {whole, *open_jobs}:
        of_partition.setdefault(bus.partition_of(TRAINING_PROGRESSED, batch_id), set()).add(batch_id)
    progress: list[TrainingProgressed] = []
    for number, wanted in of_partition.items():
        told = await _progress(bus, number, start=-_TAIL)
        if whole in wanted or not wanted <= {each.job_id for each in told}:
            told = await _progress(bus, number, start=None)
        progress += [each for each in told if each.job_id in wanted]
    return jobs_of(**said, progress=progress)


async def read_end(bus: Bus, job: Job) -> ModelRegistered | ModelRolledBack | None:
    """What the deployer says last of the version that a job has made; None where it has made none, or nothing is said yet."""
    if not isinstance(job.result, AdapterTrained):
        return None
    mine = (*job.chain, job.result.version)
    backs = [each.payload async for each in bus.read(MODEL_ROLLED_BACK)]
    # Whatever was registered before: once it is taken back, that is what counts.
    for back in reversed(backs):
        if (back.tenant, back.target_model, back.version) == mine:
            return back
    registered = [each.payload async for each in bus.read(MODEL_REGISTERED)]
    return next((each for each in registered if (each.tenant, each.target_model, each.version) == mine), None)


async def _progress(bus: Bus, partition: int, *, start: int | None) -> list[TrainingProgressed]:
    return [each.payload async for each in bus.read(TRAINING_PROGRESSED, partitions=[partition], start=start)]


def jobs_of(
    *,
    sealed: Iterable[TrainingBatchSealed],
    trained: Iterable[AdapterTrained] = (),
    failed: Iterable[TrainingFailed] = (),
    directed: Iterable[TrainingDirected] = (),
    progress: Iterable[TrainingProgressed] = (),
) -> Jobs:
    """The jobs that these events speak of, each kind in the order of the log. Pure."""
    batches: dict[tuple[Chain, str], TrainingBatchSealed] = {}
    for batch in sealed:
        batches.setdefault(((batch.tenant, batch.target_model), batch.batch_id), batch)
    versions, failures, words = _by_chain(trained), _by_chain(failed), _by_chain(directed)
    directions = {chain: taken_together(of_chain) for chain, of_chain in words.items()}
    told: dict[tuple[Chain, str], list[TrainingProgressed]] = {}
    for each in progress:
        told.setdefault(((each.tenant, each.target_model), each.job_id), []).append(each)
    jobs = [
        _job(
            batch,
            versions.get(chain, []),
            [failure for failure in failures.get(chain, []) if failure.batch_id == batch_id],
            directions.get(chain, NOTHING_SAID),
            [word for word in words.get(chain, []) if word.batch_id == batch_id],
            told.get((chain, batch_id), []),
        )
        for (chain, batch_id), batch in batches.items()
    ]
    return Jobs(jobs, directions)


def _by_chain(events: Iterable[Any]) -> dict[Chain, list[Any]]:
    found: dict[Chain, list[Any]] = {}
    for event in events:
        found.setdefault((event.tenant, event.target_model), []).append(event)
    return found


def _job(
    batch: TrainingBatchSealed,
    versions: list[AdapterTrained],
    failures: list[TrainingFailed],
    directions: Directions,
    words: list[TrainingDirected],
    progress: list[TrainingProgressed],
) -> Job:
    stands = standing(batch.batch_id, batch.number, trained=versions, failed=failures, directions=directions)
    last = next((each for each in reversed(progress) if each.attempt == stands.attempt), None)
    state: State
    if stands.result is not None:
        state = "trained" if isinstance(stands.result, AdapterTrained) else "failed"
    else:
        state = "waiting" if last is None or last.waits_for is not None else "running"
    first: dict[int, TrainingFailed] = {}
    for failure in failures:
        first.setdefault(failure.attempt, failure)
    return Job(
        batch=batch,
        state=state,
        attempt=stands.attempt,
        result=stands.result,
        progress=tuple(progress),
        failures=tuple(first[attempt] for attempt in sorted(first)),
        priority=directions.priority_of(batch.batch_id),
        paused=directions.paused,
        words=tuple(words),
        later_version=first_after(batch.number, versions),
    )
