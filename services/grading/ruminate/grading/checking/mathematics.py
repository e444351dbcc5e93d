"""Mathematics: which texts are to be compared as expressions, and the question to whoever can.

Comparing them takes milliseconds and SymPy, and is not always over in time: so `decide` is handed an `Equal`, and without one
leaves them undecided. mathematician.py has one.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

LONGEST: Final = 200
"""Characters of an expression."""
_SIGNS = re.compile(
    r"\\[a-zA-Z]+|[\^√π∞∪∩≤≥∈]"
    r"|(?<![A-Za-z])[A-Za-z] ?[-+*/=] ?[A-Za-z0-9(](?![A-Za-z])|[0-9)] ?[-+*/=] ?[A-Za-z](?![A-Za-z])"
    r"|[(\[{] ?[-\w.∞]{1,20} ?(?:, ?[-\w.∞]{1,20} ?){1,10}[)\]}]"
)
# A tower of powers has more digits than memory.
_TOWER = re.compile(r"\^[^-+*/=,]{0,8}\^|\d{3,}\)?\^|\^\{?\d{4,}|!")


class Equal(Protocol):
    """Whether two expressions are equal; None where one of them is not understood, or not in time."""

    def __call__(self, reference: str, answer: str, /) -> bool | None: ...


def nobody(reference: str, answer: str, /) -> None:
    """Nobody to ask."""


def is_mathematical(text: str) -> bool:
    """Whether a text is short, and has signs that only mathematics would compare."""
    return 0 < len(text) <= LONGEST and _SIGNS.search(text) is not None


def is_safe(expression: str) -> bool:
    """Whether an expression is short enough to be understood, and no number in it outgrows memory."""
    return len(expression) <= LONGEST and _TOWER.search(expression) is None
