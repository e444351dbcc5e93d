"""The columns of an export: one schema, and rows in which no type has to be guessed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ruminate.command.datasets.columns import NotARow, features, for_json_lines, for_parquet, leading, parse, schema
from ruminate.command.datasets.export import Written, puzzling

CALL = {"type": "function", "function": {"name": "look_up", "arguments": '{"term": "wren"}'}}


def row(*, prompt_calls: bool = False, answer_calls: bool = False) -> bytes:
    prompt: list[dict[str, Any]] = [{"role": "user", "content": "What is a wren?"}]
    if prompt_calls:
        prompt += [{"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "A bird."}]
    answer = {"role": "assistant", "content": "A bird."} | ({"tool_calls": [CALL]} if answer_calls else {})
    return json.dumps({"prompt": prompt, "completion": [answer], "chat_template_kwargs": {"enable_thinking": False}}).encode()


def test_json_lines_have_every_field_and_no_null_and_parquet_says_null() -> None:
    lines = for_json_lines(parse(row(prompt_calls=True), where="line 1"))
    assert lines["prompt"][0] == {
        "role": "user",
        "content": "What is a wren?",
        "reasoning_content": "",
        "tool_calls": [],
        "name": "",
        "tool_call_id": "",
        "images": "[]",
    }
    assert lines["tools"] == "[]"
    assert lines["prompt"][1]["tool_calls"] == [CALL | {"id": ""}]
    assert "null" not in json.dumps(lines)
    assert for_parquet(parse(row(), where="line 1"))["completion"][0]["tool_calls"] is None


def test_the_first_rows_that_show_the_type_of_tool_calls_are_found_for_each_column() -> None:
    lines = [row(), row(answer_calls=True), row(answer_calls=True), row(prompt_calls=True), row(prompt_calls=True)]
    assert list(leading(lines, where="train.jsonl")) == [(2, "completion"), (4, "prompt")]
    assert list(leading([row(prompt_calls=True, answer_calls=True)], where="train.jsonl")) == [(1, "completion"), (1, "prompt")]
    assert list(leading([row()], where="train.jsonl")) == []


def test_tool_calls_that_only_a_later_file_has_are_said() -> None:
    def file(name: str, *columns: str, rows: int = 1) -> Written:
        return Written(name, "train", rows, 1, "", columns)

    assert puzzling([file("train.jsonl"), file("holdout.jsonl", "prompt")]) == "prompt"
    assert puzzling([file("train.jsonl", "prompt"), file("holdout.jsonl", "prompt")]) is None
    assert puzzling([file("train.parquet"), file("holdout.parquet", "prompt")]) is None
    assert puzzling([file("train.jsonl", rows=0), file("holdout.jsonl", "prompt")]) is None
    assert puzzling([]) is None


def test_a_line_that_is_no_row_is_named_and_not_quoted() -> None:
    with pytest.raises(NotARow, match=r"^line 3: chat_template_kwargs: missing") as raised:
        parse(
            b'{"prompt": [{"role": "user", "content": "secret"}], "completion": [{"role": "assistant", "content": "x"}]}',
            where="line 3",
        )
    assert "secret" not in str(raised.value)


def test_the_features_of_the_card_are_those_of_the_schema() -> None:
    import datasets

    for with_origin in (True, False):
        said = datasets.Features._from_yaml_list(features(with_origin=with_origin))
        assert said.arrow_schema.remove_metadata() == schema(with_origin=with_origin)
