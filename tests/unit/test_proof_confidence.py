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


def test_mcnemars_test_counts_only_what_changed() -> None:
    assert chance_of_gain(Pairs(1000, 0, 5, 1000)) == 1 / 32
    assert chance_of_gain(Pairs(0, 5, 0, 0)) == 1.0
    assert chance_of_gain(Pairs(7, 0, 0, 3)) == 1.0
    assert chance_of_gain(Pairs(0, 1, 9, 0)) == 11 / 1024


def test_a_change_that_is_none_is_seldom_taken_for_one() -> None:
    random = Random(1)
    gains = falls = 0
    for _ in range(400):
        before, after = ([random.random() < 0.7 for _ in range(60)] for _ in range(2))
        gains += chance_of_gain(Pairs.of(before, after)) < 0.05
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
    assert found.estimate == fmean(differences)
    # Of a hundred, the bootstrap's interval is about Student's.
    reach = 1.984 * stdev(differences) / 10
    assert abs(found.low - (found.estimate - reach)) < 0.1 * reach
    assert abs(found.high - (found.estimate + reach)) < 0.1 * reach
    assert found == mean_change(differences)
    ratio = ratio_change([math.log(10)] * 50, [math.log(20)] * 50)
    assert ratio == pytest.approx((2.0, 2.0, 2.0))
