"""What to change where a training does not fit, what costs least first, each with the number that comes of it. Pure.

    micro batch, chunked loss, checkpointing    the same model is learned; checkpointing takes a third more time
    shorter rows                                longer ones are left out
    8-bit optimizer                             as good in its paper's measurements
    an adapter, its base in 4 bits              other methods
    smaller rank, attention alone               less room to learn
    a smaller model; a larger GPU, more GPUs    another plan

Each change is tried alone: in its mildest form that is enough, else in its strongest, which then says how far it goes. Where no
single one is enough, they are taken together in this order, rows being cut last. Something that fits is always among the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from ruminate.planner.catalogue import APRIL, MODELS, Model
from ruminate.planner.gpus import GPUS, Gpu
from ruminate.planner.placing import Devices, longest_context, place
from ruminate.planner.shape import Shape
from ruminate.planner.training_setup import TrainingSetup

Change = Literal[
    "micro batch",
    "chunked loss",
    "checkpointing",
    "shorter rows",
    "8-bit optimizer",
    "method",
    "smaller rank",
    "attention alone",
    "together",
    "smaller model",
    "larger GPU",
    "more GPUs",
]

_SHORTEST_ROWS: Final = 512
_SMALLEST_RANK: Final = 8
_COUNTS: Final = (2, 4, 8, 16, 32, 64)
# What changes nothing that is learned is assumed of whoever buys another GPU.
_HARMLESS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One way out: what to change, to what, and what a GPU would then hold of what it has."""

    change: Change
    says: str
    shape: Shape
    setup: TrainingSetup
    devices: Devices
    needed_bytes: int
    fits: bool


@dataclass(frozen=True, slots=True)
class _Lever:
    change: Change
    options: Callable[[TrainingSetup, Shape], list[TrainingSetup]]
    """Setups that are changed by this alone, the mildest first; none where there is nothing left to change."""
    says: Callable[[TrainingSetup, TrainingSetup], str]


def _micro_batches(setup: TrainingSetup, _: Shape) -> list[TrainingSetup]:
    return [replace(setup, micro_batch_rows=rows) for rows in _halves(setup.micro_batch_rows, 1)]


def _chunked(setup: TrainingSetup, _: Shape) -> list[TrainingSetup]:
    whole = setup.loss == "whole" and setup.backend == "transformers"
    return [replace(setup, loss="chunked")] if whole else []


def _checkpointed(setup: TrainingSetup, _: Shape) -> list[TrainingSetup]:
    return [] if setup.checkpointing else [replace(setup, checkpointing=True)]


def _optimizers(setup: TrainingSetup, _: Shape) -> list[TrainingSetup]:
    return [replace(setup, optimizer="adamw-8bit")] if setup.optimizer == "adamw" else []


def _methods(setup: TrainingSetup, _: Shape) -> list[TrainingSetup]:
    lora, qlora = replace(setup, method="lora"), replace(setup, method="qlora")
    return {"full": [lora, qlora], "lora": [qlora], "qlora": []}[setup.method]


def _ranks(setup: TrainingSetup, _: Shape) -> list[TrainingSetup]:
    return [replace(setup, rank=rank) for rank in _halves(setup.rank, _SMALLEST_RANK)] if setup.trains_adapter else []


def _attention(setup: TrainingSetup, shape: Shape) -> list[TrainingSetup]:
    # Alone in models with experts, each of which has an adapter of its own: 74 of 75 trained parameters are theirs.
    return [replace(setup, adapter_on="attention")] if shape.experts and setup.trains_adapter and setup.adapter_on == "all" else []


_LEVERS: Final = (
    _Lever(
        "micro batch",
        _micro_batches,
        lambda was, now: f"{now.micro_batch_rows} row{'s' * (now.micro_batch_rows > 1)} at once instead of {was.micro_batch_rows}",
    ),
    _Lever("chunked loss", _chunked, lambda *_: "the loss in chunks"),
    _Lever("checkpointing", _checkpointed, lambda *_: "gradient checkpointing (a third more time)"),
    _Lever("8-bit optimizer", _optimizers, lambda *_: "the optimizer in 8 bits"),
    _Lever("method", _methods, lambda was, now: f"{now.method} instead of {was.method}"),
    _Lever("smaller rank", _ranks, lambda was, now: f"rank {now.rank} instead of {was.rank}"),
    _Lever("attention alone", _attention, lambda *_: "the adapter on attention alone, not on every expert"),
)
_ROWS_COME_AFTER: Final = "checkpointing"


def advise(shape: Shape, setup: TrainingSetup, devices: Devices) -> tuple[Advice, ...]:
    """Ways out for a training that does not fit; at least one of them fits."""
    ways: list[Advice] = []
    for lever in _LEVERS:
        if options := lever.options(setup, shape):
            chosen = next((option for option in options if place(shape, option, devices).fits), options[-1])
            ways.append(_way(lever.change, lever.says(setup, chosen), shape, chosen, devices))
        if lever.change == _ROWS_COME_AFTER:
            ways += _shorter_rows(shape, setup, devices)
    if not any(way.fits for way in ways) and (together := _together(shape, setup, devices)):
        ways.append(together)
    ways += _smaller_model(shape, setup, devices)
    ways += _larger_gpu(shape, setup, devices)
    ways += _more_gpus(shape, setup, devices)
    if not any(way.fits for way in ways):
        ways.append(_last_resort(setup, devices))
    return tuple(ways)


def _shorter_rows(shape: Shape, setup: TrainingSetup, devices: Devices) -> Iterator[Advice]:
    if setup.context_tokens <= _SHORTEST_ROWS:
        return
    tokens = max(longest_context(shape, setup, devices, most=setup.context_tokens - 1), _SHORTEST_ROWS)
    yield _way("shorter rows", _rows_of(tokens), shape, replace(setup, context_tokens=tokens), devices)


def _together(shape: Shape, setup: TrainingSetup, devices: Devices) -> Advice | None:
    """As few changes as are enough, in the order of what they cost; None where even all of them are not."""
    said: list[str] = []
    current = setup
    for lever in _LEVERS:
        options = lever.options(current, shape)
        for option in options:
            if place(shape, option, devices).fits:
                return _way("together", ", ".join([*said, lever.says(current, option)]), shape, option, devices)
        if options:
            said.append(lever.says(current, options[-1]))
            current = options[-1]
    tokens = longest_context(shape, current, devices, most=current.context_tokens)
    if tokens < min(_SHORTEST_ROWS, setup.context_tokens):
        return None
    return _way("together", ", ".join([*said, _rows_of(tokens)]), shape, replace(current, context_tokens=tokens), devices)


def _smaller_model(shape: Shape, setup: TrainingSetup, devices: Devices) -> Iterator[Advice]:
    smaller = [model for model in _by_size() if model.shape.parameters < shape.parameters]
    able = [model for model in smaller if model.longest_context >= setup.context_tokens]
    for model in able:
        if place(model.shape, setup, devices).fits:
            yield _way("smaller model", f"{model.name}, all else as it is", model.shape, setup, devices)
            return
    for model in smaller:
        if way := _by_every_means(model, setup, devices):
            yield replace(way, change="smaller model")
            return


def _larger_gpu(shape: Shape, setup: TrainingSetup, devices: Devices) -> Iterator[Advice]:
    larger = [gpu for gpu in GPUS if gpu.memory_bytes > devices.memory_bytes]
    for trial, said in _as_asked_and_harmless(shape, setup):
        for gpu in larger:
            others = Devices.of(gpu, devices.count)
            if place(shape, trial, others).fits:
                yield _way("larger GPU", _of(gpu, devices.count) + said, shape, trial, others)
                return


def _more_gpus(shape: Shape, setup: TrainingSetup, devices: Devices) -> Iterator[Advice]:
    for trial, said in _as_asked_and_harmless(shape, setup):
        for count in _COUNTS:
            if count > devices.count:
                others = replace(devices, count=count)
                placed = place(shape, trial, others)
                if placed.fits:
                    says = f"{count} of these GPUs, {'a copy in each' if placed.placement == 'replicas' else 'sharded'}{said}"
                    yield _way("more GPUs", says, shape, trial, others)
                    return


def _last_resort(setup: TrainingSetup, devices: Devices) -> Advice:
    """The smallest model, by every means, on the smallest GPU that holds it then."""
    model = _by_size()[-1]
    for gpu in GPUS:
        if gpu.memory_bytes > devices.memory_bytes and (way := _by_every_means(model, setup, Devices.of(gpu))):
            return replace(way, change="larger GPU", says=f"on {_of(gpu, 1)}, {way.says}")
    raise AssertionError(f"{model.name} fits on no GPU of the catalogue, by no means: {setup}")


def _by_every_means(model: Model, setup: TrainingSetup, devices: Devices) -> Advice | None:
    """This model in place of the one asked for, with as few other changes as are enough; rows no longer than it can read."""
    able = replace(setup, context_tokens=min(setup.context_tokens, model.longest_context))
    said = [model.name] if able == setup else [model.name, _rows_of(able.context_tokens)]
    if place(model.shape, able, devices).fits:
        return _way("together", ", ".join(said), model.shape, able, devices)
    way = _together(model.shape, able, devices)
    if way is None:
        return None
    if way.setup.context_tokens < able.context_tokens:
        said = [model.name]
    return replace(way, says=", ".join([*said, way.says]))


def _as_asked_and_harmless(shape: Shape, setup: TrainingSetup) -> Iterator[tuple[TrainingSetup, str]]:
    yield setup, ""
    said: list[str] = []
    current = setup
    for lever in _LEVERS[:_HARMLESS]:
        if options := lever.options(current, shape):
            said.append(lever.says(current, options[-1]))
            current = options[-1]
    if said:
        yield current, f", with {', '.join(said)}"


def _way(change: Change, says: str, shape: Shape, setup: TrainingSetup, devices: Devices) -> Advice:
    placed = place(shape, setup, devices)
    needed = placed.estimate.total_bytes
    return Advice(change=change, says=says, shape=shape, setup=setup, devices=devices, needed_bytes=needed, fits=placed.fits)


def _by_size() -> Sequence[Model]:
    """One model of each shape, the largest first; where a newer one of the shape reads further, it stands for the shape."""
    reach = {model.shape: max(other.longest_context for other in MODELS if other.shape == model.shape) for model in APRIL}
    models = [
        model
        if model.longest_context == reach[model.shape]
        else next(other for other in MODELS if other.shape == model.shape and other.longest_context == reach[model.shape])
        for model in APRIL
    ]
    return sorted(models, key=lambda model: -model.shape.parameters)


def _halves(number: int, least: int) -> list[int]:
    halves = []
    while number > least:
        number = max(number // 2, least)
        halves.append(number)
    return halves


def _rows_of(tokens: int) -> str:
    return f"rows of {tokens:,} tokens at most; longer ones are left out"


def _of(gpu: Gpu, count: int) -> str:
    return f"{count} x {gpu.title}" if count > 1 else f"one {gpu.title}"
