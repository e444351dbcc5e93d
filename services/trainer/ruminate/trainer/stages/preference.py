"""Preferences: of two answers, the one that people prefer becomes likelier beside the other (DPO).

The reference is the model as it was when the stage began: TRL keeps a frozen copy of the adapter for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from pydantic import Field, ValidationError
from trl import DPOConfig, DPOTrainer

from ruminate.proof.messages import Message, definitions
from ruminate.schemas.payload import Part
from ruminate.trainer.plan import Preference
from ruminate.trainer.rows import (
    BadDataset,
    Completion,
    Renderer,
    TemplateSwitches,
    render_answer,
    render_prompt,
)


class Pair(Part):
    """Two answers to one question, as preferences.jsonl has them."""

    prompt: tuple[Message, ...] = Field(min_length=1)
    chosen: tuple[Completion, ...] = Field(min_length=1, max_length=1)
    rejected: tuple[Completion, ...] = Field(min_length=1, max_length=1)
    chat_template_kwargs: TemplateSwitches
    tools: str | None = None


def read_pairs(lines: Iterable[str], *, where: str) -> list[Pair]:
    """Every pair. Raises BadDataset for the first line that is none; never quotes contents."""
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            pairs.append(Pair.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            raise BadDataset(f"{where} line {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return pairs


class RenderedPair(NamedTuple):
    """A pair as tokens: what is asked, and both answers."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def render_pair(pair: Pair, tokenizer: Renderer) -> RenderedPair:
    """Tokens of the pair, the answers each with its end of turn. Raises BadDataset where the template does not fit."""
    offered, thinks = definitions(pair.tools), pair.chat_template_kwargs.enable_thinking
    prompt = render_prompt(pair.prompt, offered, thinks, tokenizer)
    answers = [render_answer(pair.prompt, answer, offered, thinks, tokenizer) for (answer,) in (pair.chosen, pair.rejected)]
    return RenderedPair(prompt, *answers)


class _RenderedTrainer(DPOTrainer):  # type: ignore[misc]
    """TRL would render once more, with empty fields where one row has what another lacks, and cut what is long."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


def preference(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[RenderedPair],
    chosen: Preference,
    *,
    learning_rate: float,
    steps: int,
    micro_rows: int,
    seed: int,
    checkpoint_steps: int,
    checkpoints: Path,
    arguments: Mapping[str, Any],
) -> DPOTrainer:
    """A trainer that is ready to go."""
    return _RenderedTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([pair._asdict() for pair in pairs]),
        args=DPOConfig(
            output_dir=str(checkpoints),
            max_steps=steps,
            per_device_train_batch_size=micro_rows,
            gradient_accumulation_steps=chosen.batch_rows // micro_rows,
            beta=chosen.beta,
            max_length=None,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=math.ceil(steps * chosen.warmup_ratio),
            weight_decay=0.0,
            seed=seed,
            save_strategy="steps",
            save_steps=checkpoint_steps,
            save_total_limit=2,
            logging_steps=1,
            logging_nan_inf_filter=False,
            disable_tqdm=True,
            report_to="none",
            **arguments,
        ),
    )
