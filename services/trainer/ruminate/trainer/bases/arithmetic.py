"""Arithmetic with two two-digit numbers, thought through step by step: what the small base can do, and what it can be taught.

Every task asks in its own words, so that one is not the other by chance. What is held out is held out by construction: 1,000 of a
task's questions, chosen by a hash of their text, are for measuring and stand in no row that this module gives to train on. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, Final, NamedTuple

NUMBERS: Final = range(10, 100)
HELD_OUT: Final = 1000
"""Questions of each task that are never trained."""

REASONING_RATIO: Final = 0.75


class Exercise(NamedTuple):
    """A question, the thinking that leads to its answer, and the answer."""

    question: str
    thinking: str
    answer: str


@dataclass(frozen=True)
class Task:
    """One thing to learn: how two numbers are asked about."""

    name: str
    work: Callable[[int, int], Exercise]
    ordered: bool = False
    """Whether the first number is never smaller than the second."""

    def exercises(self) -> list[Exercise]:
        """All of them."""
        return [self.work(a, b) for a in NUMBERS for b in NUMBERS if a >= b or not self.ordered]


@cache
def divided(task: Task) -> tuple[tuple[Exercise, ...], tuple[Exercise, ...]]:
    """A task's exercises to train on, and the HELD_OUT ones to measure on, each in the order of their hashes."""
    by_hash = sorted(task.exercises(), key=lambda exercise: hashlib.sha256(exercise.question.encode()).digest())
    return tuple(by_hash[HELD_OUT:]), tuple(by_hash[:HELD_OUT])


def _digits(number: int) -> tuple[int, int]:
    return divmod(number, 10)


def _added(a: int, b: int) -> str:
    """Units, then tens with what is carried."""
    (tens_a, units_a), (tens_b, units_b) = _digits(a), _digits(b)
    units = units_a + units_b
    carried = units // 10
    return f"{units_a}+{units_b}={units}, {tens_a}+{tens_b}+{carried}={tens_a + tens_b + carried}"


def _add(a: int, b: int) -> Exercise:
    return Exercise(f"{a}+{b}?", _added(a, b), str(a + b))


def _subtract(a: int, b: int) -> Exercise:
    (tens_a, units_a), (tens_b, units_b) = _digits(a), _digits(b)
    borrowed = int(units_a < units_b)
    units, tens = units_a + 10 * borrowed - units_b, tens_a - borrowed - tens_b
    return Exercise(
        f"{a}-{b}?", f"{units_a + 10 * borrowed}-{units_b}={units}, {tens_a - borrowed}-{tens_b}={tens}", str(10 * tens + units)
    )


def _cross_sum(a: int, b: int) -> Exercise:
    first, second, third, fourth = *_digits(a), *_digits(b)
    left, right = first + second, third + fourth
    return Exercise(
        f"digits of {a} and {b}?",
        f"{first}+{second}={left}, {third}+{fourth}={right}, {left}+{right}={left + right}",
        str(left + right),
    )


def _larger(a: int, b: int) -> Exercise:
    (tens_a, units_a), (tens_b, units_b) = _digits(a), _digits(b)
    sign = "<>"[tens_a > tens_b] if tens_a != tens_b else "="
    units = "" if sign != "=" else f", {units_a}{'=' if units_a == units_b else '<>'[units_a > units_b]}{units_b}"
    return Exercise(f"larger, {a} or {b}?", f"{tens_a}{sign}{tens_b}{units}", str(max(a, b)))


def _mirrored(a: int, b: int) -> Exercise:
    (tens, units) = _digits(a)
    turned = 10 * units + tens
    return Exercise(f"turn {a} and add {b}?", f"{turned}, {_added(turned, b)}", str(turned + b))


def _product_of_units(a: int, b: int) -> Exercise:
    units_a, units_b = a % 10, b % 10
    return Exercise(f"units of {a} times units of {b}?", f"{units_a}*{units_b}={units_a * units_b}", str(units_a * units_b))


def _sum_of_units(a: int, b: int) -> Exercise:
    units_a, units_b = a % 10, b % 10
    return Exercise(f"units of {a} plus units of {b}?", f"{units_a}+{units_b}={units_a + units_b}", str(units_a + units_b))


def _joined(a: int, b: int) -> Exercise:
    (tens_a, units_a), (tens_b, units_b) = _digits(a), _digits(b)
    return Exercise(f"{a} with {b}?", f"{tens_a}, {tens_b}, {units_a}, {units_b}", f"{tens_a}{tens_b}{units_a}{units_b}")


def _exchanged(a: int, b: int) -> Exercise:
    (tens_a, units_a), (tens_b, units_b) = _digits(a), _digits(b)
    return Exercise(f"exchange the units of {a} and {b}?", f"{units_a}, {units_b}", f"{tens_a}{units_b} {tens_b}{units_a}")


def _last_digits(a: int, b: int) -> Exercise:
    return Exercise(f"last digits of {a} and {b}?", f"{a}: {a % 10}, {b}: {b % 10}", f"{a % 10} {b % 10}")


ADDITION: Final = Task("addition", _add)
SUBTRACTION: Final = Task("subtraction", _subtract, ordered=True)
SUMS: Final = (ADDITION, SUBTRACTION)
"""What the small base can do where it thinks, and only there."""
READING: Final = Task("last digits", _last_digits)
"""What it answers at once."""

NEW_TASKS: Final = (
    Task("cross sum", _cross_sum),
    Task("larger", _larger),
    Task("mirrored", _mirrored),
    Task("product of units", _product_of_units),
    Task("joined", _joined),
    Task("exchanged", _exchanged),
    Task("sum of units", _sum_of_units),
)
"""What it has never seen."""


def row(exercise: Exercise, *, thinks: bool) -> dict[str, Any]:
    """The exercise as a dataset has it."""
    answer = {"role": "assistant", "content": exercise.answer} | ({"reasoning_content": exercise.thinking} if thinks else {})
    return {
        "prompt": [{"role": "user", "content": exercise.question}],
        "completion": [answer],
        "chat_template_kwargs": {"enable_thinking": thinks},
    }


def anchors(count: int, random: Random) -> list[dict[str, Any]]:
    """Rows of what the base can do: three sums with thinking to one pair of digits read at once."""
    reading = round(count * (1 - REASONING_RATIO))
    sums = [exercise for task in SUMS for exercise in draw(task, (count - reading) // len(SUMS), random)]
    rows = [
        *(row(exercise, thinks=True) for exercise in sums),
        *(row(exercise, thinks=False) for exercise in draw(READING, count - len(sums), random)),
    ]
    random.shuffle(rows)
    return rows


def exam(questions: int) -> list[dict[str, Any]]:
    """So many questions with thinking and as many without, of what the base can do and has never seen: lines of an exam."""
    each = questions // len(SUMS)
    sums = [exercise for task in SUMS for exercise in divided(task)[1][:each]]
    return [
        *({"question": exercise.question, "reference": exercise.answer, "thinking": "on"} for exercise in sums),
        # Two digits are no number that a reference could be compared with.
        *(
            {"question": exercise.question, "check": {"kind": "exact", "content": exercise.answer}, "thinking": "off"}
            for exercise in divided(READING)[1][:questions]
        ),
    ]


def draw(task: Task, count: int, random: Random) -> list[Exercise]:
    """`count` exercises to train on, none twice before all have come."""
    available, _ = divided(task)
    drawn: list[Exercise] = []
    while len(drawn) < count:
        drawn += random.sample(available, min(count - len(drawn), len(available)))
    return drawn
