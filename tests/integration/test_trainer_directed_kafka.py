"""On Apache Kafka: what an operator says reaches a trainer in the middle of a job, and a retry its owner."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import pytest

from infra.real.kafka import KafkaCluster
from ruminate.schemas.flow import TRAINING_BATCH_SEALED, TRAINING_DIRECTED, TRAINING_FAILED, TRAINING_PROGRESSED
from ruminate.schemas.payload import Payload
from ruminate.schemas.topic import Topic
from ruminate.schemas.training import Direction, TrainingDirected
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.store import open_store
from ruminate.shared.topics import ensure_topics
from ruminate.trainer.attend import attend
from ruminate.trainer.job import locked
from ruminate.trainer.settings import TrainerSettings
from ruminate.trainer.train import Trainer, job_folder
from ruminate.trainer.turns import Turns, devices_for
from ruminate.trainer.waiting import Waits
from ruminate.trainer.words import Words
from tests.integration.test_trainer_service import NOW, PATIENCE_SECONDS, dataset, sealed
from tests.integration.test_trainer_service import base as base  # noqa: PLC0414 - a fixture
from tests.integration.test_trainer_service import settings as settings  # noqa: PLC0414

P = TypeVar("P", bound=Payload)
AT_ONCE_SECONDS = 15.0
"""What a job of hours would be stopped within, on a machine that is busy with other tests."""


async def heard(bus: KafkaBus, topic: Topic[P], says: Callable[[P], bool]) -> P:
    """The first event of the topic that says so."""
    async with asyncio.timeout(PATIENCE_SECONDS), aclosing(bus.read(topic, follow=True)) as events:
        async for event in events:
            if says(event.payload):
                return event.payload
    raise AssertionError("following never ends by itself")


async def direct(bus: KafkaBus, direction: Direction, attempt: int) -> None:
    """An operator's word of the first batch."""
    word = TrainingDirected(
        target_model="tiny",
        direction=direction,
        batch_id="tiny-000001",
        attempt=attempt,
        directed_by="ada",
        directed_at=NOW,
    )
    await bus.publish(TRAINING_DIRECTED, word, bus.begin(TRAINING_DIRECTED, word))


@pytest.mark.real
@pytest.mark.timeout(400)
def test_a_running_job_is_cancelled_retried_and_cancelled_again_at_once(
    kafka_of_one: KafkaCluster, settings: TrainerSettings, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"kafka_bootstrap": kafka_of_one.bootstrap, "kafka_profile": "kafka"})

    async def scenario() -> None:
        await ensure_topics(settings)
        store = open_store(settings.store_uri)
        batch = sealed(1, await store.put_tree(dataset(tmp_path / "first", "Amber Bay"), kind="datasets", name="first"))
        async with KafkaBus(settings, reader="trainer") as bus, KafkaBus(settings, reader="command") as operator:
            turns = Turns(devices_for(1, None))
            parts = Trainer(bus=bus, store=store, settings=settings, turns=turns, words=Words(), waits=Waits(bus))
            serving = asyncio.create_task(attend(parts))
            await operator.publish(TRAINING_BATCH_SEALED, batch, operator.begin(TRAINING_BATCH_SEALED, batch))
            for attempt in (1, 2):
                await heard(operator, TRAINING_PROGRESSED, lambda told, n=attempt: told.attempt == n and told.phase == "preparing")  # type: ignore[misc]
                said_at = time.monotonic()
                await direct(operator, "cancel", attempt)
                failed = await heard(operator, TRAINING_FAILED, lambda told, n=attempt: told.attempt == n)  # type: ignore[misc]
                seconds = time.monotonic() - said_at
                print(f"attempt {attempt} was stopped after {seconds:.2f} s")
                assert (failed.reason, failed.phase) == ("cancelled", "preparing")
                assert seconds < AT_ONCE_SECONDS
                with locked(job_folder(settings.state_dir / "jobs", batch.batch_id)):
                    pass  # nothing of it runs
                if attempt == 1:
                    await direct(operator, "retry", attempt)
            await bus.stop()
            await asyncio.wait_for(serving, PATIENCE_SECONDS)

    asyncio.run(scenario())
