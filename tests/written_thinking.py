"""Thinking that somebody wrote for a known answer, sound or with one fault: what proofreading has to tell apart.

Sound ones are the solutions that people wrote to the 1,319 problems, and those of four models that are right, without calculator
marks. The faulty ones are made of them, reproducible by a seed; `tacked on` is the hardest kind, and the one that a model which
was shown the answer really writes: thinking that leads elsewhere, with the right answer named behind it.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

from tests.planted_faults import Solution, contradiction, dropped_step, loop, other_number, slip, swapped_conclusion, without_marks
from tests.solutions import solutions

_FILE = Path(__file__).parent / "data/gsm8k/model_solutions.jsonl.gz"
_ENDINGS = ("So the answer is {}.", "Therefore, the result is {}.", "Thus we get {}.")


@cache
def by_people() -> tuple[Solution, ...]:
    """The solution that came with each problem, and its answer as a number, a sentence, or the solution's last line."""
    rng, found = random.Random(5), []
    with gzip.open(_FILE, "rt", encoding="utf-8") as lines:
        for line in lines:
            problem = json.loads(line)
            thinking, _, number = problem["ground_truth"].rpartition("A:")
            solution = without_marks(Solution(problem["question"], thinking.strip(), number.strip()))
            forms = [solution.answer, f"The answer is {solution.answer}.", solution.lines[-1]]
            found.append(replace(solution, answer=rng.choice(forms if solution.answer in forms[-1] else forms[:-1])))
    return tuple(found)


@cache
def by_models() -> tuple[Solution, ...]:
    """The solutions of four models that are right."""
    return tuple(_of_model(right=True))


def _of_model(*, right: bool) -> list[Solution]:
    return [
        without_marks(Solution(solved.question, solved.thinking, _number(solved.reference)))
        for solved in solutions()
        if solved.right == right
    ]


def _number(reference: str) -> str:
    return reference.rpartition("A:")[2].strip()


def another_question(solution: Solution, rng: random.Random) -> Solution:
    """The thinking of another question, with or without this one's answer named behind it."""
    other = rng.choice([each for each in by_people() if each.question != solution.question])
    taken = replace(solution, thinking=other.thinking)
    return taken if rng.random() < 0.5 else _tacked_on(taken, rng)


def another_conclusion(solution: Solution, rng: random.Random) -> Solution | None:
    """The thinking comes to another answer than the one it was written for, as a whole or in a last sentence."""
    if rng.random() < 0.5:
        return swapped_conclusion(solution, rng)
    wrong = other_number(_final(solution).lstrip("-"), rng)
    return replace(solution, thinking=f"{solution.thinking}\n{rng.choice(_ENDINGS).format(wrong)}")


def copied(solution: Solution, rng: random.Random) -> Solution:
    """The answer's own text again: as it is, behind the question, among a few empty words, or as a bare claim."""
    whole = f"{' '.join(solution.lines)} The answer is {_final(solution)}."
    form = rng.randrange(4)
    if form == 0:
        return replace(solution, answer=whole, thinking=whole)
    if form == 1:
        return replace(solution, answer=whole, thinking=f"The question is: {solution.question} {whole}")
    if form == 2:
        return replace(solution, answer=whole, thinking=f"Okay, let me think about this step by step. {whole} So that is it.")
    claim = f"The answer is {_final(solution)}."
    return replace(solution, answer=claim, thinking=f"{solution.question} {claim} {claim.replace('The', 'So the')}")


def truncated(solution: Solution, rng: random.Random) -> Solution | None:
    """Cut off somewhere between two and nine tenths of its words, and nobody says so."""
    found = solution.thinking.split(" ")
    return replace(solution, thinking=" ".join(found[: int(len(found) * rng.uniform(0.4, 0.9))])) if len(found) >= 8 else None


def answer_first(solution: Solution, rng: random.Random) -> Solution:
    """It begins with the answer that it is to find."""
    begins = rng.choice(("We need to show that it is {}.", "The answer is {}, so let us see why.", "It has to come to {}."))
    return replace(solution, thinking=f"{begins.format(_final(solution))}\n{solution.thinking}")


@cache
def tacked_on() -> tuple[Solution, ...]:
    """Wrong solutions of the four models, with the right answer named behind them."""
    rng = random.Random(6)
    return tuple(_tacked_on(each, rng) for each in _of_model(right=False))


def _tacked_on(solution: Solution, rng: random.Random) -> Solution:
    return replace(solution, thinking=f"{solution.thinking}\n{rng.choice(_ENDINGS).format(_final(solution))}")


def _final(solution: Solution) -> str:
    """The number of the answer, whichever form it has."""
    return _numbers()[solution.question]


@cache
def _numbers() -> dict[str, str]:
    with gzip.open(_FILE, "rt", encoding="utf-8") as lines:
        return {problem["question"]: _number(problem["ground_truth"]) for problem in map(json.loads, lines)}


FAULTS: Final[dict[str, Callable[[Solution, random.Random], Solution | None]]] = {
    "slip of arithmetic": slip,
    "another conclusion": another_conclusion,
    "another question's": another_question,
    "copied answer": copied,
    "truncated": truncated,
}
"""The five kinds that the bar is for."""
FURTHER: Final[dict[str, Callable[[Solution, random.Random], Solution | None]]] = {
    "answer first": answer_first,
    "loop": loop,
    "contradiction": contradiction,
    "dropped step": dropped_step,
}
"""Kinds that are harder, or do less harm."""


def faulty(kind: str, *, seed: int = 3) -> list[Solution]:
    """Every sound solution of people that can hold the fault, with it."""
    rng, plant = random.Random(f"{kind}/{seed}"), (FAULTS | FURTHER)[kind]
    return [found for each in by_people() if (found := plant(each, rng)) is not None and found != each]
