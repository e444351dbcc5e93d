"""The chain rule, the fold, the decision to seal, the choice of rows and their validation."""

from __future__ import annotations

import string
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.accumulator.curation.asked import asked_in, texts_in
from ruminate.accumulator.curation.curate import Rules, Standing, curate
from ruminate.accumulator.curation.digests import DigestSet
from ruminate.accumulator.curation.predictor import Predictor
from ruminate.accumulator.making.candidate import Candidate
from ruminate.accumulator.making.choose import choose, interval_of
from ruminate.accumulator.making.compose import Composed, Need
from ruminate.accumulator.making.dataset import Made
from ruminate.accumulator.making.describe import Cut, describe
from ruminate.accumulator.making.holdings import Holdings, account
from ruminate.accumulator.making.report import Contents, Limits, Report, report_of
from ruminate.accumulator.records.facts import Facts, Stratum
from ruminate.accumulator.records.rows import REPEATS, Row, RowLimits, TemplateArguments, Turn
from ruminate.accumulator.sealing.chain import BEGINNING, Counts, Fold, Item, Link, Sealed, batch_id_of, digest_of
from ruminate.accumulator.sealing.decide import (
    Look,
    Policy,
    Progress,
    Seal,
    Wait,
    decide,
    enough,
    paused,
    reason_to_seal,
    usable_rows,
    usable_tokens,
)
from ruminate.accumulator.sealing.drift import Finding, Looked
from ruminate.accumulator.sealing.pauses import Pause, QuietHours
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.payload import ArtifactReference

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
POLICY = Policy(seal_at_rows=500, min_reasoning_ratio=0.75, seal_after_seconds=3600, seal_after_min_rows=64)
DATASET = ArtifactReference(uri="file:///d.json", sha256="0" * 64, size_bytes=1)


def sealed(**changed: Any) -> TrainingBatchSealed:
    fields: dict[str, Any] = {
        "batch_id": "b-2",
        "target_model": "t",
        "number": 2,
        "previous_batch_id": "b-1",
        "assessed_partition": 3,
        "after_offset": 10,
        "to_offset": 20,
        "sealed_at": NOW,
        "reason": "count",
        "explanation": "",
        "dataset": DATASET,
        "rows": 1,
        "reasoning_rows": 1,
        "direct_rows": 0,
        "reasoning_ratio": 1.0,
    } | changed
    return TrainingBatchSealed(**fields)


def item(offset: int, *, of: int | None = None, continues: int | None = None, event: int | None = None, **changed: Any) -> Item:
    """A reasoning row of interaction `of`, changed as told."""
    interaction = offset if of is None else of
    fields: dict[str, Any] = {
        "offset": offset,
        "event": digest_of(f"event-{offset if event is None else event}"),
        "recorded": UUID(int=interaction).bytes,
        "revision": 0,
        "name": digest_of(f"interaction-{interaction}"),
        "continues": None if continues is None else digest_of(f"interaction-{continues}"),
        "conversation": digest_of(f"conversation-{interaction}"),
        "assessed_at": NOW + timedelta(seconds=offset),
        "reasoning": True,
        "why_not": None,
    } | changed
    return Item(**fields)


def fold_of(*items: Item, sealed: Sealed | None = None) -> Fold:
    fold = Fold(sealed=sealed or Sealed())
    for each in items:
        fold.add(each)
    return fold


def reasons(fold: Fold) -> list[str | None]:
    return [why_not for _, why_not in fold.judged()]


# The chain


def test_the_next_number_from_the_last_offset_extends_the_chain() -> None:
    assert Link(1, "b-1", 10).extended_by(sealed(), partition=3)
    assert BEGINNING.extended_by(sealed(number=1, previous_batch_id=None, after_offset=-1), partition=3)


@pytest.mark.parametrize(
    "changed",
    [
        {"number": 3},
        {"number": 1},
        {"previous_batch_id": "b-0"},
        {"previous_batch_id": None},
        {"after_offset": 9},
        {"after_offset": 11},
        {"to_offset": 10},
        {"assessed_partition": 4},
    ],
)
def test_whatever_does_not_follow_the_last_batch_is_ignored(changed: dict[str, Any]) -> None:
    assert not Link(1, "b-1", 10).extended_by(sealed(**changed), partition=3)


names = st.text(alphabet="aA-_:/.0é", min_size=1, max_size=6)


@given(st.tuples(names, names), st.tuples(names, names))
def test_a_batch_id_belongs_to_one_chain_and_is_a_safe_name(one: tuple[str, str], other: tuple[str, str]) -> None:
    first, second = batch_id_of(*one, 7), batch_id_of(*other, 7)
    assert (one == other) == (first.lower() == second.lower())
    assert set(first) <= set(string.ascii_letters + string.digits + "._-")
    assert not first.startswith(".")


def test_a_batch_id_reads_well_where_it_can() -> None:
    assert batch_id_of("default", "qwen3:8b", 4) == "qwen3_8b-000004"
    assert batch_id_of("acme", "qwen3:8b", 4).startswith("acme-qwen3_8b-")
    assert len(batch_id_of("t" * 200, "m" * 200, 4)) < 80


# The fold


def test_the_first_offset_of_an_event_wins() -> None:
    fold = fold_of(item(1), item(2, of=1, event=1), item(3, of=9, event=1))
    assert reasons(fold) == [None, "duplicate", "duplicate"]
    assert fold.counts() == Counts(reasoning=1)


def test_the_highest_revision_counts_whichever_comes_last() -> None:
    fold = fold_of(item(1, of=1, revision=1), item(2, of=1, revision=2, why_not="rejected"), item(3, of=1, revision=0))
    assert reasons(fold) == ["superseded", "rejected", "superseded"]
    assert fold.counts() == Counts()


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1), (1, 3, 2)])
def test_the_last_kept_interaction_of_a_conversation_replaces_the_ones_it_continues(order: tuple[int, ...]) -> None:
    turns = {1: item(1), 2: item(2, continues=1, why_not="rejected"), 3: item(3, continues=2)}
    fold = fold_of(*(turns[offset] for offset in order))
    assert {turn.offset: why_not for turn, why_not in fold.judged()} == {1: "continued", 2: "rejected", 3: None}
    assert fold.counts() == Counts(reasoning=1)


def test_an_interaction_comes_back_when_what_continued_it_is_rejected_after_all() -> None:
    fold = fold_of(item(1), item(2, continues=1), item(3, of=2, continues=1, revision=1, why_not="rejected"))
    assert reasons(fold) == [None, "superseded", "rejected"]
    assert fold.counts() == Counts(reasoning=1)


def test_what_an_earlier_batch_holds_is_in_no_later_one() -> None:
    before = Sealed(events=DigestSet([item(1).event]), interactions=DigestSet([UUID(int=2).bytes]))
    assert reasons(fold_of(item(1), item(2), item(3), sealed=before)) == ["duplicate", "sealed_before", None]


records = st.builds(
    lambda of, parent, revision, kind, event: {"of": of, "parent": parent, "revision": revision, "kind": kind, "event": event},
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(0, 2),
    st.sampled_from(["reasoning", "direct", "rejected", "not_allowed"]),
    st.one_of(st.none(), st.integers(0, 40)),
)
logs = st.lists(records, max_size=40)


def items_of(log: list[dict[str, Any]], *, cycles: bool = False) -> list[Item]:
    parents: dict[int, int] = {}
    items = []
    for offset, record in enumerate(log):
        of = record["of"]
        parent = parents.setdefault(of, record["parent"])  # what an interaction continues is part of it
        linked = parent != of if cycles else parent < of
        items.append(
            item(
                offset,
                of=of,
                event=record["event"],
                continues=parent if linked else None,
                revision=record["revision"],
                reasoning=record["kind"] == "reasoning",
                why_not=record["kind"] if record["kind"] in ("rejected", "not_allowed") else None,
                conversation=bytes([of % 3 * 100]) + bytes(15),
            )
        )
    return items


@given(logs)
def test_the_running_counts_are_those_of_a_count_from_the_definition(log: list[dict[str, Any]]) -> None:
    items = items_of(log)
    current: dict[bytes, Item] = {}
    events = set()
    for each in items:
        if each.event not in events:
            events.add(each.event)
            known = current.get(each.recorded)
            if known is None or each.revision > known.revision:
                current[each.recorded] = each
    named = {each.name: each for each in current.values()}
    contained: set[bytes] = set()
    for each in current.values():
        name = each.continues if each.why_not is None else None
        while name is not None and name not in contained:
            contained.add(name)
            name = named[name].continues if name in named else None
    rows = {each for each in current.values() if each.why_not is None and each.name not in contained}
    fold = fold_of(*items)
    assert {each for each, why_not in fold.judged() if why_not is None} == rows
    assert fold.counts() == Counts(reasoning=sum(each.reasoning for each in rows), direct=sum(not each.reasoning for each in rows))


def test_one_that_continues_itself_by_way_of_another_is_counted_anew_when_it_is_judged_anew() -> None:
    log = [{"of": 1, "parent": 2, "revision": 0, "kind": "rejected", "event": None}]
    log += [{"of": 2, "parent": 1, "revision": revision, "kind": "reasoning", "event": None} for revision in (0, 1)]
    fold = fold_of(*items_of(log, cycles=True))
    assert (fold.counts(), sum(why_not is None for why_not in reasons(fold))) == (Counts(), 0)


@given(logs)
def test_interactions_that_claim_to_continue_each_other_in_a_circle_end_the_fold_in_order(log: list[dict[str, Any]]) -> None:
    fold = fold_of(*items_of(log, cycles=True))
    assert fold.counts().reasoning + fold.counts().direct == sum(why_not is None for why_not in reasons(fold))


@given(logs, st.integers(-1, 40))
def test_a_fold_that_begins_later_is_the_fold_of_what_comes_later(log: list[dict[str, Any]], cut: int) -> None:
    items = items_of(log)
    later = fold_of(*items).after(cut, sealed=Sealed())
    fresh = fold_of(*(each for each in items if each.offset > cut))
    assert (later.counts(), reasons(later), later.waiting_since) == (fresh.counts(), reasons(fresh), fresh.waiting_since)


# The decision


def progress(reasoning: int, direct: int, *, age: float = 0.0, newest: float = 0.0, folded: float = 0.0) -> Progress:
    """Rows, and seconds before NOW."""
    return Progress(
        Counts(reasoning=reasoning, direct=direct),
        waiting_since=NOW - timedelta(seconds=age),
        newest_assessed_at=NOW - timedelta(seconds=newest),
        folded_at=NOW - timedelta(seconds=folded),
    )


def test_enough_rows_seal_by_count() -> None:
    assert decide(progress(510, 50), POLICY, now=NOW) == Seal(
        "count", "560 rows (510 reasoning, 50 direct), sealing needs 500 (RUMINATE_SEAL_AT_ROWS)"
    )


def test_too_few_rows_wait_and_say_for_how_many() -> None:
    assert decide(progress(10, 2), POLICY, now=NOW) == Wait(
        "12 rows (10 reasoning, 2 direct), sealing needs 500 (RUMINATE_SEAL_AT_ROWS). Waiting."
    )


def test_direct_rows_over_the_ratio_wait_for_reasoning_rows_and_seal_by_ratio_once_they_are_there() -> None:
    assert decide(progress(374, 900), POLICY, now=NOW) == Wait(
        "498 rows (374 reasoning, 124 of 900 direct), sealing needs 500 (RUMINATE_SEAL_AT_ROWS); 776 direct rows wait for "
        "reasoning rows, there must be at least 75% reasoning (RUMINATE_MIN_REASONING_RATIO). Waiting."
    )
    assert decide(progress(375, 900), POLICY, now=NOW) == Seal(
        "ratio",
        "500 rows (375 reasoning, 125 of 900 direct), sealing needs 500 (RUMINATE_SEAL_AT_ROWS) with at least 75% reasoning "
        "(RUMINATE_MIN_REASONING_RATIO)",
    )


def test_an_old_batch_seals_by_age_with_fewer_rows_and_not_with_too_few() -> None:
    assert decide(progress(60, 20, age=3600), POLICY, now=NOW) == Seal(
        "age",
        "80 rows (60 reasoning, 20 direct), the oldest waits for 3600 s; sealing needs 64 (RUMINATE_SEAL_AFTER_MIN_ROWS) after "
        "3600 s (RUMINATE_SEAL_AFTER_SECONDS)",
    )
    assert isinstance(decide(progress(60, 20, age=3599), POLICY, now=NOW), Wait)
    assert isinstance(decide(progress(40, 20, age=3600), POLICY, now=NOW), Wait)
    assert isinstance(decide(progress(0, 9_000, age=1e9), POLICY, now=NOW), Wait)
    assert isinstance(decide(Progress(Counts()), POLICY, now=NOW), Wait)


def test_a_backlog_is_read_to_its_end_before_age_seals() -> None:
    assert isinstance(decide(progress(60, 20, age=9_000, newest=8_000, folded=1), POLICY, now=NOW), Wait)
    assert isinstance(decide(progress(60, 20, age=9_000, newest=8_000, folded=6), POLICY, now=NOW), Seal)
    assert isinstance(decide(progress(60, 20, age=9_000, newest=2, folded=1), POLICY, now=NOW), Seal)


def test_no_more_records_wait_than_may_whatever_their_rows() -> None:
    policy = replace(POLICY, seal_at_records=10_000)
    for rows in (Counts(), Counts(direct=9_000), Counts(reasoning=3)):
        full = Progress(rows, records=10_000)
        due = decide(full, policy, now=NOW)
        assert isinstance(due, Seal)
        assert due.reason == "records"
        assert due.explanation.endswith("10000 records wait, as many as may (RUMINATE_SEAL_AT_RECORDS); sealing needs no row")
        assert enough(Look(rows, Counts()), due, policy)
        assert isinstance(decide(full._replace(records=9_999), policy, now=NOW), Wait)
        assert isinstance(decide(full, POLICY, now=NOW), Wait)


def test_records_are_no_reason_while_another_holds_and_wait_for_the_same_pauses() -> None:
    policy = replace(POLICY, seal_at_records=10_000)
    full = progress(510, 0)._replace(records=10_000)
    assert reason_to_seal(full, policy, now=NOW) == "count"
    assert reason_to_seal(full._replace(look=Look(Counts(510), Counts(20))), policy, now=NOW) == "records", "a look found few"
    quiet = replace(policy, quiet_hours=QuietHours(time(8), time(18), UTC))
    waits = decide(Progress(Counts(), records=10_000), quiet, now=NOW)
    assert isinstance(waits, Wait)
    assert waits.pause is not None
    assert "due (records)" in waits.explanation


def test_a_batch_that_no_count_of_records_can_fill_is_refused() -> None:
    with pytest.raises(ValueError, match=r"raise RUMINATE_SEAL_AT_RECORDS"):
        AccumulatorSettings(seal_at_rows=2_000, seal_at_records=1_000)
    with pytest.raises(ValueError, match=r"'\*/t' in RUMINATE_SEAL_POLICIES: .*raise RUMINATE_SEAL_AT_RECORDS"):
        AccumulatorSettings(seal_policies={"*/t": {"seal_at_records": 100}})


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.01, 1))
def test_as_many_direct_rows_are_taken_as_the_ratio_carries_and_never_more(reasoning: int, direct: int, ratio: float) -> None:
    policy = replace(POLICY, min_reasoning_ratio=ratio)
    rows = usable_rows(Counts(reasoning=reasoning, direct=direct), policy)
    assert reasoning >= policy.share * rows
    assert rows == reasoning + direct or reasoning < policy.share * (rows + 1)


# A look that ends without a batch


def looked(reasoning: int, direct: int, *, trainable: Counts, more: int = 0, age: float = 0.0) -> Progress:
    """Rows stood ready, so many of them could be trained, and then more came."""
    counts = Counts(reasoning, direct)
    now = progress(reasoning + more, direct, age=age)
    return now._replace(look=Look(counts, trainable))


def test_what_a_look_found_lost_does_not_count_until_there_is_enough_beside_it() -> None:
    due = reason_to_seal(progress(500, 0), POLICY, now=NOW)
    assert due == "count"
    seal = decide(progress(500, 0), POLICY, now=NOW)
    assert isinstance(seal, Seal)
    assert not enough(Look(Counts(500), Counts(470)), seal, POLICY)
    assert enough(Look(Counts(500), Counts(500)), seal, POLICY)
    waits = decide(looked(500, 0, trainable=Counts(470)), POLICY, now=NOW)
    assert isinstance(waits, Wait)
    assert "470 rows (470 reasoning, 0 direct) beside 30 that would be held out or left out" in waits.explanation
    assert reason_to_seal(looked(500, 0, trainable=Counts(470), more=29), POLICY, now=NOW) is None
    assert reason_to_seal(looked(500, 0, trainable=Counts(470), more=32), POLICY, now=NOW) == "count"


def test_the_next_look_waits_for_a_sixteenth_more_so_that_looks_cost_no_more_than_rows() -> None:
    assert reason_to_seal(looked(1600, 0, trainable=Counts(499), more=99), POLICY, now=NOW) is None
    assert reason_to_seal(looked(1600, 0, trainable=Counts(499), more=100), POLICY, now=NOW) == "count"


def test_age_seals_what_a_look_has_found_and_asks_again_only_after_growth() -> None:
    old = POLICY.seal_after_seconds + 1
    assert reason_to_seal(looked(500, 0, trainable=Counts(470), age=old), POLICY, now=NOW) == "age"
    assert reason_to_seal(looked(80, 0, trainable=Counts(60), age=old), POLICY, now=NOW) is None
    assert reason_to_seal(looked(80, 0, trainable=Counts(60), more=4, age=old), POLICY, now=NOW) is None
    assert reason_to_seal(looked(80, 0, trainable=Counts(60), more=5, age=old), POLICY, now=NOW) == "age"


# Tokens, what has changed, an operator's word; and what a batch that is due waits for

LOWER, OTHER = Finding("quality", 31_000.0, 0.12, 3e-7), Finding("topics", 90.1, 0.61, 1e-8)
FOUND = Looked(3, 2e-5, 500, 210, (LOWER, OTHER), LOWER)
NIGHT = QuietHours(time(22), time(6), UTC)
TOKENS = replace(POLICY, seal_at_tokens=100_000)


def test_enough_tokens_seal_before_the_count_is_reached() -> None:
    some = progress(90, 10)._replace(tokens=Counts(95_000, 6_000))
    assert decide(some, TOKENS, now=NOW) == Seal(
        "tokens",
        "100 rows (90 reasoning, 10 direct), 101000 tokens; sealing needs 100000 (RUMINATE_SEAL_AT_TOKENS) in at least 64 "
        "(RUMINATE_SEAL_AFTER_MIN_ROWS)",
    )
    assert reason_to_seal(some, POLICY, now=NOW) is None, "they are off"
    assert reason_to_seal(some._replace(counts=Counts(50, 10)), TOKENS, now=NOW) is None, "too few rows"
    assert reason_to_seal(some._replace(tokens=Counts(90_000, 9_999)), TOKENS, now=NOW) is None


def test_tokens_of_direct_rows_over_the_ratio_and_of_rows_that_a_look_found_lost_do_not_count() -> None:
    assert usable_tokens(progress(75, 100)._replace(tokens=Counts(7_500, 100_000)), TOKENS) == 7_500 + 25_000
    lost = looked(500, 0, trainable=Counts(400))._replace(tokens=Counts(100_000))
    assert usable_tokens(lost, TOKENS) == 80_000


def test_a_look_that_came_to_too_few_tokens_waits_for_growth() -> None:
    due = decide(progress(100, 0)._replace(tokens=Counts(100_000)), TOKENS, now=NOW)
    assert isinstance(due, Seal)
    found = Look(Counts(100), Counts(100), tokens=99_000)
    assert not enough(found, due, TOKENS)
    assert enough(found._replace(tokens=100_000), due, TOKENS)
    again = progress(100, 0)._replace(tokens=Counts(100_000), look=found)
    assert reason_to_seal(again, TOKENS, now=NOW) is None
    assert reason_to_seal(again._replace(counts=Counts(107), tokens=Counts(107_000)), TOKENS, now=NOW) == "tokens"


def test_lower_quality_and_drift_seal_with_the_fewest_rows_and_say_by_which_test() -> None:
    policy = replace(POLICY, false_alarm_ratio=0.001)
    assert decide(progress(60, 10)._replace(looked=FOUND), policy, now=NOW) == Seal(
        "quality",
        "70 rows (60 reasoning, 10 direct), scores are lower than in the last batch's interval: one-sided Wilcoxon-Mann-Whitney "
        "test, statistic 3.1e+04, effect 0.120 (from 0.05), p 3e-07 (up to 2e-05) at look 3, 210 conversations against 500 "
        "(RUMINATE_SEAL_FALSE_ALARM_RATIO 0.001); sealing needs 64 (RUMINATE_SEAL_AFTER_MIN_ROWS)",
    )
    drifted = progress(60, 10)._replace(looked=replace(FOUND, found=OTHER))
    drift = decide(drifted, policy, now=NOW)
    assert isinstance(drift, Seal)
    assert drift.reason == "drift"
    assert "topics are other than in the last batch's interval: Pearson's chi-squared test of homogeneity" in drift.explanation
    assert reason_to_seal(drifted._replace(counts=Counts(40, 10)), policy, now=NOW) is None
    assert reason_to_seal(drifted._replace(looked=replace(FOUND, found=None)), policy, now=NOW) is None


def test_a_look_at_a_drift_that_came_to_too_little_waits_for_growth() -> None:
    drifted = looked(80, 0, trainable=Counts(60))._replace(looked=FOUND)
    assert reason_to_seal(drifted, POLICY, now=NOW) is None
    assert reason_to_seal(drifted._replace(counts=Counts(85)), POLICY, now=NOW) == "quality"


def test_an_operators_word_seals_a_single_row_and_none_without_one() -> None:
    asked = progress(1, 0)._replace(requests=1)
    assert decide(asked, POLICY, now=NOW) == Seal("operator", "1 row (1 reasoning, 0 direct), an operator's word; sealing needs 1")
    direct = decide(progress(0, 40)._replace(requests=1), POLICY, now=NOW)
    assert isinstance(direct, Wait)
    assert "40 direct rows wait for reasoning rows" in direct.explanation
    assert "an operator has asked for it, which needs one row" in direct.explanation
    held_out = looked(1, 0, trainable=Counts())._replace(requests=1)
    assert reason_to_seal(held_out, POLICY, now=NOW) is None, "the one row is held out"
    assert reason_to_seal(held_out._replace(counts=Counts(2)), POLICY, now=NOW) == "operator"


def test_a_batch_that_is_due_waits_for_the_end_of_quiet_hours_and_says_until_when() -> None:
    policy, night = replace(POLICY, quiet_hours=NIGHT), NOW.replace(hour=23)
    waits = decide(progress(510, 0), policy, now=night)
    until = datetime(2026, 11, 2, 6, tzinfo=UTC)
    assert waits == Wait(
        "510 rows (510 reasoning, 0 direct), due (count): sealing needs 500 (RUMINATE_SEAL_AT_ROWS). These are quiet hours "
        "(RUMINATE_SEAL_QUIET_HOURS): waiting until 2026-11-02 06:00Z.",
        Pause("quiet_hours", until),
    )
    assert paused(progress(510, 0), policy, now=night) == Pause("quiet_hours", until)
    assert paused(progress(10, 0), policy, now=night) is None, "nothing is due"
    assert reason_to_seal(progress(510, 0), policy, now=until) == "count"
    assert reason_to_seal(progress(510, 0)._replace(requests=1), policy, now=night) == "operator"


def test_a_batch_that_is_due_waits_for_the_budget_and_says_until_when() -> None:
    policy = replace(POLICY, most_a_day=2)
    spent = progress(510, 0)._replace(sealed_at=(NOW - timedelta(hours=20), NOW - timedelta(hours=1)))
    waits = decide(spent, policy, now=NOW)
    assert isinstance(waits, Wait)
    assert waits.pause == Pause("budget", NOW + timedelta(hours=4))
    assert waits.explanation.endswith("2 in 24 hours is the budget (RUMINATE_SEAL_MOST_A_DAY): waiting until 2026-11-01 16:00Z.")
    assert reason_to_seal(spent, policy, now=NOW + timedelta(hours=4)) == "count"
    assert reason_to_seal(spent._replace(requests=1), policy, now=NOW) == "operator"


any_progress = st.builds(
    lambda counts, lost, standing, tokens, looked, requests, age, sealed: Progress(
        Counts(*counts),
        None if standing is None else Look(Counts(*standing), Counts(*(max(0, s - lost) for s in standing)), tokens[0]),
        waiting_since=NOW - timedelta(seconds=age),
        newest_assessed_at=NOW,
        folded_at=NOW,
        tokens=Counts(*tokens),
        looked=looked,
        requests=requests,
        sealed_at=tuple(NOW - timedelta(hours=hours) for hours in sorted(sealed, reverse=True)),
    ),
    st.tuples(st.integers(0, 600), st.integers(0, 600)),
    st.integers(0, 90),
    st.one_of(st.none(), st.tuples(st.integers(0, 600), st.integers(0, 600))),
    st.tuples(st.integers(0, 90_000), st.integers(0, 90_000)),
    st.sampled_from([None, FOUND, replace(FOUND, found=OTHER), replace(FOUND, found=None)]),
    st.integers(0, 2),
    st.floats(0, 10_000),
    st.lists(st.floats(0, 48), max_size=3),
)
policies = st.builds(
    lambda tokens, most, quiet: replace(POLICY, seal_at_tokens=tokens, most_a_day=most, quiet_hours=quiet),
    st.sampled_from([None, 50_000]),
    st.sampled_from([None, 1, 2]),
    st.sampled_from([None, NIGHT, QuietHours(time(6), time(22), UTC)]),
)


@given(any_progress, policies)
def test_the_words_say_what_the_quick_question_says_and_what_is_due_without_a_pause_is_sealed(
    state: Progress, policy: Policy
) -> None:
    reason, decision = reason_to_seal(state, policy, now=NOW), decide(state, policy, now=NOW)
    assert (decision.reason if isinstance(decision, Seal) else None) == reason
    assert paused(state, policy, now=NOW) is None or reason in (None, "operator")
    if isinstance(decision, Wait):
        assert decision.pause == paused(state, policy, now=NOW)


@given(any_progress, policies, st.integers(0, 90), st.integers(0, 90_000))
def test_a_look_that_does_not_make_the_batch_ends_the_question_until_more_has_come(
    state: Progress, policy: Policy, lost: int, tokens: int
) -> None:
    asked: list[str] = []
    while (reason := reason_to_seal(state, policy, now=NOW)) is not None:
        assert reason not in asked, "the same question twice, and nothing has changed"
        asked.append(reason)
        seal = decide(state, policy, now=NOW)
        assert isinstance(seal, Seal)
        counts = state.counts
        found = Look(counts, Counts(max(0, counts.reasoning - lost), max(0, counts.direct - lost)), tokens)
        if enough(found, seal, policy):
            return
        state = state._replace(look=found)


# The choice and its validation


def composed(fold: Fold, policy: Policy, *, seed: str, holdout_ratio: float = 0.0) -> Composed:
    """What a cut now comes to."""
    interval = interval_of(fold)
    looked_at = {each.offset: candidate(each) for each in interval.standing}
    standing = [Standing(each.offset, each.recorded, each.conversation, 0.5, asked_in(line_of(each))) for each in interval.standing]
    texts = {offset: texts_in(row.line) for offset, row in looked_at.items()}
    curated = curate(standing, fold.sealed.known, Rules(holdout_ratio), texts=texts.__getitem__)
    selection = choose(interval, curated, policy, seed=seed, looked_at=looked_at, called_for=lambda _: False)
    candidates = [replace(looked_at[each.offset], held_out=held_out) for each, held_out in selection.rows()]
    needs = dict.fromkeys(looked_at, Need(None, called_for=False))
    return Composed(selection, candidates, needs, looked_at, [], [], [], curated.guard)


def candidate(each: Item) -> Candidate:
    return Candidate(
        item=each,
        held_out=False,
        line=line_of(each),
        asked=asked_in(line_of(each)),
        facts=Facts(Stratum("general", "simple"), ("words=2",), each.reasoning, generated=False, mark=None, check=None),
        score=0.5,
        event_id=f"event-{each.offset}",
        training_allowed=True,
        indicators=("why",),
        scorer_version="s",
        assessor_policy_version="p",
        names=(f"{each.offset:016x}",),
        occurred_at=NOW,
    )


def line_of(each: Item) -> bytes:
    row = Row(
        prompt=(Turn(role="user", content=f"question {each.recorded.hex()}"),),
        completion=(Turn(role="assistant", content="answer", reasoning_content="thought" if each.reasoning else None),),
        chat_template_kwargs=TemplateArguments(enable_thinking=each.reasoning),
    )
    return row.model_dump_json(exclude_none=True).encode() + b"\n"


@given(logs, st.sampled_from([0.0, 0.5]), st.sampled_from([0.5, 0.75, 1.0]))
def test_a_dataset_is_sound_and_accounts_for_every_record_once(log: list[dict[str, Any]], holdout: float, ratio: float) -> None:
    policy = replace(POLICY, min_reasoning_ratio=ratio)
    fold = fold_of(*items_of(log))
    made = composed(fold, policy, seed="s", holdout_ratio=holdout)
    selection = made.selection
    assert len(selection.train) == usable_rows(selection.trainable, policy)
    assert selection.trainable == fold.counts() or holdout
    assert sorted(
        each.offset for each in (*selection.train, *selection.holdout, *(left.item for left in selection.left_out))
    ) == list(range(len(log)))
    report = report_of(
        Contents(made.candidates, [], [], []), policy, Limits(RowLimits(1_000, 100), 0.9), touched=made.guard.touched
    )
    assert report.problems == ()


@given(logs, st.data())
def test_redelivered_and_repeated_records_change_no_byte_of_the_rows(log: list[dict[str, Any]], data: st.DataObject) -> None:
    items = items_of([record | {"event": None} for record in log])
    # The same events again, at any later places of the log.
    repeats = data.draw(st.lists(st.sampled_from(items), max_size=10)) if items else []
    longer = [*items, *(replace(repeat, offset=len(items) + n) for n, repeat in enumerate(repeats))]
    once, again = (composed(fold_of(*each), POLICY, seed="s").selection for each in (items, longer))
    assert [line_of(each) for each in once.train] == [line_of(each) for each in again.train]
    assert len(again.left_out) == len(once.left_out) + len(repeats)


@given(logs, st.lists(st.integers(0, 40), max_size=4), st.sampled_from([0.0, 0.5]))
def test_an_interaction_is_fresh_in_at_most_one_batch_and_never_on_both_sides(
    log: list[dict[str, Any]], cuts: list[int], holdout_ratio: float
) -> None:
    settings = AccumulatorSettings(holdout_ratio=holdout_ratio)
    before, link = Sealed(), BEGINNING
    fresh: list[bytes] = []
    sides: dict[bytes, set[bool]] = {}
    for cut in [*sorted(set(cuts)), 41]:
        interval = [each for each in items_of(log) if link.to_offset < each.offset <= cut]
        fold = fold_of(*interval, sealed=before)
        made = composed(fold, POLICY, seed="s", holdout_ratio=holdout_ratio)
        candidates = made.candidates
        manifest = describe(
            made,
            [],
            Cut(f"b-{cut}", "s", "default", "t", 0, link, cut),
            settings=settings,
            predictor=Predictor(),
            protected={},
            anchors={},
        )
        assert manifest.rejected_interactions == sum(left.reason not in REPEATS for left in made.selection.left_out)
        account(Holdings.of(Made(manifest, candidates, [], [], [], [], Report(checks=()))), before)
        fresh += [candidate.item.recorded for candidate in candidates]
        for candidate in candidates:
            sides.setdefault(candidate.item.conversation, set()).add(candidate.held_out)
        link = Link(manifest.number, manifest.batch_id, manifest.to_offset)
    assert len(fresh) == len(set(fresh))
    assert all(len(held_out) == 1 for held_out in sides.values())


def test_the_choice_among_direct_rows_and_the_order_depend_on_the_seed_alone() -> None:
    items = [*(item(n) for n in range(30)), *(item(n, reasoning=False) for n in range(30, 90))]
    one, same, other = (composed(fold_of(*items), POLICY, seed=seed).selection for seed in ("a", "a", "b"))
    assert one == same
    assert len(one.train) == 40
    assert {each.offset for each in one.train} != {each.offset for each in other.train}
    assert [each.offset for each in one.train] != sorted(each.offset for each in one.train)
    assert sum(left.reason == "over_ratio" for left in one.left_out) == 50


def sound() -> list[Candidate]:
    fold = fold_of(*(item(n) for n in range(3)), item(3, reasoning=False))
    return composed(fold, POLICY, seed="s").candidates


def problems_of(rows: list[Candidate]) -> tuple[str, ...]:
    """What the report says of these rows."""
    return report_of(Contents(rows, [], [], []), POLICY, Limits(RowLimits(1_000, 100), 0.9), touched=lambda _: None).problems


def broken(**changed: Any) -> list[Candidate]:
    rows = sound()
    first = next(n for n, row in enumerate(rows) if row.item.reasoning)
    rows[first] = replace(rows[first], **changed)
    return rows


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([*sound(), *sound()], "4 rows repeat an interaction"),
        ([*sound()[1:], replace(sound()[0], held_out=True), replace(sound()[0], held_out=False)], "both trained and held out"),
        ([replace(row, held_out=row.item.reasoning) for row in sound()], "0 of 1 rows reason; there must be at least 75%"),
        (broken(training_allowed=False), "no consent"),
        (broken(line=b""), "is not one line"),
        (broken(line=b"{}\n"), "prompt: missing"),
        (broken(line=line_of(item(0)).replace(b"thought", b" ")), "does not keep the thinking"),
        (broken(line=line_of(item(0)).replace(b"answer", b" ")), "the answer is empty"),
        (broken(line=line_of(item(0)).replace(b"question", b"q" * 1_000)), "bytes; at most 1000 (RUMINATE_ROW_MAX_BYTES)"),
        (broken(line=line_of(item(0)).replace(b'"prompt"', b'"extra":1,"prompt"')), "extra: extra_forbidden"),
    ],
)
def test_a_bad_batch_is_refused_and_says_why(rows: list[Candidate], problem: str) -> None:
    assert problem in "; ".join(problems_of(rows))


def test_a_sound_batch_has_no_problems() -> None:
    assert problems_of(sound()) == ()


def test_weights_of_unknown_indicators_are_refused() -> None:
    with pytest.raises(ValueError, match="no indicator is named wy"):
        AccumulatorSettings(indicator_weights={"wy": 1.0})
