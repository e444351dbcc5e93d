"""What waits beside the last batch: how interactions are counted, the named tests, their error rate, how soon they see a change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.accumulator.records.rows import RowLimits
from ruminate.accumulator.sealing.chain import Fold, Item, Sealed, digest_of, item_of
from ruminate.accumulator.sealing.drift import (
    FEWEST,
    LEAST_EFFECT,
    Looked,
    What,
    chi_squared,
    distance,
    homogeneity,
    kolmogorov,
    look,
    lower,
)
from ruminate.accumulator.sealing.sample import SAMPLED_AS, SCORES, TOPICS, Counted, Sample, score_of, topic_of
from ruminate.schemas.assessment import Score
from tests.unit.test_rebuild_bytes import assessed

ALPHA = 0.001
Draw = Callable[[np.random.Generator, int], "np.ndarray[tuple[int], np.dtype[np.int64]]"]


def counted(scores: Iterable[int], topics: Iterable[int] = ()) -> Counted:
    topics = tuple(topics) or (sum(scores := tuple(scores)), *[0] * (TOPICS - 1))
    return Counted(sampled_as=SAMPLED_AS, scores=tuple(scores), unscored=0, topics=topics)


# Counting


def item(offset: int, *, of: int, conversation: int | None = None, revision: int = 0, score: int | None = 70) -> Item:
    return Item(
        offset=offset,
        event=digest_of(f"event-{offset}"),
        recorded=UUID(int=of).bytes,
        revision=revision,
        name=digest_of(f"interaction-{of}"),
        continues=None,
        conversation=digest_of(f"conversation-{of if conversation is None else conversation}"),
        assessed_at=datetime(2026, 11, 1, tzinfo=UTC),
        reasoning=True,
        why_not=None if score is not None and score >= 60 else "rejected",
        score=score,
        topic=of % TOPICS,
    )


def sample_of(*items: Item) -> Sample:
    fold = Fold(sealed=Sealed())
    for each in items:
        fold.add(each)
    return fold.sample


def test_a_conversation_counts_once_and_a_rejected_interaction_as_any_other() -> None:
    sample = sample_of(item(1, of=1), item(2, of=2, conversation=1, score=90), item(3, of=3, score=20), item(4, of=4, score=None))
    assert (sample.interactions, sum(sample.topics), sample.unscored) == (3, 3, 1)
    assert {score: count for score, count in enumerate(sample.scores) if count} == {70: 1, 20: 1}


def test_a_later_judgement_replaces_the_score_and_one_of_an_earlier_interval_counts_nothing() -> None:
    again, before = item(2, of=1, revision=1, score=30), item(3, of=9, revision=4, score=10)
    sample = sample_of(item(1, of=1), again, before, item(4, of=9, revision=5, score=5))
    assert {score: count for score, count in enumerate(sample.scores) if count} == {30: 1}
    assert (sample.interactions, sum(sample.topics)) == (1, 1)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 2), st.one_of(st.none(), st.integers(0, 99)))))
def test_a_sample_is_what_a_count_from_the_definition_gives(log: list[tuple[int, int, int, int | None]]) -> None:
    conversations: dict[int, int] = {}
    items = []
    for offset, (of, conversation, revision, score) in enumerate(log):
        place = conversations.setdefault(of, conversation)  # an interaction stays in its conversation
        items.append(item(offset, of=of, conversation=place, revision=revision, score=score))
    first: dict[bytes, Item] = {}
    latest: dict[bytes, Item] = {}
    counting: dict[bytes, bytes] = {}
    for each in items:
        if each.recorded not in first:
            first[each.recorded] = each
            if not each.revision:
                counting.setdefault(each.conversation, each.recorded)
        if each.recorded not in latest or each.revision > latest[each.recorded].revision:
            latest[each.recorded] = each
    scores = [latest[recorded].score for recorded in counting.values()]
    sample = sample_of(*items)
    assert sample.interactions == sum(sample.topics) == len(scores)
    assert sample.scores == [scores.count(score) for score in range(SCORES)]
    assert sample.unscored == scores.count(None)


def test_scores_lie_in_hundredths_and_one_is_the_last() -> None:
    values = (0.0, 0.009, 0.01, 0.999, 1.0, None)
    assert [score_of(Score(value=value)) for value in values] == [0, 0, 1, 99, 99, None]


def test_a_topic_is_that_of_domain_and_tags_in_any_order_else_of_the_question() -> None:
    interaction = assessed(1).interaction.model_copy(update={"domain": "law", "tags": ("b", "a")})
    other = interaction.model_copy(update={"tags": ("a", "b"), "messages": assessed(2).interaction.messages})
    assert topic_of(interaction) == topic_of(other)
    untagged = [each.interaction.model_copy(update={"domain": None, "tags": ()}) for each in (assessed(1), assessed(2))]
    assert topic_of(untagged[0]) == topic_of(untagged[1]), "the questions differ in a number alone"
    question = untagged[0].messages[-1]
    asked = [
        untagged[0].model_copy(update={"messages": (question.model_copy(update={"content": text}),)})
        for text in ("Draw a butterfly.", "draw: BUTTERFLY!", "", "?", "1 2 3", "\u00dcberschwemmung")
    ]
    assert topic_of(asked[0]) == topic_of(asked[1])
    assert all(0 <= topic_of(each) < TOPICS for each in asked)


def test_what_the_fold_keeps_of_a_record_has_its_tokens_its_score_and_its_topic() -> None:
    record = assessed(1)
    kept = item_of(record, event_id="e", assessed_at=record.interaction.occurred_at, offset=0)
    assert (kept.score, kept.topic) == (score_of(record.verdict.overall), topic_of(record.interaction))
    assert kept.why_not is None and kept.tokens > 0
    too_large = item_of(record, event_id="e", assessed_at=record.interaction.occurred_at, offset=0, limits=RowLimits(max_bytes=100))
    assert (too_large.why_not, too_large.tokens) == ("too_large", 0)


# The tests


@pytest.mark.parametrize(
    ("at", "probability"),
    [
        (0.3, 0.9999906941986655),
        (0.5, 0.9639452436648751),
        (0.8276, 0.49995841656354456),
        (1.0, 0.26999967167735456),
        (1.3581, 0.0499996304316674),
        (2.5, 7.453306344157342e-06),
        (4.0, 2.532833109818835e-14),
    ],
)
def test_the_tail_of_kolmogorovs_distribution_is_that_of_scipy(at: float, probability: float) -> None:
    assert kolmogorov(at) == pytest.approx(probability, rel=1e-9)  # scipy 1.17.1, kstwobign.sf


@pytest.mark.parametrize(
    ("statistic", "degrees", "probability"),
    [
        (3.841, 1, 0.050013683763956804),
        (100, 1, 1.5239706048320995e-23),
        (5.99, 2, 0.05003662708658629),
        (10, 7, 0.18857346751344997),
        (31, 31, 0.46621250621750804),
        (80, 31, 3.3125285528482517e-06),
        (200, 31, 1.296916789468604e-26),
        (61.1, 30, 0.0006761345434493576),
    ],
)
def test_the_tail_of_chi_squared_is_that_of_scipy(statistic: float, degrees: int, probability: float) -> None:
    assert chi_squared(statistic, degrees) == pytest.approx(probability, rel=1e-9)  # scipy 1.17.1, chi2.sf


def test_the_largest_distance_of_two_distributions_is_found() -> None:
    before, waiting = [10, 0, 10, 0], [0, 10, 5, 5]
    assert distance(before, waiting).statistic == 0.5
    assert distance(before, [20, 0, 20, 0]).statistic == 0.0


def test_the_shares_of_pairs_in_which_the_later_score_is_higher_are_counted_with_half_of_the_ties() -> None:
    found = lower([1, 1, 2, 0], [2, 0, 1, 1])
    before, waiting = [0, 1, 2, 2], [0, 0, 2, 3]
    wins = sum((later > earlier) + (later == earlier) / 2 for later in waiting for earlier in before)
    assert found.statistic == wins
    assert found.effect == 0.5 - wins / 16
    assert lower([0, 9], [9, 0]).effect == 0.5
    assert lower([9, 0], [0, 9]).p_value == 1.0, "higher scores are no drop"


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 599))
def test_the_bound_of_the_quality_test_holds_exactly_where_scores_take_two_values(n: int, m: int, low: int) -> None:
    low = min(low, n + m - 1)
    ways = math.comb(n + m, n)
    for low_waiting in range(max(0, low - m), min(n, low) + 1):
        at_least = sum(math.comb(low, k) * math.comb(n + m - low, n - k) for k in range(low_waiting, min(n, low) + 1)) / ways
        found = lower([low - low_waiting, m - low + low_waiting], [low_waiting, n - low_waiting])
        assert found.p_value >= at_least * (1 - 1e-9)


def test_small_buckets_are_put_together_so_that_each_is_expected_often_enough() -> None:
    assert homogeneity([50, 50, 1, 1, 1], [50, 50, 1, 1, 1]).statistic == 0
    alone = homogeneity([600, 600, 0, 0, 0], [60, 60, 3, 3, 3])
    assert alone.statistic == pytest.approx(homogeneity([600, 600], [60, 69]).statistic)
    assert homogeneity([9, 0], [0, 9]).p_value == 1.0, "too few to say anything"


# Looks


def grown(
    last: Looked | None, rng: np.random.Generator, scores: Draw, topics: Draw, before: Counted, to: int, alpha: float
) -> Looked:
    """A sample that grows interaction by interaction, and the look that finds something, else the last."""
    sample = Sample()
    drawn = zip(scores(rng, to).tolist(), topics(rng, to).tolist(), strict=True)
    for score, topic in drawn:
        number = sample.interactions
        sample.enter(number.to_bytes(4), number.to_bytes(4), first=True, score=score, topic=topic)
        last = look(last, sample, before, alpha=alpha)
    assert last is not None
    return last


def near(mean: float) -> Draw:
    """Scores as assessors give them: beta-distributed, in hundredths."""
    return lambda rng, size: np.minimum(SCORES - 1, (rng.beta(20 * mean, 20 * (1 - mean), size) * SCORES).astype(np.int64))


def zipf(rng: np.random.Generator, size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Topics as people ask: a few often, many seldom."""
    shares = 1 / np.arange(1, TOPICS + 1)
    return rng.choice(TOPICS, size, p=shares / shares.sum())


def last_batch(rng: np.random.Generator, size: int, scores: Draw, topics: Draw) -> Counted:
    return counted(
        np.bincount(scores(rng, size), minlength=SCORES).tolist(), np.bincount(topics(rng, size), minlength=TOPICS).tolist()
    )


def test_looks_are_few_and_all_of_them_spend_no_more_than_alpha() -> None:
    before = last_batch(np.random.default_rng(1), 600, near(0.7), zipf)
    looks: list[Looked] = []
    for number in range(1, 20_001):
        same = Sample(number, list(before.scores), list(before.topics))
        found = look(looks[-1] if looks else None, same, before, alpha=ALPHA)
        if found is not None and (not looks or found.look > looks[-1].look):
            looks.append(found)
    assert [each.look for each in looks] == list(range(1, len(looks) + 1))
    assert looks[0].waiting == FEWEST
    assert len(looks) <= 1 + math.log(20_000 / FEWEST, 1.25)
    assert 0.8 * ALPHA < sum(3 * each.alpha for each in looks) < ALPHA


def test_nothing_is_looked_at_without_two_samples_that_are_large_enough_and_of_one_kind() -> None:
    rng = np.random.default_rng(1)
    before, sample = last_batch(rng, 600, near(0.9), zipf), Sample()
    for number in range(500):
        sample.enter(number.to_bytes(4), number.to_bytes(4), first=True, score=10, topic=0)
    assert look(None, sample, None, alpha=ALPHA) is None
    assert look(None, sample, before.model_copy(update={"sampled_as": "sample-0"}), alpha=ALPHA) is None
    assert look(None, sample, last_batch(rng, FEWEST - 1, near(0.9), zipf), alpha=ALPHA) is None
    assert look(None, sample, before, alpha=0.0) is None
    found = look(None, sample, before, alpha=ALPHA)
    assert found is not None and found.found is not None and found.found.what == "quality"
    assert look(found, sample, before, alpha=ALPHA) is found, "what was found stays found"


@pytest.mark.parametrize("size", [FEWEST, 600])
def test_false_alarms_over_all_looks_are_no_more_than_alpha_where_nothing_has_changed(size: int) -> None:
    rng, alpha, runs = np.random.default_rng(7), 0.05, 150
    alarms = 0
    for _ in range(runs):
        before = last_batch(rng, size, near(0.7), zipf)
        alarms += grown(None, rng, near(0.7), zipf, before, 600, alpha).found is not None
    # Were the rate alpha, more than this would be seen once in a thousand times; with the seed, it is always this count.
    assert alarms <= alpha * runs + 3.1 * math.sqrt(alpha * (1 - alpha) * runs)


def moved(rng: np.random.Generator, size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Four in ten questions are about something new."""
    return np.where(rng.random(size) < 0.4, 31, zipf(rng, size))


def spread(rng: np.random.Generator, size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Neither better nor worse, but no longer in between."""
    return np.where(rng.random(size) < 0.5, near(0.55)(rng, size), near(0.85)(rng, size))


@pytest.mark.parametrize(
    ("scores", "topics", "what"),
    [(near(0.6), zipf, "quality"), (spread, zipf, "scores"), (near(0.7), moved, "topics")],
)
def test_a_change_is_found_before_a_batch_of_the_usual_size_is_full(scores: Draw, topics: Draw, what: What) -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        found = grown(None, rng, scores, topics, last_batch(rng, 600, near(0.7), zipf), 400, ALPHA)
        assert found.found is not None
        assert found.found.what == what
        assert found.found.p_value <= found.alpha < ALPHA


def test_a_difference_that_does_not_matter_is_none_however_sure_it_is() -> None:
    rng = np.random.default_rng(3)
    before = last_batch(rng, 2_000_000, near(0.7), zipf)
    after = last_batch(rng, 2_000_000, near(0.71), zipf)
    sample = Sample(after.interactions, list(after.scores), list(after.topics))
    found = look(None, sample, before, alpha=ALPHA)
    assert found is not None and found.found is None
    scores = next(test for test in found.tests if test.what == "scores")
    assert scores.p_value < 1e-12
    assert scores.effect < LEAST_EFFECT["scores"]
