"""What is tried when a stage has cost reasoning, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ruminate.trainer.learning.attempts import Attempt, Tried, accepted, next_attempt
from ruminate.trainer.plan import Recovery

Passes = Callable[[Attempt], bool]


def walk(
    keeps: Passes,
    *,
    learns: Passes = lambda _: True,
    harms: Passes = lambda _: False,
    recovery: Recovery = Recovery(),  # noqa: B008 - it is frozen
    snapshots: Mapping[int, Sequence[int]] = {0: (10, 20, 30)},
    must_learn: bool = True,
) -> tuple[list[Attempt], Attempt | None]:
    """Every attempt until the search is over, and the one to go on with."""
    tried: list[Tried] = []
    while (attempt := next_attempt(tried, recovery, snapshots, must_learn=must_learn)) is not None:
        tried.append(Tried(attempt=attempt, kept=keeps(attempt), learned=learns(attempt), harmed=harms(attempt)))
        assert len(tried) < 100
    return [each.attempt for each in tried], accepted(tried, must_learn=must_learn)


def test_a_stage_that_costs_nothing_is_run_once() -> None:
    tried, chosen = walk(lambda _: True, learns=lambda _: False)
    assert [attempt.kind for attempt in tried] == ["as_planned"]
    assert chosen == tried[0]  # whether something was learned is asked at the end of the job


def test_a_change_is_made_smaller_until_it_passes_and_then_as_large_as_it_may_be() -> None:
    tried, chosen = walk(lambda attempt: (attempt.scale or 1.0) < 0.7)
    assert [attempt.scale for attempt in tried] == [None, 0.5, 0.75, 0.625]
    assert chosen is not None
    assert chosen.scale == 0.625
    assert {attempt.of for attempt in tried[1:]} == {0}
    assert not any(attempt.trains for attempt in tried[1:])


def test_it_is_trained_again_more_gently_with_more_rehearsal() -> None:
    tried, chosen = walk(lambda attempt: attempt.kind == "gentler" and attempt.rate_factor < 0.1)
    assert [attempt.kind for attempt in tried] == ["as_planned", *["scaled"] * 3, "gentler", *["scaled"] * 3, "gentler"]
    assert chosen is not None
    assert (chosen.rate_factor, chosen.rehearsal_factor) == (0.3**2, 4)


def test_what_was_trained_more_gently_is_scaled_too() -> None:
    _, chosen = walk(lambda attempt: attempt.kind == "scaled" and attempt.of == 4)
    assert chosen is not None
    assert (chosen.of, chosen.scale) == (4, 0.875)
    assert (chosen.rate_factor, chosen.rehearsal_factor) == (0.3, 2)


def test_the_latest_checkpoint_that_passes_is_gone_back_to() -> None:
    tried, chosen = walk(lambda attempt: attempt.step == 20)
    assert [attempt.step for attempt in tried if attempt.kind == "checkpoint"] == [30, 20]
    assert chosen is not None
    assert (chosen.of, chosen.step) == (0, 20)


def test_where_nothing_passes_the_stage_is_undone() -> None:
    tried, chosen = walk(lambda _: False)
    assert chosen is None
    assert [attempt.kind for attempt in tried[-3:]] == ["checkpoint"] * 3
    assert len(tried) == 1 + 3 + 2 * (1 + 3) + 3


def test_a_recovery_that_has_learned_nothing_has_recovered_nothing() -> None:
    # Made small enough, every change costs nothing, and teaches nothing.
    _, chosen = walk(lambda attempt: attempt.scale is not None, learns=lambda attempt: (attempt.scale or 1.0) > 0.6)
    assert chosen is not None
    assert chosen.scale == 0.875
    _, chosen = walk(lambda attempt: (attempt.scale or 1.0) < 0.4, learns=lambda attempt: (attempt.scale or 1.0) > 0.6)
    assert chosen is None
    _, chosen = walk(
        lambda attempt: (attempt.scale or 1.0) < 0.4, learns=lambda attempt: (attempt.scale or 1.0) > 0.6, must_learn=False
    )
    assert chosen is not None


def test_a_stage_that_does_harm_to_what_it_practises_is_mended_like_any_other() -> None:
    tried, chosen = walk(lambda _: True, harms=lambda attempt: attempt.kind != "gentler", must_learn=False)
    assert chosen is not None
    assert chosen.kind == "gentler"
    assert tried[-1] == chosen


def test_an_operator_can_have_less_tried() -> None:
    tried, chosen = walk(lambda _: False, recovery=Recovery(factor_tries=0, gentler_tries=0), snapshots={})
    assert ([attempt.kind for attempt in tried], chosen) == (["as_planned"], None)
