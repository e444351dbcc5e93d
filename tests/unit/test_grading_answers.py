"""An answer beside its reference: amounts however they are written, several numbers, and the reference's own words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.grading.checking.answers import compare
from ruminate.grading.finding.answered import AnsweredText


def result(reference: str, answer: str) -> str:
    return compare(AnsweredText.of("How many?", answer, most_characters=2000), reference).result


@given(st.text(min_size=1, max_size=60))
def test_whoever_says_the_reference_itself_is_right(text: str) -> None:
    assert result(text, text) == ("right" if text.strip() else "undecided")


@given(st.lists(st.integers(-999, 9999), min_size=1, max_size=5), st.sampled_from([" ", ", ", "; "]))
def test_numbers_in_a_row_are_right_in_a_sentence_too(wanted: list[int], between: str) -> None:
    reference = between.join(map(str, wanted))
    assert result(reference, reference) == "right"
    assert result(reference, f"These are {' and '.join(map(str, wanted))}.") == "right"


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        ("14 60", "14 60", "right"),
        ("14 60", "14 61", "wrong"),
        ("14 60", "60", "wrong"),
        # Nobody says whether the order counts.
        ("3, 5", "5, 3", "undecided"),
        ("3, 5", "x is 3, and then y is 5", "right"),
        ("1 000", "1000", "right"),
        ("1 000", "It is 1 000.", "right"),
        ("1 000", "It is 2 000.", "wrong"),
        ("1,234", "1 234", "right"),
        ("2 3/4", "2.75", "right"),
        ("2 3/4", "5.75", "wrong"),
        ("-1 1/2", "-1.5", "right"),
        ("$ 5", "5", "right"),
        ("50 %", "50%", "right"),
    ],
)
def test_amounts_and_several_numbers(reference: str, answer: str, expected: str) -> None:
    assert result(reference, answer) == expected


def test_many_numbers_and_then_a_word_are_looked_at_once() -> None:
    row = " ".join(["12"] * 60)
    # It comes back at all: trying each number in both of its ways would take 2 to the 60.
    assert result(f"{row} eggs", row) == "wrong"
