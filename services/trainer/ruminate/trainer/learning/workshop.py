"""What every stage of a job works with, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from ruminate.grading.grade import Grader
from ruminate.proof.asking import Grade, graded_by
from ruminate.proof.spoken import Sitting
from ruminate.shared.store import whole_file
from ruminate.trainer.backends import Backend
from ruminate.trainer.course import Course
from ruminate.trainer.learning.blend import WEIGHTS_FILE
from ruminate.trainer.material import Material
from ruminate.trainer.plan import JobPlan


@dataclass(frozen=True)
class Workshop:
    """A job: its plan, its folder, the model with an adapter on it, and what it learns from."""

    plan: JobPlan
    folder: Path
    backend: Backend
    model: Any
    tokenizer: Any
    material: Material
    grader: Grader
    course: Course

    @property
    def is_right(self) -> Grade:
        """Whether an answer is right; None where there is no check, or it decides nothing."""
        return graded_by(self.grader)


@dataclass(frozen=True)
class Standing:
    """An adapter that can be gone on from, and its exam; None where nothing is measured."""

    adapter: Path
    sitting: Sitting | None


def put_on(model: Any, adapter: Path) -> None:
    """Give the model the weights of an adapter."""
    set_peft_model_state_dict(model, load_file(adapter / WEIGHTS_FILE))


def write(path: Path, content: bytes) -> None:
    """Write a file whole, in a folder that may not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as out:
        out.write(content)
