"""At Qwen3-0.6B's true shape, with Qwen3's own tokenizer: both Ollamas load what is exported, and it says what was exported.

The weights are random, so that answers mean nothing; the shape, the vocabulary and the file are those of the released model.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import unicodedata
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import ollama
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

from infra.real.ollama import OllamaNode
from infra.real.tokenizer import QWEN3_TOKENIZER
from ruminate.shared.ollama import QWEN3_TEMPLATE
from ruminate.trainer.export.adapter import export_adapter
from ruminate.trainer.export.equality import check_equality, llama_server, passed
from ruminate.trainer.export.lora import LINEAR_LAYERS
from ruminate.trainer.export.model import export_model
from ruminate.trainer.export.probes import fixed_probes
from ruminate.trainer.plan import Encoding
from ruminate.trainer.rows import prompt_tokens
from tests.plugins.real import installed

pytestmark = pytest.mark.real

VOCABULARY = 151_936
TRUE_SHAPE: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": True,
}
SMALL: Mapping[str, Any] = {
    **TRUE_SHAPE,
    **{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1},
    "head_dim": 32,
}
EXPORT = """
import json, sys, time
from pathlib import Path
import torch
from ruminate.trainer.export.model import export_model

def peak():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024

base, adapter, out = map(Path, sys.argv[1:])
before, began = peak(), time.monotonic()
files = {encoding: out / f"{encoding}.gguf" for encoding in ("f16", "q8_0")}
export_model(base, files, name="0.6B", adapter=adapter, merged_dtype=torch.bfloat16)
seconds = time.monotonic() - began
print(json.dumps({"seconds": round(seconds, 1), "beside_mib": round(peak() - before), "before_mib": round(before)}))
"""
# Marks, letters from parts, digits, spaces: what other splittings split otherwise.
TEXTS = (
    "naïve café",
    "Ünïcödé 123456",
    "a  b\t\n\n  c",
    "汉字かなカナ",
    "don't DON'T",
    "x̂ + q̃",
    "👩‍👩‍👧‍👦🇨🇭",
    "½№ﬁ",
    "हिन्दी ไทย",
    "1234.5678e-9",
)


def qwen3_folder(shape: Mapping[str, Any], folder: Path) -> Path:
    """A base of this shape with random weights, bfloat16, and Qwen3's tokenizer."""
    with installed():
        tokenizer = QWEN3_TOKENIZER.find()
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(Qwen3Config(**shape), dtype=torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)
    return folder


@dataclass(frozen=True)
class Exported:
    """The base with its tokenizer, and the files: the merged model, and the adapter alone."""

    base: Path
    f16: Path
    q8_0: Path
    adapter: Path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Folder and f16 file of a model with Qwen3's whole vocabulary and hardly anything else."""
    folder = tmp_path_factory.mktemp("small")
    base = qwen3_folder(SMALL, folder / "base")
    export_model(base, {"f16": folder / "model.gguf"}, name="small")
    yield base, folder / "model.gguf"
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def true_shape(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """0.6B with an adapter of rank 64 on all linear layers, merged in bfloat16, exported by a process of its own."""
    folder = tmp_path_factory.mktemp("true-shape")
    base = qwen3_folder(TRUE_SHAPE, folder / "base")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    config = LoraConfig(r=64, lora_alpha=128, target_modules=list(LINEAR_LAYERS), init_lora_weights="gaussian")
    with warnings.catch_warnings(action="ignore"):
        get_peft_model(model, config).save_pretrained(folder / "adapter")
    del model
    command = [sys.executable, "-c", EXPORT, str(base), str(folder / "adapter"), str(folder)]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert said.returncode == 0, said.stderr
    print(f"exported 0.6B as f16 and q8_0: {said.stdout}")
    export_adapter(folder / "adapter", base, folder / "adapter.gguf", "f16")
    yield Exported(base, folder / "f16.gguf", folder / "q8_0.gguf", folder / "adapter.gguf")
    shutil.rmtree(folder)  # gigabytes


def test_the_file_holds_qwen3s_vocabulary_as_it_numbers_it(small: tuple[Path, Path]) -> None:
    base, file = small
    fields = {name.removeprefix("tokenizer.ggml."): field for name, field in gguf.GGUFReader(file).fields.items()}
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokens, kinds = fields["tokens"].contents(), fields["token_type"].contents()
    assert (fields["model"].contents(), fields["pre"].contents()) == ("gpt2", "qwen2")
    assert (len(tokens), len(fields["merges"].data)) == (VOCABULARY, 151_387)
    special = [number for number, kind in enumerate(kinds) if kind in (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED)]
    assert special == list(range(151_643, 151_669))
    assert tokens[151_643:151_669] == [tokenizer.convert_ids_to_tokens(number) for number in special]
    assert [tokens[number] for number in (151_643, 151_644, 151_645, 151_667, 151_668)] == [
        *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
    ]
    assert all(kind == gguf.TokenType.UNUSED for kind in kinds[151_669:])
    assert fields["eos_token_id"].contents() == tokenizer.eos_token_id == 151_645


def test_llama_cpp_splits_as_qwen3_does_what_is_normalised(small: tuple[Path, Path]) -> None:
    base, file = small
    tokenizer = AutoTokenizer.from_pretrained(base)
    with llama_server(file, context_tokens=64, exact_cache=False) as url:
        for text in TEXTS:
            assert split(url, unicodedata.normalize("NFC", text)) == tokenizer.encode(text), text
        for probe in fixed_probes():
            prompt = prompt_tokens(probe, tokenizer)
            assert split(url, tokenizer.decode(prompt)) == prompt
        # It does no NFC by itself: whoever sends text to a node does it.
        parts = unicodedata.normalize("NFD", "naïve café")
        assert tokenizer.encode(parts) == tokenizer.encode("naïve café")
        assert split(url, parts) != tokenizer.encode(parts)


def split(url: str, text: str) -> list[int]:
    """Tokens of a text, as llama.cpp has it."""
    body = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/tokenize", body, {"Content-Type": "application/json"})) as answer:
        tokens: list[int] = json.load(answer)["tokens"]
    return tokens


@pytest.mark.long
def test_an_adapter_of_rank_64_has_its_two_bytes_a_weight(true_shape: Exported) -> None:
    widths = {"q_proj": (1024, 2048), "k_proj": (1024, 1024), "v_proj": (1024, 1024), "o_proj": (2048, 1024)}
    widths |= {"gate_proj": (1024, 3072), "up_proj": (1024, 3072), "down_proj": (3072, 1024)}
    weights_bytes = 2 * 28 * 64 * sum(map(sum, widths.values()))
    assert weights_bytes == 80_740_352
    assert 0 < true_shape.adapter.stat().st_size - weights_bytes < 100_000


@pytest.mark.long
@pytest.mark.parametrize("engine", ["older_ollama", "newer_ollama"])
@pytest.mark.parametrize("encoding", ["f16", "q8_0"])
def test_both_ollamas_load_it_with_all_three_capabilities(
    true_shape: Exported, engine: str, encoding: str, request: pytest.FixtureRequest
) -> None:
    node: OllamaNode = request.getfixturevalue(engine)
    name = f"true-{encoding}:v1"
    with ollama.Client(node.url, timeout=280) as client:
        digest = client.create_blob(getattr(true_shape, encoding))
        client.create(name, files={"model.gguf": digest}, template=QWEN3_TEMPLATE)
        shown = client.show(name)
        assert set(shown.capabilities or []) >= {"completion", "tools", "thinking"}
        assert shown.modelinfo is not None
        # Ollama counts a tied embedding once.
        assert shown.modelinfo["general.parameter_count"] == 596_049_920
        assert shown.details is not None and shown.details.quantization_level == {"f16": "F16", "q8_0": "Q8_0"}[encoding]
        for think in (True, False):
            said = client.chat(
                name, [{"role": "user", "content": "Why?"}], think=think, options={"temperature": 0, "num_predict": 4}
            )
            assert said.eval_count == 4
        client.delete(name)


@pytest.mark.long
@pytest.mark.parametrize("encoding", ["f16", "q8_0"])
def test_llama_cpp_and_transformers_prefer_the_same_token_wherever_it_is_preferred_by_more_than_the_bound(
    true_shape: Exported, encoding: Encoding
) -> None:
    found = check_equality(true_shape.base, getattr(true_shape, encoding), encoding, [], 13)
    print(encoding, [entry.model_dump(exclude_none=True) for entry in found])
    assert passed(found)
