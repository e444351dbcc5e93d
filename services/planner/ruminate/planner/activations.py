"""What a forward pass leaves behind for the backward pass, in bytes a token, derived layer by layer. Pure.

h hidden, q width of queries, k of keys, f of the MLP that a token meets (active experts x their width), n active experts, r rank;
activations in bfloat16 (2 bytes), norms in float32 (4). transformers with PEFT under autocast keeps, per token and layer:

    input norm                  4h   its input in float32
    q, k, v LoRA                2h   their input, which they share
    q_norm, k_norm         4q + 4k   their inputs in float32
    attention     2q + 2k + 2k + 2q  queries, keys, values, output: flash attention keeps no scores (Dao et al., arXiv 2205.14135)
    o LoRA                       -   its input is attention's output
    norm after attention        4h
    gate, up LoRA               2h   their input, which they share
    SwiGLU                 3 x 2f    gate, silu(gate), up
    down LoRA                   2f
    inside of adapters      7 x 2r

together 12h + 8q + 8k + 8f + 14r. A weight that is trained keeps its input once for all who share it, and a trained norm what
it has normalised: 16h + 10q + 10k + 8f. Experts (grouped matrix products): a token is there n times, 2h weighted output and 6f;
where their weights take part in training also 2h sorted input and 2f. Their adapter is merged into a copy of all experts' weights
of the layer, whose gradient is as large. Rows that are padded need a mask, which costs 2 bytes a token and token, and keys and
values repeated to the width of queries. `test_planner_saved_tensors.py` counts all of that in transformers' own graph.

While a layer is gone through backwards, gradients of the widest tensors stand beside what was saved: 6h + 2k + 4f under an adapter,
12h + 4q + 8k + 6f where every weight is trained (with experts under either), fitted to the peak of live tensors of whole steps.

Unsloth keeps the inputs of its fused kernels alone, 8h + 6q + 6k + 4f, and computes the rest again (`fast_lora`, `rms_layernorm`,
`rope_embedding`); this is read, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ruminate.planner.shape import Shape
from ruminate.planner.training_setup import TrainingSetup

TRL_CHUNK_TOKENS: Final = 256
"""Tokens a chunk of TRL's `chunked_nll` (trl 1.14)."""
TRL_CHUNK_BYTES: Final = 22
"""A logit of the chunk at work: 16 forwards, 22 when it is computed again and gone through backwards (peak of live tensors)."""
WHOLE_BYTES: Final = 14
"""A logit where all exist at once: bf16, float32, its log-softmax, their gradient (as Unsloth's `fused_losses` counts)."""
UNSLOTH_LOSS_BYTES: Final = 16
UNSLOTH_LOSS_MOST: Final = 2**30
"""Unsloth makes its chunks as large as half of what is free, 4 GiB at most. It makes do with less: a GiB is counted."""


@dataclass(frozen=True, slots=True)
class PerLayer:
    """Bytes that one layer keeps for each token, and beside that whatever their number; and the formula."""

    a_token: int
    beside: int
    formula: str


@dataclass(frozen=True, slots=True)
class LossCost:
    """What the loss takes while it is computed and gone through backwards."""

    size_bytes: int
    formula: str


def saved_by_layer(shape: Shape, setup: TrainingSetup) -> PerLayer:
    """What one layer keeps for the backward pass."""
    n, moe = shape.active_experts, bool(shape.experts)
    on_all = setup.adapter_on == "all"
    if setup.backend == "unsloth":
        terms = {"h": 8 + 2 * n, "q": 6, "k": 6, "f": 4 if setup.trains_adapter else 6}
    elif not setup.trains_adapter:
        terms = {"h": 16 + 4 * n, "q": 10, "k": 10, "f": 8}
    elif on_all:
        terms = {"h": 10 + 4 * n if moe else 12, "q": 8, "k": 8, "f": 8, "r": 8 if moe else 14}
    else:
        terms = {"h": 10 + 2 * n, "q": 8, "k": 8, "f": 6, "r": 8}
    a_token = _weigh(shape, setup.rank, terms) + 8 * shape.heads + 4 * shape.kv_heads + 8
    formula = _said(terms)
    if moe:
        # The router's softmax in float32, and for each expert of a token where it came from and goes.
        a_token += 4 * shape.experts + 41 * n
    if setup.micro_batch_rows > 1 and setup.backend == "transformers":
        a_token += 4 * (shape.query_width - shape.kv_width) + 2 * setup.context_tokens
        formula += " + mask"
    beside = 0
    if moe and setup.backend == "transformers" and setup.trains_adapter and on_all:
        beside = 2 * shape.expert_matrices
        formula += f", and {shape.expert_matrices:,} merged weights of experts x 2 bytes"
    return PerLayer(a_token, beside, formula)


def working_in_layer(shape: Shape, setup: TrainingSetup) -> PerLayer:
    """What stands beside that while the layer is gone through backwards."""
    n = shape.active_experts
    if setup.backend == "unsloth":
        terms = {"h": 4 + 2 * n, "q": 2, "k": 2, "f": 4}
    elif setup.trains_adapter and not shape.experts:
        terms = {"h": 6, "k": 2, "f": 4}
    else:
        terms = {"h": 12 + 4 * n, "q": 4, "k": 8, "f": 6}
    merged = saved_by_layer(shape, setup).beside
    formula = _said(terms) + (f", and the gradient of {shape.expert_matrices:,} merged weights" if merged else "")
    return PerLayer(_weigh(shape, setup.rank, terms), merged, formula)


def loss_bytes(shape: Shape, setup: TrainingSetup) -> LossCost:
    """Logits are vocabulary x tokens, wider than anything in a layer. Beside them stand the last hidden states, 10h."""
    v = shape.vocabulary
    hidden, beside = 10 * shape.hidden * setup.tokens, f" + 10h x {setup.tokens:,} tokens"
    if setup.backend == "unsloth":
        size_bytes = min(UNSLOTH_LOSS_BYTES * v * setup.tokens, UNSLOTH_LOSS_MOST)
        formula = f"loss: {UNSLOTH_LOSS_BYTES} bytes x {v:,} x {setup.tokens:,} tokens, a GiB at once at most"
        return LossCost(size_bytes + hidden, formula + beside)
    if setup.loss == "whole":
        formula = f"loss: {WHOLE_BYTES} bytes x {v:,} x {setup.tokens:,} tokens, all at once"
        return LossCost(WHOLE_BYTES * v * setup.tokens + hidden, formula + beside)
    chunk = min(TRL_CHUNK_TOKENS, setup.tokens)
    return LossCost(
        TRL_CHUNK_BYTES * v * chunk + hidden, f"loss: {TRL_CHUNK_BYTES} bytes x {v:,} x {chunk} tokens a chunk" + beside
    )


def _weigh(shape: Shape, rank: int, terms: dict[str, int]) -> int:
    widths = {"h": shape.hidden, "q": shape.query_width, "k": shape.kv_width, "f": shape.active_mlp_width, "r": rank}
    return sum(times * widths[name] for name, times in terms.items())


def _said(terms: dict[str, int]) -> str:
    return " + ".join(f"{times}{name}" for name, times in terms.items())
