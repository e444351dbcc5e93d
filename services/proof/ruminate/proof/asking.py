"""How an exam is asked, whoever answers, and how an answer is found right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from ruminate.grading.grade import Grader
from ruminate.proof.exam import Question

Grade = Callable[[Question, str], bool | None]
"""Whether an answer is right; None where its check decides nothing, or there is none."""

OnProgress = Callable[[int, int], None]
"""How many of how many questions are answered."""


class Sampling(NamedTuple):
    """How the next token is drawn; a temperature of 0 takes the likeliest."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0


GREEDY: Final = Sampling(temperature=0.0)
THINKING: Final = Sampling(temperature=0.6, top_p=0.95, top_k=20)
DIRECT: Final = Sampling(temperature=0.7, top_p=0.8, top_k=20)
"""Both as Qwen3's makers advise (https://huggingface.co/Qwen/Qwen3-8B#best-practices)."""


def graded_by(grader: Grader) -> Grade:
    """Grade by the check that a question brings."""

    def is_right(question: Question, answer: str) -> bool | None:
        if question.check is None:
            return None
        asked = next((message.content for message in reversed(question.prompt) if message.role == "user"), "")
        found = grader.grade(question.check.kind, question.check.content, question=asked, answer=answer)
        return None if found.result == "undecided" else found.result == "right"

    return is_right
