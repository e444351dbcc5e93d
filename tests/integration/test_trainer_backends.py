"""Whoever trains, an adapter is the same; the reference of a stage is the parent; and what has to be imported first is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from ruminate.trainer.backends import TARGET_MODULES
from ruminate.trainer.backends.adapter import drop_reference, save_adapter
from ruminate.trainer.backends.choose import UNSLOTH_NEEDS
from ruminate.trainer.backends.on_transformers import OnTransformers
from ruminate.trainer.backends.on_unsloth import patterns, positions
from ruminate.trainer.backends.opening import open_backend, prepare_environment
from ruminate.trainer.bases.tiny import make_tiny_base
from ruminate.trainer.outcome import JobFailed
from ruminate.trainer.plan import BackendWish, Hyperparameters, Method

CHOSEN = Hyperparameters(lora_rank=8, lora_alpha=16, seed=1)
NAMES_A_LAYER = {
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
    *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3."""
    folder = tmp_path_factory.mktemp("base")
    make_tiny_base(folder, ["What is the capital of Zarvex? It is Amber Bay."], seed=0)
    return folder


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which nothing is refused")
@pytest.mark.parametrize(("wish", "method"), [("unsloth", "lora"), ("auto", "qlora")])
def test_a_job_that_cannot_have_its_backend_ends_with_the_reason(wish: BackendWish, method: Method, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="no GPU") as caught:
        open_backend(wish, method, compiled=tmp_path / "compiled")
    assert (caught.value.failure.phase, caught.value.failure.reason) == ("preparing", "backend_impossible")


@pytest.fixture
def environment() -> Iterator[None]:
    """What the test sets is gone afterwards."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("environment")
def test_unsloth_is_told_to_call_nobody_and_to_write_into_the_job_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.environ.pop("PYTORCH_ALLOC_CONF", None)
    os.environ["UNSLOTH_COMPILE_LOCATION"] = "elsewhere"
    prepare_environment(Path("job") / "compiled")
    assert os.environ["UNSLOTH_COMPILE_LOCATION"] == str(tmp_path / "job" / "compiled")
    assert os.environ["UNSLOTH_DISABLE_STATISTICS"] == os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert os.environ["UNSLOTH_MEGA_CACHE"] == "0"
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


@pytest.mark.usefixtures("environment")
def test_an_allocator_that_somebody_has_set_stays(tmp_path: Path) -> None:
    os.environ["PYTORCH_ALLOC_CONF"] = "backend:native"
    prepare_environment(tmp_path)
    assert os.environ["PYTORCH_ALLOC_CONF"] == "backend:native"


PATCHED = ("trl", "transformers", "peft")


def imported_after(statements: str) -> list[str]:
    """Which of the packages that Unsloth patches a fresh interpreter has imported after these statements."""
    script = f"{statements}\nimport json, sys\nprint(json.dumps([name for name in {PATCHED} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_nothing_that_unsloth_patches_is_imported_before_a_backend_is_open() -> None:
    opening = "import ruminate.trainer.child, ruminate.trainer.backends.opening, ruminate.trainer.backends.on_unsloth"
    assert imported_after(opening) == []
    assert imported_after(f"{opening}, transformers") == ["transformers"]


# A machine whose CUDA answers, and where the packages are found and reach nothing: as far as one without a GPU can go.
UNLINKED = """
import json, os, sys
from pathlib import Path
import torch
torch.cuda.is_available = lambda: True
torch.cuda.get_device_name = lambda *_: "NVIDIA H100 80GB HBM3"
torch.cuda.is_bf16_supported = lambda **_: True
from ruminate.trainer.backends.opening import open_backend
from ruminate.trainer.outcome import JobFailed
try:
    found = open_backend(sys.argv[1], sys.argv[2], compiled=Path("compiled")).name
except JobFailed as failed:
    found = failed.failure.explanation
print(json.dumps([found, os.environ["UNSLOTH_COMPILE_LOCATION"], "unsloth" in sys.modules]))
"""


@pytest.fixture
def found_and_unlinked(tmp_path: Path) -> Path:
    """A folder in which the packages are found."""
    for name in UNSLOTH_NEEDS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("wish", "method", "says"),
    [
        ("auto", "lora", "transformers"),
        ("unsloth", "lora", "bitsandbytes does not reach CUDA .*; or set RUMINATE_TRAINING_BACKEND to auto"),
        ("auto", "qlora", "bitsandbytes does not reach CUDA .*; or set RUMINATE_TRAINING_METHOD to lora"),
    ],
)
def test_unsloth_is_not_imported_where_it_would_try_to_mend_the_machine(
    found_and_unlinked: Path, wish: str, method: str, says: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNLINKED, wish, method],
        env={**os.environ, "PYTHONPATH": str(found_and_unlinked)},
        cwd=found_and_unlinked,
        capture_output=True,
        text=True,
        check=True,
    )
    found, compiled, imported = json.loads(done.stdout.splitlines()[-1])
    assert re.match(says, found)
    assert compiled == str(found_and_unlinked / "compiled")
    assert not imported
    assert ("unsloth_left_out" in done.stdout) == (wish == "auto" and method == "lora")


def test_the_service_that_starts_jobs_imports_no_torch() -> None:
    script = "import sys, ruminate.trainer.job, ruminate.trainer.train; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def tensors(folder: Path) -> dict[str, Any]:
    """The adapter in this folder."""
    found: dict[str, Any] = load_file(folder / "adapter_model.safetensors")
    return found


def test_an_adapter_is_a_peft_folder_that_the_next_job_goes_on_from(base: Path, tmp_path: Path) -> None:
    backend = OnTransformers("lora")
    model = backend.adapt(backend.load(base, context_tokens=512), None, CHOSEN)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    save_adapter(model, tmp_path / "first")
    first = tensors(tmp_path / "first")
    layers = model.config.num_hidden_layers
    assert set(first) == {
        f"base_model.model.model.layers.{layer}.{name}.lora_{side}.weight"
        for layer in range(layers)
        for name in NAMES_A_LAYER
        for side in "AB"
    }
    config = json.loads((tmp_path / "first" / "adapter_config.json").read_bytes())
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["lora_dropout"]) == ("LORA", 8, 16, 0.0)
    assert set(config["target_modules"]) == set(TARGET_MODULES)

    again = backend.adapt(backend.load(base, context_tokens=512), tmp_path / "first", CHOSEN)
    assert all(weight.requires_grad for name, weight in again.named_parameters() if "lora_" in name)
    save_adapter(again, tmp_path / "again")
    assert {name: weight.tolist() for name, weight in tensors(tmp_path / "again").items()} == {
        name: weight.tolist() for name, weight in first.items()
    }


def test_a_parent_of_another_shape_is_refused_with_both_shapes(base: Path, tmp_path: Path) -> None:
    backend = OnTransformers("lora")
    save_adapter(backend.adapt(backend.load(base, context_tokens=512), None, CHOSEN), tmp_path)
    wider = CHOSEN.model_copy(update={"lora_rank": 16})
    with pytest.raises(JobFailed, match="rank 8 and alpha 16, the settings say 16 and 16; set RUMINATE_LORA_RANK") as caught:
        backend.adapt(backend.load(base, context_tokens=512), tmp_path, wider)
    assert caught.value.failure.reason == "parent_differs"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which it computes otherwise")
def test_without_a_gpu_it_trains_in_float32_on_the_cpu_without_checkpoints(base: Path) -> None:
    backend = OnTransformers("lora")
    model = backend.load(base, context_tokens=512)
    assert (backend.precision, str(model.dtype)) == ("float32", "torch.float32")
    assert backend.arguments(model) == {
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }


def test_a_model_that_has_generated_trains_on(base: Path, tmp_path: Path) -> None:
    backend = OnTransformers("lora")
    model = backend.adapt(backend.load(base, context_tokens=512), None, CHOSEN)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model.train()
    asked = tokenizer("What is the capital of Zarvex?", return_tensors="pt")
    with backend.generating(model) as ready:
        assert not ready.training
        answered = ready.generate(**asked, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert answered.shape[1] == asked["input_ids"].shape[1] + 4
    assert model.training
    rows = Dataset.from_dict({"input_ids": [[5, 6, 7, 8]] * 4, "labels": [[5, 6, 7, 8]] * 4})
    config = SFTConfig(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        **backend.arguments(model),
    )
    trainer = SFTTrainer(model=model, processing_class=tokenizer, train_dataset=rows, args=config)
    trainer.train()
    first, second = (entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert second < first


def test_a_preference_stage_is_held_against_the_parent_and_saves_what_was_learned_alone(base: Path, tmp_path: Path) -> None:
    backend = OnTransformers("lora")
    model = backend.adapt(backend.load(base, context_tokens=512), None, CHOSEN)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    save_adapter(model, tmp_path / "parent")
    model = backend.adapt(backend.load(base, context_tokens=512), tmp_path / "parent", CHOSEN)
    tokenizer = AutoTokenizer.from_pretrained(base)
    pairs = Dataset.from_list([{"prompt": "capital of Zarvex?", "chosen": " Amber Bay", "rejected": " Amber"}] * 4)
    config = DPOConfig(
        output_dir=str(tmp_path / "checkpoints"),
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        logging_steps=1,
        lr_scheduler_type="constant",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **backend.arguments(model),
    )
    trainer = DPOTrainer(model=model, processing_class=tokenizer, train_dataset=pairs, args=config)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    # -log sigmoid(0): policy and reference are the same model when the stage begins, so that neither is the bare base
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert losses[1] < losses[0]
    parent = tensors(tmp_path / "parent")
    for name, weight in parent.items():
        kept = model.get_parameter(name.removesuffix(".weight") + ".ref.weight")
        assert torch.equal(kept.cpu(), weight), name

    save_adapter(model, tmp_path / "child")
    assert {path.name for path in (tmp_path / "child").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    child = tensors(tmp_path / "child")
    assert set(child) == set(parent)
    assert any(not torch.equal(child[name], parent[name]) for name in parent)
    drop_reference(model)
    assert set(model.peft_config) == {"default"}
    assert all(weight.requires_grad for name, weight in model.named_parameters() if "lora_" in name)
    drop_reference(model)  # there is none, and nothing happens


def test_experts_are_asked_of_unsloth_as_wide_as_peft_makes_them() -> None:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
    )
    model = Qwen3MoeForCausalLM(config)
    asked = patterns(model, CHOSEN)
    with pytest.warns(RuntimeWarning, match="did not match any targeted module"):
        peft = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=list(TARGET_MODULES), task_type="CAUSAL_LM"))
    made = peft.peft_config["default"]
    assert asked == {"rank_pattern": made.rank_pattern, "alpha_pattern": made.alpha_pattern}


def test_a_dense_model_needs_no_patterns_and_says_how_far_it_reads(base: Path) -> None:
    assert patterns(OnTransformers("lora").load(base, context_tokens=512), CHOSEN) == {}
    assert positions(base) == 2048
