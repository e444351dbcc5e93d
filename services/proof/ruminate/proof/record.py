"""What a version was asked when it was proven, and what came of it: kept beside its adapter, so that it can be asked again. Pure.

The operator's own questions stand in it word for word. Those of a batch's hold-out are named by a hash alone: they are words of
people, and are to be found only in the dataset, where an erasure finds them, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from pydantic import Field

from ruminate.proof.asking import DIRECT, GREEDY, THINKING, Sampling
from ruminate.proof.exam import HOLD_OUT, Question, some_of
from ruminate.proof.judge import Policy
from ruminate.proof.spoken import Answered
from ruminate.schemas.payload import Count, Part

EXAM_FILE: Final = "exam.json"


class RecordedQuestion(Part):
    """One question in one mode, and what the answer to it came to. `question` is None where it stands in the dataset."""

    key: str
    thinks: bool
    question: Question | None
    answered: Answered


class ExamRecord(Part):
    """An exam as it was sat."""

    answer_tokens: int = Field(ge=1)
    seed: Count
    samples: bool = Field(description="Whether the next token was drawn, as Qwen3's makers advise, or always the likeliest.")
    policy: Policy
    questions: tuple[RecordedQuestion, ...]

    def sampling(self, *, thinks: bool) -> Sampling:
        """How the next token is drawn in a mode."""
        if not self.samples:
            return GREEDY
        return THINKING if thinks else DIRECT


class AskedAgain(NamedTuple):
    """Questions that can be asked again, each with what came of it before, and how many stand nowhere any more."""

    questions: tuple[Question, ...]
    answered: tuple[Answered, ...]
    gone: int


def record(
    questions: Sequence[Question], answers: Sequence[Answered], *, answer_tokens: int, seed: int, samples: bool, policy: Policy
) -> ExamRecord:
    """Put an exam down."""
    return ExamRecord(
        answer_tokens=answer_tokens,
        seed=seed,
        samples=samples,
        policy=policy,
        questions=tuple(
            RecordedQuestion(
                key=question.key,
                thinks=question.thinks,
                question=None if question.set == HOLD_OUT else question,
                answered=answered,
            )
            for question, answered in zip(questions, answers, strict=True)
        ),
    )


def ask_again(recorded: ExamRecord, held_out: Sequence[Question], *, most: int) -> AskedAgain:
    """At most so many questions of each group; `held_out` are those of the dataset as it is now."""
    there = {(question.key, question.thinks): question for question in held_out}
    found: dict[int, tuple[Question, Answered]] = {}
    gone = 0
    for each in recorded.questions:
        question = each.question or there.get((each.key, each.thinks))
        if question is None:
            gone += 1
        else:
            found[id(question)] = (question, each.answered)
    chosen = some_of([question for question, _ in found.values()], most)
    return AskedAgain(tuple(chosen), tuple(found[id(question)][1] for question in chosen), gone)
