"""Marks: what a text says is its answer, and the number that it ends in. Pure."""

from __future__ import annotations

import re

from ruminate.grading.finding.answered import Answered
from ruminate.grading.finding.wording import numbers

_FINAL = re.compile(r"#### {0,3}(.{1,80})")
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{(?:[^{}]|\{[^{}]{0,60}\}){0,60}\}){1,120})\}")
_STATED = re.compile(r"(?:^A:|\banswer(?: is)?:?|\bresult is|\btotal is) {0,2}\**([^\n]{1,80})", re.IGNORECASE | re.MULTILINE)
_FRACTION = re.compile(r"([-−]?\d{1,12})/(\d{1,12})")
LONGEST_AMOUNT = 40
"""Characters of a text that is a number and nothing else."""


def marked_answer(text: str) -> str | None:
    """What a text marks as its answer (`#### 18`, `\\boxed{18}`, `the answer is 18`); None where it marks nothing."""
    for mark in (_FINAL, _BOXED, _STATED):
        if marked := mark.findall(text):
            return str(marked[-1])
    return None


def answer_of(solution: str) -> str:
    """What a solution marks as its answer; the whole of a text that is none."""
    for mark in (_FINAL, _BOXED):
        if marked := mark.findall(solution):
            return str(marked[-1])
    # "The answer is clear" is no mark: only a number after it is, and only at the end of a longer text.
    last = solution.rstrip().rpartition("\n")[2]
    if last != solution and (marked := _STATED.findall(last)) and numbers(marked[-1]):
        return str(marked[-1])
    return solution


def is_boxed(text: str) -> bool:
    """Whether a text puts its answer into a box."""
    return _BOXED.search(text) is not None


def final_number(answered: Answered) -> float | None:
    """The number that an answer ends in: the one that it marks as its answer, else its last."""
    marked = marked_number(answered)
    if marked is not None:
        return marked
    return answered.answer_numbers[-1] if answered.answer_numbers else None


def marked_number(answered: Answered) -> float | None:
    """The number that an answer marks as such, or that it is."""
    if found := fraction(answered.answer):
        return found[0]
    for mark in (_FINAL, _BOXED, _STATED):
        marked = mark.findall(answered.answer)
        if marked and (found := fraction(marked[-1]) or numbers(marked[-1])):
            return found[0]
    return None


def fraction(text: str) -> tuple[float, ...]:
    """The fraction that a text is, where it is nothing else."""
    match = _FRACTION.fullmatch(text.strip(" .*$")) if len(text) <= LONGEST_AMOUNT else None
    return (float(match[1].replace("−", "-")) / float(match[2]),) if match and float(match[2]) else ()
