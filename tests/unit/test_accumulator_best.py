"""Best of a cluster: the best-scored rows of a question stay, each answer once."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.accumulator.curation.best import Best, Contender, best_of_cluster


def row(offset: int, score: float = 0.5, *, cluster: str = "a", lane: str = "think", content: str | None = None) -> Contender:
    return Contender(cluster.encode(), lane, (content or f"answer {offset}").encode(), score, offset)


def test_the_best_scored_stay_and_of_equal_ones_the_earlier() -> None:
    best = best_of_cluster([row(4, 0.9), row(1, 0.7), row(2, 0.8), row(3, 0.7)], most=3)
    assert best == Best(kept=(1, 2, 4), surplus=((3, "over_cluster_limit"),))


def test_the_same_answer_counts_once_and_takes_no_place() -> None:
    best = best_of_cluster([row(1, 0.7, content="x"), row(2, 0.9, content="x"), row(3, 0.8, content="x"), row(4, 0.1)], most=2)
    assert best == Best(kept=(2, 4), surplus=((1, "duplicate_exact"), (3, "duplicate_exact")))


def test_rows_of_two_lanes_and_of_two_clusters_are_no_rivals() -> None:
    rows = [row(1, content="x"), row(2, content="x", lane="direct"), row(3, content="x", cluster="b")]
    assert best_of_cluster(rows, most=1) == Best(kept=(1, 2, 3), surplus=())


def test_an_offset_stands_for_one_row() -> None:
    with pytest.raises(ValueError, match="one offset"):
        best_of_cluster([row(1), row(1)])


contenders = st.lists(
    st.builds(
        row, st.integers(0, 10_000), st.sampled_from([0.1, 0.5, 0.9]), cluster=st.sampled_from("ab"),
        lane=st.sampled_from(["think", "direct"]), content=st.sampled_from("xyz"),
    ),
    max_size=40, unique_by=lambda each: each.offset,
)  # fmt: skip


@given(contenders, st.integers(0, 3), st.randoms(use_true_random=False))
def test_each_row_is_accounted_for_once_whatever_the_order(rows: list[Contender], most: int, dice: random.Random) -> None:
    best = best_of_cluster(rows, most=most)
    assert sorted((*best.kept, *(offset for offset, _ in best.surplus))) == sorted(each.offset for each in rows)
    of = {each.offset: each for each in rows}
    kept = Counter((of[offset].cluster, of[offset].lane) for offset in best.kept)
    assert all(count <= most for count in kept.values())
    assert len({of[offset][:3] for offset in best.kept}) == len(best.kept)
    for offset, why in best.surplus:
        rivals = [of[other] for other in best.kept if of[other][:2] == of[offset][:2]]
        if why == "over_cluster_limit":
            assert len(rivals) == most
            assert all((rival.score, -rival.offset) > (of[offset].score, -offset) for rival in rivals)
    shuffled = dice.sample(rows, len(rows))
    assert best_of_cluster(shuffled, most=most) == best
