"""Expressions are compared as mathematics, and only where nothing simpler settles it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ruminate.assessor.finding.reading import read
from ruminate.grading.checking.answers import Comparison, compare
from ruminate.grading.checking.mathematician import Mathematician
from ruminate.grading.checking.mathematics import is_mathematical, is_safe
from tests.solutions import interaction


@pytest.fixture(scope="module")
def mathematician() -> Iterator[Mathematician]:
    with Mathematician() as somebody:
        yield somebody


def compared(answer: str, reference: str, *equal: Mathematician) -> Comparison:
    return compare(read(interaction("What is it?", None, answer), most_characters=10_000), reference, *equal)


@pytest.mark.parametrize(
    ("answer", "reference", "result"),
    [
        ("\\boxed{\\frac{3}{4}}", "\\frac{3}{4}", "right"),
        ("The answer is $0.75$", "\\frac{3}{4}", "right"),
        ("$(x+1)^2$", "x^2+2x+1", "right"),
        ("$(x+2)^2$", "x^2+2x+1", "wrong"),
        ("We find \\boxed{2\\sqrt{3}}.", "\\sqrt{12}", "right"),
        ("We find \\boxed{3\\sqrt{2}}.", "\\sqrt{12}", "wrong"),
        ("[0,1)", "[0,1]", "wrong"),
        ("It depends on both of them, as was shown above.", "x^2+y^2", "undecided"),
    ],
)
def test_an_expression_is_right_where_it_is_equal(mathematician: Mathematician, answer: str, reference: str, result: str) -> None:
    assert compared(answer, reference, mathematician).result == result


def test_where_nobody_can_be_asked_only_the_same_expression_is_right() -> None:
    assert compared("\\boxed{\\frac{3}{4}}", "\\frac{3}{4}").result == "right"
    assert compared("\\boxed{0.75}", "\\frac{3}{4}").result == "undecided"


@pytest.mark.parametrize(
    ("reference", "result"),
    [
        ("He sells 3.\nSo 3 * 6 = 18.\nA: 18", "right"),
        ("He sells 3.\nSo 3 * 6 = 18.\nThe answer is 18.", "right"),
        ("He sells <<3*6=18>>18.\n#### 18", "right"),
        ("So it is \\boxed{18}.", "right"),
        ("So it is \\boxed{19}.", "wrong"),
    ],
)
def test_of_a_solution_as_reference_its_answer_counts(reference: str, result: str) -> None:
    assert compared("A: 18", reference).result == result


@pytest.mark.parametrize("text", ["Amber Bay", "42", "yes", "", "a long text " * 40, "well-known"])
def test_words_and_numbers_are_no_mathematics(text: str) -> None:
    assert not is_mathematical(text)


@pytest.mark.parametrize("tower", ["9^9^9^9", "9^{9^{9}}", "10^{100000}", "100000!", "x" * 300])
def test_what_has_more_digits_than_memory_is_not_computed(mathematician: Mathematician, tower: str) -> None:
    assert not is_safe(tower)
    assert mathematician(tower, "1") is None


def test_a_mathematician_who_has_died_is_replaced(mathematician: Mathematician) -> None:
    assert mathematician("x+1", "1+x") is True
    process = mathematician._process
    assert process is not None
    process.kill()
    process.wait()
    assert mathematician("x+1", "2+x") is False


def test_whatever_is_asked_is_answered(mathematician: Mathematician) -> None:
    for asked in ("\\frac{", "{}", "\x00", "$$", "lim", "\\int_0^1", "x" * 199):
        assert mathematician(asked, asked) in (True, False, None)
