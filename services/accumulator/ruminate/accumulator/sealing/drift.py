"""Drift: are the interactions that wait other than those of the last batch, beyond what chance does? Pure.

    scores    two-sample Kolmogorov-Smirnov test                      they are distributed otherwise
    topics    Pearson's chi-squared test of homogeneity                other things are asked
    quality   one-sided Wilcoxon-Mann-Whitney test of the scores       they are lower

The samples are looked at as they grow by a quarter, so looks are few, however long a batch waits. Look k spends 6/(pi k)^2
of the alpha, in equal parts on the tests: all of it together is alpha, whenever one stops. What a test finds has to matter,
too: in a large sample the smallest difference is no chance any more. What was found once stays found.

p-values err on the side of no finding (docs/experiments.md). Scores lie in hundredths, which makes the first one larger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ruminate.accumulator.sealing.sample import SAMPLED_AS, Counted, Sample

FEWEST: Final = 64
"""Interactions of a sample below which nothing is looked at."""
_GROWTH: Final = 4
_LEAST_EXPECTED: Final = 10
"""Fewest observations that a bucket should have by chance; smaller ones are put together."""
_TAIL: Final = 3
"""So much is chi-squared's p taken for larger: with 10 expected it is up to 2.5 times too small where p is 2e-5."""

What = Literal["quality", "scores", "topics"]
LEAST_EFFECT: Final[dict[What, float]] = {"quality": 0.05, "scores": 0.1, "topics": 0.2}
"""What matters: a share of pairs beyond one half in which the later score is lower; the largest distance of the distributions;
Cohen's w."""
NAMES: Final[dict[What, str]] = {
    "quality": "one-sided Wilcoxon-Mann-Whitney test",
    "scores": "two-sample Kolmogorov-Smirnov test",
    "topics": "Pearson's chi-squared test of homogeneity",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a test came to."""

    what: What
    statistic: float
    effect: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Looked:
    """The last look at a sample. `alpha` is what each of its tests may spend; `before` and `waiting` are sizes."""

    look: int
    alpha: float
    before: int
    waiting: int
    tests: tuple[Finding, ...]
    found: Finding | None = None

    @property
    def again_at(self) -> int:
        """The size of the sample at the next look."""
        return self.waiting + math.ceil(self.waiting / _GROWTH)


def look(last: Looked | None, waiting: Sample, before: Counted | None, *, alpha: float) -> Looked | None:
    """The last look, or the next one where it is due. Nothing is to be seen without two large samples or with alpha 0."""
    if waiting.interactions < (FEWEST if last is None else last.again_at) or not alpha or (last is not None and last.found):
        return last
    if before is None or before.sampled_as != SAMPLED_AS or before.interactions < FEWEST:
        return None
    number = 1 if last is None else last.look + 1
    share = alpha * 6 / (math.pi * number) ** 2 / len(NAMES)
    tests = (
        lower(before.scores, waiting.scores),
        distance(before.scores, waiting.scores),
        homogeneity(before.topics, waiting.topics),
    )
    # A drop of quality says more than that scores are others: it comes first.
    found = next((test for test in tests if test.p_value <= share and test.effect >= LEAST_EFFECT[test.what]), None)
    return Looked(number, share, before.interactions, waiting.interactions, tests, found)


def distance(before: Sequence[int], waiting: Sequence[int]) -> Finding:
    """Two-sample Kolmogorov-Smirnov test of histograms, by its limit distribution, which is too large for small samples."""
    n, m = sum(waiting), sum(before)
    if not n or not m:
        return Finding("scores", 0.0, 0.0, 1.0)
    largest = 0.0
    below, below_before = 0, 0
    for here, there in zip(waiting, before, strict=True):
        below += here
        below_before += there
        largest = max(largest, abs(below / n - below_before / m))
    return Finding("scores", largest, largest, kolmogorov(largest * math.sqrt(n * m / (n + m))))


def homogeneity(before: Sequence[int], waiting: Sequence[int]) -> Finding:
    """Pearson's chi-squared test of two rows of counts. Which buckets are put together follows from their sums alone."""
    n, m = sum(waiting), sum(before)
    if not n or not m:
        return Finding("topics", 0.0, 0.0, 1.0)
    groups = _together(before, waiting, least=_LEAST_EXPECTED * (n + m) / min(n, m))
    statistic = 0.0
    for there, here in groups:
        expected, expected_before = (there + here) * n / (n + m), (there + here) * m / (n + m)
        statistic += (here - expected) ** 2 / expected + (there - expected_before) ** 2 / expected_before
    p_value = chi_squared(statistic, len(groups) - 1)
    return Finding("topics", statistic, math.sqrt(statistic * (1 / n + 1 / m)), min(1.0, _TAIL * p_value))


def lower(before: Sequence[int], waiting: Sequence[int]) -> Finding:
    """One-sided Wilcoxon-Mann-Whitney test of histograms: are the scores that wait lower? Ties have the mean of their ranks.

    The p-value is Bernstein's bound, with the variance under permutation (corrected for ties), over the draws of the smaller
    sample. Where low scores are rare, the usual normal limit is too small by orders of magnitude; the bound holds for every
    table of two scores that a test has tried.
    """
    n, m = sum(waiting), sum(before)
    if not n or not m:
        return Finding("quality", 0.0, 0.0, 1.0)
    both = n + m
    ranks, ties, below = 0.0, 0.0, 0
    taken: list[float] = []
    for here, there in zip(waiting, before, strict=True):
        tied = here + there
        rank = below + (tied + 1) / 2
        if tied:
            taken.append(rank)
        ranks += here * rank
        ties += tied * (tied * tied - 1)
        below += tied
    variance = n * m / 12 * (both + 1 - ties / (both * (both - 1)))
    short = n * (both + 1) / 2 - ranks
    wins = ranks - n * (n + 1) / 2
    effect = 0.5 - wins / (n * m)
    if short <= 0 or variance <= 0:
        return Finding("quality", wins, effect, 1.0)
    mean = (both + 1) / 2
    furthest = mean - taken[0] if n <= m else taken[-1] - mean
    return Finding("quality", wins, effect, math.exp(-(short**2) / 2 / (variance + furthest * short / 3)))


def kolmogorov(distance: float) -> float:
    """Probability that Kolmogorov's distribution exceeds this: 2 sum (-1)^(k-1) exp(-2 k^2 d^2)."""
    if distance < 0.2:
        return 1.0  # to 12 digits; the sum converges slowly here
    terms = (math.exp(-2 * (k * distance) ** 2) * (1 if k % 2 else -1) for k in range(1, 101))
    return min(1.0, max(0.0, 2 * sum(terms)))


def chi_squared(statistic: float, degrees: int) -> float:
    """Probability that chi-squared with so many degrees of freedom exceeds this: a sum of positive terms, each known."""
    if degrees < 1 or statistic <= 0:
        return 1.0
    half = statistic / 2
    if degrees % 2:
        total, at = math.erfc(math.sqrt(half)), 0.5
    else:
        total, at = math.exp(-half), 1.0
    while at < degrees / 2:
        total += math.exp(at * math.log(half) - half - math.lgamma(at + 1))
        at += 1
    return min(1.0, total)


def _together(before: Sequence[int], waiting: Sequence[int], *, least: float) -> list[tuple[int, int]]:
    """The buckets, from the smallest sum on put together until each has `least`."""
    groups: list[tuple[int, int]] = []
    there, here = 0, 0
    for _, bucket in sorted((there + here, bucket) for bucket, (there, here) in enumerate(zip(before, waiting, strict=True))):
        there, here = there + before[bucket], here + waiting[bucket]
        if there + here >= least:
            groups.append((there, here))
            there, here = 0, 0
    if there + here and groups:
        last_there, last_here = groups.pop()
        groups.append((last_there + there, last_here + here))
    return groups
