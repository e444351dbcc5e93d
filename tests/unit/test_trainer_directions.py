"""What operators' words come to: which attempt is due, and what a batch waits for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from ruminate.schemas.directing import taken_together
from ruminate.schemas.training import Direction, TrainingDirected, TrainingFailed
from ruminate.trainer.decide import History, Refuse, Skip, Wait, decide
from ruminate.trainer.plan import JobPlan
from tests.unit.test_trainer_decide import NOW, POLICY, failed, log_of, registered, sealed, trained

BATCHES = tuple(sealed(number) for number in (1, 2, 3))
SEALED = log_of(*BATCHES)
MANUAL = replace(POLICY, approval={"*": "manual"})


def said(direction: Direction, batch: int | None = None, **given: Any) -> TrainingDirected:
    """An operator's word; cancel and retry are of the first attempt."""
    named = {"batch_id": f"tiny-{batch}"} if batch is not None else {}
    attempt = {"attempt": 1} if direction in ("cancel", "retry") else {}
    return TrainingDirected(
        target_model="tiny", direction=direction, directed_by="ada", directed_at=NOW, **(named | attempt | given)
    )


def again(failure: TrainingFailed, attempt: int) -> TrainingFailed:
    return failure.model_copy(update={"attempt": attempt})


def test_a_cancelled_batch_is_refused_in_the_words_of_whoever_cancelled_it() -> None:
    history = History(sealed=SEALED, directed=(said("cancel", 1, reason="out of date"),))
    refusal = decide(BATCHES[0], 0, history, POLICY)
    assert isinstance(refusal, Refuse)
    assert refusal.reason == "cancelled"
    assert refusal.explanation == "ada cancelled tiny-1: out of date. To train it after all:  ruminate train retry tiny-1"
    assert isinstance(decide(BATCHES[1], 1, history, POLICY), JobPlan)


def test_a_cancelled_attempt_says_nothing_of_the_next() -> None:
    words = (said("cancel", 1), said("retry", 1))
    assert isinstance(decide(BATCHES[0], 0, History(sealed=SEALED, failed=(failed(BATCHES[0]),), directed=words), POLICY), JobPlan)
    cancelled = decide(
        BATCHES[0], 0, History(sealed=SEALED, failed=(failed(BATCHES[0]),), directed=(*words, said("cancel", 1, attempt=2))), POLICY
    )
    assert isinstance(cancelled, Refuse)
    assert cancelled.explanation.startswith("ada cancelled attempt 2 of tiny-1.")


def test_a_failure_is_tried_again_once_for_each_word_that_names_it() -> None:
    first = failed(BATCHES[0])
    history = History(sealed=SEALED, failed=(first,))
    assert decide(BATCHES[0], 0, history, POLICY) == Skip("has_result")
    history = History(sealed=SEALED, failed=(first,), directed=(said("retry", 1), said("retry", 1)))
    assert (history.standing(BATCHES[0]).attempt, history.settled) == (2, frozenset())
    history = replace(history, failed=(first, again(first, 2)))
    assert decide(BATCHES[0], 0, history, POLICY) == Skip("has_result")
    assert history.settled == {"tiny-1"}
    history = replace(history, directed=(*history.directed, said("retry", 1, attempt=2)))
    assert history.standing(BATCHES[0]).attempt == 3
    history = replace(history, trained=(trained(BATCHES[0]).model_copy(update={"attempt": 3}),))
    assert decide(BATCHES[0], 0, history, POLICY) == Skip("has_result")


def test_a_retry_of_what_has_not_failed_changes_nothing() -> None:
    history = History(sealed=SEALED, directed=(said("retry", 1), said("retry", 2)), trained=(trained(BATCHES[1]),))
    assert history.standing(BATCHES[0]).attempt == 1
    assert history.standing(BATCHES[1]).result == trained(BATCHES[1])
    assert history.retried == ()


def test_nothing_is_tried_again_behind_which_a_later_batch_became_a_version() -> None:
    directed = (said("retry", 1),)
    history = History(sealed=SEALED, failed=(failed(BATCHES[0]), failed(BATCHES[1])), directed=directed)
    assert history.retried == (BATCHES[0],)
    history = replace(history, failed=history.failed[:1], trained=(trained(BATCHES[1]),))
    assert history.retried == ()
    assert decide(BATCHES[0], 0, history, POLICY) == Skip("has_result")


def test_a_batch_waits_for_the_retry_of_one_before_it_and_not_of_one_behind_it() -> None:
    history = History(sealed=SEALED, failed=(failed(BATCHES[0]), failed(BATCHES[1])), directed=(said("retry", 1), said("retry", 2)))
    assert decide(BATCHES[2], 2, history, POLICY) == Wait("tiny-1 of tiny is tried again first", "retry")
    assert decide(BATCHES[1], 1, history, POLICY) == Wait("tiny-1 of tiny is tried again first", "retry")
    assert isinstance(decide(BATCHES[0], 0, history, POLICY), JobPlan)


@pytest.mark.parametrize(
    ("words", "paused"),
    [
        ((), False),
        ((said("pause"),), True),
        ((said("pause"), said("pause")), True),
        ((said("pause"), said("pause"), said("resume")), False),
        ((said("resume"), said("pause")), True),
    ],
)
def test_the_last_word_says_whether_a_target_is_paused(words: tuple[TrainingDirected, ...], paused: bool) -> None:
    decision = decide(BATCHES[0], 0, History(sealed=SEALED, directed=words), POLICY)
    if paused:
        assert decision == Wait("tiny was paused by ada. Type:  ruminate resume tiny", "paused")
    else:
        assert isinstance(decision, JobPlan)


def test_a_batch_waits_for_approval_where_its_target_wants_it_and_a_retry_is_one() -> None:
    history = History(sealed=SEALED, directed=(said("approve", 2),))
    waits = decide(BATCHES[0], 0, history, MANUAL)
    says = "tiny-1 of tiny waits for approval (RUMINATE_APPROVAL). Type:  ruminate train approve tiny-1"
    assert waits == Wait(says, "approval")
    assert isinstance(decide(BATCHES[1], 1, history, MANUAL), JobPlan)
    assert isinstance(decide(BATCHES[0], 0, history, replace(MANUAL, approval={"*": "manual", "tiny": "auto"})), JobPlan)
    retried = History(sealed=SEALED, failed=(failed(BATCHES[0]),), directed=(said("retry", 1),))
    assert isinstance(decide(BATCHES[0], 0, retried, MANUAL), JobPlan)


def test_what_is_cancelled_or_cannot_be_trained_does_not_wait_first() -> None:
    history = History(sealed=SEALED, directed=(said("pause"), said("cancel", 1)), trained=(), registered=(registered(1),))
    assert isinstance(decide(BATCHES[0], 0, history, MANUAL), Refuse)
    empty = sealed(1, rows=0)
    assert isinstance(decide(empty, 0, History(sealed=log_of(empty), directed=(said("pause"),)), MANUAL), Refuse)


def test_the_last_word_of_a_batch_is_its_priority_and_else_that_of_its_target() -> None:
    directions = taken_together(
        (
            said("prioritise", 1, priority=3),
            said("prioritise", priority=7),
            said("prioritise", 2, priority=1),
            said("prioritise", 2),
        )
    )
    assert [directions.priority_of(f"tiny-{number}") for number in (1, 2, 3)] == [3, 0, 7]


@pytest.mark.parametrize(
    ("direction", "given", "why"),
    [
        ("cancel", {"attempt": 1}, "batch_id names it"),
        ("retry", {"batch_id": "b"}, "name an attempt"),
        ("approve", {"batch_id": "b", "attempt": 1}, "nothing else does"),
        ("pause", {"batch_id": "b"}, "batch_id must be null"),
        ("prioritise", {"priority": 1001}, "less than or equal to 1000"),
    ],
)
def test_a_word_names_what_it_is_about_and_nothing_else(direction: Direction, given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        TrainingDirected(target_model="tiny", direction=direction, directed_by="ada", directed_at=NOW, **given)
