"""What an answer is worth in practice: right, well-formed, and no longer than it needs to be. Pure, but for the grader it is given.

    reward = right + format_weight · form + length_weight · brevity

right    1 or 0; None, and no reward at all, where the check decides nothing: such an answer teaches nothing
form     1 where thinking is well-formed for its mode, else 0
brevity  among the answers to one question: 0.5 for the shortest thinking, -0.5 for the longest, in between in a line; a wrong
         answer gains nothing by being short, and loses by being long (Kimi k1.5, https://arxiv.org/abs/2501.12599, section 2.3.3)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Attempt(NamedTuple):
    """One answer of a group, as far as it counts here."""

    right: bool | None
    well_formed: bool
    tokens: int
    """Of all that was generated: what is cut is the longest there is."""


class Reward(NamedTuple):
    """What an answer is worth, by parts."""

    right: float
    form: float
    brevity: float


def rewards(group: Sequence[Attempt]) -> list[Reward | None]:
    """What each answer to one question is worth; None where its check decides nothing."""
    counted = [attempt for attempt in group if attempt.right is not None]
    if not counted:
        return [None] * len(group)
    shortest, longest = min(attempt.tokens for attempt in counted), max(attempt.tokens for attempt in counted)
    return [None if attempt.right is None else _reward(attempt, shortest, longest) for attempt in group]


def _reward(attempt: Attempt, shortest: int, longest: int) -> Reward:
    brevity = 0.0 if longest == shortest else 0.5 - (attempt.tokens - shortest) / (longest - shortest)
    if not (attempt.right and attempt.well_formed):
        brevity = min(0.0, brevity)
    return Reward(float(bool(attempt.right)), float(attempt.well_formed), brevity)
