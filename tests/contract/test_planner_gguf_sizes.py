"""The planner's sizes of GGUF files are those of llama.cpp's own quantiser, to the byte."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from infra.real.ollama import NEWER, OLLAMA
from ruminate.planner.serving import ENCODINGS, Encoding, gguf_bytes
from ruminate.planner.shape import Shape
from tests.plugins.real import installed

pytestmark = pytest.mark.real

TIED = Shape(hidden=256, intermediate=512, layers=28, heads=2, kv_heads=1, vocabulary=1024, tied=True)
UNTIED = replace(TIED, layers=36, tied=False)
EXPERTS = replace(UNTIED, layers=13, experts=4, active_experts=2, expert_intermediate=256)


@pytest.fixture(scope="module")
def quantiser() -> Path:
    """llama-quantize of the build that Ollama pins."""
    with installed():
        return OLLAMA[NEWER].find() / "lib" / "ollama" / "llama-quantize"


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("shape", [TIED, UNTIED, EXPERTS], ids=["tied", "untied", "experts"])
def test_a_file_has_the_bytes_that_were_planned(shape: Shape, encoding: Encoding, quantiser: Path, tmp_path: Path) -> None:
    source, made = tmp_path / "f16.gguf", tmp_path / f"{encoding}.gguf"
    write(shape, source)
    if encoding == "f16":
        made = source
    else:
        subprocess.run([quantiser, source, made, encoding.upper(), "1"], check=True, capture_output=True)
    assert sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(made).tensors) == gguf_bytes(shape, encoding)


def write(shape: Shape, file: Path) -> None:
    """A model of this shape with random weights, as the trainer exports it: matrices in float16, norms and routers in float32."""
    out = gguf.GGUFWriter(file, "qwen3moe" if shape.experts else "qwen3")
    out.add_block_count(shape.layers)
    out.add_context_length(4096)
    out.add_embedding_length(shape.hidden)
    out.add_feed_forward_length(shape.intermediate)
    out.add_head_count(shape.heads)
    out.add_head_count_kv(shape.kv_heads)
    out.add_key_length(shape.head_dim)
    out.add_value_length(shape.head_dim)
    out.add_layer_norm_rms_eps(1e-6)
    out.add_rope_freq_base(1e6)
    out.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    if shape.experts:
        out.add_expert_count(shape.experts)
        out.add_expert_used_count(shape.active_experts)
        out.add_expert_feed_forward_length(shape.expert_intermediate)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("qwen2")
    out.add_token_list([f"t{number}" for number in range(shape.vocabulary)])
    out.add_token_types([gguf.TokenType.NORMAL] * shape.vocabulary)
    out.add_token_merges([])
    random = np.random.default_rng(0)
    h, q, k = shape.hidden, shape.query_width, shape.kv_width
    n, m, f = shape.experts, shape.expert_intermediate, shape.intermediate
    ends = {"token_embd": (shape.vocabulary, h), "output_norm": (h,)}
    attention = {"attn_q": (q, h), "attn_k": (k, h), "attn_v": (k, h), "attn_output": (h, q)}
    norms = {"attn_norm": (h,), "ffn_norm": (h,), "attn_q_norm": (shape.head_dim,), "attn_k_norm": (shape.head_dim,)}
    dense = {"ffn_gate": (f, h), "ffn_up": (f, h), "ffn_down": (h, f)}
    experts = {"ffn_gate_inp": (n, h), "ffn_gate_exps": (n, m, h), "ffn_up_exps": (n, m, h), "ffn_down_exps": (n, h, m)}
    tensors: dict[str, tuple[int, ...]] = {**ends, **({} if shape.tied else {"output": (shape.vocabulary, h)})}
    for layer in range(shape.layers):
        block = {**attention, **norms, **(experts if n else dense)}
        tensors |= {f"blk.{layer}.{name}": size for name, size in block.items()}
    for name, size in tensors.items():
        plain = "norm" in name or name.endswith("ffn_gate_inp")
        out.add_tensor(f"{name}.weight", random.standard_normal(size).astype(np.float32 if plain else np.float16))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
