"""Checks: answers that can be found right or wrong without a reference: the exact text, a JSON Schema, Python tests. Pure.

Calls of tools are held against what was offered: there has to be such a tool, and the arguments have to be what it takes.
What runs the tests and asks the validator is checker.py; `decide` is handed what it found. A check decides for sure, but for one
thing: JSON that has the form that was asked for says nothing of what is in it.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Collection
from dataclasses import replace
from typing import Final, Literal, Protocol

from pydantic import JsonValue

from ruminate.grading.checking.answers import Comparison
from ruminate.schemas.interaction import AnswerCheck, InteractionRecorded

MOST_CHECK_BYTES: Final = 64 * 1024
"""Of a schema or of tests."""
MOST_ANSWER_CHARACTERS: Final = 256 * 1024
MOST_DEPTH: Final = 40
_MOST_VALUES: Final = 10_000
FORM_CERTAINTY: Final = 0.5
"""Of an answer that has the form that was asked for."""

_FENCE: Final = re.compile(
    r"^ {0,3}(`{3,8}|~{3,8})[ \t]{0,3}([A-Za-z0-9_+-]{0,20})[^\n`]{0,80}\n(.*?)^ {0,3}\1", re.MULTILINE | re.DOTALL
)
_PYTHON: Final = frozenset({"python", "py", "python3"})
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")


class Checks(Protocol):
    """What a check comes to. It may take seconds; it never raises for what is in the check or in the answer."""

    def __call__(self, check: AnswerCheck, answer: str, /) -> Comparison: ...


def unchecked(check: AnswerCheck, answer: str, /) -> Comparison:
    """Nobody to ask: only the exact text is compared."""
    if check.kind == "exact":
        return exactly(check.content, answer)
    return undecided("nobody here can run it")


def can_be_checked(interaction: InteractionRecorded) -> bool:
    """Whether it has something to check, and something to check it by."""
    response = interaction.response
    return bool((interaction.answer_check and response.content.strip()) or (interaction.tools and response.tool_calls))


def checked_by(checks: Checks, interaction: InteractionRecorded) -> Comparison | None:
    """What the interaction's own check comes to, and whether its tool calls are such as were offered; None where it has neither."""
    check, answer = interaction.answer_check, interaction.response.content
    own = None if check is None or not answer.strip() else checks(check, answer)
    called = _called(checks, interaction)
    counts = called if own is None or (called is not None and called.result == "wrong") else own
    if counts is None or counts.result != "wrong" or (counts is own and check is not None and check.kind == "exact"):
        return counts
    if any(what.startswith("redacted:") for what in interaction.normalised):
        # A placeholder is no number and no address: what was said may have been right before.
        return undecided("an answer in which values were replaced by placeholders")
    return counts


def _called(checks: Checks, interaction: InteractionRecorded) -> Comparison | None:
    offered = {tool.name: tool.parameters for tool in interaction.tools}
    calls = interaction.response.tool_calls
    if not offered or not calls:
        return None
    if any(call.name not in offered for call in calls):
        return found("wrong", "a call of a tool that was not offered")
    results = [
        checks(AnswerCheck(kind="json_schema", content=json.dumps(offered[call.name])), json.dumps(call.arguments))
        for call in calls
        if offered[call.name]
    ]
    for result in ("wrong", "undecided"):
        worst = next((each for each in results if each.result == result), None)
        if worst is not None:
            return replace(worst, how=f"what the tool takes, {worst.how}")
    return found("right", "the form alone, of its tool calls", certainty=FORM_CERTAINTY)


def surer(reference: Comparison | None, check: Comparison | None) -> Comparison | None:
    """The one that is surer, and of equally sure ones the check: it was made for this very question."""
    if check is None or reference is None:
        return check or reference
    if check.result == "undecided" or (reference.result != "undecided" and reference.certainty > check.certainty):
        return reference
    return replace(check, expected=reference.expected)


def exactly(wanted: str, answer: str) -> Comparison:
    """Whether the answer is the text, but for white space around it."""
    return found("right" if answer.strip() == wanted.strip() else "wrong", "the exact text")


def found(result: Literal["right", "wrong"], how: str, *, certainty: float = 1.0) -> Comparison:
    """What a check decides."""
    return Comparison(result, how, certainty=certainty, by="check")


def undecided(how: str) -> Comparison:
    """A check that decides nothing."""
    return Comparison("undecided", how, certainty=0.0, by="check")


# JSON.


class NoJson(Exception):
    """The answer is no JSON."""


def schema_of(content: str) -> JsonValue:
    """The schema that a check holds. Raises ValueError, which says why it is none that we would hold an answer against."""
    if len(content.encode()) > MOST_CHECK_BYTES:
        raise ValueError(f"a schema of over {MOST_CHECK_BYTES // 1024} KiB")
    try:
        schema: JsonValue = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("a schema that is no JSON") from None
    if _too_large(schema):
        raise ValueError("a schema that is too deep or has too many parts")
    if _leads_out(schema):
        raise ValueError("a schema with references that lead out of it")
    return schema


def json_of(answer: str) -> JsonValue | None:
    """The JSON that an answer is, or holds in its only block of it. Raises NoJson, and ValueError where it is too much."""
    if len(answer) > MOST_ANSWER_CHARACTERS:
        raise ValueError("an answer that is too long")
    blocks = [body for language, body in _blocks(answer) if language in ("json", "")]
    text = blocks[0] if len(blocks) == 1 else answer
    try:
        value: JsonValue = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("an answer that is too deep") from None
    except ValueError:
        raise NoJson("no JSON") from None
    if _too_large(value, most_values=_MOST_VALUES * 10):
        raise ValueError("an answer that is too deep or has too many parts")
    return value


def held_against(faults: tuple[int, str] | None) -> Comparison:
    """What the validator's word comes to: the number of faults and the keyword of the first one, or None."""
    if faults is None:
        return undecided("a JSON Schema that is none, or takes too long")
    count, first = faults
    if count:
        return found("wrong", f"the JSON Schema: {count} fault{'s' if count > 1 else ''}, the first by `{first}`")
    return found("right", "the form alone, a JSON Schema", certainty=FORM_CERTAINTY)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _too_large(value: JsonValue, *, most_values: int = _MOST_VALUES) -> bool:
    level, values = [value], 0
    for _ in range(MOST_DEPTH):
        values += len(level)
        if not level or values > most_values:
            break
        level = [inner for each in level for inner in _inside(each)]
    return bool(level)


def _inside(value: JsonValue) -> Collection[JsonValue]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _leads_out(schema: JsonValue) -> bool:
    pending = [schema]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            references = [each.get(name) for name in _REFERENCES]
            if any(isinstance(reference, str) and not reference.startswith("#") for reference in references):
                return True
        pending.extend(_inside(each))
    return False


# Python.


def python_of(answer: str) -> str | None:
    """The Python code of an answer: its blocks of Python, else those without a name, else all of it where that is no prose."""
    if len(answer) > MOST_ANSWER_CHARACTERS:
        return None
    blocks = _blocks(answer)
    marked = [body for language, body in blocks if language in _PYTHON]
    if not marked:
        marked = [body for language, body in blocks if not language and _is_code(body)]
    if marked:
        return "\n\n".join(marked)
    return answer if not blocks and _is_code(answer) else None


def _is_code(text: str) -> bool:
    tree = _parsed(text)
    return tree is not None and any(isinstance(each, _CODE) for each in tree.body)


_CODE: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom)


def _parsed(text: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def why_no_tests(tests: str) -> str | None:
    """Why tests cannot decide anything, whatever the answer; None where they can."""
    if len(tests.encode()) > MOST_CHECK_BYTES:
        return f"tests of over {MOST_CHECK_BYTES // 1024} KiB"
    tree = _parsed(tests)
    if tree is None:
        return "tests that do not parse"
    for each in ast.walk(tree):
        if isinstance(each, ast.Assert | ast.Raise):
            return None
        if isinstance(each, ast.Attribute) and each.attr.startswith("assert"):
            return None
    return "tests that test nothing"


def _blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks that are whole: language in lower case, and body."""
    return [(match[2].lower(), match[3]) for match in _FENCE.finditer(text)] if "```" in text or "~~~" in text else []
