"""Feedback becomes evidence, and evidence judges an interaction again: soon, late, too early, twice, and after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from ruminate.assessor.evidence.casebook import MOST_EVIDENCE, Casebook, CasebookWindow
from ruminate.assessor.handle import Scorer
from ruminate.assessor.judging.decide import untaught
from ruminate.assessor.policy import Policy
from ruminate.assessor.reassess import UNKNOWN_INTERACTION, erase_evidence, reassess
from ruminate.collector.feedback import record_feedback
from ruminate.collector.intake import Intake, Sender
from ruminate.collector.privacy.policy import PrivacySettings
from ruminate.collector.privacy.redaction import Privacy
from ruminate.collector.settings import CollectorSettings
from ruminate.collector.window import Window
from ruminate.command.audit.facts import assessed_id
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.envelope import derive_event_id
from ruminate.schemas.erasure import ErasureRequested, Erasures
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.feedback import FeedbackGiven
from ruminate.schemas.flow import EVIDENCE_RECORDED, FEEDBACK_GIVEN, INTERACTION_RECORDED, REASONING_ASSESSED
from ruminate.schemas.interaction import InteractionRecorded
from ruminate.shared.dead_letters import DeadLetter
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.shares import Outgoing
from tests.solutions import interaction

POLICY = Policy()
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
QUESTION = "Ann has 3 apples and buys 4 more apples. How many apples does Ann have now?"
THINKING = "Ann has 3 apples and buys 4, so she has 3 + 4 = 7 apples."


def named(name: str, *, answer: str = "7") -> InteractionRecorded:
    recorded_id = derive_event_id(tenant="default", cause_source="/agents/tester", cause_id=name, topic=INTERACTION_RECORDED.name)
    changed = {
        "interaction_id": name,
        "conversation_id": "c-1",
        "recorded_id": recorded_id,
        "source": "/agents/tester",
        "training_allowed": True,
    }
    return interaction(QUESTION, THINKING, answer).model_copy(update=changed)


def feedback(name: str, **said: Any) -> FeedbackGiven:
    return FeedbackGiven(
        interaction_id=name,
        interaction_source="/agents/tester",
        conversation_id="c-1",
        given_by=said.pop("given_by", "anna"),
        given_at=WHEN,
        **said,
    )


class World:
    """Collector and assessor, as far as feedback goes, on one broker."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.erasures = Erasures()

    @asynccontextmanager
    async def running(
        self, *, most_interactions: int = 120_000, early_seconds: float = 5.0, judging: MemoryBus | None = None
    ) -> AsyncIterator[MemoryBus]:
        window = CasebookWindow(interactions=most_interactions, interaction_bytes=10, evidence=1_200)
        scorer = Scorer(POLICY, POLICY.version, lambda *_: untaught(POLICY))
        async with (
            MemoryBus(self.broker, reader="collector-feedback") as taking,
            judging or MemoryBus(self.broker, reader="assessor-evidence") as judging,
            Casebook(judging, window) as casebook,
        ):
            again = partial(
                reassess,
                casebook=casebook,
                scorer=scorer,
                early_seconds=early_seconds,
                erasures=self.erasures,
                erase=partial(erase_evidence, bus=judging),
            )
            tasks = [
                asyncio.create_task(taking.serve(FEEDBACK_GIVEN, partial(record_feedback, privacy=Privacy(PrivacySettings())))),
                asyncio.create_task(judging.serve(EVIDENCE_RECORDED, again, on_assigned=casebook.open, on_revoked=casebook.forget)),
            ]
            try:
                yield judging
            finally:
                async with asyncio.timeout(20):
                    await asyncio.gather(taking.stop(), judging.stop())
                    await asyncio.gather(*tasks)

    async def record(self, bus: MemoryBus, each: InteractionRecorded) -> None:
        envelope = bus.begin(INTERACTION_RECORDED, each, event_id=str(each.recorded_id), source="/ruminate/collector")
        await bus.publish(INTERACTION_RECORDED, each, envelope)

    async def say(self, bus: MemoryBus, said: FeedbackGiven, *, event_id: str | None = None) -> None:
        await bus.publish(FEEDBACK_GIVEN, said, bus.begin(FEEDBACK_GIVEN, said, event_id=event_id, source="/agents/anna"))

    def judged(self) -> list[ReasoningAssessed]:
        return [
            ReasoningAssessed.model_validate_json(record.value or b"") for record in self.broker.records(REASONING_ASSESSED.name)
        ]

    def letters(self) -> list[str]:
        records = self.broker.records(EVIDENCE_RECORDED.dead_letters("assessor-evidence").name)
        return [DeadLetter.from_headers(record.headers).reason for record in records]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def played(scenario: Callable[[World], Awaitable[None]]) -> World:
    world = World()

    async def play() -> None:
        await scenario(world)

    asyncio.run(play())
    return world


def test_feedback_judges_the_interaction_again_under_an_id_of_its_own() -> None:
    async def scenario(world: World) -> None:
        async with world.running() as bus:
            await world.record(bus, named("i-1"))
            await world.say(bus, feedback("i-1", thumb="down", correction="8"))
            await until(world.judged)

    world = played(scenario)
    (assessed,) = world.judged()
    assert assessed.recorded_id == named("i-1").recorded_id
    assert assessed.interaction == named("i-1")
    assert assessed.revision == 1
    assert assessed.verdict.decision == "reject"
    assert "corrected" in {reason.partition(":")[0] for reason in assessed.verdict.reasons}
    (evidence,) = assessed.evidence
    assert (evidence.said_by, evidence.thumb, evidence.correction) == ("anna", "down", "8")
    (record,) = world.broker.records(REASONING_ASSESSED.name)
    found = UUID(dict(record.headers)["ce_id"].decode())
    assert found.bytes == assessed_id("default", named("i-1").recorded_id, 1)
    assert dict(record.headers)["ce_causationid"].decode() == str(named("i-1").recorded_id)


def test_each_further_word_is_a_revision_with_all_that_was_said_before() -> None:
    async def scenario(world: World) -> None:
        async with world.running() as bus:
            await world.record(bus, named("i-1"))
            await world.say(bus, feedback("i-1", thumb="up"))
            await world.say(bus, feedback("i-1", outcome="failed", given_by="bert"))
            await until(lambda: len(world.judged()) == 2)

    first, second = played(scenario).judged()
    assert (first.revision, second.revision) == (1, 2)
    assert [len(first.evidence), len(second.evidence)] == [1, 2]
    assert first.verdict.overall.value is not None
    assert second.verdict.overall.value is not None
    assert second.verdict.overall.value < first.verdict.overall.value


def test_a_word_after_hundreds_costs_no_more_than_one_after_fifty_and_is_weighed_with_the_latest() -> None:
    reads = 0

    class Counted(MemoryBus):
        def records(self, topic: Any, **kwargs: Any) -> Any:
            nonlocal reads
            reads += topic is EVIDENCE_RECORDED
            return super().records(topic, **kwargs)

    async def scenario(world: World) -> None:
        async with world.running(judging=Counted(world.broker, reader="assessor-evidence")) as bus:
            await world.record(bus, named("i-1"))
            for number in range(130):
                await world.say(bus, feedback("i-1", thumb="up", given_by=f"somebody-{number}"))
            await until(lambda: len(world.judged()) == 130)
            before = reads
            await world.say(bus, feedback("i-1", thumb="down", given_by="bernd"))
            await until(lambda: len(world.judged()) == 131)
            assert reads - before < 2 * MOST_EVIDENCE

    weighed = played(scenario).judged()[-1].evidence
    assert len(weighed) == MOST_EVIDENCE
    assert weighed[-1].thumb == "down"
    assert len({each.said_by for each in weighed}) == MOST_EVIDENCE


def test_the_same_word_twice_is_one_piece_of_evidence() -> None:
    async def scenario(world: World) -> None:
        async with world.running() as bus:
            await world.record(bus, named("i-1"))
            for _ in range(2):
                await world.say(bus, feedback("i-1", thumb="down"), event_id="f-1")
            await until(lambda: len(world.judged()) == 2)

    first, second = played(scenario).judged()
    assert len(first.evidence) == len(second.evidence) == 1
    assert first.verdict == second.verdict


def test_feedback_may_come_before_its_interaction() -> None:
    async def scenario(world: World) -> None:
        async with world.running() as bus:
            await world.say(bus, feedback("i-1", thumb="up"))
            await until(lambda: world.broker.records(EVIDENCE_RECORDED.name))
            await world.record(bus, named("i-1"))
            await until(world.judged)

    world = played(scenario)
    assert len(world.judged()) == 1
    assert not world.letters()


def test_late_feedback_about_what_the_window_holds_no_more_still_counts() -> None:
    async def scenario(world: World) -> None:
        async with world.running(most_interactions=12, early_seconds=0.0) as bus:  # one a partition
            for number in range(5):
                await world.record(bus, named(f"i-{number}"))
            await world.say(bus, feedback("i-0", thumb="down"))
            await until(world.judged)

    (assessed,) = played(scenario).judged()
    assert assessed.interaction.interaction_id == "i-0"


def test_feedback_about_what_was_never_recorded_becomes_a_dead_letter() -> None:
    async def scenario(world: World) -> None:
        async with world.running(early_seconds=0.0) as bus:
            await world.say(bus, feedback("i-1", thumb="down"))
            await until(world.letters)

    world = played(scenario)
    assert world.letters() == [UNKNOWN_INTERACTION]
    assert not world.judged()


async def settled(world: World, evidence: int) -> None:
    """So much evidence is read, whatever came of it."""
    await until(
        lambda: (
            sum(each.offset for each in world.broker.committed("assessor-evidence", EVIDENCE_RECORDED.name).values()) >= evidence
        )
    )


@pytest.mark.parametrize("most_interactions", [120_000, 12])
def test_feedback_about_an_interaction_that_has_a_tombstone_is_settled_and_is_no_dead_letter(most_interactions: int) -> None:
    async def scenario(world: World) -> None:
        async with world.running(early_seconds=0.0, most_interactions=most_interactions) as bus:
            each = named("i-1")
            await world.record(bus, each)
            place = bus.partition_of(INTERACTION_RECORDED, each.conversation_id)
            await bus.write([Outgoing(INTERACTION_RECORDED.name, place, str(each.recorded_id).encode(), None, [])])
            for number in range(2, 6):  # so that a small window has forgotten both
                await world.record(bus, named(f"i-{number}"))
            await world.say(bus, feedback("i-1", thumb="down", comment="late"))
            await settled(world, 1)

    world = played(scenario)
    said, gone = world.broker.records(EVIDENCE_RECORDED.name)
    assert (said.key, gone.key, gone.value) == (gone.key, said.key, None), "what was said late is erased with it"
    assert world.letters() == []
    assert not world.judged()


def test_what_an_erasure_covers_is_judged_no_more_before_its_tombstone_is_there() -> None:
    async def scenario(world: World) -> None:
        asked = ErasureRequested(scope="agent", subject="tester", requested_by="ada", requested_at=WHEN + timedelta(days=400))
        world.erasures.take("e-1", asked)
        async with world.running() as bus:
            await world.record(bus, named("i-1"))
            await world.record(bus, named("i-2").model_copy(update={"agent": "another"}))
            await world.say(bus, feedback("i-1", thumb="down"))
            await world.say(bus, feedback("i-2", thumb="down"))
            await settled(world, 2)
            await until(world.judged)

    world = played(scenario)
    assert [assessed.interaction.interaction_id for assessed in world.judged()] == ["i-2"]
    assert world.letters() == []


def test_after_a_restart_what_was_said_before_still_counts() -> None:
    async def scenario(world: World) -> None:
        async with world.running() as bus:
            await world.record(bus, named("i-1"))
            await world.say(bus, feedback("i-1", thumb="up"))
            await until(world.judged)
        async with world.running() as bus:
            await world.say(bus, feedback("i-1", thumb="down", given_by="bert"))
            await until(lambda: len(world.judged()) == 2)

    assert [len(assessed.evidence) for assessed in played(scenario).judged()] == [1, 2]


def test_a_correction_that_repeats_the_answer_confirms_it() -> None:
    async def scenario(world: World) -> None:
        async with world.running() as bus:
            await world.record(bus, named("i-1"))
            await world.say(bus, feedback("i-1", correction="It is 7."))
            await until(world.judged)

    (assessed,) = played(scenario).judged()
    assert assessed.verdict.decision == "keep"


def test_feedback_that_says_nothing_is_a_dead_letter() -> None:
    async def scenario(world: World) -> None:
        async with world.running() as bus:
            await world.say(bus, feedback("i-1"))
            letters = FEEDBACK_GIVEN.dead_letters("collector-feedback").name
            await until(lambda: world.broker.records(letters))

    assert not played(scenario).judged()


def test_posted_feedback_is_published_under_an_id_that_the_same_words_have_again() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="collector") as bus:
            settings = CollectorSettings()
            intake = Intake(bus, Window(most=10), settings)
            body = feedback("i-1", thumb="up").model_dump_json().encode()
            answers = [await intake.take_feedback(body, Sender()) for _ in range(2)]
            refused = await intake.take_feedback(feedback("i-1").model_dump_json().encode(), Sender())
            garbage = await intake.take_feedback(b"{", Sender())
        assert [answer.status for answer in answers] == ["taken", "taken"]
        assert answers[0].feedback_id == answers[1].feedback_id
        assert (refused.status, refused.reason) == ("invalid", "says_nothing")
        assert garbage.status == "invalid"
        records = broker.records(FEEDBACK_GIVEN.name)
        assert len({dict(record.headers)["ce_id"] for record in records}) == 1
        assert dict(records[0].headers)["ce_source"] == b"/agents/anna"

    asyncio.run(scenario())


def test_evidence_is_what_the_schema_says() -> None:
    async def scenario(world: World) -> None:
        async with world.running() as bus:
            await world.record(bus, named("i-1"))
            await world.say(bus, feedback("i-1", comment="Cafe\u0301", score=0.25))
            await until(world.judged)

    world = played(scenario)
    (record,) = world.broker.records(EVIDENCE_RECORDED.name)
    evidence = EvidenceRecorded.model_validate_json(record.value or b"")
    assert (evidence.comment, evidence.score, evidence.normalised) == ("Café", 0.25, ("nfc",))


def test_what_is_personal_in_feedback_is_a_placeholder_in_the_evidence() -> None:
    async def scenario(world: World) -> None:
        async with world.running() as bus:
            await world.record(bus, named("i-1"))
            await world.say(
                bus, feedback("i-1", comment="Ask jane.doe@acme-mail.com", correction="Her card is 4111 1111 1111 1111.")
            )
            await until(world.judged)

    world = played(scenario)
    (record,) = world.broker.records(EVIDENCE_RECORDED.name)
    evidence = EvidenceRecorded.model_validate_json(record.value or b"")
    assert evidence.comment == "Ask [EMAIL_1]"
    assert evidence.correction == "Her card is [CARD_1]."
    assert evidence.normalised == ("redacted:card", "redacted:email")


class BusThatBreaks(MemoryBus):
    """Fails at reading as no broker does: a fault of ours."""

    def records(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("a fault of ours")


def test_a_fault_in_what_follows_the_log_ends_the_judging_and_keeps_nobody_waiting() -> None:
    async def scenario() -> None:
        async with (
            BusThatBreaks(MemoryBroker(), reader="assessor-evidence") as bus,
            Casebook(bus, CasebookWindow(1_200, 10, 1_200)) as casebook,
        ):
            await casebook.open(frozenset({0}))
            async with asyncio.timeout(20):
                with pytest.raises(RuntimeError, match="a fault of ours"):
                    await casebook.interaction(0, UUID(int=1), look_far=False)

    asyncio.run(scenario())
