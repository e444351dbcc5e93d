"""A tiny Qwen3 that learns for real on a laptop: the stand-in base of the demo and the tests.

The same architecture, chat template and special tokens as its big sisters, with a vocabulary of the texts it will meet.
It knows nothing. Nearly all of it stays as it was drawn, because only the adapter learns; so the draw decides how fast:
with the usual std of 0.02 the embedding leaves it on a plateau (0.12 does not), and the layers take twice as many steps.

    python -m ruminate.trainer.bases.tiny OUT --corpus FILE... [--seed N]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, set_seed

VOCABULARY: Final = 2048
CONTEXT_TOKENS: Final = 2048
HIDDEN: Final = 128
LAYERS: Final = 4
EMBEDDING_STD: Final = 0.12
LAYER_STD: Final = 0.05

END_OF_TEXT: Final = "<|endoftext|>"
END_OF_TURN: Final = "<|im_end|>"

# In the order in which Qwen3 numbers them after its vocabulary.
CONTROL_TOKENS: Final = (
    END_OF_TEXT,
    "<|im_start|>",
    END_OF_TURN,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
VISIBLE_TOKENS: Final = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)

# How Qwen2 and Qwen3 split text before the byte pairs are merged: each digit alone, words with the space before them.
SPLIT_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most VOCABULARY tokens, with Qwen3's splitting, NFC, special tokens and chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(CONTROL_TOKENS) - len(VISIBLE_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in VISIBLE_TOKENS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        model_max_length=CONTEXT_TOKENS,
    )
    fast.chat_template = files("trl").joinpath("chat_templates/qwen3.jinja").read_text(encoding="utf-8")
    return fast


def make_tiny_base(folder: Path, corpus: Iterable[str], seed: int) -> None:
    """Write model and tokenizer to `folder`: the same corpus and seed give the same bytes."""
    tokenizer = train_tokenizer(corpus)
    model = untrained(tokenizer, seed)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def untrained(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """The model as it is drawn."""
    set_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=3 * HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=CONTEXT_TOKENS,
            rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            rms_norm_eps=1e-6,
            initializer_range=LAYER_STD,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="float32",
        )
    )
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=EMBEDDING_STD)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and make the base."""
    parser = argparse.ArgumentParser(prog="python -m ruminate.trainer.bases.tiny", description="Make a tiny Qwen3 base.")
    parser.add_argument("out", type=Path, help="folder of the new base")
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="UTF-8 texts whose words the vocabulary shall hold")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    make_tiny_base(chosen.out, (path.read_text(encoding="utf-8") for path in chosen.corpus), chosen.seed)


if __name__ == "__main__":
    main()
