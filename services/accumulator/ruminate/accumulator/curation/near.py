"""Near duplicates: which questions are one question in slightly other words. Pure.

    normalised question  ->  signature_of  ->  ClusterIndex.add  ->  the cluster of the question

*Likeness* is the Jaccard index of two sets of shingles: the words of a text, and its pairs of neighbouring words with its
beginning and its end as neighbours. Words alone take `from English to French` for `from French to English`; longer
shingles lose a short question by one word. With both, one other word in a question of n leaves (2n - 2) / (2n + 4): like
(0.73) from 10 words on, and two capitals asked for in 6 words are two questions. A character is a word where a script puts
no spaces, so its pairs are the bigrams by which such texts are searched.

Questions whose numbers and operators differ, or stand in another order, are never alike: they have other answers.

Signatures are MinHash (Broder 1997), of which 8 bits a hash are kept (Li and König 2010): 256 hashes estimate an index J
with a standard deviation of sqrt(J (1 - J) / 256), 0.025 at 0.8. Candidates are those that share one of 32 bands of 8
hashes, which happens with probability 1 - (1 - J^8)^32: 0.997 at 0.8, 0.12 at 0.5.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from ruminate.accumulator.curation.digests import DIGEST_BYTES
from ruminate.accumulator.curation.wording import figures_of

HASHES: Final = 256
BANDS: Final = 32
MIN_JACCARD: Final = 0.73
"""Nearly three standard deviations below 0.8, so that of texts at 0.8 hardly one is missed, and seven above 0.5."""
MOST_ROWS: Final = 1_000_000
SIGNATURE_BYTES: Final = HASHES + 8
"""One byte a hash, then 8 bytes of BLAKE2b over the numbers and operators."""
_SEED: Final = 20_261
_DIGEST: Final = struct.Struct(f"<{HASHES}I")

U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]


def shingles_of(normalised: str) -> list[str]:
    """What a text is a set of: its words, then its pairs of neighbours; the text without a word has the pair of its ends."""
    words = normalised.split()
    return [*words, *map(" ".join, zip(["", *words], [*words, ""], strict=True))]


def signature_of(normalised: str) -> bytes:
    """What is compared of a text that `normalised` has made: SIGNATURE_BYTES that depend on it and on rensa's algorithm alone."""
    sketch = RMinHash(HASHES, _SEED)
    sketch.update(shingles_of(normalised))
    figures = hashlib.blake2b(" ".join(figures_of(normalised.split())).encode(), digest_size=8)
    return _DIGEST.pack(*sketch.digest())[::4] + figures.digest()


def jaccard_of(one: bytes, other: bytes) -> float:
    """The likeness of two texts that their signatures estimate, 0–1; numbers and operators aside."""
    alike = int(np.count_nonzero(np.frombuffer(one, np.uint8)[:HASHES] == np.frombuffer(other, np.uint8)[:HASHES]))
    return _estimate(alike)


def _estimate(alike: int) -> float:
    return max(0.0, (256 * alike / HASHES - 1) / 255)  # unlike hashes agree in 8 bits once in 256 times


class Likeness(NamedTuple):
    """When two texts are one question."""

    min_jaccard: float = MIN_JACCARD
    same_figures: bool = True
    """Whether numbers and operators must be the same. Without, a question stays alike when a date in it changes."""


ALIKE: Final = Likeness()


# A row's record, in columns of 8 bytes: the bands and the figures, which are its signature, the key, the cluster.
_FIGURES, _KEY, _CLUSTER, _COLUMNS = BANDS, BANDS + 1, BANDS + 3, BANDS + 5
# A row's links: the next older row in the chain of its key; the next younger member of its cluster; of a representative,
# the youngest member. A link is the number of a row plus one; 0 is none. Numbers count all rows ever held, so a link to a
# row that has left is told by its size.
_OLDER, _YOUNGER, _YOUNGEST = range(3)
_GONE, _MEMBER, _REPRESENTATIVE = range(3)
_WAYS: Final = 4
"""Links in a bucket of a band. When it is full the oldest gives way: of 32 bands, others still find that row.

Unlike texts have at most 0.84 of their shingles in common (2J / (1 + J)), so they share at most a quarter of the bands.
"""
_ROWS_A_BUCKET: Final = 2
_FIRST_ROWS: Final = 1 << 10
_LAST_NUMBER: Final = 2**32 - 2
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)
_BAND: Final = np.arange(BANDS)
_FORMAT: Final = struct.Struct("<8sIIQdQ?")
_MAGIC: Final = b"clusters"


class ClusterIndex:
    """Clusters of like texts in the order in which they are added, in about 600 bytes a row.

    A cluster's id is the key of the text that founded it. A text joins the cluster whose *representative* it resembles
    most, of equal ones the older; members are not compared, so a cluster never wanders off over a chain of small steps.
    The representative is the oldest member still held, at first the founder.

    At most `most_rows` texts are held: with each further one the oldest leaves, also where it was removed. Its cluster
    lives on in the next oldest member, under the same id, and ends with the last. The same calls in the same order give
    the same answers. Room is doubled when it is full, which at half a million rows takes a second.
    """

    __slots__ = (
        "_buckets",
        "_count",
        "_first_buckets",
        "_key_heads",
        "_links",
        "_next",
        "_records",
        "_shift",
        "_states",
        "likeness",
        "most_rows",
    )

    def __init__(self, *, most_rows: int = MOST_ROWS, likeness: Likeness = ALIKE) -> None:
        """Raises ValueError where `most_rows` is not within 1 and 2^32 - 2."""
        if not 1 <= most_rows <= _LAST_NUMBER:
            raise ValueError(f"an index of at most {most_rows} rows; 1 to {_LAST_NUMBER} are possible")
        self.most_rows = most_rows
        self.likeness = likeness
        self._next = 0
        self._count = 0
        self._records: U64 = np.zeros((0, _COLUMNS), np.uint64)
        self._links: U32 = np.zeros((0, 3), np.uint32)
        self._states: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._key_heads: U32 = np.zeros(0, np.uint32)
        self._buckets: U32 = np.zeros((0, _WAYS), np.uint32)
        self._make_room(_FIRST_ROWS)

    def __len__(self) -> int:
        """How many keys are held."""
        return self._count

    def add(self, key: bytes, signature: bytes) -> bytes:
        """Hold a text and give its cluster; a key that is held keeps the cluster it has. Raises ValueError on other lengths."""
        row = self._row_of(key)
        if row is None:
            self._number_anew()
            columns, places = self._places(signature)
            row = self._hold(key, signature, places, self._most_like(columns, places))
        return self._records[row, _CLUSTER:].tobytes()

    def found(self, key: bytes, signature: bytes) -> None:
        """Hold a text as the founder of a cluster of its own, whatever it resembles. A key that is held stays as it is."""
        if self._row_of(key) is None:
            self._number_anew()
            self._hold(key, signature, self._places(signature)[1], None)

    def find(self, signature: bytes) -> bytes | None:
        """The cluster that a text would join; None where it would found one. Raises ValueError on another length."""
        row = self._most_like(*self._places(signature))
        return None if row is None else self._records[row, _CLUSTER:].tobytes()

    def cluster_of(self, key: bytes) -> bytes | None:
        """The cluster of a held key."""
        row = self._row_of(key)
        return None if row is None else self._records[row, _CLUSTER:].tobytes()

    def remove(self, key: bytes) -> bool:
        """Forget a text and everything made from it but the id of its cluster, where others are in it. Whether it was held."""
        row = self._row_of(key)
        if row is None:
            return False
        self._leave(row)
        return True

    def to_bytes(self) -> bytes:
        """The index in about 305 bytes a row, for `from_bytes`.

        What was removed gives its places in buckets free there: such an index may find a row that this one has lost.
        """
        rows = np.arange(self._oldest, self._next) % self.most_rows
        # Counted from the oldest row: the index is read as if it had begun with it.
        ties = np.maximum(self._links[rows, _YOUNGER:].astype(np.int64) - self._oldest, 0)
        head = _FORMAT.pack(
            _MAGIC, _algorithm(), _SEED, self.most_rows, self.likeness.min_jaccard, len(rows), self.likeness.same_figures
        )
        parts = (self._records[rows].astype("<u8"), ties.astype("<u4"), self._states[rows])
        return head + b"".join(part.tobytes() for part in parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> ClusterIndex:
        """What `to_bytes` gave. Raises ValueError where it is something else, or made by another version: add the texts again."""
        if len(data) < _FORMAT.size:
            raise ValueError(f"no cluster index: {len(data)} bytes")
        magic, algorithm, seed, most_rows, min_jaccard, rows, same_figures = _FORMAT.unpack_from(data)
        if (magic, algorithm, seed) != (_MAGIC, _algorithm(), _SEED):
            raise ValueError(f"no cluster index of MinHash version {_algorithm()}, seed {_SEED}; add the texts again")
        if len(data) != _FORMAT.size + rows * (8 * _COLUMNS + 9) or rows > most_rows:
            raise ValueError(f"a cluster index of {rows} rows, at most {most_rows}, in {len(data)} bytes")
        index = cls(most_rows=most_rows, likeness=Likeness(min_jaccard, same_figures))
        at = _FORMAT.size
        records = np.frombuffer(data, "<u8", rows * _COLUMNS, at).reshape(rows, _COLUMNS)
        ties = np.frombuffer(data, "<u4", rows * 2, at + records.nbytes).reshape(rows, 2)
        states = np.frombuffer(data, np.uint8, rows, at + records.nbytes + ties.nbytes)
        index._make_room(rows)
        index._records[:rows], index._links[:rows, _YOUNGER:], index._states[:rows] = records, ties, states
        index._next, index._count = rows, int(np.count_nonzero(states))
        index._arrange()
        return index

    @property
    def _oldest(self) -> int:
        return max(0, self._next - self.most_rows)

    def _places(self, signature: bytes) -> tuple[U64, NDArray[np.intp]]:
        """A signature as bands and figures, and in which bucket each of the bands belongs."""
        if len(signature) != SIGNATURE_BYTES:
            raise ValueError(f"a signature has {SIGNATURE_BYTES} bytes, this one {len(signature)}")
        columns = np.frombuffer(signature, np.uint64)
        return columns, self._slots(columns[:BANDS], columns[_FIGURES]) + self._first_buckets

    def _slots(self, bands: U64, figures: np.uint64 | U64) -> NDArray[np.intp]:
        # A thousand exercises of one wording share nearly every band. Where their numbers part them, so do these buckets.
        values = bands ^ figures if self.likeness.same_figures else bands
        return ((values * _SPREAD) >> self._shift).astype(np.intp)

    def _most_like(self, columns: U64, places: NDArray[np.intp]) -> int | None:
        """The row of the representative that is most like it, of equal ones the oldest; None where none is like it."""
        links = self._buckets.take(places, axis=0)
        bands, ways = (links > self._oldest).nonzero()
        rows = links[bands, ways].astype(np.intp) - 1
        if self._oldest:
            rows %= self.most_rows
        rows = rows[self._records.ravel().take(rows * _COLUMNS + bands) == columns[bands]]
        if not rows.size:
            return None
        rows = np.unique(rows)
        rows = rows[self._states[rows] == _REPRESENTATIVE]
        records = self._records[rows, : BANDS + 1]
        if self.likeness.same_figures:
            same = records[:, _FIGURES] == columns[_FIGURES]
            rows, records = rows[same], records[same]
        if not rows.size:
            return None
        alike = (records.view(np.uint8)[:, :HASHES] == columns.view(np.uint8)[:HASHES]).sum(axis=1)
        most = int(alike.max())
        if _estimate(most) < self.likeness.min_jaccard:
            return None
        equal: list[int] = rows[alike == most].tolist()
        return min(equal, key=self._number_of)

    def _number_of(self, row: int) -> int:
        """The number of what lies in a row: rows are reused in a ring."""
        return self._oldest + (row - self._oldest) % self.most_rows

    def _row_of(self, key: bytes) -> int | None:
        if len(key) != DIGEST_BYTES:
            raise ValueError(f"a key has {DIGEST_BYTES} bytes, this one {len(key)}")
        link = int(self._key_heads[self._key_slot(key)])
        while link > self._oldest:
            row = (link - 1) % self.most_rows
            if self._states[row] and self._records[row, _KEY : _KEY + 2].tobytes() == key:
                return row
            link = int(self._links[row, _OLDER])
        return None

    def _hold(self, key: bytes, signature: bytes, places: NDArray[np.intp], representative: int | None) -> int:
        row, cluster = self._next % self.most_rows, key
        if self._next >= self.most_rows and self._states[row]:
            # What leaves to make room may be what this one joins: then its heir takes it in, or it carries the cluster on.
            if row == representative:
                cluster = self._records[row, _CLUSTER:].tobytes()
                representative = self._heir(row)
            self._leave(row)
        if row >= len(self._states):
            self._make_room(row + 1)
            places = self._places(signature)[1]
        self._next += 1
        self._count += 1
        link = self._next
        if representative is None:
            self._represent(row, places)
        else:
            cluster = self._records[representative, _CLUSTER:].tobytes()
            self._states[row] = _MEMBER
            self._links[(int(self._links[representative, _YOUNGEST]) - 1) % self.most_rows, _YOUNGER] = link
            self._links[representative, _YOUNGEST] = link
        self._records[row] = np.frombuffer(signature + key + cluster, np.uint64)
        slot = self._key_slot(key)
        self._links[row] = self._key_heads[slot], 0, link
        self._key_heads[slot] = link
        return row

    def _represent(self, row: int, places: NDArray[np.intp]) -> None:
        """Make a row the representative of its cluster, to be found by its bands."""
        self._states[row] = _REPRESENTATIVE
        places = places * _WAYS + self._buckets.take(places, axis=0).argmin(axis=1)
        buckets = self._buckets.reshape(-1)
        buckets[places] = np.maximum(buckets.take(places), np.uint32(self._number_of(row) + 1))

    def _heir(self, row: int) -> int | None:
        """The oldest held member of the cluster of a row that is younger than it."""
        while link := int(self._links[row, _YOUNGER]):
            row = (link - 1) % self.most_rows
            if self._states[row]:
                return row
        return None

    def _leave(self, row: int) -> None:
        """Take a row out. Its links stay, for what they lead on to."""
        if self._states[row] == _REPRESENTATIVE and (heir := self._heir(row)) is not None:
            self._links[heir, _YOUNGEST] = self._links[row, _YOUNGEST]
            self._represent(heir, self._places(self._records[heir, : BANDS + 1].tobytes())[1])
        self._states[row] = _GONE
        self._records[row] = 0
        self._count -= 1

    def _key_slot(self, key: bytes) -> int:
        # Both ends: keys that were counted up differ in the last bytes alone.
        return (int.from_bytes(key[:8], "little") ^ int.from_bytes(key[8:], "big")) % len(self._key_heads)

    def _make_room(self, at_least: int) -> None:
        """Twice the room, or as much as told, but for no more rows than are held at most."""
        rows = min(self.most_rows, max(at_least, 2 * len(self._states)))
        self._records, self._links, self._states = (_longer(each, rows) for each in (self._records, self._links, self._states))
        buckets = 1 << max(1, (rows - 1) // _ROWS_A_BUCKET).bit_length()
        if BANDS * buckets > len(self._buckets):
            self._buckets = np.zeros((BANDS * buckets, _WAYS), np.uint32)
            self._first_buckets = np.arange(0, len(self._buckets), buckets)
            self._shift = np.uint64(65 - buckets.bit_length())
            self._key_heads = np.zeros(_ROWS_A_BUCKET * buckets, np.uint32)
            self._arrange()

    def _arrange(self) -> None:
        """Make the chains of the keys and the buckets of the bands anew."""
        numbers = np.arange(self._oldest, self._next)
        states = self._states[numbers % self.most_rows]
        self._key_heads[:] = 0
        held = numbers[states != _GONE]
        keys = self._records[held % self.most_rows, _KEY : _KEY + 2]
        slots = ((keys[:, 0] ^ keys[:, 1].byteswap()) % np.uint64(len(self._key_heads))).astype(np.intp)
        slots, order = _sorted(slots)
        links = held[order] + 1
        begins = np.diff(slots, prepend=-1) != 0
        self._links[(links - 1) % self.most_rows, _OLDER] = np.where(begins, 0, np.roll(links, 1))
        ends = np.roll(begins, -1)
        self._key_heads[slots[ends]] = links[ends]
        numbers = numbers[states == _REPRESENTATIVE][::-1]
        rows = numbers % self.most_rows
        figures = self._records[rows, _FIGURES]
        self._buckets[:] = 0
        for band in range(BANDS):
            slots, order = _sorted(self._slots(self._records[rows, band], figures))  # within a slot from young to old
            begins = np.flatnonzero(np.diff(slots, prepend=-1))
            ways = np.arange(len(slots)) - np.repeat(begins, np.diff(begins, append=len(slots)))
            kept = ways < _WAYS
            self._buckets[self._first_buckets[band] + slots[kept], ways[kept]] = numbers[order][kept] + 1

    def _number_anew(self) -> None:
        """When numbers come to their end, for links have 32 bits: let the oldest row be the first again."""
        if self._next <= _LAST_NUMBER:
            return
        fresh = ClusterIndex.from_bytes(self.to_bytes())
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))


def _sorted(slots: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Slots in their order, and the places where they stood; a stable sort, as one of plain numbers, which is much faster."""
    both = np.sort((slots << 32) | np.arange(len(slots)))
    return both >> 32, both & 0xFFFFFFFF


def _longer(array: Any, rows: int) -> Any:
    new = np.zeros((rows, *array.shape[1:]), array.dtype)
    new[: len(array)] = array
    return new


def _algorithm() -> int:
    version: int = RMinHash.ALGORITHM_VERSION
    return version
