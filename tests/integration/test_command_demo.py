"""`ruminate demo` on somebody's own Kafka: where a loop has been before, it touches nothing and says why."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from infra.real.kafka import KafkaCluster
from ruminate.schemas.flow import TRAINING_BATCH_SEALED
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics

pytestmark = pytest.mark.real


def test_a_demo_refuses_a_kafka_that_has_a_history(kafka_of_one: KafkaCluster, tmp_path: Path) -> None:
    settings = ServiceSettings(kafka_bootstrap=kafka_of_one.bootstrap, state_dir=tmp_path)
    asyncio.run(ensure_topics(settings, [TRAINING_BATCH_SEALED]))
    command = (
        sys.executable,
        "-m",
        "ruminate.command",
        "demo",
        "--kafka",
        kafka_of_one.bootstrap,
        "--state",
        str(tmp_path / "state"),
    )
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 1
    assert "has topics of a loop already (training-batch-sealed-v1, …)" in refused.stderr
    assert "Name another, or leave --kafka out" in refused.stderr
