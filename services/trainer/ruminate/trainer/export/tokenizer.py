"""The tokenizer of a model folder, as llama.cpp reads it: vocabulary, merges, special tokens and chat template.

llama.cpp does not normalise text; Qwen3's tokenizer takes NFC first. Whoever sends text to a node normalises it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import gguf

from ruminate.trainer.export.encodings import ExportError


def describe_tokenizer(writer: gguf.GGUFWriter, folder: Path, rows: int) -> None:
    """Vocabulary, merges and chat template. The embedding has `rows` rows; those that no token uses are named as padding."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if tokenizer["model"]["type"] != "BPE":
        raise ExportError(f"the tokenizer in {folder} is {tokenizer['model']['type']}; Qwen3 has byte pairs (BPE)")
    tokens = [f"[PAD{number}]" for number in range(rows)]
    kinds = [int(gguf.TokenType.UNUSED)] * rows
    for text, number in tokenizer["model"]["vocab"].items():
        tokens[number], kinds[number] = text, int(gguf.TokenType.NORMAL)
    added = {token["content"]: token for token in tokenizer["added_tokens"]}
    for text, token in added.items():
        tokens[token["id"]] = text
        kinds[token["id"]] = int(gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED)
    writer.add_tokenizer_model("gpt2")
    # Names the splitting of text before the merges; any other name splits Qwen's text in wrong places.
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(added["<|im_end|>"]["id"])
    writer.add_pad_token_id(added["<|endoftext|>"]["id"])
    writer.add_bos_token_id(added["<|endoftext|>"]["id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(read_chat_template(folder))


def read_chat_template(folder: Path) -> str:
    """The Jinja chat template of a model folder. Raises ExportError where there is none: Ollama could only guess."""
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    template = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    if not isinstance(template, str):
        raise ExportError(f"{folder} has no chat template; add chat_template.jinja of the model's family")
    return template


def chat_template_sha256(folder: Path) -> str:
    """Hash of the chat template that is in the file."""
    return hashlib.sha256(read_chat_template(folder).encode()).hexdigest()
