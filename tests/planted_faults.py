"""Faults planted into right solutions, each of one kind, reproducible by a seed: what an assessor has to notice.

Every kind comes in several forms, so that a detector cannot learn the planter's wording. Steps are lines.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

_RESULT = re.compile(r"= ?\$?(\d[\d,]*(?:\.\d+)?)(?![\d%.,]*\d)(?!\s?[-+*/x])")
_MARK = re.compile(r"<<[^<>=]{1,80}=(-?[\d.,]+)>>")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Solution:
    """A question, the thinking in lines, and the answer."""

    question: str
    thinking: str
    answer: str

    @property
    def lines(self) -> list[str]:
        return self.thinking.split("\n")


def without_marks(solution: Solution) -> Solution:
    """The same without calculator marks, as a model without a calculator writes."""
    return replace(solution, thinking=re.sub(r"<<[^<>]*>>", "", solution.thinking))


def slip(solution: Solution, rng: random.Random) -> Solution | None:
    """One result of an equation is another number; what follows goes on with the right one, or with the wrong one."""
    lines = solution.lines
    places = [
        (at, found)
        for at, line in enumerate(lines)
        for found in _RESULT.finditer(line)
        if any(sign in line[: found.start()] for sign in "+-*/x")
    ]
    if not places:
        return None
    at, found = rng.choice(places)
    right = found[1]
    wrong = other_number(right, rng)
    line = lines[at]
    lines[at] = line[: found.start(1)] + wrong + line[found.end(1) :]
    if f"{right}>>" in line:  # the mark says what its line says
        lines[at] = line.replace(f"={right}>>{right}", f"={wrong}>>{wrong}")
        if lines[at] == line:
            return None
    if rng.random() < 0.5:
        lines[at + 1 :] = [re.sub(rf"(?<![\d.,]){re.escape(right)}(?![\d,]*\.?\d)", wrong, line) for line in lines[at + 1 :]]
    return replace(solution, thinking="\n".join(lines))


def dropped_step(solution: Solution, rng: random.Random) -> Solution | None:
    """A step is missing whose result a later step uses."""
    lines = solution.lines
    places = []
    for at, line in enumerate(lines[:-1]):
        results = [found[1] for found in _RESULT.finditer(line)]
        later = "\n".join(lines[at + 1 :])
        if results and re.search(rf"(?<![\d.,]){re.escape(results[-1])}(?![\d.,]*\d)", later):
            places.append(at)
    if not places:
        return None
    at = rng.choice(places)
    return replace(solution, thinking="\n".join(lines[:at] + lines[at + 1 :]))


def swapped_conclusion(solution: Solution, rng: random.Random) -> Solution | None:
    """The answer is another number: one of the question, an earlier result, or one from nowhere."""
    found = _NUMBER.findall(solution.answer)
    if not found:
        return None
    right = found[-1]
    earlier = [result[1] for line in solution.lines[:-1] for result in _RESULT.finditer(line)]
    pool = [*_NUMBER.findall(solution.question), *earlier, other_number(right, rng)]
    others = [number for number in pool if number.rstrip(".") != right]
    if not others:
        return None
    head, _, tail = solution.answer.rpartition(right)
    return replace(solution, answer=f"{head}{rng.choice(others)}{tail}")


_DENIALS: Final = (
    "But that is not true: it is not {right} but {wrong}.",
    "However, the result is {wrong}, not {right}.",
    "Wait, this cannot be {right}, so it must be {wrong}.",
)


def contradiction(solution: Solution, rng: random.Random) -> Solution | None:
    """A line says of a result that it is another number, in the words of the line itself or by denying it."""
    lines = solution.lines
    places = [(at, found) for at, line in enumerate(lines) for found in _RESULT.finditer(line)]
    if not places:
        return None
    at, found = rng.choice(places)
    right = found[1]
    wrong = other_number(right, rng)
    if rng.random() < 0.5:
        said = rng.choice(_DENIALS).format(right=right, wrong=wrong)
    else:
        rest = lines[at][found.end() :].lstrip(">0123456789.,").strip(" .") or "is the result"
        said = f"{rng.choice(('So there are', 'That makes', 'In other words,'))} {wrong} {rest}."
    return replace(solution, thinking="\n".join([*lines[: at + 1], said, *lines[at + 1 :]]))


def loop(solution: Solution, rng: random.Random) -> Solution | None:
    """The thinking turns in a circle: one line, or the last few, again and again."""
    lines = solution.lines
    if rng.random() < 0.5:
        at = rng.randrange(len(lines))
        lines[at : at + 1] = [lines[at]] * rng.randint(3, 6)
    else:
        lines += lines[-2:] * rng.randint(2, 5)
    return replace(solution, thinking="\n".join(lines))


KINDS: Final[dict[str, Callable[[Solution, random.Random], Solution | None]]] = {
    "slip": slip,
    "dropped step": dropped_step,
    "swapped conclusion": swapped_conclusion,
    "contradiction": contradiction,
    "loop": loop,
}


def plant(solutions: list[Solution], kind: str, *, count: int, seed: int) -> list[tuple[Solution, Solution]]:
    """`count` pairs of a right solution and the same with one fault; every other one without calculator marks."""
    rng = random.Random(seed)
    pairs: list[tuple[Solution, Solution]] = []
    order = solutions[:]
    rng.shuffle(order)
    for number, solution in enumerate(order):
        right = without_marks(solution) if number % 2 else solution
        faulty = KINDS[kind](right, rng)
        if faulty is not None and faulty != right:
            pairs.append((right, faulty))
        if len(pairs) == count:
            return pairs
    raise ValueError(f"only {len(pairs)} of {count} solutions can hold the fault {kind!r}")


def other_number(number: str, rng: random.Random) -> str:
    """A number near it, or one that looks like it."""
    value = float(number.replace(",", "").rstrip("."))
    whole = value == int(value)
    while True:
        form = rng.randrange(4)
        if form == 0:
            other = value + rng.choice((-2, -1, 1, 2, 3))
        elif form == 1:
            other = value * rng.choice((0.5, 2, 10, 0.1, 1.1))
        elif form == 2:
            digits = list(f"{value:.2f}".replace(".", "").lstrip("0"))
            rng.shuffle(digits)
            other = float("".join(digits) or "0")
        else:
            other = value + rng.choice((-10, 10, 100))
        other = round(other) if whole else round(other, 2)
        if other > 0 and other != value:
            return f"{other:g}" if other < 1e6 else f"{other:.0f}"
