"""Digest sets: what a set and a dict would say, in a quarter of the memory."""

from __future__ import annotations

import hashlib
import tracemalloc
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.accumulator.curation.digests import DIGEST_BYTES, DigestSet, Sides

# Few first bytes, so that many digests want the same place; the digest of zeros is among them.
digests = st.builds(lambda first, last: bytes([first]) + bytes(14) + bytes([last]), st.integers(0, 3), st.integers(0, 60))


def many(count: int, salt: str = "") -> list[bytes]:
    return [hashlib.blake2b(f"{salt}{number}".encode(), digest_size=DIGEST_BYTES).digest() for number in range(count)]


@given(st.lists(digests, max_size=300), st.lists(digests, max_size=50))
def test_it_holds_what_a_set_holds(added: list[bytes], asked: list[bytes]) -> None:
    ours, theirs = DigestSet(), set[bytes]()
    for digest in added:
        ours.add(digest)
        theirs.add(digest)
        assert len(ours) == len(theirs)
    assert [digest in ours for digest in (*added, *asked)] == [digest in theirs for digest in (*added, *asked)]


def test_it_grows_and_keeps_everything() -> None:
    ours = DigestSet(many(20_000))
    assert len(ours) == 20_000
    assert all(digest in ours for digest in many(20_000))
    assert not any(digest in ours for digest in many(20_000, salt="other"))


def test_a_digest_takes_about_twice_its_bytes() -> None:
    tracemalloc.start()
    try:
        ours, before = DigestSet(), tracemalloc.get_traced_memory()[0]
        for digest in many(30_000):
            ours.add(digest)
        took = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert took / len(ours) < 2 * DIGEST_BYTES


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_what_is_no_digest_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"16 bytes, this one {length}"):
        DigestSet().add(b"x" * length)


@given(st.lists(st.tuples(digests, st.booleans()), max_size=100), st.lists(digests, max_size=50))
def test_the_first_word_about_a_conversation_counts(said: list[tuple[bytes, bool]], asked: list[bytes]) -> None:
    ours, theirs = Sides(), dict[bytes, bool]()
    for conversation, held_out in said:
        ours.settle(conversation, held_out=held_out)
        theirs.setdefault(conversation, held_out)
    assert len(ours) == len(theirs)
    assert [ours.get(each) for each in asked] == [theirs.get(each) for each in asked]
    assert [Sides(theirs).get(each) for each in asked] == [theirs.get(each) for each in asked]


def test_a_copy_grows_by_itself() -> None:
    one, two, three = many(3)
    before = Sides({one: True})
    after = deepcopy(before)
    before.settle(two, held_out=True)
    after.settle(three, held_out=False)
    assert [before.get(each) for each in (one, two, three)] == [True, True, None]
    assert [after.get(each) for each in (one, two, three)] == [True, None, False]
