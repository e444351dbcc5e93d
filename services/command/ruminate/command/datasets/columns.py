"""The columns of an exported dataset: one Arrow schema for every file of a config, and each line in the form of either format.

    Parquet   what a row does not have is null; the schema is declared, so that a file of no rows has it, too
    JSONL     every field is there in every row, the empty string or list in place of null: readers guess types from
              what they see first, and a null says nothing

`tools` and `images` are JSON text of a list, for their keys differ from row to row; trainers read the text of `tools` themselves.

Readers guess the type of the tool calls from the first that they see. `leading` finds the rows that show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from ruminate.accumulator.making.report import Pairing, Practice
from ruminate.accumulator.records.rows import Call, Row, Turn
from ruminate.command.datasets.files import Config

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
    ("images", "string"),
]
_TEMPLATE: Final[Field] = ("chat_template_kwargs", (("enable_thinking", "bool"),))
_TOOLS: Final[Field] = ("tools", "string")
_PLACE: Final[tuple[Field, ...]] = (("batch", "string"), ("split", "string"), ("line", "int64"))

Sealed = Row | Pairing | Practice
"""A line of a dataset, parsed."""


@dataclass(frozen=True, slots=True)
class Form:
    """What the lines of a config are."""

    model: type[Row] | type[Pairing] | type[Practice]
    messages: tuple[str, ...]
    """The columns of messages."""
    columns: tuple[Field, ...]
    origin: tuple[Field, ...]
    """What is said in the column `origin` of where a line comes from."""


ROWS: Final = Form(
    Row,
    ("prompt", "completion"),
    (("prompt", _TURN), ("completion", _TURN), _TEMPLATE, _TOOLS),
    (
        *_PLACE,
        ("origin", "string"),
        ("fresh_batch", "string"),
        ("fresh_line", "int64"),
        ("recorded_id", "string"),
        ("event_id", "string"),
        ("conversation", "string"),
        ("reasoning", "bool"),
        ("thinking", "string"),
        ("domain", "string"),
        ("difficulty", "string"),
        ("sha256", "string"),
    ),
)
FORMS: Final[dict[Config, Form]] = {
    "default": ROWS,
    "preferences": Form(
        Pairing,
        ("prompt", "chosen", "rejected"),
        (("prompt", _TURN), ("chosen", _TURN), ("rejected", _TURN), _TEMPLATE, _TOOLS),
        (
            *_PLACE,
            ("kind", "string"),
            ("chosen_recorded_id", "string"),
            ("rejected_recorded_id", "string"),
            ("domain", "string"),
            ("difficulty", "string"),
            ("sha256", "string"),
        ),
    ),
    "verifiable": Form(
        Practice,
        ("prompt",),
        (("prompt", _TURN), ("check", (("kind", "string"), ("content", "string"))), _TOOLS),
        (
            *_PLACE,
            ("recorded_id", "string"),
            ("conversation", "string"),
            ("domain", "string"),
            ("difficulty", "string"),
            ("sha256", "string"),
        ),
    ),
}

_CALLS: Final = b'"tool_calls"'
_NOTHING: Final = "[]"
"""JSON text of a list without anything: no text at all is no JSON, and would stop who reads it."""


class NotARow(ValueError):
    """A line of a dataset is not the row that this release knows; the message says where, never what is in it."""


def columns(form: Form = ROWS, *, with_origin: bool) -> tuple[Field, ...]:
    """Every column of an export."""
    return (*form.columns, ("origin", form.origin)) if with_origin else form.columns


def schema(form: Form = ROWS, *, with_origin: bool) -> Any:
    """The columns as `pyarrow.Schema`, the same for every file of a config."""
    import pyarrow as pa  # noqa: PLC0415 - 45 MB that only an export needs

    def arrow(kind: Kind) -> Any:
        match kind:
            case str():
                return pa.type_for_alias(kind)
            case list():
                return pa.list_(arrow(tuple(kind)))
            case tuple():
                return pa.struct([(name, arrow(each)) for name, each in kind])

    return pa.schema([(name, arrow(kind)) for name, kind in columns(form, with_origin=with_origin)])


def features(form: Form = ROWS, *, with_origin: bool) -> list[dict[str, Any]]:
    """The columns as `dataset_info.features` of a dataset card."""
    return [_feature(name, kind) for name, kind in columns(form, with_origin=with_origin)]


def _feature(name: str, kind: Kind) -> dict[str, Any]:
    if isinstance(kind, str):
        return {"name": name, "dtype": kind}
    return {"name": name, "list" if isinstance(kind, list) else "struct": [_feature(*field) for field in kind]}


def parse_row(line: bytes, *, where: str) -> Row:
    """The row in a line. Raises NotARow."""
    row = parse(line, where=where)
    if not isinstance(row, Row):
        raise NotARow(f"{where}: no row")
    return row


def parse(line: bytes, form: Form = ROWS, *, where: str) -> Sealed:
    """What is in a line. Raises NotARow."""
    try:
        return form.model.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the row"
        raise NotARow(f"{where}: {field}: {first['type']}; export it with a release that knows this row") from None


def for_parquet(row: Sealed) -> dict[str, Any]:
    """A line with nulls."""
    return row.model_dump(mode="json")


def for_json_lines(row: Sealed) -> dict[str, Any]:
    """A line without a null."""
    match row:
        case Row():
            said: dict[str, Any] = {"prompt": _turns(row.prompt), "completion": _turns(row.completion)}
        case Pairing():
            said = {"prompt": _turns(row.prompt), "chosen": _turns(row.chosen), "rejected": _turns(row.rejected)}
        case Practice():
            check = {"kind": row.check.kind, "content": row.check.content}
            return {"prompt": _turns(row.prompt), "check": check, "tools": row.tools or _NOTHING}
    switches = {"enable_thinking": row.chat_template_kwargs.enable_thinking}
    return said | {"chat_template_kwargs": switches, "tools": row.tools or _NOTHING}


def origin_for_json_lines(origin: dict[str, Any]) -> dict[str, Any]:
    """What is said of where a line comes from, without a null."""
    return {name: "" if value is None else value for name, value in origin.items()}


def _turns(turns: Iterable[Turn]) -> list[dict[str, Any]]:
    return [_turn(turn) for turn in turns]


def _turn(turn: Turn) -> dict[str, Any]:
    return {
        "role": turn.role,
        "content": turn.content,
        "reasoning_content": turn.reasoning_content or "",
        "tool_calls": [_call(call) for call in turn.tool_calls or ()],
        "name": turn.name or "",
        "tool_call_id": turn.tool_call_id or "",
        "images": turn.images or _NOTHING,
    }


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"type": call.type, "id": call.id or "", "function": function}


def leading(lines: Iterable[bytes], form: Form = ROWS, *, where: str) -> Iterator[tuple[int, str]]:
    """Numbers from 1 of the first line with tool calls in each column of messages, and which column that is."""
    wanted = set(form.messages)
    for number, line in enumerate(lines, start=1):
        if not wanted:
            return
        if _CALLS in line:
            row = parse(line, form, where=f"{where} line {number}")
            for column in [name for name in sorted(wanted) if any(turn.tool_calls for turn in getattr(row, name))]:
                wanted.discard(column)
                yield number, column
