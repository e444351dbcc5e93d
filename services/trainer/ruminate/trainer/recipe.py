"""One job, in the order in which things happen: read, load, measure, learn, prove, export, check, and the result last.

plan.json  dataset/  exams/  [parent/]  [earlier/]   what the service put into the job folder
start/  stages/                                      where a killed job goes on (learning/stage.py)
adapter/  gguf/                                      what is kept
result.json                                          written last: all of it is there
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, set_seed

from ruminate.grading.grade import Grader
from ruminate.planner.shape import adapter_parameters
from ruminate.schemas.training import Stage
from ruminate.shared.store import whole_file
from ruminate.trainer.apart import apart
from ruminate.trainer.backends import Backend
from ruminate.trainer.backends.adapter import save_adapter
from ruminate.trainer.base import (
    device_bytes,
    digest_of,
    find_base,
    loading,
    require_memory,
    require_numbers,
    require_room,
    require_same_base,
    shape_by_name,
    shape_in,
)
from ruminate.trainer.checkpointing import recomputes, steps
from ruminate.trainer.course import Course, failed
from ruminate.trainer.export.steps import check_all, export_all, require_exportable
from ruminate.trainer.export.tokenizer import chat_template_sha256
from ruminate.trainer.learning.proving import Before, keep_adapter, nothing_learned, prove, sit_before, told, without_curves
from ruminate.trainer.learning.search import search
from ruminate.trainer.learning.stage import Gone, go_through, why_not
from ruminate.trainer.learning.workshop import Standing, Workshop, put_on
from ruminate.trainer.material import Material, gather
from ruminate.trainer.outcome import PARENT_FOLDER, PLAN_FILE, RESULT_FILE, START_FOLDER, JobResult, Report, clear
from ruminate.trainer.plan import JobPlan
from ruminate.trainer.stages.choose import choose

Tell = Callable[[Report], None]


def run(folder: Path, tell: Tell, backend: Backend) -> JobResult:
    """Make what `plan.json` asks for. Raises JobFailed where trying again would not help."""
    plan = JobPlan.model_validate_json((folder / PLAN_FILE).read_bytes())
    course = Course(tell)
    with course.explained():
        return go(plan, folder, course, backend)


def go(plan: JobPlan, folder: Path, course: Course, backend: Backend) -> JobResult:
    """Make it, in the phases of a course."""
    began = time.monotonic()
    with course.during("preparing"):
        set_seed(plan.hyperparameters.seed)
        base, digest = usable_base(plan, folder, backend)
        with loading(base):
            tokenizer = AutoTokenizer.from_pretrained(base)
        material = gather(plan, folder, tokenizer)
        stages, left_out = choose(material.contents, plan.stages)
        if not stages:
            raise failed("preparing", "no_stage", "the batch supports no stage of training", {"stages_left_out": {**left_out}})
        backend = backend.with_checkpointing(
            recomputes(plan, steps(plan, stages, material.lengths), shape_in(base), backend.name, device_bytes())
        )
        with loading(base):
            model = backend.load(base, context_tokens=plan.hyperparameters.max_row_tokens)
        require_numbers(model, base)
        model = backend.adapt(model, None if plan.from_base else folder / PARENT_FOLDER, plan.hyperparameters)
        start = starting_point(folder, model)
    with Grader(plan.code) as grader:
        work = Workshop(plan, folder, backend, model, tokenizer, material, grader, course)
        run_stages, records = learn(work, start, stages, left_out)
    del model, work
    with course.during("exporting"):
        exported = export_all(plan, base, folder)
    with course.during("checking"):
        if backend.patches_transformers:
            # The check asks transformers, which is to be what it was.
            equality, check = apart(check_all, plan, base, folder, exported, material.fresh_rows)
        else:
            equality, check = check_all(plan, base, folder, exported, material.fresh_rows)
    result = JobResult(
        exported=exported,
        stages=run_stages,
        base_sha256=digest,
        metrics={
            **records,
            "gradient_checkpointing": backend.checkpointing,
            **counted(material),
            "stages_left_out": {str(stage): reason for stage, reason in left_out.items()},
            "seconds": dict(course.seconds),
            **check,
        },
        equality=equality,
        chat_template_sha256=chat_template_sha256(base),
        duration_seconds=round(time.monotonic() - began, 2),
    )
    with whole_file(folder / RESULT_FILE) as out:
        out.write(result.model_dump_json(indent=2).encode())
    clear(folder)
    return result


def usable_base(plan: JobPlan, folder: Path, backend: Backend) -> tuple[Path, str]:
    """The base's folder and digest, once it is sure that it can be trained and exported here. Raises JobFailed, ExportError."""
    if (known := shape_by_name(plan.base_model)) is not None:
        require_memory(plan, known, backend.name)  # before it is downloaded
    base = find_base(plan.base_model)
    shape = shape_in(base)
    require_memory(plan, shape, backend.name)
    trained = adapter_parameters(shape, plan.hyperparameters.lora_rank)
    require_room(folder, plan, weights=shape.parameters, trained=trained)
    require_exportable(plan, base)
    digest = digest_of(base)
    require_same_base(plan, digest)
    return base, digest


def starting_point(folder: Path, model: Any) -> Path:
    """The adapter that the job begins with, written down once: a job that goes on must not draw another."""
    start = folder / START_FOLDER
    if start.exists():
        put_on(model, start)
        return start
    making = folder / f".{START_FOLDER}"
    shutil.rmtree(making, ignore_errors=True)
    save_adapter(model, making)
    making.rename(start)
    return start


def learn(
    work: Workshop, start: Path, stages: Sequence[Stage], left_out: dict[Stage, str]
) -> tuple[tuple[Stage, ...], dict[str, Any]]:
    """Run the stages, prove the outcome, keep the adapter; the stages that were run, and what is to be told of them.

    Adds to `left_out` what turns out to be of no use. Raises JobFailed where the version may not serve.
    """
    before = sit_before(work, start)
    gone, useless = through(work, stages, before.standing, before, tries=0)
    left_out |= useless
    if not gone:
        raise failed("measuring", "no_stage", "no stage is of use to this model", {"stages_left_out": {**left_out}})
    searched: list[dict[str, Any]] = []
    fusion = next((number for number, each in enumerate(gone) if each.stage == "thinking_fusion"), None)
    if fusion is not None and nothing_learned(work, before, gone[-1].standing):
        began = gone[fusion - 1].standing if fusion else before.standing
        bolder, searched = search(work, began)
        if bolder is not None:
            # What came after it learned from what it was.
            again, useless = through(bolder, stages[stages.index("thinking_fusion") :], began, before, tries=1)
            left_out |= useless
            gone = [*gone[:fusion], *again]
    standing = gone[-1].standing
    records = [each.record for each in gone]
    judgement = prove(work, before, standing, records, searched)
    keep_adapter(work, before, standing, judgement, records)
    last = records[-1]
    told_of_all: dict[str, Any] = {
        "train_loss": last["train_loss"],
        "last_loss": last["last_loss"],
        "steps": sum(record["steps"] for record in records),
        "resumed_from_step": last["resumed_from_step"],
        "tokens": sum(record["tokens"] for record in records),
        **{name: last[name] for name in ("device", "backend", "precision")},
        "stages": [without_curves(record) for record in records],
        "proof": told(judgement),
    }
    if searched:
        told_of_all["search"] = searched
    return tuple(each.stage for each in gone if not each.undone), told_of_all


def through(
    work: Workshop, stages: Sequence[Stage], standing: Standing, before: Before, *, tries: int
) -> tuple[list[Gone], dict[Stage, str]]:
    """Every stage, each from where the one before it ended; and why some are of no use to the model as it stands."""
    gone: list[Gone] = []
    useless: dict[Stage, str] = {}
    for stage in stages:
        if (reason := why_not(work, stage, standing)) is not None:
            useless[stage] = reason
            continue
        gone.append(go_through(work, stage, f"{stage}-{tries}", standing, before))
        standing = gone[-1].standing
    return gone, useless


def counted(material: Material) -> dict[str, Any]:
    """How much there was to learn from."""
    return {
        "rows": len(material.new) + len(material.rehearsed),
        "replay_rows": len(material.rehearsed),
        "rows_left_out": material.left_out,
        "rows_set_aside": material.set_aside,
        "questions": len(material.questions),
        "preference_pairs": len(material.pairs),
    }
