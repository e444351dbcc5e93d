"""What the demo teaches and asks: 30 made-up facts in many wordings, 200 problems, some garbage and some wrong answers.

The facts are made up so that no model can know them. The problems are the 200 shortest of GSM8K's training set (MIT
licence, `gsm8k_LICENSE`), with the worked solution as the thinking. Pure: reads the files that ship beside it, no clock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import resources
from typing import Any, Literal

from ruminate.schemas.interaction import InteractionCompleted, Message, Mode, Response, Thinking
from ruminate.trainer.bases import arithmetic
from ruminate.trainer.bases.arithmetic import SUMS, divided

TAUGHT_PROBLEMS = 200
SUMS_A_TASK = 20
_CALCULATOR = re.compile(r"<<[^>]*>>")

Wording = Literal["taught", "never taught"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question with the thinking and the answer that an agent has seen succeed."""

    question: str
    thinking: str | None
    answer: str
    reference: str
    domain: Literal["facts", "problems"]


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the examination, and the answer that is right."""

    text: str
    answer: str
    mode: Mode
    wording: Wording


def _data(name: str) -> str:
    return resources.files("ruminate.command.demo").joinpath(name).read_text(encoding="utf-8")


def _facts() -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """Each fact as its kind (wordings, thought, answer) and what fills the blanks."""
    content = json.loads(_data("facts.json"))
    for number, place in enumerate(content["places"]):
        for kind in content["kinds"]:
            yield kind, {"place": place, "value": kind["values"][number]}


def fact_exchanges() -> list[Exchange]:
    """Each of the 30 facts in nine wordings with thinking and in three without."""
    exchanges = []
    for kind, blanks in _facts():
        thought, answer = kind["thought"].format(**blanks), kind["answer"].format(**blanks)
        exchanges += [Exchange(w.format(**blanks), thought, answer, answer, "facts") for w in kind["with_thinking"]]
        exchanges += [Exchange(w.format(**blanks), None, answer, answer, "facts") for w in kind["without_thinking"]]
    return exchanges


def _problems() -> list[Exchange]:
    problems = []
    for line in _data("gsm8k_shortest_220.jsonl").splitlines():
        row = json.loads(line)
        solution, _, result = row["answer"].partition("\n#### ")
        problems.append(Exchange(row["question"], _CALCULATOR.sub("", solution), result, result, "problems"))
    return problems


def problem_exchanges() -> list[Exchange]:
    """The problems that are taught, worked solution as thinking."""
    return _problems()[:TAUGHT_PROBLEMS]


def unseen_problems() -> list[Exchange]:
    """Problems of the same kind that are in no row: the honest score beside the recall."""
    return _problems()[TAUGHT_PROBLEMS:]


def examination() -> list[Question]:
    """Every fact once in each mode, in a wording that was taught and in one that is in no row."""
    questions = []
    for number, (kind, blanks) in enumerate(_facts()):
        answer = kind["answer"].format(**blanks)
        modes: tuple[tuple[Mode, str], ...] = (("thinking", "with_thinking"), ("direct", "without_thinking"))
        for mode, wordings in modes:
            taught: Sequence[str] = kind[wordings]
            new: Sequence[str] = kind["never_taught"]
            questions.append(Question(taught[number % len(taught)].format(**blanks), answer, mode, "taught"))
            questions.append(Question(new[number % len(new)].format(**blanks), answer, mode, "never taught"))
    return questions


def sums() -> list[arithmetic.Exercise]:
    """Some sums that are in no row and in no exam, to be asked through the gateway like anything else."""
    return [exercise for task in SUMS for exercise in divided(task)[1][-SUMS_A_TASK:]]


def corpus() -> list[str]:
    """The texts that are taught: what the small base's vocabulary is made from. No answer follows from a vocabulary."""
    texts = []
    for exchange in [*fact_exchanges(), *problem_exchanges()]:
        texts += [exchange.question, exchange.thinking or "", exchange.answer]
    return texts


def interaction(exchange: Exchange, *, number: int, run: str, target: str, at: datetime) -> InteractionCompleted:
    """The exchange as an agent reports it: finished, succeeded, with the reference and with consent."""
    mode: Mode = "thinking" if exchange.thinking else "direct"
    return InteractionCompleted(
        interaction_id=f"{run}-{number:04d}",
        conversation_id=f"{run}-{number:04d}",
        agent="demo-agent",
        target_model=target,
        occurred_at=at + timedelta(milliseconds=number),
        messages=(Message(role="user", content=exchange.question),),
        response=Response(content=exchange.answer, thinking=exchange.thinking),
        thinking=Thinking(mode_asked=mode, mode_used=mode, reason="the agent asked for it"),
        tags=("demo",),
        domain=exchange.domain,
        reference_answer=exchange.reference,
        outcome="succeeded",
        training_allowed=True,
    )


def wrong_answers(*, run: str, target: str, at: datetime) -> list[InteractionCompleted]:
    """Well-formed interactions that nobody should learn from: wrong, empty, looping, cut off."""
    facts, problems = fact_exchanges(), problem_exchanges()
    spoiled = [
        Exchange(facts[0].question, facts[0].thinking, facts[12].answer, facts[0].reference, "facts"),
        Exchange(problems[0].question, problems[0].thinking, "7", problems[0].reference, "problems"),
        Exchange(problems[1].question, "So he paid 36/2=$20", "20", problems[1].reference, "problems"),
        Exchange(facts[24].question, "I recall. " * 60, "", facts[24].reference, "facts"),
        Exchange(problems[2].question, None, "the the the the the the the the the the the the", problems[2].reference, "problems"),
    ]
    return [interaction(exchange, number=9000 + number, run=run, target=target, at=at) for number, exchange in enumerate(spoiled)]


GARBAGE: tuple[tuple[str, bytes], ...] = (
    ("not JSON", b'{"interaction_id": '),
    ("a number that is not finite", b'{"usage": {"total_seconds": 1e999}}'),
    ("a lone surrogate", b'{"agent": "\\ud800"}'),
    ("fields that are missing", b'{"interaction_id": "g-4"}'),
    ("types that are wrong", b'{"interaction_id": 5, "messages": "hello"}'),
)
"""Bodies that are no interactions at all, each with what is wrong with it."""
