"""The tools that a request offers read the same in every spelling; a list with one that cannot be told is refused whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ruminate.schemas.interaction import ToolDefinition
from ruminate.shared.tools_offered import UnreadableTools, read_tools

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"where": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["where"],
}
WEATHER = ToolDefinition(name="weather", description="Tells the weather.", parameters=SCHEMA)
FLAT = {"name": "weather", "description": "Tells the weather.", "parameters": SCHEMA}


@pytest.mark.parametrize(
    "offered",
    [
        [{"type": "function", "function": FLAT}],
        [{"function": FLAT}],
        [{"type": "function", **FLAT}],
        [FLAT],
        [{"type": "custom", "name": "weather", "description": "Tells the weather.", "input_schema": SCHEMA}],
        [FLAT | {"parameters": json.dumps(SCHEMA)}],
        [json.dumps({"type": "function", "function": FLAT})],
        json.dumps([FLAT]),
    ],
)
def test_every_spelling_of_a_tool_reads_the_same(offered: Any) -> None:
    assert read_tools(offered) == (WEATHER,)
    spelled = read_tools(offered)[0].model_dump_json()
    assert spelled.index('"where"') < spelled.index('"days"')  # in the order in which the model reads it


@pytest.mark.parametrize("offered", [None, [], "", "[]", " "])
def test_where_nothing_is_offered_there_is_nothing(offered: Any) -> None:
    assert read_tools(offered) == ()


def test_a_tool_without_parameters_and_description_has_none() -> None:
    assert read_tools([{"name": "now", "parameters": None}]) == (ToolDefinition(name="now"),)


@pytest.mark.parametrize(
    ("offered", "says"),
    [
        ("secret", "the list of tools is text that is no JSON"),
        ({"secret": 1}, "the tools are of type dict"),
        ([FLAT, 7], "tool 1 is of type int"),
        ([FLAT, {"type": "web_search"}], "tool 1 is no function"),
        ([{"type": "function", "function": "secret"}], "the function of tool 0 is of type str"),
        ([{"description": "secret"}], "tool 0: name"),
        ([FLAT | {"parameters": ["secret"]}], "tool 0: parameters"),
        ([FLAT | {"parameters": "secret"}], "what tool 0 takes is text that is no JSON"),
        ([FLAT | {"description": {"secret": 1}}], "tool 0: description"),
    ],
)
def test_what_cannot_be_told_is_refused_without_contents(offered: Any, says: str) -> None:
    with pytest.raises(UnreadableTools) as refused:
        read_tools(offered)
    assert says in str(refused.value)
    assert "secret" not in str(refused.value)
