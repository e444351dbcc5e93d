"""Nodes for tests, and models so small that every word of theirs is decided beforehand.

A *scripted* model is a real Qwen3 GGUF whose attention and feed-forward parts add nothing: what follows depends on the
last token alone, by a table that the test writes. So an answer is known in advance, on every node and at every
temperature, thinking and tool calls included. A *babbling* model has random weights: its answers mean nothing, but
depend on every token of the prompt, so that a shortcut in the cache or a batch that mixes requests shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import gguf
import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ruminate.shared.process import Rope

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 64, 2, 2, 1, 32
CONTEXT_TOKENS = 2048
SHARPNESS = 8.0
"""So much higher is the logit of the decided token, times the length of a hidden state, than of the others."""

QWEN3_JINJA = Path(str(files("trl"))) / "chat_templates" / "qwen3.jinja"
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
ADDITION = '\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n'
OBJECT = '{"ok": true}'
PHRASES = (" well", " so", " yes.", "Blue", " is", " the", " answer.", "Adapted", ADDITION, OBJECT)
QWEN_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

Script = Mapping[str, tuple[str, ...]]
"""What follows a token: the first choice, then what is said where a grammar forbids the first."""

TALK: Script = {
    "\n": ("<think>", OBJECT), "<think>": (" well",), " well": (" so",), " so": (" yes.",), " yes.": ("</think>",),
    "</think>": ("Blue", OBJECT), "\n\n": ("Blue", OBJECT), "Blue": (" is",), "Adapted": (" is",), " is": (" the",),
    " the": (" answer.",), " answer.": ("<|im_end|>",), OBJECT: ("<|im_end|>",),
}  # fmt: skip
"""Thinks `well so yes.` where the prompt lets it, answers `Blue is the answer.`, and `{"ok": true}` where JSON is demanded."""

CALL: Script = {
    **TALK, "</think>": ("<tool_call>",), "\n\n": ("<tool_call>",), "<tool_call>": (ADDITION,), ADDITION: ("</tool_call>",),
    "</tool_call>": ("<|im_end|>",),
}  # fmt: skip
"""Thinks, then calls the tool `add`."""

ENDLESS: Script = {**TALK, " answer.": ("Blue",)}
"""Never ends an answer by itself; its window is so long that no test sees the end of it."""


PARROT: Script = {"\n\n": ("Blue",), "Blue": ("Blue", " so", "Adapted", " so"), " so": ("<|im_end|>",)}
"""Says `Blue` for ever; ` so` is so close behind it that any penalty on repeating brings it out."""


@cache
def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    corpus = ["\n\n \n\n the user asks; the assistant answers with one word. system user assistant\n" * 50, __doc__ or ""]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False))
    return tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of the tiny models: bytes and merges, then Qwen's special tokens, then whole phrases to answer with."""

    tokens: tuple[str, ...]
    merges: tuple[str, ...]
    ids: Mapping[str, int]


@cache
def vocabulary() -> Vocabulary:
    """What every tiny model shares; ids by what a token reads as."""
    tokenizer = _tokenizer()
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spoken = ["".join(piece for piece, _ in byte_level.pre_tokenize_str(phrase)) for phrase in PHRASES]
    known = {word for word, _ in words}
    tokens = [word for word, _ in words] + [*CONTROL, *MARKERS] + [piece for piece in spoken if piece not in known]
    ids = {tokenizer.decoder.decode([token]): index for index, token in enumerate(tokens)}
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return Vocabulary(tuple(tokens), tuple(" ".join(merge) for merge in merges), ids)


def _header(path: Path, context_tokens: int = CONTEXT_TOKENS, *, template: bool = True) -> gguf.GGUFWriter:
    words = vocabulary()
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_type("model")
    writer.add_name("tiny")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(LAYERS)
    writer.add_context_length(context_tokens)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(words.tokens)
    kinds = dict.fromkeys(CONTROL, gguf.TokenType.CONTROL) | dict.fromkeys(MARKERS, gguf.TokenType.USER_DEFINED)
    writer.add_token_types([kinds.get(token, gguf.TokenType.NORMAL) for token in words.tokens])
    writer.add_token_merges(words.merges)
    writer.add_eos_token_id(words.ids["<|im_end|>"])
    writer.add_pad_token_id(words.ids["<|endoftext|>"])
    writer.add_bos_token_id(words.ids["<|endoftext|>"])
    writer.add_add_bos_token(False)
    if template:
        writer.add_chat_template(QWEN3_JINJA.read_text())
    return writer


def _weights(seed: int, *, speaks: float) -> dict[str, np.ndarray]:
    """Random weights; `speaks` scales what attention and feed-forward add, 0 for nothing at all."""
    random = np.random.default_rng(seed)

    def normal(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        return random.normal(0, scale / np.sqrt(columns), (rows, columns))

    size, queries, keys = len(vocabulary().tokens), HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    weights = {
        "token_embd.weight": normal(size, HIDDEN),
        "output.weight": normal(size, HIDDEN, 8.0),
        "output_norm.weight": np.ones(HIDDEN),
    }
    for layer in range(LAYERS):
        block = {
            "attn_norm": np.ones(HIDDEN),
            "attn_q": normal(queries, HIDDEN),
            "attn_k": normal(keys, HIDDEN),
            "attn_v": normal(keys, HIDDEN),
            "attn_q_norm": np.ones(HEAD_DIM),
            "attn_k_norm": np.ones(HEAD_DIM),
            "attn_output": speaks * normal(HIDDEN, queries),
            "ffn_norm": np.ones(HIDDEN),
            "ffn_gate": normal(2 * HIDDEN, HIDDEN),
            "ffn_up": normal(2 * HIDDEN, HIDDEN),
            "ffn_down": speaks * normal(HIDDEN, 2 * HIDDEN),
        }
        weights |= {f"blk.{layer}.{name}.weight": value for name, value in block.items()}
    return weights


def _write(writer: gguf.GGUFWriter, tensors: Mapping[str, np.ndarray]) -> None:
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.astype(np.float16 if tensor.ndim > 1 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_babbling_model(path: Path, *, seed: int = 0) -> Path:
    """A GGUF of random weights."""
    _write(_header(path), _weights(seed, speaks=1.0))
    return path


def write_scripted_model(path: Path, script: Script, *, context_tokens: int = CONTEXT_TOKENS, template: bool = True) -> Path:
    """A GGUF in which the script says what comes after each token, with Qwen3's chat template inside unless told otherwise."""
    weights = _weights(1, speaks=0.0)
    embeddings, ids = weights["token_embd.weight"], vocabulary().ids
    output = np.zeros_like(embeddings)
    for before, choices in script.items():
        vector = embeddings[ids[before]]
        for rank, after in enumerate(choices, 1):
            output[ids[after]] += SHARPNESS / rank * vector / np.linalg.norm(vector)
    weights["output.weight"] = output
    _write(_header(path, context_tokens, template=template), weights)
    return path


def write_adapter(path: Path) -> Path:
    """A LoRA adapter for `TALK`: the answer begins with `Adapted` where it began with `Blue`."""
    ids, embeddings = vocabulary().ids, _weights(1, speaks=0.0)["token_embd.weight"]
    size = len(vocabulary().tokens)
    down = np.zeros((2, HIDDEN))
    for row, before in enumerate(("</think>", "\n\n")):
        down[row] = embeddings[ids[before]] / np.linalg.norm(embeddings[ids[before]])
    up = np.zeros((size, 2))
    up[ids["Adapted"]] = 2 * SHARPNESS
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0)
    _write(writer, {"output.weight.lora_a": down, "output.weight.lora_b": up})
    return path


@dataclass(frozen=True)
class TinyModels:
    """The files of the tiny models."""

    talk: Path
    call: Path
    endless: Path
    babble: Path
    parrot: Path
    bare: Path
    adapter: Path


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Tiny Qwen3 files that a node can load: scripted ones, a babbling one, and a LoRA adapter for `talk`."""
    folder = tmp_path_factory.mktemp("tiny-models")
    return TinyModels(
        talk=write_scripted_model(folder / "talk.gguf", TALK),
        call=write_scripted_model(folder / "call.gguf", CALL),
        endless=write_scripted_model(folder / "endless.gguf", ENDLESS, context_tokens=32_768),
        babble=write_babbling_model(folder / "babble.gguf"),
        parrot=write_scripted_model(folder / "parrot.gguf", PARROT),
        bare=write_scripted_model(folder / "bare.gguf", TALK, template=False),
        adapter=write_adapter(folder / "adapter.gguf"),
    )


@dataclass(frozen=True)
class RunningNode:
    """An embedded node in a process of its own."""

    url: str
    models: Path
    process: subprocess.Popen[str]


@contextmanager
def running_node(models: Path, *options: str) -> Iterator[RunningNode]:
    """An embedded node over a folder of models, on a free port; it ends with us, however we end."""
    tied = (sys.executable, "-m", "ruminate.shared.process", "ruminate.embedded", "node")
    command = [*tied, "--port", "0", "--models", str(models), *options]
    with ExitStack() as held:
        rope = Rope()
        held.callback(rope.cut)
        process = held.enter_context(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                env=os.environ | rope.environment(),
                pass_fds=(rope.reading_end,),
                text=True,
            )
        )
        held.callback(process.terminate)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, f"the node ended with {process.wait(10)} before it listened"
        yield RunningNode(url, models, process)


@pytest.fixture(scope="session")
def embedded_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """One embedded node for all tests of a session; each test names its own models."""
    with running_node(tmp_path_factory.mktemp("node")) as node:
        yield node
