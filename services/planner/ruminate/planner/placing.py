"""Where a training goes: on one GPU, on each of several, or in parts over all of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ruminate.planner.estimate import Estimate, largest
from ruminate.planner.gpus import Gpu
from ruminate.planner.shape import Shape
from ruminate.planner.training import training_memory
from ruminate.planner.training_setup import Placement, TrainingSetup

_MOST_TOKENS: Final = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """What is there to train on: `count` equal GPUs with so much memory each, all of it free."""

    memory_bytes: int
    count: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError where a number cannot be."""
        if self.memory_bytes < 1 or self.count < 1:
            raise ValueError(f"{self.count} GPUs of {self.memory_bytes} bytes; both are 1 at least")

    @classmethod
    def of(cls, gpu: Gpu, count: int = 1) -> Devices:
        """So many of this card."""
        return cls(memory_bytes=gpu.memory_bytes, count=count)


@dataclass(frozen=True, slots=True)
class Placed:
    """How it would be placed, what one GPU would hold then, and whether it has room for that."""

    placement: Placement
    estimate: Estimate
    fits: bool


def place(shape: Shape, setup: TrainingSetup, devices: Devices) -> Placed:
    """Replicas (data parallel) where the whole fits on each GPU, for that costs least traffic; else in parts (FSDP, ZeRO-3)."""
    whole: Placement = "one GPU" if devices.count == 1 else "replicas"
    estimate = training_memory(shape, setup, gpus=devices.count, placement=whole)
    if devices.count == 1 or estimate.total_bytes <= devices.memory_bytes:
        return Placed(whole, estimate, estimate.total_bytes <= devices.memory_bytes)
    estimate = training_memory(shape, setup, gpus=devices.count, placement="sharded")
    return Placed("sharded", estimate, estimate.total_bytes <= devices.memory_bytes)


def longest_context(shape: Shape, setup: TrainingSetup, devices: Devices, *, most: int = _MOST_TOKENS) -> int:
    """The longest rows that fit, in tokens, all else as it is; 0 where not even one token does."""
    return largest(lambda tokens: place(shape, replace(setup, context_tokens=tokens), devices).fits, most)
