"""Nothing that a service keeps on its disk decides what is in a dataset: without it, the same log gives the same bytes."""

from __future__ import annotations

import asyncio
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest

from ruminate.embedded.broker import embedded_broker
from ruminate.schemas.flow import REASONING_ASSESSED, TRAINING_BATCH_SEALED
from ruminate.shared.topics import ensure_topics
from tests.e2e.fleet import Fleet, Replica, chains, eventually, fleet_at, interactions

SERVICES = ("collector", "assessor", "accumulator")
COUNT = 15
FORGOTTEN_AFTER = (4, 9)
SEALING = {"RUMINATE_SEAL_AT_ROWS": "5", "RUMINATE_HOLDOUT_RATIO": "0.3"}


def start(fleet: Fleet) -> list[Replica]:
    replicas = [fleet.start(service) for service in SERVICES]
    for replica in replicas:
        eventually(replica.ready, what=f"{replica.service} is ready")
    return replicas


def forget(fleet: Fleet, replicas: list[Replica]) -> None:
    """Let them end in order, so that the log holds what it would hold anyhow; then remove whatever they kept."""
    for replica in replicas:
        replica.process.send_signal(signal.SIGTERM)
        assert replica.process.wait(60) == 0, replica.said()
        shutil.rmtree(fleet.state_of(replica.service, replica.name), ignore_errors=True)


def has_judged(fleet: Fleet, count: int) -> bool:
    return fleet.count(REASONING_ASSESSED) == count


def datasets(folder: Path, *, forgetful: bool) -> dict[str, dict[str, bytes]]:
    """By batch: each file of its dataset. Interactions are sent one by one, so that every log is the same log."""
    folder.mkdir()
    with embedded_broker() as broker, fleet_at(broker.bootstrap, folder, profile="embedded", **SEALING) as fleet:
        asyncio.run(ensure_topics(fleet.client))
        replicas = start(fleet)
        for number in range(COUNT):
            if forgetful and number in FORGOTTEN_AFTER:
                forget(fleet, replicas)
                replicas = start(fleet)
                # What was recorded before is known from the log.
                fleet.publish(interactions(range(number)))
            fleet.publish(interactions(range(number, number + 1)))
            eventually(partial(has_judged, fleet, number + 1), what=f"interaction {number} is judged")
        expected = COUNT // 5 - 1
        eventually(lambda: len(fleet.read(TRAINING_BATCH_SEALED)) >= expected, what=f"{expected} batches are sealed")
        (chain,) = chains(fleet.read(TRAINING_BATCH_SEALED)).values()
        found = {}
        for batch in chain:
            tree = asyncio.run(fleet.store.fetch(batch.dataset, to=folder / batch.batch_id))
            found[batch.batch_id] = {file.name: file.read_bytes() for file in sorted(tree.iterdir())}
        return found


@pytest.mark.timeout(400)
def test_deleting_every_local_file_changes_no_byte_of_any_dataset(tmp_path: Path) -> None:
    undisturbed = datasets(tmp_path / "undisturbed", forgetful=False)
    assert sum(len(files["train.jsonl"].splitlines()) for files in undisturbed.values()) >= 10
    assert any(files["holdout.jsonl"] for files in undisturbed.values())
    assert datasets(tmp_path / "forgetful", forgetful=True) == undisturbed
