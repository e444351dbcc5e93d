"""Which tensor of a Qwen3 goes where in a GGUF file, and the numbers that describe the model.

Dense Qwen3 and Qwen3-MoE; names as llama.cpp's own converter gives them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import gguf

from ruminate.trainer.export.encodings import ExportError
from ruminate.trainer.export.weights import Tensors

Config = Mapping[str, Any]

_ARCHITECTURES: Final = {
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
    "Qwen3MoeForCausalLM": gguf.MODEL_ARCH.QWEN3MOE,
}
_EXPERT: Final = re.compile(r"(model\.layers\.\d+\.mlp\.experts)\.(\d+)\.(\w+\.weight)$")
_QWEN3_NATIVE_TOKENS: Final = {40_960: 32_768}
"""What Qwen3's config.json says is the context it was trained on and room for an answer; YaRN stretches the first."""
_MOST_STRETCHED: Final = 4.0
_YARN_NUMBERS: Final = {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow"}
_HARMLESS: Final = {"type", "rope_type", "rope_theta", "truncate", "attention_factor"}


@dataclass(frozen=True)
class Placed:
    """One tensor of the file: its name there, the tensors that it is made of (several: experts, stacked), its shape."""

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def stacked(self) -> bool:
        """Whether it holds the experts of a layer."""
        return _EXPERT.match(self.sources[0]) is not None


def read_config(folder: Path) -> Config:
    """`config.json` of a model folder."""
    config: Config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def stretched(config: Config, context_tokens: int | None) -> Config:
    """The config with YaRN to a context of so many tokens; unchanged for None. Raises ExportError where that is not possible."""
    if context_tokens is None:
        return config
    has = int(config["max_position_embeddings"])
    native = _QWEN3_NATIVE_TOKENS.get(has, has)
    most = int(native * _MOST_STRETCHED)
    if is_yarn(config) or not has < context_tokens <= most:
        why = "is stretched by YaRN already" if is_yarn(config) else f"has {has} tokens, and YaRN is good for up to {most}"
        raise ExportError(
            f"RUMINATE_EXPORT_CONTEXT_TOKENS is {context_tokens}, but the base {why}; choose a number in between, or leave it unset"
        )
    yarn = {"rope_type": "yarn", "factor": context_tokens / native, "original_max_position_embeddings": native}
    rope = {**_rope(config), **yarn}
    rest = {key: value for key, value in config.items() if key != "rope_scaling"}
    return {**rest, "max_position_embeddings": context_tokens, "rope_parameters": rope}


def is_yarn(config: Config) -> bool:
    """Whether positions beyond the native context are squeezed into it."""
    return _rope_type(_rope(config)) == "yarn"


def context_tokens_of(config: Config) -> int:
    """Length of the context, stretched if it is."""
    tokens = int(config["max_position_embeddings"])
    rope = _rope(config)
    if not is_yarn(config):
        return tokens
    # The released models are stretched by their rope alone; their max_position_embeddings stays as it was.
    return max(tokens, int(rope["factor"] * rope["original_max_position_embeddings"]))


def architecture_of(config: Config) -> gguf.MODEL_ARCH:
    """Raises ExportError for anything but a Qwen3."""
    named = (config.get("architectures") or ["none"])[0]
    if named not in _ARCHITECTURES:
        raise ExportError(f"the architecture is {named}; only {' and '.join(_ARCHITECTURES)} can be exported")
    return _ARCHITECTURES[named]


def experts_of(config: Config) -> int:
    """Experts a layer: as the released models name it, or as transformers 5 writes it."""
    return int(config.get("num_experts") or config.get("num_local_experts") or 0)


def name_of(config: Config, key: str) -> str:
    """The name in GGUF of a tensor of the model. Raises ExportError where it has none."""
    names = _names(architecture_of(config), config["num_hidden_layers"])
    found: str | None = names.get_name(key, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise ExportError(f"tensor {key} has no place in GGUF; the model has a part that Qwen3 does not have")
    return found


@cache
def _names(architecture: gguf.MODEL_ARCH, layers: int) -> gguf.TensorNameMap:
    return gguf.get_tensor_name_map(architecture, layers)


def layout(weights: Tensors, config: Config) -> list[Placed]:
    """What the file will hold, by name, however the base is sharded; the experts of a layer become one tensor (expert, out, in)."""
    sources: dict[str, list[str]] = {}
    for key in sorted(weights.names()):
        if key == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        expert = _EXPERT.match(key)
        sources.setdefault(f"{expert[1]}.{expert[3]}" if expert else key, []).append(key)
    placed = []
    for key, keys in sources.items():
        stacked = _EXPERT.match(keys[0]) is not None
        if stacked:
            keys.sort(key=_expert_number)
            if len(keys) != experts_of(config):
                raise ExportError(f"{key} has {len(keys)} experts; config.json says {experts_of(config)}")
        shape = ((len(keys),) if stacked else ()) + weights.shape(keys[0])
        placed.append(Placed(name_of(config, key), tuple(keys), shape))
    return placed


def _expert_number(key: str) -> int:
    matched = _EXPERT.match(key)
    return int(matched[2]) if matched else 0


def describe_architecture(writer: gguf.GGUFWriter, config: Config) -> None:
    """The numbers without which the tensors mean nothing. Raises ExportError for positions that GGUF cannot describe."""
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(context_tokens_of(config))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    _describe_positions(writer, config)
    if experts_of(config):
        writer.add_expert_count(experts_of(config))
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])


def _describe_positions(writer: gguf.GGUFWriter, config: Config) -> None:
    rope = _rope(config)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if _rope_type(rope) == "default":
        return
    unknown = {key for key, value in rope.items() if value is not None} - _YARN_NUMBERS - _HARMLESS
    # llama.cpp derives the attention factor from the stretch, and cuts its range to whole numbers, as transformers does unasked.
    if unknown or not is_yarn(config) or rope.get("attention_factor") is not None or rope.get("truncate") is False:
        raise ExportError(f"positions are scaled by {rope}; only YaRN with its own attention factor can be exported")
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(float(rope["factor"]))
    writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))
    if rope.get("beta_fast"):
        writer.add_rope_scaling_yarn_beta_fast(float(rope["beta_fast"]))
    if rope.get("beta_slow"):
        writer.add_rope_scaling_yarn_beta_slow(float(rope["beta_slow"]))


def _rope(config: Config) -> dict[str, Any]:
    """transformers 5 keeps theta and scaling in one place, transformers 4 in two."""
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    return {"rope_theta": config.get("rope_theta"), **rope}


def _rope_type(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")
