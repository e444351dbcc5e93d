"""In 16 bits every stage computes as if it were the first of its process, and what is subtracted from each other has 32."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ruminate.schemas.training import Stage
from ruminate.trainer.backends.on_transformers import OnTransformers
from ruminate.trainer.bases.arithmetic import NEW_TASKS, draw
from ruminate.trainer.outcome import ADAPTER_FOLDER
from ruminate.trainer.plan import Preference, Proof, StageRules
from ruminate.trainer.recipe import run
from tests.integration.lessons import lesson, preference_line, taught

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class InBfloat16(OnTransformers):
    """As on a GPU: weights of 16 bits, under autocast."""

    @property
    def precision(self) -> str:
        """What is multiplied."""
        return "bfloat16"

    def arguments(self, model: Any) -> dict[str, Any]:
        """What TRL's configs have to be told."""
        return {**super().arguments(model), "bf16": True}


def curves(folder: Path, *stages: Stage) -> dict[str, list[tuple[int, float]]]:
    """The losses of a job of these stages."""
    pairs = [preference_line(exercise, "0") for exercise in draw(NEW_TASKS[0], 16, Random(4))]
    lesson(
        folder,
        rows=taught(NEW_TASKS[0], 64),
        pairs=pairs,
        rules=StageRules(wanted=stages, preference_least_pairs=16),
        proof=Proof(enforcement="off"),
        preference=Preference(learning_rate=1e-4, batch_rows=8, epochs=1.0),
    )
    run(folder, lambda _: None, InBfloat16("lora"))
    told = json.loads((folder / ADAPTER_FOLDER / "proof.json").read_bytes())["stages"]
    return {record["stage"]: record["losses"] for record in told}


@pytest.mark.parametrize("before", [(), ("thinking_fusion",)])
def test_preferences_begin_with_the_loss_of_two_equal_models_whatever_was_trained_before(
    tmp_path: Path, before: tuple[Stage, ...]
) -> None:
    losses = curves(tmp_path / "job", *before, "general_rl")["general_rl"]
    # The logarithm of two, to six digits: logits of 16 bits give 0.6914.
    assert losses[0][1] == pytest.approx(0.693147, abs=1e-5)
