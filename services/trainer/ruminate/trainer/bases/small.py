"""The small base: as large as the tiny one, and able to calculate and to think, so that a laptop can show both being kept.

It has learned to add and to subtract two-digit numbers by thinking, and to read their last digits without; what `arithmetic`
holds out it has never seen. Beside that it was told to repeat words, drawn at random. It hardly learns to; but a model
that has only ever read numbers is slow to learn words afterwards (docs/experiments.md). It stands beside this file, made by

    python -m ruminate.trainer.bases.small OUT --corpus FILE... [--seed N] [--steps N]
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from ruminate.trainer.bases.arithmetic import READING, SUMS, Exercise, divided, row
from ruminate.trainer.bases.tiny import train_tokenizer, untrained
from ruminate.trainer.rows import IGNORED_LABEL, Tokens, parse_rows, render

STEPS: Final = 1000
BATCH_ROWS: Final = 64
LEARNING_RATE: Final = 2e-3
MIX: Final = (0.6, 0.2, 0.2)
"""Shares of sums, of digits that are read, and of words that are repeated."""
WARMUP_STEPS: Final = 100
LAST_RATE_RATIO: Final = 0.02
"""Of the highest learning rate: where the cosine ends."""
BETAS: Final = (0.9, 0.98)
WEIGHT_DECAY: Final = 0.01
LARGEST_NORM: Final = 1.0

_WORD: Final = re.compile(r"[A-Za-z]+")

SHIPPED: Final = Path(str(files("ruminate.trainer.bases") / "small_qwen3"))
"""The folder of the base that ships with this package."""


def make_small_base(folder: Path, corpus: Iterable[str], *, seed: int, steps: int = STEPS) -> None:
    """Write model (16-bit) and tokenizer to `folder`. `corpus` gives the words of the vocabulary that arithmetic does not."""
    texts = list(corpus)
    tokenizer = train_tokenizer([*texts, *_arithmetic()])
    model = untrained(tokenizer, seed)
    _pretrain(model, tokenizer, words_in(texts), seed=seed, steps=steps)
    tokenizer.save_pretrained(folder)
    model.to(torch.float16).save_pretrained(folder)


def words_in(texts: Iterable[str]) -> list[str]:
    """The words of the texts, each once, in the order of letters."""
    return sorted({word for text in texts for word in _WORD.findall(text)})


def repetition(words: Sequence[str], random: Random) -> Exercise:
    """Words to be repeated."""
    said = " ".join(random.choices(words, k=random.randint(1, 4)))
    return Exercise(f"repeat: {said}", said, said)


def _arithmetic() -> Iterator[str]:
    for task in (*SUMS, READING):
        for exercise in divided(task)[0]:
            yield " ".join(exercise)


def _pretrain(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, words: Sequence[str], *, seed: int, steps: int) -> None:
    random = Random(seed)  # noqa: S311 - no secret
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
    sums = [[_tokens(exercise, tokenizer, thinks=True) for exercise in divided(task)[0]] for task in SUMS]
    reading = [_tokens(exercise, tokenizer, thinks=False) for exercise in divided(READING)[0]]
    model.train()
    began = time.monotonic()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * _rate_at(step, steps)
        chosen = []
        for kind in random.choices(("sums", "reading", "repetition"), MIX, k=BATCH_ROWS):
            if kind == "sums":
                chosen.append(random.choice(random.choice(sums)))  # the task first: they have unlike many
            elif kind == "reading":
                chosen.append(random.choice(reading))
            else:
                chosen.append(_tokens(repetition(words, random), tokenizer, thinks=random.random() < 0.5))
        loss = model(**_batch(chosen, int(model.config.pad_token_id))).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_NORM)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps:
            print(f"step {step} of {steps}  loss {loss.item():.4f}  {time.monotonic() - began:.0f} s", flush=True)  # noqa: T201 - a script for people
    model.eval()


def _rate_at(step: int, steps: int) -> float:
    """Of the highest learning rate: up in a line, down along a cosine."""
    if step <= WARMUP_STEPS:
        return step / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return LAST_RATE_RATIO + (1 - LAST_RATE_RATIO) * 0.5 * (1 + math.cos(math.pi * done))


def _tokens(exercise: Exercise, tokenizer: PreTrainedTokenizerFast, *, thinks: bool) -> Tokens:
    (one,) = parse_rows([json.dumps(row(exercise, thinks=thinks))], where=exercise.question)
    return render(one, tokenizer)


def _batch(rows: Sequence[Tokens], pad: int) -> dict[str, Any]:
    """input_ids, attention_mask, labels: int64 (B, T); B rows, T tokens of the longest."""
    longest = max(len(each.input_ids) for each in rows)
    shape = (len(rows), longest)
    ids, mask, labels = torch.full(shape, pad), torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED_LABEL)
    for number, each in enumerate(rows):
        length = len(each.input_ids)
        ids[number, :length] = torch.tensor(each.input_ids)
        labels[number, :length] = torch.tensor(each.labels)
        mask[number, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and make the base."""
    parser = argparse.ArgumentParser(prog="python -m ruminate.trainer.bases.small", description="Make the small base that thinks.")
    parser.add_argument("out", type=Path, help="folder of the new base")
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="UTF-8 texts whose words the vocabulary shall hold")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of {BATCH_ROWS} rows (default {STEPS})")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch choose")
    chosen = parser.parse_args(arguments)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    texts = (path.read_text(encoding="utf-8") for path in chosen.corpus)
    make_small_base(chosen.out, texts, seed=chosen.seed, steps=chosen.steps)


if __name__ == "__main__":
    main()
