"""Where a job is, for whoever waits, and what a known error means to an operator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import EDQUOT, ENOSPC
from typing import Any, Final

import torch
from safetensors import SafetensorError

from ruminate.proof.exam import BadExam
from ruminate.schemas.training import JobPhase
from ruminate.trainer.export.encodings import ExportError
from ruminate.trainer.outcome import Failure, JobFailed, Progress, Report
from ruminate.trainer.rows import BadDataset

Tell = Callable[[Report], None]

_DISK_IS_FULL: Final = ("No space left", "Disk quota exceeded", "PytorchStreamWriter failed", ". unexpected pos ")
"""What is said where no number is given: safetensors has the kernel's words, `torch.save` its own (inline_container.cc)."""
_CPU_IS_FULL: Final = "DefaultCPUAllocator: can't allocate memory"


@dataclass
class Course:
    """The phase of a job, and how long each took."""

    tell: Tell
    phase: JobPhase = "preparing"
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def during(self, phase: JobPhase) -> Iterator[None]:
        """Announce a phase, and count its time."""
        self.phase = phase
        self.tell(Report(progress=Progress(phase=phase)))
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] = round(self.seconds.get(phase, 0.0) + time.monotonic() - began, 2)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What goes wrong for a known reason, in whichever phase or between two, becomes a JobFailed that says what to do."""
        try:
            yield
        except Exception as error:
            failure = explain(error, self.phase)
            if failure is None:
                raise
            raise JobFailed(failure) from error


def explain(error: Exception, phase: JobPhase) -> Failure | None:
    """What a known error means to an operator; None for what we do not know."""
    if isinstance(error, BadDataset | BadExam):
        return Failure(phase=phase, reason="bad_dataset", explanation=str(error))
    if isinstance(error, ExportError):
        return Failure(phase=phase, reason="not_exportable", explanation=str(error))
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or _CPU_IS_FULL in str(error):
        on_gpu = torch.cuda.is_available()
        return Failure(
            phase=phase,
            reason="out_of_memory",
            explanation=f"the memory of the {'GPU' if on_gpu else 'machine'} is full, with one row at a time, too; lower "
            "RUMINATE_MAX_ROW_TOKENS, of practice and exams RUMINATE_PRACTICE_ANSWER_TOKENS and RUMINATE_PROOF_ANSWER_TOKENS "
            f"(`ruminate plan` says what fits){', set RUMINATE_GRADIENT_CHECKPOINTING to on' if on_gpu else ''}, then type:  "
            "ruminate train retry",
            evidence={"allocated_bytes": torch.cuda.max_memory_allocated(), "device": torch.cuda.get_device_name()}
            if on_gpu
            else {"device": "cpu"},
        )
    if getattr(error, "errno", None) in (ENOSPC, EDQUOT) or any(sign in str(error) for sign in _DISK_IS_FULL):
        return Failure(
            phase=phase,
            reason="no_room",
            explanation="the disk of RUMINATE_STATE_DIR is full; make room, or move it, then type:  ruminate train retry. "
            "Until its batch is tried again, the job keeps what is needed to go on in its folder there (jobs/)",
        )
    if phase == "preparing" and isinstance(error, OSError | SafetensorError):
        return Failure(
            phase=phase, reason="base_missing", explanation=f"the base cannot be loaded: {error}; give a whole model folder"
        )
    return None


def failed(phase: JobPhase, reason: str, explanation: str, evidence: dict[str, Any] | None = None) -> JobFailed:
    """The failure that ends a job, to be raised."""
    return JobFailed(Failure(phase=phase, reason=reason, explanation=explanation, evidence=evidence or {}))
