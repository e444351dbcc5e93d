"""Exams: questions that a version is asked before and after it has learned, and what its answers came to. Pure.

    {"question": "43+38?", "reference": "81", "thinking": "both"}                        a question, the short way
    {"prompt": [message, …], "check": {"kind": …, "content": …}, "thinking": "on"}       the long way, as in verifiable.jsonl

A set of questions is a file of such lines. `thinking` is `on`, `off`, or `both` (as it is where nothing is said).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from ruminate.proof.messages import Message
from ruminate.schemas.payload import Part

HOLD_OUT: Final = "hold-out"
"""The set of a batch's own questions."""

CheckKind = Literal["reference", "exact", "json_schema", "python_tests"]


class BadExam(ValueError):
    """A file of questions cannot be read; the message names file, line and what is allowed."""


class Check(Part):
    """How an answer is found right or wrong."""

    kind: CheckKind
    content: str


class Question(Part):
    """One question in one mode. Without a check it tells form alone."""

    set: str
    prompt: tuple[Message, ...]
    thinks: bool
    check: Check | None = None
    tools: str | None = None
    conversation: str | None = None
    """Out of which it is, where that is known."""

    @property
    def observation(self) -> str:
        """What it is one of: the questions of one conversation are like each other, as is one question in both modes."""
        return self.conversation or self.key

    @property
    def group(self) -> Group:
        """Among which it counts."""
        return Group(self.set, self.thinks)

    @property
    def key(self) -> str:
        """Names what is asked, in either mode, without saying it."""
        return _key(self.prompt, self.tools)


class Group(NamedTuple):
    """Questions that are counted together: those of one set in one mode."""

    set: str
    thinks: bool

    def __str__(self) -> str:
        return f"{self.set}, {'thinking' if self.thinks else 'direct'}"


class Asked(NamedTuple):
    """What a row that is held out asks, and in which mode."""

    prompt: tuple[Message, ...]
    tools: str | None
    thinks: bool
    conversation: str | None = None


class _Line(Part):
    question: str | None = None
    prompt: tuple[Message, ...] = ()
    reference: str | None = None
    check: Check | None = None
    thinking: Literal["on", "off", "both"] = "both"
    tools: str | None = None

    @model_validator(mode="after")
    def _asks_and_checks(self) -> Self:
        if bool(self.prompt) == (self.question is not None):
            raise ValueError("give either a question or a prompt")
        if self.prompt and self.prompt[-1].role not in ("user", "tool"):
            raise ValueError(f"the prompt ends with a {self.prompt[-1].role} message; it must end with user or tool")
        if (self.reference is None) == (self.check is None):
            raise ValueError("give either a reference or a check: without one nobody knows whether an answer is right")
        return self


def read_questions(lines: Iterable[str], *, name: str, where: str) -> list[Question]:
    """The questions of a set, each in its modes, in the order of the lines. Raises BadExam for the first line that is none."""
    questions = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = _Line.model_validate_json(line)
        except ValidationError as error:
            raise _bad(where, number, error) from None
        prompt = found.prompt or (Message(role="user", content=found.question or ""),)
        check = found.check or Check(kind="reference", content=found.reference or "")
        modes = {"on": (True,), "off": (False,), "both": (True, False)}[found.thinking]
        questions += [Question(set=name, prompt=prompt, thinks=thinks, check=check, tools=found.tools) for thinks in modes]
    return questions


class _Verifiable(Part):
    prompt: tuple[Message, ...] = Field(min_length=1)
    check: Check
    tools: str | None = None


def read_verifiable(lines: Iterable[str], *, where: str) -> list[Question]:
    """Questions of a dataset whose answers can be checked; they are asked with thinking on. Raises BadExam."""
    questions = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = _Verifiable.model_validate_json(line)
        except ValidationError as error:
            raise _bad(where, number, error) from None
        questions.append(Question(set=HOLD_OUT, prompt=found.prompt, thinks=True, check=found.check, tools=found.tools))
    return questions


class _Switches(Part):
    enable_thinking: bool


class _Row(Part):
    model_config = ConfigDict(extra="ignore")

    prompt: tuple[Message, ...] = Field(min_length=1)
    chat_template_kwargs: _Switches
    tools: str | None = None


def read_asked(lines: Iterable[str], *, where: str) -> list[Asked]:
    """What the rows of a dataset ask. Raises BadExam."""
    asked = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _Row.model_validate_json(line)
        except ValidationError as error:
            raise _bad(where, number, error) from None
        asked.append(Asked(row.prompt, row.tools, row.chat_template_kwargs.enable_thinking))
    return asked


def held_out_questions(rows: Sequence[Asked], verifiable: Sequence[Question]) -> list[Question]:
    """What a batch's own hold-out asks: each row's question in the row's mode, with its check where it has one.

    Questions that are in no row, because the answers to them were not worth it, are asked with thinking on.
    """
    checks = {question.key: question.check for question in verifiable}
    questions: dict[tuple[str, bool], Question] = {}
    for row in rows:
        key = _key(row.prompt, row.tools)
        asked = Question(
            set=HOLD_OUT,
            prompt=row.prompt,
            thinks=row.thinks,
            check=checks.get(key),
            tools=row.tools,
            conversation=row.conversation,
        )
        questions.setdefault((key, row.thinks), asked)
    in_rows = {key for key, _ in questions}
    for question in verifiable:
        if question.key not in in_rows:
            questions.setdefault((question.key, True), question)
    return list(questions.values())


def some_of(questions: Sequence[Question], most: int) -> list[Question]:
    """At most so many of each group, always the same ones, in their order: those whose text has the smallest hashes."""
    chosen: set[int] = set()
    for group in {question.group for question in questions}:
        ours = [number for number, question in enumerate(questions) if question.group == group]
        chosen.update(sorted(ours, key=lambda number: questions[number].key)[:most])
    return [questions[number] for number in sorted(chosen)]


def _bad(where: str, number: int, error: ValidationError) -> BadExam:
    """Which line is none, without a word of what stands in it."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the line"
    return BadExam(f"{where} line {number}: {place}: {first['msg']}")


def _key(prompt: Sequence[Message], tools: str | None) -> str:
    said = "\x1e".join(message.model_dump_json() for message in prompt)
    return hashlib.sha256(f"{said}\x1f{tools or ''}".encode()).hexdigest()
