"""The accumulator as a process at the embedded broker: killed with -9 and started again, it goes on where the log says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from ruminate.accumulator.making.dataset import load_manifest
from ruminate.embedded.broker import EmbeddedBroker
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.flow import REASONING_ASSESSED, TRAINING_BATCH_SEALED
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.store import FileStore
from ruminate.shared.topics import ensure_topics

KEPT = Path(__file__).parents[2] / "schemas" / "examples" / REASONING_ASSESSED.name / "valid" / "kept.json"
DEADLINE_SECONDS = 60.0


def assessed(number: int) -> ReasoningAssessed:
    """The example that people read, as interaction `number` of a target of its own."""
    example = ReasoningAssessed.model_validate_json(json.dumps(json.loads(KEPT.read_bytes())["value"]))
    own = {"recorded_id": UUID(int=number), "target_model": "process-test"}
    # A question of its own: of one that is asked again and again, a few answers are enough.
    asked = example.interaction.messages[-1].model_copy(update={"content": f"What is the name of river number {number}?"})
    interaction = example.interaction.model_copy(
        update=own
        | {"messages": (*example.interaction.messages[:-1], asked)}
        | {"interaction_id": f"i-{number}", "conversation_id": f"c-{number}", "continues_interaction": None}
        | {"training_allowed": True}
    )
    return example.model_copy(update=own | {"revision": 0, "interaction": interaction})


@contextmanager
def accumulator(broker: EmbeddedBroker, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {
        "RUMINATE_KAFKA_BOOTSTRAP": broker.bootstrap,
        "RUMINATE_KAFKA_PROFILE": "embedded",
        "RUMINATE_STORE_URI": f"file://{folder}/store",
        "RUMINATE_STATE_DIR": str(folder / "state"),
        "RUMINATE_SEAL_AT_ROWS": "8",
        "RUMINATE_HOLDOUT_RATIO": "0",
    }
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen((sys.executable, "-m", "ruminate.accumulator"), env=environment, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


async def chain_of(bus: KafkaBus, length: int, process: subprocess.Popen[bytes]) -> list[TrainingBatchSealed]:
    """What was published for our target, once it is that long."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        partition = bus.partition_of(TRAINING_BATCH_SEALED, "default/process-test")
        published = [delivery.payload async for delivery in bus.read(TRAINING_BATCH_SEALED, partitions=[partition])]
        batches = [batch for batch in published if batch.target_model == "process-test"]
        if len(batches) >= length:
            return batches
        assert process.poll() is None, f"the accumulator ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{len(batches)} of {length} batches within {DEADLINE_SECONDS} s"
        await asyncio.sleep(0.05)


def test_a_killed_accumulator_goes_on_with_the_chain_and_ends_cleanly_when_asked(broker: EmbeddedBroker, tmp_path: Path) -> None:
    settings = ServiceSettings(kafka_bootstrap=broker.bootstrap, kafka_profile="embedded")

    async def scenario() -> None:
        await ensure_topics(settings)
        async with KafkaBus(settings, reader="assessor") as bus:

            async def assess(numbers: range) -> None:
                for record in map(assessed, numbers):
                    envelope = bus.begin(REASONING_ASSESSED, record, event_id=str(record.recorded_id))
                    await bus.publish(REASONING_ASSESSED, record, envelope)

            await assess(range(12))
            with accumulator(broker, tmp_path) as process:
                await chain_of(bus, 1, process)
                process.kill()
            await assess(range(6, 24))
            with accumulator(broker, tmp_path) as process:
                batches = await chain_of(bus, 3, process)
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait, DEADLINE_SECONDS) == 0
        assert [batch.number for batch in batches] == [1, 2, 3]
        store = FileStore(tmp_path / "store")
        fresh = [row.recorded_id.int for batch in batches for row in (await load_manifest(store, batch.dataset)).rows]
        assert sorted(fresh) == list(range(24))

    asyncio.run(scenario())
