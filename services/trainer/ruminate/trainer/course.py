"""Where a job is, for whoever waits, and what a known error means to an operator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import ENOSPC
from typing import Any

import torch
from safetensors import SafetensorError

from ruminate.proof.exam import BadExam
from ruminate.schemas.training import JobPhase
from ruminate.trainer.export.encodings import ExportError
from ruminate.trainer.outcome import Failure, JobFailed, Progress, Report
from ruminate.trainer.rows import BadDataset

Tell = Callable[[Report], None]


@dataclass
class Course:
    """The phase of a job, and how long each took."""

    tell: Tell
    phase: JobPhase = "preparing"
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def during(self, phase: JobPhase) -> Iterator[None]:
        """Announce a phase; what goes wrong in it for a known reason becomes a JobFailed that says what to do."""
        self.phase = phase
        self.tell(Report(progress=Progress(phase=phase)))
        began = time.monotonic()
        try:
            yield
        except (BadDataset, BadExam, ExportError, OSError, SafetensorError, torch.OutOfMemoryError) as error:
            failure = explain(error, phase)
            if failure is None:
                raise
            raise JobFailed(failure) from error
        finally:
            self.seconds[phase] = round(self.seconds.get(phase, 0.0) + time.monotonic() - began, 2)


def explain(error: Exception, phase: JobPhase) -> Failure | None:
    """What a known error means to an operator; None for what we do not know."""
    if isinstance(error, BadDataset | BadExam):
        return Failure(phase=phase, reason="bad_dataset", explanation=str(error))
    if isinstance(error, ExportError):
        return Failure(phase=phase, reason="not_exportable", explanation=str(error))
    if isinstance(error, torch.OutOfMemoryError):
        return Failure(
            phase=phase,
            reason="out_of_memory",
            explanation="the GPU's memory is full, with one row at a time, too; lower RUMINATE_MAX_ROW_TOKENS, or see "
            "`ruminate plan` for what fits",
            evidence={"allocated_bytes": torch.cuda.max_memory_allocated(), "device": torch.cuda.get_device_name()},
        )
    if getattr(error, "errno", None) == ENOSPC or "No space left" in str(error):
        return Failure(phase=phase, reason="no_room", explanation="the disk of RUMINATE_STATE_DIR is full; make room, or move it")
    if phase == "preparing" and isinstance(error, OSError | SafetensorError):
        return Failure(
            phase=phase, reason="base_missing", explanation=f"the base cannot be loaded: {error}; give a whole model folder"
        )
    return None


def failed(phase: JobPhase, reason: str, explanation: str, evidence: dict[str, Any] | None = None) -> JobFailed:
    """The failure that ends a job, to be raised."""
    return JobFailed(Failure(phase=phase, reason=reason, explanation=explanation, evidence=evidence or {}))
