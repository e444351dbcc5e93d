"""Decontaminate: does a training row give away what the model is measured on? Pure.

A row is contaminated where its question is a protected question, exactly or nearly (`near.py` says what nearly is), or
where one of its texts (question, answer, thinking) shares a run of 13 words with a protected text: the 13-grams of
Brown et al. 2020, appendix C. Words are those of `wording.py` without operators. A run ends with its text.

    13 words, or 20 where more than half of them are characters of a script without spaces (a word has about 1.6 of them)

A run that says nothing of its source is no evidence, and does not count:

    more than half of its words are numbers (tables, counting to thirteen)
    it stands in more than `most_texts` questions of a protected set (templates, instructions, licences)
    it is among the `common` runs that the caller names, for a set that is yet too small to tell: `common_runs`

System messages belong to nobody's question: do not pass them. Answers of a model share phrases, so of hold-out rows pass the
question alone; of an evaluation the question and its reference answer.

Not found: a protected text of fewer than 13 words within a longer one, a paraphrase, a translation.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ruminate.accumulator.curation.digests import DIGEST_BYTES
from ruminate.accumulator.curation.near import ALIKE, ClusterIndex, Likeness, signature_of
from ruminate.accumulator.curation.wording import digest_of_normalised, is_number, is_unspaced, normalised, spoken_words_of

RUN_WORDS: Final = 13
RUN_CHARACTERS: Final = 20
MOST_TEXTS: Final = 8

Runs = NDArray[np.uint64]
"""Hashes of runs, shape (runs,), each once, sorted."""
Kind = Literal["exact", "near", "ngram"]


@dataclass(frozen=True, slots=True)
class Contamination:
    """Which protected set a row touches, and how; `shared_runs` is 0 for a question that is protected itself."""

    protected: str
    kind: Kind
    shared_runs: int = 0


# A word's hash has its kind in the two lowest bits.
_WORD, _NUMBER, _CHARACTER, _END = range(4)
_BORDER: Final = "\n"
"""Stands behind each text; no word is spelt like it."""
_NUMBERS: Final = np.array([0, 2, 0, 1000])
"""Twice the numbers in a word of each kind; a border is more of them than any window may have."""
_KIND: Final = np.uint64(3)
_FACTOR: Final = 0xD6E8FEB86659FD93
_FACTORS: Final = {words: np.uint64(pow(_FACTOR, words, 2**64)) for words in (1, 4, 8)}
_HALF: Final = np.uint64(32)
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_NO_RUNS: Final = np.zeros(0, np.uint64)


class _Vocabulary(dict[str, int]):
    """The hashes of the words seen lately: most words of a text are in it."""

    def __missing__(self, word: str) -> int:
        if len(self) >= 1 << 17:
            self.clear()
        kind = _END if word == _BORDER else _NUMBER if is_number(word) else _CHARACTER if is_unspaced(word) else _WORD
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        hashed = self[word] = int.from_bytes(digest, "little") & ~3 | kind
        return hashed


_VOCABULARY: Final = _Vocabulary()


def runs_of(*texts: str) -> Runs:
    """The runs of these texts that count."""
    return np.unique(_runs_in(texts))


def _runs_in(texts: Sequence[str]) -> Runs:
    """The runs of some texts in their order, some of them perhaps more than once."""
    words: list[str] = []
    for text in texts:
        words += spoken_words_of(text)
        words.append(_BORDER)
    if len(words) <= RUN_WORDS:
        return _NO_RUNS
    hashes = np.fromiter(map(_VOCABULARY.__getitem__, words), np.uint64, len(words))
    kinds = (hashes & _KIND).astype(np.intp)
    numbers = _sums(_NUMBERS.take(kinds))
    counts = numbers[RUN_WORDS:] - numbers[:-RUN_WORDS] <= RUN_WORDS
    is_character = kinds == _CHARACTER
    if not is_character.any():
        return _windows(hashes, RUN_WORDS)[counts]
    characters = _sums(2 * is_character)
    counts &= characters[RUN_WORDS:] - characters[:-RUN_WORDS] <= RUN_WORDS
    found = _windows(hashes, RUN_WORDS)[counts]
    if len(words) <= RUN_CHARACTERS:
        return found
    counts = numbers[RUN_CHARACTERS:] - numbers[:-RUN_CHARACTERS] <= RUN_CHARACTERS
    counts &= characters[RUN_CHARACTERS:] - characters[:-RUN_CHARACTERS] > RUN_CHARACTERS
    return np.concatenate((found, _windows(hashes, RUN_CHARACTERS)[counts]))


def common_runs(questions: Iterable[str], *, more_than: int = MOST_TEXTS) -> Runs:
    """The runs that stand in more than so many of these questions: what a batch repeats is its templates. Pass each once."""
    found, counts = np.unique(np.concatenate([_NO_RUNS, *(runs_of(each) for each in questions)]), return_counts=True)
    return found[counts > more_than]


def _sums(values: NDArray[np.intp]) -> NDArray[np.intp]:
    """The sum of what stands before each place and before the end."""
    sums = np.zeros(len(values) + 1, np.intp)
    values.cumsum(out=sums[1:])
    return sums


def _windows(hashes: Runs, words: int) -> Runs:
    """The hash of each window, by a polynomial modulo 2^64: put together from windows of 1, 2, 4, 8 words."""
    one = hashes
    two = one[:-1] * _FACTORS[1] + one[1:]
    four = two[:-2] * np.uint64(pow(_FACTOR, 2, 2**64)) + two[2:]
    eight = four[:-4] * _FACTORS[4] + four[4:]
    if words == RUN_WORDS:
        twelve = eight[:-4] * _FACTORS[4] + four[8:]
        windows = twelve[:-1] * _FACTORS[1] + one[12:]
    else:
        sixteen = eight[:-8] * _FACTORS[8] + eight[8:]
        windows = sixteen[:-4] * _FACTORS[4] + four[16:]
    windows ^= windows >> _HALF
    windows *= _MIX
    windows ^= windows >> _HALF
    return windows


@dataclass(slots=True)
class _Set:
    """The runs of one protected set, and in how many of its questions each stands."""

    digests: set[bytes] = field(default_factory=set)
    runs: Runs = field(default_factory=lambda: _NO_RUNS)
    counts: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))

    def take(self, of_rows: Sequence[tuple[Runs, bool]]) -> None:
        """Add the runs of rows, each once a row, and count those of rows that are counted."""
        every = np.concatenate([self.runs, *(runs for runs, _ in of_rows)])
        by = [self.counts, *(np.full(len(runs), counted, np.uint32) for runs, counted in of_rows)]
        self.runs, places = np.unique(every, return_inverse=True)
        self.counts = np.zeros(len(self.runs), np.uint32)
        np.add.at(self.counts, places, np.concatenate(by))

    def shared(self, runs: Runs, most_texts: int) -> Runs:
        """Those of these runs that stand in the set, and in not too many of its questions."""
        if not len(self.runs):
            return _NO_RUNS
        places = np.minimum(self.runs.searchsorted(runs), len(self.runs) - 1)
        shared: Runs = runs[(self.runs[places] == runs) & (self.counts[places] <= most_texts)]
        return shared


class Protected:
    """What is never to be trained: named sets of texts, in about 30 bytes a run and 600 bytes a question.

    The same calls in the same order give the same answers. Of several sets that a row touches, the one added first is named.
    """

    __slots__ = ("_mask", "_near", "_sets", "_shift", "most_texts")

    def __init__(self, *, most_texts: int = MOST_TEXTS, likeness: Likeness = ALIKE) -> None:
        self.most_texts = most_texts
        self._near = ClusterIndex(most_rows=_UNBOUNDED, likeness=likeness)
        self._sets: dict[str, _Set] = {}
        self._mask: NDArray[np.bool_] = np.zeros(1 << _FEWEST_BITS, np.bool_)
        self._shift = np.uint64(64 - _FEWEST_BITS)

    def __len__(self) -> int:
        """How many questions are protected."""
        return len(self._near)

    def __bool__(self) -> bool:
        """Whether anything is protected."""
        return any(each.digests or len(each.runs) for each in self._sets.values())

    def add(self, protected: str, rows: Iterable[Sequence[str]]) -> None:
        """Protect rows under this name: of each the question, then the other texts that are to be protected.

        A question that is like one protected before adds its runs but does not count again towards `most_texts`. Rows
        that come in batches cost least when each batch is added at once. Where the question has no word, or nothing was asked,
        only the other texts are protected. Raises ValueError on a row without texts.
        """
        to = self._sets.setdefault(protected, _Set())
        taken: list[tuple[Runs, bool]] = []
        for texts in rows:
            question, runs = _question_of(texts), runs_of(*texts)
            known = False
            if question:
                digest, signature = digest_of_normalised(question), signature_of(question)
                known = self._near.cluster_of(digest) is not None or self._near.find(signature) is not None
                to.digests.add(digest)
                self._near.found(digest, signature)
            taken.append((runs, not known))
        to.take(taken)
        self._mark()

    def touches(self, texts: Sequence[str], *, common: Runs = _NO_RUNS, signature: bytes | None = None) -> Contamination | None:
        """What a row gives away, from its question and its other texts; None where it is clean.

        `common` names runs that are no evidence; `signature` is the question's, where the caller has it. Raises ValueError
        where there is no text.
        """
        question, runs = _question_of(texts), _runs_in(texts)
        if question and len(self._near):
            digest = digest_of_normalised(question)
            for name, each in self._sets.items():
                if digest in each.digests:
                    return Contamination(name, "exact")
            if (founder := self._near.find(signature or signature_of(question))) is not None:
                return Contamination(next(name for name, each in self._sets.items() if founder in each.digests), "near")
        runs = runs[self._mask.take((runs >> self._shift).astype(np.intp))]
        if len(runs):
            for name, each in self._sets.items():
                shared = each.shared(runs, self.most_texts)
                if len(shared) and (evidence := len(np.setdiff1d(shared, common))):
                    return Contamination(name, "ngram", evidence)
        return None

    def to_bytes(self) -> bytes:
        """All of it, for `from_bytes`: 12 bytes a run, 320 a question."""
        near = self._near.to_bytes()
        parts = [_HEAD.pack(_MAGIC, self.most_texts, len(self._sets), len(near)), near]
        for name, each in self._sets.items():
            encoded = name.encode()
            parts.append(_OF_SET.pack(len(encoded), len(each.digests), len(each.runs)))
            parts += (
                encoded,
                b"".join(sorted(each.digests)),
                each.runs.astype("<u8").tobytes(),
                each.counts.astype("<u4").tobytes(),
            )
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Protected:
        """What `to_bytes` gave. Raises ValueError where it is something else, or made by another version: add the texts again."""
        try:
            magic, most_texts, sets, near_bytes = _HEAD.unpack_from(data)
            if magic != _MAGIC:
                raise ValueError("these bytes are no protected sets")
            at = _HEAD.size + near_bytes
            near = ClusterIndex.from_bytes(data[_HEAD.size : at])
            protected = cls(most_texts=most_texts, likeness=near.likeness)
            protected._near = near
            for _ in range(sets):
                name_bytes, digests, runs = _OF_SET.unpack_from(data, at)
                at += _OF_SET.size
                name = data[at : at + name_bytes].decode()
                at += name_bytes
                end = at + digests * DIGEST_BYTES
                each = protected._sets[name] = _Set({data[i : i + DIGEST_BYTES] for i in range(at, end, DIGEST_BYTES)})
                each.runs = np.frombuffer(data, "<u8", runs, end).astype(np.uint64)
                each.counts = np.frombuffer(data, "<u4", runs, end + 8 * runs).astype(np.uint32)
                at = end + 12 * runs
        except struct.error as error:
            raise ValueError(f"these {len(data)} bytes are no protected sets ({error})") from None
        if at != len(data):
            raise ValueError(f"protected sets of {at} bytes in {len(data)}")
        protected._mark()
        return protected

    def _mark(self) -> None:
        """Mark the first bits of every run, so that a clean text is told with one look at each of its runs."""
        runs = sum(len(each.runs) for each in self._sets.values())
        bits = min(max((_MARKS_A_RUN * runs).bit_length(), _FEWEST_BITS), _MOST_BITS)
        self._shift = np.uint64(64 - bits)
        self._mask = np.zeros(1 << bits, np.bool_)
        for each in self._sets.values():
            self._mask[(each.runs >> self._shift).astype(np.intp)] = True


_UNBOUNDED: Final = 2**32 - 2
_MARKS_A_RUN: Final = 16
_FEWEST_BITS: Final = 12
_MOST_BITS: Final = 26
_HEAD: Final = struct.Struct("<8sIIQ")
_OF_SET: Final = struct.Struct("<IQQ")
_MAGIC: Final = b"protects"


def _question_of(texts: Sequence[str]) -> str:
    if not texts:
        raise ValueError("a row without texts; pass its question, then the others")
    return normalised(texts[0])
