"""What surrounds a payload: CloudEvents 1.0 attributes and W3C trace context, as Kafka headers (binary mode)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

Headers = list[tuple[str, bytes]]

_NAMESPACE = UUID("6f1d9a52-3a0e-5c55-9a55-7c1c2c0a9b11").bytes
_WITHOUT_VERSION = ~((0xF000 << 64) | (0xC000 << 48))
_VERSION_5 = (5 << 76) | (0x8000 << 48)
_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$")
_REQUIRED = ("ce_specversion", "ce_id", "ce_source", "ce_type")
_KNOWN = frozenset({*_REQUIRED, "ce_time", "ce_partitionkey", "ce_causationid", "content-type", "traceparent"})
_EPOCH = datetime.fromtimestamp(0, UTC)


class EnvelopeError(ValueError):
    """The headers are not those of a CloudEvent; the message says which one and what is expected."""


def derive_event_id(*, tenant: str, cause_source: str, cause_id: str, topic: str, ordinal: int = 0) -> UUID:
    """The id of an event that follows from another: the same cause always gives the same id.

    A CloudEvents id is unique only within its source, so the source takes part; `ordinal` tells apart several events
    that one cause has on one topic.
    """
    return UUID(int=_derive(tenant, cause_source, cause_id, topic, ordinal))


def derive_event_id_text(*, tenant: str, cause_source: str, cause_id: str, topic: str, ordinal: int = 0) -> str:
    """The same as headers and keys spell it, without the object: every event that is told has one."""
    text = f"{_derive(tenant, cause_source, cause_id, topic, ordinal):032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _derive(tenant: str, cause_source: str, cause_id: str, topic: str, ordinal: int) -> int:
    # Lengths keep ("a", "b/c") and ("a/b", "c") apart without forbidding any character.
    name = (
        f"{len(tenant)}:{tenant}{len(cause_source)}:{cause_source}{len(cause_id)}:{cause_id}{len(topic)}:{topic}"
        f"{len(str(ordinal))}:{ordinal}"
    )
    # uuid5 of the standard library, at half of its cost.
    number = int.from_bytes(hashlib.sha1(_NAMESPACE + name.encode(), usedforsecurity=False).digest()[:16], "big")
    return number & _WITHOUT_VERSION | _VERSION_5


class Envelope(NamedTuple):
    """The attributes of one event.

    `id` is unique within `source`. `order` is the ordering key (CloudEvents `partitionkey`). `cause` is the id of the
    event that this one follows from, and None where it comes from outside.
    """

    id: str
    source: str
    type: str
    time: datetime
    traceparent: str | None = None
    order: str | None = None
    cause: str | None = None

    def to_headers(self) -> Headers:
        """Kafka headers in CloudEvents binary mode; the value beside them is JSON."""
        time = self.time if self.time.tzinfo is UTC else self.time.astimezone(UTC)
        headers: Headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", self.id.encode()),
            ("ce_source", self.source.encode()),
            ("ce_type", self.type.encode()),
            ("ce_time", time.isoformat().encode()),
            ("content-type", b"application/json"),
        ]
        if self.order is not None:
            headers.append(("ce_partitionkey", self.order.encode()))
        if self.cause is not None:
            headers.append(("ce_causationid", self.cause.encode()))
        if self.traceparent is not None:
            headers.append(("traceparent", self.traceparent.encode()))
        return headers

    @classmethod
    def from_headers(cls, headers: Iterable[tuple[str, bytes]], *, timestamp_ms: int) -> Envelope:
        """Read the attributes; `timestamp_ms` (since when the broker has the record) stands in for an absent `ce_time`.

        Raises EnvelopeError that names the header which is missing, unknown or malformed.
        """
        given = dict(headers)
        if given.keys() <= _KNOWN:
            try:
                return cls._as_we_write_it(given, timestamp_ms)
            except (KeyError, ValueError, AttributeError):
                pass  # something is wrong, and below we find out what
        return cls._as_others_write_it(headers, timestamp_ms)

    @classmethod
    def _as_we_write_it(cls, given: dict[str, bytes], timestamp_ms: int) -> Envelope:
        """Raises KeyError, ValueError or AttributeError where a header is missing or is not as we write it."""
        if given["ce_specversion"] != b"1.0" or given["content-type"] != b"application/json":
            raise ValueError
        time, traceparent = given.get("ce_time"), given.get("traceparent")
        order, cause = given.get("ce_partitionkey"), given.get("ce_causationid")
        trace = None if traceparent is None else traceparent.decode()
        envelope = cls(
            given["ce_id"].decode(),
            given["ce_source"].decode(),
            given["ce_type"].decode(),
            moment(timestamp_ms) if time is None else datetime.fromisoformat(time.decode()),
            trace if trace and _TRACEPARENT.match(trace) else None,
            None if order is None else order.decode(),
            None if cause is None else cause.decode(),
        )
        if not (envelope.id and envelope.source and envelope.type and envelope.time.tzinfo):
            raise ValueError
        return envelope

    @classmethod
    def _as_others_write_it(cls, headers: Iterable[tuple[str, bytes]], timestamp_ms: int) -> Envelope:
        """Headers in any case and company. Raises EnvelopeError."""
        found: dict[str, str] = {}
        for name, raw in headers:
            lowered = name.lower()
            if not (lowered.startswith("ce_") or lowered in ("content-type", "traceparent")):
                continue
            if raw is None:
                raise EnvelopeError(f"header {lowered} is null; give it a value or leave it out")
            try:
                found[lowered] = raw.decode()
            except UnicodeDecodeError:
                raise EnvelopeError(f"header {lowered} is not UTF-8") from None
        for name in _REQUIRED:
            if not found.get(name):
                raise EnvelopeError(f"header {name} is missing; a CloudEvent needs {', '.join(_REQUIRED)}")
        if found["ce_specversion"] != "1.0":
            raise EnvelopeError(f"ce_specversion is {found['ce_specversion']!r}; only '1.0' is known")
        content_type = found.get("content-type", "application/json").split(";")[0].strip().lower()
        if content_type != "application/json":
            raise EnvelopeError(f"content-type is {content_type!r}; only application/json is known")
        traceparent = found.get("traceparent")
        return cls(
            id=found["ce_id"],
            source=found["ce_source"],
            type=found["ce_type"],
            time=_time(found["ce_time"]) if "ce_time" in found else moment(timestamp_ms),
            # W3C: a malformed traceparent is ignored, and a new trace begins.
            traceparent=traceparent if traceparent and _TRACEPARENT.match(traceparent) else None,
            order=found.get("ce_partitionkey"),
            cause=found.get("ce_causationid"),
        )


def moment(timestamp_ms: int) -> datetime:
    """A record's timestamp; the epoch where a writer sent one that is no time."""
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return _EPOCH


def _time(written: str) -> datetime:
    try:
        time = datetime.fromisoformat(written)
    except ValueError:
        raise EnvelopeError(f"ce_time is {written[:40]!r}; it is an RFC 3339 time such as 2026-01-31T12:00:00Z") from None
    if time.tzinfo is None:
        raise EnvelopeError("ce_time has no offset from UTC; add Z or +00:00")
    return time
