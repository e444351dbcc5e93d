"""Erasure on Apache Kafka, down to the bytes on the disk: killed at each write, it leaves nothing in any compacted topic."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from infra.real.kafka import KafkaCluster, kafka_cluster
from ruminate.eraser.lives import COMPACTED, LASTING, read_lives
from ruminate.schemas.erasure import RecordsErased
from ruminate.schemas.flow import ERASURE_REQUESTED, FEEDBACK_GIVEN, INTERACTION_COMPLETED
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics
from tests.integration.erasing import BYSTANDERS, MARKER, every_record, holding, plant, request, tell, told
from tests.plugins.real import installed

pytestmark = pytest.mark.real

DEADLINE_SECONDS = 90.0
MOST_KILLS = 60
SOON = {"segment.ms": "400", "max.compaction.lag.ms": "1000", "file.delete.delay.ms": "100"}
"""What the flow asks for, in a time that a test can wait. The ratio of garbage stays Kafka's: only the lag makes it compact."""


@pytest.fixture
def cluster() -> Iterator[KafkaCluster]:
    """A broker of our own, whose cleaner looks often."""
    with installed(), kafka_cluster(settings={"log.cleaner.backoff.ms": "100"}) as running:
        yield running


def hurry(cluster: KafkaCluster, names: Collection[str]) -> None:
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in SOON.items()]
    with AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 2}) as admin:
        changes = [ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries) for name in names]
        for future in admin.incremental_alter_configs(changes).values():
            future.result()


def on_disk(cluster: KafkaCluster, names: Collection[str], text: str) -> dict[str, int]:
    """In which topics a text is in the bytes of any file of their partitions, and in how many files."""
    found: dict[str, int] = {}
    for broker in cluster.brokers:
        for folder in sorted((broker.folder / "data").iterdir()):
            name = folder.name.rpartition("-")[0]
            if folder.is_dir() and name in names:
                files = sum(text.encode() in _bytes(file) for file in folder.iterdir() if file.is_file())
                found[name] = found.get(name, 0) + files
    return {name: count for name, count in found.items() if count}


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""  # the cleaner has taken it meanwhile


def environment(cluster: KafkaCluster, state: Path) -> Mapping[str, str]:
    fields = {
        "KAFKA_BOOTSTRAP": cluster.bootstrap,
        "KAFKA_PROFILE": "kafka",
        "STATE_DIR": str(state),
        "ERASURE_SETTLE_SECONDS": "0.2",
    }
    return os.environ | {f"RUMINATE_{name}": value for name, value in fields.items()}


@contextmanager
def service(cluster: KafkaCluster, state: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-W", "error", "-m", "ruminate.eraser"], env=environment(cluster, state)) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def killed_at_each_write(cluster: KafkaCluster, state: Path) -> int:
    """One eraser after the other, each killed once it has written once, or twice, until nothing is left to write; their number."""
    for kills in range(MOST_KILLS):
        # Markers are written again where the word that ends an erasure was not: every second one lives for that, too.
        command = (sys.executable, "-m", "tests.integration.eraser_cut_short", str(1 + kills % 2))
        process = subprocess.Popen(command, env=environment(cluster, state))
        deadline = time.monotonic() + DEADLINE_SECONDS
        try:
            while process.poll() is None:
                if asyncio.run(finished(cluster)):
                    return kills
                assert time.monotonic() < deadline, "neither killed nor finished"
        finally:
            process.kill()
            process.wait()
        assert process.returncode == -signal.SIGKILL
        if asyncio.run(finished(cluster)):
            return kills + 1
    raise AssertionError(f"not finished after {MOST_KILLS} erasers")


async def finished(cluster: KafkaCluster) -> RecordsErased | None:
    async with KafkaBus(ServiceSettings(kafka_bootstrap=cluster.bootstrap), reader="tests") as bus:
        return next((each for each in await told(bus) if each.stage == "finished"), None)


def test_killed_at_each_write_an_erasure_leaves_no_byte_of_it_in_any_compacted_topic(cluster: KafkaCluster, tmp_path: Path) -> None:
    settings = ServiceSettings(kafka_bootstrap=cluster.bootstrap)

    async def begin() -> None:
        await ensure_topics(settings)
        await asyncio.to_thread(hurry, cluster, COMPACTED)
        async with KafkaBus(settings, reader="tests") as bus:
            await plant(bus)
            await tell(bus, ERASURE_REQUESTED, request(), event_id="e-0")

    asyncio.run(begin())
    for text in (MARKER, *BYSTANDERS):
        assert on_disk(cluster, COMPACTED, text).keys() == set(COMPACTED), "as it is written, so it lies on the disk"
    kills = killed_at_each_write(cluster, tmp_path)
    assert kills > 8
    event = asyncio.run(finished(cluster))
    assert event is not None
    assert event.gone_by is not None
    # Nothing more is written to any of these partitions: what is compacted, the markers have made possible.
    deadline = time.monotonic() + DEADLINE_SECONDS
    while left := on_disk(cluster, COMPACTED, MARKER):
        assert time.monotonic() < deadline, f"bytes are still there: {left}"
        time.sleep(0.2)
    seconds = (datetime.now(UTC) - event.erased_at).total_seconds()
    assert datetime.now(UTC) < event.gone_by
    print(f"killed {kills} times; the last byte was gone {seconds:.1f} s after the word")
    for text in BYSTANDERS:
        assert on_disk(cluster, COMPACTED, text).keys() == set(COMPACTED), "nobody asked to forget it"

    async def what_is_left() -> None:
        async with KafkaBus(settings, reader="tests") as bus:
            assert holding(await every_record(bus), MARKER) == {}

    asyncio.run(what_is_left())
    # Raw topics keep it until retention, and the word says until when.
    raw = (INTERACTION_COMPLETED.name, FEEDBACK_GIVEN.name)
    assert on_disk(cluster, raw, MARKER).keys() == set(raw)
    for name in raw:
        ends = event.ends_by[name]
        assert ends is not None
        assert timedelta(days=7) < ends - event.erased_at < timedelta(days=7, hours=7)


def test_the_service_erases_and_stops_and_reads_lives_from_the_broker(cluster: KafkaCluster, tmp_path: Path) -> None:
    settings = ServiceSettings(kafka_bootstrap=cluster.bootstrap)

    async def begin() -> None:
        await ensure_topics(settings)
        lives = await read_lives(settings)
        assert set(lives) == {*COMPACTED, *LASTING}
        assert lives[COMPACTED[0]].segment == timedelta(hours=6)
        assert lives[COMPACTED[0]].compaction == timedelta(days=3)
        assert lives[INTERACTION_COMPLETED.name].retention == timedelta(days=7)
        await asyncio.to_thread(hurry, cluster, COMPACTED)
        async with KafkaBus(settings, reader="tests") as bus:
            await plant(bus)

    asyncio.run(begin())

    async def ask() -> None:
        async with KafkaBus(settings, reader="tests") as bus:
            await tell(bus, ERASURE_REQUESTED, request(), event_id="e-0")
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not any(each.stage == "finished" for each in await told(bus)):
                    await asyncio.sleep(0.1)
            assert holding(await every_record(bus), MARKER) == {}

    with service(cluster, tmp_path):
        asyncio.run(ask())
