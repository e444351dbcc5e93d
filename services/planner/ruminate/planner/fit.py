"""Does a training fit? Asked before anything is loaded; the answer that it does not says what would. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ruminate.planner.advice import Advice, advise
from ruminate.planner.estimate import Estimate, gb
from ruminate.planner.gpus import GIB
from ruminate.planner.placing import Devices, place
from ruminate.planner.shape import Shape
from ruminate.planner.training_setup import Placement, TrainingSetup


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """It fits: what one GPU holds, how it is placed, and what stays free on each."""

    estimate: Estimate
    placement: Placement
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DoesNotFit:
    """It does not: by how much, why, and what to change, what costs least first. At least one piece of advice fits."""

    estimate: Estimate
    placement: Placement
    short_bytes: int
    explanation: str
    advice: tuple[Advice, ...]


def fits(shape: Shape, training: TrainingSetup, *, memory: Devices) -> Fit | DoesNotFit:
    """Whether this training fits into this memory.

    >>> from ruminate.planner.catalogue import APRIL
    >>> from ruminate.planner.gpus import find_gpu
    >>> eight = next(model for model in APRIL if model.name == "qwen3:8b")
    >>> answer = fits(eight.shape, TrainingSetup(method="full"), memory=Devices.of(find_gpu("24GB")))
    >>> answer.explanation
    'full training at 4,096 tokens x 1 row needs 141.2 GB on one GPU, which has 25.8 GB (24.0 GiB): 115.5 GB too little'
    """
    placed = place(shape, training, memory)
    needed = placed.estimate.total_bytes
    if placed.fits:
        return Fit(estimate=placed.estimate, placement=placed.placement, free_bytes=memory.memory_bytes - needed)
    where = "on one GPU" if memory.count == 1 else f"on each of {memory.count} GPUs, sharded"
    rows = f"{training.micro_batch_rows} row{'s' * (training.micro_batch_rows > 1)}"
    return DoesNotFit(
        estimate=placed.estimate,
        placement=placed.placement,
        short_bytes=needed - memory.memory_bytes,
        explanation=(
            f"{training.method} training at {training.context_tokens:,} tokens x {rows} needs {gb(needed)} {where}, which has "
            f"{gb(memory.memory_bytes)} ({memory.memory_bytes / GIB:.1f} GiB): {gb(needed - memory.memory_bytes)} too little"
        ),
        advice=advise(shape, training, memory),
    )
