"""One reader's work on one topic, whichever broker is behind it: every record ends in exactly one of four outcomes.

    log.poll ──▶ accept ──▶ Turns ──▶ worker: decode, handle ──▶ Settling: write, acknowledged ──▶ Ledger ──▶ commit
                                        │ Unavailable: the partition is parked and the same record tried again
                                        │ Unprocessable, third crash: a dead letter is written instead
                                        └ anything else: counted in the commit, then `run` raises it

Two topics are read as one: the topic itself, and the reader's retry topic, on which its dead letters come back.

No task a record: `concurrency` workers take turns. A rebalance may take a partition away at any moment; what belongs to it
carries the `Share` that it came with, and a lost share finishes nothing, commits nothing and tells nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog

from ruminate.schemas.payload import Payload
from ruminate.schemas.topic import Topic
from ruminate.shared import metrics
from ruminate.shared.bus import Delivery, Handler, PartitionsListener, TooManyDeadLetters, Unavailable, Unprocessable
from ruminate.shared.dead_letters import CRASHED, DeadLetter, Place, origin_of, without_provenance
from ruminate.shared.decoding import decode, now
from ruminate.shared.ledger import Commit, Ledger
from ruminate.shared.outgoing import to_record
from ruminate.shared.record import Position, Record
from ruminate.shared.settling import Acknowledged, Settling, Transacted, Writer
from ruminate.shared.shares import AtomicWriter, Emptied, Item, Outgoing, Share
from ruminate.shared.turns import Turns

log = structlog.get_logger()

P = TypeVar("P", bound=Payload)

CRASHES_BEFORE_DEAD_LETTER: Final = 3
COMMIT_SECONDS: Final = 0.5
TURN_SECONDS: Final = 0.2
LONGEST_WAIT_SECONDS: Final = 60.0
FLUSH_SECONDS: Final = 10.0
INSIST_SECONDS: Final = 5.0
BREATH_SECONDS: Final = 0.002
RESTLESS_ASSIGNMENTS: Final = 6
RESTLESS_SECONDS: Final = 20.0
"""So many assignments in so short a time are no replica that comes or goes, but two that are taken for one."""


class GroupLog(Protocol):
    """A topic as one member of a consumer group sees it. It calls `Serving.revoking` and `Serving.assigned`."""

    async def poll(self, places: Collection[Place], limit: int, seconds: float) -> Iterable[Record]:
        """Up to `limit` records of these partitions, waiting at most `seconds`; none are wanted where there is no partition."""
        ...

    def seek(self, place: Place, offset: int) -> None:
        """Go on from `offset`; nothing happens where the partition is no longer ours."""
        ...

    async def commit(self, commits: Mapping[Place, Commit]) -> bool:
        """Commit; False when the group refused because it has moved on. Raises BrokerUnavailable."""
        ...

    def rejoin(self) -> None:
        """Ask the group who owns what: it has moved on without our knowing."""
        ...


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """What a bus knows about itself."""

    reader: str
    source: str
    cluster: str
    grace_seconds: float
    dead_letter_limit: int
    transactions: bool = False


@dataclass(slots=True)
class _Change:
    revoked: list[Share] = field(default_factory=list)
    gained: list[Share] = field(default_factory=list)


class Serving(Generic[P]):
    """See the module. A `GroupLog` feeds it; `run` ends by `stop` or by raising what went wrong."""

    def __init__(
        self,
        topic: Topic[P],
        handler: Handler[P],
        writer: Writer,
        settings: ServingSettings,
        *,
        concurrency: int,
        max_in_flight: int,
        max_in_flight_bytes: int,
        on_assigned: PartitionsListener,
        on_revoked: PartitionsListener,
    ) -> None:
        self._topic = topic
        self._retries = topic.retries(settings.reader)
        self._handler = handler
        self._settings = settings
        self._concurrency = concurrency
        self._max_in_flight = max_in_flight
        self._max_in_flight_bytes = max_in_flight_bytes
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked

        labels = (topic.name, settings.reader)
        self._settling: Settling = (
            Transacted(self, labels=labels) if settings.transactions else Acknowledged(self, writer, labels=labels)
        )
        self.turned_at = time.monotonic()
        self._group_log: GroupLog | None = None
        self._shares: dict[Place, Share] = {}
        self._joined = False
        self._rebalancing = False
        self._assigned_at: deque[float] = deque(maxlen=RESTLESS_ASSIGNMENTS)
        self._ending = asyncio.Event()
        self._changes: asyncio.Queue[_Change] = asyncio.Queue()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        self._turns: Turns[Item] = Turns()
        self._idle: list[asyncio.Future[None]] = []
        self._running: set[Item] = set()
        self._last_has_ended = asyncio.Event()
        self._in_flight_bytes = 0
        self._room = asyncio.Event()
        self._dead_letters_in_a_row = 0
        self._breathed_at = time.monotonic()

        self._tally = metrics.EVENTS.of(*labels)
        self._in_flight_gauge = metrics.IN_FLIGHT.labels(*labels)
        self._held_gauge = metrics.HELD.labels(*labels)

    # What the service asks for.

    async def run(self, group_log: GroupLog) -> None:
        """Serve until `stop`; raise what a handler, a listener or the broker ended us with."""
        self._group_log = group_log
        background = [
            asyncio.create_task(self._watch(part)) for part in (self._poll(), self._commit_now_and_then(), self._tell_owner())
        ]
        workers = [asyncio.create_task(self._watch(self._work())) for _ in range(self._concurrency)]
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait((ending, self._failure), return_when=asyncio.FIRST_COMPLETED)
            if not self._failure.done():
                await self._wait_for_handlers()
        finally:
            self._ending.set()
            # From the last to the first, and each of them also where we are cancelled during another: whatever of us went
            # on would poll, and so join the group again and keep partitions that nobody serves.
            async with AsyncExitStack() as steps:
                steps.push_async_callback(self._part)
                steps.push_async_callback(_end, [*background, ending])
                steps.push_async_callback(self._settle_all)
                steps.push_async_callback(_end, workers)
        if self._failure.done():
            self._failure.result()
        self._failure.cancel()  # whatever goes wrong from here on has nobody to hear of it

    def stop(self) -> None:
        """Ask `run` to begin nothing more and to end."""
        self._ending.set()

    def fail(self, error: BaseException) -> None:
        """Make `run` raise `error`; only the first counts. Nothing begins from here on."""
        if not self._failure.done():
            self._failure.set_exception(error)
        self._ending.set()

    def readiness(self) -> list[str]:
        """Why we are not ready, a sentence each."""
        if not self._joined or self._rebalancing:
            return [f"the partitions of {self._topic.name} are being assigned"]
        reasons = [
            f"partition {share.place[1]} of {share.place[0]} is being opened" for share in self._shares.values() if not share.opened
        ]
        for share in self._shares.values():
            if share.waits_for:
                seconds = max(0.0, share.wakes_at - time.monotonic())
                name, number = share.place
                reasons.append(f"partition {number} of {name} waits for {share.waits_for}; next try in {seconds:.0f} s")
        if self._settling.trouble:
            reasons.append(self._settling.trouble)
        if len(self._assigned_at) == RESTLESS_ASSIGNMENTS and time.monotonic() - self._assigned_at[0] < RESTLESS_SECONDS:
            reasons.append(
                f"the partitions of {self._topic.name} are assigned again and again; "
                "does another process run under the same name (RUMINATE_REPLICA)?"
            )
        return reasons

    @property
    def _log(self) -> GroupLog:
        if self._group_log is None:
            raise RuntimeError("`run` has not begun")
        return self._group_log

    # What the log tells us.

    async def revoking(self) -> None:
        """The group rebalances: begin nothing, have everything acknowledged, commit what is finished."""
        self._rebalancing = True
        await self._flush(FLUSH_SECONDS / 4)
        await self._settling.commit()

    def assigned(self, starts: Mapping[Place, Commit], writers: Mapping[Place, AtomicWriter] | None = None) -> None:
        """These partitions are ours now, with where the group stands in each, and with transactions their writers.

        A partition that was ours and that nobody moved on meanwhile goes on as if nothing had happened.
        """
        change = _Change()
        for share in list(self._shares.values()):
            start = starts.get(share.place)
            if start is None or start.offset > share.ledger.commit().offset:
                self._lose(share)
                change.revoked.append(share)
            else:
                share.waits_for = "" if share.waits_for == _ITS_OWNER else share.waits_for
                self._log.seek(share.place, share.ledger.next_offset)
        for place, start in starts.items():
            if place not in self._shares:
                share = Share(place, Ledger(start.offset, start.crashes), committed=start, retries=place[0] == self._retries.name)
                self._shares[place] = share
                change.gained.append(share)
        for place, share in self._shares.items():
            share.atomic = (writers or {}).get(place)
            if share.opened and share.atomic is not None and (share.writing is None or share.writing.done()):
                self._settling.opened(share)  # it was fenced, and is ours again
        if change.revoked or change.gained:
            self._changes.put_nowait(change)
        self._joined = True
        self._rebalancing = False
        self._assigned_at.append(time.monotonic())
        self._wake(self._concurrency)

    # Fetching.

    async def _poll(self) -> None:
        while True:
            self.turned_at = time.monotonic()
            self._in_flight_gauge.set(sum(share.in_flight for share in self._shares.values()))
            self._held_gauge.set(sum(share.held for share in self._shares.values()))
            room = self._room_for()
            wanted = [share.place for share in self._shares.values() if share.opened and not share.waits_for] if room else []
            if not wanted:
                self._room.clear()
                await _wait(self._room, TURN_SECONDS)
            self._accept(await self._log.poll(wanted, max(room, 1), TURN_SECONDS if wanted else 0.0))

    def _room_for(self) -> int:
        if self._ending.is_set() or self._rebalancing or self._in_flight_bytes >= self._max_in_flight_bytes:
            return 0
        # What is in flight of a partition that waits takes no room from the others, as long as there is memory for it.
        room = self._max_in_flight - sum(share.in_flight for share in self._shares.values() if not share.waits_for)
        # A fetch for one record at a time costs as much as a fetch for many.
        return room if room >= max(1, self._max_in_flight // 4) else 0

    def _accept(self, records: Iterable[Record]) -> None:
        count = size = 0
        share: Share | None = None
        by_key = self._concurrency > 1
        for record in records:
            if share is None or share.place != (record.topic, record.partition):
                share = self._shares.get((record.topic, record.partition))
            if share is None or not share.opened or not share.ledger.begin(record.offset):
                continue
            value = record.value
            length = 0 if value is None else len(value)
            # With one worker the order of the partition is kept whole, not only that of a key.
            self._turns.add(Item(share, record, _ordering_key(record) if by_key else None, length))
            share.in_flight += 1
            size += length
            count += 1
        self._in_flight_bytes += size
        self._wake(count)

    # Handling.

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        worker = asyncio.current_task()
        monotonic, turns, running = time.monotonic, self._turns, self._running
        while not self._ending.is_set():
            if monotonic() - self._breathed_at > BREATH_SECONDS:
                await asyncio.sleep(0)  # handlers that never wait must not keep heartbeats from being sent
                self._breathed_at = monotonic()
                continue
            item = None if self._rebalancing else turns.take()
            if item is None:
                idle = loop.create_future()
                self._idle.append(idle)
                await idle
                continue
            item.worker = worker
            running.add(item)
            try:
                await self._handle(item)
            finally:
                running.discard(item)
                if self._ending.is_set() and not running:
                    self._last_has_ended.set()
            if item.share.lost and worker is not None and not self._ending.is_set():
                while worker.uncancel():  # the handler was cancelled with its partition, the worker goes on
                    continue

    async def _handle(self, item: Item) -> None:
        share = item.share
        try:
            if item.record.value is None and item.record.key is not None and self._topic.cleanup == "compact":
                item.outcome = "tombstone"  # an erasure, and not for us
                self._tell(item, ())
            else:
                await self._deliver(item)
        except asyncio.CancelledError:
            if share.lost and not self._ending.is_set():
                self._leave_flight(item)  # the partition went elsewhere
            elif item.worker is None or item.worker.cancelling():
                raise
            else:  # something within it was cancelled, and it let that through: our worker must not end of it
                self._crash(item, RuntimeError("the handler ended as if it had been cancelled"))
        except Unprocessable as error:
            self._bury(item, error.reason, error.explanation)
        except Unavailable as error:
            self._park(item, error)
            return
        except Exception as error:  # whatever it is, it is counted, and `run` raises it
            self._crash(item, error)
        self._turns.finish(item)

    async def _deliver(self, item: Item) -> None:
        record, topic, share = item.record, self._topic, item.share
        headers: Sequence[tuple[str, bytes]] = record.headers
        payload, envelope = decode(topic, record.value, headers, timestamp_ms=record.timestamp)
        item.happened_at = envelope.time.timestamp()
        position = Position(record.topic, record.partition, record.offset)
        if share.retries:
            position, headers = origin_of(headers, retries=self._retries.name) or position, without_provenance(headers)
        delivery = Delivery(
            topic, payload, envelope, position, headers, record.value or b"", self._settings.source, retried=share.retries
        )
        await self._handler(delivery)
        outgoing = [to_record(told) for told in delivery.told] if delivery.told else ()
        if delivery.held is not None and not delivery.held.released and not share.lost:
            item.held = True
            share.held += 1
            delivery.held.on_release = lambda: self._release(item)
            self.set_aside(item)
        self._dead_letters_in_a_row = 0
        self._tell(item, outgoing)

    def _release(self, item: Item) -> None:
        if item.held:
            item.held = False
            item.share.held -= 1
            if not item.share.lost:
                self._settling.release(item)

    def _tell(self, item: Item, outgoing: Sequence[Outgoing]) -> None:
        if item.share.lost:
            self._leave_flight(item)
            return
        self._settling.settle(item, outgoing)

    def _leave_flight(self, item: Item) -> None:
        if item.in_flight:
            item.in_flight = False
            item.share.in_flight -= 1
            self._in_flight_bytes -= item.in_flight_bytes
            self._room.set()

    # What `Settling` asks for.

    def shares(self) -> Collection[Share]:
        """The partitions that are ours now."""
        return self._shares.values()

    def finished(self, item: Item) -> None:
        """The record needs nothing any more."""
        self._leave_flight(item)
        if item.share.lost:
            return
        item.share.ledger.finish(item.record.offset)
        self._tally.settled(item.outcome, time.time() - item.happened_at if item.happened_at else None)

    def set_aside(self, item: Item) -> None:
        """It is handled, and finishes who knows when: it takes no room until then."""
        record = item.record
        item.record = Emptied(record.topic, record.partition, record.offset, record.timestamp)
        self._leave_flight(item)

    async def commit_to_group(self, commits: Mapping[Place, Commit]) -> bool:
        """See `GroupLog.commit`."""
        return await self._log.commit(commits)

    def fenced(self, share: Share) -> None:
        """Begin nothing of this partition until the group has said whose it is."""
        log.warning("partition_fenced", topic=share.place[0], partition=share.place[1])
        share.waits_for = _ITS_OWNER
        self._log.rejoin()

    # The other three outcomes.

    def _bury(self, item: Item, reason: str, explanation: str) -> None:
        if item.share.lost:
            self._leave_flight(item)
            return
        self._dead_letters_in_a_row += 1
        limit, reader, topic, record = self._settings.dead_letter_limit, self._settings.reader, self._topic, item.record
        if self._dead_letters_in_a_row > limit:
            self.fail(
                TooManyDeadLetters(
                    f"{limit} records of {topic.name} in a row could not be processed by {reader} "
                    f"(RUMINATE_DEAD_LETTER_LIMIT), the last one for {reason}: {explanation}. "
                    f"Type:  ruminate dlq list {topic.name} --reader {reader}"
                )
            )
            return
        letter = DeadLetter(
            reason=reason,
            explanation=explanation,
            position=Position(record.topic, record.partition, record.offset),
            timestamp_ms=record.timestamp,
            reader=reader,
            at=now(),
            key=record.key,
            had_value=record.value is not None,
        )
        outgoing = Outgoing(
            topic.dead_letters(reader).name,
            record.partition,
            str(letter.id(self._settings.cluster)).encode(),
            record.value or b"",
            letter.headers(record.headers),
        )
        metrics.DEAD_LETTERS.labels(topic.name, reader, reason).inc()
        log.warning(
            "record_given_up",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=reason,
            explanation=explanation,
        )
        item.outcome = "dead_letter"
        self._tell(item, [outgoing])

    def _park(self, item: Item, error: Unavailable) -> None:
        share = item.share
        self._turns.park(item)
        if share.lost:
            self._drop_waiting(share)
            return
        item.attempts += 1
        metrics.UNAVAILABLE.labels(self._topic.name, self._settings.reader).inc()
        longest = min(LONGEST_WAIT_SECONDS, error.retry_after_seconds * 2 ** min(item.attempts - 1, 20))
        seconds = longest * random.uniform(0.75, 1.0)  # noqa: S311 - so that replicas do not come back as one
        log.info("delivery_waits", topic=share.place[0], partition=share.place[1], what=error.what, seconds=round(seconds, 3))
        share.waits_for = error.what
        share.wakes_at = max(share.wakes_at, time.monotonic() + seconds)
        asyncio.get_running_loop().call_at(asyncio.get_running_loop().time() + seconds, self._go_on, share)

    def _go_on(self, share: Share) -> None:
        # Several deliveries of the partition may have waited: the latest of their times counts.
        if share.lost or time.monotonic() < share.wakes_at - 0.001:
            return
        share.waits_for = ""
        self._turns.go_on(share)
        self._wake(self._concurrency)
        self._room.set()

    def _crash(self, item: Item, error: Exception) -> None:
        if item.share.lost:
            self._leave_flight(item)
            return
        record = item.record
        count = item.share.ledger.crash(record.offset)
        where = _raised_at(error)
        log.error(
            "handler_crashed", topic=record.topic, partition=record.partition, offset=record.offset, count=count,
            error=type(error).__name__, where=where,
        )  # fmt: skip
        if count < CRASHES_BEFORE_DEAD_LETTER:
            self.fail(error)
        else:
            self._bury(item, CRASHED, f"{type(error).__name__} at {where}, {count} times")

    # Ownership.

    def _lose(self, share: Share) -> None:
        share.lost = True
        del self._shares[share.place]
        if share.writing is not None:
            share.writing.cancel()
        self._drop_waiting(share)
        for item in share.handled.values():
            self._leave_flight(item)
        for item in self._running:
            if item.share is share and item.worker is not None:
                item.worker.cancel()

    def _drop_waiting(self, share: Share) -> None:
        for item in self._turns.drop(share):
            self._leave_flight(item)

    async def _tell_owner(self) -> None:
        """Tell the service what it lost and gained, in order, outside of the broker's callbacks: it may take its time."""
        while True:
            change = await self._changes.get()
            if gone := _numbers(share for share in change.revoked if share.opened):
                await self._on_revoked(gone)
            gained = [share for share in change.gained if not share.lost]
            if gained:
                await self._open(gained)

    async def _open(self, gained: list[Share]) -> None:
        attempt = 0
        numbers = _numbers(gained)
        while numbers:
            try:
                await self._on_assigned(numbers)
                break
            except Unavailable as error:
                attempt += 1
                for share in gained:
                    share.waits_for = error.what
                await asyncio.sleep(min(LONGEST_WAIT_SECONDS, error.retry_after_seconds * 2 ** min(attempt - 1, 20)))
        for share in gained:
            share.waits_for = ""
            share.opened = True
            if not share.lost:
                self._settling.opened(share)
                self._log.seek(share.place, share.ledger.next_offset)
        self._room.set()

    async def _part(self) -> None:
        """We read no more: what was ours is not."""
        numbers = _numbers(share for share in self._shares.values() if share.opened)
        writing = [share.writing for share in self._shares.values() if share.writing is not None]
        for share in list(self._shares.values()):
            self._lose(share)
        await _end(writing)
        if numbers:
            await self._watch(self._on_revoked(numbers))

    # Committing and ending.

    async def _commit_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_SECONDS)
            if not self._rebalancing:
                await self._settling.commit()

    async def _flush(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._settling.flush()
        except TimeoutError:
            log.warning("acknowledgements_missing", topic=self._topic.name, seconds=seconds)

    async def _wait_for_handlers(self) -> None:
        if not self._running:
            return
        handlers = asyncio.create_task(self._last_has_ended.wait())
        await asyncio.wait((handlers, self._failure), timeout=self._settings.grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        handlers.cancel()

    async def _settle_all(self) -> None:
        await self._flush(FLUSH_SECONDS)
        await self._settling.commit()

    async def _watch(self, part: Awaitable[None]) -> None:
        try:
            await part
        except Exception as error:
            self.fail(error)

    def _wake(self, count: int) -> None:
        while self._idle and count > 0:
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(None)
                count -= 1


_ITS_OWNER: Final = "the group to say who owns it"


def _numbers(shares: Iterable[Share]) -> frozenset[int]:
    """The numbers of those partitions that a service knows of."""
    return frozenset(share.place[1] for share in shares if not share.retries)


def _ordering_key(record: Record) -> bytes | None:
    for name, raw in record.headers:
        if name == "ce_partitionkey":
            return raw
    return record.key


def _raised_at(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks until they are over: one that takes its cancellation for some other trouble goes on."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=INSIST_SECONDS)
