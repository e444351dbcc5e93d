"""How places are shared out, what is drawn to be rehearsed, and what the predictor says: in numbers."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from ruminate.accumulator.curation.predictor import LEAST_OF_EACH, Lesson, Predictor
from ruminate.accumulator.curation.rehearsal import Buffer, Pick, Rehearsable
from ruminate.accumulator.curation.strata import allocate

# Strata


@given(st.dictionaries(st.tuples(st.integers(0, 50)), st.integers(0, 200), max_size=12), st.integers(-5, 2_500))
def test_every_place_is_given_and_each_group_has_its_part_within_one(sizes: dict[tuple[int], int], places: int) -> None:
    given_ = allocate(sizes, places)
    total = sum(sizes.values())
    assert sum(given_.values()) == max(0, min(places, total))
    for key, size in sizes.items():
        assert 0 <= given_[key] <= size
        if 0 < places < total:
            assert abs(given_[key] - Fraction(size * places, total)) < 1


@given(st.dictionaries(st.tuples(st.integers(0, 50)), st.integers(0, 20), max_size=8), st.integers(0, 80))
def test_the_order_of_the_groups_changes_nothing(sizes: dict[tuple[int], int], places: int) -> None:
    assert allocate(dict(reversed(sizes.items())), places) == allocate(sizes, places)


# Rehearsal


def row(number: int, line: int, *, score: float = 0.5, reasoning: bool = True, domain: str = "d", cluster: int = -1) -> Rehearsable:
    name = (number * 100_000 + line if cluster < 0 else cluster).to_bytes(16, "big")
    return Rehearsable(number, line.to_bytes(16, "big"), name, score, reasoning, domain, "simple")


def line_of(pick: Pick) -> int:
    return int.from_bytes(pick.recorded, "big")


def buffer_of(*rows: Rehearsable, most_rows: int = 1_000) -> Buffer:
    buffer = Buffer(most_rows=most_rows)
    for each in rows:
        buffer.add(each)
    return buffer


def test_each_batch_and_domain_gives_as_large_a_part_as_any_other() -> None:
    buffer = buffer_of(
        *(row(1, n, domain="law") for n in range(80)),
        *(row(1, n, domain="botany") for n in range(80, 120)),
        *(row(2, n) for n in range(40)),
    )
    picks = buffer.draw(reasoning=40, direct=0, seed="s")
    assert Counter((pick.number, line_of(pick) >= 80) for pick in picks) == {(1, False): 20, (1, True): 10, (2, False): 10}
    assert len(set(picks)) == 40


def test_rows_are_drawn_in_proportion_to_their_scores() -> None:
    # One in two of two thousand: of rows scored 0.9 and 0.1, those drawn first are nine to one.
    rows = [row(1, n, score=0.9 if n % 2 else 0.1) for n in range(2_000)]
    picks = buffer_of(*rows, most_rows=5_000).draw(reasoning=100, direct=0, seed="s")
    good = sum(line_of(pick) % 2 for pick in picks)
    assert 82 <= good <= 97


def test_a_second_row_of_a_question_waits_until_every_question_had_one() -> None:
    rows = [row(1, n, cluster=n % 10, score=1.0 if n % 10 == 0 else 0.2) for n in range(80)]
    buffer = buffer_of(*rows)
    assert sorted(line_of(pick) % 10 for pick in buffer.draw(reasoning=10, direct=0, seed="s")) == list(range(10))
    twice = Counter(line_of(pick) % 10 for pick in buffer.draw(reasoning=20, direct=0, seed="s"))
    assert set(twice.values()) == {2}


def test_modes_are_drawn_apart_and_no_more_than_there_are() -> None:
    buffer = buffer_of(*(row(1, n, reasoning=n % 4 > 0) for n in range(40)))
    assert buffer.counts() == (30, 10)
    picks = buffer.draw(reasoning=100, direct=3, seed="s")
    assert Counter(line_of(pick) % 4 > 0 for pick in picks) == {True: 30, False: 3}


def test_only_the_seed_decides_and_only_the_latest_rows_are_drawn() -> None:
    rows = [row(1 + n // 100, n % 100) for n in range(1_000)]
    buffer = buffer_of(*rows, most_rows=200)
    one, same, other = (buffer.draw(reasoning=50, direct=0, seed=seed) for seed in ("a", "a", "b"))
    assert one == same != other
    assert {pick.number for pick in one} == {9, 10}
    assert buffer.counts() == (200, 0)
    assert len(buffer) <= 400


# The predictor


def lessons(count: int, *, seed: int, noise: float = 0.0) -> list[Lesson]:
    """Long questions with numbers need thinking, greetings do not; `noise` of them are the other way round."""
    drawn = random.Random(seed)
    taught = []
    for _ in range(count):
        hard = drawn.random() < 0.5
        signs = (
            f"words={drawn.choice([5, 6] if hard else [2, 3])}",
            f"numbers={drawn.choice([2, 3, 4] if hard else [0, 1])}",
            f"first={drawn.choice(['how', 'other'])}",
        )
        taught.append(Lesson(signs, hard != (drawn.random() < noise)))
    return taught


def test_it_says_nothing_before_it_has_seen_enough_of_each_kind() -> None:
    few = [Lesson(("words=2",), needed=False)] * LEAST_OF_EACH + [Lesson(("words=6",), needed=True)] * (LEAST_OF_EACH - 1)
    assert Predictor().taught(few).chance(("words=6",)) is None
    assert Predictor().taught([*few, Lesson(("words=6",), needed=True)]).chance(("words=6",)) is not None


def test_it_tells_questions_apart_and_what_was_never_seen_moves_it_little() -> None:
    predictor = Predictor().taught(lessons(400, seed=1, noise=0.1))
    right = [(predictor.chance(each.signs) or 0.0) > 0.5 for each in lessons(400, seed=2) if each.needed]
    wrong = [(predictor.chance(each.signs) or 0.0) > 0.5 for each in lessons(400, seed=2) if not each.needed]
    assert sum(right) / len(right) > 0.97
    assert sum(wrong) / len(wrong) < 0.03
    assert 0.3 < (predictor.chance(("words=99",)) or 0.0) < 0.7


@given(st.integers(0, 200), st.integers(0, 5))
def test_lessons_in_two_parts_teach_what_they_teach_together(cut: int, seed: int) -> None:
    every = lessons(200, seed=seed)
    assert Predictor().taught(every[:cut]).taught(every[cut:]) == Predictor().taught(every)
