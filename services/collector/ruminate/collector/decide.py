"""Record or refuse: what becomes of a completed interaction. Pure: the same input gives the same outcome."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Literal
from uuid import UUID

import orjson
from pydantic import JsonValue, TypeAdapter, ValidationError

from ruminate.collector.privacy.redaction import Privacy
from ruminate.schemas.interaction import InteractionCompleted
from ruminate.schemas.payload import Name
from ruminate.shared.bus import Unprocessable

ID_MISMATCH: Final = "id_mismatch"
CONFLICT: Final = "conflict"
INVALID_SOURCE: Final = "invalid_source"
INVALID_TENANT: Final = "invalid_tenant"
NOT_NORMALISABLE: Final = "not_normalisable"

_NAME: Final = TypeAdapter[str](Name)


@dataclass(frozen=True, slots=True)
class Normalised:
    """An interaction whose every string is NFC, its JSON, whether that took a change, and a hash of its content."""

    payload: InteractionCompleted
    serialised: bytes
    changed: bool
    fingerprint: bytes
    """Of the content as it came, before anything is redacted: so a repeat is one under every policy."""
    redacted: Mapping[str, int] = field(default_factory=dict)
    """How many values became placeholders, by kind."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The first record of an interaction id, as far as we know."""

    fingerprint: bytes
    partition: int
    offset: int


def normalise(payload: InteractionCompleted) -> Normalised:
    """Bring every string to NFC, at any depth. Raises Unprocessable where the result is no interaction any more.

    The JSON text is looked at as a whole, because nearly every text is NFC already: a text in NFC has no part that is not.
    """
    serialised = payload.__pydantic_serializer__.to_json(payload)
    changed = not (serialised.isascii() or unicodedata.is_normalized("NFC", serialised.decode()))
    if changed:
        before = payload
        payload = _to_nfc(serialised)
        changed = payload != before
        serialised = payload.__pydantic_serializer__.to_json(payload)
    return Normalised(payload, serialised, changed, _fingerprint(payload, serialised))


def redact(completed: Normalised, privacy: Privacy) -> Normalised:
    """With placeholders in place of secrets and personal data; the very same where there are none."""
    redacted = privacy.redact(completed.payload)
    if not redacted.counts:
        return completed
    serialised = redacted.payload.__pydantic_serializer__.to_json(redacted.payload)
    return replace(completed, payload=redacted.payload, serialised=serialised, redacted=redacted.counts)


def record(completed: Normalised, *, source: str, recorded_id: UUID) -> bytes:
    """The interaction as it is recorded: the JSON of an `InteractionRecorded`.

    Its own fields come after those of the completed interaction, whose JSON is there already: to build and write the whole
    payload once more would cost as much as all the rest.
    """
    normalised = [*(("nfc",) if completed.changed else ()), *(f"redacted:{kind}" for kind in sorted(completed.redacted))]
    return b'%b,"source":%b,"recorded_id":"%b","normalised":%b}' % (
        completed.serialised[:-1],
        orjson.dumps(source),
        str(recorded_id).encode(),
        orjson.dumps(normalised),
    )


def check_id(payload: InteractionCompleted, event_id: str) -> None:
    """The event's id is the interaction's: who reads the one must be able to name the other."""
    if payload.interaction_id != event_id:
        raise Unprocessable(ID_MISMATCH, "ce_id and interaction_id differ; send the interaction's id as the id of the event")


def check_source(source: str) -> None:
    """A CloudEvents source has to fit the field that keeps it."""
    _check_name(source, "the source", INVALID_SOURCE)


def check_tenant(tenant: str) -> None:
    """A tenant that a request names has to be one that a payload may name."""
    _check_name(tenant, "the tenant", INVALID_TENANT)


@lru_cache(maxsize=4096)  # agents are few, and their interactions many
def _check_name(name: str, what: str, reason: str) -> None:
    try:
        _NAME.validate_python(name)
    except ValidationError:
        raise Unprocessable(
            reason, f"{what} has {len(name)} characters; it is one line of 1 to 200 without control characters"
        ) from None


def judge_repeat(
    seen: Seen | None, fingerprint: bytes, position: tuple[int, int] | None
) -> Literal["first", "duplicate", "conflict"]:
    """Is this the first record of its id? `position` is (partition, offset), or None for what is not in the log yet.

    A record that is delivered again stands where its first delivery stood, so it is still the first; and so is one that
    stands before what we took for the first.
    """
    if seen is None:
        return "first"
    if position is not None and position[0] == seen.partition and position[1] <= seen.offset:
        return "first"
    return "duplicate" if seen.fingerprint == fingerprint else "conflict"


def _fingerprint(payload: InteractionCompleted, serialised: bytes) -> bytes:
    # Our fields have one order; the keys of what a tool takes may come in another one the second time.
    calls = payload.response.tool_calls or any(message.tool_calls for message in payload.messages)
    if calls or payload.tools or payload.context.other:
        serialised = orjson.dumps(orjson.loads(serialised), option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(serialised, digest_size=16).digest()


def _to_nfc(serialised: bytes) -> InteractionCompleted:
    # The standard library's JSON keeps integers of any size as they are.
    text = json.dumps(_nfc(json.loads(serialised)), ensure_ascii=False)
    try:
        return InteractionCompleted.model_validate_json(text)
    except ValidationError as error:
        places = ", ".join(".".join(str(part) for part in item["loc"]) for item in error.errors(include_input=False)[:5])
        raise Unprocessable(NOT_NORMALISABLE, f"in NFC, these fields no longer fit their limits: {places}") from None


def _nfc(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, list):
        return [_nfc(item) for item in value]
    if isinstance(value, dict):
        normal = {unicodedata.normalize("NFC", key): _nfc(item) for key, item in value.items()}
        if len(normal) != len(value):
            raise Unprocessable(NOT_NORMALISABLE, "two keys of one object are the same text in NFC; keep one of them")
        return normal
    return value
