"""An accumulator with many unsealed rows is killed: started again, it has folded them soon, and seals when one more comes."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from aiokafka import AIOKafkaProducer

from infra.real.kafka import KafkaCluster
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.envelope import Envelope
from ruminate.schemas.flow import REASONING_ASSESSED, TRAINING_BATCH_SEALED
from ruminate.schemas.interaction import InteractionRecorded
from ruminate.shared.decoding import encode
from ruminate.shared.partitioning import partition_of
from ruminate.shared.topics import ensure_topics
from tests.e2e.fleet import Fleet, Replica, eventually, fleet_at, interactions

TARGET = "target-0"
ORDER = f"default/{TARGET}"
BAR_SECONDS = 15.0
OWN = "@number@"
KEPT = Path(__file__).parents[2] / "schemas" / "examples" / REASONING_ASSESSED.name / "valid" / "kept.json"


def template() -> ReasoningAssessed:
    """A kept interaction of about 2 KB that reasons."""
    example = ReasoningAssessed.model_validate_json(json.dumps(json.loads(KEPT.read_bytes())["value"]))
    (completed,) = interactions(range(1))
    asked = completed.messages[-1].model_copy(update={"content": f"{'What is due for these invoices? ' * 24}{OWN}"})
    thought = completed.response.model_copy(
        update={"thinking": "480 * 0.19 = 91.20, and 480 + 91.20 = 571.20. " * 8, "content": f"{OWN} EUR"}
    )
    interaction = InteractionRecorded(
        **completed.model_copy(update={"messages": (asked,), "response": thought}).model_dump(exclude={"recorded_id"}),
        source="/agents/careful",
        recorded_id=UUID(int=0),
    )
    return example.model_copy(
        update={"interaction": interaction, "target_model": TARGET, "recorded_id": UUID(int=0), "revision": 0}
    )


def records(numbers: range) -> Iterator[tuple[bytes, bytes, list[tuple[str, bytes]]]]:
    """Key, value and headers, as an assessor writes them. Written by hand: a hundred thousand models would take a minute."""
    value = encode(template())
    assert 1_800 <= len(value) <= 4_500
    for number in numbers:
        event_id, now = UUID(int=number + 1), datetime.now(UTC)
        envelope = Envelope(id=str(event_id), source="/tests", type=REASONING_ASSESSED.event_type, time=now, order=ORDER)
        own = value.replace(str(UUID(int=0)).encode(), str(event_id).encode())
        own = own.replace(b'"i-0"', f'"i-{number}"'.encode()).replace(b'"c-0"', f'"c-{number}"'.encode())
        own = own.replace(OWN.encode(), str(number).encode())  # a question of its own, with an answer of its own
        yield str(event_id).encode(), own, envelope.to_headers()


async def write(bootstrap: str, numbers: range) -> None:
    partition = partition_of(ORDER, REASONING_ASSESSED.partitions)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_batch_size=1024 * 1024) as producer:
        sent, batch = [], producer.create_batch()
        for key, value, headers in records(numbers):
            record = {"key": key, "value": value, "headers": headers, "timestamp": int(time.time() * 1000)}
            if batch.append(**record) is None:
                batch.close()
                sent.append(await producer.send_batch(batch, REASONING_ASSESSED.name, partition=partition))
                batch = producer.create_batch()
                batch.append(**record)
        batch.close()
        sent.append(await producer.send_batch(batch, REASONING_ASSESSED.name, partition=partition))
        await asyncio.gather(*sent)


def folded(accumulator: Replica, rows: int) -> bool:
    return accumulator.ready() and accumulator.metric("ruminate_batch_fill_rows") == rows


def fold_kill_fold_and_seal(fleet: Fleet, rows: int) -> float:
    """Seconds from the start after a kill until every unsealed row is folded again."""
    asyncio.run(ensure_topics(fleet.client))
    asyncio.run(write(fleet.bootstrap, range(rows)))
    sealing = {
        "RUMINATE_SEAL_AT_ROWS": str(rows + 1),
        "RUMINATE_SEAL_AT_RECORDS": str(2 * rows),
        "RUMINATE_HOLDOUT_RATIO": "0",
        "RUMINATE_SEAL_CHECK_SECONDS": "0.2",
    }
    accumulator = fleet.start("accumulator", tree=None, killed_at=None, **sealing)
    eventually(lambda: folded(accumulator, rows), what="every row is folded", within_seconds=300)
    accumulator.kill()

    begun = time.monotonic()
    again = fleet.start("accumulator", tree=None, killed_at=None, **sealing)
    eventually(lambda: folded(again, rows), what="every row is folded again", within_seconds=300)
    seconds = time.monotonic() - begun
    print(f"{rows} unsealed rows are folded again after {seconds:.1f} s; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")

    begun = time.monotonic()
    asyncio.run(write(fleet.bootstrap, range(rows, rows + 1)))
    eventually(lambda: fleet.read(TRAINING_BATCH_SEALED), what="one more row seals the batch", within_seconds=300)
    print(f"one more row has sealed all of them after {time.monotonic() - begun:.1f} s")
    (sealed,) = (delivery.payload for delivery in fleet.read(TRAINING_BATCH_SEALED))
    assert (sealed.rows, sealed.after_offset, sealed.reason) == (rows + 1, -1, "count")
    return seconds


@pytest.mark.real
def test_a_killed_accumulator_folds_its_unsealed_rows_again_and_seals_when_one_more_comes(
    kafka_of_one: KafkaCluster, tmp_path: Path
) -> None:
    with fleet_at(kafka_of_one.bootstrap, tmp_path) as fleet:
        fold_kill_fold_and_seal(fleet, 5_000)


@pytest.mark.real
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_unsealed_rows_are_folded_again_within_fifteen_seconds(
    kafka_of_one: KafkaCluster, tmp_path: Path
) -> None:
    with fleet_at(kafka_of_one.bootstrap, tmp_path) as fleet:
        assert fold_kill_fold_and_seal(fleet, 100_000) <= BAR_SECONDS
