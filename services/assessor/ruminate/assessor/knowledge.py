"""Knowledge: what somebody knows of an answer, beside what can be read in it: a reference, a check, an outcome, feedback, others.

Each has a weight in log-odds: how much more often it is said of good answers than of bad ones. A reference decides; people err,
and are seldom asked about what went well, so a complaint weighs more than praise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from ruminate.assessor.answers import Comparison
from ruminate.schemas.interaction import Outcome

MOST_KNOWLEDGE: Final = 8.0
"""Bound of the sum: twice that of all opinion, so that what is known outweighs what is guessed."""

_REFERENCE: Final = {"right": 8.0, "wrong": -8.0, "undecided": 0.0}
_OUTCOME: Final = {"succeeded": 2.0, "failed": -4.0, "unknown": 0.0}
_THUMB: Final = {"up": 1.5, "down": -3.0}
_SCORE = 4.0
_CORRECTED = -5.0
_ASKED_AGAIN = -1.5


class Agreement(NamedTuple):
    """How many other answers to the same question agree with this one, and how many do not."""

    agreeing: int
    disagreeing: int


@dataclass(frozen=True, slots=True)
class Opinion:
    """What somebody said of an answer; only what is present was said."""

    given_by: str
    thumb: Literal["up", "down"] | None = None
    score: float | None = None
    outcome: Outcome | None = None
    corrected: bool = False
    """The correction is another answer than the one that was given."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Everything that is known of one answer from outside of it."""

    comparison: Comparison | None = None
    outcome: Outcome = "unknown"
    opinions: tuple[Opinion, ...] = ()
    asked_again: bool = False
    """The same question was asked once more in the conversation, at once, in other words or the same."""
    agreement: Agreement | None = None

    @property
    def decided(self) -> bool:
        """Whether a reference or a check says right or wrong."""
        return self.comparison is not None and self.comparison.result != "undecided"

    def logit(self) -> float:
        """The log-odds of all of it, within ± MOST_KNOWLEDGE."""
        return max(-MOST_KNOWLEDGE, min(MOST_KNOWLEDGE, sum(weight for weight, _ in self._weighed())))

    def said(self) -> tuple[str, ...]:
        """What is known, in words without contents."""
        return tuple(words for _, words in self._weighed())

    def _weighed(self) -> Iterator[tuple[float, str]]:
        if self.comparison is not None and (weight := _REFERENCE[self.comparison.result] * self.comparison.certainty):
            yield weight, f"{self.comparison.result} by {self.comparison.how}"
        if weight := _OUTCOME[self.outcome]:
            yield weight, f"the outcome was reported as {self.outcome}"
        # Of one person the last word counts, and many who say the same are no more than three.
        last = {opinion.given_by: opinion for opinion in self.opinions}
        for opinion in tuple(last.values())[-_MOST_OPINIONS:]:
            yield from _of(opinion)
        if self.asked_again:
            yield _ASKED_AGAIN, "the question was asked again"


_MOST_OPINIONS = 3


def _of(opinion: Opinion) -> Iterator[tuple[float, str]]:
    if opinion.thumb is not None:
        yield _THUMB[opinion.thumb], f"thumb {opinion.thumb}"
    if opinion.score is not None:
        yield (opinion.score - 0.5) * _SCORE, f"scored {opinion.score:.2f}"
    if opinion.outcome is not None and (weight := _OUTCOME[opinion.outcome]):
        yield weight, f"feedback says that it {opinion.outcome}"
    if opinion.corrected:
        yield _CORRECTED, "it was corrected"
