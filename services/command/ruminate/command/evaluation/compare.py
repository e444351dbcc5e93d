"""Versions side by side: what came of the same questions, each with its interval, and how far a version is from the first. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

from ruminate.proof.confidence import Interval, Pairs, change_of_share, ratio_change, share
from ruminate.proof.exam import Group, Question
from ruminate.proof.spoken import Answered

Measure = Literal["right", "well_formed", "obedient", "answer_tokens"]

LEAST_FOR_TOKENS: Final = 8
"""Questions that both answer rightly, from which on the lengths of their answers are compared."""

SHARES: Final[dict[Measure, Callable[[Answered], bool]]] = {
    "right": lambda answer: bool(answer.right),
    "well_formed": lambda answer: answer.well_formed,
    "obedient": lambda answer: answer.obedient,
}


class Cell(NamedTuple):
    """One measure of one version: the figure with its interval, and the change beside the first version, where it is not that."""

    value: Interval
    change: Interval | None


class Line(NamedTuple):
    """One measure of one group: a cell a version, None where a version has none."""

    group: Group
    measure: Measure
    questions: int
    cells: tuple[Cell | None, ...]


def side_by_side(questions: Sequence[Question], answers: Sequence[Sequence[Answered]]) -> list[Line]:
    """`answers` of each version, in the order of the questions; the first version is what the others are compared with."""
    lines = []
    for group in sorted({question.group for question in questions}, key=lambda group: (group.set, not group.thinks)):
        ours = [number for number, question in enumerate(questions) if question.group == group]
        of_group = [[of_version[number] for number in ours] for of_version in answers]
        for measure, counts in SHARES.items():
            # What nobody can decide for one of them is left out for all: they are compared on the same questions.
            decided = [
                at for at in range(len(ours)) if measure != "right" or all(version[at].right is not None for version in of_group)
            ]
            if decided:
                found = [[counts(version[at]) for at in decided] for version in of_group]
                lines.append(Line(group, measure, len(decided), tuple(_share(found[0], each) for each in found)))
        lines.append(Line(group, "answer_tokens", len(ours), tuple(_tokens(of_group[0], each) for each in of_group)))
    return lines


def _share(first: Sequence[bool], ours: Sequence[bool]) -> Cell:
    change = None if ours is first else change_of_share(Pairs.of(first, ours))
    return Cell(share(sum(ours), len(ours)), change)


def _tokens(first: Sequence[Answered], ours: Sequence[Answered]) -> Cell | None:
    """The mean of tokens a right answer, thinking included; the change is that of answers that are right in both, as a ratio."""
    right = [answer.answer_tokens for answer in ours if answer.right]
    if not right:
        return None
    mean = sum(right) / len(right)
    both = [(max(1, a.answer_tokens), max(1, b.answer_tokens)) for a, b in zip(first, ours, strict=True) if a.right and b.right]
    change = None
    if ours is not first and len(both) >= LEAST_FOR_TOKENS:
        change = ratio_change([math.log(a) for a, _ in both], [math.log(b) for _, b in both])
    return Cell(Interval(mean, math.nan, math.nan), change)


_WORDS: Final[dict[Measure, str]] = {
    "right": "right",
    "well_formed": "well-formed",
    "obedient": "obeys the mode",
    "answer_tokens": "tokens a right answer",
}


def in_words(measure: Measure) -> str:
    """A measure, for people."""
    return _WORDS[measure]


def figure(line: Line, cell: Cell | None) -> str:
    """The figure of a cell, for people."""
    if cell is None:
        return "-"
    if line.measure == "answer_tokens":
        return f"{cell.value.estimate:.0f}"
    low, high = round(100 * cell.value.low), round(100 * cell.value.high)
    return f"{100 * cell.value.estimate:.1f} % ({low}-{high})"


def change(line: Line, cell: Cell | None) -> str:
    """How far it is from the first version, with the interval; marked where that is no accident."""
    if cell is None or cell.change is None:
        return ""
    estimate, low, high = cell.change
    if line.measure == "answer_tokens":
        sure = not low <= 1 <= high
        return f"x {estimate:.2f} ({low:.2f}-{high:.2f}){' *' if sure else ''}"
    sure = not low <= 0 <= high
    return f"{100 * estimate:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}){' *' if sure else ''}"


def as_json(names: Sequence[str], lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The same, for programs: shares and their changes as fractions of one."""
    return [
        {
            "set": line.group.set,
            "mode": "thinking" if line.group.thinks else "direct",
            "measure": line.measure,
            "questions": line.questions,
            "versions": {
                name: None
                if cell is None
                else {"value": cell.value.estimate, **_ends(cell.value), "change": _interval(cell.change)}
                for name, cell in zip(names, line.cells, strict=True)
            },
        }
        for line in lines
    ]


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else {"estimate": interval.estimate, **_ends(interval)}


def _ends(interval: Interval) -> dict[str, float]:
    return {} if math.isnan(interval.low) else {"low": interval.low, "high": interval.high}
