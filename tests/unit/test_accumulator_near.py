"""Near duplicates: like texts share a cluster, unlike ones do not, and the index is bounded, erasable and reproducible."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Callable
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ruminate.accumulator.curation.near import ALIKE, SIGNATURE_BYTES, ClusterIndex, Likeness, jaccard_of, shingles_of, signature_of
from ruminate.accumulator.curation.wording import digest_of_normalised, normalised
from tests.benchmarks.near_duplicates import EDITS, jaccard, pair, word

QUESTIONS = [
    normalised(json.loads(line)["question"])
    for line in files("ruminate.command").joinpath("demo/gsm8k_shortest_220.jsonl").read_text().splitlines()
]


def key(number: int) -> bytes:
    return digest_of_normalised(str(number))


def joined(one: str, other: str, likeness: Likeness = ALIKE) -> bool:
    index = ClusterIndex(likeness=likeness)
    index.add(key(1), signature_of(normalised(one)))
    return index.find(signature_of(normalised(other))) is not None


def test_a_signature_stays_what_it_is() -> None:
    assert signature_of("what is 3 + 5").hex()[:32] == "8999d6883216c25361afc0852fd2bc8c"
    assert len(signature_of("")) == SIGNATURE_BYTES


@pytest.mark.parametrize("words", [13, 40, 67])
def test_of_pairs_at_080_at_least_095_are_found_and_of_those_at_050_at_most_001(words: int) -> None:
    dice = random.Random(words)
    found = {}
    for replaced_of_27 in (1, 3):  # one word in 13.5 leaves 0.8, three leave 0.5
        pairs = [pair(dice, words, replaced=(2 * words + 1) * replaced_of_27 // 27) for _ in range(300)]
        assert {round(jaccard(*each), 6) for each in pairs} == {0.8 if replaced_of_27 == 1 else 0.5}
        found[replaced_of_27] = sum(joined(*each) for each in pairs) / len(pairs)
    assert found[1] >= 0.95
    assert found[3] <= 0.01


def test_the_estimate_is_near_the_truth() -> None:
    dice = random.Random(1)
    errors = [
        jaccard_of(signature_of(one), signature_of(other)) - jaccard(one, other)
        for one, other in (pair(dice, 40, replaced=dice.randrange(1, 18)) for _ in range(300))
    ]
    assert abs(float(np.mean(errors))) < 0.01
    assert float(np.std(errors)) < 0.035


def test_different_questions_stay_apart() -> None:
    index = ClusterIndex()
    clusters = [index.add(key(number), signature_of(question)) for number, question in enumerate(QUESTIONS)]
    assert len(set(clusters)) == len(QUESTIONS)


@pytest.mark.parametrize("edit", ["spelling", "please", "step by step"])
def test_a_question_in_slightly_other_words_is_the_question(edit: str) -> None:
    dice = random.Random(3)
    assert np.mean([joined(question, EDITS[edit](dice, question)) for question in QUESTIONS]) >= 0.95


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Tom has 3 apples and buys 5 more, how many has he now?", "Tom has 3 apples and buys 6 more, how many has he now?"),
        ("Please solve 3 + 5 x = 20 for x and show all of your work", "Please solve 3 - 5 x = 20 for x and show all of your work"),
        ("What is the capital of France?", "What is the capital of Spain?"),
        ("Translate from English to French", "Translate from French to English"),
        ("法国的首都是哪里？", "德国的首都是哪里？"),
    ],
)  # fmt: skip
def test_another_question_in_nearly_the_same_words_is_another(one: str, other: str) -> None:
    assert not joined(one, other)


def test_figures_may_be_told_not_to_matter() -> None:
    text = "The report of day {} says that sales fell; why may that be, and what should be done about it now?"
    one, other = text.format(3), text.format(4)
    assert not joined(one, other)
    assert joined(one, other, Likeness(same_figures=False))


def test_long_texts_and_texts_without_spaces_are_compared_as_well() -> None:
    dice = random.Random(5)
    one, other = pair(dice, 5000, replaced=200)
    assert joined(one, other)
    assert joined(
        "小明有十二个苹果，他给了妹妹三个苹果，又买了五个，请问小明现在一共有多少个苹果？",
        "小明有十二个苹果，他给了妹妹三个苹果，又买了五个。问小明现在一共有多少个苹果",
    )
    assert shingles_of("") == [" "]


def test_a_text_joins_what_it_resembles_not_what_a_member_resembles() -> None:
    words = [f"w{number}" for number in range(60)]
    letters = str.maketrans("0123456789", "abcdefghij")

    def step(number: int) -> bytes:  # 3 words further each: 0.89 of the next, 0.66 of the fourth
        return signature_of(" ".join([f"x{word}" for word in words[: 3 * number]] + words[3 * number :]).translate(letters))

    index = ClusterIndex()
    clusters = [index.add(key(number), step(number)) for number in range(18)]
    assert len(set(clusters)) > 3
    assert clusters[0] == key(0)


@pytest.mark.parametrize("most_rows", [0, 2**32])
def test_an_index_has_bounds(most_rows: int) -> None:
    with pytest.raises(ValueError, match=f"at most {most_rows} rows"):
        ClusterIndex(most_rows=most_rows)


def test_what_is_no_key_or_signature_is_refused() -> None:
    index = ClusterIndex()
    with pytest.raises(ValueError, match="a key has 16 bytes, this one 3"):
        index.add(b"abc", bytes(SIGNATURE_BYTES))
    with pytest.raises(ValueError, match=f"a signature has {SIGNATURE_BYTES} bytes, this one 3"):
        index.add(key(1), b"abc")


def test_beyond_the_bound_the_oldest_leaves_and_its_cluster_lives_on_in_the_next() -> None:
    index = ClusterIndex(most_rows=3)
    like, other = signature_of(QUESTIONS[0]), signature_of(QUESTIONS[1])
    assert [index.add(key(number), like) for number in range(3)] == [key(0)] * 3
    assert index.add(key(3), other) == key(3)
    assert index.cluster_of(key(0)) is None
    assert index.find(like) == key(0)
    assert index.add(key(4), other) == key(3)
    assert index.add(key(5), other) == key(3)
    assert index.find(like) is None
    assert len(index) == 3


def test_one_that_joins_the_last_of_its_cluster_as_that_leaves_carries_it_on() -> None:
    index = ClusterIndex(most_rows=1)
    assert [index.add(key(number), signature_of(QUESTIONS[0])) for number in range(3)] == [key(0)] * 3


def test_a_removed_founder_leaves_its_cluster_to_the_next_member() -> None:
    index = ClusterIndex()
    like = signature_of(QUESTIONS[0])
    for number in range(3):
        index.add(key(number), like)
    assert index.remove(key(0))
    assert not index.remove(key(0))
    assert index.find(like) == index.cluster_of(key(1)) == key(0)
    assert index.remove(key(2))
    assert index.remove(key(1))
    assert index.find(like) is None
    assert len(index) == 0
    assert index.add(key(1), like) == key(1)


def test_a_protected_text_can_found_a_cluster_beside_one_it_resembles() -> None:
    index = ClusterIndex()
    for number in range(2):
        index.found(key(number), signature_of(QUESTIONS[0]))
    assert [index.cluster_of(key(number)) for number in range(2)] == [key(0), key(1)]
    assert index.find(signature_of(QUESTIONS[0])) == key(0)


class Plain:
    """The same rules over a list: every representative is compared."""

    def __init__(self, most_rows: int) -> None:
        self.most_rows = most_rows
        self.rows: list[tuple[bytes, bytes, bytes] | None] = []  # key, signature, cluster

    def held(self) -> list[tuple[bytes, bytes, bytes]]:
        return [row for row in self.rows[-self.most_rows :] if row is not None]

    def find(self, signature: bytes) -> bytes | None:
        representatives = {cluster: known for _, known, cluster in reversed(self.held())}
        alike = [
            (jaccard_of(known, signature), cluster)
            for cluster, known in reversed(representatives.items())
            if known[256:] == signature[256:] and jaccard_of(known, signature) >= ALIKE.min_jaccard
        ]
        best = max((likeness for likeness, _ in alike), default=None)
        oldest_first = [cluster for _, _, cluster in self.held()]
        return min((cluster for likeness, cluster in alike if likeness == best), key=oldest_first.index, default=None)

    def add(self, name: bytes, signature: bytes) -> bytes:
        for known, _, cluster in self.held():
            if known == name:
                return cluster
        cluster = self.find(signature) or name
        self.rows.append((name, signature, cluster))
        return cluster

    def remove(self, name: bytes) -> bool:
        # By place: one that has left may be equal to one that came again.
        for place in range(max(0, len(self.rows) - self.most_rows), len(self.rows)):
            row = self.rows[place]
            if row is not None and row[0] == name:
                self.rows[place] = None
                return True
        return False


FAMILY = [signature_of(QUESTIONS[number // 4] + " so " * (number % 4)) for number in range(40)]
"""Ten questions, of each four that are alike."""


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.lists(st.tuples(st.sampled_from("aaar"), st.integers(0, 39)), max_size=60), st.integers(0, 60))
@example(1, [("a", 0), ("a", 1), ("a", 0), ("r", 0)], 0)
def test_it_does_what_a_list_does_also_when_it_was_read_again(
    most_rows: int, calls: list[tuple[str, int]], read_again_at: int
) -> None:
    ours, theirs = ClusterIndex(most_rows=most_rows), Plain(most_rows)
    for place, (call, number) in enumerate(calls):
        if place == read_again_at:
            ours = ClusterIndex.from_bytes(ours.to_bytes())
        if call == "a":
            assert ours.add(key(number), FAMILY[number]) == theirs.add(key(number), FAMILY[number])
        else:
            assert ours.remove(key(number)) == theirs.remove(key(number))
        assert len(ours) == len(theirs.held())
    assert [ours.find(each) for each in FAMILY] == [theirs.find(each) for each in FAMILY]
    assert [ours.cluster_of(key(number)) for number in range(40)] == [
        next((cluster for name, _, cluster in theirs.held() if name == key(number)), None) for number in range(40)
    ]
    again = ClusterIndex.from_bytes(ours.to_bytes())
    assert again.to_bytes() == ours.to_bytes()
    assert (again.most_rows, again.likeness) == (ours.most_rows, ours.likeness)


def test_after_four_billion_rows_numbers_begin_again() -> None:
    ours, theirs = ClusterIndex(most_rows=5), Plain(5)
    ours._next = 2**32 - 12
    for number in (*range(17), 3, 2, 1, *range(17)):
        assert ours.add(key(number), FAMILY[number]) == theirs.add(key(number), FAMILY[number])
        assert [ours.find(each) for each in FAMILY] == [theirs.find(each) for each in FAMILY]
    assert ours._next < 100


def test_it_grows_and_keeps_everything() -> None:
    dice = np.random.default_rng(7)
    signatures = [dice.bytes(SIGNATURE_BYTES) for _ in range(6000)]
    index = ClusterIndex()
    for number, signature in enumerate(signatures):
        index.add(key(number), signature)
    assert [index.find(signature) for signature in signatures] == [key(number) for number in range(6000)]
    assert [index.cluster_of(key(number)) for number in range(6000)] == [key(number) for number in range(6000)]


def test_a_row_takes_about_600_bytes() -> None:
    dice = np.random.default_rng(8)
    tracemalloc.start()
    try:
        index = ClusterIndex()
        for number in range(4096):
            index.add(key(number), dice.bytes(SIGNATURE_BYTES))
        took = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert took / len(index) < 650


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-1], lambda data: b"x" + data[1:], lambda data: data + b"x"]
)
def test_bytes_of_something_else_are_refused(damage: Callable[[bytes], bytes]) -> None:
    index = ClusterIndex()
    index.add(key(1), FAMILY[0])
    with pytest.raises(ValueError, match="cluster index"):
        ClusterIndex.from_bytes(damage(index.to_bytes()))


def test_exercises_of_one_long_wording_do_not_crowd_each_other_out() -> None:
    dice = random.Random(11)
    wording = " ".join(word(dice) for _ in range(200))
    index = ClusterIndex()
    signatures = [signature_of(f"{wording} {number} + 7") for number in range(100)]
    for number, signature in enumerate(signatures):
        assert index.add(key(number), signature) == key(number)
    assert [index.find(signature) for signature in signatures] == [key(number) for number in range(100)]
