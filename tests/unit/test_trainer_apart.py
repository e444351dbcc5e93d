"""What is run apart is run by another process, and comes back whole."""

from __future__ import annotations

import os

import pytest

from ruminate.trainer.apart import apart
from ruminate.trainer.outcome import Failure, JobFailed


def process_id() -> int:
    """Of whoever runs this."""
    return os.getpid()


def fail(reason: str) -> None:
    """As a job does."""
    raise JobFailed(Failure(phase="checking", reason=reason, explanation="elsewhere", evidence={"equal": 63}))


def test_another_process_runs_it() -> None:
    assert apart(process_id) != os.getpid()


def test_a_failure_there_is_the_same_failure_here() -> None:
    with pytest.raises(JobFailed, match="not_equal while checking: elsewhere") as caught:
        apart(fail, "not_equal")
    assert caught.value.failure == Failure(phase="checking", reason="not_equal", explanation="elsewhere", evidence={"equal": 63})
