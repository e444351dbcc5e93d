"""Practice: few rows teach a task in part, then rewards alone (GRPO, in the trainer's own job) make it better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from ruminate.schemas.payload import Part
from ruminate.trainer.bases.arithmetic import Task
from ruminate.trainer.plan import Enforcement, Hyperparameters, Practice
from tests.benchmarks.learning.chain import HELD_OUT, MEASURED_FILE, Say, once
from tests.benchmarks.learning.matter import BASE_TASKS, PRACTISED, Portion, batch, to_practise
from tests.benchmarks.learning.measure import Ability, Gauge
from tests.benchmarks.learning.turn import Course, Taken, adapter_of, take

ROWS: Final = 800
QUESTIONS: Final = 2000
"""Of the task, that are practised on."""
STEPS: Final = 400
PRACTISED_FILE: Final = "practised.json"


class Practised(Part):
    """One seed."""

    seed: int
    task: str
    portion: Portion
    practice: Practice
    supervised: Taken
    before: tuple[Ability, ...]
    practised: Taken
    after: tuple[Ability, ...]

    def gain(self) -> float:
        """Right answers after less those before, as a share of all that were asked, thinking."""
        was, is_now = (next(each for each in abilities if each.task == self.task) for abilities in (self.before, self.after))
        return is_now.right - was.right


def run(
    folder: Path,
    *,
    seed: int,
    supervised: Hyperparameters,
    practice: Practice,
    enforcement: Enforcement = "enforce",
    rows: int = ROWS,
    portion: Portion = "measured",
    questions: int | None = None,
    exam_questions: int = 256,
    tasks: Sequence[Task] = (PRACTISED,),
    say: Say = print,
) -> Practised:
    """Run what has not been run yet: a turn that teaches the task, then a job of practice on what it made."""
    lesson = batch(1, seed=seed, rows=rows, replay_ratio=0.5, held_out=HELD_OUT, tasks=tasks)
    first = Course(supervised.model_copy(update={"seed": seed}), enforcement, exam_questions=exam_questions, probes=0)
    at_once = practice.questions_a_step * practice.answers_a_question
    practising = supervised.model_copy(
        update={"seed": seed, "practice": practice, "batch_rows": at_once, "micro_batch_rows": at_once}
    )
    second = replace(first, hyperparameters=practising, stages=("reasoning_rl",))
    asked = (*BASE_TASKS, *tasks)
    with Gauge(first.base) as gauge:
        say(f"{lesson.task.name}: {len(lesson.rows)} rows and {len(lesson.rehearsed)} rehearsed")
        taught = take(folder / "taught", 1, lesson, first, parent=None, parent_version=None)
        start = adapter_of(folder / "taught")
        before = once(folder / "taught" / MEASURED_FILE, lambda: gauge.abilities(start, asked, portion, most=questions))
        say(f"  {before[-1].right:.1%} right; {practice.steps} steps of practice")
        wider = replace(lesson, practised=to_practise(lesson.task, QUESTIONS, seed=seed))
        done = take(folder / "practised", 2, wider, second, parent=start, parent_version="v1")
        end = adapter_of(folder / "practised")
        serving = end if end.exists() else start
        after = once(folder / "practised" / MEASURED_FILE, lambda: gauge.abilities(serving, asked, portion, most=questions))
        say(f"  {after[-1].right:.1%} right; {done.gate.explanation or 'undecided'}")
    found = Practised(
        seed=seed,
        task=lesson.task.name,
        portion=portion,
        practice=practice,
        supervised=taught,
        before=before,
        practised=done,
        after=after,
    )
    (folder / PRACTISED_FILE).write_text(found.model_dump_json(indent=2), encoding="utf-8")
    return found
