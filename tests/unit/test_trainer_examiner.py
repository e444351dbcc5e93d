"""What an examiner makes of what was said, on a speaker whose words are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from transformers import AutoTokenizer

from ruminate.proof.asking import GREEDY, Sampling
from ruminate.proof.exam import Check, Question
from ruminate.proof.messages import Message
from ruminate.trainer.bases.small import SHIPPED
from ruminate.trainer.examining.sit import Examiner, Limits, Uttered
from ruminate.trainer.rows import IGNORED_LABEL


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(SHIPPED)


class Recites:
    """Says to each question what is put down for it."""

    def __init__(self, tokenizer: Any, answers: Mapping[str, str]) -> None:
        self._tokenizer, self._answers = tokenizer, answers

    def answer(self, prompts: Sequence[list[int]], *, most_tokens: int, sampling: Sampling, seed: int) -> list[Uttered]:
        texts = [self._tokenizer.decode(prompt) for prompt in prompts]
        said = [next(answer for question, answer in self._answers.items() if question in text) for text in texts]
        return [Uttered(self._tokenizer(each, add_special_tokens=False)["input_ids"], ended=True) for each in said]


def question(text: str, reference: str | None, *, thinks: bool = True) -> Question:
    check = None if reference is None else Check(kind="exact", content=reference)
    return Question(set="sums", prompt=(Message(role="user", content=text),), thinks=thinks, check=check)


def test_traces_are_of_thinking_in_good_form_that_leads_to_no_wrong_answer(tokenizer: Any) -> None:
    said = {
        "1+2?": "<think>\n1+2=3\n</think>\n\n3",
        "2+2?": "<think>\n2+2=5\n</think>\n\n5",
        "3+2?": "<think>\n3+2=5\n</think>\n\n5",  # nobody knows whether that is right
        "4+2?": "6",
    }
    asked = [question("1+2?", "3"), question("2+2?", "4"), question("3+2?", None), question("4+2?", "6")]
    examiner = Examiner(
        tokenizer,
        lambda question, answer: None if question.check is None else question.check.content == answer,
        Limits(answer_tokens=64, batch_rows=2, seed=0, context_tokens=256),
        thinking=GREEDY,
        direct=GREEDY,
    )
    traces = examiner.traces(Recites(tokenizer, said), asked)
    learned = [tokenizer.decode([label for label in trace.labels if label != IGNORED_LABEL]) for trace in traces]
    assert learned == [said["1+2?"], said["3+2?"]]
