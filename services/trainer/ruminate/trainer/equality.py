"""Do llama.cpp and transformers, holding the same rounded weights, say the same? Asked greedily, in both modes.

llama.cpp answers a probe on its own; transformers then reads prompt and answer in one pass and says at every position
which token it would have said. That one pass answers two questions:

    free-running     a probe is equal when they agree at every position, which is to say that both, left alone, write the same
    teacher-forced   a probe is equal when they agree wherever transformers prefers its first token to the second by more
                     than a stated bound of logits; below it, the order of the additions decides

f32, f16 and bf16 shall be equal free-running. llama.cpp also rounds activations, to 8 bits for q8_0, so that q8_0 is
held to the bound, and so is any other encoding whose answers differ somewhere.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer

from ruminate.schemas.training import TokenEquality
from ruminate.trainer.decide import Encoding
from ruminate.trainer.gguf_export import read_back
from ruminate.trainer.rows import Message, Row, prompt_tokens

MARGIN_BOUNDS: Final[dict[Encoding, float]] = {"f32": 0.01, "f16": 0.05, "bf16": 0.3, "q8_0": 0.5}
"""Logits by which the first token must lead before a difference counts (teacher-forced)."""

ANSWER_TOKENS: Final = 48
"""Length of an answer that is compared."""


class CheckUnavailable(RuntimeError):
    """There is no llama.cpp to compare with; the message says what to install."""


@dataclass(frozen=True)
class Compared:
    """One probe: transformers' lead at each position where the two disagree; whether they split the prompt alike."""

    positions: int
    leads_where_different: tuple[float, ...]
    prompt_equal: bool

    def equal(self, bound: float) -> bool:
        """Whether no difference is larger than the bound."""
        return self.prompt_equal and all(lead <= bound for lead in self.leads_where_different)


def probes_from(rows: Sequence[Row], count: int) -> list[Row]:
    """Up to `count` probes: the distinct prompts of `rows`, each with thinking on and off, in their order."""
    distinct: dict[tuple[Message, ...], Row] = {}
    for row in rows:
        distinct.setdefault(row.prompt, row)
    modes = (True, False)
    return [
        row.model_copy(update={"chat_template_kwargs": row.chat_template_kwargs.model_copy(update={"enable_thinking": thinking})})
        for row in list(distinct.values())[: count // len(modes)]
        for thinking in modes
    ]


def check_equality(model_folder: Path, file: Path, encoding: Encoding, probes: Sequence[Row]) -> tuple[TokenEquality, ...]:
    """Compare `file`, exported from `model_folder`, on the probes. Raises CheckUnavailable without xllamacpp.

    The first entry is free-running except for q8_0; a teacher-forced one follows where that alone does not settle it.
    """
    compared = compare(model_folder, file, encoding, probes)
    bound = MARGIN_BOUNDS[encoding]
    strictly = sum(probe.equal(0.0) for probe in compared)
    found = []
    if encoding != "q8_0":
        found.append(TokenEquality(encoding=encoding, method="free-running", probes=len(compared), equal=strictly))
    if encoding == "q8_0" or strictly < len(compared):
        within = sum(probe.equal(bound) for probe in compared)
        found.append(
            TokenEquality(encoding=encoding, method="teacher-forced", probes=len(compared), equal=within, margin_bound=bound)
        )
    return tuple(found)


def passed(found: Sequence[TokenEquality]) -> bool:
    """The last word counts: it is the strict one where that holds, and else the one with the bound."""
    return not found or found[-1].equal == found[-1].probes


def compare(model_folder: Path, file: Path, encoding: Encoding, probes: Sequence[Row]) -> list[Compared]:
    """Every probe, answered by llama.cpp and read by transformers with the file's own weights."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = rounded_model(model_folder, file)
    ends = {tokenizer.convert_tokens_to_ids(text) for text in ("<|im_end|>", "<|endoftext|>")}
    prompts = [prompt_tokens(probe, tokenizer) for probe in probes]
    longest = max((len(prompt) for prompt in prompts), default=0) + ANSWER_TOKENS
    compared = []
    with _llama(file, context_tokens=longest + 8, exact_cache=encoding == "f32") as url:
        for prompt in prompts:
            text = tokenizer.decode(prompt, clean_up_tokenization_spaces=False)
            split = _post(f"{url}/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]
            answer = _post(
                f"{url}/completion",
                {
                    "prompt": prompt,
                    "n_predict": ANSWER_TOKENS,
                    "temperature": 0,
                    "top_k": 1,
                    "return_tokens": True,
                    "cache_prompt": False,
                },
            )
            said = [token for token in answer["tokens"] if token not in ends]
            leads = _leads(model, prompt, said, ended=answer["stop_type"] == "eos", ends=ends)
            compared.append(Compared(len(said), tuple(lead for lead in leads if lead > 0), split == prompt))
    return compared


def rounded_model(model_folder: Path, file: Path) -> Any:
    """The transformers model with the weights that `file` holds: rounded by the encoding, computed in f32."""
    config = AutoConfig.from_pretrained(model_folder)
    kind = getattr(transformers, config.architectures[0])
    return kind.from_pretrained(None, config=config, state_dict=read_back(model_folder, file), dtype=torch.float32).eval()


@torch.no_grad()
def _leads(model: Any, prompt: list[int], said: list[int], *, ended: bool, ends: set[int]) -> list[float]:
    """By how many logits transformers prefers another token to the one that was said, at each position; 0 where it agrees."""
    logits = model(torch.tensor([prompt + said]), logits_to_keep=len(said) + 1).logits[0]
    top = logits.topk(2)
    leads = []
    for position in range(len(said) + ended):
        first = int(top.indices[position, 0])
        agreed = first == said[position] if position < len(said) else first in ends
        leads.append(0.0 if agreed else float(top.values[position, 0] - top.values[position, 1]))
    return leads


@contextmanager
def _llama(file: Path, *, context_tokens: int, exact_cache: bool) -> Iterator[str]:
    """llama.cpp's server in this process, computing as plainly as it can; gives its address on loopback."""
    try:
        import xllamacpp  # noqa: PLC0415 - optional: the extra `check`
    except ImportError:
        raise CheckUnavailable("xllamacpp is not installed; install ruminate-trainer[check] to compare tokens") from None
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(file)
    parameters.n_ctx = context_tokens
    parameters.n_parallel = 1
    parameters.n_gpu_layers = 0
    parameters.warmup = False
    parameters.verbosity = -1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = torch.get_num_threads()
    # Flash attention adds in another order, and a cache of f16 rounds what f32 weights gave.
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if exact_cache:
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(parameters)
    try:
        yield server.listening_address
    finally:
        # Dropping the last reference stops its threads.
        del server


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=600) as response:  # noqa: S310
        return json.load(response)
