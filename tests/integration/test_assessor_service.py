"""The assessor over the memory bus and as a process on the embedded broker: one recorded interaction in, one verdict out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pytest
from pydantic import ValidationError

from ruminate.assessor.handle import Scorer, assess_one
from ruminate.assessor.judging.decide import SCORER_VERSION, untaught
from ruminate.assessor.policy import Policy
from ruminate.assessor.settings import AssessorSettings
from ruminate.embedded.broker import embedded_broker
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.flow import INTERACTION_RECORDED, REASONING_ASSESSED
from ruminate.schemas.interaction import InteractionRecorded, Message, Response, Thinking
from ruminate.shared.bus import Bus
from ruminate.shared.decoding import encode
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.partitioning import partition_of
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.shares import Outgoing
from ruminate.shared.topics import ensure_topics

DEADLINE_SECONDS = 30.0
NAMESPACE = UUID(int=7)


SCORER = Scorer(Policy(), "policy-1", lambda *_: untaught(Policy()))


def recorded(name: str, *, answer: str = "Amber Bay", **changed: Any) -> InteractionRecorded:
    fields: dict[str, Any] = {
        "interaction_id": name,
        "conversation_id": f"c-{name}",
        "agent": "tester",
        "target_model": "qwen3",
        "occurred_at": datetime(2026, 1, 1, tzinfo=UTC),
        "messages": (Message(role="user", content="What is the capital of Zarvex?"),),
        "response": Response(content=answer, thinking="I recall Zarvex. Its capital is Amber Bay."),
        "thinking": Thinking(mode_used="thinking"),
        "reference_answer": "Amber Bay",
        "outcome": "succeeded",
        "training_allowed": True,
        "source": "/tests",
        "recorded_id": uuid5(NAMESPACE, name),
    } | changed
    return InteractionRecorded(**fields)


async def publish(bus: Bus, *interactions: InteractionRecorded) -> None:
    for interaction in interactions:
        envelope = bus.begin(INTERACTION_RECORDED, interaction, event_id=str(interaction.recorded_id), source="/ruminate/collector")
        await bus.publish(INTERACTION_RECORDED, interaction, envelope)


async def assessed(bus: Bus, count: int) -> dict[str, ReasoningAssessed]:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            found = [delivery.payload async for delivery in bus.read(REASONING_ASSESSED)]
            if len(found) >= count:
                return {payload.interaction.interaction_id: payload for payload in found}
            await asyncio.sleep(0.05)


@contextmanager
def running(settings: ServiceSettings, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """The service as a process of its own."""
    environment = os.environ | {
        "RUMINATE_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "RUMINATE_KAFKA_PROFILE": settings.kafka_profile,
        "RUMINATE_STATE_DIR": str(settings.state_dir),
    }
    process = subprocess.Popen([sys.executable, "-m", "ruminate.assessor"], env=environment | more)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_every_recorded_interaction_gets_one_verdict_that_carries_it() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        good, wrong = recorded("good", tenant="acme"), recorded("wrong", answer="North Ridge")
        async with MemoryBus(broker, reader="assessor") as bus:
            await publish(bus, good, wrong, good)
            serving = asyncio.create_task(
                bus.serve(
                    INTERACTION_RECORDED,
                    partial(assess_one, scorer=SCORER),
                    concurrency=4,
                )
            )
            found = await assessed(bus, 3)
            await bus.stop()
            await serving
        assert found["good"].verdict.decision == "keep"
        assert found["wrong"].verdict.decision == "reject"
        assert found["wrong"].verdict.reasons[0].startswith("wrong_answer: ")
        assert found["good"].interaction == good
        assert (found["good"].tenant, found["good"].target_model) == ("acme", "qwen3")
        assert found["good"].recorded_id == good.recorded_id
        assert (found["good"].policy_version, found["good"].scorer_version) == ("policy-1", SCORER_VERSION)
        ids = [dict(record.headers)["ce_id"] for record in broker.records(REASONING_ASSESSED.name)]
        assert len(ids) == 3
        assert len(set(ids)) == 2  # what is delivered again is told again under the same id

    asyncio.run(scenario())


def test_the_interaction_is_passed_on_as_it_was_recorded_with_what_this_assessor_does_not_know() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        interaction = recorded("newer")
        async with MemoryBus(broker, reader="assessor") as bus:
            value = encode(interaction)[:-1] + b', "mood": ["calm", 1.50]}'
            envelope = bus.begin(INTERACTION_RECORDED, interaction, event_id=str(interaction.recorded_id))
            place = partition_of(INTERACTION_RECORDED.order_of(interaction), INTERACTION_RECORDED.partitions)
            await bus.write([Outgoing(INTERACTION_RECORDED.name, place, b"key", value, envelope.to_headers())])
            serving = asyncio.create_task(bus.serve(INTERACTION_RECORDED, partial(assess_one, scorer=SCORER)))
            found = await assessed(bus, 1)
            await bus.stop()
            await serving
        assert found["newer"].interaction == interaction
        (record,) = broker.records(REASONING_ASSESSED.name)
        assert record.value is not None and record.value.endswith(b',"interaction":' + value + b"}")

    asyncio.run(scenario())


def test_the_service_assesses_what_is_recorded_by_the_policy_of_its_settings_and_stops_on_sigterm(tmp_path: Path) -> None:
    async def scenario(bootstrap: str) -> None:
        settings = ServiceSettings(kafka_bootstrap=bootstrap, kafka_profile="embedded", state_dir=tmp_path)
        await ensure_topics(settings)
        with running(settings, RUMINATE_ASSESSMENT__KEEP_EVIDENCE_AT_LEAST="0.9") as process:
            async with KafkaBus(settings, reader="tests") as bus:
                await publish(bus, *(recorded(f"i-{number}") for number in range(20)))
                found = await assessed(bus, 20)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=DEADLINE_SECONDS) == 0
        assert len(found) == 20
        assert {payload.policy_version for payload in found.values()} == {Policy(keep_evidence_at_least=0.9).version}
        assert {payload.verdict.decision for payload in found.values()} == {"reject"}

    with embedded_broker() as broker:
        asyncio.run(scenario(broker.bootstrap))


def test_the_policy_is_read_whole_or_by_value_and_refused_where_it_makes_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUMINATE_ASSESSMENT", json.dumps({"keep_overall_at_least": 0.7}))
    monkeypatch.setenv("RUMINATE_ASSESSMENT__WEIGHTS__ANSWER_QUALITY", "1.5")
    policy = AssessorSettings().assessment
    assert (policy.keep_overall_at_least, policy.weights.answer_quality) == (0.7, 1.5)
    monkeypatch.setenv("RUMINATE_ASSESSMENT__KEEP_OVERALL_AT_LEAST", "7")
    with pytest.raises(ValidationError, match="keep_overall_at_least"):
        AssessorSettings()
