"""Placeholders: `[EMAIL_1]` for the first e-mail address of an interaction, and wherever the same one stands again.

Numbers count from 1 for each kind anew in each interaction, so nothing links the values of two conversations. A text that
holds `[EMAIL_1]` already keeps it: that number is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

PLACEHOLDER: Final = re.compile(r"\[([A-Z][A-Z0-9_]{0,60})_([1-9][0-9]{0,9})\]")
"""What a placeholder looks like, of whatever kind."""

_EXACT_CASE: Final = re.compile("[^0-9A-Za-z]")
_WITHOUT_SEPARATORS: Final = frozenset(("phone", "iban", "card", "mac"))


class Numbering:
    """Gives each value its placeholder, in the order in which they are asked for."""

    def __init__(self, texts: Iterable[str], *, exact: frozenset[str]) -> None:
        """`texts`: all of them, as they came; `exact`: kinds of which two spellings are two values."""
        self._exact = exact
        self._taken = {found[0] for text in texts if "[" in text for found in PLACEHOLDER.finditer(text)}
        self._given: dict[tuple[str, str], str] = {}
        self._last: dict[str, int] = {}

    def placeholder(self, kind: str, value: str) -> str:
        """The placeholder of this value: the one it has, or the next one that is free."""
        key = (kind, self._identity(kind, value))
        given = self._given.get(key)
        if given is None:
            given = self._given[key] = self._next(kind)
        return given

    def _next(self, kind: str) -> str:
        number = self._last.get(kind, 0) + 1
        while (placeholder := f"[{kind.upper()}_{number}]") in self._taken:
            number += 1
        self._last[kind] = number
        return placeholder

    def _identity(self, kind: str, value: str) -> str:
        """Two spellings of one value are one: with and without spaces, in capitals or not."""
        if kind in self._exact:
            return value
        folded = value.casefold()
        return folded if kind in ("email", "ip", "person") else _EXACT_CASE.sub("", folded)
