"""Layers are computed again where they have to be, and kept where there is room."""

from __future__ import annotations

from typing import Any

import pytest

from ruminate.planner.naming import find_model
from ruminate.planner.training import training_memory
from ruminate.planner.training_setup import TrainingSetup
from ruminate.schemas.training import Stage
from ruminate.trainer.checkpointing import LARGEST_SHARE, Lengths, Step, recomputes, steps
from ruminate.trainer.plan import Checkpointing, Hyperparameters, JobPlan, Practice
from tests.unit.test_trainer_base import plan as some_plan

SHAPE = find_model("qwen3:8b").model.shape
SHORT = Lengths(row=512, question=100, pair=300)
H200 = 150_000_000_000
CARD_24 = 25_757_220_864
SUPERVISED: tuple[Stage, ...] = ("thinking_fusion",)


def plan(wish: Checkpointing = "auto", **chosen: Any) -> JobPlan:
    return some_plan().model_copy(update={"gradient_checkpointing": wish, "hyperparameters": Hyperparameters(**chosen)})


@pytest.mark.parametrize(
    ("lengths", "memory_bytes", "again"),
    [(SHORT, H200, False), (SHORT, CARD_24, True), (Lengths(row=4096, question=0, pair=0), H200, True)],
)
def test_short_rows_on_a_large_card_are_kept(lengths: Lengths, memory_bytes: int, again: bool) -> None:
    assert recomputes(plan(), steps(plan(), SUPERVISED, lengths), SHAPE, "transformers", memory_bytes) is again


def test_under_unsloth_they_are_kept_only_where_that_is_asked_for() -> None:
    assert recomputes(plan(), [Step(1, 16)], SHAPE, "unsloth", H200)


def test_what_is_kept_is_planned_to_fit() -> None:
    setup = TrainingSetup(context_tokens=512, micro_batch_rows=16, checkpointing=False)
    needed = training_memory(SHAPE, setup).total_bytes
    least = round(needed / LARGEST_SHARE)
    assert not recomputes(plan(), [Step(16, 512)], SHAPE, "transformers", least + 1)
    assert recomputes(plan(), [Step(16, 512)], SHAPE, "transformers", least - 1)


@pytest.mark.parametrize(("wish", "again"), [("on", True), ("off", False)])
def test_what_is_asked_for_is_done(wish: Checkpointing, again: bool) -> None:
    for memory_bytes in (H200, CARD_24):
        assert recomputes(plan(wish), [Step(16, 512)], SHAPE, "unsloth", memory_bytes) is again


def test_a_cpu_keeps_whatever_is_asked_for() -> None:
    assert not recomputes(plan("on"), [Step(16, 512)], SHAPE, "transformers", None)


def test_the_largest_step_of_any_stage_decides() -> None:
    asked = plan(practice=Practice(answer_tokens=2048))

    def of(*stages: Stage, plan: JobPlan = asked) -> list[Step]:
        return list(steps(plan, stages, SHORT))

    assert of("thinking_fusion") == [Step(16, 512)]
    assert of("reasoning_rl") == [Step(16, 2148)]
    assert of("general_rl") == [Step(16, 300)]
    assert of("general_rl", plan=plan(micro_batch_rows=1, batch_rows=1)) == [Step(2, 300)]
    assert recomputes(asked, of("cold_start", "reasoning_rl"), SHAPE, "transformers", H200)
    assert not recomputes(asked, of("cold_start", "thinking_fusion"), SHAPE, "transformers", H200)
