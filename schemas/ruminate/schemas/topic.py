"""What a topic is: a name, a payload, a key, an order, a life time, its writers and its readers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Final, Generic, Literal, TypeVar
from uuid import UUID

from ruminate.schemas.payload import Payload

P = TypeVar("P", bound=Payload)

RecordKey = Literal["event_id", "node", "job_id"]
Cleanup = Literal["delete", "compact", "keep"]

MEBIBYTE = 1024 * 1024

SEGMENT_SPAN: Final = timedelta(hours=6)
"""How long a segment of texts takes records. Kafka compacts no segment that still does, and deletes none before its last record
is too old: so much longer than it should may a text lie. Shorter ones are more files: 4 a segment, in each partition."""
COMPACTION_LAG: Final = timedelta(days=3)
"""How long what a tombstone took the place of may wait for the cleaner. It rewrites the whole partition each time."""
TOMBSTONES_STAY: Final = timedelta(days=7)
"""How long a tombstone is still seen once it was compacted: as long as what was erased may come again from a raw topic."""


@dataclass(frozen=True, kw_only=True)
class Topic(Generic[P]):
    """One topic, and everything that its creation, its readers and its documentation derive from.

    Invariant in `P`, so that a verdict cannot be written to a topic that carries interactions.
    """

    name: str
    says: str
    carries: type[P]
    record_key: RecordKey
    partitioned_by: tuple[str, ...]
    cleanup: Cleanup
    written_by: tuple[str, ...]
    read_by: tuple[str, ...]
    partitions: int = 12
    retention: timedelta | None = None
    max_message_bytes: int = MEBIBYTE
    holds_texts: bool = False
    """Whether it holds what was asked, thought, answered or said of it: that is what has to be erased, and soon."""

    @cached_property
    def event_type(self) -> str:
        """CloudEvents `type`: `dev.ruminate.` and the topic's name."""
        return f"dev.ruminate.{self.name}"

    def key_of(self, payload: P, event_id: UUID) -> str:
        """The record key, by which compaction keeps the last record."""
        return str(event_id) if self.record_key == "event_id" else str(getattr(payload, self.record_key))

    def order_of(self, payload: P) -> str:
        """What decides the partition: records that share it are read in the order in which they were written."""
        first, *others = self.partitioned_by
        order = str(getattr(payload, first))
        for field in others:
            order += f"/{getattr(payload, field)}"
        return order

    def dead_letters(self, reader: str) -> SideTopic:
        """Where `reader` puts what it cannot process of this topic. Larger than its source: the reasons travel along."""
        return SideTopic(
            name=f"{self.name}-{reader}-dlq",
            partitions=self.partitions,
            cleanup="compact,delete",
            max_message_bytes=self.max_message_bytes + MEBIBYTE,
            retention=timedelta(days=30),
            may_grow=True,
            holds_texts=self.holds_texts,
        )

    def retries(self, reader: str) -> SideTopic:
        """Where dead letters come back from, to `reader` alone. One partition keeps the order in which they were sent back."""
        return SideTopic(
            name=f"{self.name}-{reader}-retry",
            partitions=1,
            cleanup="delete",
            max_message_bytes=self.max_message_bytes + MEBIBYTE,
            retention=timedelta(days=30),
            holds_texts=self.holds_texts,
        )


@dataclass(frozen=True, kw_only=True)
class SideTopic:
    """A topic that carries no events: the original bytes that one reader gave up or is to read again, or a service's own tables.

    Dead letters are compacted by their id, so that a tombstone settles one.
    """

    name: str
    partitions: int
    cleanup: Literal["compact,delete", "delete", "compact"]
    max_message_bytes: int
    retention: timedelta
    may_grow: bool = False
    """Whether partitions can be added while records are in it: dead letters lie where their source lay, whatever their key."""
    holds_texts: bool = False
    """See `Topic`."""
