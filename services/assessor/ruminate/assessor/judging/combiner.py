"""The combiner: how probable is it that an answer is good, from all that was found? Logistic; taught, bounded, numbered.

    logit = what was known before  +  what was learned  +  what somebody knows
            (BEFORE, policy)          (a snapshot)         (reference, outcome, feedback)

What was known before are weights written down here with their reasons; a snapshot corrects them, and each snapshot has a
number, so that a verdict can name the one that it rests on. The sum of these two is kept within bounds, so that no lesson can
outweigh what somebody knows.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from ruminate.assessor.judging.signals import NAMES, Signals
from ruminate.assessor.policy import Weights

MOST_OPINION: Final = 4.0
"""Bound of the logit that rests on signals: a probability between 0.018 and 0.982."""

BEFORE: Final[Mapping[str, float]] = {
    # Longer questions with more numbers in them are harder, and longer thinking is a sign of it.
    "long_question": -0.8, "many_given": -0.2, "long_thinking": -0.2, "many_steps": -0.1,
    # A number that nobody gave, a number that nobody used: a step is missing, or the question was not understood.
    "unused_given": -1.2, "all_given_used": 0.3, "unfounded_operands": -1.2, "unfounded_numbers": -0.6, "unused_results": -1.5,
    "few_steps": -0.3,
    # Wrong arithmetic is wrong; an answer should be what the last step found, and look like what was asked.
    "wrong_arithmetic": -3.0, "concludes": 0.8, "concludes_nowhere": -1.2, "odd_form": -1.2, "echoes_question": -0.3,
    "contradictions": -2.0, "said_again": -1.5, "repeats": -2.0, "unfinished": -0.7, "hedges": -0.3, "off_question": -0.4,
    "foreign_language": -1.0, "truncated": -2.0, "declined": -1.0, "broken_blocks": -1.5, "misquotations": -0.4,
    # Independent answers that agree are mostly right, because there are many ways to be wrong.
    "agreeing": 3.0, "disagreeing": -1.5,
}  # fmt: skip
"""Weights from reason, not from data; what is not named begins at 0."""

BIAS_BEFORE: Final = 0.0
"""Before anything is found, the odds are even."""

_PARTS: Final = (
    "logical_coherence",
    "problem_decomposition",
    "evidence_usage",
    "conclusion_validity",
    "step_by_step_clarity",
    "mode_appropriateness",
)


class Snapshot(BaseModel):
    """What the combiner has learned, as of a number of lessons. Two equal snapshots have the same version, anywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(default=0, ge=0)
    lessons: int = Field(default=0, ge=0)
    bias: float = 0.0
    corrections: dict[str, float] = Field(default_factory=dict, description="Added to the weights by name of the signal.")

    @property
    def version(self) -> str:
        """Its number, and a digest of what it holds: `0` is the untaught one."""
        if not self.number:
            return "0"
        return f"{self.number}-{hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]}"


UNTAUGHT: Final = Snapshot()


class Combiner:
    """A policy's weights with a snapshot's corrections, ready to weigh."""

    def __init__(self, weights: Weights, snapshot: Snapshot = UNTAUGHT) -> None:
        self.version = snapshot.version
        before = dict(BEFORE) | {part: getattr(weights, part) for part in _PARTS}
        self.weights = tuple(before.get(name, 0.0) + snapshot.corrections.get(name, 0.0) for name in NAMES)
        self.bias = BIAS_BEFORE + snapshot.bias

    def sum(self, shown: Signals) -> float:
        """The weighed sum, without bounds."""
        return sum(map(operator.mul, self.weights, shown), self.bias)

    def logit(self, shown: Signals, beside: float = 0.0) -> float:
        """The weighed sum, and an opinion beside it that is never taught, within ± MOST_OPINION together."""
        return self.within_bounds(self.sum(shown) + beside)

    @staticmethod
    def within_bounds(logit: float) -> float:
        """No opinion is surer than MOST_OPINION."""
        return max(-MOST_OPINION, min(MOST_OPINION, logit))

    def telling(self, shown: Signals, most: int = 3) -> list[tuple[str, float]]:
        """The signals that moved the sum most, with what each added: why an answer is trusted or not."""
        moved = zip(NAMES, map(operator.mul, self.weights, shown), strict=True)
        return sorted([entry for entry in moved if entry[1] >= 0.05 or entry[1] <= -0.05], key=lambda entry: -abs(entry[1]))[:most]


def probability(logit: float) -> float:
    """The logistic function."""
    return 1.0 / (1.0 + math.exp(-logit))
