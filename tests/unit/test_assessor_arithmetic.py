"""Arithmetic in running text is recomputed; what may be something else is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.assessor.finding.arithmetic import equations


def judged(text: str) -> list[tuple[float, bool]]:
    return [(equation.stated, equation.holds) for equation in equations(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("48/2=24", [(24, True)]),
        ("She pays $12 x 3 = $36 in all.", [(36, True)]),
        ("<<48/2=24>>24", [(24, True)]),
        ("1,200 + 5% of 400 = 1,220", [(1220, True)]),
        ("5 apples + 3 apples = 8 apples", [(8, True)]),
        ("2*3 = 6 = 12/2", [(6, True), (12, True)]),
        ("(1 + 2) * 3 = 9, and 3(4 + 5) = 27", [(9, True), (27, True)]),
        ("2^10 = 1024", [(1024, True)]),
        ("2 \\times 3 = 6", [(6, True)]),
        ("3 * -4 = -12", [(-12, True)]),
        ("1. 3 + 4 = 7", [(7, True)]),
        ("- 3 + 4 = 7", [(7, True)]),
        ("-3 + 4 = 1", [(1, True)]),
        ("100/50 = 200%", [(200, True)]),
        ("$1/2 = 50 cents", [(50, True)]),
        ("0.1 + 0.2 = 0.3", [(0.3, True)]),
        ("72 = 48 + 24", [(48, True)]),
        ("3 + 4 = 8", [(8, False)]),
        ("192*100=$1920", [(1920, False)]),
        ("2 \\times 3 = 7", [(7, False)]),
        ("50 - 20% = 40", [(40, True)]),
        ("50 - 20% = 41", [(41, False)]),
        ("3 1/2 + 1/2 = 4", [(4, True)]),
        ("1 + 1 = 2 1/2", [(2.5, False)]),
        ("5 km * 3 = 15 km", [(15, True)]),
        ("3 kg + 500 g = 3.5 kg", [(3.5, True)]),
        ("2 hours = 120 minutes", [(120, True)]),
        ("$1.2 million + $300,000 = $1.5 million", [(1_500_000, True)]),
        ("2 million * 3 = 5 million", [(5_000_000, False)]),
        ("3,5 + 1,5 = 5", [(5, True)]),
        ("100 / 3 ≈ 33", [(33, True)]),
        ("19 * 21 ≈ 400", [(400, True)]),
        ("19 * 21 ≈ 500", [(500, False)]),
        ("2³ = 8", [(8, True)]),
        ("2**3 = 9", [(9, False)]),
        ("1 234 + 1 = 1 235".replace(" 2", "\u202f2"), [(1235, True)]),
    ],
)
def test_an_equation_is_recomputed(text: str, expected: list[tuple[float, bool]]) -> None:
    assert judged(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\\frac{1}{2} \\times 10 = 5", [(5, True)]),
        ("$\\dfrac{12}{4} + \\frac34 = 3.75$", [(3.75, True)]),
        ("\\frac{1 + \\frac{2}{4}}{3} = 0.5", [(0.5, True)]),
        ("\\sqrt{16} + 2^{3} = 12", [(12, True)]),
        ("\\left(2 + 3\\right) \\cdot 1{,}000 = \\boxed{5{,}000}", [(5000, True)]),
        ("5 \\text{ apples} + 3 \\text{ apples} = 9 \\text{ apples}", [(9, False)]),
    ],
)
def test_latex_is_read(text: str, expected: list[tuple[float, bool]]) -> None:
    assert judged(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Half of 48 is 24.", [(24, True)]),
        ("Half of 48 is 25.", [(25, False)]),
        ("Two thirds of 9 is 6, a quarter of $20 equals $5", [(6, True), (5, True)]),
        ("20 percent of 50 is 10, 25% of 200 = 60", [(10, True), (60, False)]),
        ("12 plus 7 equals 19, and 3 times 4 makes 13", [(19, True), (13, False)]),
        ("20 divided by 4 is 5 and 3 + 4 gives 7", [(5, True), (7, True)]),
    ],
)
def test_arithmetic_in_words_is_read(text: str, expected: list[tuple[float, bool]]) -> None:
    assert judged(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "half of 48 is 24 more than what she had",
        "3 times 4 plus 5 is 27",  # words leave open what goes first
        "room 12 - 3 is 5 doors away",  # an `is` between signs may say anything
        "2 of 10 is 5",
        "10 is 5 times as much",
        "the third 5 is 7",
    ],
)
def test_words_that_may_say_something_else_are_not_judged(text: str) -> None:
    assert judged(text) == []


@pytest.mark.parametrize(
    ("text", "holds"), [("1/3 = 0.33", True), ("7/2 = 3", True), ("7/2 = 4", True), ("1/3 = 0.35", False), ("8/2 = 5", False)]
)
def test_a_result_may_be_rounded_only_where_it_has_to_be(text: str, holds: bool) -> None:
    assert [found for _, found in judged(text)] == [holds]


@pytest.mark.parametrize(
    "text",
    [
        "y - 3 = 7",
        "2x + 3 = 7",
        "3x-5 = 16",
        "10 - 2x = 4",
        "6 + 4 = 3y",
        "f(3) = 9",
        "a1 + 2 = 7",
        "twice 5 + 3 = 14",
        "6:00 + 18 = 0:00",
        "12 x 1 and 1/4 = 15",
        "10 / 0 = 5",
        "9^9^9 = 3",
        "It grew by (about 7) million = 7",
        "Add (2 + 3)) thousand = 5",
        "3 = 3",
        "x = 5",
        "a == b, 3 >= 2",
        "=",
        "",
    ],
)
def test_what_may_be_something_else_is_not_judged(text: str) -> None:
    assert judged(text) == []


def test_operands_and_results_are_given_for_whoever_asks_where_numbers_come_from() -> None:
    (equation,) = equations("48 + 24 = 72")
    assert equation.operands == (48, 24)
    assert equation.stated == 72


@given(left=st.integers(0, 10**6), right=st.integers(0, 10**6), sign=st.sampled_from("+-*"), off=st.sampled_from([0, 1, -1, 10]))
def test_integers_hold_exactly_when_they_are_right(left: int, right: int, sign: str, off: int) -> None:
    value = {"+": left + right, "-": left - right, "*": left * right}[sign] + off
    assert judged(f"So {left} {sign} {right} = {value}.") == [(value, off == 0)]


_PIECES = [*"0123456789 .,=+-*/x×÷%()$^ab:\n½²³⁶", " thousand", " million", " billion", " percent of", " and ", "half of "]


@given(st.lists(st.sampled_from(_PIECES), max_size=300))
def test_no_text_makes_it_fail(pieces: list[str]) -> None:
    for equation in equations("".join(pieces)):
        assert isinstance(equation.holds, bool)


def test_a_long_run_of_equations_is_judged_up_to_a_bound() -> None:
    assert len(equations("1+1=2 " * 2000)) == 500
