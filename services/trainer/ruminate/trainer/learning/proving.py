"""Proof: the exam before anything is learned, after each attempt, and the word on the version that came of it.

stages/before.json  parent.json  base.json   exams of the adapter that the job begins with, of the parent, of the base
stages/traces.json                           how the base thinks about what every version is asked
adapter/proof.json                           all of it, beside the weights that it speaks of
adapter/exam.json                            what was asked and came of it, to be asked again where it is served
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ruminate.proof.asking import DIRECT, GREEDY, THINKING
from ruminate.proof.exam import HOLD_OUT
from ruminate.proof.judge import Judgement, applicable, judge
from ruminate.proof.record import EXAM_FILE
from ruminate.proof.spoken import Sitting
from ruminate.trainer.course import failed
from ruminate.trainer.curves import write_curves
from ruminate.trainer.examining.sit import Examiner, Limits
from ruminate.trainer.examining.speak import ModelSpeaker, losses
from ruminate.trainer.learning.blend import norm, read_adapter
from ruminate.trainer.learning.workshop import Standing, Workshop, put_on, write
from ruminate.trainer.outcome import ADAPTER_FOLDER, PARENT_FOLDER
from ruminate.trainer.rows import Tokens

PROOF_FILE: Final = "proof.json"
BEFORE_FILE: Final = "before.json"
PARENT_FILE: Final = "parent.json"
BASE_FILE: Final = "base.json"
LONG: Final = frozenset({"losses", "rewards", "looks"})
"""Of a stage's record: curves, which stand in the adapter's folder and are too long for an event."""


@dataclass(frozen=True)
class Before:
    """How it was before anything was learned."""

    standing: Standing
    examiner: Examiner | None
    """None where nothing is to be proven."""
    traces: tuple[Tokens, ...] = ()
    references: tuple[Sitting, ...] = ()
    """Exams of the parent, and of the base where that is another: what reasoning must not fall behind of."""


def sit_before(work: Workshop, start: Path) -> Before:
    """Sit the exam as the parent and as the base, or nothing at all where nothing is to be proven."""
    plan = work.plan
    if plan.proof.enforcement == "off":
        return Before(Standing(start, None), None)
    limits = Limits(
        answer_tokens=plan.proof.answer_tokens,
        batch_rows=plan.proof.batch_rows,
        seed=plan.hyperparameters.seed,
        context_tokens=int(work.model.config.max_position_embeddings),
    )
    samples = work.model.generation_config.do_sample
    examiner = Examiner(
        work.tokenizer,
        work.is_right,
        limits,
        thinking=THINKING if samples else GREEDY,
        direct=DIRECT if samples else GREEDY,
    )
    folder = work.folder / "stages"
    with work.model.disable_adapter():
        traces = _traces_of_base(work, examiner, folder / "traces.json")
    unmeasured = Before(Standing(start, None), examiner, traces)
    sitting = examine(work, unmeasured, folder / BEFORE_FILE, start)
    references: tuple[Sitting, ...] = (sitting,)
    if plan.parent_adapter is not None and plan.from_base:
        references = (examine(work, unmeasured, folder / PARENT_FILE, work.folder / PARENT_FOLDER), sitting)
    elif plan.parent_adapter is not None:
        with work.model.disable_adapter():
            references = (sitting, examine(work, unmeasured, folder / BASE_FILE, start))
    put_on(work.model, start)
    return Before(Standing(start, sitting), examiner, traces, references)


def examine(work: Workshop, before: Before, path: Path, adapter: Path) -> Sitting:
    """The exam of an adapter, sat once."""
    if path.exists():
        return Sitting.model_validate_json(path.read_bytes())
    assert before.examiner is not None  # noqa: S101 - asked before
    with work.course.during("measuring"):
        put_on(work.model, adapter)
        rows = work.plan.hyperparameters.micro_batch_rows
        answers = before.examiner.ask(speaker_of(work), work.material.exam)
        of_rows, of_traces = (tuple(losses(work.model, each, rows)) for each in (work.material.proving, before.traces))
        _require_numbers((*of_rows, *of_traces), adapter, begins=path.name in (BEFORE_FILE, PARENT_FILE, BASE_FILE))
        sitting = Sitting(answers=answers, row_losses=of_rows, trace_losses=of_traces)
        write(path, sitting.model_dump_json().encode())
    return sitting


def _require_numbers(found: Sequence[float], adapter: Path, *, begins: bool) -> None:
    """Say that a model gives no numbers before anything is compared with them."""
    wrong = [loss for loss in found if not math.isfinite(loss)]
    if wrong:
        way = (
            "the base or the parent that the job begins with is damaged: restore it"
            if begins
            else "lower the learning rate of the stage that was measured"
        )
        raise failed(
            "measuring",
            "diverged",
            f"the loss on {len(wrong)} rows that are held out is no number ({wrong[0]}); {way}",
            {"measured": adapter.parent.name, "rows": len(wrong)},
        )


def judged(work: Workshop, before: Before, sitting: Sitting) -> Judgement:
    """What the exam says: of whether something was learned, beside the parent; of reasoning, beside the parent and the base."""
    judgements = [compared(work, reference, sitting) for reference in before.references]
    return next((each for each in judgements if not each.kept), judgements[0])


def compared(work: Workshop, before: Sitting, after: Sitting) -> Judgement:
    """What two sittings of the job's exam say."""
    return judge(work.material.exam, before, after, work.plan.proof.policy, rows=work.material.observations)


def nothing_learned(work: Workshop, before: Before, standing: Standing) -> bool:
    """Whether all that is missing is that something was learned, and that counts."""
    if standing.sitting is None or work.plan.proof.enforcement != "enforce":
        return False
    judgement = judged(work, before, standing.sitting)
    return judgement.kept and not judgement.learned


def prove(
    work: Workshop, before: Before, standing: Standing, records: Sequence[Mapping[str, Any]], searched: Sequence[Mapping[str, Any]]
) -> Judgement | None:
    """Whether the version may serve. Raises JobFailed where it may not, and that counts."""
    if standing.sitting is None:
        return None
    judgement = judged(work, before, standing.sitting)
    if judgement.passed or work.plan.proof.enforcement == "report":
        return judgement
    start = before.standing.adapter
    undone = standing.adapter == start
    explanation = judgement.explanation
    if undone:
        explanation = "every stage was undone, for each of its attempts cost reasoning or learned nothing: see the evidence"
    raise failed(
        "measuring",
        "reasoning_lost" if undone or not judgement.kept else "nothing_learned",
        f"{explanation}; nothing is served from this batch",
        {
            "findings": _findings(judgement),
            "update_norm": norm(read_adapter(standing.adapter), read_adapter(start)),
            "stages": [without_curves(record) for record in records],
            "search": list(searched),
        },
    )


def keep_adapter(
    work: Workshop, before: Before, standing: Standing, judgement: Judgement | None, records: Sequence[Mapping[str, Any]]
) -> None:
    """The adapter that is exported, with the evidence for it beside its weights."""
    out, making = work.folder / ADAPTER_FOLDER, work.folder / f".{ADAPTER_FOLDER}"
    for old in (out, making):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(standing.adapter, making)
    evidence = {
        "judgement": None if judgement is None else judgement.model_dump(mode="json"),
        "groups": [str(question.group) for question in work.material.exam],
        "before": [reference.model_dump(mode="json") for reference in before.references],
        "after": None if standing.sitting is None else standing.sitting.model_dump(mode="json"),
        "stages": list(records),
    }
    write(making / PROOF_FILE, json.dumps(evidence).encode())
    if before.examiner is not None and standing.sitting is not None:
        asked = before.examiner.record(work.material.exam, standing.sitting.answers, work.plan.proof.policy)
        write(making / EXAM_FILE, asked.model_dump_json().encode())
    write_curves(records, making)
    making.rename(out)


def told(judgement: Judgement | None) -> dict[str, Any] | None:
    """What events say of the proof."""
    if judgement is None:
        return None
    return {
        "kept": judgement.kept,
        "learned": judgement.learned,
        "reasoning_measured": applicable(judgement),
        "findings": _findings(judgement),
    }


def without_curves(record: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's record as events have it."""
    return {name: value for name, value in record.items() if name not in LONG}


def _findings(judgement: Judgement) -> list[dict[str, Any]]:
    return [finding.model_dump(mode="json", exclude_none=True) for finding in judgement.findings]


def speaker_of(work: Workshop) -> ModelSpeaker:
    """The model as it stands."""
    return ModelSpeaker(work.model, work.backend.generating, pad=work.tokenizer.pad_token_id)


def _traces_of_base(work: Workshop, examiner: Examiner, path: Path) -> tuple[Tokens, ...]:
    """Written down once: what is drawn must not be drawn anew by a job that goes on."""
    if path.exists():
        return tuple(Tokens(**each) for each in json.loads(path.read_bytes()))
    with work.course.during("measuring"):
        traces = examiner.traces(speaker_of(work), [question for question in work.material.exam if question.set != HOLD_OUT])
        write(path, json.dumps([{"input_ids": trace.input_ids, "labels": trace.labels} for trace in traces]).encode())
    return tuple(traces)
