"""What a job says of its tokens: counted once, whoever counts, and however often it was cut off."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ruminate.trainer.outcome import Report
from ruminate.trainer.stages.watcher import Watcher

# Two steps of a hundred tokens were done before the job was cut off, and this is the third.
BEFORE = [{"step": 1, "num_tokens": 100.0}, {"step": 2, "num_tokens": 200.0}]


@pytest.mark.parametrize(
    ("logged", "counted_by_the_state"),
    [
        ({"num_tokens": 100}, 0),  # TRL's supervised learning and preferences begin anew
        ({"num_tokens": 100}, 300),  # the same under Unsloth, where transformers counts beside it
        ({"num_tokens": 300}, 300),  # practice takes what the state has counted
        ({"num_input_tokens_seen": 300}, 300),  # Unsloth's supervised learning leaves it to transformers
    ],
)
def test_tokens_are_counted_once_over_a_job_that_goes_on(
    tmp_path: Path, logged: dict[str, float], counted_by_the_state: int
) -> None:
    told: list[Report] = []
    watcher = Watcher("general_rl", tmp_path, steps=5, learning_rate=1e-5, tell=told.append, watch=None, keeps_snapshots=False)
    entry: dict[str, Any] = {"step": 3, "loss": 0.5, **logged}
    state = SimpleNamespace(global_step=2, log_history=[*BEFORE], num_input_tokens_seen=200 if counted_by_the_state else 0)
    watcher.on_train_begin(None, state, None, model=None)
    watcher.on_step_begin(None, state, None)
    state.global_step, state.num_input_tokens_seen = 3, counted_by_the_state
    state.log_history.append(entry)
    watcher.on_log(None, state, None, logs=entry)
    assert watcher.tokens == 300
    assert state.log_history[-1]["num_tokens"] == 300
    (report,) = told
    assert report.progress is not None
    assert report.progress.tokens_per_second is not None and report.progress.tokens_per_second > 0
