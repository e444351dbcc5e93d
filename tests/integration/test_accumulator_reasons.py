"""Why a batch is sealed, and what it waits for: an operator's word, budget, quiet hours, tokens, what has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from ruminate.accumulator.accumulate import Accumulator
from ruminate.accumulator.rebuilding.rebuild import read_chains, rebuild_chain
from ruminate.schemas.assessment import ReasoningAssessed, Score
from ruminate.schemas.batch import BatchRequested
from ruminate.schemas.flow import BATCH_REQUESTED
from ruminate.schemas.interaction import Message, Response, Usage
from ruminate.shared.bus import BusError
from ruminate.shared.memory import MemoryBus
from tests.integration.test_accumulator_chain import (
    SETTINGS,
    BusThatStopsAfterPublishing,
    World,
    assessed,
    end_of,
    fill,
    gauge,
    neighbour_of,
    play,
    until,
)

TARGET = "qwen3:8b"


async def ask(world: World, *, target: str = TARGET, reason: str = "", event_id: str | None = None) -> str:
    """An operator's word, and its event id."""
    bus = MemoryBus(world.broker, reader="command")
    asked = BatchRequested(target_model=target, requested_by="ada", requested_at=world.clock(), reason=reason)
    envelope = bus.begin(BATCH_REQUESTED, asked, event_id=event_id)
    await bus.publish(BATCH_REQUESTED, asked, envelope)
    return envelope.id


async def looked_twice(accumulator: Accumulator) -> None:
    """Whatever is due by now was sealed."""
    for _ in range(2):
        await accumulator.look_at_all()


def test_an_operators_word_seals_what_waits_and_counts_once(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.assess(*(assessed(n) for n in range(2)))
        async with world.accumulating() as accumulator:
            await until(lambda: fill(accumulator) == 2, "two rows are folded")
            assert world.published() == []
            event_id = await ask(world)
            await until(lambda: world.committed() == 2, "the batch is committed")
            (batch,) = world.chain()
            assert (batch.reason, batch.rows, batch.requests) == ("operator", 2, (event_id,))
            assert batch.explanation == "2 rows (2 reasoning, 0 direct), an operator's word; sealing needs 1"
            # The same word again, as an event that is delivered twice, and more rows.
            await ask(world, event_id=event_id)
            await world.assess(*(assessed(n) for n in range(2, 5)))
            await until(lambda: fill(accumulator) == 3, "three rows are folded")
            await looked_twice(accumulator)
            assert len(world.published()) == 1
            assert gauge("ruminate_batch_requests", tenant="default", target=TARGET) == 0

    play(scenario, tmp_path)


def test_a_word_that_nothing_can_be_sealed_for_stands_over_restarts_until_it_can(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        event_id = await ask(world)
        await world.assess(*(assessed(n, thinks=False) for n in range(3)))
        async with world.accumulating() as accumulator:
            await until(lambda: fill(accumulator) == 3, "three direct rows are folded")
            await looked_twice(accumulator)
            assert world.published() == []
            assert gauge("ruminate_batch_requests", tenant="default", target=TARGET) == 1
            assert accumulator.readiness() == []
        async with world.accumulating() as accumulator:
            await world.assess(assessed(3))
            await until(lambda: world.committed() == 4, "one row that reasons is enough")
        (batch,) = world.chain()
        assert (batch.reason, batch.rows, batch.direct_rows, batch.requests) == ("operator", 1, 0, (event_id,))

    play(scenario, tmp_path)


def test_words_that_were_said_before_a_batch_are_answered_by_it_whatever_its_reason_and_never_again(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        asked = [await ask(world, reason=reason) for reason in ("one", "two")]
        await world.assess(*(assessed(n) for n in range(8)))
        bus = BusThatStopsAfterPublishing(world.broker, SETTINGS, reader="accumulator")
        patient = SETTINGS.model_copy(update={"seal_check_seconds": 60.0})
        async with world.accumulating(bus, settings=patient):
            await until(lambda: bus.acknowledged, "the batch is published")
        async with world.accumulating() as accumulator:
            await world.assess(*(assessed(n) for n in range(100, 103)))
            await until(lambda: fill(accumulator) >= 3 and end_of(accumulator).number == 1, "what came later waits")
            await looked_twice(accumulator)
        assert [batch.requests for batch in world.published()] == [tuple(asked)]

    play(scenario, tmp_path)


def test_a_word_is_for_one_target_and_a_loser_of_the_race_answers_none(tmp_path: Path) -> None:
    neighbour = neighbour_of(TARGET)

    async def scenario(world: World) -> None:
        await world.assess(assessed(0), assessed(1, target=neighbour))
        async with (
            world.accumulating() as one,
            world.accumulating(MemoryBus(world.broker, SETTINGS, reader="accumulator-zombie")) as two,
        ):
            await until(lambda: fill(one) == fill(two) == 1, "both have folded it")
            event_id = await ask(world)
            await until(lambda: end_of(one).number == end_of(two).number == 1, "both see the batch")
            await looked_twice(one)
            await looked_twice(two)
        (batch,) = world.chain()
        assert batch.requests == (event_id,)
        assert world.published(neighbour) == []

    play(scenario, tmp_path)


def test_what_follows_the_operators_words_and_fails_ends_the_service(tmp_path: Path) -> None:
    class Deaf(MemoryBus):
        def read(self, topic: Any, **kwargs: Any) -> Any:
            if topic is BATCH_REQUESTED and kwargs.get("follow"):
                raise BusError("deaf")
            return super().read(topic, **kwargs)

    async def scenario(world: World) -> None:
        accumulator = Accumulator(Deaf(world.broker, SETTINGS, reader="accumulator"), world.store, SETTINGS, clock=world.clock)
        with pytest.raises(BusError, match="deaf"):
            await asyncio.wait_for(accumulator.serve(), 10)

    play(scenario, tmp_path)


def test_the_budget_of_a_day_survives_a_restart_and_an_operator_goes_beyond_it(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"seal_at_rows": 4, "seal_most_a_day": 2})

    async def scenario(world: World) -> None:
        await world.assess(*(assessed(n) for n in range(9)))
        async with world.accumulating(settings=settings) as accumulator:
            await until(lambda: end_of(accumulator).number == 2, "two batches")
        async with world.accumulating(settings=settings) as accumulator:
            await world.assess(*(assessed(n) for n in range(9, 14)))
            await until(lambda: fill(accumulator) == 6, "six rows are folded, and two more than are needed")
            await looked_twice(accumulator)
            assert len(world.published()) == 2
            assert accumulator.readiness() == []
            shown = gauge("ruminate_batch_paused_until_timestamp_seconds", tenant="default", target=TARGET, why="budget")
            assert shown == (world.chain()[0].sealed_at + timedelta(days=1)).timestamp()
            await ask(world)
            await until(lambda: end_of(accumulator).number == 3, "the operator's batch")
            await world.assess(*(assessed(n) for n in range(14, 19)))
            await until(lambda: fill(accumulator) == 5, "five rows are folded")
            await looked_twice(accumulator)
            assert len(world.published()) == 3, "an operator's batch uses the budget up, too"
            world.ahead = timedelta(hours=25)
            await until(lambda: end_of(accumulator).number == 4, "a day later")
        assert [batch.reason for batch in world.chain()] == ["count", "count", "operator", "count"]
        assert [batch.rows for batch in world.chain()] == [4, 4, 6, 5]

    play(scenario, tmp_path)


def test_nothing_is_sealed_in_quiet_hours_but_by_an_operators_word(tmp_path: Path) -> None:
    begin = datetime.now(UTC) - timedelta(hours=1)
    end = begin + timedelta(hours=12)
    settings = SETTINGS.model_copy(update={"seal_quiet_hours": f"{begin:%H:%M}-{end:%H:%M}"})

    async def scenario(world: World) -> None:
        await world.assess(*(assessed(n) for n in range(9)))
        async with world.accumulating(settings=settings) as accumulator:
            await until(lambda: fill(accumulator) == 9, "nine rows are folded")
            await looked_twice(accumulator)
            assert world.published() == []
            assert accumulator.readiness() == []
            shown = gauge("ruminate_batch_paused_until_timestamp_seconds", tenant="default", target=TARGET, why="quiet_hours")
            assert shown is not None
            assert datetime.fromtimestamp(shown, UTC).time() == time(end.hour, end.minute)
            await ask(world)
            await until(lambda: end_of(accumulator).number == 1, "the operator's batch")
            await world.assess(*(assessed(n) for n in range(9, 19)))
            await until(lambda: fill(accumulator) == 10, "ten rows are folded")
            world.ahead = timedelta(hours=12)
            await until(lambda: end_of(accumulator).number == 2, "in the morning")
        assert [batch.reason for batch in world.chain()] == ["operator", "count"]

    play(scenario, tmp_path)


def test_tokens_seal_before_the_count_by_what_the_node_counted(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"seal_at_tokens": 500})
    long = (Message(role="user", content="question " * 40),)

    async def scenario(world: World) -> None:
        usage = Usage(prompt_tokens=85, response_tokens=15)
        await world.assess(*(assessed(n, messages=long, usage=usage, conversation_id=f"c{n}") for n in range(3)))
        await world.assess(*(assessed(n, usage=Usage(prompt_tokens=60, response_tokens=6)) for n in range(3, 7)))
        async with world.accumulating(settings=settings.model_copy(update={"cluster_most_rows": 9})):
            await until(lambda: world.committed() == 7, "the batch is committed")
        (batch,) = world.chain()
        assert batch.reason == "tokens"
        assert batch.explanation.startswith(
            "7 rows (7 reasoning, 0 direct), 564 tokens; sealing needs 500 (RUMINATE_SEAL_AT_TOKENS)"
        )

    play(scenario, tmp_path)


USELESS: dict[str, Callable[[int], ReasoningAssessed]] = {
    "rejected": lambda n: assessed(n, keep=False),
    "over_ratio": lambda n: assessed(n, thinks=False),
    "duplicate_exact": lambda n: assessed(
        n,
        messages=(Message(role="user", content="the same question"),),
        response=Response(content="and answer", thinking="once more"),
    ),
}


@pytest.mark.parametrize("reason", USELESS)
def test_a_stream_that_makes_no_batch_is_cut_all_the_same_and_accounted_for(tmp_path: Path, reason: str) -> None:
    settings = SETTINGS.model_copy(update={"seal_at_records": 20})

    async def scenario(world: World) -> None:
        await world.assess(*(USELESS[reason](n) for n in range(47)))
        async with world.accumulating(settings=settings) as accumulator:
            await until(lambda: world.committed() == 40, "what may not wait any longer is committed")
            await world.assess(*(assessed(n) for n in range(100, 108)))
            await until(lambda: end_of(accumulator).number == 3, "rows that teach something make a batch as ever")
        *cut, batch = world.chain()
        once = reason == "duplicate_exact"  # the first of them has taught it
        assert [(each.reason, each.rows, each.rejected_interactions) for each in cut] == [
            ("records", once, 20 - once),
            ("records", 0, 20),
        ]
        assert [each.reasoning_ratio for each in cut] == [1.0, 1.0]
        # What came before them lies in the batch's interval; direct rows find room beside those that reason.
        assert (batch.reasoning_rows, batch.direct_rows) == ((6, 2) if reason == "over_ratio" else (8, 0))
        manifests = await world.manifests()
        assert [each.left_out_counts for each in manifests[:2]] == [{reason: 20 - once}, {reason: 20}]
        assert {left.offset for left in manifests[1].left_out} == set(range(20, 40))
        for without_manifests in (False, True):
            assert set(await rebuilt(world, settings, without_manifests=without_manifests)) == {"identical"}

    play(scenario, tmp_path)


def test_a_target_has_its_own_policy_and_its_batches_are_rebuilt_by_it(tmp_path: Path) -> None:
    own = {"default/small": {"seal_at_rows": 2, "min_reasoning_ratio": 0.5}}
    settings = SETTINGS.model_copy(update={"seal_policies": own})

    async def scenario(world: World) -> None:
        await world.assess(assessed(0, target="small"), assessed(1, target="small", thinks=False), *(assessed(n) for n in range(4)))
        async with world.accumulating(settings=settings) as accumulator:
            await until(lambda: end_of(accumulator, "small").number == 1, "the small target has its batch")
            await until(lambda: fill(accumulator) == 4, "the other waits")
            assert world.published() == []
        (batch,) = world.chain("small")
        assert (batch.reason, batch.rows, batch.direct_rows) == ("count", 2, 1)
        (manifest,) = await world.manifests("small")
        assert manifest.policy["min_reasoning_ratio"] == 0.5
        for without_manifests in (False, True):
            assert await rebuilt(world, settings, "small", without_manifests=without_manifests) == ["identical"]

    play(scenario, tmp_path)


async def rebuilt(world: World, settings: Any, target: str = TARGET, *, without_manifests: bool = False) -> list[str]:
    bus = MemoryBus(world.broker, reader="command")
    (chain,) = await read_chains(bus, target=target)
    rebuilding = rebuild_chain(bus, world.store, chain, settings=settings, without_manifests=without_manifests)
    return [each.outcome async for each in rebuilding]


def scored(number: int, score: float, *, domain: str = "law", keep: bool = True) -> ReasoningAssessed:
    """Interaction `number` with its overall score, about something."""
    record = assessed(number, domain=domain, keep=keep)
    return record.model_copy(update={"verdict": record.verdict.model_copy(update={"overall": Score(value=score)})})


CHANGED: dict[str, Callable[[int], ReasoningAssessed]] = {
    # Half of them too bad to learn from, and those that are kept no better than before.
    "quality": lambda n: scored(n, 0.62 + n % 20 / 100 if n % 2 else 0.3, keep=bool(n % 2)),
    "drift": lambda n: scored(n, 0.7 + n % 25 / 100, domain="law" if n % 2 else "medicine"),
}


@pytest.mark.parametrize("reason", CHANGED)
def test_a_batch_is_sealed_early_where_what_waits_is_not_what_the_last_batch_was(tmp_path: Path, reason: str) -> None:
    settings = SETTINGS.model_copy(update={"seal_at_rows": 400, "seal_false_alarm_ratio": 0.001, "cluster_most_rows": 1000})
    changed = CHANGED[reason]

    async def scenario(world: World) -> None:
        await world.assess(*(scored(n, 0.7 + n % 25 / 100) for n in range(400)))
        async with world.accumulating(settings=settings) as accumulator:
            await until(lambda: end_of(accumulator).number == 1, "the first batch", seconds=30)
            await world.assess(*(scored(n, 0.7 + n % 25 / 100) for n in range(400, 500)))
            await until(lambda: gauge("ruminate_batch_drift_looks", tenant="default", target=TARGET) == 3, "it was looked at")
            await looked_twice(accumulator)
            assert len(world.published()) == 1, "as before"
            await ask(world)
            await until(lambda: end_of(accumulator).number == 2, "an operator's batch")
        # The last batch is known from its manifest, and looks come at the same sizes, whoever reads on.
        await world.assess(*(changed(n) for n in range(500, 700)))
        async with world.accumulating(settings=settings) as accumulator:
            await until(lambda: end_of(accumulator).number >= 3, "a batch that was not full", seconds=30)
        batch = world.chain()[2]
        assert batch.reason == reason
        assert " at look 1, 64 conversations against 100 " in batch.explanation or " at look 2, 80 " in batch.explanation
        (_, before, manifest) = (await world.manifests())[:3]
        assert before.sample is not None
        assert (before.sample.interactions, sum(before.sample.scores)) == (100, 100)
        assert manifest.sample is not None
        assert manifest.sample.interactions == batch.to_offset - batch.after_offset, "those that were rejected count, too"
        assert set(await rebuilt(world, settings)) == {"identical"}
        assert set(await rebuilt(world, settings, without_manifests=True)) == {"identical"}

    play(scenario, tmp_path)
