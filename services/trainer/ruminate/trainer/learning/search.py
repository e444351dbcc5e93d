"""A rate, and how often rows are seen, at which something is learned: looked for on rows that are set aside for it.

Asked only where a job as planned has kept the reasoning and learned nothing. What is found is then run on all rows, and measured
like any other: what has chosen the rate is no proof of what was learned.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from ruminate.proof.confidence import CONFIDENCE, chance_of_fall
from ruminate.trainer.examining.speak import losses
from ruminate.trainer.learning.attempts import Attempt
from ruminate.trainer.learning.stage import make
from ruminate.trainer.learning.workshop import Standing, Workshop, put_on, write
from ruminate.trainer.rows import Tokens

GRID: Final = ((10**0.5, 1.0), (10.0, 1.0), (10.0, 3.0), (10**1.5, 3.0))
"""Factors of the planned rate and of the planned epochs, the mildest first."""
HIGHEST_RATE: Final = 1e-2
LEAST_SET_ASIDE: Final = 16
MOST_SET_ASIDE: Final = 128
_ONE_IN: Final = 8
AFTER_FILE: Final = "after.json"
"""The losses on the rows that are set aside, at the end of a try."""


def search(work: Workshop, start: Standing) -> tuple[Workshop | None, list[dict[str, Any]]]:
    """The job with a rate and epochs at which something is learned, or None; and what was tried."""
    training, aside = set_aside(work.material.new)
    if len(aside) < LEAST_SET_ASIDE:
        return None, [{"explanation": f"{len(aside)} rows can be set aside to search on, {LEAST_SET_ASIDE} are needed"}]
    tried: list[dict[str, Any]] = []
    planned = work.plan.hyperparameters
    put_on(work.model, start.adapter)
    before = losses(work.model, aside, planned.micro_batch_rows)
    for number, (rate_factor, epochs_factor) in enumerate(GRID, start=1):
        rate = planned.learning_rate * rate_factor
        if rate > HIGHEST_RATE:
            continue
        chosen = planned.model_copy(update={"learning_rate": rate, "epochs": planned.epochs * epochs_factor})
        bolder = replace(work, plan=work.plan.model_copy(update={"hyperparameters": chosen}))
        place = work.folder / "stages" / f"search-{number}"
        if not (place / AFTER_FILE).exists():
            trying = replace(bolder, material=replace(work.material, new=training, watched=[]))
            put_on(work.model, make(trying, "thinking_fusion", place, Attempt(number=0, kind="as_planned"), start))
            write(place / AFTER_FILE, json.dumps(losses(work.model, aside, planned.micro_batch_rows)).encode())
        shutil.rmtree(place / "attempt-0", ignore_errors=True)  # what is found is run again, on all rows
        after = json.loads((place / AFTER_FILE).read_bytes())
        chance = chance_of_fall([now - then for then, now in zip(before, after, strict=True)])
        tried.append(
            {
                "learning_rate": rate,
                "epochs": chosen.epochs,
                "loss_before": sum(before) / len(before),
                "loss_after": sum(after) / len(after),
                "chance": chance,
            }
        )
        if chance < 1 - CONFIDENCE:
            return bolder, tried
    return None, tried


def set_aside(rows: Sequence[Tokens]) -> tuple[list[Tokens], list[Tokens]]:
    """Rows to train on and rows to look at: one in eight, by a hash of the row, so that it is always the same ones."""
    sides: tuple[list[Tokens], list[Tokens]] = ([], [])
    for row in rows:
        text = ",".join(map(str, row.input_ids))
        is_aside = hashlib.sha256(text.encode()).digest()[0] % _ONE_IN == 0 and len(sides[1]) < MOST_SET_ASIDE
        sides[is_aside].append(row)
    return sides
