"""One turn of the loop in which a batch supports every stage, and one in which it supports a single one: nobody says which."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from ruminate.command.connection import open_bus
from ruminate.command.events import publish
from ruminate.schemas.feedback import FeedbackGiven
from ruminate.schemas.flow import ADAPTER_TRAINED, FEEDBACK_GIVEN, MODEL_REGISTERED, REASONING_ASSESSED, TRAINING_FAILED
from ruminate.schemas.interaction import InteractionCompleted, Message, Response, Thinking
from ruminate.trainer.bases.arithmetic import NEW_TASKS, Exercise, draw
from ruminate.trainer.plan import ORDER
from tests.e2e.running_loop import RunningLoop, Seen, eventually, start_loop

TARGET: Final = "qwen3-tiny"
SOURCE: Final = "/agents/teacher"
WITHIN_SECONDS: Final = 360.0
"""From the word to seal to the version that serves."""

SETTINGS: Final = {
    "RUMINATE_SEAL_AT_ROWS": "100000",
    "RUMINATE_HOLDOUT_RATIO": "0.1",
    "RUMINATE_ANCHOR_RATIO": "0.6",
    "RUMINATE_REHEARSAL_EPOCHS": "1",
    # Every sum looks like every other.
    "RUMINATE_CLUSTER_MOST_ROWS": "1000",
    "RUMINATE_LEARNING_RATE": "2e-3",
    "RUMINATE_TRAINING_EPOCHS": "2",
    "RUMINATE_BATCH_ROWS": "16",
    "RUMINATE_MICRO_BATCH_ROWS": "16",
    "RUMINATE_MAX_ROW_TOKENS": "256",
    "RUMINATE_TRAINING_THREADS": "1",
    # What is long is a matter of the model: so the sums that are rehearsed count, too, and are not forgotten in the first stage.
    "RUMINATE_COLD_START_THINKING_TOKENS": "12",
    "RUMINATE_PRACTICE_STEPS": "12",
    "RUMINATE_PRACTICE_RATE": "1e-5",
    "RUMINATE_PRACTICE_ANSWER_TOKENS": "64",
    "RUMINATE_PREFERENCE_RATE": "1e-6",
    "RUMINATE_PROOF_ANSWER_TOKENS": "64",
    "RUMINATE_PROOF_BATCH_ROWS": "64",
    "RUMINATE_MERGED_DTYPE": "float32",
    "RUMINATE_EQUALITY_PROBES": "16",
    "RUMINATE_NODE_STATUS_SECONDS": "1",
    "RUMINATE_PROBE_QUESTION": "43+38?",
}


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLoop]:
    with start_loop(["up"], state=tmp_path_factory.mktemp("up") / "state", environment=SETTINGS) as running:
        eventually(lambda: "stop with Ctrl-C" in running.said(), within_seconds=180, loop=running)
        yield running


def reported(
    exercise: Exercise, number: int, *, run: str, thinks: bool, wrong: bool = False, checked: bool
) -> InteractionCompleted:
    """An answer as an agent reports it."""
    mode: Any = "thinking" if thinks else "direct"
    return InteractionCompleted(
        interaction_id=f"{run}-{number:04d}",
        conversation_id=f"{run}-{number:04d}",
        agent="teacher",
        target_model=TARGET,
        occurred_at=datetime.now(UTC) + timedelta(milliseconds=number),
        messages=(Message(role="user", content=exercise.question),),
        response=Response(
            content=str(int(exercise.answer) + 1) if wrong else exercise.answer, thinking=exercise.thinking if thinks else None
        ),
        thinking=Thinking(mode_asked=mode, mode_used=mode, reason="the agent asked for it"),
        reference_answer=exercise.answer if checked else None,
        outcome="failed" if wrong else "succeeded",
        training_allowed=True,
    )


def corrected(interaction: InteractionCompleted, exercise: Exercise) -> FeedbackGiven:
    """Somebody says what the answer should have been."""
    return FeedbackGiven(
        interaction_id=interaction.interaction_id,
        interaction_source=SOURCE,
        conversation_id=interaction.conversation_id,
        given_by="teacher",
        given_at=datetime.now(UTC),
        correction=exercise.answer,
    )


def teach(loop: RunningLoop, interactions: list[InteractionCompleted], feedback: list[FeedbackGiven]) -> None:
    async def send() -> None:
        async with open_bus(loop.state, None) as bus:
            await publish(bus, interactions, source=SOURCE)
            for given in feedback:
                await bus.publish(FEEDBACK_GIVEN, given, bus.begin(FEEDBACK_GIVEN, given))

    asyncio.run(send())


def turn(
    loop: RunningLoop, seen: Seen, interactions: list[InteractionCompleted], feedback: list[FeedbackGiven]
) -> tuple[Any, float]:
    """One turn of the loop: what was trained, and the seconds from the word to seal to the version that serves."""
    before = len(seen.of(MODEL_REGISTERED))
    teach(loop, interactions, feedback)
    wanted = {each.interaction_id for each in interactions}
    right = {given.interaction_id for given in feedback}

    def judged() -> bool:
        told = [delivery.payload for delivery in seen.of(REASONING_ASSESSED)]
        ids = {each.interaction.interaction_id for each in told}
        revised = {each.interaction.interaction_id for each in told if each.revision > 0}
        return wanted <= ids and right <= revised

    eventually(judged, within_seconds=120, loop=loop)
    began = time.monotonic()
    said = loop.ruminate("datasets", "seal", TARGET)
    assert said.returncode == 0, said.stderr

    def served() -> bool:
        failures = [delivery.payload for delivery in seen.of(TRAINING_FAILED)]
        assert not failures, failures
        return len(seen.of(MODEL_REGISTERED)) > before

    eventually(served, within_seconds=2 * WITHIN_SECONDS, loop=loop)
    return seen.of(ADAPTER_TRAINED)[-1].payload, time.monotonic() - began


@pytest.mark.long
def test_a_batch_goes_through_the_stages_that_it_supports_and_its_version_serves(loop: RunningLoop, tmp_path: Path) -> None:
    random = Random(5)
    exercises = draw(NEW_TASKS[0], 700, random)
    with Seen(loop, REASONING_ASSESSED, ADAPTER_TRAINED, TRAINING_FAILED, MODEL_REGISTERED) as seen:
        rows = [
            reported(exercise, number, run="all", thinks=random.random() < 0.8, checked=True)
            for number, exercise in enumerate(exercises[:640])
        ]
        wrong = [
            reported(exercise, 9000 + number, run="all", thinks=False, wrong=True, checked=False)
            for number, exercise in enumerate(exercises[640:])
        ]
        trained, seconds = turn(
            loop, seen, [*rows, *wrong], [corrected(each, exercise) for each, exercise in zip(wrong, exercises[640:], strict=True)]
        )
        print(json.dumps({"seconds": round(seconds, 1), "metrics": trained.metrics}, indent=1))
        assert trained.stages == ORDER
        assert trained.metrics["proof"]["kept"] is trained.metrics["proof"]["learned"] is True
        assert seconds < WITHIN_SECONDS

        plain = draw(NEW_TASKS[1], 400, random)
        alone = [
            reported(each, number, run="one", thinks=random.random() < 0.8, checked=False) for number, each in enumerate(plain)
        ]
        trained, seconds = turn(loop, seen, alone, [])
        print(json.dumps({"seconds": round(seconds, 1), "metrics": trained.metrics}, indent=1))
        assert {"reasoning_rl", "general_rl"}.isdisjoint(trained.stages)
        assert set(trained.metrics["stages_left_out"]) >= {"reasoning_rl", "general_rl"}
