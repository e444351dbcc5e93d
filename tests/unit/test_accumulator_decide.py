"""The chain rule, the fold, the decision to seal, the choice of rows and their validation."""

from __future__ import annotations

import string
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.accumulator.chain import BEGINNING, Counts, Fold, Item, Link, Sealed, batch_id_of, digest_of
from ruminate.accumulator.dataset import account, describe
from ruminate.accumulator.decide import Candidate, Policy, Progress, Seal, Selection, Wait, decide, problems_of, select, usable_rows
from ruminate.accumulator.digests import DigestSet, Sides
from ruminate.accumulator.rows import REPEATS, Row, TemplateArguments, Turn
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


def fold_of(*items: Item, sealed: Sealed | None = None, holdout_ratio: float = 0.0) -> Fold:
    fold = Fold(sealed=sealed or Sealed(), holdout_ratio=holdout_ratio)
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


def test_a_conversation_stays_on_the_side_where_it_came_first() -> None:
    one = item(1, conversation=b"\x00" * 16)
    assert fold_of(one, holdout_ratio=0.5).counts() == Counts(held_out=1)
    assert fold_of(one, sealed=Sealed(held_out=Sides({one.conversation: False})), holdout_ratio=0.5).counts() == Counts(reasoning=1)
    assert fold_of(one, sealed=Sealed(held_out=Sides({one.conversation: True})), holdout_ratio=0.0).counts() == Counts(held_out=1)


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


@given(logs, st.sampled_from([0.0, 0.3, 0.5]))
def test_the_running_counts_are_those_of_a_count_from_the_definition(log: list[dict[str, Any]], holdout_ratio: float) -> None:
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
    fold = fold_of(*items, holdout_ratio=holdout_ratio)
    assert {each for each, why_not in fold.judged() if why_not is None} == rows
    trained = [each for each in rows if not fold.is_held_out(each)]
    assert fold.counts() == Counts(
        reasoning=sum(each.reasoning for each in trained),
        direct=sum(not each.reasoning for each in trained),
        held_out=len(rows) - len(trained),
    )


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


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.01, 1))
def test_as_many_direct_rows_are_taken_as_the_ratio_carries_and_never_more(reasoning: int, direct: int, ratio: float) -> None:
    policy = replace(POLICY, min_reasoning_ratio=ratio)
    rows = usable_rows(Counts(reasoning=reasoning, direct=direct), policy)
    assert reasoning >= policy.share * rows
    assert rows == reasoning + direct or reasoning < policy.share * (rows + 1)


# The choice and its validation


def candidates_of(selection: Selection) -> list[Candidate]:
    return [
        Candidate(
            item=each,
            held_out=held_out,
            line=line_of(each),
            event_id=f"event-{each.offset}",
            training_allowed=True,
            indicators=("why",),
            scorer_version="s",
            assessor_policy_version="p",
        )
        for each, held_out in selection.rows()
    ]


def line_of(each: Item) -> bytes:
    row = Row(
        prompt=(Turn(role="user", content=f"question {each.offset}"),),
        completion=(Turn(role="assistant", content="answer", reasoning_content="thought" if each.reasoning else None),),
        chat_template_kwargs=TemplateArguments(enable_thinking=each.reasoning),
    )
    return row.model_dump_json(exclude_none=True).encode() + b"\n"


@given(logs, st.sampled_from([0.0, 0.5]), st.sampled_from([0.5, 0.75, 1.0]))
def test_a_dataset_is_sound_and_accounts_for_every_record_once(log: list[dict[str, Any]], holdout: float, ratio: float) -> None:
    policy = replace(POLICY, min_reasoning_ratio=ratio)
    fold = fold_of(*items_of(log), holdout_ratio=holdout)
    selection = select(fold, policy, seed="s")
    assert len(selection.train) == usable_rows(fold.counts(), policy)
    assert sorted(
        each.offset for each in (*selection.train, *selection.holdout, *(left for left, _ in selection.left_out))
    ) == list(range(len(log)))
    problems = problems_of(candidates_of(selection), policy, row_max_bytes=1_000)
    assert problems == (() if selection.train else ("no row to train on",))


@given(logs, st.data())
def test_redelivered_and_repeated_records_change_no_byte_of_the_rows(log: list[dict[str, Any]], data: st.DataObject) -> None:
    items = items_of([record | {"event": None} for record in log])
    # The same events again, at any later places of the log.
    repeats = data.draw(st.lists(st.sampled_from(items), max_size=10)) if items else []
    longer = [*items, *(replace(repeat, offset=len(items) + n) for n, repeat in enumerate(repeats))]
    once, again = (select(fold_of(*each), POLICY, seed="s") for each in (items, longer))
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
        fold = fold_of(*interval, sealed=before, holdout_ratio=holdout_ratio)
        selection = select(fold, POLICY, seed="s")
        candidates = candidates_of(selection)
        manifest = describe(
            candidates,
            selection,
            batch_id=f"b-{cut}",
            seed="s",
            tenant="default",
            target="t",
            partition=0,
            link=link,
            to_offset=cut,
            settings=settings,
        )
        assert manifest.rejected_interactions == sum(why_not not in REPEATS for _, why_not in selection.left_out)
        account(manifest, before)
        fresh += [candidate.item.recorded for candidate in candidates]
        for candidate in candidates:
            sides.setdefault(candidate.item.conversation, set()).add(candidate.held_out)
        link = Link(manifest.number, manifest.batch_id, manifest.to_offset)
    assert len(fresh) == len(set(fresh))
    assert all(len(held_out) == 1 for held_out in sides.values())


def test_the_choice_among_direct_rows_and_the_order_depend_on_the_seed_alone() -> None:
    items = [*(item(n) for n in range(30)), *(item(n, reasoning=False) for n in range(30, 90))]
    one, same, other = (select(fold_of(*items), POLICY, seed=seed) for seed in ("a", "a", "b"))
    assert one == same
    assert len(one.train) == 40
    assert {each.offset for each in one.train} != {each.offset for each in other.train}
    assert [each.offset for each in one.train] != sorted(each.offset for each in one.train)
    assert sum(why_not == "over_ratio" for _, why_not in one.left_out) == 50


def sound() -> list[Candidate]:
    fold = fold_of(*(item(n) for n in range(3)), item(3, reasoning=False))
    return candidates_of(select(fold, POLICY, seed="s"))


def broken(**changed: Any) -> list[Candidate]:
    rows = sound()
    first = next(n for n, row in enumerate(rows) if row.item.reasoning)
    rows[first] = replace(rows[first], **changed)
    return rows


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "no row to train on"),
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
    assert problem in "; ".join(problems_of(rows, POLICY, row_max_bytes=1_000))


def test_a_sound_batch_has_no_problems() -> None:
    assert problems_of(sound(), POLICY, row_max_bytes=1_000) == ()


def test_weights_of_unknown_indicators_are_refused() -> None:
    with pytest.raises(ValueError, match="no indicator is named wy"):
        AccumulatorSettings(indicator_weights={"wy": 1.0})
