"""Sits an exam on a node: every question through Ollama's API, as an agent would ask it, and a look at every answer.

The node renders the prompt by its own template, splits the thinking off, and counts tokens. So it measures what is served: the
weights as they are stored there, the engine, the template, the system prompt of the target.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ruminate.proof.asking import GREEDY, Grade, OnProgress, Sampling
from ruminate.proof.exam import Question
from ruminate.proof.messages import Message, definitions
from ruminate.proof.spoken import Answered, Spoken, forms
from ruminate.shared.ollama import ChatAnswer, NodeRefused, NodeUnavailable, OllamaClient

Drawing = Callable[[bool], Sampling]
"""How the next token is drawn, in thinking mode or out of it."""


@dataclass(frozen=True, kw_only=True)
class AskingOfNode:
    """How a node is asked. `side_by_side` questions at once: a node that answers one at a time lets the others wait."""

    answer_tokens: int
    seed: int = 0
    side_by_side: int = 4
    timeout_seconds: float = 600.0
    drawn: Drawing = lambda thinks: GREEDY


async def sit_on_node(
    client: OllamaClient,
    model: str,
    questions: Sequence[Question],
    grade: Grade,
    asking: AskingOfNode,
    *,
    on_progress: OnProgress = lambda done, of: None,
) -> tuple[Answered, ...]:
    """What the answer to each question came to, in their order.

    A question that the node refuses is answered wrongly, for an agent would have got no answer either. Raises NodeRefused where
    it refuses every one, and NodeUnavailable where it does not answer.
    """
    answered: dict[int, Answered] = {}
    refusals: list[NodeRefused] = []
    waiting = iter(enumerate(questions))
    # Who compares expressions lives as long as the thread that has asked: one thread, for the whole exam.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="grade") as grading:

        async def ask_on() -> None:
            for number, question in waiting:
                try:
                    said = await _ask(client, model, question, asking)
                except NodeRefused as refused:
                    refusals.append(refused)
                    answered[number] = _unanswered(question)
                else:
                    loop = asyncio.get_running_loop()
                    answered[number] = await loop.run_in_executor(grading, _look_at, question, said, grade)
                on_progress(len(answered), len(questions))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(asking.side_by_side, len(questions))):
                    group.create_task(ask_on())
        except* NodeUnavailable as several:  # each that was asked at that moment says the same
            raise several.exceptions[0] from None
    if questions and len(refusals) == len(questions):
        raise refusals[-1]
    return tuple(answered[number] for number in range(len(questions)))


async def _ask(client: OllamaClient, model: str, question: Question, asking: AskingOfNode) -> ChatAnswer:
    drawn = asking.drawn(question.thinks)
    return await client.chat(
        model,
        [_as_ollama(message) for message in question.prompt],
        think=question.thinks,
        tools=definitions(question.tools),
        options={
            "temperature": drawn.temperature,
            "top_p": drawn.top_p,
            "top_k": drawn.top_k,
            "min_p": 0.0,
            "seed": asking.seed,
            "num_predict": asking.answer_tokens,
        },
        timeout_seconds=asking.timeout_seconds,
    )


def _look_at(question: Question, said: ChatAnswer, grade: Grade) -> Answered:
    thinking, answer = said.message.thinking.strip(), said.message.content.strip()
    # A call of a tool is an answer, too.
    answer = answer or "".join(call.model_dump_json() for call in said.message.tool_calls)
    cut = said.done_reason != "stop"
    tidy = "<think>" not in answer and "</think>" not in answer
    # The node tells thinking from answer; where it never closed, all of it is thinking, and there is no answer.
    spoken = Spoken(thinking, answer, opened=bool(thinking), closed=bool(thinking and answer), tidy=tidy)
    well_formed, obedient = forms(spoken, thinks=question.thinks, cut=cut)
    right = None
    if question.check is not None:
        right = grade(question, answer) if answer and not cut else False
    # Nodes count tokens of thinking and answer together: they are divided as their characters are.
    of_thinking = len(thinking) / max(1, len(thinking) + len(answer))
    return Answered(
        right=right,
        well_formed=well_formed,
        obedient=obedient,
        thinking_tokens=round(said.eval_count * of_thinking),
        answer_tokens=said.eval_count,
        cut=cut,
    )


def _unanswered(question: Question) -> Answered:
    right = None if question.check is None else False
    return Answered(right=right, well_formed=False, obedient=False, thinking_tokens=0, answer_tokens=0, cut=True)


def _as_ollama(message: Message) -> dict[str, Any]:
    """A turn of a dataset as Ollama takes it: thinking and calls have other names there, arguments are no text."""
    turn: dict[str, Any] = message.model_dump(mode="json", exclude_unset=True)
    if (thinking := turn.pop("reasoning_content", None)) is not None:
        turn["thinking"] = thinking
    if (name := turn.pop("name", None)) is not None:
        turn["tool_name"] = name
    if calls := turn.pop("tool_calls", None):
        turn["tool_calls"] = [{"function": _call(call["function"])} for call in calls]
    return turn


def _call(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments") or {}
    return {"name": function["name"], "arguments": json.loads(arguments) if isinstance(arguments, str) else arguments}
