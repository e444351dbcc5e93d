"""A rolling upgrade: each replica of the version before is replaced under load, and beside it nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.real.kafka import KafkaCluster
from ruminate.shared.topics import ensure_topics
from tests.e2e.fleet import Fleet, check_each_once, eventually, fleet_at, interactions, package_folders, sealed_rows

VERSION_BEFORE = "6d14bc5f9e644db340dd4c178f1266d52f639b55"
"""What is upgraded from, a commit; it moves on with each release."""
SERVICES = ("collector", "assessor", "accumulator")
TARGETS = 4
ROWS_A_BATCH = 10
WAVE = ROWS_A_BATCH * TARGETS
SEALING = {"RUMINATE_SEAL_AT_ROWS": str(ROWS_A_BATCH), "RUMINATE_HOLDOUT_RATIO": "0"}
CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The packages of the version before, in a folder of their own."""
    commit = os.environ.get("RUMINATE_VERSION_BEFORE", VERSION_BEFORE)
    archive = subprocess.run(
        ["git", "archive", "--format=tar", commit, "schemas", "shared", "services"], cwd=CHECKOUT, capture_output=True, check=False
    )
    assert archive.returncode == 0, f"this clone does not know {commit}; type:  git fetch --unshallow\n{archive.stderr.decode()}"
    folder = tmp_path / "before"
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


class Load:
    """Agents that send one wave of interactions after the other, for as long as the context is open."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._over = threading.Event()
        self.sent = 0

    @contextmanager
    def flowing(self) -> Iterator[None]:
        thread = threading.Thread(target=self._send, name="load")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _send(self) -> None:
        while not self._over.is_set():
            self._fleet.publish(interactions(range(self.sent, self.sent + WAVE), targets=TARGETS))
            self.sent += WAVE
            self._over.wait(2.0)


def imported_with(tree: Path) -> Path:
    """Which file is imported with that checkout in front: a test of two versions must have two."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, package_folders(tree)))}
    command = (sys.executable, "-c", "import ruminate.shared.kafka as module; print(module.__file__)")
    return Path(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip())


@pytest.mark.real
@pytest.mark.timeout(600)
def test_replicas_of_two_versions_work_side_by_side_and_nothing_is_lost_or_doubled(
    kafka_of_one: KafkaCluster, tmp_path: Path, before: Path
) -> None:
    assert imported_with(before).is_relative_to(before)
    with fleet_at(kafka_of_one.bootstrap, tmp_path, **SEALING) as fleet:
        asyncio.run(ensure_topics(fleet.client))
        old = {(service, name): fleet.start(service, name, tree=before) for service in SERVICES for name in "01"}
        for replica in old.values():
            eventually(replica.ready, what=f"the old {replica.service}-{replica.name} is ready")
        load = Load(fleet)
        with load.flowing():
            for service, name in [(service, name) for name in "01" for service in SERVICES]:
                replaced = old[service, name]
                replaced.process.send_signal(signal.SIGTERM)
                assert replaced.process.wait(60) == 0, replaced.said()
                new = fleet.start(service, name)
                eventually(new.ready, what=f"the new {service}-{name} is ready")
                eventually(new.done, what=f"the new {service}-{name} has done something")
        total = load.sent
        print(f"{total} interactions were sent during the upgrade")
        eventually(lambda: sealed_rows(fleet) == total, what=f"all {total} interactions are in batches")
        check_each_once(fleet, total)
        assert [replica.service for replica in fleet.replicas if "crashed" in replica.log.read_text()] == []
