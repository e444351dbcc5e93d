"""One turn, as the service makes it: a job folder with the sealed batch's files, and the trainer's own job in its child process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from ruminate.schemas.payload import ArtifactReference, Part
from ruminate.schemas.training import Stage
from ruminate.trainer.bases import arithmetic
from ruminate.trainer.bases.arithmetic import Exercise, Task, row
from ruminate.trainer.bases.small import SHIPPED
from ruminate.trainer.job import begin, finished, locked, run_job
from ruminate.trainer.learning.proving import PROOF_FILE
from ruminate.trainer.outcome import ADAPTER_FOLDER, DATASET_FOLDER, EXAMS_FOLDER, PARENT_FOLDER, JobFailed, Progress
from ruminate.trainer.plan import Enforcement, Hyperparameters, JobPlan, Proof, StageRules
from tests.benchmarks.learning.matter import Batch, asked
from tests.benchmarks.learning.measure import ANSWER_TOKENS

EXAM: Final = "sums"
EXAM_QUESTIONS: Final = 256
EARLIER_QUESTIONS: Final = 256
"""Of each earlier task, where the gate asks them: of those that no row has and no figure is told of."""
NOWHERE: Final = ArtifactReference(uri="file:///store/none", sha256="0" * 64, size_bytes=1)


class Gate(Part):
    """What the trainer's own proof decided, and on which numbers."""

    passed: bool
    explanation: str
    kept: bool
    learned: bool
    attempts: tuple[str, ...]
    accepted: int | None = None
    findings: tuple[str, ...]


class Taken(Part):
    """What a turn took and what it came to."""

    gate: Gate
    seconds: float
    steps: int
    phases: dict[str, float] = Field(default_factory=dict)
    rewards: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Course:
    """How the turns of an experiment are run."""

    hyperparameters: Hyperparameters
    enforcement: Enforcement = "enforce"
    stages: tuple[Stage, ...] = ("thinking_fusion",)
    exam_questions: int = EXAM_QUESTIONS
    probes: int = 16
    checkpoint_steps: int = 50
    also_asked: tuple[Task, ...] = ()
    """Tasks that the gate asks, too, beside what the base can do."""
    base: Path = field(default=SHIPPED)


def take(folder: Path, number: int, batch: Batch, course: Course, *, parent: Path | None, parent_version: str | None) -> Taken:
    """Run the job of one turn in `folder`, or take its result where it has been run; its adapter is at `adapter_of(folder)`."""
    plan, exams = _plan(number, len(batch.rows), course, parent_version)
    folder.mkdir(parents=True, exist_ok=True)
    failure = folder / "failure.json"
    with locked(folder) as lock:
        begin(folder, plan)
        if failure.exists():
            return Taken.model_validate_json(failure.read_bytes())
        if finished(folder) is None:
            _bring_in(folder, batch, exams, parent)
        try:
            result = asyncio.run(run_job(folder, lock=lock, on_progress=_quietly, crash_restarts=0, threads=1))
        except JobFailed as failed:
            taken = refused(failed.failure.reason, failed.failure.explanation, failed.failure.evidence)
            if taken is None:
                raise
            failure.write_text(taken.model_dump_json(indent=2), encoding="utf-8")
            return taken
    return accepted(result.metrics, adapter_of(folder) / PROOF_FILE, result.duration_seconds)


def adapter_of(folder: Path) -> Path:
    """Where a turn that passed has left its adapter."""
    return folder / ADAPTER_FOLDER


def _plan(number: int, rows: int, course: Course, parent_version: str | None) -> tuple[JobPlan, dict[str, bytes]]:
    exams = {EXAM: _lines(arithmetic.exam(course.exam_questions)).encode()}
    for task in course.also_asked:
        exams[task.name.replace(" ", "-")] = _lines(map(_question, asked(task, "chosen on")[:EARLIER_QUESTIONS])).encode()
    plan = JobPlan(
        tenant="default",
        batch_id=f"small-{number:06d}",
        target_model="small",
        number=number,
        version=f"v{number}",
        parent_version=parent_version,
        parent_adapter=None if parent_version is None else NOWHERE,
        from_base=parent_version is None,
        base_model=str(course.base),
        dataset=NOWHERE,
        rows=rows,
        stages=StageRules(wanted=course.stages),
        hyperparameters=course.hyperparameters,
        proof=Proof(
            enforcement=course.enforcement,
            questions=course.exam_questions,
            answer_tokens=ANSWER_TOKENS,
            batch_rows=256,
            exams={name: hashlib.sha256(content).hexdigest() for name, content in exams.items()},
        ),
        checkpoint_steps=course.checkpoint_steps,
        merged_dtype="float32",
        encodings=("f16",),
        adapter_encoding="f16",
        equality_probes=course.probes,
    )
    return plan, exams


def _bring_in(folder: Path, batch: Batch, exams: Mapping[str, bytes], parent: Path | None) -> None:
    """What the service fetches from the store: the dataset as the accumulator writes it, the exams, the parent's adapter."""
    dataset = folder / DATASET_FOLDER
    dataset.mkdir(exist_ok=True)
    (folder / EXAMS_FOLDER).mkdir(exist_ok=True)
    files = {
        "train": batch.rows,
        "replay": batch.rehearsed,
        "holdout": [row(exercise, thinks=thinks) for exercise, thinks in batch.held_out],
        "verifiable": [_verifiable(exercise) for exercise in batch.practised],
        "verifiable-holdout": [_verifiable(exercise) for exercise, _ in batch.held_out],
    }
    for name, lines in files.items():
        (dataset / f"{name}.jsonl").write_text(_lines(lines), encoding="utf-8")
    for name, content in exams.items():
        (folder / EXAMS_FOLDER / f"{name}.jsonl").write_bytes(content)
    if parent is not None:
        shutil.rmtree(folder / PARENT_FOLDER, ignore_errors=True)
        shutil.copytree(parent, folder / PARENT_FOLDER)


def _verifiable(exercise: Exercise) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": exercise.question}],
        "check": {"kind": "exact", "content": exercise.answer},
    }


def _question(exercise: Exercise) -> dict[str, Any]:
    return {"question": exercise.question, "check": {"kind": "exact", "content": exercise.answer}, "thinking": "on"}


def _lines(rows: Iterable[object]) -> str:
    return "".join(json.dumps(each) + "\n" for each in rows)


async def _quietly(progress: Progress) -> None:
    """Nobody follows each step."""


def accepted(metrics: Mapping[str, Any], proof_file: Path, seconds: float) -> Taken:
    """What a turn came to that made a version, by what was told of it and the evidence beside its adapter."""
    stage = metrics["stages"][-1]
    attempts = stage.get("attempts", ())
    proof = metrics["proof"]
    explanation = attempts[stage["accepted"]]["explanation"] if attempts and stage["accepted"] is not None else ""
    curves = json.loads(proof_file.read_bytes())["stages"]
    return Taken(
        gate=Gate(
            passed=proof["kept"] and proof["learned"],
            explanation=explanation,
            kept=proof["kept"],
            learned=proof["learned"],
            attempts=tuple(each["attempt"]["kind"] for each in attempts),
            accepted=stage.get("accepted"),
            findings=_said(proof["findings"]),
        ),
        seconds=seconds,
        steps=metrics["steps"],
        phases=metrics["seconds"],
        rewards=tuple((int(step), float(reward)) for step, reward in curves[-1].get("rewards", ())),
    )


def _said(findings: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(f"{each['measure']} ({each['group']}): {each['verdict']}, {each['because']}" for each in findings)


def refused(reason: str, explanation: str, evidence: Mapping[str, Any]) -> Taken | None:
    """What a turn came to that made none; None for a failure that is no verdict: it ends the experiment."""
    if reason not in ("reasoning_lost", "nothing_learned"):
        return None
    stages = evidence.get("stages", ())
    return Taken(
        gate=Gate(
            passed=False,
            explanation=f"{reason}: {explanation}",
            kept=reason == "nothing_learned",
            learned=False,
            attempts=tuple(each["attempt"]["kind"] for stage in stages for each in stage.get("attempts", ())),
            findings=_said(evidence.get("findings", ())),
        ),
        seconds=0.0,
        steps=0,
    )
