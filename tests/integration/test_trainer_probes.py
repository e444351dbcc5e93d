"""What both sides are asked holds what an export may break, whatever the batch holds, and both read it alike."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from ruminate.trainer.bases.tiny import make_tiny_base
from ruminate.trainer.export.equality import compare
from ruminate.trainer.export.model import export_model
from ruminate.trainer.export.probes import LONG_TOKENS, batch_probes, choose_probes, fixed_probes, long_probe
from ruminate.trainer.rows import Row, prompt_tokens


def row(question: str) -> Row:
    """A row that asks this; its answer is not looked at."""
    asked = {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": "Yes."}],
        "chat_template_kwargs": {"enable_thinking": False},
    }
    return Row.model_validate_json(json.dumps(asked))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dense Qwen3 that knows nothing."""
    folder = tmp_path_factory.mktemp("base")
    make_tiny_base(folder, ("How many pears has the line that has most of them?",), seed=0)
    return folder


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    return AutoTokenizer.from_pretrained(base, model_max_length=100_000)


def test_probes_of_a_batch_are_distinct_prompts_in_both_modes() -> None:
    probes = batch_probes([row("a"), row("b"), row("a"), row("c")], 5)
    assert [(probe.prompt[0].content, probe.chat_template_kwargs.enable_thinking) for probe in probes] == [
        ("a", True),
        ("a", False),
        ("b", True),
        ("b", False),
        ("c", True),
    ]


def test_an_empty_batch_is_asked_about_with_tools_and_letters_from_parts_in_both_modes(tokenizer: Any) -> None:
    probes = choose_probes([], 64, tokenizer, 100_000)
    texts = [(tokenizer.decode(prompt_tokens(probe, tokenizer)), probe.chat_template_kwargs.enable_thinking) for probe in probes]
    for wanted in ("<tools>", "<tool_call>", "<tool_response>", "汉字", "x\u0302"):
        assert {thinking for text, thinking in texts if wanted in text} == {True, False}, wanted
    assert any(not unicodedata.is_normalized("NFC", message.content) for probe in probes for message in probe.prompt)


def test_the_count_of_probes_is_what_was_asked_for_and_the_fixed_ones_are_always_there(tokenizer: Any) -> None:
    rows = [row(f"question {number}") for number in range(100)]
    assert len(choose_probes(rows, 64, tokenizer, 2000)) == 64
    assert len(choose_probes(rows, 2, tokenizer, 2000)) == len(fixed_probes()) + 1


def test_the_long_probe_fills_the_context_and_is_longer_than_any_row(tokenizer: Any) -> None:
    def longest(rows: list[Row], context_tokens: int) -> int:
        *_, long = choose_probes(rows, 64, tokenizer, context_tokens)
        return len(prompt_tokens(long, tokenizer))

    assert LONG_TOKENS - 48 < longest([], 100_000) <= LONG_TOKENS
    assert 952 < longest([], 1000) <= 1000
    verbose = row("pears " * 5000)
    assert longest([verbose], 100_000) > len(prompt_tokens(verbose, tokenizer))


def test_what_is_longer_than_the_context_is_not_asked(tokenizer: Any) -> None:
    probes = choose_probes([row("pears " * 5000)], 64, tokenizer, 900)
    assert max(len(prompt_tokens(probe, tokenizer)) for probe in probes) <= 900


def test_llama_cpp_splits_every_probe_as_the_tokenizer_does_once_it_is_normalised(
    base: Path, tokenizer: Any, tmp_path: Path
) -> None:
    export_model(base, {"f32": tmp_path / "model.gguf"}, name="tiny")
    compared = compare(base, tmp_path / "model.gguf", "f32", [*fixed_probes(), long_probe(tokenizer, 1500)])
    assert all(probe.prompt_equal for probe in compared)
    assert all(probe.equal(0.0) for probe in compared)
