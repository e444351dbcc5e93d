"""The records of a file, one at a time, however long it is: a line, an item of a JSON array, or a row of CSV.

jsonl      an object a line; a place in it is a byte, and reading goes on there
array      [object, …]; reading goes on by counting
pages      {"data": [object, …], …}, a page of an API; likewise
document   one object, over several lines
csv        a header and rows; likewise
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import ijson
import orjson

from ruminate.command.imports.told import Refused
from ruminate.schemas.topic import MEBIBYTE

Container = Literal["jsonl", "array", "pages", "document", "csv"]

NOT_JSON: Final = "not_json"
NOT_AN_OBJECT: Final = "not_an_object"
TOO_LARGE: Final = "too_large"

RECORD_BYTES: Final = 64 * MEBIBYTE
"""A record of more is refused: it has to be held in memory as a whole."""

_BOM: Final = b"\xef\xbb\xbf"
_PEEK_BYTES: Final = 64 * 1024
_HASHED_AT_ONCE: Final = 4 * MEBIBYTE
_PAGE: Final = re.compile(rb'\s*\{\s*"data"\s*:\s*\[')


class CannotRead(Exception):
    """The file, or its rest, is nothing that we can read; says where and why, without contents."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a file was read: records, lines where it has any, and bytes where reading can go on at one."""

    records: int = 0
    line: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """One record, or why there is none; `line` is where it begins, `after` the place behind it, `read_bytes` for the progress."""

    value: dict[str, Any] | Refused
    number: int
    line: int | None
    after: Place
    read_bytes: int


def container_of(path: Path) -> Container:
    """What kind of file this is, by its beginning. Raises CannotRead."""
    if path.suffix.lower() == ".csv":
        return "csv"
    with path.open("rb") as file:
        beginning = file.read(_PEEK_BYTES).removeprefix(_BOM).lstrip()
        if beginning.startswith(b"["):
            return "array"
        if _PAGE.match(beginning):
            return "pages"
        if beginning.startswith(b"{"):
            file.seek(0)
            first = next((line for line in iter(lambda: file.readline(RECORD_BYTES), b"") if line.strip(b" \t\r\n" + _BOM)), b"")
            return "jsonl" if _is_object(first) or path.suffix.lower() in (".jsonl", ".ndjson") else "document"
    if not beginning:
        raise CannotRead(f"{path} is empty")
    raise CannotRead(f"{path} begins neither like JSON nor ends in .csv; JSON, JSON lines and CSV are read")


def hash_of(path: Path, told: Callable[[int], None]) -> str:
    """SHA-256 of the whole file in hexadecimal; `told` hears how many bytes are read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_HASHED_AT_ONCE):
            digest.update(piece)
            told(len(piece))
    return digest.hexdigest()


def read_records(path: Path, container: Container, start: Place) -> Iterator[Record]:
    """The records from this place on. Raises CannotRead where the rest cannot be read, and OSError."""
    with path.open("rb") as file:
        yield from _READERS[container](file, start, str(path))


def _lines(file: BinaryIO, start: Place, _: str) -> Iterator[Record]:
    file.seek(start.offset)
    number, line, offset = start.records, start.line, start.offset
    while raw := file.readline(RECORD_BYTES):
        line += 1
        offset += len(raw)
        too_large = len(raw) == RECORD_BYTES and not raw.endswith(b"\n")
        while too_large and (more := file.readline(RECORD_BYTES)):
            offset += len(more)
            if more.endswith(b"\n"):
                break
        if line == 1:
            raw = raw.removeprefix(_BOM)
        if not raw.strip():
            continue
        number += 1
        value = (
            Refused(TOO_LARGE, f"the line has more than {RECORD_BYTES} bytes, which is the limit") if too_large else _parsed(raw)
        )
        yield Record(value, number, line, Place(number, line, offset), offset)


def _items(prefix: str) -> Callable[[BinaryIO, Place, str], Iterator[Record]]:
    def read(file: BinaryIO, start: Place, name: str) -> Iterator[Record]:
        number = 0
        if file.read(len(_BOM)) != _BOM:
            file.seek(0)
        try:
            # Integers of any size come out of it: what reads them later takes only those that JSON readers agree on.
            for item in ijson.items(file, prefix, use_float=True):
                number += 1
                if number > start.records:
                    yield Record(_object(item), number, None, Place(number), file.tell())
        except ijson.JSONError:
            raise CannotRead(f"{name} is no JSON behind record {number}; mend it there, what came before is taken") from None

    return read


def _document(file: BinaryIO, start: Place, name: str) -> Iterator[Record]:
    raw = file.read(RECORD_BYTES + 1)
    if len(raw) > RECORD_BYTES:
        raise CannotRead(f"{name} is one JSON object of more than {RECORD_BYTES} bytes; write its records one a line")
    value = _parsed(raw.removeprefix(_BOM))
    if isinstance(value, Refused):
        raise CannotRead(f"{name} is no JSON: {value.says}")
    if not start.records:
        yield Record(value, 1, 1, Place(1), len(raw))


def _rows(file: BinaryIO, start: Place, name: str) -> Iterator[Record]:
    csv.field_size_limit(RECORD_BYTES)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    rows = csv.DictReader(text)
    number = 0
    begins = 2
    try:
        for row in rows:
            number += 1
            line, begins = begins, rows.line_num + 1
            if number <= start.records:
                continue
            fits = None not in row and None not in row.values()
            value = dict(row) if fits else Refused("csv_row", "the row has more or fewer cells than the header")
            yield Record(value, number, line, Place(number), file.tell())
    except (csv.Error, UnicodeDecodeError) as error:
        says = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise CannotRead(f"{name} is no CSV behind record {number} ({says}); mend it there, what came before is taken") from None
    finally:
        text.detach()


_READERS: Final[dict[Container, Callable[[BinaryIO, Place, str], Iterator[Record]]]] = {
    "jsonl": _lines,
    "array": _items("item"),
    "pages": _items("data.item"),
    "document": _document,
    "csv": _rows,
}


def _parsed(raw: bytes) -> dict[str, Any] | Refused:
    try:
        return _object(orjson.loads(raw))
    except orjson.JSONDecodeError as error:
        return Refused(NOT_JSON, f"{error.msg} at column {error.colno}")


def _object(value: Any) -> dict[str, Any] | Refused:
    if isinstance(value, dict):
        return value
    return Refused(NOT_AN_OBJECT, f"the record is of type {type(value).__name__}; it is an object")


def _is_object(raw: bytes) -> bool:
    return isinstance(_parsed(raw.removeprefix(_BOM)), dict)
