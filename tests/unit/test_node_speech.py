"""Thinking, answers and tool calls are told apart however the text is cut into pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.embedded.speech import Call, ThinkingSplitter, ToolCallSplitter

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def split_thinking(pieces: list[str], *, inside: bool = False) -> tuple[str, str]:
    splitter = ThinkingSplitter(inside=inside)
    said = [*map(splitter.add, pieces), splitter.finish()]
    return "".join(thinking for thinking, _ in said), "".join(answer for _, answer in said)


def split_calls(pieces: list[str]) -> tuple[str, list[Call]]:
    splitter = ToolCallSplitter({"add"})
    said = [*map(splitter.add, pieces), splitter.finish()]
    return "".join(text for text, _ in said), [call for _, calls in said for call in calls]


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("<think>\nhm\n</think>\n\nYes", "hm\n", "Yes"),
        ("\n <think>hm</think>Yes", "hm", "Yes"),
        ("Yes, <think> is a tag", "", "Yes, <think> is a tag"),
        ("<think>\n\n</think>\n\nYes", "", "Yes"),
        ("<think>never closed </thi", "never closed </thi", ""),
        ("<thin", "", "<thin"),
        ("<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
        ("  plain", "", "  plain"),
        ("", "", ""),
    ],
)
def test_thinking_is_split_whatever_the_pieces(text: str, thinking: str, answer: str) -> None:
    assert split_thinking([text]) == (thinking, answer)
    assert split_thinking(list(text)) == (thinking, answer)


def test_thinking_that_the_prompt_has_opened_needs_no_tag() -> None:
    assert split_thinking(["\nhm", "</think>", "\n\nYes"], inside=True) == ("hm", "Yes")


@given(st.text(alphabet="<>/think \nab", max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_where_the_pieces_are_cut_changes_nothing(text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    assert split_thinking(pieces) == split_thinking([text])
    assert split_calls(pieces) == split_calls([text])


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (CALL, "", 1),
        (f"Adding.\n{CALL}", "Adding.\n", 1),
        (f"{CALL}\n{CALL}", "", 2),
        (CALL.removesuffix("</tool_call>"), "", 1),
        ("plain <tool", "plain <tool", 0),
        ("<tool_call>{broken</tool_call>", "", 0),
        ('No.<tool_call>{"name": "unknown", "arguments": {}}</tool_call>', "No.", 0),
        ("<tool_call>[1]</tool_call>", "", 0),
        ("<tool_call>cut off", "", 0),
    ],
)
def test_calls_are_taken_out_and_what_is_none_is_dropped(text: str, content: str, calls: int) -> None:
    for pieces in ([text], list(text)):
        assert split_calls(pieces) == (content, [Call("add", {"a": 1})] * calls)


def test_arguments_may_be_json_in_a_string_or_be_called_parameters() -> None:
    assert split_calls(['<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>'])[1] == [Call("add", {"a": 1})]
    assert split_calls(['<tool_call>{"name": "add", "parameters": {"a": 1}}</tool_call>'])[1] == [Call("add", {"a": 1})]
