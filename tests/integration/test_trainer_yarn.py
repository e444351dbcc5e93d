"""A context that is stretched by YaRN is read so by llama.cpp, and both say the same beyond the length that was trained."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import gguf
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from ruminate.trainer.bases.tiny import make_tiny_base
from ruminate.trainer.export.architecture import read_config, stretched
from ruminate.trainer.export.encodings import ExportError
from ruminate.trainer.export.equality import check_equality, compare, llama_server, passed
from ruminate.trainer.export.model import export_model
from ruminate.trainer.export.probes import long_probe
from ruminate.trainer.rows import Row, prompt_tokens

NATIVE_TOKENS, STRETCHED_TOKENS = 512, 2048


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 for 512 tokens, which looks back more than an untrained one does: what it says depends on positions."""
    folder = tmp_path_factory.mktemp("base")
    make_tiny_base(folder, ("Which line has the most pears?",), seed=0)
    state = {
        name: 3 * values if "self_attn" in name and values.dim() == 2 else values
        for name, values in load_file(folder / "model.safetensors").items()
    }
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return with_config(folder, max_position_embeddings=NATIVE_TOKENS)


@pytest.fixture(scope="module")
def beyond(base: Path) -> Row:
    """A prompt of nearly four times the trained length."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    probe = long_probe(tokenizer, 1900)
    assert len(prompt_tokens(probe, tokenizer)) > 3 * NATIVE_TOKENS
    return probe


def with_config(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def scaling_of(file: Path) -> dict[str, Any]:
    """What a file says of its positions."""
    fields = {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}
    return {
        name.removeprefix("qwen3."): value
        for name, value in fields.items()
        if "rope.scaling" in name or name.endswith("context_length")
    }


def test_both_say_the_same_beyond_the_trained_length(base: Path, beyond: Row, tmp_path: Path) -> None:
    file, config = tmp_path / "model.gguf", stretched(read_config(base), STRETCHED_TOKENS)
    export_model(base, {"f32": file}, name="tiny", context_tokens=STRETCHED_TOKENS)
    assert scaling_of(file) == {
        "context_length": STRETCHED_TOKENS,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": NATIVE_TOKENS,
    }
    (probe,) = compare(base, file, "f32", [beyond], config=config)
    assert probe.equal(0.0)
    assert max(probe.divergences) < 1e-6
    # The same file beside a model that is not stretched, and a file that says nothing of it beside one that is.
    (unstretched,) = compare(base, file, "f32", [beyond])
    assert max(unstretched.divergences) > 1e-3
    export_model(with_config(shutil.copytree(base, tmp_path / "long"), max_position_embeddings=2048), {"f32": file}, name="tiny")
    assert scaling_of(file) == {"context_length": 2048}
    (unscaled,) = compare(base, file, "f32", [beyond], config=config)
    assert max(unscaled.divergences) > 1e-3


def test_llama_cpp_reads_the_longer_context(base: Path, tmp_path: Path) -> None:
    export_model(base, {"f16": tmp_path / "model.gguf"}, name="tiny", context_tokens=STRETCHED_TOKENS)
    with (
        llama_server(tmp_path / "model.gguf", context_tokens=64, exact_cache=False) as url,
        urllib.request.urlopen(f"{url}/v1/models", timeout=10) as answer,
    ):
        (model,) = json.load(answer)["data"]
    assert model["meta"]["n_ctx_train"] == STRETCHED_TOKENS


def test_a_stretched_export_is_proven_with_a_prompt_that_fills_it(base: Path, tmp_path: Path) -> None:
    export_model(base, {"f16": tmp_path / "model.gguf"}, name="tiny", context_tokens=STRETCHED_TOKENS)
    assert passed(check_equality(base, tmp_path / "model.gguf", "f16", [], 13, context_tokens=STRETCHED_TOKENS))


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
def test_a_base_that_is_stretched_already_is_exported_as_it_is(base: Path, beyond: Row, tmp_path: Path, place: str) -> None:
    own = shutil.copytree(base, tmp_path / "own")
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": NATIVE_TOKENS, "beta_fast": 24.0}
    if place == "rope_parameters":
        with_config(own, rope_parameters={"rope_theta": 1e6, **yarn})
    else:
        with_config(own, rope_parameters=None, rope_theta=1e6, rope_scaling=yarn)
    export_model(own, {"f32": tmp_path / "model.gguf"}, name="tiny")
    scaling = scaling_of(tmp_path / "model.gguf")
    assert (scaling["context_length"], scaling["rope.scaling.yarn_beta_fast"]) == (STRETCHED_TOKENS, 24.0)
    (probe,) = compare(own, tmp_path / "model.gguf", "f32", [beyond])
    assert probe.equal(0.0)
    assert max(probe.divergences) < 1e-6
    with pytest.raises(ExportError, match="RUMINATE_EXPORT_CONTEXT_TOKENS is 1024, but the base is stretched by YaRN already"):
        stretched(read_config(own), 1024)


def test_qwen3_is_stretched_from_what_it_was_trained_on_to_four_times_that() -> None:
    qwen3 = {"max_position_embeddings": 40_960, "rope_theta": 1e6, "rope_scaling": None}
    found = stretched(qwen3, 131_072)
    assert found["max_position_embeddings"] == 131_072
    assert found["rope_parameters"] == {
        "rope_theta": 1e6,
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32_768,
    }
    assert stretched(qwen3, None) == qwen3


@pytest.mark.parametrize("tokens", [40_960, 131_073])
def test_a_context_that_is_no_longer_or_too_long_is_refused(tokens: int) -> None:
    with pytest.raises(ExportError, match=f"is {tokens}, but the base has 40960 tokens, and YaRN is good for up to 131072"):
        stretched({"max_position_embeddings": 40_960, "rope_theta": 1e6}, tokens)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "attention_factor": 1.5},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "truncate": False},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "mscale": 0.7},
    ],
)
def test_positions_that_a_file_cannot_describe_are_refused(base: Path, tmp_path: Path, rope: dict[str, Any]) -> None:
    other = with_config(shutil.copytree(base, tmp_path / "other"), rope_parameters={"rope_theta": 1e6, **rope})
    with pytest.raises(ExportError, match="only YaRN with its own attention factor can be exported"):
        export_model(other, {"f32": tmp_path / "model.gguf"}, name="tiny")
