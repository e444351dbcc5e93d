"""Choose: which of the rows that stand ready are trained, in which order, and what is recorded of the rest. Pure.

Nothing here depends on more than the rows and a seed, so the same interval always gives the same rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ruminate.accumulator.curation.curate import Curated
from ruminate.accumulator.curation.strata import allocate
from ruminate.accumulator.making.candidate import Candidate
from ruminate.accumulator.records.rows import LeftOut
from ruminate.accumulator.sealing.chain import Counts, Fold, Item
from ruminate.accumulator.sealing.decide import Policy
from ruminate.accumulator.sealing.sample import Counted


class Omitted(NamedTuple):
    """A record without a row, and why. `detail` says what it would give away."""

    item: Item
    reason: LeftOut
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """Every record of a fold, once: those that stand ready, and the rest with its reason, in the order of the log.

    `beside` are those of the rest that may still teach something: what people prefer, a question whose answers can be checked.
    """

    standing: tuple[Item, ...]
    left_out: tuple[Omitted, ...]
    sample: Counted
    """How all its interactions are, whatever becomes of them."""
    beside: tuple[Item, ...] = ()

    def without(self, offsets: Collection[int]) -> Interval:
        """The interval, with these records left out as withdrawn: whoever they are of wants nothing learned from them."""
        if not offsets:
            return self
        withdrawn = (Omitted(item, "withdrawn") for item in self.standing if item.offset in offsets)
        return Interval(
            standing=tuple(item for item in self.standing if item.offset not in offsets),
            left_out=tuple(sorted([*self.left_out, *withdrawn], key=lambda omitted: omitted.item.offset)),
            sample=self.sample,
            beside=tuple(item for item in self.beside if item.offset not in offsets),
        )

    def wanted(self) -> dict[int, Item]:
        """What a cut reads again, by its offset."""
        return {item.offset: item for item in (*self.standing, *self.beside)}


_GIVES_ALL_THE_SAME: Final = frozenset({"rejected", "continued", "sealed_before"})


def interval_of(fold: Fold) -> Interval:
    """What a cut now has to choose from."""
    standing: list[Item] = []
    left_out: list[Omitted] = []
    beside: list[Item] = []
    for item, why_not in fold.judged():
        if why_not is None:
            standing.append(item)
            continue
        left_out.append(Omitted(item, why_not))
        if item.gives and why_not in _GIVES_ALL_THE_SAME:
            beside.append(item)
    return Interval(tuple(standing), tuple(left_out), fold.sample.counted(), tuple(beside))


@dataclass(frozen=True, slots=True)
class Selection:
    """Every record of the interval, once: the rows, in the order of their lines, and the rest with its reason."""

    train: tuple[Item, ...]
    holdout: tuple[Item, ...]
    left_out: tuple[Omitted, ...]
    clusters: Mapping[int, bytes]
    """Of every row, by its offset."""
    trainable: Counts
    """Rows that could be trained, were it not for the ratio."""
    sample: Counted

    @property
    def tokens(self) -> int:
        """Of the rows that are trained."""
        return sum(item.tokens for item in self.train)

    def rows(self) -> Iterator[tuple[Item, bool]]:
        """Every row in the order of the lines, and whether it is held out."""
        yield from ((item, False) for item in self.train)
        yield from ((item, True) for item in self.holdout)


def seed_of(batch_id: str, shuffle_seed: int) -> str:
    """What the order of a batch's rows and the choice among its direct rows depend on."""
    return f"{shuffle_seed}/{batch_id}"


def choose(
    interval: Interval,
    curated: Curated,
    policy: Policy,
    *,
    seed: str,
    looked_at: Mapping[int, Candidate],
    called_for: Callable[[Candidate], bool],
) -> Selection:
    """Choose the rows of a batch out of those that stand ready, which `looked_at` has by their offsets.

    Of rows whose thinking was written afterwards the best-scored stay, up to their share; none of them is held out, where
    captured thinking is measured. Direct rows over the ratio go: first those whose question calls for thinking, then of each
    stratum as large a part as of any other, by the order of a seeded hash, which also orders the lines.
    """

    def drawn(items: Iterable[Item], purpose: str) -> list[Item]:
        return sorted(items, key=lambda item: hashlib.sha256(f"{seed}/{purpose}/".encode() + item.recorded).digest())

    standing = {item.offset: item for item in interval.standing}
    train = [standing[offset] for offset in curated.train]
    captured = [item for item in train if item.reasoning and not looked_at[item.offset].facts.generated]
    written = sorted(
        (item for item in train if item.reasoning and looked_at[item.offset].facts.generated),
        key=lambda item: (-looked_at[item.offset].score, item.offset),
    )
    most_written = policy.generated_allowed(len(captured))
    reasoning = captured + written[:most_written]
    direct = drawn((item for item in train if not item.reasoning), "sample")
    called = {item.offset for item in direct if called_for(looked_at[item.offset])}
    sampled = _sampled(direct, called, looked_at, room=policy.direct_allowed(len(reasoning)))
    apart = [standing[offset] for offset in curated.holdout]
    held_out = [item for item in apart if not looked_at[item.offset].facts.generated]
    left_out = [
        *interval.left_out,
        *(Omitted(standing[left.offset], left.reason, left.detail) for left in curated.left_out),
        *(Omitted(item, "over_generated") for item in written[most_written:]),
        *(Omitted(item, "over_generated") for item in apart if looked_at[item.offset].facts.generated),
        *(Omitted(item, "over_ratio") for item in direct if item.offset not in sampled),
    ]
    return Selection(
        train=tuple(drawn(reasoning + [item for item in direct if item.offset in sampled], "order")),
        holdout=tuple(drawn(held_out, "order")),
        left_out=tuple(sorted(left_out, key=lambda omitted: omitted.item.offset)),
        clusters=curated.clusters,
        trainable=Counts(len(reasoning), len(direct)),
        sample=interval.sample,
    )


def _sampled(direct: Sequence[Item], called: Collection[int], looked_at: Mapping[int, Candidate], *, room: int) -> set[int]:
    """The offsets of those that stay, `direct` being in the order in which they are drawn."""
    kept: set[int] = set()
    for group in ([item for item in direct if item.offset not in called], [item for item in direct if item.offset in called]):
        strata: dict[tuple[str, ...], list[Item]] = {}
        for item in group:
            strata.setdefault(looked_at[item.offset].facts.stratum, []).append(item)
        places = allocate({stratum: len(items) for stratum, items in strata.items()}, room - len(kept))
        for stratum, items in strata.items():
            kept.update(item.offset for item in items[: places[stratum]])
    return kept
