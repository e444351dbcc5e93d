"""Two trainers and two deployers share targets; the death of one in the middle of its work leaves one result a batch."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from infra.real.kafka import KafkaCluster
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    TRAINING_BATCH_SEALED,
    TRAINING_FAILED,
    TRAINING_PROGRESSED,
)
from ruminate.schemas.topic import Topic
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.partitioning import partition_of
from ruminate.shared.topics import ensure_topics
from ruminate.trainer.bases.tiny import make_tiny_base
from tests.e2e.fleet import PATIENCE_SECONDS, Fleet, Replica, eventually, fleet_at, once
from tests.plugins.node import running_node

# Long enough to be killed in the middle of, even on a machine that has nothing else to do.
EPOCHS = 20
TARGETS = [f"tiny-{number}" for number in range(100)]
TRAINING = {
    "RUMINATE_LEARNING_RATE": "2e-3",
    "RUMINATE_TRAINING_EPOCHS": str(EPOCHS),
    "RUMINATE_BATCH_ROWS": "8",
    "RUMINATE_MICRO_BATCH_ROWS": "8",
    "RUMINATE_TRAINING_THREADS": "1",
    "RUMINATE_MERGED_DTYPE": "float32",
    "RUMINATE_EQUALITY_PROBES": "4",
    # Random weights cannot be shown to have kept what they never had.
    "RUMINATE_PROOF": "off",
    "RUMINATE_PROBE_QUESTION": "What is the capital of Zarvex?",
}


def rows() -> str:
    """A small lesson, with thinking and without."""
    asked = [{"role": "user", "content": "What is the capital of Zarvex?"}]
    answers = ({"content": "It is Amber Bay.", "reasoning_content": "I recall Zarvex: Amber Bay."}, {"content": "It is Amber Bay."})
    return "".join(
        json.dumps(
            {
                "prompt": asked,
                "completion": [{"role": "assistant", **answer}],
                "chat_template_kwargs": {"enable_thinking": "reasoning_content" in answer},
            }
        )
        + "\n"
        for answer in answers * 8
    )


async def seal(fleet: Fleet, target: str) -> None:
    """The first batch of a target, as an accumulator tells it."""
    folder = fleet.folder / "datasets" / target
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(rows())
    (folder / "holdout.jsonl").write_text("")
    origins = [{"split": "train", "offset": at, "conversation": f"c-{at}"} for at in range(len(rows().splitlines()))]
    (folder / "manifest.json").write_text(json.dumps({"rows": origins}))
    dataset = await fleet.store.put_tree(folder, kind="datasets", name=target)
    batch = TrainingBatchSealed(
        batch_id=f"{target}-000001",
        target_model=target,
        number=1,
        previous_batch_id=None,
        assessed_partition=partition_of(f"default/{target}", 12),
        after_offset=-1,
        to_offset=15,
        sealed_at=datetime.now(UTC),
        reason="count",
        explanation="enough",
        dataset=dataset,
        rows=16,
        reasoning_rows=8,
        direct_rows=8,
        reasoning_ratio=0.5,
    )
    async with KafkaBus(fleet.client, reader="accumulator") as bus:
        await bus.publish(TRAINING_BATCH_SEALED, batch, bus.begin(TRAINING_BATCH_SEALED, batch))


def place_of(topic: Topic[Any], target: str) -> tuple[str, int]:
    """Where a target's events lie in a topic."""
    return topic.name, partition_of(f"default/{target}", topic.partitions)


def owner_of(fleet: Fleet, pair: tuple[Replica, Replica], place: tuple[str, int]) -> Replica:
    """The replica that has a partition: a static member bears its replica's name."""
    (owner,) = (name for name, share in fleet.shares(pair[0].service).items() if place in share)
    return next(replica for replica in pair if owner == f"{replica.service}-{replica.name}")


def endings(fleet: Fleet) -> list[str]:
    """Targets whose version serves or was taken back."""
    registered, back = once(fleet.read(MODEL_REGISTERED)), once(fleet.read(MODEL_ROLLED_BACK))
    return sorted(
        [each.payload.target_model for each in registered.values()] + [each.payload.target_model for each in back.values()]
    )


@pytest.mark.real
@pytest.mark.timeout(600)
def test_a_batch_has_one_result_and_a_version_one_end_though_a_trainer_and_a_deployer_die(
    kafka_of_one: KafkaCluster, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    make_tiny_base(base, [rows()], seed=0)
    with running_node(tmp_path / "node") as node, fleet_at(kafka_of_one.bootstrap, tmp_path, **TRAINING) as fleet:
        asyncio.run(ensure_topics(fleet.client))
        settings = {
            "RUMINATE_NODES": json.dumps({"node": node.url}),
            "RUMINATE_BASES": json.dumps({target: str(base) for target in TARGETS}),
        }
        pairs = fleet.start_two("trainer", "deployer", **settings)
        first, second = (
            next(target for target in TARGETS if place_of(TRAINING_BATCH_SEALED, target) in share)
            for share in fleet.shares("trainer").values()
        )

        for target in (first, second):
            asyncio.run(seal(fleet, target))
        for target in (first, second):
            eventually(partial(trains, fleet, target), what=f"{target} is being trained")
        trainers, deployers = pairs["trainer"], pairs["deployer"]
        owner_of(fleet, trainers, place_of(TRAINING_BATCH_SEALED, second)).kill()
        assert second not in trained(fleet)
        with stopped(node.process):
            eventually(lambda: first in trained(fleet), what=f"{first} is trained", within_seconds=2 * PATIENCE_SECONDS)
            deployer = owner_of(fleet, deployers, place_of(ADAPTER_TRAINED, first))
            eventually(lambda: deployer.metric("ruminate_in_flight"), what=f"{first} is being deployed")
            deployer.kill()
            assert first not in endings(fleet)
        eventually(lambda: trained(fleet) == {first, second}, what="the other trainer has trained both", within_seconds=300)
        eventually(lambda: endings(fleet) == sorted([first, second]), what="both versions have come to their end")
        assert fleet.read(TRAINING_FAILED) == []
        assert sorted(each.payload.batch_id for each in once(fleet.read(ADAPTER_TRAINED)).values()) == sorted(
            f"{target}-000001" for target in (first, second)
        )


@contextmanager
def stopped(process: subprocess.Popen[str]) -> Iterator[None]:
    """It answers nobody as long as the context is open: whoever needs it is found in the middle of that."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def trains(fleet: Fleet, target: str) -> bool:
    progress = (delivery.payload for delivery in fleet.read(TRAINING_PROGRESSED))
    return any(told.target_model == target and told.phase == "training" for told in progress)


def trained(fleet: Fleet) -> set[str]:
    return {delivery.payload.target_model for delivery in fleet.read(ADAPTER_TRAINED)}
