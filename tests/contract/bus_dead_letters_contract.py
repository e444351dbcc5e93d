"""What every bus does with records that cannot be handled: a part of `BusContract`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ruminate.schemas.topic import Topic
from ruminate.shared.bus import Delivery, TooManyDeadLetters, Unprocessable
from ruminate.shared.dead_letters import DeadLetter
from ruminate.shared.decoding import encode
from ruminate.shared.record import Position, Record
from tests.contract.bench import (
    VALID,
    Bench,
    Sample,
    events_of,
    headers_for,
    in_partition,
    publish,
    sample_topic,
    served_until_it_ends,
    serving,
    until,
    until_async,
)

SECRET = "Rumpelstilzchen"
"""A word of the contents: it must be in no explanation."""


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


class DeadLettersContract:
    """Run as a part of `BusContract`."""

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
            await bench.has_committed(topic, {0: 5})

        asyncio.run(scenario())

    def test_a_crash_is_counted_although_later_records_of_the_partition_are_handled(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            await bench.create(topic, reader=bench.reader)
            handled: set[int] = set()

            async def handle(delivery: Delivery[Sample]) -> None:
                if delivery.payload.number == 0:
                    await until(lambda: handled == {1, 2})
                    raise ZeroDivisionError
                handled.add(delivery.payload.number)

            async with bench.bus("writer") as bus:
                await publish(bus, topic, *(Sample(conversation=str(n), number=n) for n in range(3)))
            for _ in range(2):
                handled.clear()
                async with bench.bus(bench.reader) as bus:
                    with pytest.raises(ZeroDivisionError):
                        await served_until_it_ends(bus, topic, handle, concurrency=3)
            async with bench.bus(bench.reader) as bus, serving(bus, topic, handle, concurrency=3):
                await bench.has_committed(topic, {0: 3})
            (letter,) = await bench.records(topic.dead_letters(bench.reader).name, 1)
            assert DeadLetter.from_headers(letter.headers).reason == "crashed"

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
            await bench.has_committed(topic, {1: good + 1})
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
                    assert [d.payload.number for d in await events_of(bus, target, 1)] == [1]
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
                events = await events_of(bus, target, 2)
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
            letters[:] = await bench.records(topic.dead_letters(bench.reader).name, topic.partitions, committed=True)
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
            await bench.has_committed(topic, {0: 6})

        asyncio.run(scenario())
