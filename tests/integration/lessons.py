"""Job folders that teach the small base something new, with all that a sealed batch brings along."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from ruminate.schemas.payload import ArtifactReference
from ruminate.schemas.training import Stage
from ruminate.trainer.bases import arithmetic
from ruminate.trainer.bases.arithmetic import HELD_OUT, Exercise, Task, divided, draw, row
from ruminate.trainer.bases.small import SHIPPED
from ruminate.trainer.job import begin
from ruminate.trainer.outcome import DATASET_FOLDER, EXAMS_FOLDER
from ruminate.trainer.plan import Encoding, Hyperparameters, JobPlan, Proof, Recovery, StageRules

ARTIFACT = ArtifactReference(uri="file:///store/dataset.json", sha256="0" * 64, size_bytes=1)
EXAM = "arithmetic"


def exam(questions: int) -> bytes:
    """What every version is asked: so many questions in each mode, of what the base can do and has never seen."""
    return as_lines(arithmetic.exam(questions)).encode()


def as_lines(rows: Iterable[object]) -> str:
    """JSON Lines."""
    return "".join(json.dumps(each) + "\n" for each in rows)


def taught(task: Task, count: int, *, seed: int = 7) -> list[dict[str, Any]]:
    """Rows of a task, three in four with thinking."""
    random = Random(seed)
    return [row(exercise, thinks=random.random() < 0.75) for exercise in draw(task, count, random)]


def rehearsed(count: int, *, seed: int = 8) -> list[dict[str, Any]]:
    """Rows of what the base can do."""
    return arithmetic.anchors(count, Random(seed))


def practice_line(exercise: Exercise) -> dict[str, Any]:
    """A question as verifiable.jsonl has it."""
    return {
        "prompt": [{"role": "user", "content": exercise.question}],
        "check": {"kind": "reference", "content": exercise.answer},
    }


def preference_line(exercise: Exercise, rejected: str) -> dict[str, Any]:
    """A pair as a correction makes it: neither of its answers thinks."""
    return {
        "prompt": [{"role": "user", "content": exercise.question}],
        "chosen": [{"role": "assistant", "content": exercise.answer}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "chat_template_kwargs": {"enable_thinking": False},
    }


def lesson(
    folder: Path,
    *,
    rows: Sequence[dict[str, Any]],
    replay: Sequence[dict[str, Any]] = (),
    held_out: Sequence[dict[str, Any]] = (),
    checked: Sequence[Exercise] = (),
    practised: Sequence[Exercise] = (),
    pairs: Sequence[dict[str, Any]] = (),
    base: Path = SHIPPED,
    stages: tuple[Stage, ...] = ("thinking_fusion",),
    rules: StageRules | None = None,
    recovery: Recovery | None = None,
    proof: Proof | None = None,
    exam_questions: int = 256,
    checkpoint_steps: int = 20,
    probes: int = 0,
    encodings: tuple[Encoding, ...] = ("f16",),
    **hyperparameters: Any,
) -> Path:
    """A job folder as the service makes it: plan, dataset, exam. `checked` are the questions of `held_out` that can be checked."""
    asked = exam(exam_questions)
    chosen = proof or Proof(answer_tokens=64, batch_rows=64)
    learning = {"learning_rate": 1e-3, "batch_rows": 32, "micro_batch_rows": 32, "epochs": 1.0, "warmup_ratio": 0.05}
    plan = JobPlan(
        tenant="default",
        batch_id="small-000001",
        target_model="small",
        number=1,
        version="v1",
        parent_version=None,
        parent_adapter=None,
        from_base=True,
        base_model=str(base),
        dataset=ARTIFACT,
        rows=len(rows),
        stages=rules or StageRules(wanted=stages),
        hyperparameters=Hyperparameters(**{**learning, **hyperparameters}),
        proof=chosen.model_copy(update={"exams": {EXAM: hashlib.sha256(asked).hexdigest()}, "questions": exam_questions}),
        recovery=recovery or Recovery(),
        checkpoint_steps=checkpoint_steps,
        merged_dtype="float32",
        encodings=encodings,
        adapter_encoding="f16",
        equality_probes=probes,
    )
    folder.mkdir(parents=True, exist_ok=True)
    begin(folder, plan)
    files = {
        f"{DATASET_FOLDER}/train.jsonl": as_lines(rows),
        f"{DATASET_FOLDER}/replay.jsonl": as_lines(replay),
        f"{DATASET_FOLDER}/holdout.jsonl": as_lines(held_out),
        f"{DATASET_FOLDER}/verifiable-holdout.jsonl": as_lines(map(practice_line, checked)),
        f"{DATASET_FOLDER}/verifiable.jsonl": as_lines(map(practice_line, practised)),
        f"{DATASET_FOLDER}/preferences.jsonl": as_lines(pairs),
        f"{EXAMS_FOLDER}/{EXAM}.jsonl": asked.decode(),
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def unseen(task: Task, count: int) -> list[Exercise]:
    """Exercises of a task that no row teaches."""
    assert count <= HELD_OUT
    return list(divided(task)[1][:count])
