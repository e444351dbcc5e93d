"""An audit of what runs: services under load are killed and started again, and whenever it looks there is no fault."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka import AIOKafkaProducer

from infra.real.kafka import KafkaCluster
from ruminate.command.audit.findings import Report
from ruminate.command.audit.gather import audit
from ruminate.command.audit.snapshot import CouldNotJudge
from ruminate.embedded.broker import embedded_broker
from ruminate.schemas.envelope import Envelope, derive_event_id
from ruminate.schemas.flow import (
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    REASONING_ASSESSED,
)
from ruminate.schemas.interaction import InteractionCompleted, InteractionRecorded, Message, Response
from ruminate.shared.decoding import now
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics
from tests.unit.audit_history import exchange
from tests.unit.making import question

SERVICES: Final = ("collector", "assessor", "accumulator")
DEADLINE_SECONDS: Final = 60.0
ROWS_A_BATCH: Final = 100
SOURCE: Final = "/agents/tester"


@dataclass
class Running:
    """Services as processes of their own, over one broker and one store."""

    settings: ServiceSettings
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        settings = self.settings
        return os.environ | {
            "RUMINATE_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
            "RUMINATE_KAFKA_PROFILE": settings.kafka_profile,
            "RUMINATE_STATE_DIR": str(settings.state_dir),
            "RUMINATE_STORE_URI": settings.store_uri,
            "RUMINATE_SEAL_AT_ROWS": str(ROWS_A_BATCH),
            "RUMINATE_HOLDOUT_RATIO": "0",
            "RUMINATE_COLLECTOR_PORT": "0",
            "RUMINATE_LOG_LEVEL": "error",
        }

    def start(self, service: str) -> None:
        self.processes[service] = subprocess.Popen([sys.executable, "-m", f"ruminate.{service}"], env=self.environment())

    def kill(self, service: str) -> None:
        self.processes[service].kill()
        self.processes[service].wait()

    def ruminate(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The command, told of broker and store as services are."""
        return subprocess.run(
            [sys.executable, "-m", "ruminate.command", *arguments, "--state", str(self.settings.state_dir / "no-loop-here")],
            env=self.environment() | environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )


@contextmanager
def running(settings: ServiceSettings) -> Iterator[Running]:
    asyncio.run(ensure_topics(settings))
    services = Running(settings)
    try:
        for service in SERVICES:
            services.start(service)
        yield services
    finally:
        for process in services.processes.values():
            process.kill()
            process.wait()


def settings_of(folder: Path, bootstrap: str, profile: str) -> ServiceSettings:
    return ServiceSettings(
        kafka_bootstrap=bootstrap,
        kafka_profile="embedded" if profile == "embedded" else "kafka",
        state_dir=folder,
        store_uri=(folder / "store").as_uri(),
    )


@asynccontextmanager
async def bus_of(settings: ServiceSettings) -> AsyncIterator[KafkaBus]:
    async with KafkaBus(settings, reader="tests") as bus:
        yield bus


def unlike(number: int, **changed: Any) -> InteractionCompleted:
    """An interaction with a question and an answer of its own: of those that are alike a batch keeps few."""
    return exchange(
        f"i-{number}",
        messages=(Message(role="user", content=question(number)),),
        response=Response(content=f"The answer is {number}.", thinking=f"First, 2 + 3 = 5. Therefore the answer is {number}."),
        reference_answer=str(number),
        **changed,
    )


async def send(bus: KafkaBus, interactions: Sequence[InteractionCompleted]) -> None:
    async with asyncio.TaskGroup() as group:
        for each in interactions:
            envelope = bus.begin(INTERACTION_COMPLETED, each, event_id=each.interaction_id, source=SOURCE)
            group.create_task(bus.publish(INTERACTION_COMPLETED, each, envelope))


async def send_garbage(settings: ServiceSettings) -> None:
    """Bytes that are no event, as anybody might write them."""
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, acks="all") as producer:
        await producer.send_and_wait(INTERACTION_COMPLETED.name, b"garbage", partition=3)


async def wait_for(settings: ServiceSettings, recorded: int) -> Report:
    """Audit again and again until everything was recorded and judged; no audit ever finds a fault."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            report = await audit(settings)
            assert report.faults == ()
            done = report.batches > 0 and not report.pending.keys() & {"collector", "assessor"}
            counts = report.topics.get(REASONING_ASSESSED.name)
            if done and counts is not None and counts.records - counts.repeats >= recorded:
                return report


def play(services: Running, *, seed: int, rounds: int, each_round: int) -> Report:
    """A round is a load, a victim at some moment of it, and an audit in the disorder that follows."""
    rng = random.Random(seed)
    settings = services.settings

    async def scenario() -> Report:
        sent: list[InteractionCompleted] = []
        async with bus_of(settings) as bus:
            await send_garbage(settings)
            for number in range(rounds):
                places = range(number * each_round, (number + 1) * each_round)
                fresh = [unlike(place, training_allowed=place % each_round % 7 != 0) for place in places]
                again = rng.sample(sent, min(len(sent), each_round // 10))
                sent += fresh
                sending = asyncio.create_task(send(bus, [*fresh, *again]))
                await asyncio.sleep(rng.uniform(0, 0.5))  # the moment is part of the load, nothing is waited for
                victim = rng.choice(SERVICES)
                services.kill(victim)
                report = await audit(settings)
                assert report.faults == ()
                services.start(victim)
                await sending
        return await wait_for(settings, len(sent))

    return asyncio.run(scenario())


def check(report: Report, *, rounds: int, each_round: int) -> None:
    sent = rounds * each_round
    recorded = report.topics[INTERACTION_RECORDED.name]
    assert recorded.records - recorded.repeats == sent
    assert report.batches >= 1
    assert report.rows >= ROWS_A_BATCH * report.batches
    assert {kind: listed.count for kind, listed in report.apart.items()} == {"standing": 1}


def test_services_that_are_killed_under_load_lose_and_double_nothing(tmp_path: Path) -> None:
    with embedded_broker() as broker, running(settings_of(tmp_path, broker.bootstrap, "embedded")) as services:
        report = play(services, seed=1, rounds=5, each_round=200)
        check(report, rounds=5, each_round=200)


@pytest.mark.real
def test_services_that_are_killed_under_load_on_kafka_lose_and_double_nothing(tmp_path: Path, kafka_of_one: KafkaCluster) -> None:
    with running(settings_of(tmp_path, kafka_of_one.bootstrap, "kafka")) as services:
        report = play(services, seed=2, rounds=8, each_round=500)
        check(report, rounds=8, each_round=500)


def test_the_command_ends_with_0_where_all_is_well_1_on_a_fault_and_2_where_it_cannot_judge(tmp_path: Path) -> None:
    async def forge(settings: ServiceSettings) -> str:
        """Somebody writes a record of an interaction that never was."""
        never = exchange("never-was")
        recorded_id = derive_event_id(
            tenant="default", cause_source=SOURCE, cause_id=never.interaction_id, topic=INTERACTION_RECORDED.name
        )
        payload = InteractionRecorded(**never.__dict__, source=SOURCE, recorded_id=recorded_id)
        envelope = Envelope(
            id=str(recorded_id),
            source="/ruminate/collector",
            type=INTERACTION_RECORDED.event_type,
            time=now(),
            cause=never.interaction_id,
        )
        async with bus_of(settings) as bus:
            await bus.publish(INTERACTION_RECORDED, payload, envelope)
        return str(recorded_id)

    async def fill(settings: ServiceSettings) -> None:
        async with bus_of(settings) as bus:
            await send(bus, [unlike(number) for number in range(ROWS_A_BATCH)])
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not (await audit(settings)).batches:
                pass

    with embedded_broker() as broker:
        settings = settings_of(tmp_path, broker.bootstrap, "embedded")
        with running(settings) as services:
            asyncio.run(fill(settings))
            clean = services.ruminate("audit")
            assert clean.returncode == 0, clean.stderr
            assert "no fault: nothing was lost, nothing doubled" in clean.stdout
            assert f"1 batches, {ROWS_A_BATCH} rows" in clean.stdout

            away = services.ruminate("audit", "--store", str(tmp_path / "nowhere"))
            assert away.returncode == 2
            assert "could not judge: the store" in away.stderr

            forged = asyncio.run(forge(settings))
            fault = services.ruminate("audit")
            assert fault.returncode == 1
            assert "unknown_cause: 1" in fault.stdout
            assert forged in fault.stdout
            found: dict[str, Any] = json.loads(services.ruminate("audit", "--json").stdout)
            assert found["clean"] is False
            assert [each["event_id"] for each in found["faults"]] == [forged]
        nobody = services.ruminate("audit", "--json", RUMINATE_KAFKA_BOOTSTRAP="127.0.0.1:1")
        assert nobody.returncode == 2
        assert json.loads(nobody.stdout)["clean"] is None
        assert "no broker answers" in nobody.stderr


def test_a_broker_without_a_topic_of_the_flow_cannot_be_judged(tmp_path: Path) -> None:
    with embedded_broker() as broker, pytest.raises(CouldNotJudge, match="no topic of the flow exists"):
        asyncio.run(audit(settings_of(tmp_path, broker.bootstrap, "embedded")))
