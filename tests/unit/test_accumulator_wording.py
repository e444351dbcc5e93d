"""Wording: what is one spelling of a text, and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.accumulator.curation.wording import (
    digest_of_normalised,
    figures_of,
    is_operator,
    is_unspaced,
    normalised,
    spoken_words_of,
    words_of,
)

# Mostly what the rules are about: digits, operators, brackets, marks, scripts without spaces.
texts = st.text(st.one_of(st.sampled_from("ab1 2.,-*/()+=<'’%_\n三あกि½−"), st.characters()), max_size=40)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the capital of France?", "what is   the capital, of FRANCE"),
        ("Janet’s ducks", "janet's ducks"),
        ("１２ apples", "12 apples"),
        ("ﬁnd Straße", "find STRASSE"),
        ("e\u0301te\u0301", "été"),
        ("1,000,000 people", "1000000 people"),
        ("a well-known co-worker", "a well known co worker"),
        ("a 3-year-old with covid-19", "a 3 year old with covid 19"),
        ("**bold** and (so on)", "bold and so on"),
        ("3 × 4 − 1", "3*4-1"),
        ("1\u20442", "1/2"),
        ("\x07bell\x00", "bell"),
    ],
)
def test_spellings_of_one_text_are_one(one: str, other: str) -> None:
    assert normalised(one) == normalised(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 3+5?", "What is 3-5?"),
        ("What is 3*5?", "What is 3/5?"),
        ("5-x = x-1", "5 x = x 1"),
        ("(3+4)*5", "3+(4*5)"),
        ("for $.50 each", "for $50 each"),
        ("3.5 kg", "35 kg"),
        ("30% of it", "30 of it"),
        ("the list 1,2,3", "the list 123"),
        ("is a < b", "is a > b"),
        ("x ≤ 3", "x ≥ 3"),
    ],
)
def test_what_makes_another_question_is_kept(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_a_character_is_a_word_where_a_script_has_no_spaces() -> None:
    assert words_of("请问12个苹果，多少钱？") == ["请", "问", "12", "个", "苹", "果", "多", "少", "钱"]
    assert words_of("カタカナ") == ["カ", "タ", "カ", "ナ"]
    assert words_of("안녕 하세요") == ["안녕", "하세요"]
    assert words_of("हिन्दी में") == ["हिन्दी", "में"]
    assert all(is_unspaced(word) for word in words_of("ราคาเท่าไหร่"))


def test_figures_are_numbers_and_operators_in_their_order() -> None:
    assert figures_of(words_of("Add 3.5 to x2, then (3+4)*5: snake_case")) == ["3.5", "x2", "3", "+", "4", ")", "*", "5"]


@given(texts)
def test_normalising_again_changes_nothing(text: str) -> None:
    assert words_of(normalised(text)) == words_of(text)
    assert normalised(text) == normalised(normalised(text))


@given(texts)
def test_spoken_words_are_those_without_operators(text: str) -> None:
    assert spoken_words_of(text) == [word for word in words_of(text) if not is_operator(word)]


@given(st.lists(st.text("ab", max_size=3), max_size=3), st.lists(st.text("ab", max_size=3), max_size=3))
def test_a_digest_stands_for_the_texts_and_where_they_end(some: list[str], others: list[str]) -> None:
    assert (digest_of_normalised(*some) == digest_of_normalised(*others)) is (some == others)
    assert len(digest_of_normalised(*some)) == 16
