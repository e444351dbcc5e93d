"""What an answer is worth in practice."""

from __future__ import annotations

from ruminate.trainer.stages.rewards import Attempt, Reward, rewards


def attempt(right: bool | None, tokens: int, *, well_formed: bool = True) -> Attempt:
    """One answer of a group."""
    return Attempt(right=right, well_formed=well_formed, tokens=tokens)


def test_of_right_answers_the_one_with_the_shortest_thinking_is_worth_most() -> None:
    assert rewards([attempt(True, 10), attempt(True, 30), attempt(True, 20)]) == [
        Reward(1.0, 1.0, 0.5),
        Reward(1.0, 1.0, -0.5),
        Reward(1.0, 1.0, 0.0),
    ]


def test_a_wrong_answer_gains_nothing_by_being_short_and_loses_by_being_long() -> None:
    short, long, right = rewards([attempt(False, 10), attempt(False, 30), attempt(True, 20)])
    assert short == Reward(0.0, 1.0, 0.0)
    assert long == Reward(0.0, 1.0, -0.5)
    assert right == Reward(1.0, 1.0, 0.0)


def test_thinking_that_is_not_well_formed_is_worth_less_and_gains_nothing_by_being_short() -> None:
    broken, whole = rewards([attempt(True, 10, well_formed=False), attempt(True, 30)])
    assert broken == Reward(1.0, 0.0, 0.0)
    assert whole == Reward(1.0, 1.0, -0.5)


def test_where_all_are_as_long_length_says_nothing() -> None:
    assert rewards([attempt(True, 7), attempt(False, 7)]) == [Reward(1.0, 1.0, 0.0), Reward(0.0, 1.0, 0.0)]


def test_an_answer_that_nothing_can_be_said_of_teaches_nothing_and_sets_no_measure() -> None:
    assert rewards([attempt(None, 1), attempt(True, 20), attempt(True, 30)]) == [
        None,
        Reward(1.0, 1.0, 0.5),
        Reward(1.0, 1.0, -0.5),
    ]
    assert rewards([attempt(None, 1), attempt(None, 2)]) == [None, None]
