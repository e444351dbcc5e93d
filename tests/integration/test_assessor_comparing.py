"""Answers to one question meet, and each hears how many others say the same; a question asked at once again tells of the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from ruminate.assessor.evidence.casebook import Casebook, CasebookWindow
from ruminate.assessor.evidence.comparing import Comparing
from ruminate.assessor.handle import Scorer, assess_one
from ruminate.assessor.judging.decide import untaught
from ruminate.assessor.policy import Policy
from ruminate.assessor.reassess import reassess
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.envelope import derive_event_id
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import ANSWER_NOTED, EVIDENCE_RECORDED, INTERACTION_RECORDED, REASONING_ASSESSED
from ruminate.schemas.interaction import InteractionRecorded, Message
from ruminate.shared.memory import MemoryBroker, MemoryBus
from tests.solutions import interaction

POLICY = Policy()
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
QUESTION = "Ann has 3 apples and buys 4 more apples. How many apples does Ann have now?"


def recorded_id(name: str) -> UUID:
    return derive_event_id(tenant="default", cause_source="/tests", cause_id=name, topic=INTERACTION_RECORDED.name)


def answered(
    name: str, answer: str, *, conversation: str | None = None, after: float = 0.0, thinking: str | None = None
) -> InteractionRecorded:
    changed = {
        "interaction_id": name,
        "conversation_id": conversation or f"c-{name}",
        "recorded_id": recorded_id(name),
        "occurred_at": WHEN + timedelta(seconds=after),
    }
    thought = thinking or f"I take {name} to say that she has {answer} apples."
    return interaction(QUESTION, thought, answer).model_copy(update=changed)


class World:
    """The whole assessor but its lessons, on one broker."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[MemoryBus]:
        scorer = Scorer(POLICY, POLICY.version, lambda *_: untaught(POLICY))
        window = CasebookWindow(interactions=12_000, interaction_bytes=1_000_000, evidence=12_000)
        async with (
            MemoryBus(self.broker, reader="assessor") as first,
            MemoryBus(self.broker, reader="assessor-answers") as answers,
            MemoryBus(self.broker, reader="assessor-evidence") as evidence,
            Casebook(evidence, window) as casebook,
        ):
            comparing = Comparing(answers, most_answers=12_000)
            again = partial(reassess, casebook=casebook, scorer=scorer)
            tasks = [
                asyncio.create_task(first.serve(INTERACTION_RECORDED, partial(assess_one, scorer=scorer))),
                asyncio.create_task(answers.serve(ANSWER_NOTED, comparing.compare, on_revoked=comparing.forget)),
                asyncio.create_task(
                    evidence.serve(EVIDENCE_RECORDED, again, on_assigned=casebook.open, on_revoked=casebook.forget)
                ),
            ]
            try:
                yield first
            finally:
                async with asyncio.timeout(20):
                    await asyncio.gather(first.stop(), answers.stop(), evidence.stop())
                    await asyncio.gather(*tasks)

    async def record(self, bus: MemoryBus, *interactions: InteractionRecorded) -> None:
        for each in interactions:
            envelope = bus.begin(INTERACTION_RECORDED, each, event_id=str(each.recorded_id), source="/ruminate/collector")
            await bus.publish(INTERACTION_RECORDED, each, envelope)
            await self.until(partial(self.is_assessed, each.recorded_id))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)

    def is_assessed(self, name: UUID) -> bool:
        return name in {each.recorded_id for each in self.judged()}

    def evidence(self) -> list[EvidenceRecorded]:
        return [EvidenceRecorded.model_validate_json(record.value or b"") for record in self.broker.records(EVIDENCE_RECORDED.name)]

    def counts(self) -> dict[UUID, tuple[int | None, int | None]]:
        """The latest word to each about the others."""
        return {each.recorded_id: (each.agreeing, each.disagreeing) for each in self.evidence() if each.kind == "agreement"}

    def judged(self) -> list[ReasoningAssessed]:
        return [
            ReasoningAssessed.model_validate_json(record.value or b"") for record in self.broker.records(REASONING_ASSESSED.name)
        ]


def played(scenario: Callable[[World], Awaitable[None]]) -> World:
    world = World()

    async def play() -> None:
        await scenario(world)

    asyncio.run(play())
    return world


def test_each_answer_hears_how_many_others_say_the_same_and_is_judged_again() -> None:
    async def scenario(world: World) -> None:
        async with world.running() as bus:
            await world.record(bus, answered("a", "7"), answered("b", "It is 7."), answered("c", "8"), answered("d", "A: 7"))
            await world.until(lambda: len(world.counts()) == 4 and len(world.judged()) == 4 + len(world.evidence()))

    world = played(scenario)
    assert world.counts() == {
        recorded_id("a"): (2, 1),
        recorded_id("b"): (2, 1),
        recorded_id("c"): (0, 3),
        recorded_id("d"): (2, 1),
    }
    last = {each.interaction.interaction_id: each.verdict for each in sorted(world.judged(), key=lambda each: each.revision)}
    assert last["a"].overall.value is not None
    assert last["c"].overall.value is not None
    assert last["a"].overall.value > last["c"].overall.value


def test_a_question_that_many_ask_costs_a_few_words_each() -> None:
    async def scenario(world: World) -> None:
        async with world.running() as bus:
            await world.record(bus, *(answered(f"i-{number}", "7") for number in range(16)))
            await world.until(lambda: world.counts().get(recorded_id("i-0")) == (15, 0))

    world = played(scenario)
    assert len(world.evidence()) <= 16 * 3


def test_a_copy_is_no_second_opinion() -> None:
    async def scenario(world: World) -> None:
        async with world.running() as bus:
            await world.record(bus, answered("a", "7", thinking="Same."), answered("b", "7", thinking="Same."), answered("c", "7"))
            await world.until(lambda: recorded_id("c") in world.counts())

    assert played(scenario).counts() == {recorded_id("a"): (1, 0), recorded_id("c"): (1, 0)}


def test_the_same_question_again_at_once_speaks_against_the_answer_and_samples_do_not() -> None:
    async def scenario(world: World) -> None:
        async with world.running() as bus:
            await world.record(bus, answered("first", "7", conversation="c"), answered("retry", "7", conversation="c", after=30.0))
            await world.until(lambda: any(each.kind == "asked_again" for each in world.evidence()))
            await world.record(bus, answered("much later", "7", conversation="c", after=3600.0))
            await world.until(lambda: recorded_id("much later") in world.counts())

    asked_again = [each.recorded_id for each in played(scenario).evidence() if each.kind == "asked_again"]
    assert asked_again == [recorded_id("first")]


def test_a_rephrased_question_speaks_against_the_answer_before_it() -> None:
    async def scenario(world: World) -> None:
        async with world.running() as bus:
            await world.record(bus, answered("first", "8", conversation="c"))
            again = (
                Message(role="user", content=QUESTION),
                Message(role="assistant", content="8"),
                Message(role="user", content="How many apples does Ann have now, with 3 apples and 4 more apples that she buys?"),
            )
            later = answered("later", "7", conversation="c", after=9000.0).model_copy(
                update={"messages": again, "continues_interaction": "first"}
            )
            await world.record(bus, later)
            await world.until(lambda: len(world.judged()) == 3)

    world = played(scenario)
    (evidence,) = world.evidence()
    assert (evidence.kind, evidence.recorded_id, evidence.said_by) == ("asked_again", recorded_id("first"), "tester")
    revised = next(each for each in world.judged() if each.revision)
    assert revised.interaction.interaction_id == "first"
    assert "the question was asked again" in revised.verdict.overall.evidence


def test_after_a_restart_the_answers_before_it_still_count() -> None:
    async def scenario(world: World) -> None:
        async with world.running() as bus:
            await world.record(bus, answered("a", "7"), answered("b", "7"))
            await world.until(lambda: len(world.counts()) == 2)
        async with world.running() as bus:
            await world.record(bus, answered("c", "7"))
            await world.until(lambda: world.counts().get(recorded_id("c")) == (2, 0))

    played(scenario)
