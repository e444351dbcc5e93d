"""Whether layers are computed again in the backward pass, or what they made is kept: as asked for, or as there is room. Pure.

Computing again (gradient checkpointing) costs a third more time and saves most of what a step holds. A batch of short rows leaves
much of a large card empty; there, keeping is what makes it fast. Measured for 8B on an H200: 1.37 times the tokens a second, and
85 GB instead of 24.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from ruminate.planner.shape import Shape
from ruminate.planner.training import training_memory
from ruminate.planner.training_setup import Backend, TrainingSetup
from ruminate.schemas.training import Stage
from ruminate.trainer.plan import JobPlan

LARGEST_SHARE: Final = 0.9
"""Of the card, by the planner's estimate, which was 4 to 7 % above what was measured. The rest is for generation and for others."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the longest row, of the longest question and of the longest pair's prompt with its longer answer; 0 for none."""

    row: int
    question: int
    pair: int


@dataclass(frozen=True, slots=True)
class Step:
    """What is on the device at once."""

    rows: int
    tokens_a_row: int


def steps(plan: JobPlan, stages: Collection[Stage], lengths: Lengths) -> Iterable[Step]:
    """The largest step of each stage."""
    rows = plan.hyperparameters.micro_batch_rows
    if "cold_start" in stages or "thinking_fusion" in stages:
        yield Step(rows, lengths.row)
    if "reasoning_rl" in stages:
        yield Step(rows, lengths.question + plan.hyperparameters.practice.answer_tokens)
    if "general_rl" in stages:
        yield Step(2 * max(1, rows // 2), lengths.pair)


def recomputes(plan: JobPlan, largest: Iterable[Step], shape: Shape, backend: Backend, memory_bytes: int | None) -> bool:
    """Whether layers are computed again on a device with so much memory, None for a CPU, where they never are.

    `largest` are the largest steps of its stages. The answer depends on nothing that changes between two tries of the same job on
    the same card: each learns the same.
    """
    if memory_bytes is None:
        return False
    if plan.gradient_checkpointing != "auto":
        return plan.gradient_checkpointing == "on"
    if backend == "unsloth":
        return True  # what it keeps without has not been measured, and what cannot be planned is not risked
    chosen = plan.hyperparameters
    setups = (
        TrainingSetup(
            method=chosen.method, context_tokens=max(1, step.tokens_a_row), micro_batch_rows=step.rows, rank=chosen.lora_rank,
            backend=backend, checkpointing=False,
        )
        for step in largest
    )  # fmt: skip
    return any(training_memory(shape, setup).total_bytes > LARGEST_SHARE * memory_bytes for setup in setups)
