"""Report: is a dataset sound? Every check looks at the lines themselves, not at how they came to be. Pure.

A check that fails blocks the batch: nothing of it is written, and its problems are said. Problems never quote a text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson
from pydantic import ConfigDict, Field, ValidationError

from ruminate.accumulator.curation.asked import digests_in
from ruminate.accumulator.curation.wording import words_of
from ruminate.accumulator.making.beside import Pair, Question, asked_in_prompt
from ruminate.accumulator.making.candidate import Candidate
from ruminate.accumulator.records import template
from ruminate.accumulator.records.rows import Row, RowLimits, TemplateArguments, Turn
from ruminate.accumulator.sealing.decide import Policy
from ruminate.schemas.payload import FiniteJson, Name, Part, Text

CheckName = Literal["schema", "template", "consent", "ratio", "generated", "lengths", "duplicates", "leaks", "balance"]
MOST_PROBLEMS: Final = 100
"""Kept of each check; how many there were beyond is said."""
_SHORT_WORDS: Final = 3
LEAST_SHORT: Final = 50
"""Short answers from which their balance is looked at."""


class Checked(Part):
    """One check: its figures, and what is wrong."""

    name: CheckName
    passed: bool
    figures: dict[Name, FiniteJson] = Field(default_factory=dict)
    problems: tuple[Text, ...] = ()


class Report(Part):
    """Every check of a dataset."""

    checks: tuple[Checked, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, each with the name of its check."""
        return tuple(f"{check.name}: {problem}" for check in self.checks for problem in check.problems)


class Pairing(Part):
    """One line of `preferences.jsonl`."""

    model_config = ConfigDict(extra="forbid")

    prompt: tuple[Turn, ...] = Field(min_length=1)
    chosen: tuple[Turn]
    rejected: tuple[Turn]
    chat_template_kwargs: TemplateArguments
    tools: str | None = None


class Checking(Part):
    """How an answer is checked."""

    model_config = ConfigDict(extra="forbid")

    kind: Name
    content: str = Field(min_length=1)


class Practice(Part):
    """One line of `verifiable.jsonl`."""

    model_config = ConfigDict(extra="forbid")

    prompt: tuple[Turn, ...] = Field(min_length=1)
    check: Checking
    tools: str | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """What a dataset holds."""

    candidates: Sequence[Candidate]
    revived: Sequence[bytes]
    pairs: Sequence[Pair]
    questions: Sequence[Question]

    def trained(self) -> list[Candidate]:
        """The fresh rows that are trained."""
        return [candidate for candidate in self.candidates if not candidate.held_out]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the policy allows beside the ratio."""

    row: RowLimits
    answer_most_ratio: float


Touched = Callable[[Sequence[str]], str | None]


def report_of(contents: Contents, policy: Policy, limits: Limits, *, touched: Touched) -> Report:
    """Look at everything. `touched` says what of protected sets texts give away, a question first; None where they are clean."""
    return Report(
        checks=(
            _checked("schema", {}, _schema(contents)),
            _checked("template", {}, _template(contents)),
            _checked("consent", {}, _consent(contents)),
            _ratio(contents, policy),
            _generated(contents, policy),
            _lengths(contents, limits),
            _checked("duplicates", {}, _duplicates(contents)),
            _checked("leaks", {}, _leaks(contents, touched)),
            _balance(contents, limits),
        )
    )


def _checked(name: CheckName, figures: dict[str, Any], problems: Iterable[str]) -> Checked:
    found = list(problems)
    more = [f"and {len(found) - MOST_PROBLEMS} more"] if len(found) > MOST_PROBLEMS else []
    return Checked(name=name, passed=not found, figures=figures, problems=(*found[:MOST_PROBLEMS], *more))


def _schema(contents: Contents) -> Iterator[str]:
    for candidate in contents.candidates:
        for problem in _row_problems(candidate.line, reasoning=candidate.item.reasoning):
            yield f"row at offset {candidate.item.offset}: {problem}"
    for number, line in enumerate(contents.revived, 1):
        for problem in _row_problems(line):
            yield f"replay.jsonl line {number}: {problem}"
    for pair in contents.pairs:
        for problem in _problems(Pairing.model_validate_json, pair.line):
            yield f"pair at offset {pair.rejected}: {problem}"
    for question in contents.questions:
        for problem in _problems(Practice.model_validate_json, question.line):
            yield f"question at offset {question.offset}: {problem}"


def _row_problems(line: bytes, *, reasoning: bool | None = None) -> Iterator[str]:
    if found := list(_problems(Row.model_validate_json, line)):
        yield from found
        return
    row = Row.model_validate_json(line)
    (answer,) = row.completion
    if not answer.content.strip() and not answer.tool_calls:
        yield "the answer is empty"
    if not all(map(_is_list, (row.tools, *(turn.images for turn in row.prompt)))):
        yield "its tools or images are no JSON list"
    thinks = bool((answer.reasoning_content or "").strip())
    if thinks != row.chat_template_kwargs.enable_thinking or reasoning not in (None, thinks):
        yield "it does not keep the thinking that it is counted for"


def _is_list(text: str | None) -> bool:
    """Whether what is to hold JSON of a list does, or is not there."""
    try:
        return text is None or isinstance(orjson.loads(text), list)
    except orjson.JSONDecodeError:
        return False


def _problems(parse: Callable[[bytes], object], line: bytes) -> Iterator[str]:
    if line.count(b"\n") != 1 or not line.endswith(b"\n"):
        yield "is not one line"
    try:
        parse(line)
    except ValidationError as error:
        # Where and what kind, never the contents.
        yield "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['type']}" for each in error.errors(include_input=False))


def _template(contents: Contents) -> Iterator[str]:
    for where, line in _rows(contents):
        try:
            survived = template.survives(orjson.loads(line))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            continue  # it is no row, which is said already
        if not survived:
            yield f"{where}: what the chat template makes of it is not read back as what it is"


def _rows(contents: Contents) -> Iterator[tuple[str, bytes]]:
    yield from ((f"row at offset {candidate.item.offset}", candidate.line) for candidate in contents.candidates)
    yield from ((f"replay.jsonl line {number}", line) for number, line in enumerate(contents.revived, 1))


def _consent(contents: Contents) -> Iterator[str]:
    for candidate in contents.candidates:
        if not candidate.training_allowed:
            yield f"row at offset {candidate.item.offset}: no consent to train on it"


def _ratio(contents: Contents, policy: Policy) -> Checked:
    trained = contents.trained()
    fresh = sum(candidate.item.reasoning for candidate in trained)
    revived = sum(_thinks(line) for line in contents.revived)
    problems = []
    if fresh < policy.share * len(trained):
        problems.append(f"{fresh} of {len(trained)} rows reason; there must be at least {float(policy.share):.0%}")
    if trained and fresh + revived < policy.share * (len(trained) + len(contents.revived)):
        problems.append(
            f"{fresh + revived} of {len(trained) + len(contents.revived)} rows reason with those of replay.jsonl; "
            f"there must be at least {float(policy.share):.0%}"
        )
    figures = {"reasoning": fresh, "rows": len(trained), "replayed_reasoning": revived, "replayed": len(contents.revived)}
    return _checked("ratio", figures, problems)


def _generated(contents: Contents, policy: Policy) -> Checked:
    trained = contents.trained()
    generated = sum(candidate.facts.generated for candidate in trained)
    captured = sum(candidate.item.reasoning for candidate in trained) - generated
    problems = (
        []
        if generated <= policy.generated_allowed(captured)
        else [f"{generated} rows have thinking that was written afterwards; at most {policy.generated_allowed(captured)} may"]
    )
    problems += [
        f"row at offset {candidate.item.offset}: it is held out, and its thinking was written afterwards"
        for candidate in contents.candidates
        if candidate.held_out and candidate.facts.generated
    ]
    return _checked("generated", {"rows": generated}, problems)


def _lengths(contents: Contents, limits: Limits) -> Checked:
    sizes = sorted(len(candidate.line) for candidate in contents.candidates)
    problems = [
        f"row at offset {candidate.item.offset}: {len(candidate.line)} bytes; at most {limits.row.max_bytes} "
        "(RUMINATE_ROW_MAX_BYTES)"
        for candidate in contents.candidates
        if len(candidate.line) > limits.row.max_bytes
    ]
    problems += [
        f"row at offset {candidate.item.offset}: {candidate.item.tokens} tokens; at most {limits.row.context_tokens} "
        "(RUMINATE_CONTEXT_TOKENS)"
        for candidate in contents.candidates
        if candidate.item.tokens > limits.row.context_tokens
    ]
    figures = _spread("bytes", sizes) | _spread("tokens", sorted(candidate.item.tokens for candidate in contents.candidates))
    return _checked("lengths", figures, problems)


def _spread(unit: str, sizes: Sequence[int]) -> dict[str, int]:
    """Median, 95th percentile and maximum of sorted sizes."""
    places = {"p50": len(sizes) // 2, "p95": len(sizes) * 95 // 100, "max": len(sizes) - 1}
    return {f"{unit}_{name}": sizes[place] for name, place in places.items()} if sizes else {}


def _duplicates(contents: Contents) -> Iterator[str]:
    candidates = contents.candidates
    for what, keys in (
        ("interaction", [candidate.item.recorded for candidate in candidates]),
        ("event", [candidate.item.event for candidate in candidates]),
        ("question and its answer", [_asked(candidate.line)[1] for candidate in candidates]),
        ("line of replay.jsonl", list(contents.revived)),
        ("pair", [pair.digest for pair in contents.pairs]),
        ("question to be checked", [question.digest for question in contents.questions]),
    ):
        if repeated := sum(count - 1 for key, count in Counter(keys).items() if key):
            yield f"{repeated} rows repeat a{'n' * (what[0] in 'aeiou')} {what}"


def _leaks(contents: Contents, touched: Touched) -> Iterator[str]:
    trained, held_out = contents.trained(), [candidate for candidate in contents.candidates if candidate.held_out]
    if both := len({c.item.conversation for c in trained} & {c.item.conversation for c in held_out}):
        yield f"{both} conversations are both trained and held out"
    measured = {question for candidate in held_out if (question := _asked(candidate.line)[0])}
    for where, line in (
        *((f"row at offset {candidate.item.offset}", candidate.line) for candidate in trained),
        *((f"replay.jsonl line {number}", line) for number, line in enumerate(contents.revived, 1)),
    ):
        if _asked(line)[0] in measured:
            yield f"{where}: it answers a question that is held out"
    for what, prompts in (
        ("pair", [(pair.rejected, pair.line) for pair in contents.pairs]),
        ("question", [(question.offset, question.line) for question in contents.questions if not question.held_out]),
    ):
        for offset, line in prompts:
            if touched((asked_in_prompt(line),)) is not None:
                yield f"{what} at offset {offset}: it gives away a question that is held out or protected"


def _balance(contents: Contents, limits: Limits) -> Checked:
    """Whether one short answer is the answer to nearly everything: a model learns to say it without looking."""
    answers: Counter[str] = Counter()
    for candidate in contents.trained():
        words = words_of(_answer(candidate.line))
        if 0 < len(words) <= _SHORT_WORDS:
            answers[" ".join(words)] += 1
    short = answers.total()
    most = max(answers.values(), default=0)
    problems = []
    if short >= LEAST_SHORT and most > limits.answer_most_ratio * short:
        problems.append(
            f"{most} of {short} short answers are the same one; at most {limits.answer_most_ratio:.0%} may be "
            "(RUMINATE_ANSWER_MOST_RATIO)"
        )
    return _checked("balance", {"short_answers": short, "most_frequent": most}, problems)


def _thinks(line: bytes) -> bool:
    try:
        return bool((orjson.loads(line)["completion"][0].get("reasoning_content") or "").strip())
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return False


def _answer(line: bytes) -> str:
    try:
        said: str = orjson.loads(line)["completion"][0]["content"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return ""
    return said


def _asked(line: bytes) -> tuple[bytes, bytes]:
    """Digests of the question and of the whole; empty where the line is no row, which is said already."""
    try:
        return digests_in(line)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return b"", b""
