"""From a sealed batch in hand to its one result: ask the log, decide, wait for what it needs, run the job, tell.

A batch that waits is in a handler's hands, and looks at the log again whenever an operator has said something of its target.
Everything here can be repeated: the job goes on from its checkpoint, a finished job is not run again, the store keeps equal
bytes once, and the result has an id that derives from the batch's.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from collections.abc import Collection, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from errno import ENOSPC
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

import structlog
from pydantic import JsonValue

from ruminate.schemas.batch import TrainingBatchSealed, as_it_is
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    DATASET_REVISED,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    TRAINING_BATCH_SEALED,
    TRAINING_DIRECTED,
    TRAINING_FAILED,
    TRAINING_PROGRESSED,
)
from ruminate.schemas.payload import Payload
from ruminate.schemas.topic import Topic
from ruminate.schemas.training import AdapterTrained, GgufFile, JobPhase, TrainingFailed, TrainingProgressed
from ruminate.shared.bus import BrokerUnavailable, Bus, Delivery, Unavailable, Unprocessable
from ruminate.shared.store import ArtifactDamaged, ArtifactMissing, Store, whole_file
from ruminate.trainer import metrics
from ruminate.trainer.decide import History, Refuse, Skip, Wait, decide
from ruminate.trainer.job import JobBusy, begin, finished, locked, run_job
from ruminate.trainer.mirror.mirror import Account, Mirror
from ruminate.trainer.outcome import (
    ADAPTER_FOLDER,
    DATASET_FOLDER,
    EARLIER_FOLDER,
    EXAMS_FOLDER,
    PARENT_FOLDER,
    Failure,
    JobFailed,
    JobResult,
    Progress,
)
from ruminate.trainer.plan import JobPlan
from ruminate.trainer.settings import TrainerSettings
from ruminate.trainer.turns import Place, Seat, Turns
from ruminate.trainer.waiting import Stopped, Waits, first_of, stopped_by
from ruminate.trainer.words import Words

log = structlog.get_logger()

P = TypeVar("P", bound=Payload)

PROGRESS_SECONDS: Final = 1.0
"""At most one progress event of a phase in this time."""

LONGEST_LOOK_SECONDS: Final = 60.0
"""So long a batch that waits trusts in hearing of what it waits for, where it can hear of it."""

UNREACHABLE_SECONDS: Final = 30.0

TRY_AGAIN: Final = frozenset({"base_unreachable"})
"""Failures that are no result: what is away may come back."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """What a training needs of the world."""

    bus: Bus
    store: Store
    settings: TrainerSettings
    turns: Turns
    words: Words
    waits: Waits
    mirror: Mirror | None = None
    """Who tells MLflow of jobs; None where nobody does."""


async def train_one(delivery: Delivery[TrainingBatchSealed], trainer: Trainer) -> None:
    """Answer one sealed batch with `adapter-trained-v1` or `training-failed-v1`, unless the log has the answer already."""
    partition = trainer.bus.partition_of(TRAINING_BATCH_SEALED, TRAINING_BATCH_SEALED.order_of(delivery.payload))
    if delivery.position.partition != partition:
        raise Unprocessable(
            "wrong_partition", f"batches of {delivery.payload.target_model} are in partition {partition}: this one is in no chain"
        )
    seat = Seat(trainer.turns)
    try:
        await _see_through(delivery, trainer, seat)
    finally:
        seat.leave()
        trainer.waits.forget(delivery.payload)


async def _see_through(delivery: Delivery[TrainingBatchSealed], trainer: Trainer, seat: Seat) -> None:
    """Look, decide and wait for what is in the way, until the batch has its result."""
    chain = (delivery.payload.tenant, delivery.payload.target_model)
    phase: JobPhase = "waiting"
    looks = 0
    while True:
        heard = trainer.words.count(chain)
        history = await ask(trainer.bus, delivery.payload)
        if all(offset != delivery.position.offset for offset, _ in history.sealed):
            raise Unavailable(f"{TRAINING_BATCH_SEALED.name} cannot be read up to offset {delivery.position.offset} yet")
        forget(trainer.settings.state_dir / "jobs", history.settled)
        batch, attempt = as_it_is(delivery.payload, history.revised), history.standing(delivery.payload).attempt
        decision = decide(batch, delivery.position.offset, history, trainer.settings.policy())
        if isinstance(decision, Skip):
            log.info("batch_skipped", batch_id=batch.batch_id, reason=decision.reason)
            return
        if isinstance(decision, Refuse):
            failure = Failure(phase=phase, reason=decision.reason, explanation=decision.explanation, evidence=decision.evidence)
            tell_failed(delivery, failure, attempt)
            return
        if isinstance(decision, Wait):
            seat.leave()
            looks += 1
            await trainer.waits.show(batch, attempt, decision)
            await first_of(trainer.words.after(heard, chain), within_seconds=back_off_seconds(looks))
            continue
        ticket = seat.take(Place(-history.directions.priority_of(batch.batch_id), batch.sealed_at, chain, batch.batch_id))
        if not ticket.has_turn:
            running = ", ".join(place.batch_id for place in trainer.turns.running)
            await trainer.waits.show(batch, attempt, Wait(f"{batch.batch_id} waits for its turn behind {running}", "turn"))
            await first_of(trainer.words.after(heard, chain), ticket.turn)
            continue  # much may have come to pass meanwhile
        trainer.waits.forget(batch)
        ended = await _run(delivery, decision, attempt, ticket.turn.result(), trainer)
        if ended == "told":
            return
        if isinstance(ended, Wait):
            seat.leave()
            await trainer.waits.show(batch, attempt, ended)
            await first_of(trainer.words.after(heard, chain), within_seconds=UNREACHABLE_SECONDS)
        else:
            phase = ended


def back_off_seconds(tries: int) -> float:
    """How long to wait after so many looks in vain."""
    return min(LONGEST_LOOK_SECONDS, 2.0 ** min(tries - 1, 10))


async def _run(
    delivery: Delivery[TrainingBatchSealed], plan: JobPlan, attempt: int, device: str | None, trainer: Trainer
) -> Literal["told"] | Wait | JobPhase:
    """Run the job and tell its result. Where it is cancelled meanwhile, it is stopped and nothing told: gives its last phase."""
    bound = log.bind(batch_id=plan.batch_id, target_model=plan.target_model, number=plan.number, attempt=attempt)
    chain = (plan.tenant, plan.target_model)
    account = None if trainer.mirror is None else trainer.mirror.begin(delivery.payload, plan, attempt)
    teller = Teller(plan, attempt, trainer.bus, account)
    with metrics.RUNNING.track_inprogress(), metrics.JOB_SECONDS.time():
        try:
            async with stopped_by(trainer.words.cancels(chain, plan.batch_id, attempt)), teller:
                trained = await make(plan, attempt, teller, device, trainer)
        except Stopped:
            bound.warning("training_stopped", phase=teller.phase)
            return teller.phase
        except JobFailed as failed:
            if failed.failure.reason in TRY_AGAIN:
                return Wait(failed.failure.explanation, "base")
            if as_it_is(delivery.payload, (await ask(trainer.bus, delivery.payload)).revised).dataset != plan.dataset:
                raise Unavailable("an erasure has revised the dataset meanwhile", retry_after_seconds=1.0) from failed
            tell_failed(delivery, failed.failure, attempt)
        else:
            metrics.JOBS.labels("trained").inc()
            bound.info("adapter_trained", version=trained.version, seconds=trained.duration_seconds)
            delivery.tell(ADAPTER_TRAINED, trained, ordinal=attempt - 1)
    return "told"


async def ask(bus: Bus, batch: TrainingBatchSealed) -> History:
    """Everything that the log says about the batch's tenant and target, as it is now."""

    # All of these topics are ordered by tenant and target, and so is this one.
    order = TRAINING_BATCH_SEALED.order_of(batch)

    async def about(topic: Topic[P]) -> list[Delivery[P]]:
        partition = bus.partition_of(topic, order)
        whose = (batch.tenant, batch.target_model)
        return [
            found
            async for found in bus.read(topic, partitions=[partition])
            if (found.payload.tenant, getattr(found.payload, "target_model", None)) == whose
        ]

    return History(
        sealed=tuple((found.position.offset, found.payload) for found in await about(TRAINING_BATCH_SEALED)),
        trained=tuple(found.payload for found in await about(ADAPTER_TRAINED)),
        failed=tuple(found.payload for found in await about(TRAINING_FAILED)),
        revised=tuple(found.payload for found in await about(DATASET_REVISED)),
        registered=tuple(found.payload for found in await about(MODEL_REGISTERED)),
        rolled_back=tuple(found.payload for found in await about(MODEL_ROLLED_BACK)),
        directed=tuple(found.payload for found in await about(TRAINING_DIRECTED)),
    )


async def make(plan: JobPlan, attempt: int, teller: Teller, device: str | None, trainer: Trainer) -> AdapterTrained:
    """Run the job of `plan` in its folder, or take its result if it was run before, and keep what it made in the store.

    Raises JobFailed, and Unavailable while another process works in the folder.
    """
    settings, store = trainer.settings, trainer.store
    folder = job_folder(settings.state_dir / "jobs", plan.batch_id)
    try:
        with locked(folder) as lock:
            begin(folder, plan)
            try:
                result = finished(folder)
                if result is None:
                    await teller(Progress(phase="waiting"))
                    await to_its_end(bring_in(plan, folder, store, settings.exams()))
                    result = await run_job(
                        folder,
                        lock=lock,
                        on_progress=teller,
                        crash_restarts=settings.crash_restarts,
                        threads=settings.training_threads,
                        device=device,
                    )
                return await keep(plan, attempt, result, folder, store)
            finally:
                # Also where the job goes on later: whoever has it then brings them in again, as they are by then.
                forget_texts(folder)
    except JobBusy as busy:
        raise Unavailable(str(busy), retry_after_seconds=1.0) from busy
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        explanation = "the disk of RUMINATE_STATE_DIR or of the store is full; make room, then type:  ruminate train retry"
        raise JobFailed(Failure(phase="preparing", reason="no_room", explanation=explanation)) from error


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Do the work also where we are cancelled in it: a thread cannot be, and would write behind whoever removes its files."""
    working = asyncio.create_task(work)
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.gather(working, return_exceptions=True)
        raise


async def bring_in(plan: JobPlan, folder: Path, store: Store, exams: Mapping[str, bytes]) -> None:
    """Copy the dataset, the parent's adapter and the exams into the job folder, every byte verified."""
    for name, sha256 in plan.proof.exams.items():
        content = exams.get(name, b"")
        if hashlib.sha256(content).hexdigest() != sha256:
            raise Unavailable(
                f"the questions of {name!r} (RUMINATE_PROOF_SETS) were changed at this moment", retry_after_seconds=1.0
            )
        (folder / EXAMS_FOLDER).mkdir(exist_ok=True)
        with whole_file(folder / EXAMS_FOLDER / f"{name}.jsonl") as out:
            out.write(content)
    wanted = (
        (plan.dataset, DATASET_FOLDER, "bad_dataset"),
        (plan.parent_adapter, PARENT_FOLDER, "parent_missing"),
        *((dataset, f"{EARLIER_FOLDER}/{number}", "bad_dataset") for number, dataset in enumerate(plan.earlier_datasets, start=1)),
    )
    for reference, place, reason in wanted:
        if reference is None:
            continue
        try:
            await store.fetch(reference, to=folder / place)
        except (ArtifactMissing, ArtifactDamaged) as error:
            evidence: dict[str, JsonValue] = {"uri": reference.uri, "sha256": reference.sha256}
            raise JobFailed(Failure(phase="preparing", reason=reason, explanation=str(error), evidence=evidence)) from error


async def keep(plan: JobPlan, attempt: int, result: JobResult, folder: Path, store: Store) -> AdapterTrained:
    """Put what the job made into the store, and say what it is."""
    name = f"{plan.target_model}-{plan.version}"
    adapter = await store.put_tree(folder / ADAPTER_FOLDER, kind="adapters", name=name)
    gguf = tuple(
        [
            GgufFile(
                encoding=file.encoding,
                holds=file.holds,
                file=await store.put_file(folder / file.path, kind="gguf", name=f"{name}-{Path(file.path).name}"),
            )
            for file in result.exported
        ]
    )
    return AdapterTrained(
        tenant=plan.tenant,
        job_id=plan.batch_id,
        batch_id=plan.batch_id,
        attempt=attempt,
        target_model=plan.target_model,
        version=plan.version,
        number=plan.number,
        parent_version=plan.parent_version,
        continued_from=None if plan.from_base else plan.parent_version,
        base_model=plan.base_model,
        base_sha256=result.base_sha256,
        adapter=adapter,
        gguf=gguf,
        dataset=plan.dataset,
        stages=result.stages,
        settings={**plan.hyperparameters.model_dump(mode="json"), "merged_dtype": plan.merged_dtype},
        metrics=result.metrics,
        equality=result.equality,
        chat_template_sha256=result.chat_template_sha256,
        duration_seconds=result.duration_seconds,
        trained_at=datetime.now(UTC),
    )


def tell_failed(delivery: Delivery[TrainingBatchSealed], failure: Failure, attempt: int) -> None:
    """Tell that this batch gives no version."""
    batch = delivery.payload
    metrics.JOBS.labels(failure.reason).inc()
    log.error("training_failed", batch_id=batch.batch_id, attempt=attempt, phase=failure.phase, reason=failure.reason)
    delivery.tell(
        TRAINING_FAILED,
        TrainingFailed(
            tenant=batch.tenant,
            job_id=batch.batch_id,
            batch_id=batch.batch_id,
            attempt=attempt,
            target_model=batch.target_model,
            phase=failure.phase,
            reason=failure.reason,
            explanation=failure.explanation,
            evidence=failure.evidence,
            failed_at=datetime.now(UTC),
        ),
        ordinal=attempt - 1,
    )


def job_folder(jobs: Path, batch_id: str) -> Path:
    """Where a batch is worked on; no batch id leads out of `jobs`."""
    return jobs / f"job-{quote(batch_id, safe='')}"


def forget(jobs: Path, settled: Collection[str]) -> None:
    """Remove the folders of batches that have their result in the log: what counts of them is in the store."""
    for batch_id in settled:
        folder = job_folder(jobs, batch_id)
        if folder.exists():
            with suppress(JobBusy), locked(folder):
                shutil.rmtree(folder)


def forget_texts(folder: Path) -> None:
    """Remove the rows from a job's folder: a job that has failed is kept for whoever asks why, and its texts are not."""
    for texts in (DATASET_FOLDER, EARLIER_FOLDER):
        shutil.rmtree(folder / texts, ignore_errors=True)


def forget_all_texts(jobs: Path) -> None:
    """Remove the rows of every job that nobody works on: a trainer that was killed may never be given its job again."""
    for folder in jobs.glob("job-*"):
        with suppress(JobBusy), locked(folder):
            forget_texts(folder)


class Teller:
    """Tells where a job stands, by metrics at once and by events now and then. The job never waits for the broker."""

    def __init__(self, plan: JobPlan, attempt: int, bus: Bus, account: Account | None = None) -> None:
        self._plan, self._attempt, self._bus, self._account = plan, attempt, bus, account
        self._labels = (plan.tenant, plan.target_model)
        self.phase: JobPhase = "waiting"
        self._phase: JobPhase | None = None
        self._told_at = 0.0
        self._telling: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Teller:
        return self

    async def __aexit__(self, *_: object) -> None:
        for gauge in metrics.OF_A_JOB:
            gauge.remove(*self._labels)
        if self._account is not None:
            self._account.ended()
        if self._telling is not None:
            await self._telling

    async def __call__(self, progress: Progress) -> None:
        """Take notice of one report."""
        self.phase = progress.phase
        if self._account is not None:
            self._account.add(progress)
        for gauge, value in (
            (metrics.STEP, progress.step),
            (metrics.STEPS, progress.steps),
            (metrics.LOSS, progress.loss),
            (metrics.TOKENS_PER_SECOND, progress.tokens_per_second),
            (metrics.ETA_SECONDS, progress.eta_seconds),
            (metrics.MEMORY_BYTES, progress.memory_bytes),
        ):
            if value is not None:
                gauge.labels(*self._labels).set(value)
        now = time.monotonic()
        last_step = progress.steps > 0 and progress.step == progress.steps
        if progress.phase == self._phase and now - self._told_at < PROGRESS_SECONDS and not last_step:
            return
        if self._telling is not None and not self._telling.done():
            return
        self._phase, self._told_at = progress.phase, now
        self._telling = asyncio.create_task(self._publish(progress), name="tell-progress")

    async def _publish(self, progress: Progress) -> None:
        told = TrainingProgressed(
            tenant=self._plan.tenant,
            job_id=self._plan.batch_id,
            target_model=self._plan.target_model,
            attempt=self._attempt,
            at=datetime.now(UTC),
            **progress.model_dump(),
        )
        try:
            await self._bus.publish(TRAINING_PROGRESSED, told, self._bus.begin(TRAINING_PROGRESSED, told))
        except BrokerUnavailable as error:
            log.warning("progress_lost", job_id=self._plan.batch_id, phase=progress.phase, error=str(error))
