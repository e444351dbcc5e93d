"""Intervals and tests for paired answers: against published figures, and against what they promise, by simulation."""

from __future__ import annotations

import math
from random import Random
from statistics import fmean, stdev

import pytest

from ruminate.proof.confidence import (
    Pairs,
    chance_of_fall,
    chance_of_gain,
    change_of_share,
    gathered,
    mean_change,
    ratio_change,
    share,
)


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_the_published_one(successes: int, count: int, low: float, high: float) -> None:
    # Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3.
    found = share(successes, count)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_of_nothing_everything_is_possible() -> None:
    assert share(0, 0)[1:] == (0.0, 1.0)
    assert change_of_share(Pairs(0, 0, 0, 0))[1:] == (-1.0, 1.0)


def test_pairs_are_counted_by_what_each_version_got_right() -> None:
    pairs = Pairs.of([True, True, False, False, True], [True, False, True, False, True])
    assert pairs == Pairs(both=2, only_before=1, only_after=1, neither=1)


@pytest.mark.parametrize(("kept", "falls", "gains"), [(0.9, 0.02, 0.02), (0.6, 0.2, 0.1), (0.5, 0.0, 0.3), (0.97, 0.03, 0.0)])
def test_the_interval_of_a_change_holds_the_truth_as_often_as_it_says(kept: float, falls: float, gains: float) -> None:
    random = Random(0)
    held = 0
    for _ in range(400):
        drawn = random.choices(("both", "before", "after", "neither"), (kept, falls, gains, 1 - kept - falls - gains), k=128)
        pairs = Pairs(*(drawn.count(kind) for kind in ("both", "before", "after", "neither")))
        found = change_of_share(pairs)
        held += found.low <= gains - falls <= found.high
    assert held / 400 >= 0.93


def test_of_single_questions_the_test_is_mcnemars_and_counts_only_what_changed() -> None:
    assert chance_of_gain([*[0] * 2000, *[1] * 5]) == 1 / 32
    assert chance_of_gain([-1] * 5) == 1.0
    assert chance_of_gain([0] * 10) == 1.0
    assert chance_of_gain([]) == 1.0
    assert chance_of_gain([-1, *[1] * 9]) == 11 / 1024


def test_of_one_conversation_many_gains_are_one() -> None:
    assert chance_of_gain([9]) == 1 / 2
    assert chance_of_gain([9, 4, 4]) == 1 / 8
    # 3 + 2 - 1 = 4 and 3 + 2 + 1 = 6 are as large as 4.
    assert chance_of_gain([3, 2, -1]) == 2 / 8
    assert gathered([1, 1, -1, 1], ["a", "b", "a", "a"]) == [1, 1]


def test_questions_that_are_alike_do_not_make_a_change_that_is_none() -> None:
    random = Random(3)
    single = together = 0
    for _ in range(400):
        # Twelve conversations of ten questions each, all of which change alike or not at all.
        change = [random.choice((-1, 0, 1)) for _ in range(12) for _ in range(10)]
        alike = [change[10 * conversation] for conversation in range(12) for _ in range(10)]
        single += chance_of_gain(alike) < 0.05
        together += chance_of_gain(gathered(alike, [at // 10 for at in range(120)])) < 0.05
    assert single / 400 > 0.2
    assert together / 400 <= 0.06


def test_the_interval_of_a_mean_draws_conversations_and_not_their_rows() -> None:
    random = Random(4)
    held = 0
    for _ in range(100):
        rows = [(number, random.gauss(0.3, 1)) for number in range(30)]
        alike = [(number, value) for number, value in rows for _ in range(10)]
        found = mean_change([value for _, value in alike], [number for number, _ in alike])
        held += found.low <= 0.3 <= found.high
    assert held >= 88


def test_a_change_that_is_none_is_seldom_taken_for_one() -> None:
    random = Random(1)
    gains = falls = 0
    for _ in range(400):
        before, after = ([random.random() < 0.7 for _ in range(60)] for _ in range(2))
        gains += chance_of_gain([now - then for then, now in zip(before, after, strict=True)]) < 0.05
    for _ in range(60):
        falls += chance_of_fall([random.gauss(0, 1) for _ in range(40)]) < 0.05
    assert gains / 400 <= 0.06
    assert falls / 60 <= 0.12


def test_a_fall_of_every_value_is_no_chance() -> None:
    assert chance_of_fall([-0.1] * 40) < 0.001
    assert chance_of_fall([0.1] * 40) == 1.0
    assert chance_of_fall([]) == 1.0


def test_means_and_ratios_come_with_intervals_that_repeat_themselves() -> None:
    random = Random(2)
    differences = [random.gauss(0.3, 1) for _ in range(100)]
    found = mean_change(differences)
    assert found.estimate == pytest.approx(fmean(differences))
    # Of a hundred, the bootstrap's interval is about Student's.
    reach = 1.984 * stdev(differences) / 10
    assert abs(found.low - (found.estimate - reach)) < 0.1 * reach
    assert abs(found.high - (found.estimate + reach)) < 0.1 * reach
    assert found == mean_change(differences)
    ratio = ratio_change([math.log(10)] * 50, [math.log(20)] * 50)
    assert ratio == pytest.approx((2.0, 2.0, 2.0))
