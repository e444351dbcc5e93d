"""Bytes to event and back: whatever is not an event of the topic is told why, in a constant word and without its contents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, TypeVar, get_args

import orjson
from pydantic import BaseModel, ValidationError

from ruminate.schemas.envelope import Envelope, EnvelopeError
from ruminate.schemas.payload import Payload
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import Unprocessable

P = TypeVar("P", bound=Payload)

NO_VALUE: Final = "no_value"
MISSING_HEADER: Final = "missing_header"
INVALID_HEADER: Final = "invalid_header"
WRONG_TYPE: Final = "wrong_type"
NOT_JSON: Final = "not_json"
NOT_UNICODE: Final = "not_unicode"
NOT_FINITE: Final = "not_finite"
INVALID_PAYLOAD: Final = "invalid_payload"

_REQUIRED_HEADERS = ("ce_specversion", "ce_id", "ce_source", "ce_type")
_SHOWN_ERRORS = 5
_MESSAGES_WITHOUT_INPUT = frozenset({
    "missing", "value_error", "literal_error", "model_type", "dict_type", "list_type", "tuple_type", "string_type", "int_type",
    "float_type", "bool_type", "none_required", "finite_number", "too_short", "too_long", "string_too_short", "string_too_long",
    "string_pattern_mismatch", "greater_than", "greater_than_equal", "less_than", "less_than_equal", "timezone_aware",
})  # fmt: skip
"""Errors whose message speaks of what is allowed alone; others (a malformed UUID) show a piece of what was sent."""


def encode(payload: Payload) -> bytes:
    """The payload as JSON, UTF-8; `decode` gives back an equal payload, NUL and all."""
    return payload.__pydantic_serializer__.to_json(payload)


def decode(topic: Topic[P], value: bytes | None, headers: Iterable[tuple[str, bytes]], *, timestamp_ms: int) -> tuple[P, Envelope]:
    """The event in a record that the broker has since `timestamp_ms`. Raises Unprocessable with one of the reasons above."""
    if value is None:
        raise Unprocessable(NO_VALUE, f"the record has no value; {topic.name} carries JSON")
    envelope = _envelope(topic, headers, timestamp_ms)
    try:
        payload = topic.carries.__pydantic_validator__.validate_json(value)
    except ValidationError as error:
        _check_json(value)
        raise Unprocessable(INVALID_PAYLOAD, _explain(topic.carries, error)) from None
    return payload, envelope


def now() -> datetime:
    """The time, as events carry it."""
    return datetime.now(UTC)


def _envelope(topic: Topic[Any], headers: Iterable[tuple[str, bytes]], timestamp_ms: int) -> Envelope:
    try:
        envelope = Envelope.from_headers(headers, timestamp_ms=timestamp_ms)
    except EnvelopeError as error:
        present = {name.lower() for name, raw in headers if raw}
        missing = any(name not in present for name in _REQUIRED_HEADERS)
        raise Unprocessable(MISSING_HEADER if missing else INVALID_HEADER, str(error)[:300]) from None
    if envelope.type != topic.event_type:
        raise Unprocessable(WRONG_TYPE, f"ce_type is {envelope.type[:100]!r}; {topic.name} carries {topic.event_type!r}")
    return envelope


def _check_json(value: bytes) -> None:
    """Raises Unprocessable where this is no JSON: pydantic says less about that.

    It takes NaN and 1e999 for numbers, and then refuses them in every field that it knows; others are not kept anyway.
    """
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise _not_json(error) from None


def _not_json(error: orjson.JSONDecodeError) -> Unprocessable:
    place = f"line {error.lineno}, column {error.colno}"
    if "infinity" in error.msg or error.doc.startswith(("NaN", "Infinity"), error.pos):
        return Unprocessable(NOT_FINITE, f"a number at {place} is not finite; send null or leave the field out")
    if "surrogate" in error.msg:
        return Unprocessable(NOT_UNICODE, f"{error.msg} at {place}; JSON is UTF-8 without lone surrogates")
    return Unprocessable(NOT_JSON, f"{error.msg} at {place}")


def _explain(model: type[Payload], error: ValidationError) -> str:
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    parts = []
    for item in errors[:_SHOWN_ERRORS]:
        where = _place(model, item["loc"]) or "the value"
        said = item["msg"] if item["type"] in _MESSAGES_WITHOUT_INPUT else item["type"]
        parts.append(f"{where}: {said}")
    if len(errors) > _SHOWN_ERRORS:
        parts.append(f"and {len(errors) - _SHOWN_ERRORS} more")
    return "; ".join(parts)


def _place(model: type[Payload], location: Sequence[int | str]) -> str:
    known = _field_names(model)
    # A key that the writer chose (of `context.other`, of a tool's arguments) is content.
    return ".".join(str(part) if isinstance(part, int) or part in known else "*" for part in location)


@cache
def _field_names(model: type[BaseModel]) -> frozenset[str]:
    names = set(model.model_fields)
    for field in model.model_fields.values():
        for part in _models_in(field.annotation):
            names |= _field_names(part)
    return frozenset(names)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
