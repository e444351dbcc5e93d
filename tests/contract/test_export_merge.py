"""Base and adapter, added some rows at a time, give the bytes that PEFT's merge of the whole model gives, or are refused."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from ruminate.trainer.bases.tiny import make_tiny_base
from ruminate.trainer.export.adapter import export_adapter
from ruminate.trainer.export.encodings import ExportError, encode, type_for
from ruminate.trainer.export.lora import LINEAR_LAYERS
from ruminate.trainer.export.model import export_model
from ruminate.trainer.export.weights import Weights, blocks_of, read_whole
from ruminate.trainer.plan import Dtype, Encoding

ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SHAPE: Mapping[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
EXPERTS: Mapping[str, Any] = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tiny_base(folder, ("How many apples are 12 and 7?",), seed=0)
    return folder


@pytest.fixture(scope="module", params=["tied", "untied and sharded", "experts", "bfloat16"])
def base(request: pytest.FixtureRequest, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny Qwen3s of every kind."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    model = {
        "tied": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=True)),
        "untied and sharded": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=False)),
        "experts": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE, **EXPERTS, tie_word_embeddings=False)),
        "bfloat16": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=True)).to(torch.bfloat16),
    }[request.param]()
    model.save_pretrained(folder, max_shard_size="200KB" if "sharded" in request.param else "5GB")
    assert (folder / "model.safetensors.index.json").exists() == ("sharded" in request.param)
    return with_tokenizer(folder, tokenizer)


@pytest.fixture(scope="module")
def mixture(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    torch.manual_seed(0)
    Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE, **EXPERTS, tie_word_embeddings=False)).save_pretrained(folder)
    return with_tokenizer(folder, tokenizer)


def with_tokenizer(folder: Path, tokenizer: Path) -> Path:
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer / name, folder / name)
    return folder


def adapter_on(base: Path, out: Path, **choices: Any) -> Path:
    """An adapter as the recipe trains it, with weights that are no zeros."""
    torch.manual_seed(1)
    chosen: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": list(LINEAR_LAYERS), **choices}
    config = LoraConfig(**chosen, task_type="CAUSAL_LM", init_lora_weights=False)
    with warnings.catch_warnings(action="ignore"):  # PEFT warns of much of what is refused here, and of its own patterns
        get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config).save_pretrained(out)
    return out


def merged_by_peft(base: Path, adapter: Path, out: Path, dtype: torch.dtype) -> Path:
    """The folder of the whole model with the adapter in it."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    with warnings.catch_warnings(action="ignore"):
        PeftModel.from_pretrained(model, adapter, torch_device="cpu").merge_and_unload().save_pretrained(out)
    return with_tokenizer(out, base)


@pytest.mark.parametrize("dtype", get_args(Dtype))
@pytest.mark.parametrize("choices", [{}, {"use_rslora": True, "lora_alpha": 24}], ids=["lora", "rank-stabilised"])
def test_every_file_is_byte_for_byte_what_the_merged_model_gives(
    base: Path, tmp_path: Path, dtype: str, choices: dict[str, Any]
) -> None:
    adapter = adapter_on(base, tmp_path / "adapter", **choices)
    precision = getattr(torch, dtype)
    ours: dict[Encoding, Path] = {encoding: tmp_path / f"ours-{encoding}.gguf" for encoding in ENCODINGS}
    theirs: dict[Encoding, Path] = {encoding: tmp_path / f"theirs-{encoding}.gguf" for encoding in ENCODINGS}
    export_model(base, ours, name="tiny", adapter=adapter, merged_dtype=precision)
    export_model(merged_by_peft(base, adapter, tmp_path / "merged", precision), theirs, name="tiny")
    for encoding in ENCODINGS:
        assert ours[encoding].read_bytes() == theirs[encoding].read_bytes(), encoding


def test_the_adapter_changes_every_linear_layer(base: Path, tmp_path: Path) -> None:
    plain, merged = tmp_path / "plain.gguf", tmp_path / "merged.gguf"
    export_model(base, {"f32": plain}, name="tiny")
    export_model(base, {"f32": merged}, name="tiny", adapter=adapter_on(base, tmp_path / "adapter"))
    changed = {
        before.name.partition(".")[2].split(".")[-2]
        for before, after in zip(gguf.GGUFReader(plain).tensors, gguf.GGUFReader(merged).tensors, strict=True)
        if before.name.startswith("blk.1.") and not np.array_equal(before.data, after.data)
    }
    ending = "_exps" if "Moe" in json.loads((base / "config.json").read_text())["architectures"][0] else ""
    assert changed == {"attn_q", "attn_k", "attn_v", "attn_output"} | {f"ffn_{part}{ending}" for part in ("gate", "up", "down")}


@pytest.mark.parametrize("rows", [1, 63, 64, 1000])
def test_rows_that_are_cut_anywhere_are_the_same_rows(tmp_path: Path, rows: int) -> None:
    values = torch.randn(rows, 40_000)
    save_file({"x": values, "y": values[:, 0].clone()}, tmp_path / "model.safetensors")
    weights = Weights(tmp_path)
    blocks = blocks_of(weights.shape("x"))
    assert [start for start, _ in blocks[1:]] == [stop for _, stop in blocks[:-1]]
    assert (blocks[0][0], blocks[-1][1]) == (0, rows)
    assert all((stop - start) * 40_000 * 4 <= 2**24 for start, stop in blocks)
    assert torch.equal(torch.cat([weights.rows("x", start, stop) for start, stop in blocks]), values)
    assert torch.equal(read_whole(weights, "y"), values[:, 0])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_rows_are_encoded_as_the_gguf_package_encodes_them(encoding: Encoding) -> None:
    torch.manual_seed(0)
    # From what only a subnormal holds; q8_0 divides by a row's largest.
    rows = torch.randn(64, 256) * torch.logspace(-36 if encoding == "q8_0" else -45, 4, 64).unsqueeze(1)
    kind = type_for("blk.0.attn_q.weight", rows.shape, encoding)
    wanted = gguf.quants.quantize(rows.numpy(), kind)
    assert encode(rows, kind, "x").tobytes() == wanted.tobytes()


def test_a_sum_that_f16_cannot_hold_is_refused_and_no_file_is_left(mixture: Path, tmp_path: Path) -> None:
    adapter = adapter_on(mixture, tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight"
    tensors[name.format("A")][:, 0], tensors[name.format("B")][5] = 100.0, 100.0
    save_file(tensors, adapter / "adapter_model.safetensors")
    files: dict[Encoding, Path] = {encoding: tmp_path / "out" / f"{encoding}.gguf" for encoding in ENCODINGS}
    with pytest.raises(ExportError, match=r"blk\.1\.attn_q\.weight holds 16\d+\.\d*, f16 ends at 65504"):
        export_model(mixture, files, name="tiny", adapter=adapter)
    with pytest.raises(ExportError, match=r"layers\.1\.self_attn\.q_proj\.weight holds inf, f16 ends at 65504"):
        export_model(mixture, {"f32": tmp_path / "out" / "f32.gguf"}, name="tiny", adapter=adapter, merged_dtype=torch.float16)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "lora_only"}, "bias lora_only"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
    ],
)
def test_what_is_no_plain_lora_is_refused_with_what_to_train(
    mixture: Path, tmp_path: Path, choices: dict[str, Any], says: str
) -> None:
    adapter = adapter_on(mixture, tmp_path / "adapter", **{"target_modules": ["q_proj", "v_proj"], **choices})
    wanted = rf"{says}.*; train plain LoRA on q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
    with pytest.raises(ExportError, match=wanted):
        export_model(mixture, {"f32": tmp_path / "model.gguf"}, name="tiny", adapter=adapter)
    with pytest.raises(ExportError, match=wanted):
        export_adapter(adapter, mixture, tmp_path / "adapter.gguf", "f32")
    assert list(tmp_path.glob("*.gguf")) == []


def test_an_adapter_on_the_router_is_refused(mixture: Path, tmp_path: Path) -> None:
    adapter = adapter_on(mixture, tmp_path / "adapter", target_modules=["q_proj"], target_parameters=["gate.weight"])
    with pytest.raises(ExportError, match=r"mlp\.gate\.lora_A\.weight, which has no place in GGUF; train plain LoRA"):
        export_adapter(adapter, mixture, tmp_path / "adapter.gguf", "f32")


def test_an_adapter_of_another_base_is_refused(mixture: Path, tokenizer: Path, tmp_path: Path) -> None:
    other = adapter_on(tokenizer, tmp_path / "other", target_modules=["q_proj", "down_proj"])
    with pytest.raises(ExportError, match="which the base does not have; it belongs to another base"):
        export_model(mixture, {"f32": tmp_path / "model.gguf"}, name="tiny", adapter=other)
    narrow = adapter_on(tokenizer, tmp_path / "narrow", target_modules=["q_proj"], layers_to_transform=[0, 1])
    with pytest.raises(ExportError, match=r"as if it were \(128, 128\), and in the base it is \(128, 64\)"):
        export_model(mixture, {"f32": tmp_path / "model.gguf"}, name="tiny", adapter=narrow)


def test_a_base_that_was_cut_short_is_named(mixture: Path, tmp_path: Path) -> None:
    short = shutil.copytree(mixture, tmp_path / "short")
    whole = (short / "model.safetensors").read_bytes()
    (short / "model.safetensors").write_bytes(whole[:-4])
    with pytest.raises(ExportError, match=r"short/model\.safetensors ends in the middle of .*; fetch it again"):
        export_model(short, {"f32": tmp_path / "model.gguf"}, name="tiny")


@pytest.mark.parametrize("choices", [{}, {"use_rslora": True}], ids=["lora", "rank-stabilised"])
def test_an_adapter_file_adds_to_experts_what_the_merged_model_has(mixture: Path, tmp_path: Path, choices: dict[str, Any]) -> None:
    adapter = adapter_on(mixture, tmp_path / "adapter", **choices)
    export_adapter(adapter, mixture, tmp_path / "adapter.gguf", "f32")
    export_model(mixture, {"f32": tmp_path / "base.gguf"}, name="tiny")
    export_model(mixture, {"f32": tmp_path / "merged.gguf"}, name="tiny", adapter=adapter)
    file = gguf.GGUFReader(tmp_path / "adapter.gguf")
    alpha = float(file.fields["adapter.lora.alpha"].contents())
    lora = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in file.tensors}
    for plain, merged in zip(
        gguf.GGUFReader(tmp_path / "base.gguf").tensors, gguf.GGUFReader(tmp_path / "merged.gguf").tensors, strict=True
    ):
        if f"{plain.name}.lora_b" in lora:
            a, b = lora.pop(f"{plain.name}.lora_a"), lora.pop(f"{plain.name}.lora_b")
            added = alpha / b.shape[-1] * (b @ a)  # as llama.cpp scales
            torch.testing.assert_close(torch.from_numpy(plain.data + added.numpy()), torch.from_numpy(merged.data.copy()))
    assert lora == {}
