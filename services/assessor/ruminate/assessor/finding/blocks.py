"""Blocks: what stands in a text to be checked as it is: code that must parse, JSON that must be valid, quotations that must exist.

Nothing is run here. What has no parser of ours is left alone.
"""

from __future__ import annotations

import ast
import re
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import orjson

_FENCE = re.compile(
    r"^[ \t]{0,3}```[ \t]{0,3}([A-Za-z0-9_+-]{0,20})[^\n]{0,80}\n(.*?)(?:^[ \t]{0,3}```|\Z)", re.MULTILINE | re.DOTALL
)
_QUOTE = re.compile(r"[“\"„«]([^“”\"„«»\n]{12,300})[”\"“»]")
_MOST_CHARACTERS = 20_000
"""Of a block: a longer one is left alone."""
_MOST_BLOCKS = 20
_LEAST_QUOTED_WORDS = 4
_SPACES = re.compile(r"\W+")


@dataclass(frozen=True, slots=True)
class Blocks:
    """How many blocks had a parser, how many of those it refused, and the same of quotations."""

    checked: int = 0
    broken: tuple[str, ...] = ()
    """Why each was refused, without contents: the language, the line, the parser's complaint."""
    quoted: int = 0
    misquoted: int = 0


NONE: Final = Blocks()


def _python(source: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        ast.parse(source)


_PARSERS: Final[dict[str, Callable[[str], object]]] = {
    "python": _python, "py": _python, "python3": _python, "json": orjson.loads, "toml": tomllib.loads,
}  # fmt: skip


def check_blocks(thinking: str, answer: str, context: Callable[[], str]) -> Blocks:
    """Check the fenced blocks of the answer, and the quotations of both texts against `context`, which is asked for only then.

    Blocks in thinking are drafts: only those of the answer count.
    """
    checked, broken = 0, []
    if "```" in answer:
        for found in list(_FENCE.finditer(answer))[:_MOST_BLOCKS]:
            language, source = found[1].lower(), found[2]
            parse = _PARSERS.get(language)
            if parse is None or len(source) > _MOST_CHARACTERS or _elided(source):
                continue
            checked += 1
            if (complaint := _complaint(parse, source)) is not None:
                broken.append(f"{language}: {complaint}")
    quoted, misquoted = _quotations(thinking, answer, context)
    return Blocks(checked, tuple(broken), quoted, misquoted) if checked or quoted else NONE


def json_is_valid(text: str) -> bool | None:
    """Whether an answer that is JSON and nothing else, is valid; None where it does not look like JSON."""
    text = text.strip()
    if not text or text[0] not in "{[" or text[-1] not in "}]":
        return None
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        # "[1] see below [2]" is a text that begins and ends with a bracket.
        return False if text[0] == "{" else None
    return True


def _elided(source: str) -> bool:
    """Whether a block leaves something out by an ellipsis, and so is no whole."""
    return any(line.strip().strip("#/ ") in ("...", "…") for line in source.splitlines())


def _complaint(parse: Callable[[str], object], source: str) -> str | None:
    try:
        parse(source)
    except SyntaxError as error:
        # A block may be the inside of something, or a session at the prompt.
        if source.lstrip().startswith(">>>") or (source[:1].isspace() and _complaint(parse, _dedented(source)) is None):
            return None
        return f"line {error.lineno}, {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return type(error).__name__
    return None


def _dedented(source: str) -> str:
    lines = source.splitlines()
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[indent:] for line in lines)


def _quotations(thinking: str, answer: str, context: Callable[[], str]) -> tuple[int, int]:
    quotes = [quote for text in (thinking, answer) if _may_quote(text) for quote in _QUOTE.findall(text)]
    quotes = [quote for quote in quotes if len(quote.split()) >= _LEAST_QUOTED_WORDS]
    if not quotes:
        return 0, 0
    known = _plain(context())
    return len(quotes), sum(_plain(quote) not in known for quote in quotes)


def _may_quote(text: str) -> bool:
    return '"' in text or "“" in text or "„" in text or "«" in text


def _plain(text: str) -> str:
    return _SPACES.sub(" ", text.lower()).strip()
