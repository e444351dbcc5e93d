"""Regular expressions that operators write, run by RE2: whatever they are, their time grows with the text and no faster. Pure.

Python's own engine tries one way after the other, and `(a+)+b` has 2^n of them on n letters: a service would stand still for one
message. RE2 refuses what cannot be decided in one pass (looking around, back-references). `\\d`, `\\w` and `\\b` are of ASCII
there; `\\pL` is any letter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import re2

_QUIET: Final = re2.Options()
_QUIET.log_errors = False
_SAMPLES: Final = ("", "a", "a0 _-.", "\n")
"""Whatever may match nothing, does so in one of these: at their ends, in and around words."""


class NoPattern(ValueError):
    """RE2 does not take the expression; the message says why, in its words."""


class Pattern:
    """An expression. Raises NoPattern."""

    def __init__(self, source: str) -> None:
        try:
            self._compiled = re2.compile(source, _QUIET)
        except re2.error as error:
            (why,) = error.args
            raise NoPattern(why.decode(errors="replace") if isinstance(why, bytes) else str(why)) from None

    @property
    def may_match_nothing(self) -> bool:
        """Whether it may match a text of no characters, be it between two others."""
        return any(found.end() == found.start() for sample in _SAMPLES for found in self._compiled.finditer(sample))

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Where it matches, one after the other; what takes no character is no match."""
        return (found.span() for found in self._compiled.finditer(text) if found.end() > found.start())
