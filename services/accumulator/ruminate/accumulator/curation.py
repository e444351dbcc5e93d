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

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import orjson

from ruminate.accumulator.best import MOST_A_CLUSTER, Contender, best_of_cluster
from ruminate.accumulator.decontaminate import Protected, Runs, common_runs
from ruminate.accumulator.digests import DIGEST_BYTES, DigestSet, Sides
from ruminate.accumulator.near import ClusterIndex, signature_of
from ruminate.accumulator.wording import digest_of_normalised, is_number, normalised, words_of

HELD_OUT: Final = "holdout"
"""The protected set of the questions that are held out."""
_SPLIT: Final = f"{HELD_OUT}/split"
_LONGEST_THING: Final = 8
"""Words of an answer that may name a thing."""
_SMALL: Final = "a an the of in on at to and or is are was were it its this that"
_SMALL_WORDS: Final = frozenset(_SMALL.split())
_NAMES_NOTHING: Final = frozenset({"yes", "no", "true", "false", "none"})

Lane = Literal["thinking", "direct"]
Surplus = Literal["duplicate_exact", "over_cluster_limit", "contaminated"]


class Wording(NamedTuple):
    """What curation looks at in a row."""

    question: str
    """All that the user has asked, normalised."""
    signature: bytes
    content: bytes
    """Digest of question and answer."""
    thing: bytes | None
    """Digest of what the answer names; None where it names nothing."""
    lane: Lane
    texts: tuple[str, ...]
    """The question as it was asked, the answer, the thinking."""


def wording_of(line: bytes) -> Wording:
    """The wording of a row, from its line. Raises ValueError where the line is none."""
    row = orjson.loads(line)
    asked = "\n".join(turn["content"] for turn in row["prompt"] if turn["role"] == "user")
    (answer,) = row["completion"]
    said, thinking = answer["content"], answer.get("reasoning_content")
    if calls := answer.get("tool_calls"):
        said = f"{said}\n{orjson.dumps(calls, option=orjson.OPT_SORT_KEYS).decode()}"
    question = normalised(asked)
    return Wording(
        question=question,
        signature=signature_of(question),
        content=digest_of_normalised(question, normalised(said)),
        thing=None if calls else _thing(question, answer["content"]),
        lane="direct" if thinking is None else "thinking",
        texts=(asked, said) if thinking is None else (asked, said, thinking),
    )


def _thing(question: str, answer: str) -> bytes | None:
    """What a short answer in words names: the words that it adds to the question."""
    words = words_of(answer)
    if not 0 < len(words) <= _LONGEST_THING or any(map(is_number, words)):
        return None
    named = sorted(set(words) - set(question.split()) - _SMALL_WORDS)
    if not named or not _NAMES_NOTHING.isdisjoint(named):
        return None
    return digest_of_normalised(" ".join(named))


@dataclass(frozen=True, slots=True)
class Standing:
    """A row that stands ready."""

    offset: int
    recorded: bytes
    """16 bytes that name its interaction."""
    conversation: bytes
    score: float
    wording: Wording


@dataclass(slots=True)
class Known:
    """What the batches before have settled."""

    clusters: ClusterIndex = field(default_factory=ClusterIndex)
    places: Counter[bytes] = field(default_factory=Counter)
    """Rows by cluster and lane, see `place_of`."""
    contents: DigestSet = field(default_factory=DigestSet)
    """Digests of lane, question and answer."""
    things: DigestSet = field(default_factory=DigestSet)
    """What is trained."""
    sides: Sides = field(default_factory=Sides)
    """Of conversations and of clusters."""
    protected: Protected = field(default_factory=Protected)

    def settle(self, row: Settled, *, conversation: bytes, signature: bytes) -> None:
        """Take in a row that a batch has sealed."""
        held_out = row.side == "holdout"
        self.clusters.add(row.recorded, signature)
        self.places[place_of(row.cluster, row.lane)] += 1
        self.contents.add(content_of(row.content, row.lane))
        if row.thing is not None and not held_out:
            self.things.add(row.thing)
        self.sides.settle(conversation, held_out=held_out)
        self.sides.settle(row.cluster, held_out=held_out)


class Settled(NamedTuple):
    """What a batch remembers of a row, beside where it comes from."""

    recorded: bytes
    cluster: bytes
    content: bytes
    thing: bytes | None
    lane: Lane
    side: Literal["train", "holdout"]


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


def place_of(cluster: bytes, lane: Lane) -> bytes:
    """What names the rows of a cluster that are rivals."""
    return cluster + lane[:1].encode()


def content_of(content: bytes, lane: Lane) -> bytes:
    """16 bytes for a question, its answer and the mode of the answer."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES, person=lane.encode()).digest()


def curate(rows: Sequence[Standing], known: Known, *, holdout_ratio: float, most_a_cluster: int = MOST_A_CLUSTER) -> Curated:
    """Curate the rows of one batch. Nothing of `known` is changed. Raises ValueError where two rows have one offset."""
    ordered = sorted(rows, key=lambda row: row.offset)
    clusters = _clusters(ordered, known)
    left_out = dict(_surplus(ordered, clusters, known, most_a_cluster))
    for row in ordered:
        # Earlier batches train its conversation and hold out its question, or the reverse: it fits neither side.
        if row.offset not in left_out and {True, False} <= _sides(row, clusters, known):
            left_out[row.offset] = LeftOutRow(row.offset, "contaminated", _SPLIT)
    kept = [row for row in ordered if row.offset not in left_out]
    held_out = _held_out(kept, clusters, known, holdout_ratio)
    wanted = [row for row in kept if row.offset not in held_out]
    apart = [row for row in kept if row.offset in held_out]
    left_out |= dict(_contaminated(wanted, apart, clusters, known))
    return Curated(
        train=tuple(row.offset for row in wanted if row.offset not in left_out),
        holdout=tuple(row.offset for row in apart),
        left_out=tuple(left_out[offset] for offset in sorted(left_out)),
        clusters=clusters,
    )


def _clusters(rows: Sequence[Standing], known: Known) -> dict[int, bytes]:
    """The cluster of each row: one of an earlier batch, or one that a row of this batch founds."""
    fresh = ClusterIndex(most_rows=max(1, len(rows)), likeness=known.clusters.likeness)
    return {
        row.offset: known.clusters.find(row.wording.signature) or fresh.add(row.recorded, row.wording.signature) for row in rows
    }


def _surplus(rows: Sequence[Standing], clusters: Mapping[int, bytes], known: Known, most: int) -> Iterator[tuple[int, LeftOutRow]]:
    """Rows that say again what is sealed, or what a better one says, and rows over the limit of their cluster."""
    contenders = []
    for row in rows:
        wording = row.wording
        if content_of(wording.content, wording.lane) in known.contents:
            yield row.offset, LeftOutRow(row.offset, "duplicate_exact")
        else:
            contenders.append(Contender(clusters[row.offset], wording.lane, wording.content, row.score, row.offset))
    best = best_of_cluster(contenders, most=most, taken=known.places)
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


def _held_out(rows: Sequence[Standing], clusters: Mapping[int, bytes], known: Known, ratio: float) -> set[int]:
    """The rows that are held out, by their offsets."""
    settled = {row.offset: _settled(row, clusters, known) for row in rows}
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
        elif sides == {None} and _is_drawn(group[0], ratio):
            drawn.append(group)
    apart = {row.offset for group in drawn for row in group}
    trained = {row.wording.thing for row in rows if row.offset not in held and row.offset not in apart}
    for group in drawn:
        things = {row.wording.thing for row in group} - {None}
        if all(thing in trained or (thing is not None and thing in known.things) for thing in things):
            held.update(row.offset for row in group)
        else:
            trained |= things
    return held


def _settled(row: Standing, clusters: Mapping[int, bytes], known: Known) -> bool | None:
    """On which side earlier batches have put its conversation or its cluster; None where they know neither."""
    sides = _sides(row, clusters, known)
    return True if True in sides else False if False in sides else None


def _sides(row: Standing, clusters: Mapping[int, bytes], known: Known) -> set[bool | None]:
    return {known.sides.get(row.conversation), known.sides.get(clusters[row.offset])}


def _is_drawn(first: Standing, ratio: float) -> bool:
    """Whether the hash of its question holds out what belongs to this row."""
    return int.from_bytes(digest_of_normalised(first.wording.question)[:8], "big") < ratio * 2**64


def _contaminated(
    wanted: Sequence[Standing], apart: Sequence[Standing], clusters: Mapping[int, bytes], known: Known
) -> Iterator[tuple[int, LeftOutRow]]:
    """Of the rows to be trained, those that give away what is measured."""
    here = Protected()
    here.add(HELD_OUT, [row.wording.texts[:1] for row in apart])
    common = common_runs({row.wording.question for row in (*wanted, *apart)})
    tied = {row.conversation for row in apart} | {clusters[row.offset] for row in apart}
    for row in wanted:
        # Its conversation and its question have come to different sides.
        if row.conversation in tied or clusters[row.offset] in tied:
            yield row.offset, LeftOutRow(row.offset, "contaminated", _SPLIT)
        elif (touched := _touched(row, (known.protected, here), common)) is not None:
            yield row.offset, LeftOutRow(row.offset, "contaminated", touched)


def _touched(row: Standing, protected: Iterable[Protected], common: Runs) -> str | None:
    for each in protected:
        touched = each.touches(row.wording.texts, common=common, signature=row.wording.signature)
        if touched is not None:
            return f"{touched.protected}/{touched.kind}"
    return None
