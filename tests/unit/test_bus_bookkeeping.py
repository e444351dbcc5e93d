"""Turns and ledger: pure, and checked against models that are too slow to be used."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from ruminate.shared.ledger import Commit, Ledger
from ruminate.shared.turns import Turns


@dataclass(frozen=True)
class Item:
    number: int
    share: int
    key: bytes | None


def items(*places: tuple[int, bytes]) -> list[Item]:
    return [Item(number, partition, key) for number, (partition, key) in enumerate(places)]


def test_a_key_that_is_busy_lets_others_pass_and_comes_next_when_it_is_free() -> None:
    turns: Turns[Item] = Turns()
    a1, a2, b = items((0, b"a"), (0, b"a"), (0, b"b"))
    for item in (a1, a2, b):
        turns.add(item)
    assert turns.take() == a1
    assert turns.take() == b
    assert turns.take() is None
    turns.finish(a1)
    assert turns.take() == a2


def test_a_parked_partition_waits_whole_and_goes_on_with_the_item_that_was_given_back() -> None:
    turns: Turns[Item] = Turns()
    a1, a2, b, other = items((0, b"a"), (0, b"a"), (0, b"b"), (1, b"a"))
    for item in (a1, a2, b, other):
        turns.add(item)
    assert turns.take() == a1
    turns.park(a1)
    assert turns.take() == other
    assert turns.take() is None
    turns.go_on(0)
    assert turns.take() == a1
    assert turns.take() == b


def test_what_comes_while_its_partition_waits_stays_behind_the_others_of_its_key() -> None:
    turns: Turns[Item] = Turns()
    a1, a2, b, a3 = items((0, b"a"), (0, b"a"), (0, b"b"), (0, b"a"))
    for item in (a1, a2, b):
        turns.add(item)
    assert turns.take() == a1
    assert turns.take() == b
    turns.park(b)
    turns.add(a3)
    assert turns.take() is None
    turns.finish(a1)
    assert turns.take() is None
    turns.go_on(0)
    assert turns.take() == b
    assert turns.take() == a2
    turns.finish(a2)
    assert turns.take() == a3


def test_what_is_dropped_never_comes_and_its_keys_are_free_again() -> None:
    turns: Turns[Item] = Turns()
    a1, a2, b, other = items((0, b"a"), (0, b"a"), (0, b"b"), (1, b"c"))
    for item in (a1, a2, b, other):
        turns.add(item)
    assert turns.take() == a1
    assert turns.take() == b
    turns.finish(b)
    assert set(turns.drop(0)) == {a2}
    turns.finish(a1)
    assert turns.take() == other
    assert turns.take() is None
    turns.add(a2)
    assert turns.take() == a2


ACTIONS = ("add", "take", "finish", "park", "go_on")


@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from([b"a", b"b"])), min_size=10, max_size=30),
    st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 100)), min_size=60, max_size=120),
)
def test_whatever_happens_a_key_is_handled_in_order_and_one_at_a_time(
    places: list[tuple[int, bytes]], steps: list[tuple[str, int]]
) -> None:
    turns: Turns[Item] = Turns()
    everything = items(*places)
    coming = iter(everything)
    running: list[Item] = []
    finished: list[Item] = []
    parked: set[int] = set()

    def step(action: str, choice: int) -> None:
        if action == "add" and (item := next(coming, None)) is not None:
            turns.add(item)
        elif action == "take" and (item := turns.take()) is not None:
            assert item.share not in parked
            assert (item.share, item.key) not in {(other.share, other.key) for other in running}
            running.append(item)
        elif action in ("finish", "park") and running:
            item = running.pop(choice % len(running))
            if action == "finish":
                turns.finish(item)
                finished.append(item)
            else:
                turns.park(item)
                parked.add(item.share)
        elif action == "go_on" and parked:
            partition = sorted(parked)[choice % len(parked)]
            parked.discard(partition)
            turns.go_on(partition)

    for action, choice in steps:
        step(action, choice)
    for _ in range(3 * len(everything) + 3):  # and to the end
        for action in ("add", "go_on", "take", "finish"):
            step(action, 0)
    assert sorted(item.number for item in finished) == list(range(len(everything)))
    for place in {(item.share, item.key) for item in everything}:
        numbers = [item.number for item in finished if (item.share, item.key) == place]
        assert numbers == sorted(numbers)


@given(st.permutations(range(8)), st.integers(0, 8))
def test_the_commit_is_the_lowest_offset_that_is_not_finished(order: list[int], count: int) -> None:
    ledger = Ledger(10)
    offsets = [10, 11, 12, 15, 16, 20, 21, 22]  # with gaps, as compaction leaves them
    for offset in offsets:
        assert ledger.begin(offset)
    for index in order[:count]:
        ledger.finish(offsets[index])
    unfinished = [offset for index, offset in enumerate(offsets) if index not in order[:count]]
    assert ledger.commit() == Commit(min(unfinished, default=23))


def test_an_offset_that_was_seen_is_not_begun_again() -> None:
    ledger = Ledger(5)
    assert not ledger.begin(4)
    assert ledger.begin(5)
    assert not ledger.begin(5)
    ledger.finish(5)
    assert not ledger.begin(5)


def test_crashes_travel_in_the_commit_until_their_offset_is_finished() -> None:
    ledger = Ledger(0)
    for offset in range(3):
        ledger.begin(offset)
    assert ledger.crash(1) == 1
    commit = ledger.commit()
    assert commit.offset == 0
    again = Ledger(commit.offset, commit.crashes)
    for offset in range(3):
        again.begin(offset)
    assert again.crash(1) == 2
    again.finish(0)
    assert again.commit().crashes == {1: 2}
    again.finish(1)
    assert again.commit() == Commit(2)


def test_commit_metadata_of_another_writer_counts_as_no_crashes() -> None:
    for metadata in ("", "x", "[]", "{}", '{"crashed": 3}', '{"crashed": {"a": 1}}', "null"):
        assert Commit(0, metadata).crashes == {}
