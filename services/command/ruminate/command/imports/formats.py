"""Which format a file is in, and the one function that reads a record of it. Pure but for the lookups that it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal, get_args

import orjson

from ruminate.collector.chat import Untellable
from ruminate.command.imports import langfuse, openai, sharegpt
from ruminate.command.imports.openai import Requests
from ruminate.command.imports.told import Found, Mode, Refused

Format = Literal["openai", "langfuse", "sharegpt"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

# The most particular first: fine-tuning files and observations both have messages somewhere.
_LOOKS: Final[tuple[tuple[Format, Callable[[dict[str, Any]], str | None]], ...]] = (
    ("sharegpt", sharegpt.looks_like),
    ("langfuse", langfuse.looks_like),
    ("openai", openai.looks_like),
)


class UnknownFormat(Exception):
    """No format fits what the file begins with; the message names the way out."""


def recognise(records: Iterable[dict[str, Any]]) -> tuple[Format, str]:
    """The format of these records, and why. The first that looks like one decides. Raises UnknownFormat."""
    seen = 0
    for number, record in enumerate(records, start=1):
        seen = number
        for name, looks_like in _LOOKS:
            if why := looks_like(record):
                return name, f"record {number}: {why}"
    raise UnknownFormat(f"none of the first {seen} records looks like {', '.join(FORMATS)}; name the format by --format")


def read_record(record: dict[str, Any], form: Format, mode: Mode, requests: Requests | None = None) -> Iterator[Found]:
    """What a record tells; what cannot be told is `Refused`, never raised."""
    try:
        if form == "langfuse":
            yield from langfuse.read(record)
        elif form == "sharegpt":
            yield from sharegpt.read(record, mode)
        else:
            yield from openai.read(record, mode, requests)
    except Untellable as error:
        yield Refused(error.reason, error.explanation)
    except orjson.JSONEncodeError:
        # The one thing that JSON can hold and our JSON cannot.
        yield Refused("not_json", "the record holds an integer of more than 64 bits")
