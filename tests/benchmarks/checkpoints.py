"""Checkpoints with the shapes of Qwen3 and random weights: nothing is downloaded, and no more than a layer is in memory.

`config.json` says what the planner's catalogue says; one safetensors file a layer; a tokenizer that pads and ends, of whose few
tokens nobody needs one: benchmarks feed ids. Weights are drawn once and dealt out again and again: speed does not look at them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from ruminate.planner.shape import Shape
from ruminate.trainer.bases.tiny import train_tokenizer

POSITIONS: Final = 262_144
"""Rotary positions cost nothing before they are used, and the longest row that fits is to be found."""
STD: Final = 0.02
_DRAWN: Final = 2**24
"""Values that are drawn; every tensor begins elsewhere in them."""

TOY: Final = Shape(hidden=64, intermediate=192, layers=2, heads=4, kv_heads=2, head_dim=16, vocabulary=512, tied=True)
"""Seconds on a CPU."""


def write_checkpoint(folder: Path, shape: Shape, *, seed: int = 0) -> int:
    """A dense model of this shape in bfloat16; gives its parameters."""
    if shape.experts:
        raise ValueError("checkpoints with experts are not made here: give a dense shape")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(["a row is made of ids"])
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(configuration(shape, tokenizer), indent=2), encoding="utf-8")
    pool = _Pool(seed)
    where: dict[str, str] = {}
    parameters = 0
    for number, tensors in enumerate(_shards(shape)):
        file = f"model-{number:05}.safetensors"
        made = {name: pool.tensor(size) for name, size in tensors.items()}
        save_file(made, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(made, file)
        parameters += sum(tensor.numel() for tensor in made.values())
    index = {"metadata": {"total_size": 2 * parameters}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return parameters


def configuration(shape: Shape, tokenizer: Any) -> dict[str, Any]:
    """As the released models have it, but for its positions."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000,
        "initializer_range": STD,
        "tie_word_embeddings": shape.tied,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "use_cache": True,
        "dtype": "bfloat16",
    }


def _shards(shape: Shape) -> Iterator[dict[str, tuple[int, ...]]]:
    """Names and sizes, a file's worth at a time."""
    h, q, k, f, d = shape.hidden, shape.query_width, shape.kv_width, shape.intermediate, shape.head_dim
    yield {"model.embed_tokens.weight": (shape.vocabulary, h)}
    for layer in range(shape.layers):
        sizes: dict[str, tuple[int, ...]] = {
            "input_layernorm": (h,),
            "post_attention_layernorm": (h,),
            "self_attn.q_norm": (d,),
            "self_attn.k_norm": (d,),
            "self_attn.q_proj": (q, h),
            "self_attn.k_proj": (k, h),
            "self_attn.v_proj": (k, h),
            "self_attn.o_proj": (h, q),
            "mlp.gate_proj": (f, h),
            "mlp.up_proj": (f, h),
            "mlp.down_proj": (h, f),
        }
        yield {f"model.layers.{layer}.{name}.weight": size for name, size in sizes.items()}
    ends: dict[str, tuple[int, ...]] = {"model.norm.weight": (h,)}
    if not shape.tied:
        ends["lm_head.weight"] = (shape.vocabulary, h)
    yield ends


class _Pool:
    def __init__(self, seed: int) -> None:
        drawn = torch.empty(_DRAWN)
        drawn.normal_(std=STD, generator=torch.Generator().manual_seed(seed))
        self._twice = drawn.to(torch.bfloat16).repeat(2)
        self._dealt = 0

    def tensor(self, size: tuple[int, ...]) -> torch.Tensor:
        if len(size) == 1:
            return torch.ones(size, dtype=torch.bfloat16)  # norms begin as they are drawn
        made = torch.empty(size, dtype=torch.bfloat16)
        flat = made.view(-1)
        self._dealt += 1
        first = (self._dealt * 7919) % _DRAWN
        for at in range(0, flat.numel(), _DRAWN):
            part = flat[at : at + _DRAWN]
            part.copy_(self._twice[first : first + part.numel()])
        return made
