"""Versions side by side: the same questions, each figure with its interval, each change with its own."""

from __future__ import annotations

import math

import pytest

from ruminate.command.evaluation.compare import Line, as_json, change, figure, side_by_side
from ruminate.proof.exam import Check, Question
from ruminate.proof.messages import Message
from ruminate.proof.spoken import Answered


def asked(count: int, *, thinks: bool = True, name: str = "mine") -> list[Question]:
    check = Check(kind="reference", content="4")
    return [
        Question(set=name, prompt=(Message(role="user", content=f"{number}?"),), thinks=thinks, check=check)
        for number in range(count)
    ]


def answers(*right: bool | None, tokens: int = 10) -> list[Answered]:
    return [
        Answered(right=each, well_formed=True, obedient=True, thinking_tokens=tokens, answer_tokens=tokens, cut=False)
        for each in right
    ]


def only(lines: list[Line], measure: str) -> Line:
    (found,) = (each for each in lines if each.measure == measure)
    return found


def test_a_change_is_that_of_pairs_beside_the_first_version() -> None:
    first, second = answers(*[True] * 50, *[False] * 50), answers(*[True] * 90, *[False] * 10)
    line = only(side_by_side(asked(100), [first, second]), "right")
    before, after = line.cells
    assert before is not None and after is not None
    assert before.change is None
    assert (before.value.estimate, after.value.estimate) == (0.5, 0.9)
    assert after.change is not None
    assert after.change.estimate == pytest.approx(0.4)
    assert 0.29 < after.change.low < 0.4 < after.change.high < 0.51
    assert figure(line, before) == "50.0 % (40-60)"
    assert change(line, before) == ""
    assert change(line, after).startswith("+40.0 (+") and change(line, after).endswith(" *")


def test_a_change_that_may_be_an_accident_has_no_star() -> None:
    line = only(side_by_side(asked(20), [answers(*[True] * 10, *[False] * 10), answers(*[True] * 11, *[False] * 9)]), "right")
    assert not change(line, line.cells[1]).endswith("*")


def test_what_cannot_be_decided_for_one_version_counts_for_none() -> None:
    line = only(side_by_side(asked(4), [answers(True, None, True, False), answers(False, True, True, None)]), "right")
    assert line.questions == 2
    assert [cell and cell.value.estimate for cell in line.cells] == [1.0, 0.5]


def test_tokens_are_compared_on_what_both_answer_rightly() -> None:
    first, second = answers(*[True] * 10, tokens=10), answers(*[True] * 9, False, tokens=20)
    line = only(side_by_side(asked(10), [first, second]), "answer_tokens")
    cell = line.cells[1]
    assert cell is not None and cell.change is not None
    assert cell.value.estimate == 20.0
    assert cell.change.estimate == pytest.approx(2.0)
    assert change(line, cell) == "x 2.00 (2.00-2.00) *"


def test_who_is_right_nowhere_has_no_tokens_a_right_answer() -> None:
    line = only(side_by_side(asked(3), [answers(False, False, False)]), "answer_tokens")
    assert line.cells == (None,)
    assert (figure(line, None), change(line, None)) == ("-", "")


def test_sets_and_modes_are_counted_apart() -> None:
    questions = [*asked(2), *asked(2, thinks=False), *asked(2, name="other")]
    lines = side_by_side(questions, [answers(True, True, False, False, True, False)])
    shares = {str(line.group): line.cells[0].value.estimate for line in lines if line.measure == "right" and line.cells[0]}
    assert shares == {"mine, thinking": 1.0, "mine, direct": 0.0, "other, thinking": 0.5}


def test_programs_are_given_numbers_alone() -> None:
    (told, *_, tokens) = as_json(["v1", "v2"], side_by_side(asked(2), [answers(True, True), answers(False, False)]))
    assert told["versions"]["v1"]["value"] == 1.0 and told["versions"]["v1"]["change"] is None
    assert told["versions"]["v2"]["change"]["estimate"] == -1.0
    assert tokens["versions"]["v2"] is None
    assert not any(isinstance(value, float) and math.isnan(value) for value in tokens["versions"]["v1"].values())
