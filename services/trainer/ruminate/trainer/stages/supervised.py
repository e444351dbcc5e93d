"""Supervised stages: rows side by side, the loss on the answers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from ruminate.trainer.plan import Hyperparameters
from ruminate.trainer.rows import Tokens


def supervised(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Tokens],
    chosen: Hyperparameters,
    *,
    learning_rate: float,
    steps: int,
    micro_rows: int,
    checkpoint_steps: int,
    checkpoints: Path,
    arguments: Mapping[str, Any],
) -> SFTTrainer:
    """A trainer that is ready to go; `arguments` are the backend's."""
    return SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(
            {"input_ids": [tokens.input_ids for tokens in rows], "labels": [tokens.labels for tokens in rows]}
        ),
        args=SFTConfig(
            output_dir=str(checkpoints),
            max_steps=steps,
            per_device_train_batch_size=micro_rows,
            gradient_accumulation_steps=chosen.batch_rows // micro_rows,
            learning_rate=learning_rate,
            lr_scheduler_type=chosen.schedule,
            warmup_steps=math.ceil(steps * chosen.warmup_ratio),
            weight_decay=0.0,
            seed=chosen.seed,
            save_strategy="steps",
            save_steps=checkpoint_steps,
            save_total_limit=2,
            logging_steps=1,
            logging_nan_inf_filter=False,  # it would hide exactly what ends a job
            disable_tqdm=True,
            report_to="none",
            dataset_kwargs={"skip_prepare_dataset": True},  # rows are rendered and measured by us: TRL would cut long ones
            max_length=None,
            **arguments,
        ),
    )
