"""Rehearsal: which rows of earlier batches are trained once more with a new one, so that what was learned stays. Pure.

*Coverage.* A stratum here is a batch with a domain, a difficulty and a mode. Each gives as large a part of its rows as any other,
so nothing that was ever taught is left out for being old, short or easy.

*Score.* Within a stratum rows are drawn without replacement, each with a chance in proportion to its score (Efraimidis and Spirakis
2006: the smallest -log(u) / score first), and a second row of one question only after every question had its first.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ruminate.accumulator.curation.digests import DIGEST_BYTES
from ruminate.accumulator.curation.strata import allocate

MOST_ROWS: Final = 200_000
"""Latest rows that can be drawn, in about 55 bytes each."""
_LEAST_SCORE: Final = 0.01


class Rehearsable(NamedTuple):
    """A row that was trained."""

    number: int
    """Of its batch."""
    recorded: bytes
    """16 bytes that name its interaction."""
    cluster: bytes
    score: float
    reasoning: bool
    domain: str
    difficulty: str


class Pick(NamedTuple):
    """A row to be trained once more."""

    number: int
    recorded: bytes


@dataclass(slots=True)
class Buffer:
    """The rows that can be trained once more, oldest first."""

    most_rows: int = MOST_ROWS
    _numbers: array[int] = field(default_factory=lambda: array("I"))
    _scores: array[float] = field(default_factory=lambda: array("f"))
    _strata: array[int] = field(default_factory=lambda: array("I"))
    _recorded: bytearray = field(default_factory=bytearray)
    _clusters: bytearray = field(default_factory=bytearray)
    _names: dict[tuple[int, str, str, bool], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, row: Rehearsable) -> None:
        """Take in a row."""
        stratum = (row.number, row.domain, row.difficulty, row.reasoning)
        self._numbers.append(row.number)
        self._scores.append(row.score)
        self._strata.append(self._names.setdefault(stratum, len(self._names)))
        self._recorded += row.recorded
        self._clusters += row.cluster
        if len(self) > 2 * self.most_rows:
            self._forget(len(self) - self.most_rows)

    def draw(self, *, reasoning: int, direct: int, seed: str) -> list[Pick]:
        """At most so many rows of each mode, in the order of a seeded hash."""
        first = max(0, len(self) - self.most_rows)
        by_stratum: dict[int, list[int]] = {}
        for place in range(first, len(self)):
            by_stratum.setdefault(self._strata[place], []).append(place)
        names = {index: name for name, index in self._names.items()}
        picks: list[Pick] = []
        for mode, wanted in ((True, reasoning), (False, direct)):
            places = {names[index]: held for index, held in by_stratum.items() if names[index][3] is mode}
            given = allocate({name: len(held) for name, held in places.items()}, wanted)
            for name, held in places.items():
                picks += (Pick(self._numbers[each], self._name(each)) for each in self._drawn(held, given[name], seed))
        return sorted(picks, key=lambda pick: hashlib.sha256(f"{seed}/rehearsal/".encode() + pick.recorded).digest())

    def counts(self) -> tuple[int, int]:
        """How many rows that reason, and how many direct ones, can be drawn."""
        names = {index: name for name, index in self._names.items()}
        first = max(0, len(self) - self.most_rows)
        reasoning = sum(names[index][3] for index in self._strata[first:])
        return reasoning, len(self) - first - reasoning

    def _drawn(self, held: list[int], wanted: int, seed: str) -> Iterator[int]:
        """The first so many of a stratum."""
        if not wanted:
            return
        ordered = sorted((self._luck(place, seed), place) for place in held)
        times: dict[bytes, int] = {}
        rounds = []
        for luck, place in ordered:
            cluster = bytes(self._clusters[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES])
            times[cluster] = times.get(cluster, 0) + 1
            rounds.append((times[cluster], luck, place))
        for _, _, place in sorted(rounds)[:wanted]:
            yield place

    def _luck(self, place: int, seed: str) -> float:
        hashed = hashlib.sha256(f"{seed}/draw/".encode() + self._name(place)).digest()
        share = (int.from_bytes(hashed[:6], "big") + 0.5) / 2**48
        return -math.log(share) / max(_LEAST_SCORE, self._scores[place])

    def _forget(self, rows: int) -> None:
        for column in (self._numbers, self._scores, self._strata):
            del column[:rows]
        for digests in (self._recorded, self._clusters):
            del digests[: rows * DIGEST_BYTES]

    def _name(self, place: int) -> bytes:
        return bytes(self._recorded[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES])
