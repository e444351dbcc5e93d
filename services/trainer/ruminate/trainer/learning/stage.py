"""One stage, run until it can be gone on with: trained, measured, and mended where it cost reasoning.

stages/thinking_fusion-0/attempt-0/checkpoints/   where a killed job goes on; -1 where it is run once more, more boldly
                                  /snapshots/     adapters on the way, for going back to
                                  /best/          those of the best looks, while it is trained
                                  /adapter/       what came of it, there whole or not at all
                                  /trained.json   how it went
                                  /sitting.json   its exam
stages/thinking_fusion-0/gone.json                how the stage went; then all adapters but the accepted one are removed

Everything is written once and taken up by whoever comes after a kill; the same seed gives the same bytes. What no later step reads
is removed as soon as that is so: how much lies on the disk at once is bounded (`base.most_adapters`).
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch
from transformers import PrinterCallback

from ruminate.proof.asking import Sampling
from ruminate.proof.judge import harmed
from ruminate.schemas.training import Stage
from ruminate.trainer.backends.adapter import drop_reference, save_adapter
from ruminate.trainer.examining.sit import Examiner, Limits
from ruminate.trainer.examining.speak import losses
from ruminate.trainer.learning.attempts import Attempt, Tried, accepted, next_attempt
from ruminate.trainer.learning.blend import norm, read_adapter, scaled
from ruminate.trainer.learning.proving import Before, compared, examine, judged, speaker_of
from ruminate.trainer.learning.workshop import Standing, Workshop, put_on, write
from ruminate.trainer.rows import Tokens
from ruminate.trainer.stages.practice import in_modes, practice
from ruminate.trainer.stages.preference import preference
from ruminate.trainer.stages.supervised import supervised
from ruminate.trainer.stages.watcher import BEST, SNAPSHOTS, Watch, Watcher, last_checkpoint

ADAPTER: Final = "adapter"
TRAINED_FILE: Final = "trained.json"
PRACTICE_FILE: Final = "practice.json"
MOST_TRIED: Final = 128
SITTING_FILE: Final = "sitting.json"
GONE_FILE: Final = "gone.json"


@dataclass(frozen=True)
class Gone:
    """How a stage ended. `undone`: no attempt could be gone on with, and it stands where it began."""

    stage: Stage
    standing: Standing
    record: dict[str, Any]
    undone: bool = False


def go_through(work: Workshop, stage: Stage, name: str, start: Standing, before: Before) -> Gone:
    """Run a stage from where the one before it ended, and mend it where it cost reasoning. `name` is that of its folder."""
    place = work.folder / "stages" / name
    if not (place / GONE_FILE).exists():
        record, chosen = _gone_through(work, stage, place, start, before)
        write(place / GONE_FILE, json.dumps({"record": record, "chosen": chosen}).encode())
    gone = json.loads((place / GONE_FILE).read_bytes())
    chosen = gone["chosen"]
    _keep_only(place, chosen)
    if chosen is None:
        put_on(work.model, start.adapter)
        return Gone(stage, start, gone["record"], undone=True)
    where = place / f"attempt-{chosen}"
    put_on(work.model, where / ADAPTER)
    sitting = None if before.examiner is None else examine(work, before, where / SITTING_FILE, where / ADAPTER)
    return Gone(stage, Standing(where / ADAPTER, sitting), gone["record"])


def _gone_through(work: Workshop, stage: Stage, place: Path, start: Standing, before: Before) -> tuple[dict[str, Any], int | None]:
    """What is to be told of the stage, and the number of the attempt to go on with; None where it is undone."""
    if before.examiner is None or start.sitting is None or work.plan.proof.enforcement == "report":
        first = Attempt(number=0, kind="as_planned")
        made = make(work, stage, place, first, start)
        if before.examiner is not None:
            examine(work, before, place / "attempt-0" / SITTING_FILE, made)
        return {"stage": stage, **_trained(place, first)}, first.number
    must_learn = stage == "thinking_fusion"
    tried: list[Tried] = []
    explanations: list[str] = []
    while (attempt := next_attempt(tried, work.plan.recovery, _snapshots(place, tried), must_learn=must_learn)) is not None:
        where = place / f"attempt-{attempt.number}"
        passing = accepted(tried, must_learn=must_learn)
        needed = {attempt.of, None if passing is None else passing.number}
        for each in tried:
            if each.attempt.number not in needed:
                shutil.rmtree(place / f"attempt-{each.attempt.number}" / ADAPTER, ignore_errors=True)
        # One that was measured and dropped is not made again by a job that goes on.
        made = where / ADAPTER if (where / SITTING_FILE).exists() else make(work, stage, place, attempt, start)
        sitting = examine(work, before, where / SITTING_FILE, made)
        since_start = compared(work, start.sitting, sitting)
        against_all = judged(work, before, sitting)
        material, policy = work.material, work.plan.proof.policy
        does_harm = harmed(material.exam, start.sitting, sitting, policy, rows=material.observations)
        tried.append(Tried(attempt=attempt, kept=against_all.kept, learned=since_start.learned, harmed=does_harm))
        explanations.append((since_start if against_all.kept else against_all).explanation)
    chosen = accepted(tried, must_learn=must_learn)
    record: dict[str, Any] = {
        "stage": stage,
        "attempts": [
            {**each.model_dump(mode="json"), "explanation": explanation}
            for each, explanation in zip(tried, explanations, strict=True)
        ],
        "accepted": None if chosen is None else chosen.number,
        **_trained(place, chosen or tried[0].attempt),
    }
    return record, None if chosen is None else chosen.number


def _keep_only(place: Path, chosen: int | None) -> None:
    """Remove all adapters of a stage that is over but the one to go on with."""
    for where in place.glob("attempt-*"):
        shutil.rmtree(where / SNAPSHOTS, ignore_errors=True)
        if where.name != f"attempt-{chosen}":
            shutil.rmtree(where / ADAPTER, ignore_errors=True)


def _snapshots(place: Path, tried: Sequence[Tried]) -> dict[int, list[int]]:
    return {
        each.attempt.number: sorted(
            int(kept.name) for kept in (place / f"attempt-{each.attempt.number}" / SNAPSHOTS).glob("[0-9]*")
        )
        for each in tried
        if each.attempt.trains
    }


def _trained(place: Path, attempt: Attempt) -> dict[str, Any]:
    """How the training went that an attempt rests on."""
    path = place / f"attempt-{attempt.of if attempt.of is not None else attempt.number}" / TRAINED_FILE
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def why_not(work: Workshop, stage: Stage, start: Standing) -> str | None:
    """Why a stage that the batch supports is of no use to the model as it stands; None where it is.

    Practice makes likelier what was right: where nothing ever is, there is nothing to make likelier.
    """
    if stage != "reasoning_rl":
        return None
    path = work.folder / "stages" / PRACTICE_FILE
    if not path.exists():
        planned = work.plan.hyperparameters
        chosen = planned.practice
        limits = Limits(
            chosen.answer_tokens, planned.micro_batch_rows, planned.seed, int(work.model.config.max_position_embeddings)
        )
        drawn = Sampling(chosen.temperature)
        examiner = Examiner(work.tokenizer, work.is_right, limits, thinking=drawn, direct=drawn)
        asked = in_modes(work.material.questions[:MOST_TRIED], chosen.reasoning_ratio, planned.seed)
        with work.course.during("measuring"):
            put_on(work.model, start.adapter)
            answers = examiner.ask(speaker_of(work), asked)
        write(path, json.dumps([len(asked), sum(answer.right is True for answer in answers)]).encode())
    asked_count, right = json.loads(path.read_bytes())
    return (
        None
        if right
        else f"of {asked_count} questions, drawn once each, none was answered rightly: there is nothing to make likelier"
    )


def make(work: Workshop, stage: Stage, place: Path, attempt: Attempt, start: Standing) -> Path:
    """The folder of an attempt's adapter, which is made once."""
    where = place / f"attempt-{attempt.number}"
    adapter = where / ADAPTER
    if adapter.exists():
        _clear(where)
        return adapter
    with work.course.during("training"):
        if attempt.of is None:
            _train(work, stage, where, attempt, start)
        else:
            source = place / f"attempt-{attempt.of}"
            making = where / ".adapter"
            shutil.rmtree(making, ignore_errors=True)
            if attempt.scale is not None:
                before = read_adapter(start.adapter)
                scaled(read_adapter(source / ADAPTER), before if norm(before) > 0 else None, attempt.scale, making)
            else:
                making.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(source / SNAPSHOTS / str(attempt.step), making)
            making.rename(adapter)
    return adapter


def _train(work: Workshop, stage: Stage, where: Path, attempt: Attempt, start: Standing) -> None:
    micro = work.plan.hyperparameters.micro_batch_rows
    began = time.monotonic()
    while True:
        put_on(work.model, start.adapter)
        ready = _STAGES[stage](work, stage, where, attempt, micro)
        watcher = Watcher(
            stage,
            where,
            steps=ready.steps,
            learning_rate=ready.learning_rate,
            tell=work.course.tell,
            watch=ready.watch,
            keeps_snapshots=attempt.number == 0,  # no other is gone back in
        )
        ready.trainer.remove_callback(PrinterCallback)
        ready.trainer.add_callback(watcher)
        resumed = last_checkpoint(where / "checkpoints")
        try:
            ready.trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
            break
        except torch.OutOfMemoryError:
            if ready.trainer.args.per_device_train_batch_size == 1:
                raise
        # Here, not above: until the exception is gone, it holds what has filled the memory.
        micro = min(micro, ready.rows) // 2
        _leave(work.model, ready.trainer)
        torch.cuda.empty_cache()
    log = ready.trainer.state.log_history
    best = where / BEST / str(watcher.best_step)
    making = where / ".adapter"
    shutil.rmtree(making, ignore_errors=True)
    if ready.watch is not None and watcher.best_step not in (None, ready.trainer.state.global_step) and best.exists():
        shutil.copytree(best, making)
    else:
        save_adapter(work.model, making)
    record = {
        "steps": ready.trainer.state.global_step,
        "planned_steps": ready.steps,
        "learning_rate": ready.learning_rate,
        # transformers divides what was lost since the checkpoint by all steps
        "train_loss": fmean(entry["loss"] for entry in log if "loss" in entry),
        "last_loss": watcher.loss,
        "losses": [[entry["step"], round(entry["loss"], 6)] for entry in log if "loss" in entry],
        "rewards": [[entry["step"], round(entry["reward"], 6)] for entry in log if "reward" in entry],
        "looks": watcher.looks,
        "best_step": watcher.best_step,
        "stopped_early": watcher.stopped_early,
        "resumed_from_step": int(resumed.name.removeprefix("checkpoint-")) if resumed else 0,
        "tokens": watcher.tokens,
        "micro_batch_rows": micro,
        "seconds": round(time.monotonic() - began, 2),
        "device": str(ready.trainer.args.device),
        "backend": work.backend.name,
        "precision": work.backend.precision,
    }
    write(where / TRAINED_FILE, json.dumps(record).encode())
    making.rename(where / ADAPTER)
    _leave(work.model, ready.trainer)
    _clear(where)


def _clear(where: Path) -> None:
    """Remove what an attempt needed to come to its adapter."""
    for done in ("checkpoints", BEST, f".{ADAPTER}"):
        shutil.rmtree(where / done, ignore_errors=True)


def _leave(model: Any, trainer: Any) -> None:
    """Take from the model what a trainer has put around it."""
    drop_reference(model)
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    # Or the next trainer takes it for wrapped already, and computes without autocast, with logits of 16 bits.
    trainer.model._is_accelerate_prepared = False
    trainer.accelerator.free_memory()


@dataclass(frozen=True)
class _Ready:
    trainer: Any
    steps: int
    learning_rate: float
    watch: Watch | None
    rows: int
    """So many lie side by side."""


def _supervised(work: Workshop, stage: Stage, where: Path, attempt: Attempt, micro: int) -> _Ready:
    chosen, material = work.plan.hyperparameters, work.material
    # The sampler mixes them: what is rehearsed a while after the new would not hold it together.
    rehearsed = material.rehearsed * attempt.rehearsal_factor
    if stage == "cold_start":
        rows, epochs = material.long, chosen.epochs
    elif chosen.rehearsal_epochs is None or not rehearsed:
        rows, epochs = [*material.new, *rehearsed], chosen.epochs
    else:
        rows, epochs = [*seen_so_often(material.new, chosen.epochs), *seen_so_often(rehearsed, chosen.rehearsal_epochs)], 1.0
    steps = max(1, math.ceil(len(rows) * epochs / chosen.batch_rows))
    rate = chosen.learning_rate * attempt.rate_factor
    rows_at_once = _divisor(chosen.batch_rows, micro)
    trainer = supervised(
        work.model,
        work.tokenizer,
        rows,
        chosen,
        learning_rate=rate,
        steps=steps,
        micro_rows=rows_at_once,
        checkpoint_steps=work.plan.checkpoint_steps,
        checkpoints=where / "checkpoints",
        arguments=work.backend.arguments(work.model),
    )
    return _Ready(trainer, steps, rate, _watch_rows(work, micro), rows_at_once)


def seen_so_often(rows: Sequence[Tokens], epochs: float) -> list[Tokens]:
    """The rows, each so often; where that is no whole number, the first ones once more."""
    whole, part = divmod(epochs, 1)
    return [*(list(rows) * int(whole)), *rows[: round(len(rows) * part)]]


def _watch_rows(work: Workshop, micro: int) -> Watch | None:
    watched, patience = work.material.watched, work.plan.hyperparameters.early_stop_looks
    if not watched or not patience:
        return None

    def look(model: Any) -> float:
        return fmean(losses(model, watched, micro))

    return Watch(look, work.plan.checkpoint_steps, patience)


def _practice(work: Workshop, stage: Stage, where: Path, attempt: Attempt, micro: int) -> _Ready:
    chosen = work.plan.hyperparameters.practice
    rate = chosen.learning_rate * attempt.rate_factor
    questions = in_modes(work.material.questions, chosen.reasoning_ratio, work.plan.hyperparameters.seed)
    rows_at_once = _divisor(chosen.questions_a_step * chosen.answers_a_question, micro)
    trainer = practice(
        work.model,
        work.tokenizer,
        questions,
        work.is_right,
        chosen,
        learning_rate=rate,
        micro_rows=rows_at_once,
        seed=work.plan.hyperparameters.seed,
        checkpoint_steps=work.plan.checkpoint_steps,
        checkpoints=where / "checkpoints",
        arguments=work.backend.arguments(work.model),
    )
    return _Ready(trainer, chosen.steps, rate, None, rows_at_once)


def _preference(work: Workshop, stage: Stage, where: Path, attempt: Attempt, micro: int) -> _Ready:
    chosen, pairs = work.plan.hyperparameters.preference, work.material.pairs
    steps = max(1, math.ceil(len(pairs) * chosen.epochs / chosen.batch_rows))
    rate = chosen.learning_rate * attempt.rate_factor
    pairs_at_once = _divisor(chosen.batch_rows, max(1, micro // 2))
    trainer = preference(
        work.model,
        work.tokenizer,
        pairs,
        chosen,
        learning_rate=rate,
        steps=steps,
        micro_rows=pairs_at_once,
        seed=work.plan.hyperparameters.seed,
        checkpoint_steps=work.plan.checkpoint_steps,
        checkpoints=where / "checkpoints",
        arguments=work.backend.arguments(work.model),
    )
    return _Ready(trainer, steps, rate, None, 2 * pairs_at_once)


_STAGES: Final[Mapping[Stage, Callable[[Workshop, Stage, Path, Attempt, int], _Ready]]] = {
    "cold_start": _supervised,
    "reasoning_rl": _practice,
    "thinking_fusion": _supervised,
    "general_rl": _preference,
}


def _divisor(total: int, most: int) -> int:
    """The largest divisor of `total` that is not over `most`."""
    return next(size for size in range(min(total, most), 0, -1) if total % size == 0)
