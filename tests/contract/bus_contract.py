"""What every bus promises, as tests: a subclass of `BusContract` names the broker by a `bench` fixture."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import pytest

from ruminate.schemas.envelope import derive_event_id
from ruminate.shared.bus import Bus, Delivery, Hold, Unavailable
from ruminate.shared.decoding import now
from ruminate.shared.record import Position
from tests.contract.bench import (
    DEADLINE_SECONDS,
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
from tests.contract.bus_dead_letters_contract import DeadLettersContract


class BusContract(DeadLettersContract):
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

    def test_who_follows_hears_when_everything_was_read_and_up_to_which_moment(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic()
            await bench.create(topic, reader=bench.reader)
            began = now()
            async with bench.bus("writer") as bus, bench.bus(bench.reader) as other:
                for number in range(30):
                    await publish(bus, topic, Sample(conversation=str(number), number=number))
                seen: set[int] = set()
                heard: list[tuple[datetime, int]] = []

                async def follow() -> None:
                    told = other.read(topic, follow=True, caught_up=lambda moment: heard.append((moment, len(seen))))
                    async for delivery in told:
                        seen.add(delivery.payload.number)

                following = asyncio.create_task(follow())
                await until(lambda: bool(heard))
                assert heard[0][1] == 30, "not before everything was read"
                before = now()
                await publish(bus, topic, Sample(conversation="late", number=30))
                written = now()
                await until(lambda: heard[-1][0] > written)
                assert began < heard[0][0] <= now()
                assert next(count for moment, count in heard if moment > written) == 31
                assert all(count >= 30 for _, count in heard) and before < written
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

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
                told: list[str] = []

                async def handle(delivery: Delivery[Sample]) -> None:
                    told.append(delivery.tell(target, delivery.payload.model_copy(update={"text": "told"})))
                    told.append(delivery.tell(target, delivery.payload, ordinal=1))

                async with serving(bus, source, handle, concurrency=4):
                    await until(lambda: len(told) == 100)
                    assert not bus.readiness()
                found = await events_of(bus, target, len(told))
                assert Counter(d.envelope.id for d in found) == Counter(told)
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
                homes = Counter(bus.partition_of(source, sample.conversation) for sample in samples)
            await bench.has_committed(source, dict(homes))

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
            waited: list[Position] = []
            running = 0

            async def handle(delivery: Delivery[Sample]) -> None:
                nonlocal running
                running += 1
                assert running == 1
                await asyncio.sleep(0)
                running -= 1
                if delivery.position.offset == 3 and len(waited) < 3:
                    waited.append(delivery.position)
                    raise Unavailable("the thing", retry_after_seconds=0.05)
                offsets[delivery.position.partition].append(delivery.position.offset)

            async with bench.bus(bench.reader) as bus:
                await publish(bus, topic, *(Sample(conversation=str(n), number=n) for n in range(60)))
                async with serving(bus, topic, handle):
                    await until(lambda: sum(map(len, offsets.values())) == 60)
            assert all(found == list(range(len(found))) for found in offsets.values())
            assert len(waited) == 3

        asyncio.run(scenario())

    def test_what_is_in_flight_is_bounded_by_count(self, bench: Bench) -> None:
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
                async with serving(bus, topic, handle, concurrency=50, max_in_flight=8):
                    await until(lambda: len(begun) == 8)
                    await self._some_turns_later(bus)
                    assert len(begun) == 8, "more than max_in_flight were begun"
                    go_on.set()
                    await until(lambda: len(begun) == 100)

        asyncio.run(scenario())

    def test_what_is_in_flight_is_bounded_by_bytes_but_for_the_last_fetch(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            await bench.create(topic, reader=bench.reader)
            begun: list[int] = []
            go_on = asyncio.Event()

            async def handle(delivery: Delivery[Sample]) -> None:
                begun.append(delivery.payload.number)
                await go_on.wait()

            async with bench.bus(bench.reader) as bus:
                await publish(bus, topic, Sample(conversation="0", number=0, text="x" * 2000))
                async with serving(bus, topic, handle, concurrency=50, max_in_flight_bytes=2000):
                    await until(lambda: begun == [0])
                    await publish(bus, topic, *(Sample(conversation=str(n), number=n) for n in range(1, 10)))
                    await self._some_turns_later(bus)
                    assert begun == [0], "more than max_in_flight_bytes were begun"
                    go_on.set()
                    await until(lambda: len(begun) == 10)

        asyncio.run(scenario())

    async def _some_turns_later(self, bus: Bus) -> None:
        """Return when the poll loop has had time enough for whatever it would do."""
        turned_at = bus.turned_at()
        await until(lambda: bus.turned_at() > turned_at + 0.5)

    def test_a_crash_ends_serve_tells_nothing_and_the_record_comes_again_with_the_same_derived_ids(self, bench: Bench) -> None:
        async def scenario() -> None:
            source, target = sample_topic(partitions=1), sample_topic(partitions=1)
            await bench.create(source, target, reader=bench.reader)
            ids: defaultdict[int, list[str]] = defaultdict(list)

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
                assert [d.payload.number for d in await events_of(bus, target, 5)] == [0, 1, 2, 3, 4]
            await bench.has_committed(source, {0: 5})
            async with bench.bus(bench.reader) as bus:
                async with serving(bus, source, handler(-1)):
                    await until(lambda: len(ids) == 10)
                assert [d.payload.number for d in await events_of(bus, target, 10)] == list(range(10))
            assert len(ids[5]) == 2
            assert len(set(ids[5])) == 1
            assert all(len(found) == 1 for number, found in ids.items() if number < 5), "finished deliveries came again"

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

    def test_a_partition_that_waits_takes_no_room_from_the_others(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=2)
            await bench.create(topic, reader=bench.reader)
            away = True
            done: Counter[int] = Counter()

            async def handle(delivery: Delivery[Sample]) -> None:
                if delivery.position.partition == 0 and away:
                    raise Unavailable("the node of the test", retry_after_seconds=0.05)
                done[delivery.position.partition] += 1

            async with bench.bus(bench.reader) as bus:
                here, there = in_partition(bus, topic, 0), in_partition(bus, topic, 1)
                await publish(bus, topic, *(Sample(conversation=c, number=n) for c in (here, there) for n in range(20)))
                async with serving(bus, topic, handle, max_in_flight=8):
                    await until(lambda: done == {1: 20})
                    away = False
                    await until(lambda: done == {0: 20, 1: 20})

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
                    await bench.has_committed(topic, {0: 20})
            for _, hold in held:
                hold.release()  # too late: it is ours no longer
            await bench.has_committed(topic, {0: 20})
            first, held[:] = [name for name, _ in held], []
            async with bench.bus(bench.reader) as bus, serving(bus, topic, handle):
                await until(lambda: len(held) == 30)
            assert [name for name, _ in held] == first[20:]

        asyncio.run(scenario())

    def test_what_stands_behind_a_held_record_is_handled_however_much_it_is(self, bench: Bench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            await bench.create(topic, reader=bench.reader)
            held: list[Hold] = []
            done: set[int] = set()

            async def handle(delivery: Delivery[Sample]) -> None:
                if delivery.payload.number == 0:
                    held.append(delivery.hold())
                done.add(delivery.payload.number)

            async with bench.bus(bench.reader) as bus:
                await publish(bus, topic, *(Sample(conversation=str(n), number=n) for n in range(50)))
                async with serving(bus, topic, handle, max_in_flight=4):
                    await until(lambda: len(done) == 50)
                    held[0].release()
                    await bench.has_committed(topic, {0: 50})

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
            await bench.has_committed(topic, {0: 2})
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
            await bench.has_committed(source, dict.fromkeys(range(4), 101))

        asyncio.run(scenario())
