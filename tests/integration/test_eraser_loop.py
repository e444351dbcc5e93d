"""Erasure beside the services as they run: what they had read, what comes late, what was given up, what the audit says of it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ruminate.command.audit.gather import audit
from ruminate.embedded.broker import embedded_broker
from ruminate.schemas.feedback import FeedbackGiven
from ruminate.schemas.flow import (
    ERASURE_REQUESTED,
    EVIDENCE_RECORDED,
    FEEDBACK_GIVEN,
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    REASONING_ASSESSED,
)
from ruminate.schemas.interaction import InteractionCompleted
from ruminate.schemas.topic import SideTopic, Topic
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics
from tests.integration.erasing import (
    BYSTANDERS,
    MARKER,
    every_record,
    holding,
    planted,
    request,
    standing,
    tell,
    told,
    until_finished,
)

DEADLINE_SECONDS = 90.0
SOURCE = "/agents/ledger"
LETTERS = INTERACTION_COMPLETED.dead_letters("collector")


def completed(name: str, text: str = MARKER, **changed: Any) -> InteractionCompleted:
    each = planted(name, text, **changed)
    return InteractionCompleted.model_validate(each.model_dump(exclude={"source", "recorded_id", "normalised"}))


def feedback(name: str, text: str = MARKER, **changed: Any) -> FeedbackGiven:
    fields: dict[str, Any] = {
        "interaction_id": name,
        "interaction_source": SOURCE,
        "conversation_id": "c-forget",
        "given_by": "anna",
        "given_at": datetime.now(UTC),
        "comment": f"{text} comments",
        **changed,
    }
    return FeedbackGiven(**fields)


@contextmanager
def running(settings: ServiceSettings, *services: str) -> Iterator[None]:
    environment = os.environ | {
        "RUMINATE_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "RUMINATE_KAFKA_PROFILE": settings.kafka_profile,
        "RUMINATE_STATE_DIR": str(settings.state_dir),
        "RUMINATE_COLLECTOR_PORT": "0",
        "RUMINATE_ERASURE_SETTLE_SECONDS": "1",
        "RUMINATE_LOG_LEVEL": "error",
    }
    with ExitStack() as resources:
        processes = [subprocess.Popen([sys.executable, "-m", f"ruminate.{service}"], env=environment) for service in services]
        for process in processes:
            resources.callback(process.wait)
            resources.callback(process.kill)
        yield
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(30) for process in processes] == [0] * len(processes)


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[tuple[ServiceSettings, KafkaBus]]:
    with embedded_broker() as broker:
        settings = ServiceSettings(
            kafka_bootstrap=broker.bootstrap, kafka_profile="embedded", state_dir=folder, store_uri=(folder / "store").as_uri()
        )
        await ensure_topics(settings)
        async with KafkaBus(settings, reader="tests") as bus:
            yield settings, bus


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await condition():
            await asyncio.sleep(0.1)


async def texts(bus: KafkaBus, topic: Topic[Any] | SideTopic, text: str) -> int:
    records = [record async for record in bus.records(topic)]
    return sum(text.encode() in value for value in standing(records).values())


def test_what_was_read_what_was_given_up_and_what_comes_late_is_gone_and_nothing_counts_as_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as (settings, bus):
            with running(settings, "collector", "assessor", "eraser"):
                for name in ("i-1", "i-2"):
                    await tell(bus, INTERACTION_COMPLETED, completed(name), event_id=name, source=SOURCE)
                conflict = completed("i-1", f"{MARKER} otherwise")
                await tell(bus, INTERACTION_COMPLETED, conflict, event_id="i-1", source=SOURCE)
                other = completed("o-1", BYSTANDERS[0], conversation_id="c-other")
                await tell(bus, INTERACTION_COMPLETED, other, event_id="o-1", source=SOURCE)
                await until(lambda: texts(bus, REASONING_ASSESSED, BYSTANDERS[0]))
                await tell(bus, FEEDBACK_GIVEN, feedback("i-1"), source="/agents/anna")
                await until(lambda: texts(bus, EVIDENCE_RECORDED, MARKER))
                await until(lambda: texts(bus, LETTERS, MARKER))

                async def judged_again() -> bool:
                    return await texts(bus, REASONING_ASSESSED, f"{MARKER} comments") > 0

                await until(judged_again)
                asked_at = datetime.now(UTC)
                await tell(bus, ERASURE_REQUESTED, request(requested_at=asked_at), event_id="e-0", source="/ruminate/operators")

                async def tombstoned() -> bool:
                    return bool(await told(bus))

                await until(tombstoned)
                # What the gateway's spool, or an import, still had; and a word about what is gone.
                await tell(bus, INTERACTION_COMPLETED, completed("i-9"), event_id="i-9", source=SOURCE)
                await tell(bus, FEEDBACK_GIVEN, feedback("i-1", given_at=asked_at), source="/agents/anna")
                after = completed("o-2", BYSTANDERS[1], occurred_at=asked_at + timedelta(seconds=1))
                await tell(bus, INTERACTION_COMPLETED, after, event_id="o-2", source=SOURCE)
                await until_finished(bus, "e-0", seconds=DEADLINE_SECONDS)
                await until(lambda: texts(bus, REASONING_ASSESSED, BYSTANDERS[1]))

                async def everything_is_read() -> bool:
                    report = await audit(settings)
                    assert report.faults == ()
                    return not {"collector", "assessor"} & {reader for reader, count in report.pending.items() if count}

                await until(everything_is_read)
                found = await every_record(bus)
                assert holding(found, MARKER) == {}
                for text in BYSTANDERS[:2]:
                    assert holding(found, text) == {INTERACTION_RECORDED.name: 1, REASONING_ASSESSED.name: 1}

    asyncio.run(scenario())
