"""Sits an exam: a speaker answers its questions, and what it says is looked at.

Whoever speaks, a model in this process or a file served by llama.cpp, is asked in the same way: the same prompts, the same limit,
greedily where the model's own generation settings say so, else sampled as Qwen3's makers advise for each mode
(https://huggingface.co/Qwen/Qwen3-8B#best-practices) with the same seed. What is cut at the limit came to no end, and is neither
well-formed nor right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from ruminate.proof.asking import GREEDY, Grade, OnProgress, Sampling
from ruminate.proof.exam import Question
from ruminate.proof.judge import Policy
from ruminate.proof.record import ExamRecord, record
from ruminate.proof.spoken import Answered, Spoken, forms, take_apart
from ruminate.trainer.rows import IGNORED_LABEL, Tokens, question_tokens

_OPENING: Final = "<think>"


@dataclass(frozen=True)
class Limits:
    """How an exam is sat."""

    answer_tokens: int
    batch_rows: int
    seed: int
    context_tokens: int


class Uttered(NamedTuple):
    """Tokens of one answer, without the end of turn; whether it came to that end."""

    tokens: list[int]
    ended: bool


class Speaker(Protocol):
    """Whoever answers."""

    def answer(self, prompts: Sequence[list[int]], *, most_tokens: int, sampling: Sampling, seed: int) -> list[Uttered]:
        """An answer to each prompt."""
        ...


class Said(NamedTuple):
    """One answer, with what was asked."""

    prompt: list[int]
    tokens: list[int]
    spoken: Spoken
    cut: bool


class Examiner:
    """Asks, and looks at answers. One for all sittings of a job, so that every one is asked the same in the same way."""

    def __init__(self, tokenizer: Any, grade: Grade, limits: Limits, *, thinking: Sampling, direct: Sampling) -> None:
        self._tokenizer, self._grade, self.limits = tokenizer, grade, limits
        self._sampling = {True: thinking, False: direct}

    def ask(
        self, speaker: Speaker, questions: Sequence[Question], *, on_progress: OnProgress = lambda done, of: None
    ) -> tuple[Answered, ...]:
        """What the answer to each question came to."""
        said = self._ask(speaker, questions, on_progress)
        return tuple(self._look_at(question, answer) for question, answer in zip(questions, said, strict=True))

    def record(self, questions: Sequence[Question], answers: Sequence[Answered], policy: Policy) -> ExamRecord:
        """An exam that was sat here, put down so that it can be asked in the same way elsewhere."""
        return record(
            questions,
            answers,
            answer_tokens=self.limits.answer_tokens,
            seed=self.limits.seed,
            samples=self._sampling[True] != GREEDY,
            policy=policy,
        )

    def traces(self, speaker: Speaker, questions: Sequence[Question]) -> list[Tokens]:
        """How a speaker thinks about these questions: prompts, and behind them what it said, where that is well-formed.

        Thinking that leads to a wrong answer is none to be kept: a version that learns better must not have to foresee it.
        """
        thinking = [question for question in questions if question.thinks]
        found = []
        for question, answer in zip(thinking, self._ask(speaker, thinking, lambda done, of: None), strict=True):
            looked_at = self._look_at(question, answer)
            if looked_at.well_formed and looked_at.right is not False:
                labels = [IGNORED_LABEL] * len(answer.prompt) + answer.tokens
                found.append(Tokens(input_ids=answer.prompt + answer.tokens, labels=labels))
        return found

    def _look_at(self, question: Question, answer: Said) -> Answered:
        well_formed, obedient = forms(answer.spoken, thinks=question.thinks, cut=answer.cut)
        right = None
        if question.check is not None:
            right = self._grade(question, answer.spoken.answer) if answer.spoken.answer and not answer.cut else False
        thinking = self._tokenizer(answer.spoken.thinking, add_special_tokens=False)["input_ids"]
        return Answered(
            right=right,
            well_formed=well_formed,
            obedient=obedient,
            thinking_tokens=len(thinking),
            answer_tokens=len(answer.tokens),
            cut=answer.cut,
        )

    def _ask(self, speaker: Speaker, questions: Sequence[Question], on_progress: OnProgress) -> list[Said]:
        prompts = [question_tokens(question, self._tokenizer) for question in questions]
        said: dict[int, Said] = {}
        for thinks in (True, False):
            # Prompts of like lengths together: padding is computed, too.
            ours = sorted((n for n, question in enumerate(questions) if question.thinks == thinks), key=lambda n: len(prompts[n]))
            for start in range(0, len(ours), self.limits.batch_rows):
                together = ours[start : start + self.limits.batch_rows]
                room = self.limits.context_tokens - max(len(prompts[number]) for number in together)
                uttered = speaker.answer(
                    [prompts[number] for number in together],
                    most_tokens=max(1, min(self.limits.answer_tokens, room)),
                    sampling=self._sampling[thinks],
                    seed=self.limits.seed + start,
                )
                for number, (tokens, ended) in zip(together, uttered, strict=True):
                    said[number] = self._said(prompts[number], tokens, ended=ended)
                on_progress(len(said), len(questions))
        return [said[number] for number in range(len(questions))]

    def _said(self, prompt: list[int], tokens: list[int], *, ended: bool) -> Said:
        opened = self._tokenizer.decode(prompt[-4:]).rstrip().endswith(_OPENING)
        text = self._tokenizer.decode(tokens, skip_special_tokens=False)
        return Said(prompt, tokens, take_apart(text, opened=opened), cut=not ended)
