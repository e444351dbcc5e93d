"""What is erased is not recorded again, however late it comes: not as an interaction, not as feedback, not as a dead letter."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from prometheus_client import REGISTRY

from ruminate.collector.feedback import record_feedback
from ruminate.collector.privacy.redaction import Privacy
from ruminate.collector.recorder import Recorder
from ruminate.collector.settings import CollectorSettings
from ruminate.collector.window import Window
from ruminate.schemas.erasure import ErasureRequested, Erasures
from ruminate.schemas.flow import EVIDENCE_RECORDED, FEEDBACK_GIVEN, INTERACTION_COMPLETED, INTERACTION_RECORDED
from ruminate.schemas.topic import Topic
from ruminate.shared.memory import MemoryBroker, MemoryBus
from tests.contract.bench import until
from tests.integration.erasing import BYSTANDERS, MARKER, lead_through, others, planted, request

RAW: tuple[Topic[Any], ...] = (INTERACTION_COMPLETED, FEEDBACK_GIVEN)
DEAD_LETTERS = (INTERACTION_COMPLETED.dead_letters("collector"), FEEDBACK_GIVEN.dead_letters("collector-feedback"))


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def collected(*requests: ErasureRequested) -> MemoryBroker:
    """What the collector makes of what comes after these requests."""
    raw, broker = MemoryBroker(), MemoryBroker()

    async def scenario() -> None:
        async with MemoryBus(raw, reader="tests") as bus:
            for each, text in zip((planted("i-1"), *others()), (MARKER, *BYSTANDERS), strict=True):
                await lead_through(bus, each, text)
        for topic in RAW:
            for record in raw.records(topic.name):
                broker.append(topic.name, record.value, key=record.key, headers=record.headers, partition=record.partition)
        erasures = Erasures()
        for number, asked in enumerate(requests):
            erasures.take(f"e-{number}", asked)
        settings = CollectorSettings()
        privacy = Privacy(settings.privacy)
        async with MemoryBus(broker, reader="collector") as bus, MemoryBus(broker, reader="collector-feedback") as feedback_bus:
            recorder = Recorder(bus, Window(most=100), settings, privacy, erasures)
            feedback_one = partial(record_feedback, privacy=privacy, erasures=erasures)
            serving = [
                asyncio.create_task(bus.serve(INTERACTION_COMPLETED, recorder.record_one)),
                asyncio.create_task(feedback_bus.serve(FEEDBACK_GIVEN, feedback_one)),
            ]
            for topic, reader in zip(RAW, ("collector", "collector-feedback"), strict=True):
                ends = len(broker.records(topic.name))
                await until(lambda: sum(at.offset for at in broker.committed(reader, topic.name).values()) == ends)  # noqa: B023
            await bus.stop()
            await feedback_bus.stop()
            await asyncio.gather(*serving)

    asyncio.run(scenario())
    return broker


def texts(broker: MemoryBroker, topic: Any) -> list[str]:
    values = [record.value or b"" for record in broker.records(topic.name)]
    return sorted(text for text in (MARKER, *BYSTANDERS) for value in values if text.encode() in value)


def test_without_a_request_everything_is_recorded() -> None:
    broker = collected()
    assert texts(broker, INTERACTION_RECORDED) == texts(broker, EVIDENCE_RECORDED) == sorted((MARKER, *BYSTANDERS))


def test_what_is_erased_is_settled_and_counted_and_everything_else_is_recorded() -> None:
    before = counted("ruminate_interactions_collected_total", outcome="erased"), counted("ruminate_feedback_erased_total")
    broker = collected(request())
    assert texts(broker, INTERACTION_RECORDED) == texts(broker, EVIDENCE_RECORDED) == sorted(BYSTANDERS)
    assert [broker.records(letters.name) for letters in DEAD_LETTERS] == [[], []]
    after = counted("ruminate_interactions_collected_total", outcome="erased"), counted("ruminate_feedback_erased_total")
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)


def test_a_withdrawal_of_consent_keeps_nothing_from_being_recorded() -> None:
    assert texts(collected(request(what="training")), INTERACTION_RECORDED) == sorted((MARKER, *BYSTANDERS))


def test_feedback_about_an_interaction_that_is_erased_by_its_id_is_not_recorded_whenever_it_is_given() -> None:
    long_ago = request(scope="interaction", subject="o-3", requested_at=planted("x").occurred_at)
    broker = collected(long_ago)
    assert texts(broker, EVIDENCE_RECORDED) == sorted((MARKER, *BYSTANDERS[:2]))
    assert texts(broker, INTERACTION_RECORDED) == sorted((MARKER, *BYSTANDERS)), "the interaction itself came later, and is new"


def test_what_is_erased_becomes_no_dead_letter_where_it_is_at_odds_with_itself() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="tests") as bus:
            each = planted("i-1")
            envelope = bus.begin(INTERACTION_COMPLETED, each, event_id="another-id", source="/agents/ledger")
            await bus.publish(INTERACTION_COMPLETED, each, envelope)
        erasures = Erasures()
        erasures.take("e-0", request())
        settings = CollectorSettings()
        async with MemoryBus(broker, reader="collector") as bus:
            recorder = Recorder(bus, Window(most=100), settings, Privacy(settings.privacy), erasures)
            serving = asyncio.create_task(bus.serve(INTERACTION_COMPLETED, recorder.record_one))
            await until(lambda: sum(at.offset for at in broker.committed("collector", INTERACTION_COMPLETED.name).values()) == 1)
            await bus.stop()
            await serving
        assert broker.records(DEAD_LETTERS[0].name) == []

    asyncio.run(scenario())
