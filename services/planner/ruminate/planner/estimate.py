"""What memory is made of: parts with the formula behind each. GB is 10^9 bytes, GiB 2^30. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

GB: Final = 10**9


@dataclass(frozen=True, slots=True)
class Part:
    """So many bytes for one thing, and how they were counted."""

    name: str
    size_bytes: int
    formula: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """All parts together. They are of one GPU, unless whoever made it says otherwise."""

    parts: tuple[Part, ...]

    @property
    def total_bytes(self) -> int:
        """The most that is allocated at one time."""
        return sum(part.size_bytes for part in self.parts)


def gb(size_bytes: float) -> str:
    """Bytes for people.

    >>> gb(29_536_614_400), gb(80_740_352)
    ('29.5 GB', '0.08 GB')
    """
    return f"{size_bytes / GB:.2f} GB" if abs(size_bytes) < GB else f"{size_bytes / GB:,.1f} GB"


def largest(holds: Callable[[int], bool], most: int, *, least: int = 1) -> int:
    """The largest number from `least` to `most` for which this holds, 0 for none; what holds for one holds for all below it."""
    if most < least or not holds(least):
        return 0
    low, high = least, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
