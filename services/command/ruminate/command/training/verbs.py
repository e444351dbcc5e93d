"""`ruminate train list|show|cancel|retry|approve|prioritise`, `ruminate pause` and `resume`: an operator's word about training.

    what is typed  ->  training-directed-v1  ->  the trainer that has the target, at once

A word is refused here where it could come to nothing. What it came to is in the log, for `train list` and `train show`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from ruminate.command.connection import open_bus
from ruminate.command.terminal import DEFAULT_STATE, AsJson, Kafka, State, console, line, refuse, run, who, write_json
from ruminate.command.training.jobs import Job, Jobs, read_end, read_jobs
from ruminate.command.training.show import end_in_full, in_a_line, in_full
from ruminate.schemas.flow import TRAINING_DIRECTED
from ruminate.schemas.training import AdapterTrained, TrainingDirected, TrainingFailed
from ruminate.shared.bus import Bus
from ruminate.shared.decoding import now

app = typer.Typer(
    help="What is trained, what waits and why; cancel, retry, approve and prioritise. What each failure means and what to type: "
    "docs/runbooks/training.md",
    no_args_is_help=True,
)

Batch = Annotated[str, typer.Argument(metavar="BATCH", help="The batch, as `ruminate train list` names it.")]
OfTarget = Annotated[
    str | None, typer.Option("--target", help="The target whose batch it is, where several have one of this name.")
]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Whose chain; `default` where none is named.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for whoever reads the log.")]
By = Annotated[str | None, typer.Option("--by", help="Who says so; else who is logged in.")]

_NOT_WORTH_IT: Final = {
    "not_in_chain": "it stands in no chain, and its rows are in the batch of its number",
    "no_rows": "it has no rows to train on",
}


class Refused(Exception):
    """What was typed could come to nothing: why, and what to type."""


@app.command("list")
def list_command(
    target: Annotated[str | None, typer.Option("--target", help="Only batches of this target.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only batches of this tenant.")] = None,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    as_json: AsJson = False,
) -> None:
    """Every batch: waiting and what for, running and how far, trained into what, failed and why."""

    async def work() -> None:
        async with open_bus(state.resolve(), kafka) as bus:
            found = await read_jobs(bus)
        jobs = found.of(tenant=tenant, target=target)
        if as_json:
            write_json([job.as_json() for job in jobs])
            return
        for job in jobs:
            line(console, in_a_line(job), style="red" if job.state == "failed" else None)
        if not jobs:
            line(console, "no batch is sealed yet. To have one sealed:  ruminate datasets seal TARGET")
        for (whose, name), word in found.paused():
            if target in (None, name) and tenant in (None, whose):
                line(console, f"{name} is paused by {word.directed_by}. To go on:  ruminate resume {name}", style="yellow")

    run(work())


@app.command("show")
def show_command(
    batch: Batch,
    target: OfTarget = None,
    tenant: Tenant = None,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    as_json: AsJson = False,
) -> None:
    """All that the log says of a batch: rows, attempts, words, curve, stages, proof, artifacts, and what became of its version."""

    async def work() -> None:
        async with open_bus(state.resolve(), kafka) as bus:
            job = job_named(await read_jobs(bus, whole=batch), batch, target, tenant)
            end = await read_end(bus, job)
        if as_json:
            write_json(_in_full_json(job) | {"end": None if end is None else end.model_dump(mode="json")})
        else:
            for text in (*in_full(job), *end_in_full(end)):
                line(console, text)

    run(work(), mistakes=(Refused,))


def _in_full_json(job: Job) -> dict[str, Any]:
    return job.as_json() | {
        "batch": job.batch.model_dump(mode="json"),
        "failures": [failure.model_dump(mode="json") for failure in job.failures],
        "words": [word.model_dump(mode="json") for word in job.words],
        "progress": [told.model_dump(mode="json") for told in job.progress],
        "trained": job.result.model_dump(mode="json") if isinstance(job.result, AdapterTrained) else None,
    }


@app.command("cancel")
def cancel_command(
    batch: Batch,
    target: OfTarget = None,
    tenant: Tenant = None,
    reason: Reason = "",
    by: By = None,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    as_json: AsJson = False,
) -> None:
    """End a batch without a version: what waits does not start, what runs is stopped at once. The target goes on with the next.

    Its rows are in the datasets of later batches only as far as those rehearse them; `ruminate train retry` trains it after all,
    as long as no later batch became a version.
    """

    def word(job: Job, _: Sequence[Job]) -> tuple[dict[str, Any], str]:
        if job.result is not None:
            raise Refused(f"{in_a_line(job)}: nothing of it runs or waits")
        return {"direction": "cancel", "attempt": job.attempt}, f"{_named(job)} is cancelled; what runs of it is stopped"

    _direct_batch(word, batch, target, tenant, reason, by, state, kafka, as_json)


@app.command("retry")
def retry_command(
    batch: Batch,
    target: OfTarget = None,
    tenant: Tenant = None,
    reason: Reason = "",
    by: By = None,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    as_json: AsJson = False,
) -> None:
    """Try a batch again that failed or was cancelled, once you have mended the cause. It goes before the target's next batch.

    With the same settings it goes on from the last checkpoint, where that is still there; with others it begins anew.
    """

    def word(job: Job, chain: Sequence[Job]) -> tuple[dict[str, Any], str]:
        check_retry(job, chain)
        return {"direction": "retry", "attempt": job.attempt}, f"{job.batch.batch_id} is tried again, as attempt {job.attempt + 1}"

    _direct_batch(word, batch, target, tenant, reason, by, state, kafka, as_json)


def check_retry(job: Job, others: Iterable[Job] = ()) -> None:
    """Whether a retry could come to anything, beside the other jobs of the chain. Raises Refused."""
    seal = f"To train on what was assessed since:  ruminate datasets seal {job.batch.target_model}"
    if not isinstance(job.result, TrainingFailed):
        again = f" It is attempt {job.attempt} already" if job.result is None and job.attempt > 1 else ""
        raise Refused(f"{in_a_line(job)}; only what has failed is tried again.{again}")
    if job.result.reason in _NOT_WORTH_IT:
        raise Refused(f"{job.batch.batch_id} failed as {job.result.reason}: {_NOT_WORTH_IT[job.result.reason]}. {seal}")
    if (later := job.later_version) is not None:
        raise Refused(
            f"{later.version} was trained on {later.batch_id} since, which comes after {job.batch.batch_id}: what "
            f"a later version may have rehearsed is not tried again. {seal}"
        )
    runs = next((each for each in others if each.batch.number > job.batch.number and each.state == "running"), None)
    if runs is not None:
        raise Refused(
            f"{runs.batch.batch_id} is in training, which comes after {job.batch.batch_id}: once it is a version, "
            f"nothing before it is tried again. To try this one first:  ruminate train cancel {runs.batch.batch_id}, and retry both"
        )


@app.command("approve")
def approve_command(
    batch: Batch,
    target: OfTarget = None,
    tenant: Tenant = None,
    reason: Reason = "",
    by: By = None,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    as_json: AsJson = False,
) -> None:
    """Let a batch be trained whose target wants approval (RUMINATE_APPROVAL). Said before it is asked for, it counts, too."""

    def word(job: Job, _: Sequence[Job]) -> tuple[dict[str, Any], str]:
        if job.result is not None:
            raise Refused(f"{in_a_line(job)}: there is nothing to approve of")
        return {"direction": "approve"}, f"{job.batch.batch_id} may be trained"

    _direct_batch(word, batch, target, tenant, reason, by, state, kafka, as_json)


@app.command("prioritise", context_settings={"ignore_unknown_options": True})
def prioritise_command(
    words: Annotated[list[str], typer.Argument(metavar="[BATCH] N", help="The batch, and its priority, -1000 to 1000; else 0.")],
    target: Annotated[
        str | None, typer.Option("--target", help="Without a batch: every batch of this target that has no priority of its own.")
    ] = None,
    tenant: Tenant = None,
    reason: Reason = "",
    by: By = None,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    as_json: AsJson = False,
) -> None:
    """Have what waits go before what has a lower priority:  prioritise BATCH 10,  or  prioritise --target TARGET 10.

    Of what has the same priority, what was sealed first goes first. A job that runs is never interrupted.
    """
    try:
        priority = int(words[-1])
    except ValueError:
        refuse(f"{words[-1]!r} is no priority; type the batch, and then a number from -1000 to 1000")
    match words, target:
        case [_], None:
            refuse("name a batch before the number, or a target by --target")
        case [_], str():
            given: dict[str, Any] = {"direction": "prioritise", "priority": priority}
            says = f"what waits of {target} has priority {priority}"
            _direct(lambda _: (given, says), target, tenant, reason, by, state, kafka, as_json)
        case [batch, _], _:

            def word(job: Job, _: Sequence[Job]) -> tuple[dict[str, Any], str]:
                if job.result is not None or job.state == "running":
                    raise Refused(f"{in_a_line(job)}: it waits for nothing")
                return {"direction": "prioritise", "priority": priority}, f"{job.batch.batch_id} has priority {priority}"

            _direct_batch(word, batch, target, tenant, reason, by, state, kafka, as_json)
        case _:
            refuse("type the batch, and then a number from -1000 to 1000")


def pause(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The name that agents ask for, and that learns.")],
    tenant: Tenant = None,
    reason: Reason = "",
    by: By = None,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    as_json: AsJson = False,
) -> None:
    """Have nothing of a target start until `ruminate resume TARGET`. What runs goes on to its end; `train cancel` stops it.

    Batches go on being sealed, and wait.
    """

    def word(found: Jobs) -> tuple[dict[str, Any], str]:
        known = {job.batch.target_model for job in found.jobs}
        first = "" if target in known else f"; no batch of it is sealed yet, only of {', '.join(sorted(known)) or 'nothing'}"
        return {"direction": "pause"}, f"{target} is paused: nothing of it starts{first}. To go on:  ruminate resume {target}"

    _direct(word, target, tenant, reason, by, state, kafka, as_json)


def resume_target(
    target: str,
    *,
    tenant: str | None,
    reason: str,
    by: str | None,
    state: Path,
    kafka: str | None,
    as_json: bool,
    otherwise: str = "",
) -> None:
    """`ruminate resume TARGET`: it starts again. `otherwise` is what to say beside, where it is not paused."""

    def word(found: Jobs) -> tuple[dict[str, Any], str]:
        paused = {name for (_, name), _ in found.paused()}
        if target not in paused:
            others = ", ".join(sorted(paused))
            raise Refused(f"{target!r} is not paused; {f'paused are {others}' if paused else 'nothing is'}{otherwise}")
        return {"direction": "resume"}, f"{target} goes on"

    _direct(word, target, tenant, reason, by, state, kafka, as_json)


# What all of them do.


def job_named(found: Jobs, batch: str, target: str | None, tenant: str | None) -> Job:
    """The job of this batch. Raises Refused with what there is."""
    jobs = [job for job in found.of(tenant=tenant, target=target) if job.batch.batch_id == batch]
    if len(jobs) == 1:
        return jobs[0]
    if jobs:
        several = ", ".join(f"{job.batch.target_model} (tenant {job.batch.tenant})" for job in jobs)
        raise Refused(f"{batch!r} is a batch of {several}. Name the chain: --target, --tenant")
    newest = ", ".join(job.batch.batch_id for job in found.of(tenant=tenant, target=target)[-3:]) or "none"
    raise Refused(f"no batch is named {batch!r}; the last ones are {newest}. All of them:  ruminate train list")


def _direct_batch(
    word: Callable[[Job, Sequence[Job]], tuple[dict[str, Any], str]],
    batch: str,
    target: str | None,
    tenant: str | None,
    reason: str,
    by: str | None,
    state: Path,
    kafka: str | None,
    as_json: bool,
) -> None:
    def about(found: Jobs) -> tuple[dict[str, Any], str]:
        job = job_named(found, batch, target, tenant)
        given, says = word(job, found.of(tenant=job.batch.tenant, target=job.batch.target_model))
        of = {"batch_id": job.batch.batch_id, "target_model": job.batch.target_model, "tenant": job.batch.tenant}
        return given | of, says

    _direct(about, target, tenant, reason, by, state, kafka, as_json)


def _direct(
    word: Callable[[Jobs], tuple[dict[str, Any], str]],
    target: str | None,
    tenant: str | None,
    reason: str,
    by: str | None,
    state: Path,
    kafka: str | None,
    as_json: bool,
) -> None:
    """Look what the log says, decide on the word, and write it."""

    async def work() -> None:
        async with open_bus(state.resolve(), kafka) as bus:
            given, says = word(await read_jobs(bus))
            event_id, directed = await publish_word(
                bus, {"tenant": tenant or "default", "target_model": target, "reason": reason, "directed_by": who(by)} | given
            )
        if as_json:
            write_json({"event_id": event_id, "word": directed.model_dump(mode="json")})
        else:
            line(console, says)

    run(work(), mistakes=(Refused,))


async def publish_word(bus: Bus, given: dict[str, Any]) -> tuple[str, TrainingDirected]:
    """Write an operator's word; give its event id. Raises Refused where it is none."""
    try:
        directed = TrainingDirected(directed_at=now(), **given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Refused(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    envelope = bus.begin(TRAINING_DIRECTED, directed)
    await bus.publish(TRAINING_DIRECTED, directed, envelope)
    return envelope.id, directed


def _named(job: Job) -> str:
    return job.batch.batch_id if job.attempt == 1 else f"attempt {job.attempt} of {job.batch.batch_id}"
