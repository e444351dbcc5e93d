"""What every bus promises, as tests: a subclass of `BusContract` names the broker by a `bench` fixture."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from ruminate.schemas.envelope import Headers, derive_event_id
from ruminate.schemas.payload import Payload, Ratio, Text
from ruminate.schemas.topic import Cleanup, Topic
from ruminate.shared.bus import Bus, Delivery, Hold, Position, TooManyDeadLetters, Unavailable, Unprocessable
from ruminate.shared.dead_letters import DeadLetter, Record
from ruminate.shared.decoding import encode
from ruminate.shared.settings import ServiceSettings

DEADLINE_SECONDS = 30.0
SECRET = "Rumpelstilzchen"
"""A word of the contents: it must be in no explanation."""


class Sample(Payload):
    """Something to send."""

    conversation: Text
    number: int
    share: Ratio = 0.0
    text: Text = ""


class Bench(ABC):
    """A broker, as a test needs it: buses at it, and what any other client would write and see there."""

    profile: str = "kafka"

    def __init__(self, state: Path, **fields: Any) -> None:
        self.state = state
        self.fields = fields
        self.reader = f"reader-{uuid4().hex[:8]}"

    def settings(self, **fields: Any) -> ServiceSettings:
        return ServiceSettings(
            **{"state_dir": self.state, "kafka_profile": self.profile, "grace_seconds": 5.0, **self.fields, **fields}
        )

    @abstractmethod
    def bus(self, reader: str, **fields: Any) -> AbstractAsyncContextManager[Bus]: ...

    @abstractmethod
    async def create(self, *topics: Topic[Any], reader: str) -> None: ...

    @abstractmethod
    async def put(
        self, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Headers | None = None, partition: int = 0
    ) -> int: ...

    @abstractmethod
    async def records(self, topic: str, partitions: int, *, committed: bool = False) -> Sequence[Record]:
        """Every record of a topic; `committed`: without those of transactions that were aborted or have not ended."""
        ...

    @abstractmethod
    async def committed(self, reader: str, topic: Topic[Any]) -> dict[int, int]: ...


def sample_topic(*, partitions: int = 3, cleanup: Cleanup = "delete") -> Topic[Sample]:
    return Topic(
        name=f"sample-{uuid4().hex[:12]}-v1",
        says="A sample was taken.",
        carries=Sample,
        record_key="event_id",
        partitioned_by=("conversation",),
        cleanup=cleanup,
        written_by=("tests",),
        read_by=("reader",),
        partitions=partitions,
        max_message_bytes=32 * 1024 * 1024,
    )


async def until(condition: Callable[[], object], *, what: str = "", seconds: float = DEADLINE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def until_async(condition: Callable[[], Awaitable[object]], *, seconds: float = DEADLINE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


@asynccontextmanager
async def serving(
    bus: Bus, topic: Topic[Sample], handler: Callable[[Delivery[Sample]], Awaitable[None]], **how: Any
) -> AsyncIterator[asyncio.Task[None]]:
    """`serve` in the background; stopped at the end, and what it raised is raised here."""
    task = asyncio.create_task(bus.serve(topic, handler, **how))
    try:
        yield task
    finally:
        await bus.stop()
        await asyncio.wait((task,), timeout=DEADLINE_SECONDS)
    await task


async def served_until_it_ends(
    bus: Bus, topic: Topic[Sample], handler: Callable[[Delivery[Sample]], Awaitable[None]], **how: Any
) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        await bus.serve(topic, handler, **how)


async def publish(bus: Bus, topic: Topic[Sample], *samples: Sample) -> list[Position]:
    return list(await asyncio.gather(*(bus.publish(topic, sample, bus.begin(topic, sample)) for sample in samples)))


async def events_of(bus: Bus, topic: Topic[Sample], count: int) -> list[Delivery[Sample]]:
    """What is on a topic, once that many events are: a transaction that is committed is seen a moment later."""
    found: list[Delivery[Sample]] = []

    async def enough() -> bool:
        found[:] = [delivery async for delivery in bus.read(topic)]
        return len(found) >= count

    await until_async(enough)
    return found


def in_partition(bus: Bus, topic: Topic[Sample], partition: int) -> str:
    """A conversation of this partition."""
    return next(name for name in map(str, range(1000)) if bus.partition_of(topic, name) == partition)


def headers_for(topic: Topic[Any], **changes: str | None) -> Headers:
    names = {"ce_specversion": "1.0", "ce_id": uuid4().hex, "ce_source": "/agent", "ce_type": topic.event_type} | changes
    return [(name, value.encode()) for name, value in names.items() if value is not None]


VALID = Sample(conversation="c", number=1)


def with_raw(field: str, raw: str) -> bytes:
    """A valid value but for one field, whose JSON is given."""
    fields = {name: json.dumps(value) for name, value in json.loads(encode(VALID)).items()} | {field: raw}
    return ("{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in fields.items()) + "}").encode()


BAD_RECORDS: dict[str, tuple[str, bytes | None, dict[str, str | None]]] = {
    "no json at all": ("not_json", SECRET.encode(), {}),
    "an empty value": ("not_json", b"", {}),
    "a truncated value": ("not_json", with_raw("text", f'"{SECRET}"')[:-3], {}),
    "no UTF-8": ("not_unicode", with_raw("text", '"x"').replace(b"x", b"\xff"), {}),
    "a lone surrogate": ("not_unicode", with_raw("text", '"' + SECRET + '\\ud800"'), {}),
    "NaN": ("not_finite", with_raw("share", "NaN"), {}),
    "Infinity": ("not_finite", with_raw("share", "-Infinity"), {}),
    "1e999": ("not_finite", with_raw("share", "1e999"), {}),
    "a wrong type": ("invalid_payload", with_raw("number", f'"{SECRET}"'), {}),
    "a number that is no integer": ("invalid_payload", with_raw("number", "1.5"), {}),
    "a missing field": ("invalid_payload", b'{"text":"' + SECRET.encode() + b'"}', {}),
    "a list": ("invalid_payload", b'["' + SECRET.encode() + b'"]', {}),
    "nothing but depth": ("not_json", b"[" * 100_000, {}),
    "no type header": ("missing_header", encode(VALID), {"ce_type": None}),
    "no headers": ("missing_header", encode(VALID), dict.fromkeys(("ce_specversion", "ce_id", "ce_source", "ce_type"))),
    "an unknown version": ("wrong_type", encode(VALID), {"ce_type": "dev.ruminate.sample-v99"}),
    "another specification": ("invalid_header", encode(VALID), {"ce_specversion": "0.3"}),
    "a time that is none": ("invalid_header", encode(VALID), {"ce_time": "yesterday"}),
    "no value": ("no_value", None, {}),
    "8 MB": ("not_json", b"x" * (8 * 1024 * 1024), {}),
    "20 MB": ("invalid_payload", b'{"text":"' + b"y" * (20 * 1024 * 1024) + b'"}', {}),
}


class BusContract:
    """Run with `bench`, a Bench at the broker that is to be tested."""

    def test_publishing_gives_the_position_and_reading_gives_back_what_was_published(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic()
            await bench.create(topic, reader=bench.reader)
            async with bench.bus("writer") as bus:
                samples = [Sample(conversation=str(n % 5), number=n, text="NUL \0, Grüße, 思考 and 🐄") for n in range(20)]
                positions = await publish(bus, topic, *samples)
                found = {delivery.position: delivery.payload async for delivery in bus.read(topic)}
                assert found == dict(zip(positions, samples, strict=True))
                assert {p.partition for p in positions} == {bus.partition_of(topic, s.conversation) for s in samples}
                one = positions[-1].partition
                of_one = [d.position.offset async for d in bus.read(topic, partitions=[one], start=1)]
                assert of_one == list(range(1, sum(p.partition == one for p in positions)))
                assert [d async for d in bus.read(topic, partitions=[one], start=len(of_one) + 1)] == []

        asyncio.run(scenario())

    def test_reading_an_empty_topic_ends(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic()
            await bench.create(topic, reader=bench.reader)
            async with bench.bus(bench.reader) as bus:
                assert [d async for d in bus.read(topic)] == []

        asyncio.run(scenario())

    def test_following_goes_on_with_what_is_written_later_and_passes_over_what_is_no_event(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            await bench.create(topic, reader=bench.reader)
            async with bench.bus("writer") as bus, bench.bus(bench.reader) as other:
                await publish(bus, topic, Sample(conversation="c", number=0))
                await bench.put(topic.name, b"not json", headers=headers_for(topic))
                seen: list[int] = []

                async def follow() -> None:
                    async for delivery in other.read(topic, follow=True):
                        seen.append(delivery.payload.number)
                        if len(seen) == 3:
                            break

                following = asyncio.create_task(follow())
                await until(lambda: seen == [0])
                await publish(bus, topic, Sample(conversation="c", number=1))
                await publish(bus, topic, Sample(conversation="c", number=2))
                await asyncio.wait_for(following, DEADLINE_SECONDS)
                assert seen == [0, 1, 2]

        asyncio.run(scenario())

    def test_what_is_told_follows_from_its_cause_and_what_is_done_is_committed(self, bench: Bench) -> None:
        async def scenario() -> None:
            source, target = sample_topic(), sample_topic()
            await bench.create(source, target, reader=bench.reader)
            async with bench.bus(bench.reader) as bus:
                samples = [Sample(conversation=str(n % 7), number=n) for n in range(50)]
                causes = {s.number: bus.begin(source, s) for s in samples}
                for s in samples:
                    await bus.publish(source, s, causes[s.number])
                told: list[UUID] = []

                async def handle(delivery: Delivery[Sample]) -> None:
                    told.append(delivery.tell(target, delivery.payload.model_copy(update={"text": "told"})))
                    told.append(delivery.tell(target, delivery.payload, ordinal=1))

                async with serving(bus, source, handle, concurrency=4):
                    await until(lambda: len(told) == 100)
                    assert not bus.readiness()
                found = await events_of(bus, target, len(told))
                assert Counter(d.envelope.id for d in found) == Counter(map(str, told))
                for delivery in found:
                    cause = causes[delivery.payload.number]
                    ordinal = 0 if delivery.payload.text else 1
                    assert delivery.envelope.id == str(
                        derive_event_id(
                            tenant="default", cause_source=cause.source, cause_id=cause.id, topic=target.name, ordinal=ordinal
                        )
                    )
                    assert delivery.envelope.cause == cause.id
                    assert delivery.envelope.traceparent == cause.traceparent
                    assert delivery.envelope.source == f"/ruminate/{bench.reader}"
                    assert delivery.position.partition == bus.partition_of(target, delivery.payload.conversation)

            async def all_committed() -> bool:
                return sum((await bench.committed(bench.reader, source)).values()) == 50

            await until_async(all_committed)

        asyncio.run(scenario())

    def test_a_key_is_in_order_and_never_twice_at_once_and_others_run_beside_it(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic()
            await bench.create(topic, reader=bench.reader)
            seen: defaultdict[str, list[int]] = defaultdict(list)
            running: Counter[str] = Counter()
            most = 0

            async def handle(delivery: Delivery[Sample]) -> None:
                nonlocal most
                conversation = delivery.payload.conversation
                running[conversation] += 1
                assert running[conversation] == 1
                most = max(most, running.total())
                await asyncio.sleep(0.003 * (delivery.payload.number % 3))
                seen[conversation].append(delivery.payload.number)
                running[conversation] -= 1

            async with bench.bus(bench.reader) as bus:
                for n in range(120):
                    sample = Sample(conversation=str(n % 6), number=n)
                    await bus.publish(topic, sample, bus.begin(topic, sample))
                async with serving(bus, topic, handle, concurrency=4):
                    await until(lambda: sum(map(len, seen.values())) == 120)
            assert all(numbers == sorted(numbers) for numbers in seen.values())
            assert 2 <= most <= 4

        asyncio.run(scenario())

    def test_with_a_concurrency_of_one_a_partition_is_handled_in_the_order_of_its_offsets(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=2)
            await bench.create(topic, reader=bench.reader)
            offsets: defaultdict[int, list[int]] = defaultdict(list)
            running = 0

            async def handle(delivery: Delivery[Sample]) -> None:
                nonlocal running
                running += 1
                assert running == 1
                await asyncio.sleep(0)
                if delivery.position.offset == 3 and len(offsets[delivery.position.partition]) == 3 and not delivery.payload.text:
                    failed.append(delivery.position)
                    if len(failed) < 3:
                        running -= 1
                        raise Unavailable("the thing", retry_after_seconds=0.05)
                offsets[delivery.position.partition].append(delivery.position.offset)
                running -= 1

            failed: list[Position] = []
            async with bench.bus(bench.reader) as bus:
                await publish(bus, topic, *(Sample(conversation=str(n), number=n) for n in range(60)))
                async with serving(bus, topic, handle):
                    await until(lambda: sum(map(len, offsets.values())) == 60)
            assert all(found == list(range(len(found))) for found in offsets.values())
            assert failed

        asyncio.run(scenario())

    def test_what_is_in_flight_is_bounded_by_count_and_bytes(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            await bench.create(topic, reader=bench.reader)
            begun: list[int] = []
            go_on = asyncio.Event()

            async def handle(delivery: Delivery[Sample]) -> None:
                begun.append(delivery.payload.number)
                await go_on.wait()

            async with bench.bus(bench.reader) as bus:
                await publish(bus, topic, *(Sample(conversation=str(n), number=n) for n in range(100)))
                async with serving(bus, topic, handle, concurrency=50, max_in_flight=8) as _:
                    await until(lambda: len(begun) == 8)
                    turned_at = bus.turned_at()
                    await until(lambda: bus.turned_at() > turned_at + 0.5)
                    assert len(begun) == 8, "more than max_in_flight were begun"
                    go_on.set()
                    await until(lambda: len(begun) == 100)

        asyncio.run(scenario())

    def test_a_crash_ends_serve_tells_nothing_and_the_record_comes_again_with_the_same_derived_ids(self, bench: Bench) -> None:
        async def scenario() -> None:
            source, target = sample_topic(partitions=1), sample_topic(partitions=1)
            await bench.create(source, target, reader=bench.reader)
            ids: defaultdict[int, list[UUID]] = defaultdict(list)

            def handler(crash_at: int) -> Callable[[Delivery[Sample]], Awaitable[None]]:
                async def handle(delivery: Delivery[Sample]) -> None:
                    ids[delivery.payload.number].append(delivery.tell(target, delivery.payload))
                    if delivery.payload.number == crash_at:
                        raise ZeroDivisionError("crash")

                return handle

            async with bench.bus(bench.reader) as bus:
                await publish(bus, source, *(Sample(conversation="c", number=n) for n in range(10)))
                with pytest.raises(ZeroDivisionError):
                    await served_until_it_ends(bus, source, handler(5))
                assert [d.payload.number async for d in bus.read(target)] == [0, 1, 2, 3, 4]
            assert await bench.committed(bench.reader, source) == {0: 5}
            async with bench.bus(bench.reader) as bus:
                async with serving(bus, source, handler(-1)):
                    await until(lambda: len(ids) == 10)
                assert [d.payload.number async for d in bus.read(target)] == list(range(10))
            assert len(ids[5]) == 2
            assert len(set(ids[5])) == 1
            assert all(len(found) == 1 for number, found in ids.items() if number < 5), "finished deliveries came again"

        asyncio.run(scenario())

    def test_the_third_crash_on_one_offset_makes_a_dead_letter_and_the_rest_goes_on(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            await bench.create(topic, reader=bench.reader)
            done: list[int] = []

            async def handle(delivery: Delivery[Sample]) -> None:
                if delivery.payload.number == 2:
                    raise ZeroDivisionError(SECRET)
                done.append(delivery.payload.number)

            async with bench.bus("writer") as bus:
                await publish(bus, topic, *(Sample(conversation="c", number=n) for n in range(5)))
            for _ in range(2):
                async with bench.bus(bench.reader) as bus:
                    with pytest.raises(ZeroDivisionError):
                        await served_until_it_ends(bus, topic, handle)
            async with bench.bus(bench.reader) as bus, serving(bus, topic, handle):
                await until(lambda: done[-1:] == [4])
            letters = await bench.records(topic.dead_letters(bench.reader).name, 1)
            assert [DeadLetter.from_headers(letter.headers).reason for letter in letters] == ["crashed"]
            letter = DeadLetter.from_headers(letters[0].headers)
            assert letter.position.offset == 2
            assert "ZeroDivisionError" in letter.explanation
            assert SECRET not in letter.explanation
            assert await bench.committed(bench.reader, topic) == {0: 5}

        asyncio.run(scenario())

    def test_whatever_is_no_event_becomes_a_dead_letter_with_its_bytes_and_the_rest_goes_on(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=2)
            await bench.create(topic, reader=bench.reader)
            written = {}
            for name, (reason, value, changes) in BAD_RECORDS.items():
                headers = [*headers_for(topic, **changes), ("x-of-the-agent", name.encode())]
                offset = await bench.put(topic.name, value, key=name.encode(), headers=headers, partition=1)
                written[offset] = (name, reason, value, headers)
            good = await bench.put(topic.name, encode(VALID), key=b"k", headers=headers_for(topic), partition=1)
            done: list[int] = []

            async def handle(delivery: Delivery[Sample]) -> None:
                done.append(delivery.position.offset)

            async with bench.bus(bench.reader) as bus, serving(bus, topic, handle, concurrency=4):
                await until(lambda: done == [good])
            assert await bench.committed(bench.reader, topic) == {1: good + 1}
            letters = await bench.records(topic.dead_letters(bench.reader).name, 2)
            assert len(letters) == len(written)
            assert len({letter.key for letter in letters}) == len(letters)
            for record in letters:
                letter = DeadLetter.from_headers(record.headers)
                name, reason, value, headers = written[letter.position.offset]
                assert letter.reason == reason, name
                assert record.value == (value or b""), name
                assert letter.had_value == (value is not None), name
                assert list(record.headers)[: len(headers)] == headers, name
                assert (letter.position.topic, letter.position.partition, record.partition) == (topic.name, 1, 1), name
                assert (letter.reader, letter.key) == (bench.reader, name.encode()), name
                assert letter.explanation, name
                assert SECRET not in letter.explanation, name

        asyncio.run(scenario())

    def test_a_handler_gives_a_record_up_by_raising_unprocessable_and_none_of_its_tells_leave(self, bench: Bench) -> None:
        async def scenario() -> None:
            source, target = sample_topic(partitions=1), sample_topic(partitions=1)
            await bench.create(source, target, reader=bench.reader)

            async def handle(delivery: Delivery[Sample]) -> None:
                delivery.tell(target, delivery.payload)
                if delivery.payload.number == 0:
                    raise Unprocessable("too_sad", "nobody can answer this")

            async with bench.bus(bench.reader) as bus:
                await publish(bus, source, *(Sample(conversation="c", number=n) for n in range(2)))
                async with serving(bus, source, handle):

                    async def arrived() -> bool:
                        return bool(await bench.records(target.name, 1))

                    await until_async(arrived)
                assert [d.payload.number async for d in bus.read(target)] == [1]
            (record,) = await bench.records(source.dead_letters(bench.reader).name, 1)
            letter = DeadLetter.from_headers(record.headers)
            assert (letter.reason, letter.explanation) == ("too_sad", "nobody can answer this")
            assert record.value == encode(Sample(conversation="c", number=0))

        asyncio.run(scenario())

    def test_a_dead_letter_that_is_sent_back_goes_to_its_reader_alone_as_the_record_that_it_was(self, bench: Bench) -> None:
        async def scenario() -> None:
            source, target = sample_topic(partitions=2), sample_topic(partitions=2)
            await bench.create(source, target, reader=bench.reader)
            mended = False
            seen: list[tuple[bool, Position, Any]] = []

            async def handle(delivery: Delivery[Sample]) -> None:
                seen.append((delivery.retried, delivery.position, list(delivery.headers)))
                delivery.tell(target, delivery.payload)
                if not mended and delivery.payload.number == 0:
                    raise Unprocessable("too_sad", "nobody can answer this")

            async with bench.bus(bench.reader) as bus, serving(bus, source, handle):
                home = in_partition(bus, source, 1)
                forged = [("dlq_reason", b"forged"), ("dlq_topic", b"elsewhere"), ("dlq_partition", b"7"), ("dlq_offset", b"7")]
                first = encode(Sample(conversation=home, number=0))
                offset = await bench.put(source.name, first, key=b"k", headers=[*headers_for(source), *forged], partition=1)
                where = Position(source.name, 1, offset)
                await publish(bus, source, Sample(conversation=home, number=1))
                await self._send_back(bench, source, await self._newest_letter(bench, source, count=1))
                # It is given up again: another letter, which still knows where the record stood at first.
                again = await self._newest_letter(bench, source, count=2)
                mended = True
                await self._send_back(bench, source, again)
                await until(lambda: len(seen) == 4)

                async def told() -> bool:
                    return len(await bench.records(target.name, 2)) == 2

                await until_async(told)
                events = [delivery async for delivery in bus.read(target)]
            assert DeadLetter.from_headers(again.headers).position == Position(source.retries(bench.reader).name, 0, 0)
            tries = [each for each in seen if each[1] == where]
            assert [retried for retried, _, _ in tries] == [False, True, True]
            own = [[header for header in headers if not header[0].startswith("dlq_")] for _, _, headers in tries]
            assert own[0] == own[1] == own[2] == tries[1][2] == tries[2][2], "the handler sees nothing of what was added"
            assert {(event.payload.number, event.position.partition) for event in events} == {(0, 1), (1, 1)}
            causes = {dict(headers)["ce_id"].decode() for _, _, headers in tries}
            (mended_event,) = (event for event in events if event.payload.number == 0)
            assert causes == {mended_event.envelope.cause}

        asyncio.run(scenario())

    async def _newest_letter(self, bench: Bench, topic: Topic[Sample], *, count: int) -> Record:
        """The last dead letter, once there are that many."""
        letters: list[Record] = []

        async def given_up() -> bool:
            letters[:] = await bench.records(topic.dead_letters(bench.reader).name, topic.partitions)
            return len(letters) == count

        await until_async(given_up)
        return max(letters, key=lambda record: DeadLetter.from_headers(record.headers).at)

    async def _send_back(self, bench: Bench, topic: Topic[Sample], letter: Record) -> None:
        key = DeadLetter.from_headers(letter.headers).key
        await bench.put(topic.retries(bench.reader).name, letter.value, key=key, headers=list(letter.headers))

    def test_too_many_dead_letters_in_a_row_end_the_service_and_a_finished_one_starts_the_count_anew(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            await bench.create(topic, reader=bench.reader)

            async def handle(delivery: Delivery[Sample]) -> None:
                return None

            async with bench.bus(bench.reader, dead_letter_limit=3) as bus:
                for good in (False, False, True, False, False, False, False, True):
                    await bench.put(topic.name, encode(VALID) if good else b"bad", key=b"k", headers=headers_for(topic))
                with pytest.raises(TooManyDeadLetters, match=r"^3 records of .*RUMINATE_DEAD_LETTER_LIMIT.*not_json"):
                    await served_until_it_ends(bus, topic, handle)
            assert len(await bench.records(topic.dead_letters(bench.reader).name, 1)) == 5
            assert await bench.committed(bench.reader, topic) == {0: 6}

        asyncio.run(scenario())

    def test_what_is_unavailable_is_tried_again_in_place_while_other_partitions_go_on(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=2)
            await bench.create(topic, reader=bench.reader)
            away = True
            done: list[tuple[int, int]] = []
            tries = 0

            async def handle(delivery: Delivery[Sample]) -> None:
                nonlocal tries
                if delivery.position.partition == 0 and away:
                    tries += 1
                    raise Unavailable("the node of the test", retry_after_seconds=0.05)
                done.append((delivery.position.partition, delivery.position.offset))

            async with bench.bus(bench.reader) as bus:
                here, there = in_partition(bus, topic, 0), in_partition(bus, topic, 1)
                await publish(bus, topic, *(Sample(conversation=c, number=n) for n in range(5) for c in (here, there)))
                async with serving(bus, topic, handle):
                    await until(lambda: tries >= 3 and len(done) == 5)
                    assert all(partition == 1 for partition, _ in done)
                    reasons = " ".join(bus.readiness())
                    assert "the node of the test" in reasons
                    assert "partition 0" in reasons
                    away = False
                    await until(lambda: len(done) == 10)
                    assert not bus.readiness()
                assert [offset for partition, offset in done if partition == 0] == [0, 1, 2, 3, 4]
            assert not await bench.records(topic.dead_letters(bench.reader).name, 2)

        asyncio.run(scenario())

    def test_what_is_held_is_not_in_flight_is_committed_when_released_and_else_comes_again(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            await bench.create(topic, reader=bench.reader)
            held: list[tuple[str, Hold]] = []

            async def handle(delivery: Delivery[Sample]) -> None:
                held.append((delivery.envelope.id, delivery.hold()))

            async with bench.bus(bench.reader) as bus:
                await publish(bus, topic, *(Sample(conversation="c", number=n) for n in range(50)))
                async with serving(bus, topic, handle, max_in_flight=4):
                    await until(lambda: len(held) == 50)
                    for _, hold in held[:20]:
                        hold.release()
                        hold.release()

                    async def committed() -> bool:
                        return await bench.committed(bench.reader, topic) == {0: 20}

                    await until_async(committed)
            for _, hold in held:
                hold.release()  # too late: it is ours no longer
            assert await bench.committed(bench.reader, topic) == {0: 20}
            first, held[:] = [name for name, _ in held], []
            async with bench.bus(bench.reader) as bus, serving(bus, topic, handle):
                await until(lambda: len(held) == 30)
            assert [name for name, _ in held] == first[20:]

        asyncio.run(scenario())

    def test_a_tombstone_in_a_compacted_topic_is_passed_over(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1, cleanup="compact")
            await bench.create(topic, reader=bench.reader)
            await bench.put(topic.name, None, key=b"k", headers=[])
            done: list[int] = []

            async def handle(delivery: Delivery[Sample]) -> None:
                done.append(delivery.position.offset)

            async with bench.bus(bench.reader) as bus:
                await publish(bus, topic, VALID)
                async with serving(bus, topic, handle):
                    await until(lambda: done == [1])
                assert [d.position.offset async for d in bus.read(topic)] == [1]
            assert await bench.committed(bench.reader, topic) == {0: 2}
            assert not await bench.records(topic.dead_letters(bench.reader).name, 1)

        asyncio.run(scenario())

    def test_stop_lets_handlers_finish_commits_and_tells_the_listeners_in_order(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=2)
            await bench.create(topic, reader=bench.reader)
            story: list[str] = []
            begun = asyncio.Event()

            async def handle(delivery: Delivery[Sample]) -> None:
                story.append("begun")
                begun.set()
                await asyncio.sleep(0.3)
                story.append("finished")

            async def on_assigned(partitions: frozenset[int]) -> None:
                await asyncio.sleep(0.3)
                story.append(f"assigned {sorted(partitions)}")

            async def on_revoked(partitions: frozenset[int]) -> None:
                committed = await bench.committed(bench.reader, topic)
                story.append(f"revoked {sorted(partitions)} committed {sum(committed.values())}")

            async with bench.bus(bench.reader) as bus:
                await publish(bus, topic, *(Sample(conversation="c", number=n) for n in range(5)))
                async with serving(bus, topic, handle, on_assigned=on_assigned, on_revoked=on_revoked):
                    await asyncio.wait_for(begun.wait(), DEADLINE_SECONDS)
            assert story == ["assigned [0, 1]", "begun", "finished", "revoked [0, 1] committed 1"]

        asyncio.run(scenario())

    def test_a_handler_that_outlasts_the_grace_time_is_cancelled_and_its_record_comes_again(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            await bench.create(topic, reader=bench.reader)
            begun: list[int] = []
            cancelled: list[int] = []

            async def handle(delivery: Delivery[Sample]) -> None:
                begun.append(delivery.position.offset)
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.append(delivery.position.offset)
                    raise

            async with bench.bus("writer") as bus:
                await publish(bus, topic, VALID)
            for _ in range(2):
                begun.clear()
                async with bench.bus(bench.reader, grace_seconds=0.2) as bus, serving(bus, topic, handle):
                    await until(lambda: begun == [0])
            assert cancelled == [0, 0]

        asyncio.run(scenario())

    def test_two_members_share_the_partitions_lose_nothing_and_start_no_job_twice_that_stays(self, bench: Bench) -> None:
        async def scenario() -> None:
            source, target = sample_topic(partitions=4), sample_topic(partitions=4)
            await bench.create(source, target, reader=bench.reader)
            jobs: defaultdict[str, list[int]] = defaultdict(list)
            ended: list[tuple[str, int]] = []
            lost: dict[str, set[int]] = {"a": set(), "b": set()}
            owned: dict[str, set[int]] = {"a": set(), "b": set()}
            go_on = asyncio.Event()

            def part(name: str) -> dict[str, Any]:
                async def handle(delivery: Delivery[Sample]) -> None:
                    partition = delivery.position.partition
                    if delivery.payload.text == "job":
                        jobs[name].append(partition)
                        await go_on.wait()
                        ended.append((name, partition))
                    delivery.tell(target, delivery.payload)

                async def on_assigned(partitions: frozenset[int]) -> None:
                    assert not owned[name] & partitions
                    owned[name] |= partitions

                async def on_revoked(partitions: frozenset[int]) -> None:
                    assert owned[name] >= partitions
                    owned[name] -= partitions
                    lost[name] |= partitions

                return {"handler": handle, "on_assigned": on_assigned, "on_revoked": on_revoked, "concurrency": 8}

            async with (
                bench.bus(bench.reader, replica="a") as a,
                bench.bus(bench.reader, replica="b") as b,
                bench.bus("writer") as writer,
            ):
                homes = [in_partition(writer, source, n) for n in range(4)]
                for home in homes:
                    await publish(writer, source, Sample(conversation=home, number=0, text="job"))
                async with serving(a, source, **part("a")):
                    await until(lambda: len(jobs["a"]) == 4)
                    assert owned["a"] == {0, 1, 2, 3}
                    async with serving(b, source, **part("b")):
                        # The retry topic's partition counts, too: one of them may have three.
                        await until(lambda: 1 <= len(owned["b"]) == len(jobs["b"]) == 4 - len(owned["a"]) <= 3)
                        assert owned["a"] | owned["b"] == {0, 1, 2, 3}
                        assert lost["a"] == owned["b"] == set(jobs["b"])
                        for n in range(1, 101):
                            await publish(writer, source, *(Sample(conversation=home, number=n) for home in homes))
                        go_on.set()

                        async def all_told() -> bool:
                            return len({(d.partition, d.value) for d in await bench.records(target.name, 4)}) == 404

                        await until_async(all_told)
                    # `b` has gone: its partitions come back, and nothing that `a` kept is started again.
                    await until(lambda: owned["a"] == {0, 1, 2, 3})
                assert len(jobs["a"]) == 4, "a job that stayed was started again"
                assert sorted(ended) == sorted([("a", n) for n in {0, 1, 2, 3} - set(jobs["b"])] + [("b", n) for n in jobs["b"]])
            committed = await bench.committed(bench.reader, source)
            assert committed == dict.fromkeys(range(4), 101)

        asyncio.run(scenario())
