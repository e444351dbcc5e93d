"""A Qwen3 folder becomes one GGUF file, a LoRA adapter another: the same tensors that llama.cpp's own converter writes.

Dense Qwen3 and Qwen3-MoE, as f32, f16, bf16 or q8_0. Tensors are read, encoded and written one by one, so that memory is
bounded by the largest of them. A file is there whole or not at all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final, Literal, get_args

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

Encoding = Literal["f32", "f16", "bf16", "q8_0"]
Array = NDArray[Any]
Config = Mapping[str, Any]

_TYPES: Final = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
_ARCHITECTURES: Final = {
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
    "Qwen3MoeForCausalLM": gguf.MODEL_ARCH.QWEN3MOE,
}
_EXPERT: Final = re.compile(r"(model\.layers\.\d+\.mlp\.experts)\.(\d+)\.(\w+\.weight)$")
_ROWS_AT_ONCE: Final = 4096
"""Rows of a matrix that are encoded together: encoding needs several times their memory."""


class ExportError(ValueError):
    """This folder cannot be written as GGUF; the message names what stands in the way."""


@dataclass(frozen=True)
class _Planned:
    """One tensor of the file: its name there, the tensors that it is made of (several: experts, stacked), its shape and type."""

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType


class _Weights:
    """The tensors of a safetensors folder, sharded or not, read when asked for."""

    def __init__(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else ["model.safetensors"]
        shards: list[Any] = [safe_open(folder / name, framework="pt") for name in names]
        self._shard_of = {key: shard for shard in shards for key in shard.keys()}  # noqa: SIM118 - no mapping

    def names(self) -> list[str]:
        return list(self._shard_of)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._shard_of[name].get_slice(name).get_shape())

    def read(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._shard_of[name].get_tensor(name)
        return tensor


def export_model(folder: Path, out: Path, encoding: Encoding, *, name: str) -> None:
    """Write the model in `folder` (config.json, tokenizer.json, chat template, safetensors) to `out`.

    Raises ExportError for an architecture other than Qwen3, a tensor without a place, or a value that f16 cannot hold.
    """
    config = read_config(folder)
    weights = _Weights(folder)
    tensors = _plan(weights, config, _TYPES[encoding][0])
    with _writer(out, config, kind="model", encoding=encoding) as writer:
        writer.add_name(name)
        _describe_architecture(writer, config)
        _describe_tokenizer(writer, folder, int(config["vocab_size"]))
        for tensor in tensors:
            _announce(writer, tensor)
        _write_header(writer)
        for tensor in tensors:
            writer.write_tensor_data(_encode_all(weights, tensor))


def export_adapter(folder: Path, base: Path, out: Path, encoding: Encoding) -> None:
    """Write the PEFT LoRA adapter in `folder`, trained on the model in `base`, to `out`.

    Raises ExportError for anything but one rank and one alpha on layers that the base has.
    """
    config = read_config(base)
    adapter = json.loads((folder / "adapter_config.json").read_text())
    for unknown in ("rank_pattern", "alpha_pattern", "modules_to_save"):
        if adapter.get(unknown):
            raise ExportError(f"the adapter in {folder} has {unknown}; GGUF holds one rank and one alpha for all layers")
    # llama.cpp scales by alpha / rank, rank-stabilised LoRA by alpha / sqrt(rank).
    alpha = float(adapter["lora_alpha"]) * (float(adapter["r"]) ** 0.5 if adapter.get("use_rslora") else 1.0)
    names = gguf.get_tensor_name_map(_architecture(config), config["num_hidden_layers"])
    with (
        _writer(out, config, kind="adapter", encoding=encoding) as writer,
        safe_open(folder / "adapter_model.safetensors", framework="pt") as tensors,
    ):
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        planned = []
        for key in tensors.keys():  # noqa: SIM118 - no mapping
            layer, _, half = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
            found = names.get_name(layer)
            if found is None or half not in ("A", "B"):
                raise ExportError(f"the adapter in {folder} holds {key}, which has no place in GGUF; train linear layers only")
            shape = tuple(tensors.get_slice(key).get_shape())
            planned.append(
                _Planned(f"{found}.weight.lora_{half.lower()}", (key,), shape, _type_for(found, shape, _TYPES[encoding][0]))
            )
        for tensor in planned:
            _announce(writer, tensor)
        _write_header(writer)
        for tensor in planned:
            writer.write_tensor_data(_encode(tensors.get_tensor(tensor.sources[0]), tensor))


def read_config(folder: Path) -> Config:
    """`config.json` of a model folder."""
    config: Config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def read_chat_template(folder: Path) -> str:
    """The Jinja chat template of a model folder. Raises ExportError where there is none: Ollama could only guess."""
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    template = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    if not isinstance(template, str):
        raise ExportError(f"{folder} has no chat template; add chat_template.jinja of the model's family")
    return template


def chat_template_sha256(folder: Path) -> str:
    """Hash of the chat template that `export_model` puts into the file."""
    return hashlib.sha256(read_chat_template(folder).encode()).hexdigest()


def read_back(folder: Path, file: Path) -> dict[str, torch.Tensor]:
    """The weights that `file`, exported from `folder`, holds: rounded by its encoding, in f32, by their names in `folder`."""
    weights, config = _Weights(folder), read_config(folder)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    state: dict[str, torch.Tensor] = {}
    for planned in _plan(weights, config, gguf.GGMLQuantizationType.F32):
        tensor = found[planned.name]
        values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()).reshape(planned.shape)
        state.update(zip(planned.sources, values if _is_stacked(planned) else (values,), strict=True))
    return state


@contextmanager
def _writer(out: Path, config: Config, *, kind: str, encoding: Encoding) -> Iterator[gguf.GGUFWriter]:
    """A writer to a temporary name, which becomes `out` when everything is written."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".partial-{out.name}")
    writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[_architecture(config)])
    try:
        writer.add_type(kind)
        writer.add_file_type(_TYPES[encoding][1])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        yield writer
        writer.close()
        partial.replace(out)
    except BaseException:
        writer.close()
        partial.unlink(missing_ok=True)
        raise


def _architecture(config: Config) -> gguf.MODEL_ARCH:
    named = (config.get("architectures") or ["none"])[0]
    if named not in _ARCHITECTURES:
        raise ExportError(f"the architecture is {named}; only {' and '.join(_ARCHITECTURES)} can be exported")
    return _ARCHITECTURES[named]


def _experts(config: Config) -> int:
    """Experts a layer: as the released models name it, or as transformers 5 writes it."""
    return int(config.get("num_experts") or config.get("num_local_experts") or 0)


def _place(names: gguf.TensorNameMap, key: str) -> str:
    found: str | None = names.get_name(key, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise ExportError(f"tensor {key} has no place in GGUF; the model has a part that Qwen3 does not have")
    return found


def _plan(weights: _Weights, config: Config, wanted: gguf.GGMLQuantizationType) -> list[_Planned]:
    """What the file will hold, in the order of the layers; the experts of a layer become one tensor (expert, out, in)."""
    names = gguf.get_tensor_name_map(_architecture(config), config["num_hidden_layers"])
    sources: dict[str, list[str]] = {}
    for key in weights.names():
        if key == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        expert = _EXPERT.match(key)
        sources.setdefault(f"{expert[1]}.{expert[3]}" if expert else key, []).append(key)
    planned = []
    for merged, keys in sources.items():
        stacked = _EXPERT.match(keys[0]) is not None
        if stacked:
            keys.sort(key=_expert_number)
            if len(keys) != _experts(config):
                raise ExportError(f"{merged} has {len(keys)} experts; config.json says {_experts(config)}")
        name = _place(names, merged)
        shape = ((len(keys),) if stacked else ()) + weights.shape(keys[0])
        planned.append(_Planned(name, tuple(keys), shape, _type_for(name, shape, wanted)))
    return planned


def _expert_number(key: str) -> int:
    matched = _EXPERT.match(key)
    return int(matched[2]) if matched else 0


def _type_for(name: str, shape: Sequence[int], wanted: gguf.GGMLQuantizationType) -> gguf.GGMLQuantizationType:
    """Vectors and the router stay f32, as llama.cpp expects them; rows that do not fill q8_0's blocks of 32 become f16."""
    if len(shape) == 1 or "ffn_gate_inp" in name:
        return gguf.GGMLQuantizationType.F32
    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    return wanted if shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16


def _byte_shape(tensor: _Planned) -> tuple[int, ...]:
    return tuple(gguf.quant_shape_to_byte_shape(tensor.shape, tensor.type))


def _dtype(kind: gguf.GGMLQuantizationType) -> np.dtype[Any]:
    plain = {gguf.GGMLQuantizationType.F32: "float32", gguf.GGMLQuantizationType.F16: "float16"}
    return np.dtype(plain.get(kind, "uint8"))


def _announce(writer: gguf.GGUFWriter, tensor: _Planned) -> None:
    dtype = _dtype(tensor.type)
    plain = dtype != np.uint8
    writer.add_tensor_info(
        tensor.name,
        tensor.shape if plain else _byte_shape(tensor),
        dtype,
        prod(_byte_shape(tensor)),
        raw_dtype=None if plain else tensor.type,
    )


def _write_header(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _encode_all(weights: _Weights, tensor: _Planned) -> Array:
    """The bytes of one tensor of the file, its experts stacked along the first axis."""
    encoded = [_encode(weights.read(key), tensor) for key in tensor.sources]
    return np.stack(encoded) if _is_stacked(tensor) else encoded[0]


def _is_stacked(tensor: _Planned) -> bool:
    return _EXPERT.match(tensor.sources[0]) is not None


def _encode(source: torch.Tensor, tensor: _Planned) -> Array:
    """A vector or matrix in the encoding of `tensor`, some rows at a time, so that little more than the result is held."""
    parts = [_encode_rows(rows, tensor) for rows in torch.split(source, _ROWS_AT_ONCE)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _encode_rows(rows: torch.Tensor, tensor: _Planned) -> Array:
    values: Array = rows.to(torch.float32).numpy()
    if tensor.type is gguf.GGMLQuantizationType.F32:
        return values
    if tensor.type is gguf.GGMLQuantizationType.F16:
        largest = float(np.abs(values).max(initial=0.0))
        if not largest <= float(np.finfo(np.float16).max):
            raise ExportError(f"{tensor.name} holds {largest}, f16 ends at 65504; export bf16 or f32 instead")
        return values.astype(np.float16)
    encoded: Array = gguf.quants.quantize(values, tensor.type)
    return encoded


def _describe_architecture(writer: gguf.GGUFWriter, config: Config) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    # transformers 5 keeps theta and scaling in one place, transformers 4 in two.
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config["rope_theta"]))
    if (rope.get("rope_type") or rope.get("type")) == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(rope["factor"]))
        writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))
    if _experts(config):
        writer.add_expert_count(_experts(config))
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])


def _describe_tokenizer(writer: gguf.GGUFWriter, folder: Path, rows: int) -> None:
    """Vocabulary, merges and chat template. The embedding has `rows` rows; those that no token uses are named as padding."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if tokenizer["model"]["type"] != "BPE":
        raise ExportError(f"the tokenizer in {folder} is {tokenizer['model']['type']}; Qwen3 has byte pairs (BPE)")
    tokens = [f"[PAD{number}]" for number in range(rows)]
    kinds = [int(gguf.TokenType.UNUSED)] * rows
    for text, number in tokenizer["model"]["vocab"].items():
        tokens[number], kinds[number] = text, int(gguf.TokenType.NORMAL)
    added = {token["content"]: token for token in tokenizer["added_tokens"]}
    for text, token in added.items():
        tokens[token["id"]] = text
        kinds[token["id"]] = int(gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED)
    writer.add_tokenizer_model("gpt2")
    # Names the splitting of text before the merges; any other name splits Qwen's text in wrong places.
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(added["<|im_end|>"]["id"])
    writer.add_pad_token_id(added["<|endoftext|>"]["id"])
    writer.add_bos_token_id(added["<|endoftext|>"]["id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(read_chat_template(folder))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: a folder with a model becomes one GGUF file."""
    parser = argparse.ArgumentParser(
        prog="python -m ruminate.trainer.gguf_export", description="Write a model's folder as a GGUF file."
    )
    parser.add_argument("folder", type=Path, help="folder with config.json, safetensors and tokenizer.json")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--encoding", choices=get_args(Encoding), default="f16", help="how the weights are stored")
    given = parser.parse_args(arguments)
    export_model(given.folder, given.out, given.encoding, name=given.folder.name)


if __name__ == "__main__":
    main()
