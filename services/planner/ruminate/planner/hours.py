"""How long a training takes and what it costs, by counting multiplications. Pure.

Kaplan et al. (arXiv 2001.08361), section 2.1: a token costs 2 FLOPs a parameter forwards and 4 backwards, of which 2 are for the
gradients of weights. Frozen weights need none, so under an adapter 4 stay; checkpointing computes the forward pass again, 2 more.
Of experts, those that a token meets. Attention beside that (Chowdhery et al., PaLM, arXiv 2204.02311, appendix B; half of it where
a mask hides what comes later): 2 x query width x tokens a row, a layer and token, forwards; twice that backwards.

Real GPUs reach a share of their peak, the model FLOPs utilisation (MFU). It is assumed, never derived.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ruminate.planner.gpus import Gpu
from ruminate.planner.shape import Shape
from ruminate.planner.training import trained_parameters
from ruminate.planner.training_setup import Backend, TrainingSetup

ASSUMED_MFU: Final[dict[Backend, float]] = {"transformers": 0.25, "unsloth": 0.36}
"""Dense models, one GPU, steps of some thousand tokens: what 8B reached on an H200, layers computed again (docs/experiments.md)."""
ASSUMED_MFU_EXPERTS: Final = 0.1
"""With experts, whose matrices are small and reached through gathers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is to be learned from: rows of so many tokens on average, each seen so often."""

    rows: int
    tokens_a_row: int
    epochs: float = 2.0

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return round(self.rows * self.tokens_a_row * self.epochs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What it comes to."""

    tokens: int
    flops: float
    formula: str
    mfu: float
    hours: float


def flops_a_token(shape: Shape, setup: TrainingSetup, tokens_a_row: int) -> tuple[float, str]:
    """FLOPs for one token, and how they were counted."""
    again = 2 if setup.checkpointing else 0
    frozen = setup.trains_adapter
    passes = (4 if frozen else 6) + again
    matrices = passes * shape.matmul_parameters
    adapter = (6 + again) * trained_parameters(shape, setup) if frozen else 0
    if frozen and shape.experts and setup.adapter_on == "all":
        # A token meets the adapters of its own experts alone; those of attention are few beside them.
        adapter = adapter * shape.active_experts // shape.experts
    attention = (6 + (2 if again else 0)) * shape.query_width * tokens_a_row * shape.layers
    formula = f"{passes} x {shape.matmul_parameters:,} parameters"
    if frozen:
        formula += f" + {gigas(adapter)} of adapters"
    return matrices + adapter + attention, f"{formula} + {gigas(attention)} of attention"


def work(shape: Shape, setup: TrainingSetup, run: Run, gpu: Gpu, *, gpus: int = 1, mfu: float | None = None) -> Work:
    """Hours on so many GPUs, as if all of them were busy all of the time; what they wait for each other is not in it."""
    share = mfu if mfu is not None else ASSUMED_MFU_EXPERTS if shape.experts else ASSUMED_MFU[setup.backend]
    each, formula = flops_a_token(shape, setup, run.tokens_a_row)
    flops = each * run.tokens
    seconds = flops / (gpu.peak_tflops * 1e12 * share * gpus)
    return Work(tokens=run.tokens, flops=flops, formula=formula, mfu=share, hours=seconds / 3600)


def cost(hours: float, *, price: float, gpus: int = 1) -> float:
    """What these hours cost at a price for one GPU and hour."""
    return hours * price * gpus


def gigas(flops: float) -> str:
    """FLOPs for people."""
    return f"{flops / 1e9:,.2f} GFLOPs"
