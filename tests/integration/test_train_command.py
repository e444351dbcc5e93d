"""`ruminate train`, `pause` and `resume` beside a trainer at the embedded broker: what an operator types, and what comes of it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import orjson
import pytest
from typer.testing import CliRunner, Result

from ruminate.command.__main__ import app
from ruminate.embedded.broker import embedded_broker
from ruminate.schemas.flow import TRAINING_BATCH_SEALED
from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics
from tests.integration.test_trainer_service import sealed

MISSING = ArtifactReference(uri="file:///nowhere/dataset.json", sha256="0" * 64, size_bytes=1)
DEADLINE_SECONDS = 90.0


@dataclass(frozen=True)
class Loop:
    """A state folder as `up` leaves it, and the operations port of its trainer."""

    settings: ServiceSettings
    state: Path
    operations: str

    def type(self, *words: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [*words, "--state", str(self.state)], catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    def seal(self, number: int) -> None:
        async def write() -> None:
            batch = sealed(number, MISSING)
            async with KafkaBus(self.settings, reader="accumulator") as bus:
                await bus.publish(TRAINING_BATCH_SEALED, batch, bus.begin(TRAINING_BATCH_SEALED, batch))

        asyncio.run(write())

    def jobs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.type("train", "list", "--json").stdout)
        return found

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_SECONDS} s"
            time.sleep(0.05)


@pytest.fixture
def loop() -> Iterator[Loop]:
    with TemporaryDirectory(prefix="ruminate-") as folder, embedded_broker() as broker:
        state = Path(folder).resolve()
        settings = ServiceSettings(kafka_bootstrap=broker.bootstrap, kafka_profile="embedded", state_dir=state)
        asyncio.run(ensure_topics(settings))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            operations = f"http://127.0.0.1:{free.getsockname()[1]}"
        addresses = {
            "kafka": broker.bootstrap,
            "kafka_profile": "embedded",
            "gateway": "",
            "collector": "",
            "nodes": {},
            "operations": {"trainer": operations},
            "target": "tiny",
            "store": (state / "store").as_uri(),
        }
        (state / "addresses.json").write_bytes(orjson.dumps(addresses))
        environment = os.environ | {
            "RUMINATE_KAFKA_BOOTSTRAP": broker.bootstrap,
            "RUMINATE_KAFKA_PROFILE": "embedded",
            "RUMINATE_STORE_URI": (state / "store").as_uri(),
            "RUMINATE_STATE_DIR": str(state / "state"),
            "RUMINATE_OPERATIONS_PORT": operations.rpartition(":")[2],
            "RUMINATE_BASES": json.dumps({"tiny": "/nowhere"}),
            "RUMINATE_APPROVAL": json.dumps({"tiny": "manual"}),
            "RUMINATE_PROOF": "off",
        }
        with (state / "log").open("ab") as log:
            process = subprocess.Popen((sys.executable, "-m", "ruminate.trainer"), env=environment, stderr=log, stdout=log)
            try:
                yield Loop(settings, state, operations)
            finally:
                process.kill()
                process.wait()


@pytest.mark.timeout(240)
def test_a_batch_is_approved_retried_cancelled_paused_and_resumed_by_what_is_typed(loop: Loop) -> None:
    loop.seal(1)
    says = "tiny-000001 of tiny waits for approval (RUMINATE_APPROVAL). Type:  ruminate train approve tiny-000001"
    loop.until(lambda: loop.jobs()[0]["waits_for"] == says, "the trainer says what the batch waits for")
    assert loop.type("train", "list").stdout == f"job tiny-000001 of tiny: waiting for this: {says}\n"
    ready = httpx.get(f"{loop.operations}/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "reasons": [], "notes": [says]})
    assert f"job tiny-000001 of tiny: waiting for this: {says}\n" in loop.type("status").stdout

    loop.type("pause", "tiny", "--reason", "the GPU is needed", "--by", "ada")
    assert "tiny is paused by ada. To go on:  ruminate resume tiny" in loop.type("train", "list").stdout
    loop.type("train", "approve", "tiny-000001")
    loop.until(lambda: "paused by ada" in (loop.jobs()[0]["waits_for"] or ""), "the pause holds it")
    assert "only what has failed is tried again" in loop.type("train", "retry", "tiny-000001", code=2).stderr
    assert loop.type("resume", "tiny").stdout == "tiny goes on\n"
    loop.until(lambda: loop.jobs()[0]["state"] == "failed", "its dataset is nowhere")
    assert loop.jobs()[0]["reason"] == "bad_dataset"
    assert "'tiny' is not paused; nothing is. Services are collector, " in loop.type("resume", "tiny", code=2).stderr
    assert "nothing of it runs or waits" in loop.type("train", "cancel", "tiny-000001", code=2).stderr

    assert loop.type("train", "retry", "tiny-000001").stdout == "tiny-000001 is tried again, as attempt 2\n"
    loop.until(lambda: (loop.jobs()[0]["attempt"], loop.jobs()[0]["state"]) == (2, "failed"), "it fails again")
    shown = loop.type("train", "show", "tiny-000001").stdout
    assert "  attempt 1 failed " in shown and "  attempt 2 failed " in shown and " said approve " in shown

    loop.seal(2)
    loop.until(lambda: "approval" in (loop.jobs()[1]["waits_for"] or ""), "the next batch waits")
    assert loop.type("train", "prioritise", "tiny-000002", "-7").stdout == "tiny-000002 has priority -7\n"
    assert loop.type("train", "prioritise", "--target", "tiny", "5").stdout == "what waits of tiny has priority 5\n"
    assert [job["priority"] for job in loop.jobs()] == [5, -7]
    word = json.loads(loop.type("train", "cancel", "tiny-000002", "--reason", "out of date", "--by", "ada", "--json").stdout)
    assert word["word"]["direction"] == "cancel" and word["word"]["attempt"] == 1
    loop.until(lambda: loop.jobs()[1]["state"] == "failed", "it is cancelled")
    assert loop.jobs()[1]["explanation"].startswith("ada cancelled tiny-000002: out of date.")


def test_what_makes_no_sense_is_refused_with_the_way_out(loop: Loop) -> None:
    assert loop.type("train", "list").stdout == "no batch is sealed yet. To have one sealed:  ruminate datasets seal TARGET\n"
    for words, why in (
        (("train", "show", "tiny-9"), "no batch is named 'tiny-9'; the last ones are none"),
        (("train", "prioritise", "5"), "name a batch before the number, or a target by --target"),
        (("train", "prioritise", "tiny-1"), "'tiny-1' is no priority"),
        (("train", "prioritise", "--target", "tiny", "5000"), "priority: Input should be less than or equal to 1000"),
        (("resume",), "name one service or paused target"),
        (("resume", "trainer", "--target", "tiny"), "name one service or paused target"),
        (("resume", "--target", "trainer"), "'trainer' is not paused; nothing is"),
    ):
        assert why in loop.type(*words, code=2).stderr
    assert "no batch of it is sealed yet" in loop.type("pause", "trainer").stdout
    assert loop.type("resume", "--target", "trainer").stdout == "trainer goes on\n"
    assert "nothing runs in" in loop.type("resume", "trainer", code=1).stderr
