"""The columns of an exported dataset: one Arrow schema for every file, and each row in the form of either format.

    Parquet   what a row does not have is null; the schema is declared, so that a file of no rows has it, too
    JSONL     every field is there in every row, the empty string or list in place of null: readers guess types from
              what they see first, and a null says nothing

Readers guess the type of the tool calls from the first that they see. `leading` finds the rows that show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from pydantic import ValidationError

from ruminate.accumulator.dataset import RowOrigin
from ruminate.accumulator.rows import Call, Row, Turn

Kind = str | tuple["Field", ...] | list["Field"]
"""A type by its name, a struct as the tuple of its fields, or a list of structs as the list of theirs."""
Field = tuple[str, Kind]

_CALL: Final[list[Field]] = [
    ("type", "string"),
    ("id", "string"),
    ("function", (("name", "string"), ("arguments", "string"))),
]
_TURN: Final[list[Field]] = [
    ("role", "string"),
    ("content", "string"),
    ("reasoning_content", "string"),
    ("tool_calls", _CALL),
    ("name", "string"),
    ("tool_call_id", "string"),
]
_COLUMNS: Final[tuple[Field, ...]] = (
    ("prompt", _TURN),
    ("completion", _TURN),
    ("chat_template_kwargs", (("enable_thinking", "bool"),)),
)
_ORIGIN: Final[Field] = (
    "origin",
    (
        ("batch", "string"),
        ("split", "string"),
        ("line", "int64"),
        ("origin", "string"),
        ("recorded_id", "string"),
        ("event_id", "string"),
        ("conversation", "string"),
        ("reasoning", "bool"),
        ("sha256", "string"),
    ),
)

_CALLS: Final = b'"tool_calls"'


class NotARow(ValueError):
    """A line of a dataset is not the row that this release knows; the message says where, never what is in it."""


def columns(*, with_origin: bool) -> tuple[Field, ...]:
    """Every column of an export."""
    return (*_COLUMNS, _ORIGIN) if with_origin else _COLUMNS


def schema(*, with_origin: bool) -> Any:
    """The columns as `pyarrow.Schema`, the same for every file."""
    import pyarrow as pa  # noqa: PLC0415 - 45 MB that only an export needs

    def arrow(kind: Kind) -> Any:
        match kind:
            case str():
                return pa.type_for_alias(kind)
            case list():
                return pa.list_(arrow(tuple(kind)))
            case tuple():
                return pa.struct([(name, arrow(each)) for name, each in kind])

    return pa.schema([(name, arrow(kind)) for name, kind in columns(with_origin=with_origin)])


def features(*, with_origin: bool) -> list[dict[str, Any]]:
    """The columns as `dataset_info.features` of a dataset card."""
    return [_feature(name, kind) for name, kind in columns(with_origin=with_origin)]


def _feature(name: str, kind: Kind) -> dict[str, Any]:
    if isinstance(kind, str):
        return {"name": name, "dtype": kind}
    return {"name": name, "list" if isinstance(kind, list) else "struct": [_feature(*field) for field in kind]}


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
