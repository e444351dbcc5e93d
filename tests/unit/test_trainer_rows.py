"""Dataset rows are checked before hours are spent on them, and only the answer is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

import pytest
from pydantic import JsonValue

from ruminate.trainer.rows import BadDataset, Row, parse_rows, render

QUESTION: dict[str, JsonValue] = {"role": "user", "content": "Why?"}
THOUGHTFUL: dict[str, JsonValue] = {"role": "assistant", "content": "So.", "reasoning_content": "Hm."}


def line(**changes: JsonValue) -> str:
    """A row that thinks, with these fields changed; None leaves one out."""
    row = {"prompt": [QUESTION], "completion": [THOUGHTFUL], "chat_template_kwargs": {"enable_thinking": True}, **changes}
    return json.dumps({key: value for key, value in row.items() if value is not None})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not json", "Invalid JSON"),
        (line(prompt=None), "prompt: Field required"),
        (line(prompt=[]), "prompt"),
        (line(prompt=[{"role": "robot", "content": "x"}]), "prompt.0.role"),
        (line(prompt=[{"role": "user", "content": 7}]), "prompt.0.content"),
        (line(prompt=[{"role": "system", "content": "x"}]), "must end with user or tool"),
        (line(completion=[]), "completion"),
        (line(completion=[QUESTION]), "completion.0.role"),
        (line(completion=[{"role": "assistant", "content": " ", "reasoning_content": "Hm."}]), "nothing to learn"),
        (line(chat_template_kwargs={"enable_thinking": False}), "enable_thinking is False, but the completion has reasoning"),
        (line(completion=[{"role": "assistant", "content": "So."}]), "enable_thinking is True, but the completion has no"),
        (line(chat_template_kwargs={"enable_thinking": "yes"}), "enable_thinking"),
        (line(tools="no json"), "tools are no JSON text"),
        (line(tools='["add"]'), "tools are no JSON text"),
        (line(prompt=[QUESTION | {"images": '[{"sha256": "0"}]'}]), "only text is taught here"),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_field(text: str, says: str) -> None:
    with pytest.raises(BadDataset, match=r"train\.jsonl line 3: ") as caught:
        parse_rows([line() + "\n", "\n", text], where="train.jsonl")
    assert says in str(caught.value)


def test_what_a_row_says_is_never_quoted() -> None:
    with pytest.raises(BadDataset) as caught:
        parse_rows([line(prompt=[{"role": "secret-role", "content": "secret text"}])], where="train.jsonl")
    assert "secret" not in str(caught.value)


def test_provenance_and_tool_calls_pass() -> None:
    call: dict[str, JsonValue] = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    completion: JsonValue = [{"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [call]}]
    (row,) = parse_rows([line(row={"origin": "fresh"}, completion=completion)], where="train.jsonl")
    assert row.completion[0].model_dump(mode="json", exclude_unset=True)["tool_calls"] == [call]


class LetterTokenizer:
    """One token a letter; `#` ends a turn, and a line break follows it, as in ChatML."""

    eos_token_id = ord("#")

    def __init__(self, *, forgets: bool = False) -> None:
        self._forgets = forgets

    def apply_chat_template(
        self,
        conversation: Sequence[dict[str, JsonValue]],
        *,
        tools: Sequence[dict[str, JsonValue]] | None,
        add_generation_prompt: bool,
        enable_thinking: bool,
        return_dict: Literal[False],
    ) -> list[int]:
        """The contents, each turn closed; with `forgets`, the first turn is dropped once an answer follows."""
        turns = conversation[1:] if self._forgets and not add_generation_prompt else conversation
        text = "".join(f"<{tool['name']}>" for tool in tools or ())
        text += "".join(f"{turn.get('reasoning_content', '')}{turn['content']}#\n" for turn in turns)
        return [ord(letter) for letter in text]


def row_of(text: str) -> Row:
    """The one row in `text`."""
    return parse_rows([text], where="train.jsonl")[0]


def test_the_answer_alone_is_trained_up_to_its_end_of_turn() -> None:
    tokens = render(row_of(line()), LetterTokenizer())
    assert "".join(map(chr, tokens.input_ids)) == "Why?#\nHm.So.#"
    assert tokens.labels == [-100] * len("Why?#\n") + [ord(letter) for letter in "Hm.So.#"]


def test_the_tools_that_were_offered_stand_before_the_question_and_are_not_trained() -> None:
    offered: JsonValue = json.dumps([{"name": "add"}, {"name": "now"}])
    tokens = render(row_of(line(tools=offered)), LetterTokenizer())
    assert "".join(map(chr, tokens.input_ids)) == "<add><now>Why?#\nHm.So.#"
    assert tokens.labels == [-100] * len("<add><now>Why?#\n") + [ord(letter) for letter in "Hm.So.#"]
    assert render(row_of(line(tools="[]")), LetterTokenizer()) == render(row_of(line()), LetterTokenizer())


def test_a_template_that_renders_the_prompt_in_two_ways_is_refused() -> None:
    with pytest.raises(BadDataset, match="renders the prompt differently"):
        render(row_of(line()), LetterTokenizer(forgets=True))
