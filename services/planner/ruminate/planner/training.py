"""What training takes on one GPU, part by part. Pure.

Where each formula comes from:

    16 bytes a trained parameter   ZeRO (Rajbhandari et al., arXiv 1910.02054), section 3.1: weight and gradient in 2 bytes each,
                                   in float32 a master copy and AdamW's two moments. PEFT keeps an adapter in float32 (4 + 4 + 8).
    8-bit moments                  Dettmers et al., arXiv 2110.02861: one byte each, and a float32 for every block of 256.
    4-bit weights                  QLoRA (Dettmers et al., arXiv 2305.14314), section 3: NF4 in blocks of 64, whose constants are
                                   quantised again to 8 bits in blocks of 256: 4 + 8/64 + 32/(64·256) = 4.127 bits a weight.
    checkpointing                  Chen et al., arXiv 1604.06174: a layer keeps its input and is computed again.
    activations                    `activations.py`, counted in autograd's saved tensors.
    sharding                       ZeRO stage 3, PyTorch FSDP: every state a part in each GPU; a layer is gathered while it works,
                                   and the next one meanwhile.

Every part is counted as if it were there when most is: gradients are, where a step has several micro batches.
"""

from __future__ import annotations

from typing import Final

from ruminate.planner.activations import loss_bytes, saved_by_layer, working_in_layer
from ruminate.planner.estimate import Estimate, Part, gb
from ruminate.planner.shape import Shape, adapter_parameters
from ruminate.planner.training_setup import Placement, TrainingSetup

BF16: Final = 2
FLOAT32: Final = 4
NF4_BITS: Final = 4 + 8 / 64 + 32 / (64 * 256)
ADAMW_8BIT: Final = 2 * (1 + 4 / 256)

CUDA_CONTEXT_BYTES: Final = 800_000_000
"""The context of CUDA with torch's kernels, cuBLAS' workspace and what is loaded on the way: 0.5 to 1 GB, by card and driver."""
FRAGMENTED_RATIO: Final = 0.05
"""What torch's allocator holds and cannot give, as a share of everything else: assumed. Rows that differ in length raise it."""


def trained_parameters(shape: Shape, setup: TrainingSetup) -> int:
    """Parameters that the optimizer moves."""
    return adapter_parameters(shape, setup.rank, setup.adapter_on) if setup.trains_adapter else shape.parameters


def quantised_parameters(shape: Shape, setup: TrainingSetup) -> int:
    """Weights in 4 bits under qlora.

    bitsandbytes replaces linear layers. transformers keeps the experts of a layer as one tensor, which is none and stays in
    bfloat16 (`transformers.integrations.bitsandbytes`); Unsloth quantises them.
    """
    if setup.method != "qlora":
        return 0
    experts = shape.expert_matrices if setup.backend == "transformers" else 0
    return shape.layers * (shape.attention_matrices + shape.mlp_matrices - experts)


def training_memory(shape: Shape, setup: TrainingSetup, *, gpus: int = 1, placement: Placement = "one GPU") -> Estimate:
    """What one GPU holds when most is allocated. It grows with every number of the setup."""
    share = gpus if placement == "sharded" else 1
    parts = [
        *_weights(shape, setup, share),
        *_states(shape, setup, share, replicated=placement == "replicas"),
        *_gathered(shape, setup, placement),
        *_activations(shape, setup),
    ]
    taken = sum(part.size_bytes for part in parts)
    parts.append(Part("CUDA", CUDA_CONTEXT_BYTES, "context, kernels and workspaces: 0.8 GB a GPU (assumed)"))
    parts.append(Part("fragmentation", round(taken * FRAGMENTED_RATIO), f"{FRAGMENTED_RATIO:.0%} of the above (assumed)"))
    return Estimate(tuple(part for part in parts if part.size_bytes))


def host_bytes(shape: Shape, setup: TrainingSetup) -> int:
    """What one GPU puts into the machine's own memory: under Unsloth the inputs of all layers wait there."""
    if setup.backend != "unsloth" or not setup.checkpointing:
        return 0
    return shape.layers * BF16 * shape.hidden * setup.tokens


def _weights(shape: Shape, setup: TrainingSetup, share: int) -> list[Part]:
    small = quantised_parameters(shape, setup)
    plain = shape.parameters - small
    by = f" / {share} GPUs" if share > 1 else ""
    parts = [Part("weights, bf16", plain * BF16 // share, f"{plain:,} parameters x 2 bytes{by}")]
    if small:
        formula = f"{small:,} parameters of linear layers x {NF4_BITS:.3f} bits (NF4, constants quantised twice){by}"
        parts.insert(0, Part("weights, 4-bit", round(small * NF4_BITS / 8 / share), formula))
        parts.append(Part("one matrix in bf16", BF16 * shape.largest_matrix, f"{shape.largest_matrix:,} weights x 2 bytes, in use"))
    return parts


def _states(shape: Shape, setup: TrainingSetup, share: int, *, replicated: bool) -> list[Part]:
    trained = trained_parameters(shape, setup)
    by = f" / {share} GPUs" if share > 1 else ""
    parts = []
    if setup.trains_adapter:
        on = "all linear layers" if setup.adapter_on == "all" else "attention"
        formula = f"{trained:,} parameters (rank {setup.rank}, {on}) x 4 bytes{by}"
        parts.append(Part("adapter", trained * FLOAT32 // share, formula))
        if setup.backend == "transformers":
            formula = f"{trained:,} x 2 bytes: autocast's bf16 copies{by}"
            parts.append(Part("adapter, bf16 copy", trained * BF16 // share, formula))
        gradient = FLOAT32
    else:
        parts.append(Part("master weights", trained * FLOAT32 // share, f"{trained:,} parameters x 4 bytes (float32){by}"))
        gradient = BF16
    copies = 2 if replicated else 1
    twice = ", twice: DDP's buckets" if replicated else ""
    parts.append(Part("gradients", copies * trained * gradient // share, f"{trained:,} x {gradient} bytes{by}{twice}"))
    moments = ADAMW_8BIT if setup.optimizer == "adamw-8bit" else 2 * FLOAT32
    parts.append(Part("optimizer", round(trained * moments / share), f"{trained:,} x {moments:.3g} bytes ({setup.optimizer}){by}"))
    return parts


def _gathered(shape: Shape, setup: TrainingSetup, placement: Placement) -> list[Part]:
    if placement != "sharded":
        return []
    small = quantised_parameters(shape, setup) // shape.layers
    layer = round(small * NF4_BITS / 8) + (shape.layer_parameters - small) * BF16
    size_bytes = 2 * layer + shape.ends * BF16
    return [Part("gathered weights", size_bytes, f"2 layers of {gb(layer)}, embedding and head: whole while they work")]


def _activations(shape: Shape, setup: TrainingSetup) -> list[Part]:
    tokens = setup.tokens
    saved, working, loss = saved_by_layer(shape, setup), working_in_layer(shape, setup), loss_bytes(shape, setup)
    layer_bytes = saved.a_token * tokens + saved.beside
    working_bytes = working.a_token * tokens + working.beside
    parts = []
    if setup.checkpointing:
        kept = 2 if setup.backend == "unsloth" else shape.layers
        where = ", the rest in the machine's memory" if setup.backend == "unsloth" else ""
        formula = f"{kept} layers x 2 bytes x {shape.hidden:,} x {tokens:,} tokens{where}"
        parts.append(Part("layer inputs", kept * BF16 * shape.hidden * tokens, formula))
        moments = (
            layer_bytes + working_bytes,
            f"one layer again, backwards: ({saved.formula} + {working.formula}) x {tokens:,} tokens",
        )
    else:
        formula = f"{shape.layers} layers x ({saved.formula}) x {tokens:,} tokens"
        parts.append(Part("activations", shape.layers * layer_bytes, formula))
        moments = (working_bytes, f"one layer, backwards: ({working.formula}) x {tokens:,} tokens")
    widest, formula = max(moments, (loss.size_bytes, loss.formula))
    parts.append(Part("widest moment", widest, formula))
    return parts
