"""Strata: so many places, shared out over groups in proportion to their sizes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

K = TypeVar("K", bound=tuple[object, ...])


def allocate(sizes: Mapping[K, int], places: int) -> dict[K, int]:
    """Share out places by the largest remainder (Hamilton), never more to a group than it has; equal remainders by the keys' order.

    A group gets one less or one more than its exact part, and all places are used where there is enough to fill them.
    """
    total = sum(sizes.values())
    if places >= total:
        return dict(sizes)
    if places <= 0:
        return dict.fromkeys(sizes, 0)
    shares = {key: divmod(size * places, total) for key, size in sizes.items()}
    given = {key: whole for key, (whole, _) in shares.items()}
    left = places - sum(given.values())
    by_remainder = sorted(sizes, key=lambda key: (-shares[key][1], str(key)))
    for key in by_remainder[:left]:
        given[key] += 1
    return given
