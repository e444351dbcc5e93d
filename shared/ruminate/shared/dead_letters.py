"""Dead letters: the original bytes and headers of a record that could not be processed, and where it came from and why.

The record key is the dead letter's id, the same however often the same record is given up, so that compaction keeps one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid5

from ruminate.schemas.envelope import Headers
from ruminate.shared.record import Position

CRASHED: Final = "crashed"
"""The reason of a record that ended the service three times."""

_NAMESPACE = UUID("2c1f7a3e-9d5b-5b8e-8f0a-5d1c6f0e7a42")


Place = tuple[str, int]
"""A partition: its topic and its number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetter:
    """Why a record was given up, and where it stood. `had_value` is False for a tombstone."""

    reason: str
    explanation: str
    position: Position
    timestamp_ms: int
    reader: str
    at: datetime
    key: bytes | None
    had_value: bool = True

    def id(self, cluster: str) -> UUID:
        """Names the letter: one record given up by one reader is one letter, however often."""
        place = self.position
        return uuid5(_NAMESPACE, f"{cluster}/{place.topic}/{place.partition}/{place.offset}/{self.reader}")

    def headers(self, original: Iterable[tuple[str, bytes]]) -> Headers:
        """The original headers under their names, then the provenance."""
        provenance: Headers = [
            ("dlq_reason", self.reason.encode()),
            ("dlq_explanation", self.explanation.encode(errors="replace")),
            ("dlq_topic", self.position.topic.encode()),
            ("dlq_partition", str(self.position.partition).encode()),
            ("dlq_offset", str(self.position.offset).encode()),
            ("dlq_timestamp", str(self.timestamp_ms).encode()),
            ("dlq_reader", self.reader.encode()),
            ("dlq_at", self.at.isoformat().encode()),
        ]
        if self.key is not None:
            provenance.append(("dlq_key", self.key))
        if not self.had_value:
            provenance.append(("dlq_no_value", b"true"))
        return [*original, *provenance]

    @classmethod
    def from_headers(cls, headers: Iterable[tuple[str, bytes]]) -> DeadLetter:
        """Read the provenance back, of the last time that the record was given up. KeyError names the header that is missing."""
        times = times_given_up(headers)
        found = dict(times[-1]) if times else {}
        return cls(
            reason=found["dlq_reason"].decode(),
            explanation=found["dlq_explanation"].decode(),
            position=Position(found["dlq_topic"].decode(), int(found["dlq_partition"]), int(found["dlq_offset"])),
            timestamp_ms=int(found["dlq_timestamp"]),
            reader=found["dlq_reader"].decode(),
            at=datetime.fromisoformat(found["dlq_at"].decode()),
            key=found.get("dlq_key"),
            had_value="dlq_no_value" not in found,
        )


def times_given_up(headers: Iterable[tuple[str, bytes]]) -> list[Headers]:
    """The headers of each time that a record was given up, the last time last: they begin with the reason.

    What stands before ours is the writer's of the record, whatever it looks like: only from the last one back can they be told.
    """
    times: list[Headers] = []
    for name, raw in headers:
        if name == "dlq_reason":
            times.append([])
        if times:
            times[-1].append((name, raw))
    return times


def origin_of(headers: Iterable[tuple[str, bytes]], *, retries: str) -> Position | None:
    """Where a record of the topic `retries` stood at first; None where the headers do not say it.

    From the last time back, those that name the retry topic itself are later ones.
    """
    for time in reversed(times_given_up(headers)):
        found = dict(time)
        try:
            position = Position(found["dlq_topic"].decode(), int(found["dlq_partition"]), int(found["dlq_offset"]))
        except (KeyError, ValueError, AttributeError):
            return None
        if position.topic != retries:
            return position
    return None


def without_provenance(headers: Iterable[tuple[str, bytes]]) -> Headers:
    """The headers that its writer gave a record."""
    return [(name, raw) for name, raw in headers if not name.startswith("dlq_")]
