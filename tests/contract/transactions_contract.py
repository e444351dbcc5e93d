"""What transactions promise beyond the bus contract: who reads committed records alone sees each effect once."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from ruminate.shared.bus import Delivery, Unavailable, Unprocessable
from ruminate.shared.dead_letters import DeadLetter
from tests.contract.bench import (
    Bench,
    Sample,
    publish,
    sample_topic,
    served_until_it_ends,
    serving,
    until_async,
)


class TransactionsContract:
    """Run with `bench`, whose buses have RUMINATE_KAFKA_TRANSACTIONS set."""

    def test_each_effect_is_seen_once_and_in_order_however_the_handlers_overtake_each_other(self, bench: Bench) -> None:
        async def scenario() -> None:
            source, target = sample_topic(partitions=2), sample_topic(partitions=1)
            await bench.create(source, target, reader=bench.reader)
            hesitation = random.Random(7)

            async def handle(delivery: Delivery[Sample]) -> None:
                await asyncio.sleep(hesitation.choice((0, 0, 0.001, 0.01)))
                for ordinal in range(delivery.payload.number % 3):
                    delivery.tell(target, delivery.payload, ordinal=ordinal)

            async with bench.bus("writer") as writer:
                await publish(writer, source, *(Sample(conversation=str(n), number=n) for n in range(300)))
            async with bench.bus(bench.reader) as bus, serving(bus, source, handle, concurrency=16):
                wanted = sorted(n for n in range(300) for _ in range(n % 3))

                async def all_seen() -> bool:
                    return len(await bench.records(target.name, 1, committed=True)) >= len(wanted)

                await until_async(all_seen)

                async def all_committed() -> bool:
                    return sum((await bench.committed(bench.reader, source)).values()) == 300

                await until_async(all_committed)
            records = await bench.records(target.name, 1, committed=True)
            assert sorted(json.loads(record.value or b"")["number"] for record in records) == wanted
            # What is told of one partition stands in the order of that partition, although the handlers ended in another.
            for partition in range(2):
                mine = [
                    n
                    for n in (json.loads(r.value or b"")["number"] for r in records)
                    if bus.partition_of(source, str(n)) == partition
                ]
                assert mine == sorted(mine)

        asyncio.run(scenario())

    def test_what_a_crash_leaves_behind_is_told_once_and_its_count_outlives_the_service(self, bench: Bench) -> None:
        async def scenario() -> None:
            source, target = sample_topic(partitions=1), sample_topic(partitions=1)
            await bench.create(source, target, reader=bench.reader)

            async def handle(delivery: Delivery[Sample]) -> None:
                delivery.tell(target, delivery.payload)
                if delivery.payload.number == 5:
                    raise ZeroDivisionError

            async with bench.bus("writer") as writer:
                await publish(writer, source, *(Sample(conversation="c", number=n) for n in range(10)))
            for _ in range(2):
                async with bench.bus(bench.reader) as bus:
                    with pytest.raises(ZeroDivisionError):
                        await served_until_it_ends(bus, source, handle)
            async with bench.bus(bench.reader) as bus, serving(bus, source, handle):

                async def done() -> bool:
                    return await bench.committed(bench.reader, source) == {0: 10}

                await until_async(done)
            told = [json.loads(r.value or b"")["number"] for r in await bench.records(target.name, 1, committed=True)]
            assert told == [0, 1, 2, 3, 4, 6, 7, 8, 9]
            (letter,) = await bench.records(source.dead_letters(bench.reader).name, 1, committed=True)
            assert DeadLetter.from_headers(letter.headers).reason == "crashed"

        asyncio.run(scenario())

    def test_a_record_that_waits_holds_back_what_comes_after_it_and_nothing_else(self, bench: Bench) -> None:
        async def scenario() -> None:
            source, target = sample_topic(partitions=2), sample_topic(partitions=1)
            await bench.create(source, target, reader=bench.reader)
            away = True

            async def handle(delivery: Delivery[Sample]) -> None:
                if delivery.payload.number == 3 and away:
                    raise Unavailable("the store", retry_after_seconds=0.05)
                if delivery.payload.number == 4:
                    raise Unprocessable("too_sad", "nobody can answer this")
                delivery.tell(target, delivery.payload)

            async with bench.bus(bench.reader) as bus, serving(bus, source, handle, concurrency=4):
                homes = [next(name for name in map(str, range(100)) if bus.partition_of(source, name) == p) for p in (0, 1)]
                await publish(bus, source, *(Sample(conversation=homes[n // 3 % 2], number=n) for n in range(9)))

                async def seen() -> list[int]:
                    return sorted(json.loads(r.value or b"")["number"] for r in await bench.records(target.name, 1, committed=True))

                async def the_others() -> bool:
                    return await seen() == [0, 1, 2, 6, 7, 8]

                await until_async(the_others)
                away = False

                async def everything() -> bool:
                    return await seen() == [0, 1, 2, 3, 5, 6, 7, 8]

                await until_async(everything)
                assert len(await bench.records(source.dead_letters(bench.reader).name, 2, committed=True)) == 1

        asyncio.run(scenario())
