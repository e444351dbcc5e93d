"""Records boiled down to what an audit compares: ids, digests and places, a few dozen bytes each. Pure.

None stands for a record that is no event of its topic: its reader must have made a dead letter of it. A digest of a value
is 64 bits of its SHA-256: enough to tell apart what one id says twice.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import orjson
from pydantic import ValidationError
from pydantic_core import from_json

from ruminate.accumulator.records.rows import build
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.envelope import derive_event_id, moment
from ruminate.schemas.erasure import ErasureRequested, Erasures, Names
from ruminate.schemas.flow import INTERACTION_RECORDED, REASONING_ASSESSED
from ruminate.schemas.interaction import InteractionCompleted
from ruminate.schemas.payload import Payload
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import Unprocessable
from ruminate.shared.decoding import decode
from ruminate.shared.partitioning import partition_of
from ruminate.shared.record import Position, Record

P = TypeVar("P", bound=Payload)

COLLECTOR_SOURCE: Final = "/ruminate/collector"
NO_ROW: Final = 0
"""The digest of the row of a record that has none."""


@dataclass(slots=True)
class Completed:
    """`recorded_id` is the name that the collector gives the interaction."""

    recorded_id: bytes
    digest: int
    erased: bool


@dataclass(slots=True)
class Recorded:
    """`derived_id` is what the id must be by what the record itself says."""

    event_id: bytes
    derived_id: bytes
    tenant: str
    digest: int
    born_ms: int
    allowed: bool
    placed: bool


@dataclass(slots=True)
class Assessed:
    """`row` is the digest of the line that this record becomes in a dataset."""

    event_id: bytes
    derived: bool
    recorded_id: bytes
    revision: int
    tenant: str
    target: str
    rules: tuple[str, str]
    digest: int
    row: int
    allowed: bool
    placed: bool


@dataclass(frozen=True, slots=True)
class Told(Generic[P]):
    """One event of a topic that has few."""

    position: Position
    at_ms: int
    event_id: str
    source: str
    cause: str | None
    digest: int
    payload: P
    placed: bool


class Erased:
    """What was asked to be forgotten, as collector and eraser know it: what comes later under the same name is not meant."""

    def __init__(self) -> None:
        self._erasures = Erasures()

    def add(self, event_id: str, request: ErasureRequested) -> None:
        """Note a request."""
        self._erasures.take(event_id, request)

    def cover(self, tenant: str, payload: dict[str, Any], recorded_id: bytes, said: Mapping[str, str], at_ms: int) -> bool:
        """Whether somebody asked to forget this interaction, by whichever of its names, after it was there."""
        if not self._erasures.concern(tenant):
            return False
        names = Names(
            tenant,
            _occurred_at(payload, said, at_ms),
            _name(payload, "target_model"),
            str(UUID(bytes=recorded_id)),
            _name(payload, "interaction_id"),
            said["ce_source"],
            _name(payload, "conversation_id"),
            _name(payload, "agent"),
            _name(payload, "continues_interaction"),
        )
        return self._erasures.covers(names) is not None


def _occurred_at(payload: dict[str, Any], said: Mapping[str, str], at_ms: int) -> datetime:
    """No later than any of the clocks says that saw it: the collector goes by its event's, the eraser by the log's."""
    moments = [moment(at_ms)] if at_ms > 0 else []
    for written in (payload.get("occurred_at"), said.get("ce_time")):
        try:
            found = datetime.fromisoformat(str(written))
        except ValueError:
            continue
        moments.append(found if found.tzinfo is not None else found.replace(tzinfo=UTC))
    return min(moments, default=datetime.max.replace(tzinfo=UTC))


def _name(payload: dict[str, Any], field: str) -> str | None:
    found = payload.get(field)
    return found if isinstance(found, str) else None


def completed(record: Record, erasures: Erased) -> Completed | None:
    """A completed interaction, as far as its name goes; whether it is valid, its reader knows."""
    try:
        said = _said(record)
        payload = _parsed(record.value or b"")
        tenant = payload.get("tenant", "default")
        recorded_id = derive_event_id(
            tenant=tenant, cause_source=said["ce_source"], cause_id=said["ce_id"], topic=INTERACTION_RECORDED.name
        ).bytes
        erased = erasures.cover(tenant, payload, recorded_id, said, record.timestamp)
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    return Completed(recorded_id, digest(record.value or b""), erased)


def content(value: bytes | None) -> int | None:
    """What a completed interaction says, and its record after it, however that is spelled; None where it says nothing valid."""
    try:
        interaction = InteractionCompleted.model_validate_json(value or b"")
    except ValidationError:
        return None
    text = unicodedata.normalize("NFC", interaction.model_dump_json())
    return digest(json.dumps(json.loads(text), sort_keys=True).encode())  # the standard library's has integers of any size


def recorded(record: Record) -> Recorded | None:
    """A recorded interaction."""
    try:
        said = _said(record)
        payload = orjson.loads(record.value or b"")
        event_id = id_bytes(said["ce_id"])
        tenant = payload.get("tenant", "default")
        derived_id = derive_event_id(
            tenant=tenant,
            cause_source=payload["source"],
            cause_id=said["ce_causationid"],
            topic=INTERACTION_RECORDED.name,
        ).bytes
        if derived_id != event_id and "nfc" in payload.get("normalised", ()):
            # Derived from names as they came, which NFC has changed since: cannot be derived again.
            derived_id = event_id
        order, occurred = payload["conversation_id"], datetime.fromisoformat(payload["occurred_at"])
        placed = partition_of(order, INTERACTION_RECORDED.partitions) == record.partition
        born_ms = min(record.timestamp, int(occurred.timestamp() * 1000))
        allowed = payload.get("training_allowed") is True
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    return Recorded(event_id, derived_id, tenant, digest(record.value or b""), born_ms, allowed, placed)


def assessed(record: Record) -> Assessed | None:
    """An assessed interaction, with the row that it becomes."""
    try:
        said = _said(record)
        payload = ReasoningAssessed.model_validate_json(record.value or b"")
        event_id = id_bytes(said["ce_id"])
    except (KeyError, ValidationError, UnicodeDecodeError, AttributeError):
        return None
    built = build(payload)
    derived_id = assessed_id(payload.tenant, payload.recorded_id, payload.revision)
    return Assessed(
        event_id=event_id,
        derived=derived_id == event_id and said.get("ce_causationid") == str(payload.recorded_id),
        recorded_id=payload.recorded_id.bytes,
        revision=payload.revision,
        tenant=payload.tenant,
        target=payload.target_model,
        rules=(payload.policy_version, payload.scorer_version),
        digest=digest(record.value or b""),
        row=NO_ROW if isinstance(built, str) else digest(built.line),
        allowed=payload.interaction.training_allowed,
        placed=partition_of(REASONING_ASSESSED.order_of(payload), REASONING_ASSESSED.partitions) == record.partition,
    )


def told(topic: Topic[P], record: Record) -> Told[P] | None:
    """An event of a topic that has few."""
    try:
        payload, envelope = decode(topic, record.value, list(record.headers), timestamp_ms=record.timestamp)
    except Unprocessable:
        return None
    return Told(
        position=Position(topic.name, record.partition, record.offset),
        at_ms=record.timestamp,
        event_id=envelope.id,
        source=envelope.source,
        cause=envelope.cause,
        digest=digest(record.value or b""),
        payload=payload,
        placed=partition_of(topic.order_of(payload), topic.partitions) == record.partition,
    )


def assessed_id(tenant: str, recorded_id: UUID, revision: int) -> bytes:
    """The id of an assessment; a revision is one more event that the same record has."""
    return derive_event_id(
        tenant=tenant,
        cause_source=COLLECTOR_SOURCE,
        cause_id=str(recorded_id),
        topic=REASONING_ASSESSED.name,
        ordinal=revision,
    ).bytes


def digest(value: bytes) -> int:
    """64 bits that tell values apart; never 0."""
    return int.from_bytes(hashlib.sha256(value).digest()[:8]) or 1


def digest_of_hash(sha256: str) -> int:
    """The same of a value whose SHA-256 is known."""
    return int(sha256[:16], 16) or 1


def id_bytes(event_id: str) -> bytes:
    """An id as 16 bytes: a UUID's own, else a digest."""
    try:
        # Three times as fast as UUID().
        plain = bytes.fromhex(event_id.replace("-", ""))
    except ValueError:
        plain = b""
    return plain if len(plain) == 16 else hashlib.blake2b(event_id.encode(), digest_size=16).digest()


def _parsed(value: bytes) -> Any:
    """JSON, as lenient as those who read the topic: they take NaN in fields that they do not know. Raises ValueError."""
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return from_json(value)


def _said(record: Record) -> dict[str, str]:
    # A header may be null, whatever its type says; readers mind that in some of them, and then it is theirs to say so.
    return {
        lowered: raw.decode() for name, raw in record.headers if raw is not None and (lowered := name.lower()).startswith("ce_")
    }
