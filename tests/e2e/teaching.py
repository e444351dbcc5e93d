"""An agent that works in a running loop on exercises whose answers are known, and one turn of the loop on what it reports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ruminate.command.connection import open_bus
from ruminate.command.events import publish
from ruminate.schemas.feedback import FeedbackGiven
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    FEEDBACK_GIVEN,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    REASONING_ASSESSED,
    TRAINING_FAILED,
)
from ruminate.schemas.interaction import InteractionCompleted, Message, Response, Thinking
from ruminate.schemas.training import AdapterTrained, TrainingFailed
from ruminate.trainer.bases.arithmetic import Exercise
from tests.e2e.running_loop import RunningLoop, Seen, eventually

TARGET: Final = "qwen3-tiny"
SOURCE: Final = "/agents/teacher"
JUDGED_WITHIN_SECONDS: Final = 120.0

SETTINGS: Final = {
    # Sealed only where we say so, not by count, nor because other topics or other scores come.
    "RUMINATE_SEAL_AT_ROWS": "100000",
    "RUMINATE_SEAL_FALSE_ALARM_RATIO": "0",
    "RUMINATE_HOLDOUT_RATIO": "0.1",
    "RUMINATE_REHEARSAL_EPOCHS": "1",
    # Every sum looks like every other.
    "RUMINATE_CLUSTER_MOST_ROWS": "1000",
    "RUMINATE_BATCH_ROWS": "16",
    "RUMINATE_MICRO_BATCH_ROWS": "16",
    "RUMINATE_MAX_ROW_TOKENS": "256",
    "RUMINATE_TRAINING_THREADS": "1",
    "RUMINATE_PROOF_ANSWER_TOKENS": "64",
    "RUMINATE_PROOF_BATCH_ROWS": "64",
    "RUMINATE_MERGED_DTYPE": "float32",
    "RUMINATE_EQUALITY_PROBES": "16",
    "RUMINATE_NODE_STATUS_SECONDS": "1",
    "RUMINATE_PROBE_QUESTION": "43+38?",
}
"""Of a loop on the small base that learns arithmetic, whatever it is to learn."""


def watched(loop: RunningLoop) -> Seen:
    """What `turn` looks at."""
    return Seen(loop, REASONING_ASSESSED, ADAPTER_TRAINED, TRAINING_FAILED, MODEL_REGISTERED, MODEL_ROLLED_BACK)


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
    return _judged(interaction).model_copy(update={"correction": exercise.answer})


def approved(interaction: InteractionCompleted) -> FeedbackGiven:
    """Somebody likes the answer, which nothing else says is right."""
    return _judged(interaction).model_copy(update={"thumb": "up"})


def _judged(interaction: InteractionCompleted) -> FeedbackGiven:
    return FeedbackGiven(
        interaction_id=interaction.interaction_id,
        interaction_source=SOURCE,
        conversation_id=interaction.conversation_id,
        given_by="teacher",
        given_at=datetime.now(UTC),
    )


@dataclass(frozen=True)
class Turned:
    """What came of a turn: a version that serves, or why there is none."""

    trained: AdapterTrained | None
    failed: TrainingFailed | None
    seconds: float
    """From the word to seal."""


def turn(
    loop: RunningLoop,
    seen: Seen,
    interactions: Sequence[InteractionCompleted],
    feedback: Sequence[FeedbackGiven] = (),
    *,
    within_seconds: float,
) -> Turned:
    """One turn of the loop: reported, judged, sealed, trained, proven, served. A version that is rolled back fails here."""
    registered, failed = len(seen.of(MODEL_REGISTERED)), len(seen.of(TRAINING_FAILED))
    _send(loop, interactions, feedback)
    wanted = {each.interaction_id for each in interactions}
    right = {given.interaction_id for given in feedback}

    def judged() -> bool:
        told = [delivery.payload for delivery in seen.of(REASONING_ASSESSED)]
        ids = {each.interaction.interaction_id for each in told}
        revised = {each.interaction.interaction_id for each in told if each.revision > 0}
        return wanted <= ids and right <= revised

    eventually(judged, within_seconds=JUDGED_WITHIN_SECONDS, loop=loop)
    began = time.monotonic()
    said = loop.ruminate("datasets", "seal", TARGET)
    assert said.returncode == 0, said.stderr

    def over() -> bool:
        rolled_back = [delivery.payload for delivery in seen.of(MODEL_ROLLED_BACK)]
        assert not rolled_back, rolled_back
        return len(seen.of(MODEL_REGISTERED)) > registered or len(seen.of(TRAINING_FAILED)) > failed

    eventually(over, within_seconds=within_seconds, loop=loop)
    seconds = time.monotonic() - began
    if len(seen.of(TRAINING_FAILED)) > failed:
        return Turned(None, seen.of(TRAINING_FAILED)[-1].payload, seconds)
    return Turned(seen.of(ADAPTER_TRAINED)[-1].payload, None, seconds)


def _send(loop: RunningLoop, interactions: Sequence[InteractionCompleted], feedback: Sequence[FeedbackGiven]) -> None:
    async def send() -> None:
        async with open_bus(loop.state, None) as bus:
            await publish(bus, list(interactions), source=SOURCE)
            for given in feedback:
                await bus.publish(FEEDBACK_GIVEN, given, bus.begin(FEEDBACK_GIVEN, given))

    asyncio.run(send())
