"""What a turn of the loop teaches, what it rehearses, and what nobody may learn from. Pure: the same seed gives the same rows.

Every task's questions are divided once, by hashes of their text:

    measured    1,000 that `arithmetic` holds out: every figure that is told is of these, and no row has them
    chosen on     500 more that no row has: whatever is chosen (rates, rows, mixes) is chosen by these
    taught      the others: batches are drawn from them, and so is what a batch holds out for its own gate
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, Final, Literal

from ruminate.trainer.bases.arithmetic import NEW_TASKS, READING, SUMS, Exercise, Task, anchors, divided, row

CHOSEN_ON: Final = 500
BASE_TASKS: Final = (*SUMS, READING)
THINKING_RATIO: Final = 0.75
"""Of a batch's rows: as many think."""
_NEW: Final = {task.name: task for task in NEW_TASKS}
TASKS: Final = tuple(_NEW[name] for name in ("joined", "exchanged", "sum of units", "mirrored", "larger"))
"""What five turns teach, in their order. `larger` is the last: a table to a model this small, it is learned in part, and what is
known in part drifts while something else is taught. Left out are `product of units`, which drifts likewise, and `cross sum`, which
costs `mirrored` much (docs/experiments.md)."""
PRACTISED: Final = _NEW["product of units"]
"""What practice makes better: few rows teach it in part."""

Portion = Literal["measured", "chosen on"]


@dataclass(frozen=True)
class Batch:
    """What one turn is given: rows to learn, rows to rehearse, and exercises that it holds out, each with its mode."""

    task: Task
    rows: list[dict[str, Any]]
    rehearsed: list[dict[str, Any]]
    practised: list[Exercise]
    held_out: list[tuple[Exercise, bool]]


def asked(task: Task, portion: Portion) -> tuple[Exercise, ...]:
    """The exercises of a task that are asked, and never taught."""
    to_train, held_out = divided(task)
    return held_out if portion == "measured" else to_train[-CHOSEN_ON:]


def batch(turn: int, *, seed: int, rows: int, replay_ratio: float, held_out: int, tasks: Sequence[Task] = TASKS) -> Batch:
    """The batch of a turn, the first of which is 1; `replay_ratio` of all that is learned is rehearsed."""
    fresh, aside = drawn(tasks[turn - 1], seed, rows, held_out)
    wanted = round(rows * replay_ratio / (1 - replay_ratio))
    random = _random(seed, turn, "rehearsed")
    earlier = tasks[: turn - 1]
    of_earlier = round(wanted * len(earlier) / (len(BASE_TASKS) + len(earlier)))  # of every task as much
    rehearsed = anchors(wanted - of_earlier, random)
    for left, task in zip(range(len(earlier), 0, -1), earlier, strict=True):
        count = of_earlier // left
        of_earlier -= count
        taught, _ = drawn(task, seed, rows, held_out)
        rehearsed += [row(exercise, thinks=thinks) for exercise, thinks in random.sample(taught, count)]
    return Batch(
        task=tasks[turn - 1],
        rows=[row(exercise, thinks=thinks) for exercise, thinks in fresh],
        rehearsed=rehearsed,
        practised=[exercise for exercise, thinks in fresh if thinks],
        held_out=aside,
    )


def ending_with(name: str) -> tuple[Task, ...]:
    """The tasks of five turns, of which the last is another. Raises ValueError for one that there is not."""
    if name not in _NEW or name in [task.name for task in TASKS[:-1]]:
        raise ValueError(
            f"no fifth task is {name}; there are {', '.join(sorted(_NEW.keys() - {task.name for task in TASKS[:-1]}))}"
        )
    return (*TASKS[:-1], _NEW[name])


def to_practise(task: Task, count: int, *, seed: int) -> list[Exercise]:
    """Exercises of a task that is taught; what few rows have taught stands in some of them."""
    return _random(seed, task.name, "practised").sample(_taught(task), count)


@cache
def _taught(task: Task) -> tuple[Exercise, ...]:
    return divided(task)[0][:-CHOSEN_ON]


def drawn(task: Task, seed: int, rows: int, held_out: int) -> tuple[list[tuple[Exercise, bool]], list[tuple[Exercise, bool]]]:
    """Exercises to learn and those that the batch holds out, no question twice, each with its mode."""
    available = _taught(task)
    if rows + held_out > len(available):
        raise ValueError(f"{task.name} has {len(available)} exercises to teach; {rows} rows and {held_out} held out are more")
    random = _random(seed, task.name)
    drawn = [(exercise, random.random() < THINKING_RATIO) for exercise in random.sample(available, rows + held_out)]
    return drawn[:rows], drawn[rows:]


def _random(*of: object) -> Random:
    return Random("/".join(map(str, of)))
