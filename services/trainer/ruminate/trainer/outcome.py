"""What a training process says to the service that started it: where it stands, why it failed, what it made."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from ruminate.schemas.payload import Count, FiniteJson, Name, Part, Seconds, Sha256, Text
from ruminate.schemas.training import JobPhase, Stage, TokenEquality
from ruminate.trainer.plan import Encoding

PLAN_FILE: Final = "plan.json"
RESULT_FILE: Final = "result.json"
DATASET_FOLDER: Final = "dataset"
PARENT_FOLDER: Final = "parent"
ADAPTER_FOLDER: Final = "adapter"
EXAMS_FOLDER: Final = "exams"
EARLIER_FOLDER: Final = "earlier"
STAGES_FOLDER: Final = "stages"
START_FOLDER: Final = "start"
COMPILED_FOLDER: Final = "compiled"
_PASSING: Final = (STAGES_FOLDER, START_FOLDER, DATASET_FOLDER, EARLIER_FOLDER, EXAMS_FOLDER, COMPILED_FOLDER)
_UNFINISHED: Final = (".partial-*", "gguf/.partial-*", f".{ADAPTER_FOLDER}", f".{START_FOLDER}")
"""What a kill leaves of something that was being written."""


class Progress(Part):
    """Where the job stands."""

    phase: JobPhase
    stage: Stage | None = None
    step: Count = 0
    steps: Count = 0
    loss: float | None = None
    eta_seconds: Seconds | None = None
    tokens_per_second: Seconds | None = None
    reward: float | None = None
    memory_bytes: Count | None = None


class Failure(Part):
    """Why there will be no result: the words of `training-failed-v1`."""

    phase: JobPhase
    reason: Name
    explanation: Text
    evidence: dict[str, FiniteJson] = Field(default_factory=dict)


class Report(Part):
    """One line on the pipe from the child; exactly one field is set."""

    progress: Progress | None = None
    failure: Failure | None = None


class Exported(Part):
    """One GGUF file, by its path inside of the job folder."""

    encoding: Encoding
    holds: Literal["model", "adapter"]
    path: Name


class JobResult(Part):
    """What the job made; `result.json`, written last, so that its presence means that all of it is there."""

    exported: tuple[Exported, ...]
    stages: tuple[Stage, ...]
    base_sha256: Sha256
    metrics: dict[str, FiniteJson]
    equality: tuple[TokenEquality, ...]
    chat_template_sha256: Sha256
    duration_seconds: Seconds


def clear(folder: Path) -> None:
    """Remove what a finished job needs no more. The rows are in the store: it holds no text that an erasure would not find."""
    for unfinished in _UNFINISHED:
        for path in folder.glob(unfinished):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for passing in _PASSING:
        shutil.rmtree(folder / passing, ignore_errors=True)


class JobFailed(Exception):
    """The job cannot give a version, and trying again would not help."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.reason} while {failure.phase}: {failure.explanation}")
        self.failure = failure

    def __reduce__(self) -> tuple[type[JobFailed], tuple[Failure]]:
        # It crosses processes: pickled, an exception is made anew of its message, which is no Failure.
        return JobFailed, (self.failure,)
