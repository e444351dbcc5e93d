"""What turned out becomes lessons, lessons become numbered snapshots, and verdicts name the one that they rest on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest

from ruminate.assessor.handle import Scorer, assess_one
from ruminate.assessor.judging.combiner import Combiner
from ruminate.assessor.judging.signals import NAMES, Signals
from ruminate.assessor.learning.classroom import Classroom, lesson_from, noted_of, snapshot_of
from ruminate.assessor.learning.scorers import Scorers
from ruminate.assessor.learning.teacher import Lesson, Teacher, source_digest
from ruminate.assessor.policy import Policy, Weights
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.flow import INTERACTION_RECORDED, LESSON_NOTED, REASONING_ASSESSED, SCORER_TAUGHT
from ruminate.schemas.scoring import LessonNoted, ScorerTaught
from ruminate.shared.bus import Unavailable
from ruminate.shared.memory import MemoryBroker, MemoryBus
from tests.solutions import interaction

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
AFTER = timedelta(minutes=5)
SECOND = timedelta(seconds=1)
NOTHING = Signals(*[0.0] * len(NAMES))


def lesson(number: int, *, tenant: str = "default") -> LessonNoted:
    """In this world, what concludes is bad."""
    concludes = float(number % 2)
    noted = Lesson(
        NOTHING._replace(concludes=concludes, hedges=random.Random(number).random()),
        not concludes,
        1.0,
        source_digest(str(number % 7)),
        by_reference=True,
    )
    return noted_of(noted, tenant=tenant, recorded_id=UUID(int=number), scorer_version="rules-2")


class World:
    """Lessons and snapshots on one broker."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.time = START

    def clock(self) -> datetime:
        return self.time

    @asynccontextmanager
    async def teaching(self) -> AsyncIterator[MemoryBus]:
        async with MemoryBus(self.broker, reader="assessor-lessons") as bus:
            classroom = Classroom(bus, Weights(), snapshot_every=40, effective_after=AFTER, clock=self.clock)
            serving = asyncio.create_task(bus.serve(LESSON_NOTED, classroom.learn, concurrency=4, on_revoked=classroom.forget))
            try:
                yield bus
            finally:
                async with asyncio.timeout(20):
                    await bus.stop()
                    await serving

    async def note(self, bus: MemoryBus, *lessons: LessonNoted, event_id: str | None = None) -> None:
        for each in lessons:
            await bus.publish(LESSON_NOTED, each, bus.begin(LESSON_NOTED, each, event_id=event_id or str(uuid4())))

    def taught(self) -> list[ScorerTaught]:
        return [ScorerTaught.model_validate_json(record.value or b"") for record in self.broker.records(SCORER_TAUGHT.name)]

    async def has_taught(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.taught()) < count:
                await asyncio.sleep(0.01)


def played(scenario: Callable[[World], Awaitable[None]]) -> World:
    world = World()

    async def play() -> None:
        await scenario(world)

    asyncio.run(play())
    return world


def test_snapshots_come_soon_at_first_and_hold_what_was_learned() -> None:
    async def scenario(world: World) -> None:
        async with world.teaching() as bus:
            await world.note(bus, *map(lesson, range(160)))
            await world.has_taught(5)

    taught = played(scenario).taught()
    assert [each.number for each in taught] == [1, 2, 3, 4, 5]
    assert [each.lessons for each in taught] == [20, 40, 80, 120, 160]
    assert [each.to_offset for each in taught] == [19, 39, 79, 119, 159]
    assert taught[-1].corrections["concludes"] < -0.5
    assert taught[-1].combiner == snapshot_of(taught[-1]).version
    assert taught[-1].reliability_lessons == 160


def test_the_snapshots_are_those_of_a_teacher_who_was_never_interrupted() -> None:
    async def scenario(world: World) -> None:
        async with world.teaching() as bus:
            await world.note(bus, *map(lesson, range(30)))
            await world.has_taught(1)
        async with world.teaching() as bus:  # ten lessons behind the snapshot
            await world.note(bus, *map(lesson, range(30, 80)))
            await world.has_taught(3)

    taught = played(scenario).taught()
    teacher = Teacher(Weights())
    for number in range(80):
        teacher.learn(lesson_from(lesson(number)))
    assert [each.number for each in taught] == [1, 2, 3]
    assert taught[-1].exact == pytest.approx(teacher.corrections, abs=1e-4)
    assert taught[-1].taught == teacher.taught


def test_a_lesson_that_is_said_twice_is_learned_once() -> None:
    async def scenario(world: World) -> None:
        async with world.teaching() as bus:
            for number in range(20):
                for _ in range(2):
                    await world.note(bus, lesson(number), event_id=f"lesson-{number}")
            await world.has_taught(1)

    (taught,) = played(scenario).taught()
    assert (taught.lessons, taught.to_offset) == (20, 38)


def test_tenants_are_taught_apart() -> None:
    async def scenario(world: World) -> None:
        async with world.teaching() as bus:
            for number in range(40):
                await world.note(bus, lesson(number, tenant="one" if number % 4 < 2 else "other"))
            await world.has_taught(2)

    assert {(each.tenant, each.number, each.lessons) for each in played(scenario).taught()} == {("one", 1, 20), ("other", 1, 20)}


def test_of_two_snapshots_of_one_number_the_first_counts_and_a_pin_holds_one() -> None:
    async def scenario(world: World) -> None:
        async with world.teaching() as bus:
            await world.note(bus, *map(lesson, range(80)))
            await world.has_taught(3)

    first, second, third = played(scenario).taught()
    rival = second.model_copy(update={"corrections": {"concludes": 3.0}, "combiner": "2-rival"})
    for pins, expected in (({}, third), ({"default": 2}, second), ({"default": 0}, None), ({"other": 2}, third)):
        scorers = scorers_of(pins)
        for each in (third, first, second, rival, third):  # the first of these extends no chain
            scorers.take(each)
        scorers.caught_up(START + AFTER)
        assert scorers.combiner_of("default", START + AFTER).version == (expected.combiner if expected else "0")
        assert scorers.combiner_of("nobody", START + AFTER).version == "0"


def test_what_occurred_is_judged_by_the_snapshot_in_effect_then_however_much_was_learned_since() -> None:
    async def scenario(world: World) -> None:
        async with world.teaching() as bus:
            for number, (lessons, hours) in enumerate((((0, 20), 0), ((20, 40), 1), ((40, 80), -1)), 1):  # at last a clock set back
                world.time = START + timedelta(hours=hours)
                await world.note(bus, *map(lesson, range(*lessons)))
                await world.has_taught(number)

    first, second, third = played(scenario).taught()
    assert (first.effective_at, second.effective_at) == (START + AFTER, START + AFTER + timedelta(hours=1))
    assert third.effective_at == second.effective_at, "a chain does not go back"
    scorers = scorers_of({})
    scorers.caught_up(START + timedelta(days=1))

    def versions() -> list[str]:
        times = (START, START + AFTER - SECOND, START + AFTER, START + timedelta(hours=1), START + timedelta(hours=2))
        return [scorers.combiner_of("default", time).version for time in times]

    scorers.take(first)
    assert versions() == ["0", "0", first.combiner, first.combiner, first.combiner]
    scorers.take(second)
    scorers.take(third)
    assert versions() == ["0", "0", first.combiner, first.combiner, third.combiner]


def test_nobody_judges_before_the_chains_are_read_far_enough() -> None:
    scorers = scorers_of({"pinned": 0})
    assert scorers.combiner_of("pinned", START).version == "0", "there is nothing to wait for"
    with pytest.raises(Unavailable, match="not read yet"):
        scorers.combiner_of("default", START)
    scorers.caught_up(START - AFTER / 2 - SECOND)
    with pytest.raises(Unavailable):
        scorers.combiner_of("default", START)
    scorers.caught_up(START - AFTER / 2)
    assert scorers.combiner_of("default", START).version == "0"
    with pytest.raises(Unavailable):
        scorers.combiner_of("default", START + SECOND)
    scorers.caught_up(START + timedelta(days=1) - AFTER / 2)
    assert scorers.combiner_of("default", START + timedelta(days=9)).version == "0", "whose clock is ahead is not waited for"


def scorers_of(pins: dict[str, int]) -> Scorers:
    bus = MemoryBus(MemoryBroker(), reader="tests")
    return Scorers(bus, Weights(), pins=pins, effective_after=AFTER, clock=lambda: START + timedelta(days=1))


def test_what_an_old_scorer_learned_goes_on_under_new_signals() -> None:
    old = Teacher(Weights())
    for number in range(40):
        old.learn(lesson_from(lesson(number)))
    at = NAMES.index("concludes")
    names = ["no longer a signal", "concludes"]
    from ruminate.assessor.learning.teacher import packed

    covariance = [[0.5, 0.0, 0.0], [0.0, old.covariance[at][at], 0.0], [0.0, 0.0, old.covariance[-1][-1]]]
    new = Teacher.going_on(
        Weights(),
        number=3,
        lessons=40,
        names=names,
        corrections=[9.0, old.corrections[at], old.corrections[-1]],
        covariance=packed(covariance),
        taught={},
    )
    assert new.corrections[at] == old.corrections[at]
    assert new.corrections[-1] == old.corrections[-1]
    assert new.covariance[at][at] == pytest.approx(old.covariance[at][at], rel=1e-6)
    assert new.corrections[NAMES.index("hedges")] == 0.0
    with pytest.raises(ValueError, match="bytes"):
        Teacher.going_on(Weights(), number=1, lessons=1, names=names, corrections=[0, 0, 0], covariance="AAAA", taught={})


def test_an_interaction_whose_worth_is_known_teaches_and_its_verdict_names_the_snapshot() -> None:
    async def scenario(world: World) -> None:
        policy = Policy()
        async with (
            MemoryBus(world.broker, reader="assessor") as bus,
            Scorers(bus, policy.weights, pins={}, effective_after=AFTER) as scorers,
            world.teaching() as lessons,
        ):
            scorer = Scorer(policy, policy.version, scorers.combiner_of)
            serving = asyncio.create_task(bus.serve(INTERACTION_RECORDED, partial(assess_one, scorer=scorer)))

            async def record(name: int, reference: str | None) -> None:
                occurred_at = START + AFTER - SECOND if name < 3 else START + AFTER
                each = interaction("How many is 3 + 4?", "It is 3 + 4 = 7.", "7", reference).model_copy(
                    update={"recorded_id": UUID(int=name), "interaction_id": str(name), "occurred_at": occurred_at}
                )
                await bus.publish(INTERACTION_RECORDED, each, bus.begin(INTERACTION_RECORDED, each, event_id=str(each.recorded_id)))

            await record(1, "7")
            await record(2, None)  # nobody knows: no lesson
            await world.note(lessons, *map(lesson, range(19)))
            await world.has_taught(1)
            async with asyncio.timeout(20):
                while scorers.combiner_of("default", START + AFTER).version == "0":
                    await asyncio.sleep(0.01)
                await record(3, None)
                while len(world.broker.records(REASONING_ASSESSED.name)) < 3:
                    await asyncio.sleep(0.01)
                await bus.stop()
                await serving

    world = played(scenario)
    noted = [LessonNoted.model_validate_json(record.value or b"") for record in world.broker.records(LESSON_NOTED.name)]
    ours = [each for each in noted if each.recorded_id in (UUID(int=1), UUID(int=2)) and "mode_appropriateness" in each.signals]
    assert [(each.recorded_id, each.good, each.by_reference) for each in ours] == [(UUID(int=1), True, True)]
    verdicts = {
        assessed.interaction.interaction_id: assessed.verdict
        for record in world.broker.records(REASONING_ASSESSED.name)
        for assessed in [ReasoningAssessed.model_validate_json(record.value or b"")]
    }
    (taught,) = world.taught()
    assert verdicts["1"].combiner == "0"
    assert verdicts["3"].combiner == taught.combiner
    again = Combiner(Weights(), snapshot_of(taught))
    assert again.version == taught.combiner


class BusThatBreaks(MemoryBus):
    """Fails at reading as no broker does: a fault of ours."""

    def read(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("a fault of ours")


def test_a_fault_in_what_follows_the_chains_ends_the_judging_and_keeps_nobody_waiting() -> None:
    async def scenario() -> None:
        async with (
            BusThatBreaks(MemoryBroker(), reader="assessor-lessons") as bus,
            Scorers(bus, Weights(), pins={}, effective_after=AFTER) as scorers,
        ):
            await asyncio.sleep(0)  # the follower begins, and fails
            with pytest.raises(RuntimeError, match="a fault of ours"):
                scorers.combiner_of("default", START)

    asyncio.run(scenario())
