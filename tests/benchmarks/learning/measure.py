"""What a version can do, measured outside of the trainer's job on questions that no row has.

All of a task's questions are asked in the mode that its answers need, and a quarter of them in the other, where obedience counts:
last digits are read at once, everything else is thought about.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from ruminate.grading.grade import Grader
from ruminate.proof.asking import GREEDY, graded_by
from ruminate.proof.exam import read_questions
from ruminate.proof.spoken import Answered
from ruminate.schemas.payload import Part
from ruminate.trainer.bases.arithmetic import READING, Exercise, Task
from ruminate.trainer.examining.sit import Examiner, Limits
from ruminate.trainer.examining.speak import ModelSpeaker
from tests.benchmarks.learning.matter import Portion, asked

ANSWER_TOKENS: Final = 48
"""The longest right answer of any task has 40."""
ROWS_AT_ONCE: Final = 500
OTHER_MODE_PART: Final = 4
"""One in so many questions is asked in the mode that a task does not need, too."""


class Mode(Part):
    """How the questions of a task were answered in one mode: shares of all that were asked."""

    questions: int
    right: float
    obedient: float
    well_formed: float


class Ability(Part):
    """A task, in both modes."""

    task: str
    thinking: Mode
    direct: Mode

    @property
    def right(self) -> float:
        """Right answers in the mode that the task needs."""
        return (self.direct if self.task == READING.name else self.thinking).right


class Gauge:
    """Measures versions of one base."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._tokenizer = AutoTokenizer.from_pretrained(base)
        self._grader = Grader()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._grader.close()

    def abilities(self, adapter: Path | None, tasks: Sequence[Task], portion: Portion, *, most: int | None = None) -> list[Ability]:
        """What the base with this adapter can do; `most` questions of each task and mode, or all."""
        model: Any = AutoModelForCausalLM.from_pretrained(self._base, dtype=torch.float32)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        model.eval()
        speaker = ModelSpeaker(model, _generating, pad=self._tokenizer.pad_token_id)
        limits = Limits(ANSWER_TOKENS, ROWS_AT_ONCE, seed=0, context_tokens=int(model.config.max_position_embeddings))
        examiner = Examiner(self._tokenizer, graded_by(self._grader), limits, thinking=GREEDY, direct=GREEDY)
        found = []
        for task in tasks:
            exercises = asked(task, portion)[:most]
            fewer = exercises[: max(1, len(exercises) // OTHER_MODE_PART)]
            on, off = (fewer, exercises) if task == READING else (exercises, fewer)
            modes = [
                _counted(examiner.ask(speaker, read_questions(_lines(these, mode), name=task.name, where=task.name)))
                for these, mode in ((on, "on"), (off, "off"))
            ]
            found.append(Ability(task=task.name, thinking=modes[0], direct=modes[1]))
        return found


@contextmanager
def _generating(model: Any) -> Iterator[Any]:
    with torch.inference_mode():
        yield model


def _lines(exercises: Sequence[Exercise], mode: str) -> list[str]:
    return [
        json.dumps({"question": each.question, "check": {"kind": "exact", "content": each.answer}, "thinking": mode})
        for each in exercises
    ]


def _counted(answers: Sequence[Answered]) -> Mode:
    count = len(answers)
    return Mode(
        questions=count,
        right=sum(answer.right is True for answer in answers) / count,
        obedient=sum(answer.obedient for answer in answers) / count,
        well_formed=sum(answer.well_formed for answer in answers) / count,
    )
