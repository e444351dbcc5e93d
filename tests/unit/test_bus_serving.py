"""Serving: what the contract cannot see from outside, over a log and a writer that obey the test."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from ruminate.schemas.envelope import Envelope, Headers
from ruminate.schemas.payload import Payload
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import BrokerUnavailable, Delivery, Handler, Unavailable, nothing
from ruminate.shared.dead_letters import Place
from ruminate.shared.decoding import encode, now
from ruminate.shared.ledger import Commit
from ruminate.shared.memory import MemoryBroker, StoredRecord, _GroupLog
from ruminate.shared.record import Record
from ruminate.shared.serving import INSIST_SECONDS, RESTLESS_ASSIGNMENTS, Serving, ServingSettings
from ruminate.shared.settling import Settled
from ruminate.shared.shares import Outgoing


class Word(Payload):
    word: str


WORDS: Topic[Word] = Topic(
    name="words-v1", says="", carries=Word, record_key="event_id", partitioned_by=("word",), cleanup="delete",
    written_by=(), read_by=(), partitions=2, max_message_bytes=100,
)  # fmt: skip


P0, P1 = ("words-v1", 0), ("words-v1", 1)
RETRIES = (WORDS.retries("r").name, 0)


@dataclass
class Writer:
    """Acknowledges when the test says so."""

    written: list[tuple[Outgoing, Settled]] = field(default_factory=list)

    def write(self, record: Outgoing, settled: Settled) -> None:
        self.written.append((record, settled))

    async def flush(self) -> None:
        return None


@dataclass
class Log:
    """Gives what the test puts in; remembers what was committed and sought."""

    records: list[Record] = field(default_factory=list)
    commits: list[dict[Place, Commit]] = field(default_factory=list)
    accepts: bool = True
    seeks: list[tuple[Place, int]] = field(default_factory=list)
    rejoins: int = 0

    async def poll(self, places: Collection[Place], limit: int, seconds: float) -> Iterable[Record]:
        await asyncio.sleep(0)
        taken = [record for record in self.records if (record.topic, record.partition) in places][:limit]
        for record in taken:
            self.records.remove(record)
        return taken

    def seek(self, place: Place, offset: int) -> None:
        self.seeks.append((place, offset))

    def rejoin(self) -> None:
        self.rejoins += 1

    async def commit(self, commits: Mapping[Place, Commit]) -> bool:
        self.commits.append(dict(commits))
        return self.accepts


def record(offset: int, *, partition: int = 0, word: str = "w") -> StoredRecord:
    headers: Headers = Envelope(id=f"{partition}/{offset}", source="/t", type=WORDS.event_type, time=now(), order=word).to_headers()
    return StoredRecord("words-v1", partition, offset, 0, b"k", encode(Word(word=word)), headers)


def serving(writer: Writer, handler: Handler[Word], *, concurrency: int = 1) -> Serving[Word]:
    settings = ServingSettings(reader="r", source="/r", cluster="c", grace_seconds=1.0, dead_letter_limit=10)
    return Serving(
        WORDS, handler, writer, settings, concurrency=concurrency, max_in_flight=100, max_in_flight_bytes=10_000,
        on_assigned=nothing, on_revoked=nothing,
    )  # fmt: skip


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def test_an_offset_is_committed_only_when_everything_told_is_acknowledged() -> None:
    async def scenario() -> None:
        writer, log = Writer(), Log([record(0), record(1)])

        async def handle(delivery: Delivery[Word]) -> None:
            delivery.tell(WORDS, delivery.payload)
            delivery.tell(WORDS, delivery.payload, ordinal=1)

        served = serving(writer, handle)
        running = asyncio.create_task(served.run(log))
        await asyncio.sleep(0)
        served.assigned({P0: Commit(0)})
        await until(lambda: len(writer.written) == 4)
        for index in (1, 2, 3):
            writer.written[index][1](index)
        await served.revoking()
        assert log.commits == [], "offset 0 has an event that nobody acknowledged"
        writer.written[0][1](0)
        await served.revoking()
        assert log.commits == [{P0: Commit(2)}]
        served.stop()
        await running

    asyncio.run(scenario())


def test_an_event_that_is_not_acknowledged_ends_the_service_uncommitted() -> None:
    async def scenario() -> None:
        writer, log = Writer(), Log([record(0)])

        async def handle(delivery: Delivery[Word]) -> None:
            delivery.tell(WORDS, delivery.payload)

        served = serving(writer, handle)
        running = asyncio.create_task(served.run(log))
        await asyncio.sleep(0)
        served.assigned({P0: Commit(0)})
        await until(lambda: writer.written)
        writer.written[0][1](BrokerUnavailable("away"))
        with pytest.raises(BrokerUnavailable, match="away"):
            await running
        assert log.commits == []

    asyncio.run(scenario())


def test_a_handler_whose_partition_went_elsewhere_is_cancelled_and_tells_nothing_and_the_worker_goes_on() -> None:
    async def scenario() -> None:
        writer, log = Writer(), Log([record(0, partition=0)])
        begun: list[int] = []
        ended: list[str] = []

        async def handle(delivery: Delivery[Word]) -> None:
            begun.append(delivery.position.partition)
            delivery.tell(WORDS, delivery.payload)
            if delivery.position.partition == 0:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    ended.append("cancelled")
                    raise

        served = serving(writer, handle)
        running = asyncio.create_task(served.run(log))
        await asyncio.sleep(0)
        served.assigned({P0: Commit(0)})
        await until(lambda: begun == [0])
        await served.revoking()
        served.assigned({P1: Commit(0)})
        log.records.append(record(0, partition=1))
        await until(lambda: len(writer.written) == 1)
        assert begun == [0, 1]
        assert ended == ["cancelled"]
        served.stop()
        await running

    asyncio.run(scenario())


def test_a_handler_that_takes_its_cancellation_for_something_away_does_not_keep_the_service_from_ending() -> None:
    async def scenario() -> None:
        begun = asyncio.Event()

        async def handle(delivery: Delivery[Word]) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise Unavailable("the store") from None

        served = serving(Writer(), handle)
        running = asyncio.create_task(served.run(Log([record(0)])))
        await asyncio.sleep(0)
        served.assigned({P0: Commit(0)})
        await begun.wait()
        running.cancel()
        done, _ = await asyncio.wait((running,), timeout=INSIST_SECONDS - 1)
        assert done, "the worker waits for its next turn, and `run` for the worker"
        assert running.cancelled()

    asyncio.run(scenario())


def test_a_handler_that_nobody_has_cancelled_and_that_ends_as_if_somebody_had_is_a_crash() -> None:
    async def scenario() -> None:
        log = Log([record(0)])

        async def handle(delivery: Delivery[Word]) -> None:
            raise asyncio.CancelledError

        served = serving(Writer(), handle)
        running = asyncio.create_task(served.run(log))
        await asyncio.sleep(0)
        served.assigned({P0: Commit(0)})
        done, _ = await asyncio.wait((running,), timeout=INSIST_SECONDS)
        assert done, "its worker has ended, and nobody handles anything any more"
        assert running.exception() is not None
        assert log.commits[-1][P0].crashes == {0: 1}

    asyncio.run(scenario())


def test_a_worker_whose_handler_took_no_notice_of_being_cancelled_works_on_and_is_not_taken_for_cancelled_later() -> None:
    async def scenario() -> None:
        log, begun = Log([record(0, partition=0)]), list[int]()

        async def handle(delivery: Delivery[Word]) -> None:
            begun.append(delivery.position.partition)
            if delivery.position.partition == 1:
                raise asyncio.CancelledError
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

        served = serving(Writer(), handle)
        running = asyncio.create_task(served.run(log))
        await asyncio.sleep(0)
        served.assigned({P0: Commit(0)})
        await until(lambda: begun == [0])
        served.assigned({P1: Commit(0)})
        log.records.append(record(0, partition=1))
        done, _ = await asyncio.wait((running,), timeout=INSIST_SECONDS)
        assert done, "its worker has ended, and nobody handles anything any more"
        assert isinstance(running.exception(), RuntimeError)
        assert log.commits[-1][P1].crashes == {0: 1}

    asyncio.run(scenario())


def test_nothing_of_a_partition_begins_after_it_went_elsewhere() -> None:
    async def scenario() -> None:
        log, begun = Log([record(0)]), list[int]()

        async def handle(delivery: Delivery[Word]) -> None:
            begun.append(delivery.position.offset)
            if delivery.position.offset == 0:
                served._breathed_at = 0.0  # as after a handler that has worked for long
                asyncio.get_running_loop().call_soon(served.assigned, {P1: Commit(0)})

        served = serving(Writer(), handle)
        log.records.append(record(1))
        running = asyncio.create_task(served.run(log))
        await asyncio.sleep(0)
        served.assigned({P0: Commit(0)})
        await until(lambda: P1 in served._shares and served._shares[P1].opened)
        assert begun == [0]
        served.stop()
        await running

    asyncio.run(scenario())


def test_a_service_that_is_cancelled_again_while_it_ends_leaves_nothing_behind_that_polls() -> None:
    async def scenario() -> None:
        begun, ending, story = asyncio.Event(), asyncio.Event(), list[str]()

        async def handle(delivery: Delivery[Word]) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ending.set()
                await asyncio.Event().wait()

        async def on_revoked(partitions: frozenset[int]) -> None:
            story.append("revoked")

        settings = ServingSettings(reader="r", source="/r", cluster="c", grace_seconds=1.0, dead_letter_limit=10)
        served = Serving(
            WORDS, handle, Writer(), settings, concurrency=1, max_in_flight=1, max_in_flight_bytes=1,
            on_assigned=nothing, on_revoked=on_revoked,
        )  # fmt: skip
        before = asyncio.all_tasks()
        running = asyncio.create_task(served.run(Log([record(0)])))
        await asyncio.sleep(0)
        served.assigned({P0: Commit(0)})
        await begun.wait()
        running.cancel()
        await ending.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await until(lambda: asyncio.all_tasks() == before)
        assert story == ["revoked"]

    asyncio.run(scenario())


def test_a_partition_that_stays_goes_on_where_it_was_and_one_that_others_moved_on_begins_anew() -> None:
    async def scenario() -> None:
        writer, log = Writer(), Log([record(0), record(1)])
        begun: list[int] = []

        async def handle(delivery: Delivery[Word]) -> None:
            begun.append(delivery.position.offset)
            delivery.hold()

        served = serving(writer, handle)
        running = asyncio.create_task(served.run(log))
        await asyncio.sleep(0)
        served.assigned({P0: Commit(0)})
        await until(lambda: begun == [0, 1])
        await served.revoking()
        log.seeks.clear()
        served.assigned({P0: Commit(0)})
        assert log.seeks == [(P0, 2)]
        log.records.extend((record(0), record(1), record(2)))  # fetched again all the same
        await until(lambda: begun == [0, 1, 2])
        await served.revoking()
        served.assigned({P0: Commit(3)})
        await until(lambda: (P0, 3) in log.seeks)
        log.records.append(record(3))
        await until(lambda: begun == [0, 1, 2, 3])
        served.stop()
        await running

    asyncio.run(scenario())


def test_a_refused_commit_is_no_error_and_is_tried_again() -> None:
    async def scenario() -> None:
        log = Log([record(0)], accepts=False)
        done: list[int] = []

        async def handle(delivery: Delivery[Word]) -> None:
            done.append(delivery.position.offset)

        served = serving(Writer(), handle)
        running = asyncio.create_task(served.run(log))
        await asyncio.sleep(0)
        served.assigned({P0: Commit(0)})
        await until(lambda: done)
        await served.revoking()
        log.accepts = True
        served.assigned({P0: Commit(0)})
        served.stop()
        await running
        assert log.commits == [{P0: Commit(1)}, {P0: Commit(1)}]

    asyncio.run(scenario())


def test_an_event_that_its_topic_does_not_take_gives_the_record_up() -> None:
    async def scenario() -> None:
        writer, log = Writer(), Log([record(0)])

        async def handle(delivery: Delivery[Word]) -> None:
            delivery.tell(WORDS, Word(word="x" * 200))

        served = serving(writer, handle)
        running = asyncio.create_task(served.run(log))
        await asyncio.sleep(0)
        served.assigned({P0: Commit(0)})
        await until(lambda: writer.written)
        assert dict(writer.written[0][0].headers)["dlq_reason"] == b"too_large"
        served.stop()
        await running

    asyncio.run(scenario())


def test_listeners_that_find_something_away_are_asked_again_before_anything_is_handed_out() -> None:
    async def scenario() -> None:
        story: list[str] = []

        async def on_assigned(partitions: frozenset[int]) -> None:
            story.append("asked")
            if len(story) < 3:
                raise Unavailable("the store", retry_after_seconds=0.001)

        async def handle(delivery: Delivery[Word]) -> None:
            story.append("handled")

        log = Log([record(0)])
        settings = ServingSettings(reader="r", source="/r", cluster="c", grace_seconds=1.0, dead_letter_limit=10)
        served = Serving(
            WORDS, handle, Writer(), settings, concurrency=1, max_in_flight=1, max_in_flight_bytes=1,
            on_assigned=on_assigned, on_revoked=nothing,
        )  # fmt: skip
        running = asyncio.create_task(served.run(log))
        await asyncio.sleep(0)
        served.assigned({P0: Commit(0)})
        await until(lambda: story == ["asked", "asked", "asked", "handled"])
        served.stop()
        await running

    asyncio.run(scenario())


@dataclass
class SlowWriter(Writer):
    """Has everything acknowledged only when the test says so."""

    acknowledged: asyncio.Event = field(default_factory=asyncio.Event)

    async def flush(self) -> None:
        await self.acknowledged.wait()


def test_a_member_that_is_cancelled_while_it_joins_leaves_nobody_waiting_for_an_assignment() -> None:
    async def scenario() -> None:
        async def handle(delivery: Delivery[Word]) -> None:
            raise AssertionError("there is no record")

        broker, writer = MemoryBroker(), SlowWriter()
        one, other = serving(writer, handle), serving(Writer(), handle)
        log_of_one, log_of_other = (_GroupLog(broker, WORDS, "r", member, transactions=False) for member in (one, other))
        writer.acknowledged.set()
        surviving = asyncio.create_task(one.run(log_of_one))
        await until(lambda: log_of_one.assignment == {P0, P1, RETRIES} and one.readiness() == [])
        writer.acknowledged.clear()
        joining = asyncio.create_task(other.run(log_of_other))
        await until(lambda: one.readiness() == ["the partitions of words-v1 are being assigned"])
        joining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joining
        writer.acknowledged.set()
        await log_of_other.leave()
        await until(lambda: log_of_one.assignment == {P0, P1, RETRIES} and one.readiness() == [])
        one.stop()
        await surviving

    asyncio.run(scenario())


def test_partitions_that_are_assigned_again_and_again_are_a_reason_not_to_be_ready() -> None:
    async def scenario() -> None:
        async def handle(delivery: Delivery[Word]) -> None:
            raise AssertionError("there is no record")

        served = serving(Writer(), handle)
        running = asyncio.create_task(served.run(Log()))
        await asyncio.sleep(0)
        for _ in range(RESTLESS_ASSIGNMENTS):
            assert not [reason for reason in served.readiness() if "RUMINATE_REPLICA" in reason]
            served.assigned({P0: Commit(0)})
        (reason,) = [reason for reason in served.readiness() if "RUMINATE_REPLICA" in reason]
        assert "again and again" in reason
        served.stop()
        await running

    asyncio.run(scenario())
