"""How sure figures are: intervals and tests for shares and for paired differences. Pure; the same numbers give the same answer.

Two versions answer the same questions, so their difference is that of pairs: what both get right, or both wrong, says nothing
of it. What one conversation asks is like it, and is one observation to a test (`gathered`). All intervals are two-sided at
CONFIDENCE, all tests one-sided.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from random import Random
from statistics import NormalDist
from typing import Final, NamedTuple, TypeVar

CONFIDENCE: Final = 0.95
LEAST_OBSERVATIONS: Final = math.ceil(-math.log2(1 - CONFIDENCE))
"""With fewer, all of them may have changed for the better by chance."""
_Z: Final = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
_RESAMPLES: Final = 2000

T = TypeVar("T")
N = TypeVar("N", int, float)


class Interval(NamedTuple):
    """An estimate and where the true value lies with CONFIDENCE."""

    estimate: float
    low: float
    high: float


class Pairs(NamedTuple):
    """Answers of two versions to the same questions."""

    both: int
    only_before: int
    only_after: int
    neither: int

    @classmethod
    def of(cls, before: Sequence[bool], after: Sequence[bool]) -> Pairs:
        """Counted from answers in the same order."""
        together = list(zip(before, after, strict=True))
        return cls(*(together.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))))

    @property
    def questions(self) -> int:
        """How many."""
        return sum(self)


def share(successes: int, count: int) -> Interval:
    """A share of `count`: Wilson's score interval (1927). Of nothing, everything is possible."""
    if count == 0:
        return Interval(math.nan, 0.0, 1.0)
    observed, weight = successes / count, _Z**2 / count
    middle = (observed + weight / 2) / (1 + weight)
    reach = _Z / (1 + weight) * math.sqrt(observed * (1 - observed) / count + weight / (4 * count))
    return Interval(observed, max(0.0, middle - reach), min(1.0, middle + reach))


def change_of_share(pairs: Pairs) -> Interval:
    """How much larger the share is after than before: Newcombe's interval for paired proportions (1998, method 10)."""
    n = pairs.questions
    if n == 0:
        return Interval(math.nan, -1.0, 1.0)
    before, after = share(pairs.both + pairs.only_before, n), share(pairs.both + pairs.only_after, n)
    correlation = _phi(pairs)
    below = (after.estimate - after.low, before.high - before.estimate)
    above = (after.high - after.estimate, before.estimate - before.low)
    change = after.estimate - before.estimate

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))

    return Interval(change, max(-1.0, change - reach(*below)), min(1.0, change + reach(*above)))


def _phi(pairs: Pairs) -> float:
    """The correlation of the two answers, with Newcombe's correction of its numerator; 0 where one of them never changes."""
    a, b, c, d = pairs
    product = (a + b) * (c + d) * (a + c) * (b + d)
    if product == 0:
        return 0.0
    numerator = float(a * d - b * c)
    if numerator > 0:
        numerator = max(0.0, numerator - pairs.questions / 2)
    return numerator / math.sqrt(product)


def gathered(values: Sequence[N], observations: Sequence[Hashable]) -> list[N]:
    """The sum of the values of each observation, in the order in which observations appear."""
    sums: dict[Hashable, N] = {}
    for value, observation in zip(values, observations, strict=True):
        sums[observation] = sums[observation] + value if observation in sums else value
    return list(sums.values())


def chance_of_gain(gains: Sequence[int]) -> float:
    """How likely a sum as large is by chance alone, were each gain as likely with the other sign: the exact permutation test.

    A gain is what changed in one observation: questions that only the second version answers rightly, less those that only the
    first one does. Where an observation is one question, this is McNemar's exact test.
    """
    ways = Counter({0: 1})
    for size in filter(None, map(abs, gains)):
        more: Counter[int] = Counter()
        for total, count in ways.items():
            more[total + size] += count
            more[total - size] += count
        ways = more
    observed = sum(gains)
    return sum(count for total, count in ways.items() if total >= observed) / ways.total()


def mean_change(differences: Sequence[float], observations: Sequence[Hashable] | None = None) -> Interval:
    """The mean of paired differences, by the percentile bootstrap (Efron, 1979) with a fixed seed: observations are drawn, each
    with all of its differences. Without them, each difference is one."""
    named = range(len(differences)) if observations is None else observations
    sums, counts = gathered(differences, named), gathered([1] * len(differences), named)
    return _bootstrap(list(zip(sums, counts, strict=True)), lambda drawn: sum(s for s, _ in drawn) / sum(n for _, n in drawn))


def ratio_change(before: Sequence[float], after: Sequence[float]) -> Interval:
    """exp of the mean of after less before, both logarithms: how many times as large it has become."""
    return Interval(*(math.exp(value) for value in mean_change([b - a for a, b in zip(before, after, strict=True)])))


def chance_of_fall(differences: Sequence[float]) -> float:
    """How likely a sum as low is by chance alone, were each difference as likely with the other sign: a permutation test.

    A difference is that of one observation. Signs are drawn with a fixed seed; the observed ones count as a draw (Phipson and
    Smyth, 2010).
    """
    if not differences:
        return 1.0
    observed, random = sum(differences), Random(0)  # noqa: S311 - no secret
    sizes = [abs(difference) for difference in differences]
    as_low = sum(sum(size if random.random() < 0.5 else -size for size in sizes) <= observed + 1e-12 for _ in range(_RESAMPLES))
    return (as_low + 1) / (_RESAMPLES + 1)


def _bootstrap(values: Sequence[T], measure: Callable[[Sequence[T]], float]) -> Interval:
    if not values:
        return Interval(math.nan, -math.inf, math.inf)
    random = Random(0)  # noqa: S311 - no secret
    drawn = sorted(measure(random.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    cut = round(_RESAMPLES * (1 - CONFIDENCE) / 2)
    return Interval(measure(values), drawn[cut], drawn[-cut - 1])
