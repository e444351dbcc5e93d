"""The bus: what a service may say about topics, whichever broker is behind it.

Words. A *reader* is a consumer group. A *delivery* is one record handed to a handler. A delivery is *finished* when its
handler has returned and every event that it told is acknowledged by all in-sync replicas; only then may its offset be
committed. `KafkaBus` (kafka.py) and `MemoryBus` (memory.py) honour one contract, `tests/contract/bus_contract.py`.

    handler returns               done: tells are sent, acknowledged, then the offset counts as finished
    raises Unprocessable          the record, its bytes and where it came from go to `<topic>-<reader>-dlq`
    raises Unavailable            nothing was told; the partition waits and the same delivery is tried again, with back-off
    raises anything else          the service ends uncommitted; the third end on one offset makes a dead letter *crashed*

    BusError
    ├── Unprocessable     this record can never be processed: why
    ├── Unavailable       something that we need is away: what, and when to look again
    ├── TooManyDeadLetters   the fault is ours, not the records': ends the process with exit 78
    ├── OffsetLost        a committed offset is gone from the log: which range was lost
    ├── TransactionsRefused  transactions are wanted, and the broker cannot or may not: ends the process with exit 78
    └── BrokerUnavailable the broker does not answer
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from ruminate.schemas.envelope import Envelope, derive_event_id, derive_event_id_text
from ruminate.schemas.payload import Payload
from ruminate.schemas.topic import SideTopic, Topic
from ruminate.shared.record import Position, Record

P = TypeVar("P", bound=Payload)
Q = TypeVar("Q", bound=Payload)

CaughtUp = Callable[[datetime], None]
"""Hears up to which moment everything that could be read was read."""

EXIT_FAULT_IS_OURS = 78
"""EX_CONFIG: no supervisor restarts a service that ended so; an operator looks first."""


class BusError(Exception):
    """Anything that the bus has to say."""


class Unprocessable(BusError):
    """This record can never be processed. `reason` is a constant word, `explanation` is for people, without contents."""

    def __init__(self, reason: str, explanation: str = "") -> None:
        super().__init__(f"{reason}: {explanation}" if explanation else reason)
        self.reason = reason
        self.explanation = explanation


class Unavailable(BusError):
    """Something outside is away; the delivery is tried again after `retry_after_seconds`, doubled up to a minute."""

    def __init__(self, what: str, *, retry_after_seconds: float = 0.5) -> None:
        super().__init__(what)
        self.what = what
        self.retry_after_seconds = retry_after_seconds


class TooManyDeadLetters(BusError):
    """So many dead letters in a row that the fault must be ours."""


class OffsetLost(BusError):
    """The committed offset is no longer in the log; the message names the lost range and the ways out."""


class TransactionsRefused(BusError):
    """RUMINATE_KAFKA_TRANSACTIONS is set, and this broker has none for us; the message names the way out."""


class BrokerUnavailable(BusError):
    """The broker did not acknowledge in time."""


@dataclass(slots=True)
class Told:
    """One event that a handler told: enqueued once the handler has returned. `order` decides its partition."""

    topic: Topic[Any]
    payload: Payload | bytes
    """As an object, or as its JSON."""
    envelope: Envelope
    order: str


@dataclass(slots=True)
class Hold:
    """Keeps a delivery unfinished, without its contents."""

    released: bool = False
    on_release: Callable[[], None] | None = None
    """Set by the bus, once the handler has returned."""

    def release(self) -> None:
        """Let the delivery finish. After a rebalance that took its partition away, this does nothing."""
        self.released = True
        if self.on_release is not None:
            self.on_release()


@dataclass(slots=True)
class Delivery(Generic[P]):
    """One record in a handler's hands.

    `tell` only enqueues: nothing leaves before the handler returns, and nothing leaves at all when it raises. `retried`
    says that the record was a dead letter, and that somebody sent it back; `position` is where it stood at first.
    """

    topic: Topic[P]
    payload: P
    envelope: Envelope
    position: Position
    headers: Sequence[tuple[str, bytes]]
    value: bytes
    source: str
    retried: bool = False
    told: list[Told] = field(default_factory=list)
    _derived: tuple[str, int, UUID, str] | None = None  # an id that was asked for is asked for again, by `tell`
    held: Hold | None = None

    def derived_id(self, topic: Topic[Any], *, ordinal: int = 0) -> UUID:
        """The id that `tell(topic, …, ordinal=ordinal)` will give: the same however often this record is delivered."""
        known = self._derived
        if known is None or known[0] != topic.name or known[1] != ordinal:
            cause = self.envelope
            derived = derive_event_id(
                tenant=self.payload.tenant, cause_source=cause.source, cause_id=cause.id, topic=topic.name, ordinal=ordinal
            )
            known = self._derived = (topic.name, ordinal, derived, str(derived))
        return known[2]

    def follow(self, topic: Topic[Q], payload: Q, *, ordinal: int = 0) -> Envelope:
        """The envelope of an event that follows from this one: derived id, same trace."""
        return self._envelope(topic, ordinal, topic.order_of(payload))

    def _envelope(self, topic: Topic[Any], ordinal: int, order: str) -> Envelope:
        cause = self.envelope
        known = self._derived
        if known is not None and known[0] == topic.name and known[1] == ordinal:
            event_id = known[3]
        else:
            event_id = derive_event_id_text(
                tenant=self.payload.tenant, cause_source=cause.source, cause_id=cause.id, topic=topic.name, ordinal=ordinal
            )
        return Envelope(event_id, self.source, topic.event_type, datetime.now(UTC), cause.traceparent, order, cause.id)

    def tell(self, topic: Topic[Q], payload: Q, *, ordinal: int = 0) -> str:
        """Enqueue an event that follows from this delivery, and give its id."""
        order = topic.order_of(payload)
        envelope = self._envelope(topic, ordinal, order)
        self.told.append(Told(topic, payload, envelope, order))
        return envelope.id

    def tell_encoded(self, topic: Topic[Any], value: bytes, *, order: str) -> str:
        """`tell` for who has the event's JSON already, and knows its ordering key. Its record key has to be its event id."""
        envelope = self._envelope(topic, 0, order)
        self.told.append(Told(topic, value, envelope, order))
        return envelope.id

    def tell_about(self, subject: Delivery[Any], topic: Topic[Any], value: bytes, *, order: str, ordinal: int) -> str:
        """Enqueue an event, as its JSON, that follows from another one than this delivery, and give its id, derived from that one.

        For a reader that has learned more about what happened before: `ordinal` tells the same subject's events apart.
        """
        cause = subject.envelope
        event_id = derive_event_id_text(
            tenant=subject.payload.tenant, cause_source=cause.source, cause_id=cause.id, topic=topic.name, ordinal=ordinal
        )
        envelope = Envelope(event_id, self.source, topic.event_type, datetime.now(UTC), self.envelope.traceparent, order, cause.id)
        self.told.append(Told(topic, value, envelope, order))
        return event_id

    def pass_on(self) -> None:
        """Put this event on its topic once more, unchanged: for a reader to whom the place in the log matters."""
        self.told.append(Told(self.topic, self.payload, self.envelope, self.topic.order_of(self.payload)))

    def hold(self) -> Hold:
        """Keep this delivery unfinished after the handler has returned, until the hold is released.

        For a reader whose effect spans many records (a batch): what is held does not count as in flight, its offset is
        not committed, and it is delivered again to whoever reads the partition next.
        """
        self.held = Hold()
        return self.held


Handler = Callable[[Delivery[P]], Awaitable[None]]
PartitionsListener = Callable[[frozenset[int]], Awaitable[None]]


async def nothing(_: frozenset[int]) -> None:
    """The listener that does nothing."""


class Readiness(Protocol):
    """Why a part is not ready, one sentence each; empty when it is."""

    def __call__(self) -> Collection[str]: ...


class Bus(Protocol):
    """Everything a service does with topics."""

    @property
    def source(self) -> str:
        """CloudEvents source of what this bus writes: `/ruminate/<reader>`."""
        ...

    def readiness(self) -> Collection[str]:
        """Why this bus is not ready (no assignment yet, broker away, a partition that waits); empty when it is."""
        ...

    def turned_at(self) -> float:
        """`time.monotonic()` of the last turn of the poll loop: `/livez` looks at it."""
        ...

    async def serve(
        self,
        topic: Topic[P],
        handler: Handler[P],
        *,
        concurrency: int = 1,
        max_in_flight: int = 1000,
        max_in_flight_bytes: int = 64 * 1024 * 1024,
        on_assigned: PartitionsListener = nothing,
        on_revoked: PartitionsListener = nothing,
    ) -> None:
        """Hand every record of `topic` to `handler`, until `stop`.

        At most `concurrency` handlers run at once; records with one ordering key (`ce_partitionkey`, else the record
        key) run one after the other in the order of their offsets. A handler may take hours: polling goes on.
        `on_assigned` runs before the first record of the partitions is handed out, `on_revoked` after the last
        finished offset of them is committed; a partition that stays ours through a rebalance is in neither, and what
        runs of it runs on. A handler whose partition went elsewhere is cancelled.
        """
        ...

    async def publish(self, topic: Topic[P], payload: P, envelope: Envelope) -> Position:
        """Write one event; return when all in-sync replicas have it. Raises BrokerUnavailable after the delivery timeout."""
        ...

    def begin(self, topic: Topic[P], payload: P, *, event_id: str | None = None, source: str | None = None) -> Envelope:
        """The envelope of an event without a cause: a random id unless given, a new trace."""
        ...

    def records(
        self,
        topic: Topic[Any] | SideTopic,
        *,
        partitions: Collection[int] | None = None,
        start: int | None = None,
        follow: bool = False,
    ) -> AsyncGenerator[Record, None]:
        """Every record, events or not, undecoded: to the end as it is now, or on and on. A negative `start` counts from the end."""
        ...

    def read(
        self,
        topic: Topic[P],
        *,
        partitions: Collection[int] | None = None,
        start: int | None = None,
        follow: bool = False,
        caught_up: CaughtUp | None = None,
    ) -> AsyncGenerator[Delivery[P], None]:
        """Read without a group: from `start` (None: the beginning) to the end as it is now, or on and on with `follow`.

        Records that are no events of the topic are logged and passed over: its group reader has made dead letters of them.
        With `follow`, iteration never ends by itself; leaving the loop closes it. `caught_up` hears again and again up to
        which moment everything that could be read was yielded, and the loop's body run.
        """
        ...

    def partition_of(self, topic: Topic[Any], order: str) -> int:
        """The partition that records with this ordering key are in (Kafka's murmur2)."""
        ...

    async def stop(self) -> None:
        """Ask `serve` to fetch no more, let handlers finish within the grace time, commit, and return."""
        ...
