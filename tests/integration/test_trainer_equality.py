"""The equality check tells a right export from a wrong one, and works for every shape that can be exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from ruminate.trainer.equality import MARGIN_BOUNDS, check_equality, compare, passed, probes_from
from ruminate.trainer.gguf_export import Encoding, export_adapter, export_model
from ruminate.trainer.rows import Row, prompt_tokens
from ruminate.trainer.tiny import make_tiny_base

QUESTIONS = ("What is 12 and 7?", "Name the capital of Zarvex.", "naïve café — 汉字\n\n  2024", "Why?")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def row(question: str) -> Row:
    """A row that asks this; its answer is not looked at."""
    return Row.model_validate_json(
        json.dumps(
            {
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": "Yes."}],
                "chat_template_kwargs": {"enable_thinking": False},
            }
        )
    )


PROBES = probes_from([row(question) for question in QUESTIONS], 8)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dense Qwen3 that knows nothing."""
    folder = tmp_path_factory.mktemp("base")
    make_tiny_base(folder, QUESTIONS, seed=0)
    return folder


def test_probes_are_distinct_prompts_in_both_modes() -> None:
    probes = probes_from([row("a"), row("b"), row("a"), row("c")], 5)
    assert [(probe.prompt[0].content, probe.chat_template_kwargs.enable_thinking) for probe in probes] == [
        ("a", True),
        ("a", False),
        ("b", True),
        ("b", False),
    ]


@pytest.mark.parametrize("encoding", ["f32", "f16", "bf16", "q8_0"])
def test_a_right_export_passes(base: Path, tmp_path: Path, encoding: Encoding) -> None:
    export_model(base, tmp_path / "model.gguf", encoding, name="tiny")
    found = check_equality(base, tmp_path / "model.gguf", encoding, PROBES)
    assert passed(found)
    assert found[-1].probes == len(PROBES)
    assert found[0].method == ("teacher-forced" if encoding == "q8_0" else "free-running")


def test_experts_say_the_same(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=2048,
        hidden_size=64,
        intermediate_size=128,
        moe_intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path / "mixture")
    for name in TOKENIZER_FILES:
        shutil.copy(base / name, tmp_path / "mixture" / name)
    export_model(tmp_path / "mixture", tmp_path / "model.gguf", "f32", name="mixture")
    assert passed(check_equality(tmp_path / "mixture", tmp_path / "model.gguf", "f32", PROBES))


def test_a_file_with_another_rotation_is_found_out(base: Path, tmp_path: Path) -> None:
    # An untrained model hardly looks back; with stronger attention, where it looks changes what it says.
    right = shutil.copytree(base, tmp_path / "right")
    state = load_file(right / "model.safetensors")
    save_file(
        {name: 3 * values if "self_attn" in name else values for name, values in state.items()},
        right / "model.safetensors",
        {"format": "pt"},
    )
    export_model(right, tmp_path / "right.gguf", "f32", name="tiny")
    assert passed(check_equality(right, tmp_path / "right.gguf", "f32", PROBES))
    wrong = shutil.copytree(right, tmp_path / "wrong")
    config = json.loads((wrong / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 100.0
    (wrong / "config.json").write_text(json.dumps(config))
    export_model(wrong, tmp_path / "model.gguf", "f32", name="tiny")
    found = check_equality(right, tmp_path / "model.gguf", "f32", PROBES)
    assert [entry.method for entry in found] == ["free-running", "teacher-forced"]
    assert not passed(found)


def test_a_file_that_splits_text_in_other_places_is_found_out(base: Path, tmp_path: Path) -> None:
    wrong = shutil.copytree(base, tmp_path / "wrong")
    tokenizer = json.loads((wrong / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:5]
    (wrong / "tokenizer.json").write_text(json.dumps(tokenizer))
    export_model(wrong, tmp_path / "model.gguf", "f32", name="tiny")
    compared = compare(base, tmp_path / "model.gguf", "f32", PROBES)
    assert not any(probe.prompt_equal for probe in compared)
    assert not any(probe.equal(MARGIN_BOUNDS["f32"]) for probe in compared)


def test_the_adapter_on_the_base_says_what_the_merged_model_says(base: Path, tmp_path: Path) -> None:
    xllamacpp = pytest.importorskip("xllamacpp", reason="pip install xllamacpp")
    config = LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    torch.manual_seed(0)
    adapted = get_peft_model(Qwen3ForCausalLM.from_pretrained(base), config)
    adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload().eval()
    export_model(base, tmp_path / "base.gguf", "f32", name="tiny")
    export_adapter(tmp_path / "adapter", base, tmp_path / "adapter.gguf", "f32")

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(tmp_path / "base.gguf")
    parameters.n_ctx, parameters.n_parallel, parameters.verbosity = 256, 1, -1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = torch.get_num_threads()
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = str(tmp_path / "adapter.gguf"), 1.0
    parameters.lora_adapters = [adapter]
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(parameters)

    tokenizer = AutoTokenizer.from_pretrained(base)
    for probe in PROBES:
        prompt = prompt_tokens(probe, tokenizer)
        said = server.handle_completions({"prompt": prompt, "max_tokens": 8, "temperature": 0, "top_k": 1})["choices"][0]["text"]
        wanted = merged.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)[0, len(prompt) :]
        assert said == tokenizer.decode(wanted, skip_special_tokens=True)
