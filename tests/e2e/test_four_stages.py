"""One turn of the loop in which a batch supports every stage, and one in which it supports a single one: nobody says which."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any, Final

import pytest

from ruminate.trainer.bases.arithmetic import NEW_TASKS, draw
from ruminate.trainer.plan import ORDER
from tests.e2e.running_loop import RunningLoop, eventually, start_loop
from tests.e2e.teaching import SETTINGS, Turned, approved, corrected, reported, turn, watched

WITHIN_SECONDS: Final = 360.0
"""From the word to seal to the version that serves."""

UNCHECKED: Final = next(task for task in NEW_TASKS if task.name == "sum of units")
STAGES: Final = {
    "RUMINATE_ANCHOR_RATIO": "0.6",
    "RUMINATE_LEARNING_RATE": "2e-3",
    "RUMINATE_TRAINING_EPOCHS": "2",
    # What is long is a matter of the model: so the sums that are rehearsed count, too, and are not forgotten in the first stage.
    "RUMINATE_COLD_START_THINKING_TOKENS": "12",
    "RUMINATE_PRACTICE_STEPS": "12",
    "RUMINATE_PRACTICE_RATE": "1e-5",
    "RUMINATE_PRACTICE_ANSWER_TOKENS": "64",
    "RUMINATE_PREFERENCE_RATE": "1e-6",
}


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLoop]:
    with start_loop(["up"], state=tmp_path_factory.mktemp("up") / "state", environment=SETTINGS | STAGES) as running:
        eventually(lambda: "stop with Ctrl-C" in running.said(), within_seconds=180, loop=running)
        yield running


def told(turned: Turned) -> Any:
    """What was trained, printed."""
    assert turned.failed is None, turned.failed
    assert turned.trained is not None
    print(json.dumps({"seconds": round(turned.seconds, 1), "metrics": turned.trained.metrics}, indent=1))
    return turned.trained


@pytest.mark.long
def test_a_batch_goes_through_the_stages_that_it_supports_and_its_version_serves(loop: RunningLoop) -> None:
    random = Random(5)
    exercises = draw(NEW_TASKS[0], 700, random)
    with watched(loop) as seen:
        rows = [
            reported(exercise, number, run="all", thinks=random.random() < 0.8, checked=True)
            for number, exercise in enumerate(exercises[:640])
        ]
        wrong = [
            reported(exercise, 9000 + number, run="all", thinks=False, wrong=True, checked=False)
            for number, exercise in enumerate(exercises[640:])
        ]
        corrections = [corrected(each, exercise) for each, exercise in zip(wrong, exercises[640:], strict=True)]
        turned = turn(loop, seen, [*rows, *wrong], corrections, within_seconds=2 * WITHIN_SECONDS)
        trained = told(turned)
        assert trained.stages == ORDER
        assert trained.metrics["proof"]["kept"] is trained.metrics["proof"]["learned"] is True
        assert turned.seconds < WITHIN_SECONDS

        # Of what nobody has checked, thinking whose steps can be followed is trusted once somebody likes it.
        plain = draw(UNCHECKED, 400, random)
        alone = [
            reported(each, number, run="one", thinks=random.random() < 0.8, checked=False) for number, each in enumerate(plain)
        ]
        trained = told(turn(loop, seen, alone, [approved(each) for each in alone], within_seconds=WITHIN_SECONDS))
        assert {"reasoning_rl", "general_rl"}.isdisjoint(trained.stages)
        assert set(trained.metrics["stages_left_out"]) >= {"reasoning_rl", "general_rl"}
