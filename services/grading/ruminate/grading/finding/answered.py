"""Answered: a question and its answer, as far as comparing looks at them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from ruminate.grading.finding.wording import both_ends, numbers, words


class Answered(Protocol):
    """What comparing asks of a question and its answer. `AnsweredText` has it, and so may a reading of more than these two."""

    @property
    def question_words(self) -> tuple[str, ...]: ...
    @property
    def answer(self) -> str: ...
    @property
    def answer_words(self) -> tuple[str, ...]: ...
    @property
    def answer_numbers(self) -> tuple[float, ...]: ...


@dataclass(frozen=True)
class AnsweredText:
    """Two texts. What is taken out of them is taken out when it is first looked at: numbers need no words, and no question."""

    question: str
    answer: str

    @classmethod
    def of(cls, question: str, answer: str, *, most_characters: int) -> AnsweredText:
        """Of a text over `most_characters`, both ends are read."""
        return cls(both_ends(question, most_characters), both_ends(answer.strip(), most_characters))

    @cached_property
    def question_words(self) -> tuple[str, ...]:
        """The words of the question."""
        return words(self.question)

    @cached_property
    def answer_words(self) -> tuple[str, ...]:
        """The words of the answer."""
        return words(self.answer)

    @cached_property
    def answer_numbers(self) -> tuple[float, ...]:
        """The numbers of the answer that are written in digits."""
        return numbers(self.answer)
