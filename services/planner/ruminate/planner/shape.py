"""The shape of a Qwen3 model, and the number of its parameters, exactly. Pure.

A layer of Qwen3 (Qwen3 Technical Report, arXiv 2505.09388; transformers' `modeling_qwen3.py` and `modeling_qwen3_moe.py`),
h = hidden, q = heads x head_dim, k = KV heads x head_dim, f = width of the MLP, no biases anywhere:

    attention   q_proj h·q, k_proj h·k, v_proj h·k, o_proj q·h, q_norm head_dim, k_norm head_dim
    MLP         gate_proj h·f, up_proj h·f, down_proj f·h; with experts, each of them, and a router experts·h
    norms       input h, after attention h

and around the layers: the embedding vocabulary·h, a last norm h, and a head vocabulary·h where it is not tied to the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AdapterOn = Literal["all", "attention"]
"""Which linear layers an adapter is on: all of them (experts too, the router and the head never), or those of attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Widths and depths of one model; `experts` 0 is a dense one."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int = 128
    vocabulary: int = 151_936
    tied: bool
    experts: int = 0
    active_experts: int = 0
    expert_intermediate: int = 0

    @property
    def query_width(self) -> int:
        """Width of queries and of what attention gives."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of keys, and of values."""
        return self.kv_heads * self.head_dim

    @property
    def active_mlp_width(self) -> int:
        """Width of the MLP that one token goes through in a layer: all experts that it is sent to, side by side."""
        return self.active_experts * self.expert_intermediate if self.experts else self.intermediate

    @property
    def attention_matrices(self) -> int:
        """Parameters of the four projections of one layer."""
        return 2 * self.hidden * (self.query_width + self.kv_width)

    @property
    def expert_matrices(self) -> int:
        """Parameters of all experts of one layer."""
        return 3 * self.experts * self.hidden * self.expert_intermediate

    @property
    def mlp_matrices(self) -> int:
        """Parameters of the MLP of one layer, without the router."""
        return self.expert_matrices if self.experts else 3 * self.hidden * self.intermediate

    @property
    def router(self) -> int:
        """Parameters that choose experts, in one layer."""
        return self.experts * self.hidden

    @property
    def layer_norms(self) -> int:
        """Parameters of the four norms of one layer."""
        return 2 * self.hidden + 2 * self.head_dim

    @property
    def layer_parameters(self) -> int:
        """All parameters of one layer."""
        return self.attention_matrices + self.mlp_matrices + self.router + self.layer_norms

    @property
    def embedding(self) -> int:
        """Parameters of the embedding; the head has as many where it has its own."""
        return self.vocabulary * self.hidden

    @property
    def ends(self) -> int:
        """Parameters outside of the layers: embedding, last norm, head."""
        return self.embedding * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; what is tied counts once."""
        return self.layers * self.layer_parameters + self.ends

    @property
    def active_parameters(self) -> int:
        """Parameters that one token meets: the A of 30B-A3B."""
        idle = 3 * (self.experts - self.active_experts) * self.hidden * self.expert_intermediate
        return self.parameters - self.layers * idle

    @property
    def matmul_parameters(self) -> int:
        """Parameters that one token is multiplied with. To look up an embedding multiplies nothing; a tied one is the head, too."""
        return self.active_parameters - (0 if self.tied else self.embedding)

    @property
    def largest_matrix(self) -> int:
        """Parameters of the largest linear layer inside the layers."""
        return self.hidden * max(self.query_width, self.expert_intermediate if self.experts else self.intermediate)


def adapter_parameters(shape: Shape, rank: int, on: AdapterOn = "all") -> int:
    """Trainable parameters of a LoRA adapter, rank x (in + out) a matrix (Hu et al., LoRA, arXiv 2106.09685).

    PEFT gives every expert an adapter of its own. transformers keeps gate and up of an expert as one matrix, for which PEFT doubles
    the rank, so that either half keeps its own (`peft.utils.transformers_weight_conversion`).
    """
    h, q, k = shape.hidden, shape.query_width, shape.kv_width
    attention = rank * (2 * (h + q) + 2 * (h + k))
    if on == "attention":
        return shape.layers * attention
    if shape.experts:
        m = shape.expert_intermediate
        mlp = shape.experts * rank * (2 * (h + 2 * m) + (m + h))
    else:
        mlp = 3 * rank * (h + shape.intermediate)
    return shape.layers * (attention + mlp)
