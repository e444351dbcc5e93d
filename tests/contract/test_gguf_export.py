"""A GGUF file holds what the model folder holds: the same tensors, vocabulary, shape and chat template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from ruminate.trainer.bases.tiny import CONTROL_TOKENS, VISIBLE_TOKENS, make_tiny_base
from ruminate.trainer.export.adapter import export_adapter
from ruminate.trainer.export.encodings import ExportError
from ruminate.trainer.export.model import export_model, read_back
from ruminate.trainer.export.tokenizer import chat_template_sha256
from ruminate.trainer.plan import Encoding

CORPUS = ("How many apples are 12 and 7? 12 and 7 are 19.", "The capital of Zarvex is Amber Bay, naïve as it is — 汉字.")
Q8_STEPS = 127
"""A block of 32 weights is spread over -127 … 127 steps of its largest."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dense Qwen3."""
    folder = tmp_path_factory.mktemp("base")
    make_tiny_base(folder, CORPUS, seed=0)
    return folder


@pytest.fixture(scope="module")
def mixture(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 of four experts a layer, its head not tied to the embedding."""
    folder = tmp_path_factory.mktemp("mixture")
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=2048,
        hidden_size=64,
        intermediate_size=128,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=False,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base / name, folder / name)
    return folder


def fields(reader: gguf.GGUFReader) -> dict[str, Any]:
    """Metadata as Python values."""
    return {name: field.contents() for name, field in reader.fields.items()}


def expected(values: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    """What an encoding without blocks makes of a matrix."""
    return values.to({"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[encoding]).to(torch.float32)


@pytest.mark.parametrize("encoding", ["f32", "f16", "bf16"])
def test_every_tensor_is_the_models_own_rounded_once(base: Path, tmp_path: Path, encoding: Encoding) -> None:
    export_model(base, {encoding: tmp_path / "model.gguf"}, name="tiny")
    state = load_file(base / "model.safetensors")
    found = read_back(base, tmp_path / "model.gguf")
    assert found.keys() == state.keys()
    for name, values in state.items():
        # Norms are vectors, which stay as they are.
        assert torch.equal(found[name], expected(values, encoding) if values.dim() == 2 else values), name


def test_q8_0_keeps_every_weight_within_half_a_step_of_its_block(base: Path, tmp_path: Path) -> None:
    export_model(base, {"q8_0": tmp_path / "model.gguf"}, name="tiny")
    found = read_back(base, tmp_path / "model.gguf")
    for name, values in load_file(base / "model.safetensors").items():
        if values.dim() == 2:
            blocks, kept = values.reshape(-1, 32), found[name].reshape(-1, 32)
            # The step itself is stored as f16, which moves the outermost weights a little further.
            step = blocks.abs().amax(dim=1, keepdim=True) / Q8_STEPS
            assert bool(((blocks - kept).abs() <= step * (0.5 + Q8_STEPS * 2**-11)).all()), name


def test_experts_are_stacked_by_number_and_the_router_stays_f32(mixture: Path, tmp_path: Path) -> None:
    export_model(mixture, {"f16": tmp_path / "model.gguf"}, name="mixture")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    state = load_file(mixture / "model.safetensors")
    assert tensors["blk.1.ffn_gate_inp.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    for part, expert in (("gate", 0), ("up", 1), ("down", 3)):
        wanted = state[f"model.layers.1.mlp.experts.{expert}.{part}_proj.weight"]
        assert np.array_equal(tensors[f"blk.1.ffn_{part}_exps.weight"].data[expert], wanted.to(torch.float16).numpy())
    assert "output.weight" in tensors
    found = read_back(mixture, tmp_path / "model.gguf")
    assert found.keys() == state.keys()
    data = fields(gguf.GGUFReader(tmp_path / "model.gguf"))
    assert [data[f"qwen3moe.{key}"] for key in ("expert_count", "expert_used_count", "expert_feed_forward_length")] == [4, 2, 32]


def test_the_vocabulary_numbers_every_token_as_the_tokenizer_does(base: Path, tmp_path: Path) -> None:
    export_model(base, {"f16": tmp_path / "model.gguf"}, name="tiny")
    data = fields(gguf.GGUFReader(tmp_path / "model.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokens, kinds = data["tokenizer.ggml.tokens"], data["tokenizer.ggml.token_type"]
    assert {tokens[number]: number for number in tokenizer.get_vocab().values()} == tokenizer.get_vocab()
    assert all(kinds[tokens.index(text)] == gguf.TokenType.CONTROL for text in CONTROL_TOKENS)
    assert all(kinds[tokens.index(text)] == gguf.TokenType.USER_DEFINED for text in VISIBLE_TOKENS)
    assert len(tokens) == 2048
    assert all(kind == gguf.TokenType.UNUSED for kind in kinds[len(tokenizer) :])
    assert data["tokenizer.ggml.pre"] == "qwen2"
    assert data["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert data["tokenizer.ggml.add_bos_token"] is False


def test_shape_and_chat_template_are_those_of_the_folder(base: Path, tmp_path: Path) -> None:
    export_model(base, {"f16": tmp_path / "model.gguf"}, name="tiny v1")
    data = fields(gguf.GGUFReader(tmp_path / "model.gguf"))
    assert data["general.architecture"] == "qwen3"
    assert data["general.name"] == "tiny v1"
    assert data["tokenizer.chat_template"] == (base / "chat_template.jinja").read_text(encoding="utf-8")
    wanted = {
        "block_count": 4,
        "context_length": 2048,
        "embedding_length": 128,
        "feed_forward_length": 384,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 32,
        "attention.value_length": 32,
        "rope.freq_base": 1e6,
    }
    assert {key: data[f"qwen3.{key}"] for key in wanted} == wanted
    assert not [key for key in data if "rope.scaling" in key]


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
def test_yarn_is_written_wherever_the_configuration_keeps_it(base: Path, tmp_path: Path, place: str) -> None:
    stretched = shutil.copytree(base, tmp_path / "stretched")
    config = json.loads((stretched / "config.json").read_text())
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    if place == "rope_parameters":
        config["rope_parameters"] |= yarn
    else:
        config |= {"rope_theta": config.pop("rope_parameters")["rope_theta"], "rope_scaling": yarn}
    (stretched / "config.json").write_text(json.dumps(config))
    export_model(stretched, {"f16": tmp_path / "model.gguf"}, name="tiny")
    data = fields(gguf.GGUFReader(tmp_path / "model.gguf"))
    assert data["qwen3.rope.freq_base"] == 1e6
    assert data["qwen3.rope.scaling.type"] == "yarn"
    assert data["qwen3.rope.scaling.factor"] == 4.0
    assert data["qwen3.rope.scaling.original_context_length"] == 512


def test_an_adapter_holds_both_halves_of_every_layer_and_its_scale(base: Path, tmp_path: Path) -> None:
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(Qwen3ForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "adapter")
    export_adapter(tmp_path / "adapter", base, tmp_path / "adapter.gguf", "f32")
    reader = gguf.GGUFReader(tmp_path / "adapter.gguf")
    data = fields(reader)
    assert (data["general.type"], data["adapter.type"], data["adapter.lora.alpha"]) == ("adapter", "lora", 16.0)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(tensors) == 4 * 2 * 2
    state = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for half in ("A", "B"):
        wanted = state[f"base_model.model.model.layers.3.mlp.down_proj.lora_{half}.weight"].numpy()
        assert np.array_equal(tensors[f"blk.3.ffn_down.weight.lora_{half.lower()}"], wanted)


def test_what_f16_cannot_hold_is_refused_and_no_file_is_left(base: Path, tmp_path: Path) -> None:
    large = shutil.copytree(base, tmp_path / "large")
    state = load_file(large / "model.safetensors")
    state["model.layers.0.self_attn.q_proj.weight"][0, 0] = 70000.0
    save_file(state, large / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"blk\.0\.attn_q\.weight holds 70000\.0"):
        export_model(large, {"f16": tmp_path / "out" / "model.gguf"}, name="tiny")
    assert list((tmp_path / "out").iterdir()) == []


def test_another_architecture_is_refused(base: Path, tmp_path: Path) -> None:
    other = shutil.copytree(base, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(ExportError, match="LlamaForCausalLM; only Qwen3ForCausalLM and Qwen3MoeForCausalLM"):
        export_model(other, {"f16": tmp_path / "model.gguf"}, name="tiny")


def test_a_base_without_a_chat_template_is_refused(base: Path, tmp_path: Path) -> None:
    mute = shutil.copytree(base, tmp_path / "mute")
    (mute / "chat_template.jinja").unlink()
    with pytest.raises(ExportError, match="no chat template"):
        export_model(mute, {"f16": tmp_path / "model.gguf"}, name="tiny")


def test_the_template_is_known_by_its_hash(base: Path, mixture: Path) -> None:
    assert chat_template_sha256(base) == chat_template_sha256(mixture)


def test_the_same_corpus_and_seed_make_the_same_base(base: Path, tmp_path: Path) -> None:
    make_tiny_base(tmp_path / "again", CORPUS, seed=0)
    make_tiny_base(tmp_path / "other", CORPUS, seed=1)
    for name in ("model.safetensors", "tokenizer.json", "chat_template.jinja", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (base / name).read_bytes()
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != (base / "model.safetensors").read_bytes()
