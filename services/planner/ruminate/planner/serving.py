"""What serving takes with llama.cpp, which is what Ollama runs. Pure.

Weights, in bits (llama.cpp `ggml-common.h`): f16 16; q8_0 34 bytes for 32 weights; q4_K 144 bytes and q6_K 210 bytes for 256.
q4_K_M is a mixture (`llama-quant.cpp`): the head, and values and the MLP's way down in about half of the layers, are q6_K, the
rest q4_K. Norms and routers stay in float32.

KV cache: keys and values of every layer for every token of the context, 2 x layers x KV heads x head_dim; llama.cpp allocates all
of it at the start, once a parallel request (`OLLAMA_NUM_PARALLEL`). f16, q8_0 or q4_0 (`OLLAMA_KV_CACHE_TYPE`, with flash
attention).

Compute buffers: 512 tokens a pass (`n_ubatch`), their logits in float32, and the attention mask in float32 and again in float16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ruminate.planner.estimate import Estimate, Part, largest
from ruminate.planner.shape import Shape

Encoding = Literal["f16", "q8_0", "q4_K_M"]
KvEncoding = Literal["f16", "q8_0", "q4_0"]

ENCODINGS: Final[tuple[Encoding, ...]] = ("f16", "q8_0", "q4_K_M")
KV_BYTES: Final[dict[KvEncoding, float]] = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
PASS_TOKENS: Final = 512
CUDA_CONTEXT_BYTES: Final = 500_000_000
"""llama.cpp's context on a GPU; it allocates once, so nothing fragments."""

_F32: Final = 4.0
_F16: Final = 2.0
_Q8_0: Final = 34 / 32
_Q4_K: Final = 144 / 256
_Q6_K: Final = 210 / 256
_MOST_PARALLEL: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSetup:
    """How it is served: each of `parallel` requests has `context_tokens` of its own."""

    encoding: Encoding = "q4_K_M"
    context_tokens: int = 4096
    kv_encoding: KvEncoding = "f16"
    parallel: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError where a number cannot be."""
        if self.context_tokens < 1 or self.parallel < 1:
            raise ValueError(f"context_tokens is {self.context_tokens} and parallel {self.parallel}; both are 1 at least")


def gguf_bytes(shape: Shape, encoding: Encoding) -> int:
    """Bytes of the tensors in a GGUF file; its vocabulary and other words add about 6 MB."""
    in_float32 = shape.layers * (shape.layer_norms + shape.router) + shape.hidden
    if encoding != "q4_K_M":
        each = _F16 if encoding == "f16" else _Q8_0
        return round((shape.parameters - in_float32) * each + in_float32 * _F32)
    values = shape.hidden * shape.kv_width
    down = shape.mlp_matrices // 3
    better = sum(_has_more_bits(layer, shape.layers) for layer in range(shape.layers)) * (values + down)
    head = shape.embedding
    rest = shape.parameters - in_float32 - better - head
    return round((better + head) * _Q6_K + rest * _Q4_K + in_float32 * _F32)


def kv_cache_bytes(shape: Shape, context_tokens: int, encoding: KvEncoding = "f16") -> int:
    """Keys and values of one request's whole context."""
    return round(2 * shape.layers * shape.kv_width * context_tokens * KV_BYTES[encoding])


def serving_memory(shape: Shape, setup: ServingSetup, *, gpus: int = 1) -> Estimate:
    """What all GPUs hold together: llama.cpp deals the layers out among them."""
    all_tokens = setup.context_tokens * setup.parallel
    cache = kv_cache_bytes(shape, setup.context_tokens, setup.kv_encoding) * setup.parallel
    buffers = PASS_TOKENS * (4 * shape.vocabulary + 6 * all_tokens)
    weights = gguf_bytes(shape, setup.encoding)
    bits = weights * 8 / shape.parameters
    parallel = f" x {setup.parallel} requests" if setup.parallel > 1 else ""
    return Estimate(
        (
            Part("weights", weights, f"{shape.parameters:,} parameters x {bits:.2f} bits on average ({setup.encoding})"),
            Part(
                "KV cache",
                cache,
                f"2 x {shape.layers} layers x {shape.kv_heads} KV heads x {shape.head_dim} x {setup.context_tokens:,} tokens"
                f"{parallel} x {KV_BYTES[setup.kv_encoding]:.4g} bytes ({setup.kv_encoding})",
            ),
            Part(
                "compute buffers",
                gpus * buffers,
                f"{PASS_TOKENS} tokens x (4 bytes x {shape.vocabulary:,} logits + 6 bytes x {all_tokens:,} of mask)"
                + (f" x {gpus} GPUs" if gpus > 1 else ""),
            ),
            Part("CUDA", gpus * CUDA_CONTEXT_BYTES, f"context: 0.5 GB x {gpus} (assumed)"),
        )
    )


def longest_served(shape: Shape, setup: ServingSetup, memory_bytes: int, *, most: int, gpus: int = 1) -> int:
    """The longest context that each of the parallel requests can have, 0 where none fits."""

    def holds(tokens: int) -> bool:
        trial = ServingSetup(encoding=setup.encoding, context_tokens=tokens, kv_encoding=setup.kv_encoding, parallel=setup.parallel)
        return serving_memory(shape, trial, gpus=gpus).total_bytes <= gpus * memory_bytes

    return largest(holds, most)


def most_parallel(shape: Shape, setup: ServingSetup, memory_bytes: int, *, gpus: int = 1) -> int:
    """How many requests of the context can be answered at once, 0 where not even one fits."""

    def holds(count: int) -> bool:
        trial = ServingSetup(
            encoding=setup.encoding, context_tokens=setup.context_tokens, kv_encoding=setup.kv_encoding, parallel=count
        )
        return serving_memory(shape, trial, gpus=gpus).total_bytes <= gpus * memory_bytes

    return largest(holds, _MOST_PARALLEL)


def _has_more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's `use_more_bits`: the first and the last eighth of the layers, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
