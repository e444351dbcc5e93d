"""The eraser over the memory bus: everything of a conversation gets its tombstone, whatever step it is cut short at."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from prometheus_client import REGISTRY

from ruminate.eraser.decide import MARKER_KEY
from ruminate.eraser.erase import NOT_ITS_TENANT
from ruminate.eraser.lives import COMPACTED, LASTING
from ruminate.schemas.erasure import RecordsErased
from ruminate.schemas.flow import (
    DEAD_LETTER_SETTLED,
    ERASURE_REQUESTED,
    EVIDENCE_RECORDED,
    INTERACTION_RECORDED,
    REASONING_ASSESSED,
)
from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.dead_letters import DeadLetter
from ruminate.shared.decoding import encode
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.shares import Outgoing
from tests.integration.erasing import (
    ASKED,
    BYSTANDERS,
    MARKER,
    erasing,
    every_record,
    holding,
    lead_through,
    plant,
    planted,
    request,
    tell,
    told,
    unmarked,
    until_finished,
)

Cut = Literal["before", "within", "after"]

_MORE_THAN_ALL_STEPS = 30


class Killed(Exception):
    """The process is gone."""


class DoomedBus(MemoryBus):
    """Is killed at a write: before it, in the middle of its records, or once it is acknowledged."""

    steps = -1
    cut: Cut = "before"
    written = 0

    async def write(self, records: Sequence[Outgoing]) -> list[int]:
        if self.written == self.steps:
            if self.cut != "before":
                await super().write(records if self.cut == "after" else records[: len(records) // 2])
            raise Killed
        self.written += 1
        return await super().write(records)


def eraser_at(broker: MemoryBroker) -> DoomedBus:
    return DoomedBus(broker, reader="eraser")


def erased(*requests: Any) -> tuple[MemoryBroker, list[RecordsErased]]:
    """What is left of the planted log, and what was told."""

    async def scenario() -> tuple[MemoryBroker, list[RecordsErased]]:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="tests") as bus:
            await plant(bus)
            for number, each in enumerate(requests):
                await tell(bus, ERASURE_REQUESTED, each, event_id=f"e-{number}")
            async with eraser_at(broker) as doomed, erasing(doomed):
                events = await until_finished(bus, *(f"e-{number}" for number in range(len(requests))))
            return broker, events

    return asyncio.run(scenario())


def found(broker: MemoryBroker) -> dict[str, list[Any]]:
    return {name: broker.records(name) for name in COMPACTED}


def test_a_conversation_is_gone_from_everything_that_can_be_compacted_and_nothing_else_is() -> None:
    broker, events = erased(request())
    assert holding(found(broker), MARKER) == {}
    assert unmarked(found(broker), MARKER) == set()
    for text in BYSTANDERS:
        assert set(holding(found(broker), text)) == set(COMPACTED)
    first, last = events
    assert (first.stage, first.pass_number, last.stage, last.pass_number) == ("tombstoned", 1, "finished", 2)
    assert first.erased == {
        **dict.fromkeys((name for name in COMPACTED if name.endswith("-dlq")), 3),
        INTERACTION_RECORDED.name: 3,
        EVIDENCE_RECORDED.name: 3,
        REASONING_ASSESSED.name: 6,
    }
    assert last.erased == {}
    assert set(first.touched) == set(last.touched) == set(COMPACTED)
    assert set(last.ends_by) <= set(LASTING)
    assert {"interaction-completed-v1", "feedback-given-v1"} <= set(last.ends_by)
    tombstones = Counter((r.topic, r.key) for records in found(broker).values() for r in records if r.value is None)
    markers = {key: count for key, count in tombstones.items() if key[1] == MARKER_KEY}
    assert set((tombstones - Counter(markers)).values()) == {1}
    letters = [DEAD_LETTER_SETTLED.carries.model_validate_json(r.value or b"") for r in broker.records(DEAD_LETTER_SETTLED.name)]
    assert {(letter.action, letter.settled_by, letter.why) for letter in letters} == {("dropped", "eraser", "erasure e-0")}


def test_an_interaction_goes_with_those_that_repeat_it_and_the_rest_of_its_conversation_stays() -> None:
    broker, events = erased(request(scope="interaction", subject="i-1", interaction_source="/agents/ledger"))
    assert events[0].erased[INTERACTION_RECORDED.name] == 2, "and the one that continues it"
    assert set(holding(found(broker), MARKER).items()) >= {(INTERACTION_RECORDED.name, 1), (REASONING_ASSESSED.name, 2)}
    assert holding(found(broker), MARKER)[EVIDENCE_RECORDED.name] == 1


@pytest.mark.parametrize(
    "asked",
    [
        {"scope": "agent", "subject": "ledger"},
        {"scope": "tenant", "subject": "default"},
        {"scope": "agent", "subject": "ledger", "target_model": "qwen3:8b"},
    ],
)
def test_an_agent_and_a_tenant_are_forgotten_until_they_were_asked_for(asked: dict[str, str]) -> None:
    broker, _ = erased(request(**asked))
    left = found(broker)
    assert holding(left, MARKER) == holding(left, BYSTANDERS[0]) == {}
    assert set(holding(left, BYSTANDERS[1])) == set(holding(left, BYSTANDERS[2])) == set(COMPACTED)


def test_a_withdrawal_and_another_target_erase_nothing() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="tests") as bus:
            await plant(bus)
            await tell(bus, ERASURE_REQUESTED, request(what="training"), event_id="w")
            await tell(bus, ERASURE_REQUESTED, request(target_model="another"), event_id="e-0")
            async with eraser_at(broker) as doomed, erasing(doomed):
                events = await until_finished(bus, "e-0")
        assert all(each.erasure_id == "e-0" and not each.erased for each in events)
        assert holding(found(broker), MARKER)[REASONING_ASSESSED.name] == 6

    asyncio.run(scenario())


def test_a_request_that_names_another_tenant_is_a_dead_letter() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="tests") as bus:
            await tell(bus, ERASURE_REQUESTED, request(scope="tenant", subject="another"))
            async with eraser_at(broker) as doomed, erasing(doomed):
                async with asyncio.timeout(20):
                    while not (letters := broker.records(ERASURE_REQUESTED.dead_letters("eraser").name)):
                        await asyncio.sleep(0.01)
        assert DeadLetter.from_headers(letters[0].headers).reason == NOT_ITS_TENANT

    asyncio.run(scenario())


def test_what_was_in_flight_during_the_first_pass_is_found_by_the_next() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="tests") as bus:
            await plant(bus)
            await tell(bus, ERASURE_REQUESTED, request(), event_id="e-0")
            async with eraser_at(broker) as doomed, erasing(doomed, settle_seconds=0.3):
                async with asyncio.timeout(20):
                    while not await told(bus):
                        await asyncio.sleep(0.01)
                await lead_through(bus, planted("i-9"), MARKER)
                events = await until_finished(bus, "e-0")
        assert [(each.stage, each.pass_number) for each in events] == [("tombstoned", 1), ("tombstoned", 2), ("finished", 3)]
        assert holding(found(broker), MARKER) == {}
        assert unmarked(found(broker), MARKER) == set()

    asyncio.run(scenario())


def test_what_is_said_of_an_interaction_whose_record_is_gone_goes_with_the_next_pass() -> None:
    """Compaction has taken the interaction, and only its tombstone says whose it was."""

    async def scenario() -> None:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="tests") as bus:
            await plant(bus)
            asked = request(scope="agent", subject="ledger")
            await tell(bus, ERASURE_REQUESTED, asked, event_id="e-0")
            async with eraser_at(broker) as doomed, erasing(doomed):
                await until_finished(bus, "e-0")
            for name in (INTERACTION_RECORDED.name, REASONING_ASSESSED.name):
                for (topic, _), records in broker._partitions.items():
                    if topic == name:
                        records[:] = [each for each in records if each.value is None or MARKER.encode() not in each.value]
            evidence = broker.records(EVIDENCE_RECORDED.name)
            late = next(each for each in evidence if each.value is not None and MARKER.encode() in each.value)
            broker.append(EVIDENCE_RECORDED.name, late.value, key=b"late", headers=late.headers, partition=late.partition)
            await tell(bus, ERASURE_REQUESTED, request(scope="agent", subject="nobody"), event_id="e-1")
            async with eraser_at(broker) as doomed, erasing(doomed):
                await until_finished(bus, "e-1")
        assert holding({EVIDENCE_RECORDED.name: broker.records(EVIDENCE_RECORDED.name)}, MARKER) == {}

    asyncio.run(scenario())


def test_erasures_that_are_open_together_are_looked_for_in_one_pass_and_each_is_told() -> None:
    broker, events = erased(
        request(), request(scope="agent", subject="ledger"), request(scope="tenant", subject="another", tenant="another")
    )
    assert holding(found(broker), MARKER) == {}
    assert set(holding(found(broker), BYSTANDERS[2])) == set(COMPACTED)
    assert holding(found(broker), BYSTANDERS[1]) == {}
    assert Counter(each.stage for each in events) == {"tombstoned": 3, "finished": 3}


def test_a_finished_erasure_is_committed_and_a_restart_does_nothing_more() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="tests") as bus:
            await plant(bus)
            await tell(bus, ERASURE_REQUESTED, request(), event_id="e-0")
            async with eraser_at(broker) as doomed:
                eraser = erasing(doomed)
                async with eraser:
                    await until_finished(bus, "e-0")
                    place = bus.partition_of(ERASURE_REQUESTED, ERASURE_REQUESTED.order_of(request()))
                    async with asyncio.timeout(20):
                        while place not in broker.committed("eraser", ERASURE_REQUESTED.name):
                            await asyncio.sleep(0.01)
            before = sum(len(broker.records(name)) for name in COMPACTED)
            await tell(bus, ERASURE_REQUESTED, request(), event_id="e-0")  # and the same once more
            async with eraser_at(broker) as again, erasing(again):
                async with asyncio.timeout(20):
                    while broker.committed("eraser", ERASURE_REQUESTED.name)[place].offset < 2:
                        await asyncio.sleep(0.01)
                assert again.written == 0
        assert sum(len(broker.records(name)) for name in COMPACTED) == before

    asyncio.run(scenario())


async def cut_at(steps: int, cut: Cut) -> tuple[MemoryBroker, bool]:
    """Erase, killed at that write, then again without; whether there was such a write."""
    broker = MemoryBroker()
    async with MemoryBus(broker, reader="tests") as bus:
        await plant(bus)
        await tell(bus, ERASURE_REQUESTED, request(), event_id="e-0")
        async with eraser_at(broker) as doomed:
            doomed.steps, doomed.cut = steps, cut
            async with erasing(doomed) as working:
                finished = asyncio.create_task(until_finished(bus, "e-0"))
                await asyncio.wait({working, finished}, return_when=asyncio.FIRST_COMPLETED)
                killed = working.done()
                if killed:
                    with pytest.raises(Killed):
                        working.result()
                finished.cancel()
                await asyncio.gather(finished, return_exceptions=True)
        async with eraser_at(broker) as doomed, erasing(doomed):
            await until_finished(bus, "e-0")
    return broker, killed


@pytest.mark.parametrize("cut", ["before", "within", "after"])
def test_killed_at_any_step_the_next_eraser_ends_it(cut: Cut) -> None:
    async def scenario() -> None:
        # Worlds of their own, so that all of them can wait at once.
        worlds = await asyncio.gather(*(cut_at(steps, cut) for steps in range(_MORE_THAN_ALL_STEPS)))
        kills = [killed for _, killed in worlds]
        assert kills == sorted(kills, reverse=True)
        assert 20 < sum(kills) < _MORE_THAN_ALL_STEPS, "tombstones of each topic, words, markers, two events"
        for steps, (broker, _) in enumerate(worlds):
            left = found(broker)
            assert holding(left, MARKER) == {}, f"killed {cut} write {steps}"
            assert unmarked(left, MARKER) == set(), f"killed {cut} write {steps}"
            for text in BYSTANDERS:
                assert set(holding(left, text)) == set(COMPACTED)

    asyncio.run(scenario())


def test_what_nobody_can_read_is_counted_and_said_to_stay() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="tests") as bus:
            await plant(bus)
            name = next(name for name in COMPACTED if name.endswith("collector-dlq"))
            broker.append(name, MARKER.encode(), key=b"x")
            broker.append(name, encode(planted("i-1")), key=None)
            await tell(bus, ERASURE_REQUESTED, request(), event_id="e-0")
            async with eraser_at(broker) as doomed, erasing(doomed):
                events = await until_finished(bus, "e-0")
        assert events[-1].unreadable == {name: 2}
        assert name in events[-1].ends_by

    asyncio.run(scenario())


def test_nothing_is_finished_before_the_moment_until_which_it_covers() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="tests") as bus:
            await plant(bus)
            later = datetime.now(UTC) + timedelta(seconds=0.6)
            await tell(bus, ERASURE_REQUESTED, request(requested_at=later), event_id="e-0")
            async with eraser_at(broker) as doomed, erasing(doomed):
                events = await until_finished(bus, "e-0")
        assert events[-1].erased_at > later > ASKED

    asyncio.run(scenario())


def test_every_topic_that_holds_texts_is_looked_through() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="tests") as bus:
            await plant(bus)
            assert all(
                MARKER.encode() in b"".join(r.value or b"" for r in records) for records in (await every_record(bus)).values()
            )
        for name in LASTING:
            if name not in ("answer-noted-v1", "lesson-noted-v1"):
                assert MARKER.encode() in b"".join(record.value or b"" for record in broker.records(name))

    asyncio.run(scenario())


def test_of_two_replicas_one_takes_over_what_the_other_began() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="tests") as bus:
            await plant(bus)
            names = [f"e-{number}" for number in range(6)]
            for number, name in enumerate(names):
                asked = request(scope="agent", subject="ledger", target_model="*" if number == 0 else f"model-{number}")
                await tell(bus, ERASURE_REQUESTED, asked, event_id=name)
            async with eraser_at(broker) as first, eraser_at(broker) as second, erasing(second, settle_seconds=0.5):
                async with erasing(first, settle_seconds=0.5):
                    async with asyncio.timeout(20):
                        while len({each.erasure_id for each in await told(bus)}) < len(names):
                            await asyncio.sleep(0.01)
                events = await until_finished(bus, *names)
        assert Counter(each.erasure_id for each in events if each.stage == "finished") == dict.fromkeys(names, 1)
        assert holding(found(broker), MARKER) == {}
        assert unmarked(found(broker), MARKER) == set()

    asyncio.run(scenario())


class AwayAtFirst(MemoryBus):
    """Its broker takes no tombstones the first time."""

    refused = 0

    async def write(self, records: Sequence[Outgoing]) -> list[int]:
        if not self.refused:
            self.refused += 1
            raise BrokerUnavailable("the broker is away")
        return await super().write(records)


def test_operators_see_what_passes_came_to_what_is_open_and_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ruminate.eraser.erase._AGAIN", timedelta(milliseconds=20))
    asked_at = datetime.now(UTC) - timedelta(hours=5)
    before = shown()

    async def scenario() -> None:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="tests") as bus:
            await plant(bus)
            asked = request(scope="tenant", subject="default", requested_at=asked_at)
            await tell(bus, ERASURE_REQUESTED, asked, event_id="e-0")
            async with AwayAtFirst(broker, reader="eraser") as away, erasing(away, settle_seconds=0.3):
                async with asyncio.timeout(20):
                    while not shown()["open"]:
                        await asyncio.sleep(0.01)
                    assert (shown()["open"], shown()["oldest"]) == (1, asked_at.timestamp())
                    while shown()["finished"] == before["finished"]:
                        await asyncio.sleep(0.01)

    asyncio.run(scenario())
    after = shown()
    assert {name: after[name] - before[name] for name in ("broken_off", "erased", "nothing_left", "finished", "counted")} == {
        "broken_off": 1,
        "erased": 1,
        "nothing_left": 1,
        "finished": 1,
        "counted": 1,
    }
    assert timedelta(hours=5).total_seconds() <= after["seconds"] - before["seconds"] < timedelta(hours=6).total_seconds()
    assert (after["open"], after["oldest"]) == (0, 0)


def shown() -> dict[str, float]:
    """What the eraser's metrics say."""
    passes = {
        outcome: REGISTRY.get_sample_value("ruminate_erasure_passes_total", {"outcome": outcome})
        for outcome in ("broken_off", "erased", "nothing_left")
    }
    others = {
        "open": "ruminate_erasures_open",
        "oldest": "ruminate_erasure_oldest_open_timestamp_seconds",
        "finished": "ruminate_erasures_finished_total",
        "counted": "ruminate_erasure_seconds_count",
        "seconds": "ruminate_erasure_seconds_sum",
    }
    values = passes | {name: REGISTRY.get_sample_value(series) for name, series in others.items()}
    return {name: value or 0.0 for name, value in values.items()}
