"""What to change where a model is not served, each with the number that comes of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from ruminate.planner.catalogue import APRIL, Model
from ruminate.planner.gpus import GPUS, Gpu
from ruminate.planner.serving import KvEncoding, ServingSetup, longest_served, most_parallel, serving_memory

_COUNTS: Final = (1, 2, 4, 8, 16, 32, 64)
_USEFUL_TOKENS: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class WayToServe:
    """One way out: what all GPUs together would hold, of what they have."""

    says: str
    model: Model
    setup: ServingSetup
    gpu: Gpu
    count: int
    needed_bytes: int
    fits: bool


def ways_to_serve(model: Model, setup: ServingSetup, gpu: Gpu, count: int) -> tuple[WayToServe, ...]:
    """Ways out for a model that does not fit, what costs least first; all of them fit, and there is one at least."""
    return tuple(_ways(model, setup, gpu, count))


def _ways(model: Model, setup: ServingSetup, gpu: Gpu, count: int) -> Iterator[WayToServe]:
    shape, memory = model.shape, gpu.memory_bytes
    smallest = replace(setup, encoding="q4_K_M")
    fewer = most_parallel(shape, smallest, memory, gpus=count)
    if 0 < fewer < setup.parallel:
        yield _way(f"{fewer} requests at once", model, replace(smallest, parallel=fewer), gpu, count)
    caches: tuple[KvEncoding, ...] = ("q8_0", "q4_0")
    for encoding in caches:
        way = _way(f"KV cache in {encoding}", model, replace(smallest, kv_encoding=encoding), gpu, count)
        if way.fits and encoding != setup.kv_encoding:
            yield way
            break
    shorter = longest_served(shape, smallest, memory, most=setup.context_tokens, gpus=count)
    if _USEFUL_TOKENS <= shorter < setup.context_tokens:
        yield _way(f"{shorter:,} tokens of context", model, replace(smallest, context_tokens=shorter), gpu, count)
    for other in sorted(APRIL, key=lambda each: -each.shape.parameters):
        if other.shape.parameters < shape.parameters and other.longest_context >= setup.context_tokens:
            way = _way(other.name, other, smallest, gpu, count)
            if way.fits:
                yield way
                break
    yield from _larger(model, smallest, gpu, count)


def _larger(model: Model, setup: ServingSetup, gpu: Gpu, count: int) -> Iterator[WayToServe]:
    """The smallest single GPU, else the fewest of this kind, else the fewest of the largest with as little as is of use."""
    for other in GPUS:
        way = _way(f"one {other.title}", model, setup, other, 1)
        if other.memory_bytes > gpu.memory_bytes and way.fits:
            yield way
            break
    for more in _COUNTS:
        way = _way(f"{more} x {gpu.title}", model, setup, gpu, more)
        if more > count and way.fits:
            yield way
            break
    else:
        for kept in (setup, replace(setup, parallel=1, context_tokens=min(setup.context_tokens, _USEFUL_TOKENS))):
            for more in _COUNTS:
                said = "" if kept == setup else f", 1 request of {kept.context_tokens:,} tokens at a time"
                way = _way(f"{more} x {GPUS[-1].title}{said}", model, kept, GPUS[-1], more)
                if way.fits:
                    yield way
                    return


def _way(says: str, model: Model, setup: ServingSetup, gpu: Gpu, count: int) -> WayToServe:
    needed = serving_memory(model.shape, setup, gpus=count).total_bytes
    fits = needed <= count * gpu.memory_bytes
    return WayToServe(says=says, model=model, setup=setup, gpu=gpu, count=count, needed_bytes=needed, fits=fits)
