"""Curation: of the rows that stand ready, which are trained, which are held out, and which are left out, and why. Pure.

    rows ─▶ clusters of like questions ─▶ best of each ─▶ sides ─▶ decontaminated

*Clusters.* Several wordings of one thing are evidence, so up to so many rows of a cluster are kept, in each mode, the best-scored;
the same question with the same answer counts once. Earlier batches take part.

*Sides.* Whatever is tied together, by a conversation or by a cluster, is on one side of the hold-out: where earlier batches have
put a part of it, there; else by a hash of its first question. A cluster that nothing else teaches is never held out: *thing* is
what a short answer in words names, and the first of its clusters is trained. Numbers, yes and no name nothing.

*Decontaminated.* A row to be trained that touches a protected text (`decontaminate.py`) is left out: those of evaluations and
anchors, and the questions that are held out, of this batch and of those before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from ruminate.accumulator.curation.asked import Asked
from ruminate.accumulator.curation.best import MOST_A_CLUSTER, Contender, best_of_cluster
from ruminate.accumulator.curation.decontaminate import Protected, Runs, common_runs
from ruminate.accumulator.curation.known import HELD_OUT, Known
from ruminate.accumulator.curation.near import ClusterIndex
from ruminate.accumulator.curation.wording import normalised
from ruminate.accumulator.records.rows import INDICATORS

_SPLIT: Final = f"{HELD_OUT}/split"
MOST_HELD_OUT: Final = 5_000
"""Rows that a chain holds out: more of them measure no better, and each has to be remembered."""

Surplus = Literal["duplicate_exact", "over_cluster_limit", "contaminated"]
Texts = Callable[[int], tuple[str, ...]]
"""The texts of a row, by its offset: the question as it was asked, then the others."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A row that stands ready."""

    offset: int
    recorded: bytes
    """16 bytes that name its interaction."""
    conversation: bytes
    score: float
    asked: Asked


@dataclass(frozen=True, slots=True)
class Rules:
    """What a policy says of it. `protected` is never trained, beside what is held out."""

    holdout_ratio: float
    most_a_cluster: int = MOST_A_CLUSTER
    most_held_out: int = MOST_HELD_OUT
    protected: Protected | None = None
    anchored: ClusterIndex | None = None
    """Questions of anchors, which are trained whatever batch they come with."""
    row_max_bytes: int = 1 << 20
    indicator_weights: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(INDICATORS, 1.0))
    thinking_called_for_at: float = 1.0
    thinking_predicted_at: float = 0.8


class LeftOutRow(NamedTuple):
    """A row that does not go in. `detail` says which protected set it touches, and how."""

    offset: int
    reason: Surplus
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Curated:
    """Every standing row once, each list in the order of the log."""

    train: tuple[int, ...]
    holdout: tuple[int, ...]
    left_out: tuple[LeftOutRow, ...]
    clusters: Mapping[int, bytes]
    """Of every row, by its offset: 16 bytes, the name of the interaction that founded it."""
    guard: Guard = field(compare=False, repr=False)
    """For whatever else is to be trained with these rows."""


def curate(rows: Sequence[Standing], known: Known, rules: Rules, *, texts: Texts) -> Curated:
    """Curate the rows of one batch. Nothing of `known` is changed. Raises ValueError where two rows have one offset."""
    ordered = sorted(rows, key=lambda row: row.offset)
    fresh = ClusterIndex(most_rows=max(1, len(ordered)))
    clusters = _clusters(ordered, known, fresh)
    left_out = dict(_surplus(ordered, clusters, known, rules.most_a_cluster))
    for row in ordered:
        # Earlier batches train its conversation and hold out its question, or the reverse: it fits neither side.
        if row.offset not in left_out and {True, False} <= _sides(row, clusters, known):
            left_out[row.offset] = LeftOutRow(row.offset, "contaminated", _SPLIT)
    kept = [row for row in ordered if row.offset not in left_out]
    held_out = _held_out(kept, clusters, known, rules)
    wanted = [row for row in kept if row.offset not in held_out]
    apart = [row for row in kept if row.offset in held_out]
    guard = Guard(kept, apart, clusters, known=known, fresh=fresh, rules=rules, texts=texts)
    left_out |= dict(_contaminated(wanted, clusters, guard, texts))
    return Curated(
        train=tuple(row.offset for row in wanted if row.offset not in left_out),
        holdout=tuple(row.offset for row in apart),
        left_out=tuple(left_out[offset] for offset in sorted(left_out)),
        clusters=clusters,
        guard=guard,
    )


def _clusters(rows: Sequence[Standing], known: Known, fresh: ClusterIndex) -> dict[int, bytes]:
    """The cluster of each row: one of an earlier batch, or one that a row of this batch founds."""
    return {row.offset: known.clusters.find(row.asked.signature) or fresh.add(row.recorded, row.asked.signature) for row in rows}


def _surplus(rows: Sequence[Standing], clusters: Mapping[int, bytes], known: Known, most: int) -> Iterator[tuple[int, LeftOutRow]]:
    """Rows that say again what is sealed, or what a better one says, and rows over the limit of their cluster."""
    contenders = []
    for row in rows:
        if row.asked.content in known.contents:
            yield row.offset, LeftOutRow(row.offset, "duplicate_exact")
        else:
            contenders.append(Contender(clusters[row.offset], row.asked.lane, row.asked.content, row.score, row.offset))
    best = best_of_cluster(contenders, most=most, taken=known.clusters.rows)
    for offset, reason in best.surplus:
        yield offset, LeftOutRow(offset, reason)


class _Groups:
    """Rows that have to stay together (union-find)."""

    def __init__(self) -> None:
        self._above: dict[bytes, bytes] = {}

    def head(self, name: bytes) -> bytes:
        path = []
        while (above := self._above.setdefault(name, name)) != name:
            path.append(name)
            name = above
        for each in path:
            self._above[each] = name
        return name

    def tie(self, one: bytes, other: bytes) -> None:
        one, other = self.head(one), self.head(other)
        if one != other:
            self._above[max(one, other)] = min(one, other)


def _held_out(rows: Sequence[Standing], clusters: Mapping[int, bytes], known: Known, rules: Rules) -> set[int]:
    """The rows that are held out, by their offsets."""
    settled = {row.offset: _settled(row, clusters, known, rules.anchored) for row in rows}
    groups = _Groups()
    for row in rows:
        groups.tie(b"c" + row.conversation, b"q" + clusters[row.offset])
    members: dict[bytes, list[Standing]] = {}
    for row in rows:
        members.setdefault(groups.head(b"c" + row.conversation), []).append(row)
    held: set[int] = set()
    drawn: list[list[Standing]] = []
    for group in members.values():  # in the order of the log
        sides = {settled[row.offset] for row in group}
        held.update(row.offset for row in group if settled[row.offset] is True)
        if sides == {True, None}:
            held.update(row.offset for row in group)
        elif sides == {None} and _is_drawn(group[0], rules.holdout_ratio):
            drawn.append(group)
    apart = {row.offset for group in drawn for row in group}
    trained = {row.asked.thing for row in rows if row.offset not in held and row.offset not in apart}
    room = rules.most_held_out - known.held_out_rows
    for group in drawn:
        things = {row.asked.thing for row in group} - {None}
        if len(held) + len(group) <= room and all(
            thing in trained or (thing is not None and thing in known.things) for thing in things
        ):
            held.update(row.offset for row in group)
        else:
            trained |= things
    return held


def _settled(row: Standing, clusters: Mapping[int, bytes], known: Known, anchored: ClusterIndex | None) -> bool | None:
    """On which side earlier batches have put its conversation or its cluster, or an anchor its question; None where neither has."""
    sides = _sides(row, clusters, known)
    if sides == {None} and (
        row.asked.question in known.trained_questions or (anchored is not None and anchored.find(row.asked.signature) is not None)
    ):
        return False
    return True if True in sides else False if False in sides else None


def _sides(row: Standing, clusters: Mapping[int, bytes], known: Known) -> set[bool | None]:
    return {known.conversations.get(row.conversation), known.clusters.held_out(clusters[row.offset])}


def _is_drawn(first: Standing, ratio: float) -> bool:
    """Whether the hash of its question holds out what belongs to this row."""
    return int.from_bytes(first.asked.question[:8], "big") < ratio * 2**64


class Guard:
    """Says what a text that is to be trained gives away of what is measured, and on which side of the hold-out a row belongs."""

    def __init__(
        self,
        rows: Sequence[Standing],
        apart: Sequence[Standing],
        clusters: Mapping[int, bytes],
        *,
        known: Known,
        fresh: ClusterIndex,
        rules: Rules,
        texts: Texts,
    ) -> None:
        here = Protected()
        here.add(HELD_OUT, [texts(row.offset)[:1] for row in apart])
        self._sets = [each for each in (rules.protected, known.protected, here) if each]
        self._held_conversations = {row.conversation for row in apart}
        self._held_clusters = {clusters[row.offset] for row in apart}
        self._known = known
        self._fresh = fresh
        self._rows = rows
        self._texts = texts
        self._common: Runs | None = None

    def touched(self, texts: Sequence[str], signature: bytes | None = None) -> str | None:
        """`<set>/<how>` where texts, a question first, give something away; None where they are clean."""
        if not self._sets:
            return None
        if self._common is None:
            self._common = _common(self._rows, self._texts)
        for each in self._sets:
            touched = each.touches(texts, common=self._common, signature=signature)
            if touched is not None:
                return f"{touched.protected}/{touched.kind}"
        return None

    def tied(self, conversation: bytes, cluster: bytes) -> bool:
        """Whether a conversation or a cluster is held out by this batch."""
        return conversation in self._held_conversations or cluster in self._held_clusters

    def place(self, row: Standing, cluster: bytes | None = None) -> tuple[bytes, bool]:
        """The cluster of a row, where that is not known yet, and whether that or its conversation is held out, here or before."""
        known, signature = self._known, row.asked.signature
        cluster = cluster or known.clusters.find(signature) or self._fresh.find(signature) or row.recorded
        before = True in (known.conversations.get(row.conversation), known.clusters.held_out(cluster))
        return cluster, before or self.tied(row.conversation, cluster)


def _contaminated(
    wanted: Sequence[Standing], clusters: Mapping[int, bytes], guard: Guard, texts: Texts
) -> Iterator[tuple[int, LeftOutRow]]:
    """Of the rows to be trained, those that give away what is measured."""
    for row in wanted:
        # Its conversation and its question have come to different sides.
        if guard.tied(row.conversation, clusters[row.offset]):
            yield row.offset, LeftOutRow(row.offset, "contaminated", _SPLIT)
        elif (touched := guard.touched(texts(row.offset), row.asked.signature)) is not None:
            yield row.offset, LeftOutRow(row.offset, "contaminated", touched)


def _common(rows: Iterable[Standing], texts: Texts) -> Runs:
    """The runs that many questions of the batch share: each question once, and all of them never in memory."""
    first = {row.asked.question: row.offset for row in rows}
    return common_runs(normalised(texts(offset)[0]) for offset in first.values())
