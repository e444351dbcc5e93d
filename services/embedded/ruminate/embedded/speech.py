"""Telling thinking, answer and tool calls apart in text that arrives piece by piece. Pure.

A tag may be cut anywhere between two pieces, so what could still become one is held back until it is decided; `finish`
gives out what was held and became none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import orjson

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"


class ThinkingSplitter:
    """Splits `<think>…</think>` off the beginning; white space behind a tag belongs to nobody.

    >>> splitter = ThinkingSplitter()
    >>> [splitter.add(piece) for piece in ("<th", "ink>\\nhm", "m</thi", "nk>\\n\\nYes")]
    [('', ''), ('hm', ''), ('m', ''), ('', 'Yes')]
    """

    def __init__(self, *, inside: bool = False) -> None:
        """`inside`: the prompt has opened the thinking already."""
        self._state: Literal["before", "thinking", "answer"] = "thinking" if inside else "before"
        self._behind_tag = inside
        self._held = ""

    @property
    def answering(self) -> bool:
        """Whether thinking is over, or was left out."""
        return self._state == "answer"

    def add(self, piece: str) -> tuple[str, str]:
        """The thinking and the answer that are certain now."""
        thinking = ""
        self._held += piece
        if self._state == "before":
            text = self._held.lstrip()
            if text.startswith(THINK_OPEN):
                self._enter("thinking", text.removeprefix(THINK_OPEN))
            elif THINK_OPEN.startswith(text):
                return "", ""
            else:
                self._state = "answer"
        if self._state == "thinking":
            thinking, closed, after = self._text().partition(THINK_CLOSE)
            if closed:
                self._enter("answer", after)
            else:
                thinking, self._held = _hold_back(thinking, THINK_CLOSE)
                self._behind_tag &= not thinking
                return thinking, ""
        answer = self._text()
        self._held = ""
        self._behind_tag &= not answer
        return thinking, answer

    def finish(self) -> tuple[str, str]:
        """What was held back and became no tag."""
        held, self._held = self._held, ""
        return (held, "") if self._state == "thinking" else ("", held)

    def _enter(self, state: Literal["thinking", "answer"], rest: str) -> None:
        self._state, self._held, self._behind_tag = state, rest, True

    def _text(self) -> str:
        return self._held.lstrip() if self._behind_tag else self._held


@dataclass(frozen=True, slots=True)
class Call:
    """A tool that the model wants called."""

    name: str
    arguments: dict[str, Any]


class ToolCallSplitter:
    """Takes `<tool_call>{"name": …, "arguments": {…}}</tool_call>` out of an answer; what is no call of a known tool is dropped.

    So does Ollama: an agent that is given a call as text would show it to people.
    """

    def __init__(self, tools: Iterable[str]) -> None:
        self._tools = frozenset(tools)
        self._held = ""
        self._inside = False
        self._called = False

    def add(self, piece: str) -> tuple[str, tuple[Call, ...]]:
        """The text and the calls that are certain now."""
        self._held += piece
        text, calls = "", []
        while True:
            before, tag, after = self._held.partition(CALL_CLOSE if self._inside else CALL_OPEN)
            if not tag:
                break
            self._held = after
            if self._inside:
                if (call := self._read(before)) is not None:
                    calls.append(call)
                self._called = True
            else:
                text += self._between(before)
            self._inside = not self._inside
        if not self._inside:
            certain, self._held = _hold_back(self._held, CALL_OPEN)
            text += self._between(certain)
        return text, tuple(calls)

    def finish(self) -> tuple[str, tuple[Call, ...]]:
        """A last call whose tag was not closed, or the text that could have become a tag."""
        held, self._held = self._held, ""
        if not self._inside:
            return held, ()
        call = self._read(held)
        return "", () if call is None else (call,)

    def _between(self, text: str) -> str:
        # Line breaks between two calls are the template's, not the model's answer.
        return "" if self._called and not text.strip() else text

    def _read(self, body: str) -> Call | None:
        try:
            said = orjson.loads(body)
            arguments = said.get("arguments", said.get("parameters", {}))
            if isinstance(arguments, str):
                arguments = orjson.loads(arguments)
        except (orjson.JSONDecodeError, AttributeError):
            return None
        name = said.get("name")
        return Call(name, arguments) if name in self._tools and isinstance(arguments, dict) else None


def _hold_back(text: str, tag: str) -> tuple[str, str]:
    """`text` without the end that could be the beginning of `tag`, and that end."""
    for length in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:length]):
            return text[:-length], text[-length:]
    return text, ""
