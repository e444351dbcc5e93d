"""The bus for unit tests: the same `Serving` over a broker of lists. Several buses share one `MemoryBroker`.

It keeps what a test can see of Kafka (partitions, offsets, groups, rebalances, commit metadata, tombstones, transactions with
one owner a partition) and nothing of time: no retention, no compaction.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from ruminate.schemas.envelope import Headers
from ruminate.schemas.topic import SideTopic, Topic
from ruminate.shared.bus import CaughtUp, OffsetLost
from ruminate.shared.dead_letters import Place
from ruminate.shared.decoding import now
from ruminate.shared.ledger import Commit
from ruminate.shared.member import Member
from ruminate.shared.record import Record
from ruminate.shared.serving import Serving
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.settling import Settled
from ruminate.shared.shares import Outgoing


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """One record in a `MemoryBroker`."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(slots=True)
class _Group:
    commits: dict[Place, Commit] = field(default_factory=dict)
    epochs: defaultdict[Place, int] = field(default_factory=lambda: defaultdict(int))
    members: list[_GroupLog] = field(default_factory=list)
    rebalance: asyncio.Lock = field(default_factory=asyncio.Lock)


class MemoryBroker:
    """Topics, partitions and groups, in this process."""

    cluster = "memory"

    def __init__(self) -> None:
        self._partitions: defaultdict[tuple[str, int], list[StoredRecord]] = defaultdict(list)
        self._groups: defaultdict[tuple[str, str], _Group] = defaultdict(_Group)
        self._waiting: set[asyncio.Future[None]] = set()
        self._rebalances: set[asyncio.Task[None]] = set()

    def append(
        self, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Headers | None = None, partition: int = 0
    ) -> int:
        """Write a record as anybody might; give its offset."""
        records = self._partitions[topic, partition]
        offset = len(records)
        records.append(StoredRecord(topic, partition, offset, int(time.time() * 1000), key, value, headers or []))
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()
        return offset

    def records(self, topic: str, partition: int | None = None) -> list[StoredRecord]:
        """What was written to a topic, or to one partition of it."""
        return [
            record
            for (name, number), records in sorted(self._partitions.items())
            if name == topic and partition in (None, number)
            for record in records
        ]

    def committed(self, reader: str, topic: str) -> dict[int, Commit]:
        """What the group of `reader` has committed, by partition."""
        return {number: commit for (name, number), commit in self._groups[reader, topic].commits.items() if name == topic}

    def fetch(self, topic: str, partition: int, offset: int, limit: int) -> Sequence[StoredRecord]:
        """Up to `limit` records from `offset` on."""
        return self._partitions[topic, partition][offset : offset + limit]

    async def wait(self, seconds: float) -> None:
        """Return when something is written anywhere, or after `seconds`."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        await asyncio.wait((waiting,), timeout=seconds)
        self._waiting.discard(waiting)

    def group(self, reader: str, topic: str) -> _Group:
        """The group of `reader` on `topic`."""
        return self._groups[reader, topic]

    async def rebalance(self, change: Coroutine[Any, Any, None]) -> None:
        """See a change of a group through, also where the member that asked for it is cancelled: the others wait for its end."""
        await asyncio.shield(self.change(change))

    def change(self, change: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a change of a group."""
        rebalancing = asyncio.create_task(change)
        self._rebalances.add(rebalancing)
        rebalancing.add_done_callback(self._rebalances.discard)
        return rebalancing


class MemoryBus(Member):
    """See `ruminate.shared.bus.Bus`."""

    _delivery_timeout_seconds = 5.0

    def __init__(self, broker: MemoryBroker, settings: ServiceSettings | None = None, *, reader: str) -> None:
        super().__init__(settings or ServiceSettings(), reader=reader)
        self._broker = broker

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    async def _writer(self) -> _Writer:
        return _Writer(self._broker)

    def _cluster(self) -> str:
        return self._broker.cluster

    def _trouble(self) -> Collection[str]:
        return ()

    @asynccontextmanager
    async def _group_log(self, topic: Topic[Any], serving: Serving[Any]) -> AsyncIterator[_GroupLog]:
        group_log = _GroupLog(self._broker, topic, self._reader, serving, transactions=self._settings.kafka_transactions)
        try:
            yield group_log
        finally:
            await group_log.leave()

    async def _records(
        self,
        topic: Topic[Any] | SideTopic,
        partitions: Collection[int],
        start: int | None,
        follow: bool,
        caught_up: CaughtUp | None = None,
    ) -> AsyncGenerator[Record, None]:
        ends = {number: len(self._broker.records(topic.name, number)) for number in partitions}
        positions = {number: max(0, end + start) if start is not None and start < 0 else start or 0 for number, end in ends.items()}
        while True:
            began, full = now(), False
            for number, position in positions.items():
                limit = 1000 if follow else max(0, ends[number] - position)
                for record in self._broker.fetch(topic.name, number, position, limit):
                    positions[number] = record.offset + 1
                    yield record
                full = full or positions[number] - position >= limit
            if not follow:
                return
            if full:
                await asyncio.sleep(0)
                continue
            if caught_up is not None:
                caught_up(began)
            await self._broker.wait(0.2)


class _Writer:
    """Writes at once; acknowledges a moment later, as a broker does."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._unacknowledged = 0
        self._all_acknowledged = asyncio.Event()
        self._all_acknowledged.set()

    def write(self, record: Outgoing, settled: Settled) -> None:
        offset = self._broker.append(
            record.topic, record.value, key=record.key, headers=list(record.headers), partition=record.partition
        )
        self._unacknowledged += 1
        self._all_acknowledged.clear()
        asyncio.get_running_loop().call_soon(self._acknowledge, settled, offset)

    def _acknowledge(self, settled: Settled, offset: int) -> None:
        self._unacknowledged -= 1
        if not self._unacknowledged:
            self._all_acknowledged.set()
        settled(offset)

    async def flush(self) -> None:
        await self._all_acknowledged.wait()


class _AtomicWriter:
    """One owner's transactions of one partition; a later owner's writer fences it."""

    def __init__(self, broker: MemoryBroker, group: _Group, place: Place) -> None:
        self._broker = broker
        self._group = group
        self._place = place
        group.epochs[place] += 1
        self._epoch = group.epochs[place]

    async def write(self, records: Sequence[Outgoing], commit: Commit) -> bool:
        await asyncio.sleep(0)
        if self._group.epochs[self._place] != self._epoch:
            return False
        for record in records:
            self._broker.append(
                record.topic, record.value, key=record.key, headers=list(record.headers), partition=record.partition
            )
        self._group.commits[self._place] = commit
        return True


class _GroupLog:
    """One member's view of a topic and its retries. It joins at its first poll."""

    def __init__(self, broker: MemoryBroker, topic: Topic[Any], reader: str, serving: Serving[Any], *, transactions: bool) -> None:
        self._broker = broker
        retries = topic.retries(reader)
        self._places = [
            [(topic.name, number) for number in range(topic.partitions)],
            [(retries.name, number) for number in range(retries.partitions)],
        ]
        self._serving = serving
        self._group = broker.group(reader, topic.name)
        self._transactions = transactions
        self._positions: dict[Place, int] = {}
        self.assignment: frozenset[Place] = frozenset()

    async def poll(self, places: Collection[Place], limit: int, seconds: float) -> Iterable[Record]:
        if self not in self._group.members:
            await self._broker.rebalance(self._join())
        records: list[StoredRecord] = []
        for place in places:
            if place in self._positions:
                fetched = self._broker.fetch(*place, self._positions[place], limit - len(records))
                self._positions[place] += len(fetched)
                records.extend(fetched)
        if not records:
            await self._broker.wait(seconds)
        return records

    def seek(self, place: Place, offset: int) -> None:
        if place in self.assignment:
            self._positions[place] = offset

    async def commit(self, commits: Mapping[Place, Commit]) -> bool:
        if not commits.keys() <= self.assignment:
            return False
        self._group.commits.update(commits)
        return True

    def rejoin(self) -> None:
        self._broker.change(self._refresh())

    async def leave(self) -> None:
        """Be out of the group, however the member ends."""
        await self._broker.rebalance(self._leave())

    async def _join(self) -> None:
        async with self._group.rebalance:
            await self._rebalance([*self._group.members, self])

    async def _leave(self) -> None:
        async with self._group.rebalance:
            if self in self._group.members:
                await self._rebalance([member for member in self._group.members if member is not self])

    async def _refresh(self) -> None:
        async with self._group.rebalance:
            await self._rebalance(list(self._group.members))

    async def _rebalance(self, members: list[_GroupLog]) -> None:
        for member in members:
            await member._serving.revoking()
        self._group.members[:] = members
        held = [member.assignment for member in members]
        shares = [_share_out(places, [each & frozenset(places) for each in held]) for places in self._places]
        for member, mine in zip(members, zip(*shares, strict=True), strict=False):
            member._take(frozenset().union(*mine))

    def _take(self, places: frozenset[Place]) -> None:
        self.assignment = places
        starts = {place: self._group.commits.get(place, Commit(0)) for place in sorted(places)}  # tests want one order
        for (name, number), start in starts.items():
            end = len(self._broker.records(name, number))
            if start.offset > end:
                self._serving.fail(OffsetLost(f"offset {start.offset} of {name} partition {number} is past the end {end}"))
                return
        self._positions = {place: start.offset for place, start in starts.items()}
        writers = {place: _AtomicWriter(self._broker, self._group, place) for place in places} if self._transactions else None
        self._serving.assigned(starts, writers)


def _share_out(places: Sequence[Place], held: Sequence[frozenset[Place]]) -> list[frozenset[Place]]:
    """Every partition to one member, as evenly as can be, each member keeping what it may."""
    if not held:
        return []
    least, more = divmod(len(places), len(held))
    quotas = [least + (index < more) for index in range(len(held))]
    kept = [set(sorted(mine)[:quota]) for mine, quota in zip(held, quotas, strict=True)]
    free = [place for place in places if not any(place in mine for mine in kept)]
    for mine, quota in zip(kept, quotas, strict=True):
        while len(mine) < quota:
            mine.add(free.pop(0))
    return [frozenset(mine) for mine in kept]
