"""Do llama.cpp and transformers, holding the same rounded weights, say the same? Asked greedily, in both modes.

llama.cpp answers a probe on its own; transformers then reads prompt and answer in one pass and says at every position
which token it would have said. That one pass answers two questions:

    free-running     a probe is equal when they agree at every position, which is to say that both, left alone, write the same
    teacher-forced   a probe is equal when they agree wherever transformers prefers its first token to the second by more
                     than a stated bound of logits; below it, the order of the additions decides

f32, f16 and bf16 shall be equal free-running. llama.cpp also rounds activations, to 8 bits for q8_0, so that q8_0 is
held to the bound, and so is any other encoding whose answers differ somewhere. How far they are apart is the divergence
of Kullback and Leibler, llama.cpp's distribution from transformers', in nats, as a mean over the positions. Of llama.cpp's
distribution only the most likely tokens are told: these are compared one by one, all others together as one, which can only
make the divergence smaller. The share of transformers' distribution that is compared one by one is told beside it.
"""

from __future__ import annotations

import json
import math
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch
import transformers
from transformers import AutoTokenizer

from ruminate.schemas.training import TokenEquality
from ruminate.trainer.export.architecture import Config, context_tokens_of, read_config, stretched
from ruminate.trainer.export.model import read_back
from ruminate.trainer.export.probes import choose_probes
from ruminate.trainer.plan import Encoding
from ruminate.trainer.rows import Row, prompt_tokens

MARGIN_BOUNDS: Final[dict[Encoding, float]] = {"f32": 0.01, "f16": 0.05, "bf16": 0.3, "q8_0": 0.5}
"""Logits by which the first token must lead before a difference counts (teacher-forced)."""

ANSWER_TOKENS: Final = 48
"""Length of an answer that is compared."""

LIKELY_TOKENS: Final = 64
"""Tokens of llama.cpp's distribution that are compared one by one."""

_LEAST_MASS: Final = 1e-6
"""Logarithms of probabilities come as float32: of less than this, all other tokens together, nothing is known."""

_SPARE_TOKENS: Final = 8


class CheckUnavailable(RuntimeError):
    """There is no llama.cpp to compare with; the message says what to install."""


@dataclass(frozen=True)
class Compared:
    """One probe, at each position of the answer.

    leads_where_different: by how many logits transformers prefers another token, where it does.
    divergences, masses: how far the distributions are apart, in nats, and which share of them was compared one by one.
    prompt_equal: whether both split the prompt alike.
    """

    positions: int
    leads_where_different: tuple[float, ...]
    divergences: tuple[float, ...]
    masses: tuple[float, ...]
    prompt_equal: bool

    def equal(self, bound: float) -> bool:
        """Whether no difference is larger than the bound."""
        return self.prompt_equal and all(lead <= bound for lead in self.leads_where_different)


def check_equality(
    base: Path, file: Path, encoding: Encoding, rows: Sequence[Row], count: int, *, context_tokens: int | None = None
) -> tuple[TokenEquality, ...]:
    """Compare `file`, exported from `base`, on `count` probes, some of them from `rows`. Raises CheckUnavailable without xllamacpp.

    The first entry is free-running except for q8_0; a teacher-forced one follows where that alone does not settle it.
    """
    config = stretched(read_config(base), context_tokens)
    room = context_tokens_of(config) - ANSWER_TOKENS - _SPARE_TOKENS
    probes = choose_probes(rows, count, AutoTokenizer.from_pretrained(base), room)
    return judge(compare(base, file, encoding, probes, config=config), encoding)


def judge(compared: Sequence[Compared], encoding: Encoding) -> tuple[TokenEquality, ...]:
    """What is told of the probes: how many are equal, strictly, and within the bound where that is not all of them."""
    strictly = sum(probe.equal(0.0) for probe in compared)
    found = []
    if encoding != "q8_0":
        found.append(TokenEquality(encoding=encoding, method="free-running", probes=len(compared), equal=strictly))
    if encoding == "q8_0" or strictly < len(compared):
        bound = MARGIN_BOUNDS[encoding]
        divergences = [divergence for probe in compared for divergence in probe.divergences]
        found.append(
            TokenEquality(
                encoding=encoding,
                method="teacher-forced",
                probes=len(compared),
                equal=sum(probe.equal(bound) for probe in compared),
                margin_bound=bound,
                mean_divergence_nats=fmean(divergences) if divergences else None,
                compared_mass_ratio=fmean(mass for probe in compared for mass in probe.masses) if divergences else None,
            )
        )
    return tuple(found)


def passed(found: Sequence[TokenEquality]) -> bool:
    """The last word counts: it is the strict one where that holds, and else the one with the bound."""
    return not found or found[-1].equal == found[-1].probes


def compare(base: Path, file: Path, encoding: Encoding, probes: Sequence[Row], *, config: Config | None = None) -> list[Compared]:
    """Every probe, answered by llama.cpp and read by transformers with the file's own weights."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = rounded_model(base, file, config or read_config(base))
    ends = {tokenizer.convert_tokens_to_ids(text) for text in ("<|im_end|>", "<|endoftext|>")}
    prompts = [prompt_tokens(probe, tokenizer) for probe in probes]
    longest = max((len(prompt) for prompt in prompts), default=0) + ANSWER_TOKENS
    compared = []
    with llama_server(file, context_tokens=longest + _SPARE_TOKENS, exact_cache=encoding == "f32") as url:
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
                    "n_probs": LIKELY_TOKENS,
                    "return_tokens": True,
                    "cache_prompt": False,
                },
            )
            said = [token for token in answer["tokens"] if token not in ends]
            logits = _logits(model, prompt, said)
            leads = _leads(logits, said, ended=answer["stop_type"] == "eos", ends=ends)
            apart = [_divergence(position, likely) for position, likely in zip(logits, _likely(answer), strict=False)]
            compared.append(
                Compared(
                    positions=len(said),
                    leads_where_different=tuple(lead for lead in leads if lead > 0),
                    divergences=tuple(divergence for divergence, _ in apart),
                    masses=tuple(mass for _, mass in apart),
                    prompt_equal=split == prompt,
                )
            )
    return compared


def rounded_model(base: Path, file: Path, config: Config) -> Any:
    """The transformers model with the weights that `file` holds: rounded by the encoding, computed in f32."""
    kind = getattr(transformers, config["architectures"][0])
    shape = kind.config_class.from_dict(dict(config))
    return kind.from_pretrained(None, config=shape, state_dict=read_back(base, file), dtype=torch.float32).eval()


@torch.no_grad()
def _logits(model: Any, prompt: list[int], said: list[int]) -> torch.Tensor:
    """float32 (len(said) + 1, vocabulary): what transformers would say after the prompt, and after each token that was said."""
    logits: torch.Tensor = model(torch.tensor([prompt + said]), logits_to_keep=len(said) + 1).logits[0]
    return logits


def _leads(logits: torch.Tensor, said: list[int], *, ended: bool, ends: set[int]) -> list[float]:
    """By how many logits transformers prefers another token to the one that was said, at each position; 0 where it agrees."""
    top = logits.topk(2)
    leads = []
    for position in range(len(said) + ended):
        first = int(top.indices[position, 0])
        agreed = first == said[position] if position < len(said) else first in ends
        leads.append(0.0 if agreed else float(top.values[position, 0] - top.values[position, 1]))
    return leads


def _likely(answer: Mapping[str, Any]) -> list[list[tuple[int, float]]]:
    """llama.cpp's most likely tokens at each position, with the logarithms of their probabilities; nothing where they are not told.

    It tells of text and not of tokens: where a token ends within a character, some of them are left out, and no one says which.
    """
    told = answer.get("completion_probabilities", ())
    if [position["id"] for position in told] != answer["tokens"]:
        return []
    return [[(token["id"], token["logprob"]) for token in position["top_logprobs"]] for position in told]


def _divergence(logits: torch.Tensor, likely: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Divergence at one position, and the share of transformers' distribution that the `likely` tokens are."""
    ours = torch.log_softmax(logits.to(torch.float64), dim=0)[[token for token, _ in likely]].tolist()
    theirs = [logarithm for _, logarithm in likely]
    mass, told = math.fsum(map(math.exp, ours)), math.fsum(map(math.exp, theirs))
    one_by_one = math.fsum(math.exp(p) * (p - q) for p, q in zip(ours, theirs, strict=True))
    rest, told_rest = max(1 - mass, _LEAST_MASS), max(1 - told, _LEAST_MASS)
    return max(0.0, one_by_one + rest * math.log(rest / told_rest)), min(mass, 1.0)


@contextmanager
def llama_server(file: Path, *, context_tokens: int, exact_cache: bool) -> Iterator[str]:
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
