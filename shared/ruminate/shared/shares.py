"""What one member of a group has: partitions for as long as they are its own, and the records of them that are under way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from ruminate.shared.dead_letters import Place
from ruminate.shared.ledger import Commit, Ledger
from ruminate.shared.record import Record


class Outgoing(NamedTuple):
    """One record to be written."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class AtomicWriter(Protocol):
    """One partition's outputs and its offset, written together or not at all, by one owner at a time."""

    async def write(self, records: Sequence[Outgoing], commit: Commit) -> bool:
        """All of it, or nothing. False when somebody else owns the partition by now. Raises BrokerUnavailable."""
        ...


@dataclass(slots=True, eq=False)
class Share:
    """One partition for as long as it is ours. `retries` says that dead letters come back on it."""

    place: Place
    ledger: Ledger
    committed: Commit
    retries: bool = False
    atomic: AtomicWriter | None = None
    opened: bool = False
    lost: bool = False
    in_flight: int = 0
    held: int = 0
    waits_for: str = ""
    wakes_at: float = 0.0
    handled: dict[int, Item] = field(default_factory=dict)
    """With transactions: handled, and not yet written, by offset."""
    has_handled: asyncio.Event = field(default_factory=asyncio.Event)
    one_write: asyncio.Lock = field(default_factory=asyncio.Lock)
    writing: asyncio.Task[None] | None = None


class Item:
    """One record on its way."""

    __slots__ = (
        "attempts", "happened_at", "held", "in_flight", "in_flight_bytes", "key", "outcome", "outgoing", "record", "share",
        "unsettled", "worker",
    )  # fmt: skip

    def __init__(self, share: Share, record: Record, key: bytes | None, in_flight_bytes: int) -> None:
        self.share = share
        self.record = record
        self.key = key
        self.in_flight_bytes = in_flight_bytes
        self.in_flight = True
        self.worker: asyncio.Task[Any] | None = None
        self.held = False
        self.attempts = 0
        self.unsettled = 0
        """What has to happen before it is finished: each acknowledgement, a release."""
        self.outgoing: Sequence[Outgoing] = ()
        self.outcome = "done"
        self.happened_at = 0.0
        """Unix time of the event, in seconds; 0 where it has none."""


class Emptied(NamedTuple):
    """A held record: where it stands, without its bytes, of which a reader may hold a hundred thousand."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


NO_RECORDS: Final[Sequence[Outgoing]] = ()
