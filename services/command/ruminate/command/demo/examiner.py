"""Asks the questions of the examination through the gateway, as an agent would: with the official `ollama` client."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import ollama

from ruminate.command.demo.lesson import Exchange, Question
from ruminate.schemas.interaction import Mode
from ruminate.trainer.bases.arithmetic import Exercise

# The answers are short; an untrained model would babble on until the context is full.
LONGEST_ANSWER_TOKENS = 64
LONGEST_SOLUTION_TOKENS = 160
_AT_ONCE = 4
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one question."""

    question: Question
    content: str
    thinking: str
    version: str

    @property
    def right(self) -> bool:
        """The answer to the letter, and thinking exactly where it was asked for."""
        return self.content.strip() == self.question.answer and bool(self.thinking.strip()) == (self.question.mode == "thinking")


class Examiner:
    """Asks through the gateway, and refuses that its questions are ever trained on."""

    def __init__(self, gateway: str, target: str) -> None:
        self._target = target
        self.version = ""
        self._client = ollama.AsyncClient(
            host=gateway, headers={"x-ruminate-training": "refuse", "x-ruminate-agent": "demo-examiner"}, timeout=120
        )
        # The client hands out answers, not headers; the version that answered is in a header.
        self._client._client.event_hooks["response"].append(self._note_version)

    async def __aenter__(self) -> Examiner:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client._client.aclose()

    async def _note_version(self, response: Any) -> None:
        self.version = response.headers.get("x-ruminate-version", self.version)

    async def ask(self, questions: Sequence[Question], *, on_reply: Callable[[], None]) -> list[Reply]:
        """Every question once; answers in the order of the questions."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(question: Question) -> Reply:
            async with gate:
                answer = await self._chat(question.text, mode=question.mode, tokens=LONGEST_ANSWER_TOKENS)
            on_reply()
            return Reply(question, answer.content or "", answer.thinking or "", self.version)

        return list(await asyncio.gather(*(one(question) for question in questions)))

    async def calculate(self, exercises: Sequence[Exercise], *, on_reply: Callable[[], None]) -> int:
        """How many of the sums are right and thought through, thinking on."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(exercise: Exercise) -> bool:
            async with gate:
                answer = await self._chat(exercise.question, mode="thinking", tokens=LONGEST_ANSWER_TOKENS)
            on_reply()
            return (answer.content or "").strip() == exercise.answer and bool((answer.thinking or "").strip())

        return sum(await asyncio.gather(*(one(exercise) for exercise in exercises)))

    async def solve(self, problems: Sequence[Exchange], *, on_reply: Callable[[], None]) -> int:
        """How many of the problems end in the right number, thinking on."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(problem: Exchange) -> bool:
            async with gate:
                answer = await self._chat(problem.question, mode="thinking", tokens=LONGEST_SOLUTION_TOKENS)
            on_reply()
            numbers = _NUMBER.findall(answer.content or "")
            return bool(numbers) and numbers[-1].replace(",", "") == problem.reference

        return sum(await asyncio.gather(*(one(problem) for problem in problems)))

    async def _chat(self, text: str, *, mode: Mode, tokens: int) -> ollama.Message:
        try:
            answer = await self._client.chat(
                self._target,
                messages=[{"role": "user", "content": text}],
                think=mode == "thinking",
                options={"temperature": 0, "num_predict": tokens},
            )
        except ollama.ResponseError as error:
            if error.status_code != HTTPStatus.BAD_GATEWAY:
                raise
            # The node gave up in the middle of it, as Ollama's runner does at bytes that are no text: random weights say some.
            return ollama.Message(role="assistant", content="")
        return answer.message


def count_right(replies: Sequence[Reply]) -> dict[str, dict[str, int]]:
    """Right answers by mode and wording, such as `{"thinking": {"taught": 30, "never taught": 27}, …}`."""
    counts: dict[str, dict[str, int]] = {}
    for reply in replies:
        by_wording = counts.setdefault(reply.question.mode, {})
        by_wording[reply.question.wording] = by_wording.get(reply.question.wording, 0) + reply.right
    return counts
