"""Answers against a reference: right, wrong, or not decidable by these means.

Numbers are compared as numbers, expressions as mathematics, short texts by the words that the reference adds to the question;
what is longer, or negated, is left undecided, because a wrong accusation takes a good example away for ever. A reference may
be a whole solution: then what it marks as its answer counts.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from ruminate.grading.checking import mathematics
from ruminate.grading.finding.answered import Answered
from ruminate.grading.finding.marks import (
    LONGEST_AMOUNT,
    answer_of,
    final_number,
    fraction,
    is_boxed,
    marked_answer,
    marked_number,
)
from ruminate.grading.finding.wording import NUMBER_WORDS, content_words, numbers, words

_PLAIN = r"(?:\d+(?:\.\d+)?|\.\d+)"
"""Matches a number in one way alone: many in a row, and then a word, must not be tried in all ways there are."""
_NUMBER = rf"(?:\d{{1,3}}(?:[ ,\u00a0\u202f]\d{{3}})+(?:\.\d+)?|{_PLAIN})"
"""In groups of three or in one piece."""
_AMOUNT = re.compile(rf"[-−]?\s?[$€£]?\s?[-−]?{_NUMBER}\s?[%$€£]?\.?")
_MIXED = re.compile(r"([-−]?)(\d{1,12})\s+(\d{1,12}/\d{1,12})\.?")
_SEVERAL = re.compile(rf"[-−]?{_PLAIN}(?:(?:\s*[,;]\s*|\s+)[-−]?{_PLAIN})+\.?")
"""Without brackets: those may be an interval's, and are for mathematics."""
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?![\d])")
_SPACES = re.compile(r"[\s\u00a0\u202f]")
_LONGEST_SEVERAL = 200
_NEGATION = frozenset({"not", "never", "no", "isn", "wasn", "aren", "neither", "nor", "cannot", "don", "doesn", "didn"})
_YES_NO = frozenset({"yes", "no"})
_LONGEST_KEY_WORDS = 8


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the reference says of an answer, and by which comparison."""

    result: Literal["right", "wrong", "undecided"]
    how: str
    expected: float | None = None
    certainty: float = 1.0
    """How far it is from a guess: 1 is sure, and 0 is even odds. A check of the form alone is less certain than a reference."""
    by: Literal["reference", "check"] = "reference"


def compare(answered: Answered, reference: str, equal: mathematics.Equal = mathematics.nobody) -> Comparison:
    """Compare the answer with the reference answer; `equal` is asked about expressions, where they are such."""
    marked = answer_of(reference)
    found = _compare(answered, marked, equal)
    said = answered.answer.strip()
    if found.result != "right" and said and said in (reference.strip(), marked.strip()):
        return Comparison("right", "the same text", found.expected)
    return found


def _compare(answered: Answered, reference: str, equal: mathematics.Equal) -> Comparison:
    expected, several = _amount(reference), _several(reference)
    row = _compare_several(answered, several) if several else None
    if expected is not None and not (row is not None and row.result == "right"):
        return _compare_amounts(answered, expected)  # "100 200" may be one number, or two
    if row is not None:
        return row
    if mathematics.is_mathematical(reference):
        return _compare_expressions(answered, reference, equal)
    return _compare_words(answered, reference)


def _amount(text: str) -> float | None:
    """The number that the text is, where it is nothing else."""
    text = text.strip()
    if len(text) > LONGEST_AMOUNT:
        return None
    if _AMOUNT.fullmatch(text):
        found = numbers(re.sub(r"[$€£\s\u00a0\u202f]", "", text))
    elif mixed := _MIXED.fullmatch(text):
        part = fraction(mixed[3])
        found = tuple((-1 if mixed[1] else 1) * (float(mixed[2]) + value) for value in part)
    else:
        found = fraction(_SPACES.sub("", text))
    return found[0] if found else None


def _several(text: str) -> tuple[float, ...]:
    """The numbers that the text is, where it is several and nothing else."""
    text = text.strip()
    return numbers(text.replace(";", " ").replace(",", " ")) if len(text) <= _LONGEST_SEVERAL and _SEVERAL.fullmatch(text) else ()


def _compare_amounts(answered: Answered, expected: float) -> Comparison:
    final = final_number(answered)
    if final is None:
        spoken = {value for word in answered.answer_words for value in NUMBER_WORDS.get(word, ())}
        if expected in spoken:
            return Comparison("right", "the number in words", expected)
        return Comparison("undecided" if spoken else "wrong", "no number in digits", expected)
    if _same(final, expected):
        return Comparison("right", "the final number", expected)
    said = _amount(answered.answer)
    in_one_piece = numbers(_GROUPED.sub(lambda group: _SPACES.sub("", group[0]), answered.answer))
    if (said is not None and _same(said, expected)) or (in_one_piece and _same(in_one_piece[-1], expected)):
        return Comparison("right", "the final number", expected)
    if marked_number(answered) is None and any(_same(number, expected) for number in answered.answer_numbers):
        # "72 clips, 24 of them in May" begins with its answer; what a longer text says, its numbers do not tell.
        first = _same(answered.answer_numbers[0], expected) and len(answered.answer_numbers) <= 3
        return Comparison("right" if first else "undecided", "a number of the answer", expected)
    return Comparison("wrong", "the final number", expected)


def _compare_several(answered: Answered, expected: tuple[float, ...]) -> Comparison:
    """Several numbers are right in their order. In another they may be: of a set of solutions nobody asks for one."""
    said, how = answered.answer_numbers, "the numbers in their order"
    alone = _several(answered.answer)
    for numbers_said in (alone, said[: len(expected)], said[-len(expected) :]):
        if len(numbers_said) == len(expected) and all(map(_same, numbers_said, expected)):
            return Comparison("right", how)
    another = bool(alone) and sorted(alone) != sorted(expected)
    return Comparison("wrong" if another or _amount(answered.answer) is not None else "undecided", how)


def _compare_expressions(answered: Answered, expected: str, equal: mathematics.Equal) -> Comparison:
    boxed = is_boxed(answered.answer)
    said = marked_answer(answered.answer) or answered.answer
    if said.strip(" $.") == expected.strip(" $."):
        return Comparison("right", "the same expression")
    same = equal(expected, said)
    # A long answer may say it otherwise: what is not equal is wrong only where the answer is an expression and nothing else.
    if same is None or not (same or boxed or mathematics.is_mathematical(said)):
        return Comparison("undecided", "an expression that is not understood")
    return Comparison("right" if same else "wrong", "mathematics")


def _same(one: float, expected: float) -> bool:
    if abs(one - expected) <= 64 * math.ulp(max(1.0, abs(expected))):
        return True
    # A reference with decimals may be rounded: 3.33 accepts 10/3 and 3.3333, an integer accepts itself alone.
    _, _, decimals = f"{expected:.10f}".rstrip("0").partition(".")
    return bool(decimals) and abs(one - expected) <= 0.5 * 10.0 ** -len(decimals)


def _compare_words(answered: Answered, reference: str) -> Comparison:
    expected, said = words(reference), answered.answer_words
    if not expected:
        return Comparison("undecided", "an empty reference")
    if said == expected:
        return Comparison("right", "the same words")
    if expected[0] in _YES_NO:
        return _compare_yes_no(said, expected[0])
    # What the reference adds to the question decides: of "The capital of X is Amber Bay", asked for X, "Amber Bay".
    key = content_words(expected) - set(answered.question_words) or frozenset(expected)
    if len(key) > _LONGEST_KEY_WORDS:
        return Comparison("undecided", "a long reference")
    if not _NEGATION.isdisjoint(said) and _NEGATION.isdisjoint(expected):
        return Comparison("undecided", "a negation")
    return Comparison("right" if key.issubset(said) else "wrong", "the words of the reference")


def _compare_yes_no(said: tuple[str, ...], expected: str) -> Comparison:
    if not said or said[0] not in _YES_NO:
        return Comparison("undecided", "neither yes nor no")
    return Comparison("right" if said[0] == expected else "wrong", "yes or no")
