"""What `ruminate plan` answers: one model on given GPUs in detail, or on all set-ups side by side. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from ruminate.planner.catalogue import MODELS, Model
from ruminate.planner.elsewhere import WayToServe, ways_to_serve
from ruminate.planner.estimate import Estimate
from ruminate.planner.fit import DoesNotFit, Fit, fits
from ruminate.planner.gpus import Gpu
from ruminate.planner.hours import Run, Work, cost, work
from ruminate.planner.naming import Found
from ruminate.planner.placing import Devices, longest_context
from ruminate.planner.serving import ENCODINGS, Encoding, ServingSetup, longest_served, most_parallel, serving_memory
from ruminate.planner.setups import SET_UPS, Abilities, SetUp, abilities
from ruminate.planner.training import host_bytes
from ruminate.planner.training_setup import TrainingSetup

HELD_AGAINST: Final = (
    "Estimates. For LoRA of 8B on one H200 they were 4 to 7 % above measured peaks; 4 bits, full training and several GPUs are not "
    "measured (docs/experiments.md)."
)
_A_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Served:
    """One encoding on the GPUs that were asked about."""

    encoding: Encoding
    estimate: Estimate
    fits: bool
    longest_context: int
    parallel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """One model on these GPUs."""

    model: Model
    note: str
    gpu: Gpu
    count: int
    setup: TrainingSetup
    serving: ServingSetup
    served: tuple[Served, ...]
    ways_to_serve: tuple[WayToServe, ...]
    training: Fit | DoesNotFit
    longest_rows: int
    host_bytes: int
    work: Work
    run: Run | None
    price: float | None
    cost: float | None

    @property
    def fits(self) -> bool:
        """Whether it can be trained and served."""
        return isinstance(self.training, Fit) and any(each.fits for each in self.served)

    def as_json(self) -> dict[str, Any]:
        """For programs. Sizes are bytes."""
        return _detail_as_json(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """One model on all set-ups."""

    model: Model
    note: str
    setup: TrainingSetup
    serving: ServingSetup
    rows: tuple[tuple[SetUp, Abilities, Work], ...]

    def as_json(self) -> dict[str, Any]:
        """For programs. Sizes are bytes."""
        return _side_by_side_as_json(self)


def detail(
    found: Found,
    gpu: Gpu,
    count: int,
    setup: TrainingSetup,
    serving: ServingSetup,
    *,
    run: Run | None = None,
    mfu: float | None = None,
    price: float | None = None,
) -> Detail:
    """Everything about one model on so many of this GPU. Without a run, a million tokens are timed."""
    model, devices = found.model, Devices.of(gpu, count)
    served = tuple(_serve(model, encoding, serving, gpu, count) for encoding in ENCODINGS)
    done = work(model.shape, setup, run or _a_million_tokens(setup), gpu, gpus=count, mfu=mfu)
    return Detail(
        model=model,
        note=_note(found, setup.context_tokens),
        gpu=gpu,
        count=count,
        setup=setup,
        serving=serving,
        served=served,
        ways_to_serve=() if any(each.fits for each in served) else ways_to_serve(model, serving, gpu, count),
        training=fits(model.shape, setup, memory=devices),
        longest_rows=longest_context(model.shape, setup, devices, most=model.longest_context),
        host_bytes=host_bytes(model.shape, setup),
        work=done,
        run=run,
        price=price,
        cost=None if price is None else cost(done.hours, price=price, gpus=count),
    )


def side_by_side(found: Found, setup: TrainingSetup, serving: ServingSetup) -> SideBySide:
    """The five set-ups, and how long a million tokens take on each."""
    model = found.model
    run = _a_million_tokens(setup)
    rows = tuple(
        (
            each,
            abilities(model, each.gpu, each.count, setup, serving),
            work(model.shape, setup, run, each.gpu, gpus=each.count),
        )
        for each in SET_UPS
    )
    return SideBySide(model=model, note=_note(found, setup.context_tokens), setup=setup, serving=serving, rows=rows)


def catalogue_as_json() -> list[dict[str, Any]]:
    """All models, for programs."""
    return [_model_as_json(model) for model in MODELS]


def _model_as_json(model: Model) -> dict[str, Any]:
    counted = {"parameters": model.shape.parameters, "active_parameters": model.shape.active_parameters}
    return (
        {"name": model.name, "hub": model.hub, "ollama": model.ollama}
        | counted
        | {
            "native_context_tokens": model.native_context,
            "longest_context_tokens": model.longest_context,
            "beyond_native": model.beyond_native,
            "thinks": model.thinks,
            "shape": asdict(model.shape),
        }
    )


def _detail_as_json(found: Detail) -> dict[str, Any]:
    training = found.training
    advice = training.advice if isinstance(training, DoesNotFit) else ()
    return {
        "model": _model_as_json(found.model),
        "note": found.note,
        "gpu": asdict(found.gpu) | {"memory_bytes": found.gpu.memory_bytes, "count": found.count},
        "fits": found.fits,
        "serving": {
            "setup": _without(asdict(found.serving), "encoding"),
            "encodings": [
                {
                    "encoding": each.encoding,
                    "fits": each.fits,
                    "needed_bytes": each.estimate.total_bytes,
                    "parts": _parts(each.estimate),
                    "longest_context_tokens": each.longest_context,
                    "parallel": each.parallel,
                }
                for each in found.served
            ],
            "advice": [
                {"says": way.says, "needed_bytes": way.needed_bytes, "memory_bytes": way.count * way.gpu.memory_bytes}
                for way in found.ways_to_serve
            ],
        },
        "training": {
            "setup": asdict(found.setup),
            "fits": isinstance(training, Fit),
            "placement": training.placement,
            "needed_bytes": training.estimate.total_bytes,
            "parts": _parts(training.estimate),
            "host_bytes": found.host_bytes,
            "longest_context_tokens": found.longest_rows,
            "explanation": training.explanation if isinstance(training, DoesNotFit) else "",
            "advice": [
                {
                    "change": way.change,
                    "says": way.says,
                    "fits": way.fits,
                    "needed_bytes": way.needed_bytes,
                    "memory_bytes": way.devices.memory_bytes,
                    "gpus": way.devices.count,
                    "setup": asdict(way.setup),
                }
                for way in advice
            ],
        },
        "time": asdict(found.work) | {"price": found.price, "cost": found.cost},
        "held_against": HELD_AGAINST,
    }


def _side_by_side_as_json(found: SideBySide) -> dict[str, Any]:
    return {
        "model": _model_as_json(found.model),
        "note": found.note,
        "training_setup": _without(asdict(found.setup), "method"),
        "serving_setup": _without(asdict(found.serving), "encoding"),
        "set_ups": [
            {
                "name": each.name,
                "gpu": each.gpu.name,
                "count": each.count,
                "serves": [asdict(one) for one in able.serves],
                "trains": [asdict(one) for one in able.trains],
                "hours_a_million_tokens": million.hours,
            }
            for each, able, million in found.rows
        ],
        "held_against": HELD_AGAINST,
    }


def _a_million_tokens(setup: TrainingSetup) -> Run:
    return Run(rows=1, tokens_a_row=setup.context_tokens, epochs=_A_MILLION / setup.context_tokens)


def _note(found: Found, context_tokens: int) -> str:
    model = found.model
    notes = [found.note] if found.note else []
    if context_tokens > model.native_context:
        notes.append(f"{context_tokens:,} tokens are beyond its {model.native_context:,}: they need {model.beyond_native}")
    return "; ".join(notes)


def _serve(model: Model, encoding: Encoding, serving: ServingSetup, gpu: Gpu, count: int) -> Served:
    setup = replace(serving, encoding=encoding)
    estimate = serving_memory(model.shape, setup, gpus=count)
    return Served(
        encoding=encoding,
        estimate=estimate,
        fits=estimate.total_bytes <= count * gpu.memory_bytes,
        longest_context=longest_served(model.shape, setup, gpu.memory_bytes, most=model.longest_context, gpus=count),
        parallel=most_parallel(model.shape, setup, gpu.memory_bytes, gpus=count),
    )


def _parts(estimate: Estimate) -> list[dict[str, Any]]:
    return [asdict(part) for part in estimate.parts]


def _without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}
