"""The equality check tells a right export from a wrong one, and works for every shape that can be exported."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

from ruminate.schemas.training import TokenEquality
from ruminate.trainer.bases.tiny import make_tiny_base
from ruminate.trainer.export.adapter import export_adapter
from ruminate.trainer.export.equality import MARGIN_BOUNDS, check_equality, compare, judge, passed
from ruminate.trainer.export.lora import LINEAR_LAYERS
from ruminate.trainer.export.model import export_model
from ruminate.trainer.export.probes import batch_probes
from ruminate.trainer.plan import Encoding
from ruminate.trainer.rows import Row, prompt_tokens

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


PROBES = batch_probes([row(question) for question in QUESTIONS], 8)


def told(base: Path, file: Path) -> tuple[TokenEquality, ...]:
    """The verdict on an f32 file."""
    return judge(compare(base, file, "f32", PROBES), "f32")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dense Qwen3 that knows nothing."""
    folder = tmp_path_factory.mktemp("base")
    make_tiny_base(folder, QUESTIONS, seed=0)
    return folder


@pytest.mark.parametrize("encoding", ["f32", "f16", "bf16", "q8_0"])
def test_a_right_export_passes(base: Path, tmp_path: Path, encoding: Encoding) -> None:
    export_model(base, {encoding: tmp_path / "model.gguf"}, name="tiny")
    found = check_equality(base, tmp_path / "model.gguf", encoding, [row(question) for question in QUESTIONS], 17)
    assert passed(found)
    assert found[-1].probes == 17
    assert found[0].method == ("teacher-forced" if encoding == "q8_0" else "free-running")
    # bf16 rounds what goes through the layers to eight bits: an untrained model has positions where that decides.
    assert len(found) == 1 or encoding == "bf16"
    for entry in found:
        if entry.method == "free-running":
            assert (entry.mean_divergence_nats, entry.compared_mass_ratio) == (None, None)
        else:
            assert entry.mean_divergence_nats is not None and 0 < entry.mean_divergence_nats < 1e-3
            assert entry.compared_mass_ratio is not None and 0.1 < entry.compared_mass_ratio < 1


@pytest.fixture(scope="module")
def mixture(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 with four experts a layer."""
    folder = tmp_path_factory.mktemp("mixture")
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
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(base / name, folder / name)
    return folder


def test_experts_say_the_same(mixture: Path, tmp_path: Path) -> None:
    export_model(mixture, {"f32": tmp_path / "model.gguf"}, name="mixture")
    assert passed(told(mixture, tmp_path / "model.gguf"))


def test_a_file_with_another_rotation_is_found_out(base: Path, tmp_path: Path) -> None:
    # An untrained model hardly looks back; with stronger attention, where it looks changes what it says.
    right = shutil.copytree(base, tmp_path / "right")
    state = load_file(right / "model.safetensors")
    save_file(
        {name: 3 * values if "self_attn" in name else values for name, values in state.items()},
        right / "model.safetensors",
        {"format": "pt"},
    )
    export_model(right, {"f32": tmp_path / "right.gguf"}, name="tiny")
    assert passed(told(right, tmp_path / "right.gguf"))
    wrong = shutil.copytree(right, tmp_path / "wrong")
    config = json.loads((wrong / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 100.0
    (wrong / "config.json").write_text(json.dumps(config))
    export_model(wrong, {"f32": tmp_path / "model.gguf"}, name="tiny")
    found = told(right, tmp_path / "model.gguf")
    assert [entry.method for entry in found] == ["free-running", "teacher-forced"]
    assert not passed(found)
    assert found[-1].mean_divergence_nats is not None and found[-1].mean_divergence_nats > 0.01


def test_a_file_that_splits_text_in_other_places_is_found_out(base: Path, tmp_path: Path) -> None:
    wrong = shutil.copytree(base, tmp_path / "wrong")
    tokenizer = json.loads((wrong / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:5]
    (wrong / "tokenizer.json").write_text(json.dumps(tokenizer))
    export_model(wrong, {"f32": tmp_path / "model.gguf"}, name="tiny")
    compared = compare(base, tmp_path / "model.gguf", "f32", PROBES)
    assert not any(probe.prompt_equal for probe in compared)
    assert not any(probe.equal(MARGIN_BOUNDS["f32"]) for probe in compared)


@pytest.mark.parametrize("kind", ["base", "mixture"])
def test_the_adapter_on_the_base_says_what_the_merged_model_says(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    xllamacpp = pytest.importorskip("xllamacpp", reason="pip install xllamacpp")
    base: Path = request.getfixturevalue(kind)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=list(LINEAR_LAYERS), init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore"):  # PEFT warns of its own patterns for experts
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload().eval()
    export_model(base, {"f32": tmp_path / "base.gguf"}, name="tiny")
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
    heard = ""
    for probe in PROBES:
        prompt = prompt_tokens(probe, tokenizer)
        said = server.handle_completions({"prompt": prompt, "max_tokens": 8, "temperature": 0, "top_k": 1})["choices"][0]["text"]
        wanted = merged.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)[0, len(prompt) :]
        assert said == tokenizer.decode(wanted, skip_special_tokens=True)
        heard += said
    assert heard.strip()
