"""A device whose memory is full: fewer rows at once, more of them a step, and the same is learned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ruminate.trainer.backends.on_transformers import OnTransformers
from ruminate.trainer.bases.arithmetic import NEW_TASKS
from ruminate.trainer.decide import Proof
from ruminate.trainer.outcome import JobResult
from ruminate.trainer.recipe import run
from tests.integration.lessons import lesson, taught

OFF = Proof(enforcement="off")


@dataclass(frozen=True)
class OnASmallDevice(OnTransformers):
    """Runs out of memory as CUDA does, where more rows are computed at once than it has room for."""

    room: int = 8

    def load(self, base: Path, *, context_tokens: int) -> Any:
        """The base, which refuses larger batches."""
        model = super().load(base, context_tokens=context_tokens)

        def refuse(_: Any, __: Any, given: dict[str, Any]) -> None:
            if len(given["input_ids"]) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory")

        model.register_forward_pre_hook(refuse, with_kwargs=True)
        return model


def only_stages(result: JobResult) -> Any:
    """The records of the stages that were run."""
    return result.metrics["stages"]


def test_a_full_device_is_given_fewer_rows_at_once_and_learns_the_same(tmp_path: Path) -> None:
    rows = taught(NEW_TASKS[0], 64)
    results = {
        name: run(lesson(tmp_path / name, rows=rows, proof=OFF), lambda _: None, backend)
        for name, backend in (("large", OnTransformers("lora")), ("small", OnASmallDevice("lora")))
    }
    (large,), (small,) = (only_stages(result) for result in results.values())
    assert (large["micro_batch_rows"], small["micro_batch_rows"]) == (32, 8)
    assert large["steps"] == small["steps"] == 2
    # Rows of unequal length are padded otherwise, and sums are added in another order.
    assert small["train_loss"] == pytest.approx(large["train_loss"], rel=1e-3)
