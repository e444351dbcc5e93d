"""Knowledge: what somebody knows of an answer, beside what can be read in it: a reference, a check, an outcome, feedback, others.

Each has a weight in log-odds: how much more often it is said of good answers than of bad ones. A reference decides; people err,
and are seldom asked about what went well, so a complaint weighs more than praise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple

from ruminate.grading.checking.answers import Comparison
from ruminate.schemas.interaction import Outcome

MOST_KNOWLEDGE: Final = 8.0
"""Bound of the sum: twice that of all opinion, so that what is known outweighs what is guessed."""

_DECIDED: Final = {"right": 1.0, "wrong": -1.0, "undecided": 0.0}
_OUTCOME: Final = {"succeeded": 2.0, "failed": -4.0, "unknown": 0.0}
_THUMB: Final = {"up": 1.5, "down": -3.0}
_SCORE = 4.0
_CORRECTED = -5.0
_ASKED_AGAIN = -1.5
_CLEAR = 1.0
"""Log-odds from which what is known is a lesson."""

MOST_CRITIQUE: Final = 1.0
"""Bound of what a model's opinion moves: a fourth of all opinion, and an eighth of what is known."""
_CRITIC_SCORE = 0.8
_CRITIC_PREFERS = 0.4


class Agreement(NamedTuple):
    """How many other answers to the same question agree with this one, and how many do not."""

    agreeing: int
    disagreeing: int


def together(agreements: Iterable[Agreement]) -> Agreement | None:
    """What several sources counted, each of answers of its own: the log, and every model that was asked."""
    counts = tuple(agreements)
    return Agreement(*map(sum, zip(*counts, strict=True))) if counts else None


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
class Critique:
    """What a model says of an answer. It is opinion and no knowledge: it moves the odds a little, and teaches nobody."""

    model: str
    scores: Mapping[str, float] = field(default_factory=dict)
    preferred: bool | None = None
    """To another answer to the same question, whichever comes first."""

    @property
    def score(self) -> float | None:
        """One half for the answer, the other for the thinking; None where it gave no scores."""
        thinking = [score for part, score in self.scores.items() if part != "answer_quality"]
        answer = [self.scores["answer_quality"]] if "answer_quality" in self.scores else []
        means = [sum(scores) / len(scores) for scores in (answer, thinking) if scores]
        return sum(means) / len(means) if means else None

    def logit(self) -> float:
        """Log-odds within ± MOST_CRITIQUE."""
        score = self.score
        moved = 0.0 if score is None else (score - 0.5) * 2 * _CRITIC_SCORE
        if self.preferred is not None:
            moved += _CRITIC_PREFERS if self.preferred else -_CRITIC_PREFERS
        return max(-MOST_CRITIQUE, min(MOST_CRITIQUE, moved))

    def said(self) -> tuple[str, ...]:
        """What it says, in words without contents."""
        score = self.score
        words = () if score is None else (f"{self.model} gives it {score:.2f}",)
        if self.preferred is None:
            return words
        return (*words, f"{self.model} {'prefers it to another answer' if self.preferred else 'prefers another answer'}")


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Everything that is known of one answer from outside of it."""

    comparison: Comparison | None = None
    outcome: Outcome = "unknown"
    opinions: tuple[Opinion, ...] = ()
    asked_again: bool = False
    """The same question was asked once more in the conversation, at once, in other words or the same."""
    agreement: Agreement | None = None
    critique: Critique | None = None
    """Kept beside: no sum in here has it."""

    @property
    def turned_out(self) -> bool | None:
        """Whether it is known that the answer was good, or that it was not; None where nobody says so clearly."""
        if self.sure != "undecided":
            return self.sure == "right"
        # That the form fits says nothing here: a node that is asked for a form gives it to every answer.
        logit = replace(self, comparison=None).logit()
        return None if abs(logit) < _CLEAR else logit > 0

    @property
    def decided(self) -> bool:
        """Whether a reference or a check says right or wrong."""
        return self.comparison is not None and self.comparison.result != "undecided"

    @property
    def sure(self) -> Literal["right", "wrong", "undecided"]:
        """What a reference or a check says for sure: that the form fits makes nothing right."""
        return self.comparison.result if self.comparison is not None and self.comparison.certainty == 1.0 else "undecided"

    def logit(self) -> float:
        """The log-odds of all of it, within ± MOST_KNOWLEDGE."""
        return max(-MOST_KNOWLEDGE, min(MOST_KNOWLEDGE, sum(weight for weight, _ in self._weighed())))

    def said(self) -> tuple[str, ...]:
        """What is known, in words without contents."""
        return tuple(words for _, words in self._weighed())

    def _weighed(self) -> Iterator[tuple[float, str]]:
        if self.comparison is not None and (weight := _log_odds(self.comparison)):
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


def _log_odds(comparison: Comparison) -> float:
    """Of a probability that lies `certainty` of the way from a half to one, or to zero."""
    certainty = comparison.certainty
    most = MOST_KNOWLEDGE if certainty >= 1 else min(MOST_KNOWLEDGE, math.log((1 + certainty) / (1 - certainty)))
    return _DECIDED[comparison.result] * most


def _of(opinion: Opinion) -> Iterator[tuple[float, str]]:
    if opinion.thumb is not None:
        yield _THUMB[opinion.thumb], f"thumb {opinion.thumb}"
    if opinion.score is not None:
        yield (opinion.score - 0.5) * _SCORE, f"scored {opinion.score:.2f}"
    if opinion.outcome is not None and (weight := _OUTCOME[opinion.outcome]):
        yield weight, f"feedback says that it {opinion.outcome}"
    if opinion.corrected:
        yield _CORRECTED, "it was corrected"
