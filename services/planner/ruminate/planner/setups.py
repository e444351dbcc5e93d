"""Five set-ups, side by side: what each can do with one model. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ruminate.planner.catalogue import Model
from ruminate.planner.gpus import Gpu, find_gpu
from ruminate.planner.placing import Devices, longest_context, place
from ruminate.planner.serving import ENCODINGS, Encoding, ServingSetup, longest_served, most_parallel
from ruminate.planner.training_setup import Method, Placement, TrainingSetup

METHODS: Final[tuple[Method, ...]] = ("qlora", "lora", "full")


@dataclass(frozen=True, slots=True)
class SetUp:
    """GPUs as people have them."""

    name: str
    gpu: Gpu
    count: int = 1

    @property
    def title(self) -> str:
        """Its GPUs in words."""
        return f"{self.count} x {self.gpu.title}" if self.count > 1 else self.gpu.title


SET_UPS: Final = (
    SetUp("development", find_gpu("rtx4090")),
    SetUp("team", find_gpu("l40s")),
    SetUp("production", find_gpu("h100")),
    SetUp("large", find_gpu("h200")),
    SetUp("enterprise", find_gpu("h100"), 8),
)


@dataclass(frozen=True, slots=True)
class Serves:
    """One encoding: the longest context of a single request, and how many requests of the context asked for at once. 0: none."""

    encoding: Encoding
    longest_context: int
    parallel: int


@dataclass(frozen=True, slots=True)
class Trains:
    """One method: what a GPU would hold, whether it has that, and the longest rows that fit. 0: none."""

    method: Method
    fits: bool
    placement: Placement
    needed_bytes: int
    longest_context: int


@dataclass(frozen=True, slots=True)
class Abilities:
    """What GPUs can do with a model."""

    serves: tuple[Serves, ...]
    trains: tuple[Trains, ...]


def abilities(model: Model, gpu: Gpu, count: int, setup: TrainingSetup, serving: ServingSetup) -> Abilities:
    """Every encoding and every method, all else as `setup` and `serving` have it."""
    memory, most = gpu.memory_bytes, model.longest_context
    serves = []
    for encoding in ENCODINGS:
        trial = replace(serving, encoding=encoding)
        longest = longest_served(model.shape, trial, memory, most=most, gpus=count)
        serves.append(Serves(encoding, longest, most_parallel(model.shape, trial, memory, gpus=count)))
    trains = []
    devices = Devices.of(gpu, count)
    for method in METHODS:
        tried = replace(setup, method=method)
        placed = place(model.shape, tried, devices)
        longest = longest_context(model.shape, tried, devices, most=most)
        trains.append(Trains(method, placed.fits, placed.placement, placed.estimate.total_bytes, longest))
    return Abilities(tuple(serves), tuple(trains))
