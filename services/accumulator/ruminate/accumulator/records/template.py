"""Template: whether a row survives Qwen3's chat template: written out by it and read back, everything is what it was. Pure.

    <|im_start|>user\\n question <|im_end|>\\n<|im_start|>assistant\\n<think>\\n thinking \\n</think>\\n\\n answer <|im_end|>\\n

These marks are single tokens. A text that holds them is read as something else: an answer with `<|im_end|>` in it ends there. Tests
hold what is written here against the template itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

START, END = "<|im_start|>", "<|im_end|>"
_THINK, _THOUGHT = "<think>\n", "\n</think>\n\n"
_CALL, _CALLED = '<tool_call>\n{"name": "', "}\n</tool_call>"
_ARGUMENTS: Final = '", "arguments": '
_RESULT, _RESULT_END = "\n<tool_response>\n", "\n</tool_response>"
_CONTROL: Final = re.compile(r"<\|(?:im_start|im_end|endoftext|fim_\w+|repo_name|file_sep|\w+_(?:start|end|pad))\|>")
_OF_ANSWERS: Final = re.compile(r"</?(?:think|tool_call)>")
_OF_RESULTS: Final = re.compile(r"</?tool_response>")


def breaks(asked: Iterable[str], answer: Iterable[str]) -> bool:
    """Whether texts hold marks of the template: what was asked before the answer, and the answer's thinking and content."""
    if any("<" in text and (_CONTROL.search(text) or _OF_RESULTS.search(text)) for text in asked):
        return True
    return any("<" in text and (_CONTROL.search(text) or _OF_ANSWERS.search(text)) for text in answer)


def survives(row: dict[str, Any]) -> bool:
    """Whether what the template writes of a row is read back as the same row: its turns, the thinking, the answer, the calls."""
    (answer,) = row["completion"]
    written = written_out(row["prompt"], answer)
    said = [(turn["role"], turn["content"]) for turn in row["prompt"]]
    return read_back(written) == (_merged(said), _parts_of(answer))


def written_out(prompt: Iterable[dict[str, Any]], answer: dict[str, Any]) -> str:
    """The conversation as the template writes it; of earlier turns of the model, what it said."""
    text = ""
    for role, content in _merged((turn["role"], turn["content"]) for turn in prompt):
        text += f"{START}{role}\n{content}{END}\n"
    thinking, content, calls = _parts_of(answer)
    text += f"{START}assistant\n{_THINK}{thinking}{_THOUGHT}{content}"
    for number, (name, arguments) in enumerate(calls):
        text += "\n" if answer["content"] or number else ""  # also where all of it were line breaks
        text += f"{_CALL}{name}{_ARGUMENTS}{arguments}{_CALLED}"
    return text + f"{END}\n"


Parts = tuple[str, str, tuple[tuple[str, str], ...]]


def read_back(text: str) -> tuple[list[tuple[str, str]], Parts] | None:
    """The turns before the answer, and thinking, content and calls of the answer; None where they cannot be told apart."""
    turns = []
    for turn in text.split(START)[1:]:
        said, ended, rest = turn.partition(END)
        role, _, content = said.partition("\n")
        if not ended or rest != "\n":
            return None
        turns.append((role, content))
    if not turns or turns[-1][0] != "assistant":
        return None
    thinking, thought, said = turns.pop()[1].removeprefix(_THINK).partition(_THOUGHT)
    if not thought:
        return None
    content, *calls = said.split(_CALL)
    found = []
    for number, call in enumerate(calls):
        name, _, arguments = call.partition(_ARGUMENTS)
        last = number == len(calls) - 1
        if not arguments.endswith(_CALLED if last else _CALLED + "\n"):
            return None
        found.append((name, arguments.removesuffix("\n").removesuffix(_CALLED)))
    return turns, (thinking, content.removesuffix("\n") if calls else content, tuple(found))


def _parts_of(answer: dict[str, Any]) -> Parts:
    """What the template keeps: line breaks around the thinking and before the answer are its own."""
    calls = tuple((call["function"]["name"], call["function"]["arguments"]) for call in answer.get("tool_calls") or ())
    return (answer.get("reasoning_content") or "").strip("\n"), answer["content"].lstrip("\n"), calls


def _merged(turns: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Results of tools are told by the user, those that follow one another in one turn."""
    merged: list[tuple[str, str]] = []
    tells = False
    for role, content in turns:
        if role != "tool":
            merged.append((role, content))
        elif tells:
            merged[-1] = ("user", f"{merged[-1][1]}{_RESULT}{content}{_RESULT_END}")
        else:
            merged.append(("user", f"{_RESULT.lstrip()}{content}{_RESULT_END}"))
        tells = role == "tool"
    return merged
