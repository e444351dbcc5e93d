"""An export holds less than one and a half times the base's largest tensor, whatever it writes: measured from outside."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

from ruminate.trainer.bases.tiny import make_tiny_base
from ruminate.trainer.export.lora import LINEAR_LAYERS
from ruminate.trainer.export.weights import Weights

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of a process")

BAR_RATIO = 1.5
SHAPE: Mapping[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
BASES: Mapping[str, Any] = {
    "tied": Qwen3Config(**SHAPE, tie_word_embeddings=True),
    "untied, sharded": Qwen3Config(**SHAPE, tie_word_embeddings=False),
    "experts": Qwen3MoeConfig(**SHAPE, moe_intermediate_size=768, num_experts=16, num_experts_per_tok=4, tie_word_embeddings=False),
}
# VmHWM: the peak of this process's own pages, counted anew since it began to run this program.
MEASURE = """
import json, sys, time
from pathlib import Path
import torch
from ruminate.trainer.export.model import export_model

def read(what):
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what + ":"))
    return int(line.split()[1]) * 1024

base, adapter, out, encodings = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4].split(",")
before, began = read("VmHWM"), time.monotonic()
export_model(base, {e: out / f"{e}.gguf" for e in encodings}, name="large", adapter=adapter, merged_dtype=torch.bfloat16)
print(json.dumps({"beside_bytes": read("VmHWM") - before, "before_bytes": before, "seconds": time.monotonic() - began}))
"""


def make(kind: str, folder: Path) -> tuple[Path, Path]:
    """A base whose largest tensor is by far its embedding, in bfloat16 as Qwen3 is released, and an adapter of rank 64 on it."""
    base, adapter = folder / "base", folder / "adapter"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(BASES[kind], dtype=torch.bfloat16)
    model.save_pretrained(base, max_shard_size="200MB" if "sharded" in kind else "5GB")
    config = LoraConfig(
        r=64, lora_alpha=128, target_modules=list(LINEAR_LAYERS), task_type="CAUSAL_LM", init_lora_weights="gaussian"
    )
    with warnings.catch_warnings(action="ignore"):
        get_peft_model(model, config).save_pretrained(adapter)
    make_tiny_base(folder / "tokenizer", ("a tokenizer",), seed=0)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(folder / "tokenizer" / name, base / name)
    return base, adapter


@pytest.mark.parametrize(
    ("kind", "encodings"),
    [
        ("tied", "f16"),
        pytest.param("tied", "f32,f16,bf16,q8_0", marks=pytest.mark.long),
        pytest.param("untied, sharded", "f32,f16,bf16,q8_0", marks=pytest.mark.long),
        pytest.param("experts", "f32,f16,bf16,q8_0", marks=pytest.mark.long),
    ],
)
def test_an_export_holds_less_than_one_and_a_half_of_the_largest_tensor(kind: str, encodings: str, tmp_path: Path) -> None:
    base, adapter = make(kind, tmp_path)
    weights = Weights(base)
    largest = max(2 * prod(weights.shape(name)) for name in weights.names())
    assert largest == 2 * 151_936 * 1024
    command = [sys.executable, "-c", MEASURE, str(base), str(adapter), str(tmp_path), encodings]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert said.returncode == 0, said.stderr
    measured = json.loads(said.stdout)
    print(f"{kind}, {encodings}: {measured['beside_bytes'] / largest:.2f} of the largest tensor; {measured}")
    assert measured["beside_bytes"] < BAR_RATIO * largest, measured
