"""The teacher: corrects the combiner's weights by what turned out, one lesson after the other. Pure: a fold over lessons.

Bayesian logistic regression, kept as a Gaussian over the corrections and updated by Laplace's approximation at each lesson
(the extended Kalman filter of a logistic observation; Spiegelhalter and Lauritzen, 1990, section 4; Murphy, *Machine Learning: a
probabilistic perspective*, 8.5):

    v = p (1 - p) w         w: the weight of the lesson, p: the probability before it
    P ← P - (P x)(P x)ᵀ v / (1 + v xᵀP x)
    c ← c + w P x (y - p)

It begins at no correction with a variance of 1, so that what is known before counts until lessons outweigh it, and needs one
pass and no learning rate. Nobody can teach it much alone: the n-th lesson of one source weighs 1 / (1 + n/N)², so that all of
them together weigh less than N, and no correction leaves its bounds.
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from ruminate.assessor.judging.combiner import Combiner, Snapshot, probability
from ruminate.assessor.judging.knowledge import Knowledge
from ruminate.assessor.judging.signals import NAMES, Signals
from ruminate.assessor.policy import Weights

_SIZE: Final = len(NAMES) + 1
_VARIANCE: Final = 1.0
MOST_CORRECTION: Final = 3.0
"""Bound of each correction, and of the bias."""
MOST_OF_ONE_SOURCE: Final = 200.0
"""Lessons that all opinions of one source weigh at most, however many they are."""
MOST_OF_ONE_REFERENCE_SOURCE: Final = 5_000.0
"""The same for references: they can be looked up, so they weigh more."""
_MOST_SOURCES: Final = 10_000
_DOUBTED_EVERY: Final = 100
_DOUBT: Final = 1.005
"""Growth of the variance: some twenty thousand lessons are remembered."""
RELIABILITY_LESSONS: Final = 1_000
"""Lessons over which reliability is measured, each by what was predicted before it."""
_BINS = 10


@dataclass(frozen=True, slots=True)
class Lesson:
    """What was found of an answer, and whether it turned out good. `source` is a digest of who says so."""

    shown: Signals
    good: bool
    weight: float
    source: str
    by_reference: bool


_WEIGHT_BY_OUTCOME = 0.5
_WEIGHT_BY_OPINION = 0.4


def lesson_of(shown: Signals, knowledge: Knowledge, *, source: str) -> Lesson | None:
    """The lesson that an answer teaches, or None where nobody knows what it was worth."""
    good = knowledge.turned_out
    if good is None:
        return None
    if knowledge.sure != "undecided":
        return Lesson(shown, good, 1.0, source_digest(source), by_reference=True)
    said_by = knowledge.opinions[-1].given_by if knowledge.opinions else source
    weight = _WEIGHT_BY_OPINION if knowledge.opinions else _WEIGHT_BY_OUTCOME
    return Lesson(shown, good, weight, source_digest(said_by), by_reference=False)


def source_digest(name: str) -> str:
    """Who said it, without the name."""
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far predictions can be trusted: Brier score and expected calibration error over ten bins, 0 is perfect."""

    lessons: int
    brier: float
    calibration_error: float


def reliability(predictions: Iterable[tuple[float, bool]]) -> Reliability:
    """Brier (1950), and the expected calibration error of Naeini et al. (2015), of pairs of probability and outcome."""
    pairs = tuple(predictions)
    if not pairs:
        return Reliability(0, 0.0, 0.0)
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(_BINS)]
    for predicted, good in pairs:
        bins[min(_BINS - 1, int(predicted * _BINS))].append((predicted, good))
    error = sum(abs(sum(p for p, _ in each) - sum(good for _, good in each)) for each in bins) / len(pairs)
    return Reliability(len(pairs), sum((p - good) ** 2 for p, good in pairs) / len(pairs), error)


@dataclass(slots=True)
class Teacher:
    """What was learned so far. `corrections` are of NAMES, then of the bias."""

    weights: Weights
    number: int = 0
    lessons: int = 0
    corrections: list[float] = field(default_factory=lambda: [0.0] * _SIZE)
    covariance: list[list[float]] = field(
        default_factory=lambda: [[_VARIANCE * (row == column) for column in range(_SIZE)] for row in range(_SIZE)]
    )
    taught: dict[str, float] = field(default_factory=dict)
    """The weight of lessons by source, before it was lessened."""
    predictions: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=RELIABILITY_LESSONS))
    _before: Combiner = field(init=False)

    def __post_init__(self) -> None:
        self._before = Combiner(self.weights)

    def predict(self, shown: Signals) -> float:
        """The probability that an answer is good, by what was learned so far."""
        return probability(self._logit(shown))

    def learn(self, lesson: Lesson) -> float:
        """Take a lesson in, and give what was predicted before it."""
        predicted = self.predict(lesson.shown)
        self.predictions.append((predicted, lesson.good))
        self.lessons += 1
        weight = self._weight(lesson)
        shown = [*lesson.shown, 1.0]
        held = [at for at, value in enumerate(shown) if value]
        moved = [sum(row[at] * shown[at] for at in held) for row in self.covariance]
        spread = max(predicted * (1 - predicted), 1e-3) * weight
        shrink = spread / (1 + spread * sum(moved[at] * shown[at] for at in held))
        for row, factor in zip(self.covariance, moved, strict=True):
            if factor:
                scaled = factor * shrink
                row[:] = [value - scaled * other for value, other in zip(row, moved, strict=True)]
        # P x after the update is P x before it, less the share that the update took.
        gain = weight * (lesson.good - predicted) * (1 - shrink * sum(moved[at] * shown[at] for at in held))
        self.corrections = [
            max(-MOST_CORRECTION, min(MOST_CORRECTION, value + gain * step))
            for value, step in zip(self.corrections, moved, strict=True)
        ]
        self._doubt()
        return predicted

    def reliability(self) -> Reliability:
        """Of the last lessons, each by what was predicted before it."""
        return reliability(self.predictions)

    def snapshot(self) -> Snapshot:
        """What was learned, with the next number."""
        self.number += 1
        return self.corrected()

    def corrected(self) -> Snapshot:
        """What was learned, as it is now."""
        return Snapshot(
            number=self.number,
            lessons=self.lessons,
            bias=round(self.corrections[-1], 6),
            corrections={name: round(value, 6) for name, value in zip(NAMES, self.corrections, strict=False) if round(value, 6)},
        )

    @classmethod
    def going_on(
        cls,
        weights: Weights,
        *,
        number: int,
        lessons: int,
        names: Sequence[str],
        corrections: Sequence[float],
        covariance: str,
        taught: Mapping[str, float],
    ) -> Self:
        """Where another left off. Signals that it did not know begin untaught; what it knew and we do not, is forgotten.

        ValueError where the covariance is none of that many signals.
        """
        known = unpacked(covariance, len(names) + 1)
        if len(corrections) != len(names) + 1:
            raise ValueError(f"{len(names)} signals have {len(names) + 1} corrections, not {len(corrections)}")
        teacher = cls(weights, number=number, lessons=lessons, taught=dict(taught))
        # The bias, which has no name, comes last in both.
        places = [(at, names.index(name)) for at, name in enumerate(NAMES) if name in names] + [(_SIZE - 1, len(names))]
        for at, theirs in places:
            teacher.corrections[at] = corrections[theirs]
            for other_at, other in places:
                teacher.covariance[at][other_at] = known[theirs][other]
        return teacher

    def _logit(self, shown: Signals) -> float:
        corrected = math.fsum(map(float.__mul__, self.corrections, [*shown, 1.0]))
        return self._before.within_bounds(self._before.sum(shown) + corrected)

    def _weight(self, lesson: Lesson) -> float:
        most = MOST_OF_ONE_REFERENCE_SOURCE if lesson.by_reference else MOST_OF_ONE_SOURCE
        key = f"{lesson.source}{'r' if lesson.by_reference else 'o'}"
        before = self.taught.pop(key, 0.0)
        self.taught[key] = before + lesson.weight
        if len(self.taught) > _MOST_SOURCES:  # whoever taught least lately leaves; the order is that of the lessons
            del self.taught[next(iter(self.taught))]
        return lesson.weight / (1 + before / most) ** 2

    def _doubt(self) -> None:
        """Doubt what was learned a little, the whole of it alike, and nothing more than at the beginning."""
        if self.lessons % _DOUBTED_EVERY:
            return
        for row in self.covariance:
            row[:] = [value * _DOUBT for value in row]
        for at in range(_SIZE):
            if (variance := self.covariance[at][at]) > _VARIANCE:
                scale = math.sqrt(_VARIANCE / variance)
                for row in self.covariance:
                    row[at] *= scale
                self.covariance[at] = [value * scale for value in self.covariance[at]]


def packed(covariance: list[list[float]]) -> str:
    """The upper triangle as base64 of 32-bit floats: what is doubted needs no more."""
    values = [value for at, row in enumerate(covariance) for value in row[at:]]
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def unpacked(text: str, size: int) -> list[list[float]]:
    """The matrix again. ValueError where the text is none of that size."""
    data = base64.b64decode(text, validate=True)
    count = size * (size + 1) // 2
    if len(data) != count * 4:
        raise ValueError(f"a covariance of {size} signals has {count * 4} bytes, this one {len(data)}")
    values = iter(struct.unpack(f"<{count}f", data))
    matrix = [[0.0] * size for _ in range(size)]
    for row in range(size):
        for column in range(row, size):
            matrix[row][column] = matrix[column][row] = next(values)
    return matrix
