"""The adapter alone, put on the base by a node, says what the merged model says; a node that cannot do so says that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, Qwen3ForCausalLM

from infra.real.ollama import OllamaNode
from ruminate.shared.ollama import QWEN3_TEMPLATE
from ruminate.trainer.bases.tiny import make_tiny_base
from ruminate.trainer.export.adapter import export_adapter
from ruminate.trainer.export.lora import LINEAR_LAYERS
from ruminate.trainer.export.model import export_model
from ruminate.trainer.export.probes import choose_probes
from ruminate.trainer.rows import IGNORED_LABEL, Row, Tokens, prompt_tokens, render
from tests.contract.ollama_contract import ONE_THREAD, sha256_of

pytestmark = pytest.mark.real

CONTEXT_TOKENS = 2048
ANSWER_TOKENS = 48
STEPS = 60


@dataclass(frozen=True)
class Files:
    """A tiny base, its adapter of rank 64, and both in one."""

    folder: Path
    base: Path
    adapter: Path
    merged: Path


def questions() -> list[Row]:
    """Forty questions and what is to be learned."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is {number} and {7 * number}?"}],
            "completion": [{"role": "assistant", "content": f"It is {8 * number}, for {7 * number} and {number} are so many."}],
            "chat_template_kwargs": {"enable_thinking": False},
        }
        for number in range(40)
    ]
    return [Row.model_validate_json(json.dumps(row)) for row in rows]


def learn(model: Any, rows: list[Tokens]) -> None:
    """Until it says something: an untrained model says tokens that stand for nothing."""
    width = max(len(row.input_ids) for row in rows)
    ids = torch.tensor([row.input_ids + [0] * (width - len(row.input_ids)) for row in rows])
    labels = torch.tensor([row.labels + [IGNORED_LABEL] * (width - len(row.labels)) for row in rows])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other most of the time where the machine is busy
    optimiser = torch.optim.AdamW([values for values in model.parameters() if values.requires_grad], lr=2e-3)
    for _ in range(STEPS):
        model(input_ids=ids, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("lora")
    made = Files(folder / "tiny", folder / "base.gguf", folder / "adapter.gguf", folder / "merged.gguf")
    rows = questions()
    make_tiny_base(made.folder, [row.model_dump_json() for row in rows], seed=0)
    torch.manual_seed(0)
    config = LoraConfig(r=64, lora_alpha=128, target_modules=list(LINEAR_LAYERS), task_type="CAUSAL_LM")
    adapted = get_peft_model(Qwen3ForCausalLM.from_pretrained(made.folder), config)
    learn(adapted, [render(row, AutoTokenizer.from_pretrained(made.folder)) for row in rows])
    adapted.save_pretrained(folder / "adapter")
    export_model(made.folder, {"f16": made.base}, name="tiny")
    export_model(made.folder, {"f16": made.merged}, name="tiny", adapter=folder / "adapter")
    export_adapter(folder / "adapter", made.folder, made.adapter, "f16")
    return made


def create(http: httpx.Client, name: str, model: Path, adapter: Path | None = None) -> str:
    for file in (model, *([adapter] if adapter else [])):
        http.post(f"/api/blobs/{sha256_of(file)}", content=file.read_bytes()).raise_for_status()
    body = {"model": name, "files": {"model.gguf": sha256_of(model)}, "template": QWEN3_TEMPLATE, "parameters": ONE_THREAD}
    if adapter:
        body["adapters"] = {"adapter.gguf": sha256_of(adapter)}
    http.post("/api/create", json=body | {"stream": False}).raise_for_status()
    return name


def generate(http: httpx.Client, name: str, prompt: str) -> httpx.Response:
    options = {"temperature": 0, "top_k": 1, "repeat_penalty": 1.0, "num_predict": ANSWER_TOKENS, "num_ctx": CONTEXT_TOKENS}
    return http.post("/api/generate", json={"model": name, "prompt": prompt, "raw": True, "stream": False, "options": options})


@pytest.fixture
def newer(newer_ollama: OllamaNode) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=newer_ollama.url, timeout=120) as http:
        yield http


@pytest.fixture
def older(older_ollama: OllamaNode) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=older_ollama.url, timeout=120) as http:
        yield http


def test_the_adapter_on_the_base_says_what_the_merged_model_says(newer: httpx.Client, files: Files) -> None:
    tokenizer = AutoTokenizer.from_pretrained(files.folder)
    probes = choose_probes(questions(), 64, tokenizer, CONTEXT_TOKENS - ANSWER_TOKENS - 8)
    prompts = [tokenizer.decode(prompt_tokens(probe, tokenizer)) for probe in probes]
    said: dict[str, list[str]] = {}
    for name in (
        create(newer, "lora-base", files.base),
        create(newer, "lora-merged", files.merged),
        create(newer, "lora-adapter", files.base, files.adapter),
    ):
        said[name] = [generate(newer, name, prompt).raise_for_status().json()["response"] for prompt in prompts]
    equal = sum(one == other for one, other in zip(said["lora-adapter"], said["lora-merged"], strict=True))
    print(f"{equal} of {len(prompts)} probes equal, {sum(map(len, said['lora-merged']))} characters")
    assert equal == len(prompts) == 64
    assert sum(len(answer) > 20 for answer in said["lora-merged"]) > 40  # or there was nothing to show
    assert not set(said["lora-base"]) & {answer for answer in said["lora-merged"] if answer}


def test_an_older_node_takes_the_adapter_and_refuses_to_use_it(older: httpx.Client, files: Files) -> None:
    refused = generate(older, create(older, "lora-adapter", files.base, files.adapter), "Why?")
    assert (refused.status_code, "loras are not yet implemented" in refused.text) == (500, True)
    assert generate(older, create(older, "lora-merged", files.merged), "Why?").status_code == 200
