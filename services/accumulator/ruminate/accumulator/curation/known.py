"""Known: what the batches of a chain have settled for those to come: clusters and their sides, contents, things. Pure.

A fold over sealed datasets in their order. Clusters are those of the latest rows; what else is kept takes 20 to 30 bytes a
row, a thing, a conversation. Of a question that is held out the words are protected, too: so there are at most so many.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ruminate.accumulator.curation.asked import Asked
from ruminate.accumulator.curation.decontaminate import Protected
from ruminate.accumulator.curation.digests import DigestSet, Sides
from ruminate.accumulator.curation.near import ClusterIndex
from ruminate.accumulator.curation.predictor import Predictor
from ruminate.accumulator.curation.rehearsal import Buffer

HELD_OUT: Final = "holdout"
"""The protected set of the questions that are held out."""
WINDOW_ROWS: Final = 100_000
"""Latest rows whose clusters are known."""


class Settled(NamedTuple):
    """What a batch remembers of a row, beside where it comes from."""

    recorded: bytes
    """16 bytes that name its interaction."""
    conversation: bytes
    asked: Asked
    held_out: bool


class Clusters:
    """The clusters of the latest rows: which question belongs to which, its rows in each lane, and its side."""

    __slots__ = ("_index", "_most_rows", "_rows")

    def __init__(self, *, most_rows: int = WINDOW_ROWS) -> None:
        self._most_rows = most_rows
        self._index = ClusterIndex(most_rows=most_rows)
        self._rows: dict[bytes, int] = {}
        """Rows by lane, and the side in the lowest bit; what was added to last comes last."""

    def __len__(self) -> int:
        """How many clusters are known."""
        return len(self._rows)

    def find(self, signature: bytes) -> bytes | None:
        """The cluster that a question belongs to; None where it would found one."""
        return self._index.find(signature)

    def rows(self, cluster: bytes, lane: str) -> int:
        """How many rows of a lane it has, up to 32,767."""
        return self._rows.get(cluster, 0) >> _SHIFTS[lane] & _MOST_COUNTED

    def held_out(self, cluster: bytes) -> bool | None:
        """On which side it is: that of its first row. None where it is not known."""
        found = self._rows.get(cluster)
        return None if found is None else bool(found & 1)

    def settle(self, row: Settled, *, counts: bool = True) -> None:
        """Take a row in. One that does not count has a side and takes no place."""
        cluster = self._index.add(row.recorded, row.asked.signature)
        found = self._rows.pop(cluster, int(row.held_out))
        shift = _SHIFTS[row.asked.lane]
        if counts and found >> shift & _MOST_COUNTED < _MOST_COUNTED:
            found += 1 << shift
        self._rows[cluster] = found
        if len(self._rows) > 2 * self._most_rows:
            # Many at once: a dict that loses its oldest entry again and again is looked through from its beginning each time.
            self._rows = dict(list(self._rows.items())[-self._most_rows :])


_SHIFTS: Final = {"thinking": 1, "direct": 16}
_MOST_COUNTED: Final = (1 << 15) - 1


@dataclass(slots=True)
class Known:
    """What is settled. `protected` holds the questions that are held out, under the name of `HELD_OUT`."""

    clusters: Clusters = field(default_factory=Clusters)
    contents: DigestSet = field(default_factory=DigestSet)
    things: DigestSet = field(default_factory=DigestSet)
    """What is trained."""
    conversations: Sides = field(default_factory=Sides)
    protected: Protected = field(default_factory=Protected)
    held_out_rows: int = 0
    trained_questions: DigestSet = field(default_factory=DigestSet)
    """Of every row, however long ago: the window of clusters forgets."""
    pairs: DigestSet = field(default_factory=DigestSet)
    """Of answers of which one is preferred."""
    questions: DigestSet = field(default_factory=DigestSet)
    """That can be checked."""
    buffer: Buffer = field(default_factory=Buffer)
    predictor: Predictor = field(default_factory=Predictor)

    def settle(self, rows: Iterable[tuple[Settled, str | None]], *, counts: bool = True) -> None:
        """Take in the rows of a batch; with a row that is held out comes its question.

        Rows that do not count are on their side, and may be chosen once more.
        """
        questions = []
        for row, question in rows:
            self.clusters.settle(row, counts=counts)
            self.conversations.settle(row.conversation, held_out=row.held_out)
            if counts:
                self.contents.add(row.asked.content)
            if row.held_out:
                self.held_out_rows += 1
                questions.append((question or "",))
                continue
            self.trained_questions.add(row.asked.question)
            if row.asked.thing is not None and counts:
                self.things.add(row.asked.thing)
        self.protected.add(HELD_OUT, questions)

    def settle_beside(self, rows: Iterable[Settled]) -> None:
        """Take in what was trained without a row: its question and its conversation are on that side, and take no place."""
        for row in rows:
            self.clusters.settle(row, counts=False)
            self.conversations.settle(row.conversation, held_out=False)
            self.trained_questions.add(row.asked.question)
