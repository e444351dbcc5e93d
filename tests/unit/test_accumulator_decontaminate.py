"""Decontamination: what gives an evaluation away is found and named; what only looks like it is not."""

from __future__ import annotations

import json
import random
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.accumulator.curation.decontaminate import RUN_CHARACTERS, RUN_WORDS, Contamination, Protected, common_runs, runs_of
from ruminate.accumulator.curation.near import signature_of
from ruminate.accumulator.curation.wording import normalised
from tests.benchmarks.near_duplicates import EDITS, word

ROWS = [json.loads(line) for line in files("ruminate.command").joinpath("demo/gsm8k_shortest_220.jsonl").read_text().splitlines()]
QUESTIONS = [row["question"] for row in ROWS]


def text(dice: random.Random, words: int) -> list[str]:
    return [word(dice) for _ in range(words)]


def protecting(*questions: str, most_texts: int = 8) -> Protected:
    protected = Protected(most_texts=most_texts)
    protected.add("evaluation", [(each,) for each in questions])
    return protected


def planted(dice: random.Random, taken: list[str], at: int) -> str:
    """Sixty words of which some are taken from elsewhere."""
    others = text(dice, 60 - len(taken))
    return " ".join(others[:at] + taken + others[at:])


def test_thirteen_words_in_a_row_are_found_wherever_they_stand_and_twelve_are_not() -> None:
    dice = random.Random(1)
    source = text(dice, 40)
    protected = protecting(" ".join(source))
    for at in range(48):
        begin = dice.randrange(28)
        thirteen = planted(dice, source[begin : begin + 13], at)
        assert protected.touches(("another question", thirteen)) == Contamination("evaluation", "ngram", 1)
        assert protected.touches((thirteen,)) == Contamination("evaluation", "ngram", 1)
        assert protected.touches(("another question", planted(dice, source[begin : begin + 12], at))) is None


def test_a_run_is_found_in_each_of_the_texts_but_not_across_them() -> None:
    dice = random.Random(2)
    source = text(dice, 20)
    protected = protecting(" ".join(source))
    for place in range(3):
        texts = ["a question", "an answer", "some thinking"]
        texts[place] = planted(dice, source[:13], 7)
        assert protected.touches(texts) is not None
    assert protected.touches(("a question", " ".join(source[:7]), " ".join(source[7:14]))) is None


def test_spelling_punctuation_and_operators_hide_nothing() -> None:
    protected = protecting("The quick brown fox jumps over the lazy dog while 3 + 4 hungry cats look on")
    assert protected.touches(("Why?", "QUICK, brown fox\njumps over the **lazy** dog -- while 3 - (4) hungry cats!")) is not None


def test_a_protected_question_is_found_exactly_nearly_and_by_its_set() -> None:
    protected = Protected()
    protected.add("evaluation", [(QUESTIONS[0],)])
    protected.add("anchor", [(QUESTIONS[1],), ("Why?",)])
    assert protected.touches((QUESTIONS[0].upper(), "42")) == Contamination("evaluation", "exact")
    assert protected.touches(("why", "Because.")) == Contamination("anchor", "exact")
    near = f"Please: {QUESTIONS[1]}"
    assert protected.touches((near, "42")) == Contamination("anchor", "near")
    assert protected.touches((near, "42"), signature=signature_of(normalised(near))) == Contamination("anchor", "near")
    assert protected.touches(("Why not?", "Why?")) is None
    assert len(protected) == 3


@pytest.mark.parametrize("edit", ["spelling", "please", "step by step", "a typo"])
def test_questions_in_slightly_other_words_are_found(edit: str) -> None:
    dice = random.Random(3)
    protected = protecting(*QUESTIONS)
    found = [protected.touches((EDITS[edit](dice, normalised(each)),)) is not None for each in QUESTIONS]
    assert np.mean(found) >= 0.9


def test_each_of_like_protected_questions_is_protected() -> None:
    dice = random.Random(4)
    first = text(dice, 12)
    second = [*first[:11], word(dice)]
    third = [word(dice), *second[1:]]  # like the second (0.79), not like the first (0.61)
    assert protecting(" ".join(first)).touches((" ".join(third),)) is None
    assert protecting(" ".join(first), " ".join(second)).touches((" ".join(third),)) is not None


def test_other_questions_of_one_source_are_clean() -> None:
    protected = Protected()
    protected.add("evaluation", [(row["question"], row["answer"]) for row in ROWS[::2]])
    assert [row for row in ROWS[1::2] if protected.touches((row["question"], row["answer"]))] == []


def test_a_template_that_many_protected_questions_share_is_no_evidence() -> None:
    dice = random.Random(5)
    template = " ".join(text(dice, 20))
    questions = [f"{template} {' '.join(text(dice, 30))}" for _ in range(9)]
    row = (f"{template} {' '.join(text(dice, 30))}",)
    assert protecting(*questions[:8]).touches(row) == Contamination("evaluation", "ngram", 8)
    assert protecting(*questions).touches(row) is None
    assert protecting(*questions[:8]).touches(row, common=common_runs(questions)) is None


def test_one_question_asked_often_is_still_evidence() -> None:
    dice = random.Random(6)
    question = text(dice, 40)
    protected = protecting(*(" ".join([*question, "and", "so", str(number)]) for number in (1,) * 20))
    protected.add("evaluation", [(" ".join(question),)] * 20)
    assert protected.touches(("Why?", planted(dice, question[5:18], 9))) == Contamination("evaluation", "ngram", 1)


def test_numbers_alone_are_no_evidence() -> None:
    counting = " ".join(map(str, range(1, 40)))
    protected = protecting(f"Tell what comes next: {counting}")
    assert protected.touches(("Count to thirty.", counting)) is None


def test_where_a_script_has_no_spaces_a_run_is_twenty_characters() -> None:
    dice = random.Random(7)
    source = "".join(chr(dice.randrange(0x4E00, 0x9F00)) for _ in range(60))
    protected = protecting(source)
    for begin in range(40):
        assert protected.touches(("问", f"他说：{source[begin : begin + RUN_CHARACTERS]}。")) is not None
        assert protected.touches(("问", f"他说：{source[begin : begin + RUN_CHARACTERS - 1]}。")) is None


def test_runs_of_words_and_characters_leave_no_gap_between_them() -> None:
    dice = random.Random(8)
    for characters in range(RUN_CHARACTERS + 1):
        mixed = [*text(dice, RUN_CHARACTERS - characters), *(chr(dice.randrange(0x4E00, 0x9F00)) for _ in range(characters))]
        dice.shuffle(mixed)
        shared = " ".join(mixed)
        assert protecting(f"one {shared} two").touches(("Why?", f"three {shared} four")) is not None, characters


def test_a_row_without_texts_is_refused_and_one_without_a_question_is_read() -> None:
    with pytest.raises(ValueError, match="without texts"):
        Protected().touches(())
    with pytest.raises(ValueError, match="without texts"):
        Protected().add("evaluation", [()])
    protected = protecting("", "?!")
    assert len(protected) == 0
    assert protected.touches(("", "an answer")) is None
    assert runs_of("") is not None


words = st.lists(st.sampled_from(["a", "b", "7", "三", "x + y"]), max_size=40)


@given(st.lists(words, max_size=6), st.lists(words, max_size=3))
def test_a_row_of_evidence_shares_a_run_with_the_set(sets: list[list[str]], row: list[list[str]]) -> None:
    rows, texts = [(" ".join(each),) for each in sets], ["a question of its own", *(" ".join(each) for each in row)]
    protected = Protected(most_texts=100)
    protected.add("evaluation", rows)
    shared = np.intersect1d(runs_of(*texts), runs_of(*(each for (each,) in rows)))
    touched = protected.touches(texts)
    assert (touched is not None) is (len(shared) > 0)
    if touched is not None:
        assert touched == Contamination("evaluation", "ngram", len(shared))


@given(words, words)
def test_runs_of_a_text_are_those_of_its_windows(before: list[str], after: list[str]) -> None:
    whole = set(runs_of(" ".join(before + after)).tolist())
    assert set(runs_of(" ".join(before)).tolist()) | set(runs_of(" ".join(after)).tolist()) <= whole
    assert len(whole) <= 2 * max(0, sum(len(each.split()) for each in before + after) - RUN_WORDS + 1)


@given(st.lists(words, min_size=1, max_size=6), st.integers(0, 6), words)
def test_it_is_the_same_when_added_bit_by_bit_and_when_read_again(sets: list[list[str]], cut: int, row: list[str]) -> None:
    rows = [(" ".join(each),) for each in sets]
    at_once, bit_by_bit = Protected(), Protected()
    at_once.add("evaluation", rows)
    bit_by_bit.add("evaluation", rows[:cut])
    bit_by_bit.add("evaluation", rows[cut:])
    again = Protected.from_bytes(bit_by_bit.to_bytes())
    assert at_once.to_bytes() == bit_by_bit.to_bytes() == again.to_bytes()
    texts = (" ".join(row),)
    assert at_once.touches(texts) == bit_by_bit.touches(texts) == again.touches(texts)


@pytest.mark.parametrize("length", [0, 10, 40, -1])
def test_bytes_of_something_else_are_refused(length: int) -> None:
    data = protecting(QUESTIONS[0]).to_bytes()
    with pytest.raises(ValueError, match=r"protected sets|cluster index|buffer"):
        Protected.from_bytes(data[:length])
    with pytest.raises(ValueError, match="no protected sets"):
        Protected.from_bytes(b"x" + data[1:])
