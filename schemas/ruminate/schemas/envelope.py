"""What surrounds a payload: CloudEvents 1.0 attributes and W3C trace context, as Kafka headers (binary mode)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid5

Headers = list[tuple[str, bytes]]

_NAMESPACE = UUID("6f1d9a52-3a0e-5c55-9a55-7c1c2c0a9b11")
_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$")
_REQUIRED = ("ce_specversion", "ce_id", "ce_source", "ce_type")


class EnvelopeError(ValueError):
    """The headers are not those of a CloudEvent; the message says which one and what is expected."""


def derive_event_id(*, tenant: str, cause_source: str, cause_id: str, topic: str, ordinal: int = 0) -> UUID:
    """The id of an event that follows from another: the same cause always gives the same id.

    A CloudEvents id is unique only within its source, so the source takes part; `ordinal` tells apart several events
    that one cause has on one topic.
    """
    # Lengths keep ("a", "b/c") and ("a/b", "c") apart without forbidding any character.
    parts = (tenant, cause_source, cause_id, topic, str(ordinal))
    return uuid5(_NAMESPACE, "".join(f"{len(part)}:{part}" for part in parts))


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
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
        headers: Headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", self.id.encode()),
            ("ce_source", self.source.encode()),
            ("ce_type", self.type.encode()),
            ("ce_time", self.time.astimezone(UTC).isoformat().encode()),
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
    def from_headers(cls, headers: Iterable[tuple[str, bytes]], *, recorded_at: datetime) -> Envelope:
        """Read the attributes; `recorded_at` (the broker's timestamp) stands in for an absent `ce_time`.

        Raises EnvelopeError that names the header which is missing, unknown or malformed.
        """
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
        time = recorded_at
        if "ce_time" in found:
            try:
                time = datetime.fromisoformat(found["ce_time"])
            except ValueError:
                raise EnvelopeError(
                    f"ce_time is {found['ce_time'][:40]!r}; it is an RFC 3339 time such as 2026-01-31T12:00:00Z"
                ) from None
            if time.tzinfo is None:
                raise EnvelopeError("ce_time has no offset from UTC; add Z or +00:00")
        traceparent = found.get("traceparent")
        return cls(
            id=found["ce_id"],
            source=found["ce_source"],
            type=found["ce_type"],
            time=time,
            # W3C: a malformed traceparent is ignored, and a new trace begins.
            traceparent=traceparent if traceparent and _TRACEPARENT.match(traceparent) else None,
            order=found.get("ce_partitionkey"),
            cause=found.get("ce_causationid"),
        )
