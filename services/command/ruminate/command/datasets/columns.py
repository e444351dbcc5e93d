"""The columns of an exported dataset: one Arrow schema for every file, and each row in the form of either format.

    Parquet   what a row does not have is null; the schema is declared, so that a file of no rows has it, too
    JSONL     every field is there in every row, the empty string or list in place of null: readers guess types from
              what they see first, and a null says nothing

Readers guess the type of the tool calls from the first that they see. `leading` finds the rows that show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import pyarrow as pa
from pydantic import ValidationError

from ruminate.accumulator.dataset import RowOrigin
from ruminate.accumulator.rows import Call, Row, Turn

_TEXT: Final = pa.string()

_CALL: Final = pa.struct([
    ("type", _TEXT),
    ("id", _TEXT),
    ("function", pa.struct([("name", _TEXT), ("arguments", _TEXT)])),
])  # fmt: skip
_TURN: Final = pa.struct([
    ("role", _TEXT),
    ("content", _TEXT),
    ("reasoning_content", _TEXT),
    ("tool_calls", pa.list_(_CALL)),
    ("name", _TEXT),
    ("tool_call_id", _TEXT),
])  # fmt: skip
_COLUMNS: Final = (
    ("prompt", pa.list_(_TURN)),
    ("completion", pa.list_(_TURN)),
    ("chat_template_kwargs", pa.struct([("enable_thinking", pa.bool_())])),
)
_ORIGIN: Final = (
    "origin",
    pa.struct([
        ("batch", _TEXT),
        ("split", _TEXT),
        ("line", pa.int64()),
        ("origin", _TEXT),
        ("recorded_id", _TEXT),
        ("event_id", _TEXT),
        ("conversation", _TEXT),
        ("reasoning", pa.bool_()),
        ("sha256", _TEXT),
    ]),
)  # fmt: skip

_CALLS: Final = b'"tool_calls"'


class NotARow(ValueError):
    """A line of a dataset is not the row that this release knows; the message says where, never what is in it."""


def schema(*, with_origin: bool) -> Any:
    """The Arrow schema (`pyarrow.Schema`) of every file of an export."""
    return pa.schema([*_COLUMNS, _ORIGIN] if with_origin else _COLUMNS)


def features(*, with_origin: bool) -> list[dict[str, Any]]:
    """The same schema as `dataset_info.features` of a dataset card."""
    return [_feature(field.name, field.type) for field in schema(with_origin=with_origin)]


def _feature(name: str, kind: Any) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"name": name, "list": [_feature(field.name, field.type) for field in kind.value_type]}
    if pa.types.is_struct(kind):
        return {"name": name, "struct": [_feature(field.name, field.type) for field in kind]}
    return {"name": name, "dtype": str(kind)}


def parse(line: bytes, *, where: str) -> Row:
    """The row in a line. Raises NotARow."""
    try:
        return Row.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the row"
        raise NotARow(f"{where}: {field}: {first['type']}; export it with a release that knows this row") from None


def origin_of(row: RowOrigin, *, batch: str, line: int) -> dict[str, Any]:
    """Where a row comes from; `line` counts from 1 in the split's own file of the dataset."""
    return {
        "batch": batch,
        "split": row.split,
        "line": line,
        "origin": row.origin,
        "recorded_id": str(row.recorded_id),
        "event_id": row.event_id,
        "conversation": row.conversation,
        "reasoning": row.reasoning,
        "sha256": row.sha256,
    }


def for_parquet(row: Row) -> dict[str, Any]:
    """A row with nulls."""
    return row.model_dump(mode="json")


def for_json_lines(row: Row) -> dict[str, Any]:
    """A row without a null."""
    return {
        "prompt": [_turn(turn) for turn in row.prompt],
        "completion": [_turn(turn) for turn in row.completion],
        "chat_template_kwargs": {"enable_thinking": row.chat_template_kwargs.enable_thinking},
    }


def _turn(turn: Turn) -> dict[str, Any]:
    return {
        "role": turn.role,
        "content": turn.content,
        "reasoning_content": turn.reasoning_content or "",
        "tool_calls": [_call(call) for call in turn.tool_calls or ()],
        "name": turn.name or "",
        "tool_call_id": turn.tool_call_id or "",
    }


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"type": call.type, "id": call.id or "", "function": function}


def leading(lines: Iterable[bytes], *, where: str) -> Iterator[tuple[int, str]]:
    """Numbers from 1 of the first line with tool calls in the prompt and of the first with some in the completion, and which."""
    wanted = {"prompt", "completion"}
    for number, line in enumerate(lines, start=1):
        if not wanted:
            return
        if _CALLS in line:
            row = parse(line, where=f"{where} line {number}")
            sides = {"prompt": row.prompt, "completion": row.completion}
            for side in [name for name in sorted(wanted) if any(turn.tool_calls for turn in sides[name])]:
                wanted.discard(side)
                yield number, side
