"""Best of a cluster: which of the rows that answer one question are kept. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

MOST_A_CLUSTER: Final = 8

Surplus = Literal[
    "duplicate_exact",  # the same question and the same answer as a row that is kept or went over the limit
    "over_cluster_limit",  # as many better rows of the cluster are kept as a cluster may have
]


class Contender(NamedTuple):
    """A row that wants to be kept.

    `lane` is the mode in which it answers (thinking, direct): rows of two lanes are never rivals. `content` is the digest of
    its normalised question and of its answer; `score` counts upwards.
    """

    cluster: bytes
    lane: str
    content: bytes
    score: float
    offset: int


@dataclass(frozen=True, slots=True)
class Best:
    """Every contender once, by its offset: those kept, and the others with the reason, each in the order of the log."""

    kept: tuple[int, ...]
    surplus: tuple[tuple[int, Surplus], ...]


def best_of_cluster(
    contenders: Sequence[Contender], *, most: int = MOST_A_CLUSTER, taken: Callable[[bytes, str], int] = lambda *_: 0
) -> Best:
    """Keep the best-scored rows of each cluster and lane, at most so many; of equal scores the earlier offset.

    `taken` says how many places of a cluster and lane are taken already. The order in which contenders are passed does
    not matter. Raises ValueError where two have one offset.
    """
    if len({each.offset for each in contenders}) < len(contenders):
        raise ValueError("two contenders have one offset; each row is passed once")
    kept: list[int] = []
    surplus: list[tuple[int, Surplus]] = []
    seen: set[tuple[bytes, str, bytes]] = set()
    places: Counter[tuple[bytes, str]] = Counter()
    for each in sorted(contenders, key=lambda contender: (-contender.score, contender.offset)):
        same, place = (each.cluster, each.lane, each.content), (each.cluster, each.lane)
        if same in seen:
            surplus.append((each.offset, "duplicate_exact"))
            continue
        seen.add(same)
        if places[place] + taken(*place) < most:
            places[place] += 1
            kept.append(each.offset)
        else:
            surplus.append((each.offset, "over_cluster_limit"))
    return Best(tuple(sorted(kept)), tuple(sorted(surplus)))
