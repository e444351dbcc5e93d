"""Limits: how far the code of an answer may go."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the tests of one answer. Whoever has none runs no code."""

    seconds: float
    """Of computing, and three times as many by the clock."""
    memory_bytes: int
    """Address space."""
    without_namespaces: bool = False
    """Whether it is run also where nothing but limits confines it: then it reads and reaches what we do."""
