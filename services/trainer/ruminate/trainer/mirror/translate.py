"""What MLflow is told of a job, made of its plan, its progress, its result and the evidence for it. Pure.

    ruminate/TENANT/TARGET                        the experiment; a run in it is one attempt at a batch, named like its version
    STAGE/loss, reward, tokens_per_second …       by the stage's own steps; STAGE/held_out_loss once the job has ended
    proof/MEASURE/GROUP/before, after, change …   what the proof found
    exam/GROUP/right …                            shares and means of the exams: step 0 before, step 1 after
    stages/NUMBER-STAGE/…, result/…               every other figure of the result

Figures, names and hashes alone: no string of a result goes along that is not named here, and no text of a row is in a plan.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final, Literal, NamedTuple

from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.training import AdapterTrained, TrainingFailed
from ruminate.trainer.decide import History
from ruminate.trainer.outcome import Progress
from ruminate.trainer.plan import JobPlan

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

KEY_TAG: Final = "ruminate.key"
"""Names the attempt, in whatever log it is: two logs may both have a first batch."""
LONGEST_NAME: Final = 250
LONGEST_TAG: Final = 5000
LONGEST_PARAM: Final = 500
"""What every backend of MLflow takes."""

_NOT_IN_NAMES: Final = re.compile(r"[^\w\-. ]")
_TOLD_APART: Final = frozenset({"proof", "stages", "search", "findings"})
_PLAN_PARAMS: Final = (
    "base_model",
    "from_base",
    "rows",
    "checkpoint_steps",
    "merged_dtype",
    "encodings",
    "adapter_encoding",
    "equality_probes",
    "backend",
    "export_context_tokens",
)


class Point(NamedTuple):
    """One value of one metric. The same point, told again, is the same to MLflow."""

    key: str
    value: float
    at_ms: int
    step: int = 0


@dataclass(frozen=True)
class Ending:
    """How a run ends."""

    status: Status
    at_ms: int | None
    """None: when it is told."""
    tags: dict[str, str] = field(default_factory=dict)
    points: tuple[Point, ...] = ()


# A run begins.


def experiment_of(batch: TrainingBatchSealed) -> str:
    """One a target."""
    return f"ruminate/{batch.tenant}/{batch.target_model}"


def key_of(batch: TrainingBatchSealed, attempt: int) -> str:
    """By which the run of an attempt is found again, by whoever goes on with it."""
    told = json.dumps([batch.tenant, batch.target_model, batch.batch_id, attempt, batch.sealed_at.isoformat()])
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def tags_of(batch: TrainingBatchSealed, plan: JobPlan, attempt: int, code_version: str) -> dict[str, str]:
    """What a run is about."""
    told = {
        "tenant": plan.tenant,
        "target": plan.target_model,
        "batch_id": plan.batch_id,
        "job_id": plan.batch_id,
        "attempt": attempt,
        "number": plan.number,
        "version": plan.version,
        "parent_version": plan.parent_version,
        "base": plan.base_model,
        "base_sha256": plan.base_sha256,
        "dataset_uri": plan.dataset.uri,
        "dataset_sha256": plan.dataset.sha256,
        "stages": ",".join(plan.stages.wanted),
        "code_version": code_version,
    }
    ours = {f"ruminate.{name}": str(value) for name, value in told.items() if value is not None}
    source = {"mlflow.source.name": "ruminate.trainer", "mlflow.source.type": "JOB"}
    return {**_cut(ours), **source, KEY_TAG: key_of(batch, attempt)}


def params_of(plan: JobPlan) -> dict[str, str]:
    """Everything that changes what is learned, and how it is proven."""
    planned = plan.model_dump(mode="json")
    wanted = {
        **planned["hyperparameters"],
        **{name: planned[name] for name in _PLAN_PARAMS},
        "stages": planned["stages"],
        "proof": planned["proof"],
        "recovery": planned["recovery"],
    }
    return {_name(key, between="."): _param(value) for key, value in _leaves(wanted)}


def params_to_tell(wanted: Mapping[str, str], there: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The params that a run does not have yet, and as tags those that it has otherwise: MLflow lets no param change."""
    new = {name: value for name, value in wanted.items() if name not in there}
    changed = {f"ruminate.changed.{name}": value for name, value in wanted.items() if there.get(name, value) != value}
    return new, _cut(changed)


# It runs.


def points_of(progress: Progress, at_ms: int) -> Iterator[Point]:
    """The figures of one report of a stage."""
    if progress.stage is None:
        return
    told = {
        "loss": progress.loss,
        "reward": progress.reward,
        "tokens_per_second": progress.tokens_per_second,
        "memory_bytes": progress.memory_bytes,
    }
    for name, value in told.items():
        if value is not None:
            yield Point(f"{progress.stage}/{name}", float(value), at_ms, progress.step)


# It ends.


def result_in(history: History, batch: TrainingBatchSealed, attempt: int) -> AdapterTrained | TrainingFailed | None:
    """The result of an attempt that counts: the version, or else the first failure."""
    results: tuple[AdapterTrained | TrainingFailed, ...] = (*history.trained, *history.failed)
    for found in results:
        if (found.batch_id, found.attempt) == (batch.batch_id, attempt):
            return found
    return None


def is_in(history: History, batch: TrainingBatchSealed) -> bool:
    """Whether the log has this batch at all; one that was lived in anew has others of the same names."""
    return any((each.batch_id, each.sealed_at) == (batch.batch_id, batch.sealed_at) for _, each in history.sealed)


def ending_of(result: AdapterTrained | TrainingFailed | None) -> Ending:
    """How the run of an attempt with this result ends; None: the log does not know its batch any more."""
    if result is None:
        return Ending("KILLED", None, {"ruminate.outcome": "not_in_the_log"})
    if isinstance(result, TrainingFailed):
        at_ms = _milliseconds(result.failed_at)
        told = {"outcome": "failed", "reason": result.reason, "explanation": result.explanation, "phase": result.phase}
        return Ending(
            "KILLED" if result.reason == "cancelled" else "FAILED",
            at_ms,
            _cut({f"ruminate.{name}": value for name, value in told.items()}),
            tuple(_figures(result.evidence, at_ms)),
        )
    at_ms = _milliseconds(result.trained_at)
    return Ending("FINISHED", at_ms, _tags_of_version(result), tuple(_figures_of_version(result, at_ms)))


def _tags_of_version(trained: AdapterTrained) -> dict[str, str]:
    told: dict[str, Any] = {
        "outcome": "trained",
        "phase": "done",
        "stages": ",".join(trained.stages),
        "base_sha256": trained.base_sha256,
        "continued_from": trained.continued_from,
        "adapter_uri": trained.adapter.uri,
        "adapter_sha256": trained.adapter.sha256,
        "chat_template_sha256": trained.chat_template_sha256,
        **{name: trained.metrics.get(name) for name in ("device", "backend", "precision")},
        **{f"gguf.{file.encoding}.{file.holds}_sha256": file.file.sha256 for file in trained.gguf},
    }
    return _cut({f"ruminate.{name}": str(value) for name, value in told.items() if value is not None})


def _figures_of_version(trained: AdapterTrained, at_ms: int) -> Iterator[Point]:
    yield Point("result/duration_seconds", trained.duration_seconds, at_ms)
    yield Point("result/adapter_bytes", float(trained.adapter.size_bytes), at_ms)
    for file in trained.gguf:
        yield Point(f"result/gguf/{file.encoding}/{file.holds}_bytes", float(file.file.size_bytes), at_ms)
    for equality in trained.equality:
        place = ("equality", equality.encoding, equality.method)
        yield from _numbers(equality.model_dump(exclude={"encoding", "method"}), place, at_ms)
    proof = trained.metrics.get("proof")
    if isinstance(proof, dict):
        yield from _numbers({name: value for name, value in proof.items() if name != "findings"}, ("proof",), at_ms)
        yield from _findings(proof.get("findings"), at_ms)
    yield from _figures(trained.metrics, at_ms)


def _figures(told: Mapping[str, Any], at_ms: int) -> Iterator[Point]:
    """Of what a result says of itself, whatever is a number; how stages went and what the proof found under names of their own."""
    yield from _numbers({name: value for name, value in told.items() if name not in _TOLD_APART}, ("result",), at_ms)
    yield from _findings(told.get("findings"), at_ms)
    for number, record in enumerate(_records(told.get("stages")), start=1):
        yield from _numbers(record, ("stages", f"{number}-{record.get('stage')}"), at_ms)
        if isinstance(attempts := record.get("attempts"), list):
            yield Point(_name(("stages", f"{number}-{record.get('stage')}", "attempts")), float(len(attempts)), at_ms)
    if isinstance(searched := told.get("search"), list) and searched:
        yield Point("result/searched", float(len(searched)), at_ms)


def _findings(findings: Any, at_ms: int) -> Iterator[Point]:
    for finding in _records(findings):
        place = ("proof", str(finding.get("measure")), _group(str(finding.get("group"))))
        yield from _numbers(finding, place, at_ms)
        yield Point(_name((*place, "passed")), float(finding.get("verdict") in ("kept", "learned", "not_applicable")), at_ms)


# The evidence, which lies beside the adapter.


def curves_in(evidence: Mapping[str, Any], at_ms: int) -> Iterator[Point]:
    """Every value over the steps of every stage: those that were told while it ran, and what was seen of rows held out."""
    for record in _records(evidence.get("stages")):
        for name, told in (("loss", "losses"), ("reward", "rewards"), ("held_out_loss", "looks")):
            for step, value in record.get(told) or ():
                yield Point(f"{record['stage']}/{name}", float(value), at_ms, int(step))


def exams_in(evidence: Mapping[str, Any], at_ms: int) -> Iterator[Point]:
    """What the exams before and after came to, group by group."""
    before, after, groups = evidence.get("before") or [], evidence.get("after"), evidence.get("groups") or []
    for step, sitting in enumerate((before[0] if before else None, after)):
        if sitting is None:
            continue
        for group in dict.fromkeys(groups):
            answers = [answer for answer, of in zip(sitting["answers"], groups, strict=True) if of == group]
            for measure in ("right", "well_formed", "obedient", "cut", "thinking_tokens", "answer_tokens"):
                known = [float(answer[measure]) for answer in answers if answer[measure] is not None]
                if known:
                    yield Point(_name(("exam", _group(group), measure)), fmean(known), at_ms, step)
        for name in ("row_losses", "trace_losses"):
            if sitting[name]:
                yield Point(f"exam/{name.removesuffix('es')}", fmean(sitting[name]), at_ms, step)


def untold(points: Iterable[Point], told: Mapping[str, frozenset[int]]) -> list[Point]:
    """The points of steps of which a run has no value yet; `told` has the steps of each metric."""
    return [point for point in points if point.step not in told.get(point.key, frozenset())]


# Names and values.


def _records(told: Any) -> Iterator[dict[str, Any]]:
    return (each for each in (told if isinstance(told, list | tuple) else ()) if isinstance(each, dict))


def _numbers(told: Mapping[str, Any], place: Sequence[str], at_ms: int) -> Iterator[Point]:
    for key, value in _leaves(told):
        if isinstance(value, int | float):
            yield Point(_name((*place, *key)), float(value), at_ms)


def _leaves(told: Mapping[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What is no object, with the names that lead to it."""
    for name, value in told.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*place, str(name)))
        else:
            yield (*place, str(name)), value


def _group(group: str) -> str:
    return group.replace(", ", ".")


def _name(parts: Sequence[str], between: str = "/") -> str:
    """A name that MLflow takes; a part of it holds no slash."""
    return between.join(_NOT_IN_NAMES.sub("_", part) for part in parts)[:LONGEST_NAME]


def _param(value: Any) -> str:
    return (value if isinstance(value, str) and value else json.dumps(value))[:LONGEST_PARAM]


def _cut(tags: Mapping[str, str]) -> dict[str, str]:
    return {_name((name,)): value[:LONGEST_TAG] for name, value in tags.items()}


def _milliseconds(moment: Any) -> int:
    return int(moment.timestamp() * 1000)
