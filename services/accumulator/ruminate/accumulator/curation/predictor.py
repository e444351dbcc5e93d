"""Predictor: does a question call for thinking, going by what earlier ones like it needed? Pure.

Naive Bayes over what a question is like (`facts.py`), with Laplace's rule for what was never seen. It is counts and nothing else,
so it is the same wherever it is counted, and every manifest holds what its chain had counted by then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

LEAST_OF_EACH: Final = 30
"""Questions of each kind from which it says anything."""
_DIGITS: Final = 3


class Lesson(NamedTuple):
    """A question of a row, and whether it needed thinking."""

    signs: tuple[str, ...]
    needed: bool


@dataclass(frozen=True, slots=True)
class Predictor:
    """How many questions needed no thinking and how many did: all of them, and those with each sign."""

    seen: tuple[int, int] = (0, 0)
    signs: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def taught(self, lessons: Iterable[Lesson]) -> Predictor:
        """The predictor after these lessons too."""
        seen, signs = list(self.seen), {name: list(counts) for name, counts in self.signs.items()}
        for lesson in lessons:
            seen[lesson.needed] += 1
            for sign in lesson.signs:
                signs.setdefault(sign, [0, 0])[lesson.needed] += 1
        return Predictor((seen[0], seen[1]), {name: (counts[0], counts[1]) for name, counts in sorted(signs.items())})

    def chance(self, signs: tuple[str, ...]) -> float | None:
        """That a question with these signs calls for thinking, 0-1, in thousandths; None while too little was seen.

        Each sign counts half: they hang together, and taken as independent they would make it far too sure.
        """
        if min(self.seen) < LEAST_OF_EACH:
            return None
        needless, needed = self.seen
        odds = math.log(needed / needless)
        for sign in signs:
            without, with_it = self.signs.get(sign, (0, 0))
            odds += 0.5 * math.log((with_it + 1) / (needed + 2) * ((needless + 2) / (without + 1)))
        return round(1 / (1 + math.exp(-max(-30.0, min(30.0, odds)))), _DIGITS)
