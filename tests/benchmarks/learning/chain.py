"""Turns one on the other, each with a new task, measured after each: what was learned, and what was forgotten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from ruminate.schemas.payload import Part
from ruminate.trainer.bases.arithmetic import Task
from ruminate.trainer.plan import Enforcement, Hyperparameters
from tests.benchmarks.learning.matter import BASE_TASKS, TASKS, Portion, batch
from tests.benchmarks.learning.measure import Ability, Gauge
from tests.benchmarks.learning.turn import Course, Taken, adapter_of, take

HELD_OUT: Final = 160
MEASURED_FILE: Final = "measured.json"
CHAIN_FILE: Final = "chain.json"

Say = Callable[[str], None]
Through = Literal["job", "loop"]


class Turn(Part):
    """One turn: what the gate decided, and what the version that serves after it can do."""

    number: int
    task: str
    taken: Taken
    abilities: tuple[Ability, ...]

    def of(self, task: str) -> Ability:
        """What it can do of one task."""
        return next(ability for ability in self.abilities if ability.task == task)


class Chain(Part):
    """All turns of one seed and one share of replay."""

    seed: int
    replay_ratio: float
    enforcement: Enforcement
    asks_earlier: bool = False
    """Whether the gate asks what earlier turns have taught, too."""
    through: Through = "job"
    """Each turn the trainer's own job on a folder, or the running loop from the interaction to the version that serves."""
    rows: int
    questions: int | None
    """Of each task and mode that were asked; None: all of them."""
    portion: Portion
    hyperparameters: Hyperparameters
    at_first: tuple[Ability, ...]
    """What the base can do, and what it can do of the tasks that it is taught afterwards."""
    turns: tuple[Turn, ...]


def run(
    folder: Path,
    *,
    seed: int,
    replay_ratio: float,
    enforcement: Enforcement,
    asks_earlier: bool = False,
    hyperparameters: Hyperparameters,
    rows: int,
    turns: int = len(TASKS),
    portion: Portion = "measured",
    questions: int | None = None,
    exam_questions: int = 256,
    probes: int = 16,
    tasks: Sequence[Task] = TASKS,
    say: Say = print,
) -> Chain:
    """Run what has not been run yet of a chain in `folder`; a turn that is refused leaves the version before it serving."""
    course = Course(hyperparameters.model_copy(update={"seed": seed}), enforcement, exam_questions=exam_questions, probes=probes)
    parent: Path | None = None
    version: str | None = None
    done: list[Turn] = []
    with Gauge(course.base) as gauge:

        def measured(path: Path, adapter: Path | None, these: Sequence[Task]) -> tuple[Ability, ...]:
            return once(path, lambda: gauge.abilities(adapter, (*BASE_TASKS, *these), portion, most=questions))

        # Of the base every chain measures the same.
        names = "-".join(task.name for task in tasks[:turns]).replace(" ", "-")
        base = folder.parent / f"base-{portion.replace(' ', '-')}-{questions or 'all'}-{names}.json"
        at_first = measured(base, None, tasks[:turns])
        for number in range(1, turns + 1):
            lesson = batch(number, seed=seed, rows=rows, replay_ratio=replay_ratio, held_out=HELD_OUT, tasks=tasks)
            where = folder / str(number)
            say(f"turn {number} of {turns}: {lesson.task.name}, {len(lesson.rows)} rows and {len(lesson.rehearsed)} rehearsed")
            asking = replace(course, also_asked=tuple(tasks[: number - 1]) if asks_earlier else ())
            taken = take(where, number, lesson, asking, parent=parent, parent_version=version)
            if adapter_of(where).exists():
                parent, version = adapter_of(where), f"v{number}"
            abilities = measured(where / MEASURED_FILE, parent, tasks[:number])
            done.append(Turn(number=number, task=lesson.task.name, taken=taken, abilities=abilities))
            say(line(done[-1]))
            chain = Chain(
                seed=seed,
                replay_ratio=replay_ratio,
                enforcement=enforcement,
                asks_earlier=asks_earlier,
                rows=rows,
                questions=questions,
                portion=portion,
                hyperparameters=course.hyperparameters,
                at_first=at_first,
                turns=tuple(done),
            )
            (folder / CHAIN_FILE).write_text(chain.model_dump_json(indent=2), encoding="utf-8")
    return chain


class _Abilities(Part):
    abilities: tuple[Ability, ...]


def once(path: Path, measure: Callable[[], Sequence[Ability]]) -> tuple[Ability, ...]:
    """What was measured and written down before is not measured again."""
    if path.exists():
        return _Abilities.model_validate_json(path.read_bytes()).abilities
    found = _Abilities(abilities=tuple(measure()))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(found.model_dump_json(indent=2), encoding="utf-8")
    return found.abilities


def line(turn: Turn) -> str:
    """A turn in a line."""
    gate = turn.taken.gate
    decided = "passed" if gate.passed else "refused" if turn.taken.steps == 0 else "would be refused"
    right = ", ".join(f"{ability.task} {ability.right:.1%}" for ability in turn.abilities)
    obedient = min(mode.obedient for ability in turn.abilities for mode in (ability.thinking, ability.direct))
    return f"  gate: {decided} after {turn.taken.seconds:.0f} s; right: {right}; least obedience {obedient:.1%}"
