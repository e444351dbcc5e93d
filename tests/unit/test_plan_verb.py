"""`ruminate plan`: what it says, in text and in JSON, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ruminate.command.__main__ import app
from ruminate.planner.catalogue import MODELS
from ruminate.planner.gpus import GPUS

RUNNER = CliRunner()
FITS, DOES_NOT_FIT, USAGE = 0, 1, 2


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables as a wide terminal shows them."""
    monkeypatch.setattr("ruminate.command.planning.verb.console.width", 200)


def plan(*arguments: str, ends: int = FITS) -> str:
    result = RUNNER.invoke(app, ["plan", *arguments])
    assert result.exit_code == ends, result.output
    return result.output


def planned(*arguments: str, ends: int = FITS) -> Any:
    return json.loads(plan(*arguments, "--json", ends=ends))


def test_without_a_gpu_five_set_ups_stand_side_by_side() -> None:
    said = plan("qwen3:8b")
    for name in ("development", "team", "production", "large", "enterprise", "8 x H100 SXM 80 GB"):
        assert said.count(name) == 2
    assert "8,190,735,360 parameters" in said
    assert "replicas" in said
    assert "4 to 7 % above measured peaks" in said
    found = planned("qwen3:8b")
    assert [each["name"] for each in found["set_ups"]] == ["development", "team", "production", "large", "enterprise"]
    assert [one["fits"] for one in found["set_ups"][0]["trains"]] == [True, True, False]


def test_what_fits_is_shown_part_by_part_with_its_formulas() -> None:
    said = plan("qwen3:8b", "--gpu", "rtx4090")
    assert "8,190,735,360 parameters x 2 bytes" in said
    assert "2 x 36 layers x 8 KV heads x 128 x 4,096 tokens x 2 bytes (f16)" in said
    assert "fits: 2." in said
    assert "RUMINATE_MAX_ROW_TOKENS=4096 RUMINATE_MICRO_BATCH_ROWS=1 RUMINATE_LORA_RANK=64" in said
    found = planned("qwen3:8b", "--gpu", "rtx4090")
    assert found["fits"] is True
    assert sum(part["size_bytes"] for part in found["training"]["parts"]) == found["training"]["needed_bytes"]
    assert found["gpu"]["memory_bytes"] == 24_564 * 2**20
    assert "8B on one H200" in found["held_against"]


def test_what_does_not_fit_ends_with_1_and_says_what_would() -> None:
    said = plan("qwen3:14b", "--gpu", "24GB", ends=DOES_NOT_FIT)
    assert "does not fit: lora training at 4,096 tokens x 1 row needs 40.0 GB on one GPU, which has 25.8 GB (24.0 GiB)" in said
    assert "qlora instead of lora" in said
    found = planned("qwen3:14b", "--gpu", "24GB", ends=DOES_NOT_FIT)
    assert {"method", "smaller model", "larger GPU", "more GPUs"} <= {
        way["change"] for way in found["training"]["advice"] if way["fits"]
    }


def test_what_cannot_even_be_served_names_where_it_can() -> None:
    found = planned("qwen3:235b-a22b", "--gpu", "24GB", ends=DOES_NOT_FIT)
    assert not any(each["fits"] for each in found["serving"]["encodings"])
    assert {"qwen3:32b", "one H200 141 GB"} <= {way["says"] for way in found["serving"]["advice"]}
    assert "what would fit" in plan("qwen3:235b-a22b", "--gpu", "24GB", ends=DOES_NOT_FIT)


def test_a_run_has_hours_and_a_price() -> None:
    asked = ("qwen3:8b", "--gpu", "h100", "--rows", "5000", "--tokens-a-row", "1000", "--epochs", "2", "--price", "3")
    time = planned(*asked)["time"]
    assert time["tokens"] == 10_000_000
    assert time["cost"] == pytest.approx(3 * time["hours"])
    assert planned(*asked, "--mfu", "0.125")["time"]["hours"] == pytest.approx(2 * time["hours"])
    assert planned(*asked, "--gpus", "2")["time"]["cost"] == pytest.approx(time["cost"])
    said = plan(*asked)
    assert "5,000 rows x 1,000 tokens x 2 epochs = 10,000,000 tokens" in said
    assert "at 25% of 989 TFLOPS (assumed; --mfu changes it)" in said


def test_without_a_run_a_million_tokens_are_timed() -> None:
    for context in ("4096", "131072"):
        assert planned("qwen3:8b", "--gpu", "h200", "--context", context)["time"]["tokens"] == 1_000_000
    assert "time for 1,000,000 tokens" in plan("qwen3:8b", "--gpu", "h200")


def test_several_gpus_say_whether_each_has_a_copy_or_a_part() -> None:
    assert "on each of 4 GPUs (replicas)" in plan("qwen3:8b", "--gpu", "rtx4090", "--gpus", "4")
    assert "on each of 8 GPUs (sharded)" in plan("qwen3:8b", "--gpu", "h100", "--gpus", "8", "--method", "full")


def test_every_option_reaches_the_planner() -> None:
    options = {
        "method": "qlora",
        "context_tokens": 8192,
        "micro_batch_rows": 2,
        "rank": 16,
        "adapter_on": "attention",
        "optimizer": "adamw-8bit",
        "checkpointing": False,
        "backend": "unsloth",
        "loss": "whole",
    }
    words = {"context_tokens": "context", "micro_batch_rows": "batch"}
    arguments = [f"--{words.get(name, name).replace('_', '-')}={value}" for name, value in options.items() if value is not False]
    serving = ["--kv-cache=q8_0", "--parallel=3"]
    found = planned("qwen3:4b", "--gpu=h200", "--no-checkpointing", *arguments, *serving)
    assert found["training"]["setup"] == options
    assert found["serving"]["setup"] == {"context_tokens": 8192, "kv_encoding": "q8_0", "parallel": 3}


def test_the_list_has_every_model_and_every_gpu() -> None:
    said = plan("--list")
    assert all(model.name in said and model.hub in said for model in MODELS)
    assert all(gpu.name in said for gpu in GPUS)
    assert [each["name"] for each in planned("--list")] == [model.name for model in MODELS]


def test_a_name_that_nearly_exists_is_answered_with_the_nearest_and_why() -> None:
    found = planned("qwen3:7b", "--gpu", "h100", "--context", "40000")
    assert found["model"]["name"] == "qwen3:8b"
    assert "no Qwen3 is called 'qwen3:7b'" in found["note"]
    assert "40,000 tokens are beyond its 32,768: they need YaRN" in found["note"]


def test_a_folder_is_a_model(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen3",
        "vocab_size": 2048,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "tie_word_embeddings": True,
        "max_position_embeddings": 2048,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = planned(str(tmp_path), "--gpu", "24GB")
    attention, mlp, norms = 2 * 128 * (128 + 64), 3 * 128 * 384, 2 * 128 + 2 * 32
    assert found["model"]["parameters"] == 2048 * 128 + 4 * (attention + mlp + norms) + 128
    assert found["training"]["setup"]["context_tokens"] == 2048


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "name a model"),
        (("llama3",), "is no Qwen3 that can be planned for; there are qwen3:0.6b"),
        (("qwen3:8b", "--gpu", "rtx9999"), "is no GPU that is known; there are rtx3060"),
        (("qwen3:0.6b", "--context", "40000"), "Qwen3-0.6B reads 32,768 tokens at most"),
        (("qwen3:8b", "--rows", "10"), "--rows says something of a GPU"),
        (("qwen3:8b", "--gpus", "2"), "--gpus says something of a GPU"),
        (("qwen3:8b", "--gpu", "h100", "--price", "2"), "give --rows, too"),
        (("qwen3:8b", "--gpu", "h100", "--rows", "5", "--tokens-a-row", "5000"), "is more than the longest row has"),
        (("qwen3:8b", "--list"), "leave MODEL out"),
        (("qwen3:8b", "--method", "magic"), "Invalid value"),
        (("/",), "has no config.json"),
    ],
)
def test_a_question_that_makes_no_sense_ends_with_2_and_the_way_out(arguments: tuple[str, ...], says: str) -> None:
    said = " ".join(plan(*arguments, ends=USAGE).split())
    assert says in said


def test_no_other_verb_loads_the_planner() -> None:
    code = "import sys, ruminate.command.__main__; print([name for name in sys.modules if name.startswith('ruminate.planner')])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
