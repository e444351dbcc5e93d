"""The bus on Kafka's protocol: Apache Kafka, or the embedded broker with the limits that its profile names.

A poll loop that never stops polling, so a handler may take hours; batches that leave when a handler has returned; commits
of the lowest finished offset every half second, at a rebalance and at the end. The outcomes are `Serving`'s.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import chain
from types import TracebackType
from typing import Any, Final, Self

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from aiokafka.structs import OffsetAndMetadata

from ruminate.schemas.topic import SideTopic, Topic
from ruminate.shared import lenient_records
from ruminate.shared.bus import BrokerUnavailable, BusError, CaughtUp, OffsetLost, TransactionsRefused
from ruminate.shared.connection import ConnectionWatch, aiokafka_options
from ruminate.shared.crash_notes import CrashNotes
from ruminate.shared.dead_letters import Place
from ruminate.shared.ledger import Commit
from ruminate.shared.member import Member
from ruminate.shared.obstacles import missing_right
from ruminate.shared.outbox import Outbox
from ruminate.shared.profiles import PROFILES, BrokerProfile
from ruminate.shared.record import Record
from ruminate.shared.serving import Serving
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.transactions import Transactions

log = structlog.get_logger()

COMMIT_TIMEOUT_SECONDS: Final = 3.0
METADATA_MAX_AGE_MS: Final = 3_000
"""A topic that is created after its reader has joined is found this soon; aiokafka would look again after five minutes."""
TRANSACTION_TIMEOUT_MS: Final = 30_000
"""So long may an owner that froze keep readers of committed records waiting; whoever takes over ends that at once."""
SILENCE_SECONDS: Final = 5.0
_IDLE_AFTER_SECONDS: Final = 5.0
_CONNECT_AGAIN_SECONDS: Final = 0.5
_CLOSE_SECONDS: Final = 5.0
_READ_TURN_MS: Final = 20
_FOLLOW_TURN_MS: Final = 200


class KafkaBus(Member):
    """See `ruminate.shared.bus.Bus`. An async context manager: opening does not wait for the broker, the first use does."""

    def __init__(self, settings: ServiceSettings, *, reader: str, profile: BrokerProfile | None = None) -> None:
        super().__init__(settings, reader=reader)
        lenient_records.install()
        self._profile = profile or PROFILES[settings.kafka_profile]
        self._delivery_timeout_seconds = self._profile.delivery_timeout_seconds
        self._producer: AIOKafkaProducer | None = None
        self._outbox: Outbox | None = None
        self._cluster_id = ""
        self._connecting: asyncio.Task[Outbox] | None = None
        self._readers: set[AIOKafkaConsumer] = set()
        self._watch = ConnectionWatch(settings)

    async def __aenter__(self) -> Self:
        await self._watch.__aenter__()
        self._connecting = asyncio.create_task(self._connect())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await self._close()
        finally:  # a watch that goes on would ask for a broker that nobody uses any more
            await self._watch.__aexit__(kind, error, trace)

    async def _close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        for consumer in list(self._readers):
            await _close(consumer)
        if self._outbox is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._outbox.flush()
            await self._outbox.close()
        if self._producer is not None:
            await _close(self._producer)

    # Connecting.

    async def _connect(self) -> Outbox:
        while True:
            producer = AIOKafkaProducer(
                **self._client("writer"),
                acks="all",
                enable_idempotence=self._profile.idempotent_producer,
                max_batch_size=self._profile.max_batch_bytes,
            )
            try:
                await producer.start()
                self._cluster_id = await _cluster_id(self._settings)
            except (KafkaError, OSError):
                await _close(producer)
                await asyncio.sleep(_CONNECT_AGAIN_SECONDS)
                continue
            except BaseException:
                await _close(producer)
                raise
            self._producer = producer
            self._outbox = Outbox(
                producer,
                linger_seconds=self._profile.linger_seconds,
                delivery_timeout_seconds=self._profile.delivery_timeout_seconds,
            )
            return self._outbox

    def _transactional_producer(self, transactional_id: str) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            **self._client("transactions"),
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            max_batch_size=self._profile.max_batch_bytes,
        )

    def _client(self, part: str) -> dict[str, Any]:
        return {
            **aiokafka_options(self._settings),
            "client_id": f"ruminate-{self._reader}-{self._settings.replica}-{part}",
            "request_timeout_ms": self._profile.request_timeout_ms,
        }

    async def _writer(self) -> Outbox:
        if self._connecting is None:
            raise RuntimeError("open the bus first: `async with KafkaBus(…) as bus`")
        done, _ = await asyncio.wait((self._connecting,), timeout=self._delivery_timeout_seconds)
        if not done:
            raise BrokerUnavailable("; ".join(self._trouble()))
        return self._connecting.result()

    def _cluster(self) -> str:
        return self._cluster_id

    def _trouble(self) -> Collection[str]:
        if reasons := self._watch.reasons():
            return reasons
        if self._outbox is None:
            return [f"no broker answers at {self._settings.kafka_bootstrap} (RUMINATE_KAFKA_BOOTSTRAP)"]
        seconds = self._outbox.waits_for_seconds()
        return [f"the broker has acknowledged nothing for {seconds:.0f} s"] if seconds > SILENCE_SECONDS else []

    # Serving.

    @asynccontextmanager
    async def _group_log(self, topic: Topic[Any], serving: Serving[Any]) -> AsyncIterator[_GroupLog]:
        if self._settings.kafka_transactions and not self._profile.transactions:
            raise TransactionsRefused(
                "RUMINATE_KAFKA_TRANSACTIONS is set, and the embedded broker has no transactions; unset it, or name an Apache "
                "Kafka (RUMINATE_KAFKA_BOOTSTRAP, RUMINATE_KAFKA_PROFILE=kafka)"
            )
        static = {"group_instance_id": f"{self._reader}-{self._settings.replica}"} if self._profile.static_membership else {}
        # aiokafka keeps what a member held in the assignor's class: a class of its own for each member.
        assignor = type("StickyAssignor", (StickyPartitionAssignor,), {})
        consumer = AIOKafkaConsumer(
            **self._client("reader"),
            **static,
            group_id=self._reader,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=self._profile.isolation_level,
            partition_assignment_strategy=[assignor],
            session_timeout_ms=self._profile.session_timeout_ms,
            heartbeat_interval_ms=self._profile.heartbeat_interval_ms,
            rebalance_timeout_ms=self._profile.rebalance_timeout_ms,
            max_poll_interval_ms=self._profile.max_poll_interval_ms,
            fetch_max_wait_ms=self._profile.fetch_max_wait_ms,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
        )
        notes = None
        if not self._profile.keeps_commit_metadata:
            path = self._settings.state_dir / "crashes" / f"{self._reader}-{self._settings.replica}.json"
            notes = CrashNotes(path, bootstrap=self._settings.kafka_bootstrap)
        transactions = None
        if self._settings.kafka_transactions:
            transactions = Transactions(
                self._reader,
                self._transactional_producer,
                delivery_timeout_seconds=self._profile.delivery_timeout_seconds,
            )
        group_log = _GroupLog(consumer, topic, serving, assignor=assignor, notes=notes, transactions=transactions)
        try:
            await consumer.start()
            pace_fetches(consumer._fetcher, self._profile)
            # Subscribed only now: `start` would wait for the first assignment, and could not be stopped meanwhile.
            consumer.subscribe([topic.name, topic.retries(self._reader).name], listener=group_log)
            yield group_log
        finally:
            try:
                await _close(consumer)  # a rebalance after the transactions are closed would open new ones
            finally:  # also where we are cancelled once more
                await group_log.close()

    # Reading without a group.

    async def _records(
        self,
        topic: Topic[Any] | SideTopic,
        partitions: Collection[int],
        start: int | None,
        follow: bool,
        caught_up: CaughtUp | None = None,
    ) -> AsyncGenerator[Record, None]:
        await self._writer()  # the broker answers
        places = [TopicPartition(topic.name, number) for number in partitions]
        consumer = AIOKafkaConsumer(
            **self._client("follower" if follow else "browser"),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=self._profile.isolation_level,
            fetch_max_wait_ms=self._profile.idle_max_wait_ms if follow else _READ_TURN_MS,
        )
        self._readers.add(consumer)
        try:
            await consumer.start()
            await consumer._client._wait_on_metadata(topic.name)  # says at once what we may not read; `assign` would be silent
            consumer.assign(places)
            beginnings = await consumer.beginning_offsets(places)
            ends = await consumer.end_offsets(places) if start is not None and start < 0 else {}
            for place in places:
                if ends and start is not None:
                    consumer.seek(place, max(beginnings[place], ends[place] + start))
                    continue
                if start is not None and start < beginnings[place]:
                    raise OffsetLost(_lost(place, start, beginnings[place]))
                consumer.seek(place, beginnings[place] if start is None else start)
            async with aclosing(
                _follow(consumer, places, self._profile, caught_up) if follow else _read_to_end(consumer, places, self._profile)
            ) as reading:
                async for record in reading:
                    yield record
        except ConsumerStoppedError:
            return  # the bus was closed around us
        except KafkaError as error:
            why = missing_right(error) or type(error).__name__
            raise BrokerUnavailable(f"{topic.name} could not be read: {why}") from error
        finally:
            self._readers.discard(consumer)
            await _close(consumer)


class _GroupLog(ConsumerRebalanceListener):  # type: ignore[misc]
    """One topic as a member of the group sees it."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        topic: Topic[Any],
        serving: Serving[Any],
        *,
        assignor: type[StickyPartitionAssignor],
        notes: CrashNotes | None,
        transactions: Transactions | None,
    ) -> None:
        self._consumer = consumer
        self._topic = topic
        self._serving = serving
        self._assignor = assignor
        self._notes = notes
        self._transactions = transactions
        self._fetch: asyncio.Task[dict[TopicPartition, list[Record]]] | None = None

    async def poll(self, places: Collection[Place], limit: int, seconds: float) -> Iterable[Record]:
        # Polling goes on where nothing is wanted, too: that keeps us in the group, and it is where errors arrive. No
        # partition has the number -1. A fetch is never given up half-way: what it has taken would be missed.
        if self._fetch is None:
            wanted = [TopicPartition(*place) for place in places or ((self._topic.name, -1),)]
            self._fetch = asyncio.create_task(
                self._consumer.getmany(*wanted, timeout_ms=int(seconds * 1000), max_records=limit), name="fetch"
            )
        fetch = self._fetch
        await asyncio.wait((fetch,), timeout=max(seconds, 0.05))
        if fetch is not self._fetch or not fetch.done():
            return ()  # the group rebalances, or has done so
        self._fetch = None
        try:
            return chain.from_iterable(fetch.result().values())
        except NoOffsetForPartitionError:
            return ()  # a new group: `on_partitions_assigned` seeks to the beginning
        except OffsetOutOfRangeError as error:
            raise await self._offset_lost(error) from error
        except KafkaError as error:
            if not error.retriable:
                raise
            log.warning("fetch_failed", topic=self._topic.name, error=type(error).__name__)
            return ()

    def seek(self, place: Place, offset: int) -> None:
        if place in self._consumer.assignment():
            self._consumer.seek(TopicPartition(*place), offset)

    def rejoin(self) -> None:
        self._consumer._coordinator.request_rejoin()

    async def commit(self, commits: Mapping[Place, Commit]) -> bool:
        offsets = {TopicPartition(*place): OffsetAndMetadata(commit.offset, commit.metadata) for place, commit in commits.items()}
        try:
            if self._notes is not None:
                self._notes.note(commits)
            async with asyncio.timeout(COMMIT_TIMEOUT_SECONDS):
                await self._consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError) as error:
            # The group has moved on: whoever reads these partitions now reads the records again. No error.
            log.info("commit_refused", topic=self._topic.name, error=type(error).__name__)
            return False
        except (TimeoutError, KafkaError) as error:
            raise BrokerUnavailable(f"offsets of {self._topic.name} could not be committed: {type(error).__name__}") from error
        return True

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        # The group tells everybody to give everything back; what we really lose, we learn from the next assignment.
        await self._serving.revoking()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        # aiokafka logs what its listeners raise, and goes on.
        try:
            # Whoever had these partitions is fenced before we ask how far they are: nothing moves after the answer.
            writers = None if self._transactions is None else await self._transactions.own(assigned)
            starts = await self._starts(list(assigned))
        except (BusError, KafkaError, OSError) as error:
            self._serving.fail(error)
            return
        self._drop_what_was_fetched()
        self._serving.assigned(starts, writers)

    async def close(self) -> None:
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.gather(self._fetch, return_exceptions=True)
        if self._transactions is not None:
            await self._transactions.close()

    def _drop_what_was_fetched(self) -> None:
        # A partition may have gone and come back meanwhile, and stand before these records: it is sought, and read again.
        if self._fetch is not None and self._fetch.done():
            self._fetch.exception()
            self._fetch = None

    async def _starts(self, places: list[TopicPartition]) -> dict[Place, Commit]:
        if not places:
            return {}
        coordinator = self._consumer._coordinator
        self._assignor.on_generation_assignment(coordinator.generation)
        # `consumer.committed` drops the metadata.
        committed = await coordinator.fetch_committed_offsets(places)
        beginnings = await self._consumer.beginning_offsets(places)
        starts: dict[Place, Commit] = {}
        for place in places:
            found = committed.get(place)
            beginning = beginnings[place]
            if found is not None and found.offset < beginning:
                raise OffsetLost(_lost(place, found.offset, beginning))
            start = Commit(beginning) if found is None else Commit(found.offset, found.metadata)
            starts[place] = start if self._notes is None else self._notes.recall(place, start)
        return starts

    async def _offset_lost(self, error: OffsetOutOfRangeError) -> OffsetLost:
        offsets: dict[TopicPartition, int] = error.args[0]
        place, offset = next(iter(offsets.items()))
        beginnings = await self._consumer.beginning_offsets([place])
        return OffsetLost(_lost(place, offset, beginnings[place]))


def pace_fetches(fetcher: Fetcher, profile: BrokerProfile) -> None:
    """Leave a pause between two fetches from a node, so that records which come one by one are fetched together.

    A fetch that nothing preceded goes out at once. The pause is before the request and not before the records are taken:
    what arrives meanwhile comes with the next answer. Once nothing has come for a while, a fetch may wait longer for a first
    record.
    """
    fetch = fetcher._proc_fetch_request
    loop = asyncio.get_running_loop()
    begun: dict[int, float] = {}
    last_came = loop.time()

    async def paced(assignment: Any, node: int, request: Any) -> bool:
        nonlocal last_came
        pause = begun.get(node, -math.inf) + profile.fetch_interval_seconds - loop.time()
        if pause > 0:
            try:
                await asyncio.sleep(pause)
            except asyncio.CancelledError:
                return False  # as aiokafka's own does: its `close` waits for us, and would not survive the cancellation
        begun[node] = loop.time()
        fetched: bool = await fetch(assignment, node, request)
        if fetched:
            last_came = loop.time()
        idle = loop.time() - last_came > _IDLE_AFTER_SECONDS
        fetcher._fetch_max_wait_ms = profile.idle_max_wait_ms if idle else profile.fetch_max_wait_ms
        return fetched

    fetcher._proc_fetch_request = paced


def _lost(place: TopicPartition, offset: int, beginning: int) -> str:
    where = f"{place.topic} partition {place.partition}"
    if offset < beginning:
        lost = f"offsets {offset} to {beginning - 1} of {where} are gone, the log begins at {beginning}"
    else:
        lost = f"offset {offset} of {where} is past the end of a log that begins at {beginning}"
    return f"{lost}. Bring the log back, or set the group's offset by hand and accept the loss."


async def _follow(
    consumer: AIOKafkaConsumer, places: Collection[TopicPartition], profile: BrokerProfile, caught_up: CaughtUp | None
) -> AsyncGenerator[Record, None]:
    while True:
        for records in (await consumer.getmany(timeout_ms=_FOLLOW_TURN_MS)).values():
            for record in records:
                yield record
        if caught_up is not None and (moment := await _read_up_to(consumer, places, profile)) is not None:
            caught_up(moment)


async def _read_up_to(consumer: AIOKafkaConsumer, places: Collection[TopicPartition], profile: BrokerProfile) -> datetime | None:
    """The moment up to which everything visible was read; None while something is left to read."""
    oldest_ms: int | None = None
    for place in places:
        end, polled_ms = visible_end(consumer, place, profile), consumer.last_poll_timestamp(place)
        if end is None or polled_ms is None or await consumer.position(place) < end:
            return None
        oldest_ms = polled_ms if oldest_ms is None else min(oldest_ms, polled_ms)
    return None if oldest_ms is None else datetime.fromtimestamp(oldest_ms / 1000, UTC)


def visible_end(consumer: AIOKafkaConsumer, place: TopicPartition, profile: BrokerProfile) -> int | None:
    """Where the records that we may see end, as the last fetch said; None before the first."""
    end: int | None = (
        consumer.highwater(place) if profile.isolation_level == "read_uncommitted" else consumer.last_stable_offset(place)
    )
    return end


async def _read_to_end(
    consumer: AIOKafkaConsumer, places: Collection[TopicPartition], profile: BrokerProfile
) -> AsyncGenerator[Record, None]:
    """Every record up to the ends as the first fetches saw them.

    `end_offsets` is wrong on the embedded broker, and the offset before an end may hold no record (compaction, markers):
    it is the position that has to reach what a fetch said.
    """
    ends: dict[TopicPartition, int] = {}
    pending = set(places)
    silent_since = time.monotonic()
    while pending:
        fetched = await consumer.getmany(*pending, timeout_ms=_READ_TURN_MS)
        for place in list(pending):
            end = visible_end(consumer, place, profile)
            if place not in ends and end is not None:
                ends[place] = end
        for place, records in fetched.items():
            for record in records:
                if record.offset < ends[place]:
                    yield record
        for place in list(pending & ends.keys()):
            if await consumer.position(place) >= ends[place]:
                pending.discard(place)
                consumer.pause(place)
                silent_since = time.monotonic()
        if fetched:
            silent_since = time.monotonic()
        elif time.monotonic() - silent_since > profile.delivery_timeout_seconds:
            names = ", ".join(str(place.partition) for place in sorted(pending))
            raise BrokerUnavailable(f"nothing came from partitions {names} for {profile.delivery_timeout_seconds:.0f} s")


async def _cluster_id(settings: ServiceSettings) -> str:
    admin = AIOKafkaAdminClient(**aiokafka_options(settings))
    try:
        await admin.start()
        found: str = (await admin.describe_cluster())["cluster_id"]
        return found
    finally:
        await admin.close()


async def _close(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Close a client, whether or not its broker is still there: aiokafka waits for an absent one without end."""
    stopping = asyncio.create_task(client.stop())
    done, _ = await asyncio.wait((stopping,), timeout=_CLOSE_SECONDS)
    if not done:
        await (client.client if isinstance(client, AIOKafkaProducer) else client._client).close()
        stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
