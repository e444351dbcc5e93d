"""The deployer as it runs marks what learned from what was erased, also while its only node is away, and once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from ruminate.embedded.broker import embedded_broker
from ruminate.schemas.envelope import Envelope
from ruminate.schemas.flow import ADAPTER_TRAINED, DATASET_REVISED, MODEL_MARKED
from ruminate.schemas.model import ModelMarked
from ruminate.shared.bus import Bus
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics
from tests.unit.test_marking import revised, trained

PATIENCE_SECONDS = 60.0
NOBODY = "http://127.0.0.1:9"


async def marked(bus: Bus, count: int) -> list[tuple[Envelope, ModelMarked]]:
    """The first so many marks."""
    found: list[tuple[Envelope, ModelMarked]] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for told in bus.read(MODEL_MARKED, follow=True):
            found.append((told.envelope, told.payload))
            if len(found) == count:
                break
    return found


def test_a_deployer_that_is_killed_and_started_again_tells_every_mark_once(tmp_path: Path) -> None:
    async def scenario(settings: ServiceSettings, start: Any) -> None:
        await ensure_topics(settings)
        async with KafkaBus(settings, reader="test") as bus:

            async def tell(topic: Any, event: Any) -> None:
                await bus.publish(topic, event, bus.begin(topic, event))

            for version in (trained(1), trained(2, 1)):
                await tell(ADAPTER_TRAINED, version)
            await tell(DATASET_REVISED, revised(1, 1, "e-1", interactions=2))
            with start() as first:
                before = await marked(bus, 2)
                first.kill()
            await tell(DATASET_REVISED, revised(2, 1, "e-1"))
            with start() as second:
                after = await marked(bus, 3)
                second.terminate()
                assert await asyncio.to_thread(second.wait, 20) == 0
            assert after[:2] == before
            assert [(each.version, each.batch_id, each.inherited_from) for _, each in after] == [
                ("v1", "b-1", None),
                ("v2", "b-1", "v1"),
                ("v2", "b-2", None),
            ]
            everything = [told async for told in bus.read(MODEL_MARKED)]
            assert len(everything) == 3
            assert {told.envelope.source for told in everything} == {"/ruminate/deployer"}

    with embedded_broker() as broker:
        settings = ServiceSettings(kafka_bootstrap=broker.bootstrap, kafka_profile="embedded", state_dir=tmp_path)
        environment = os.environ | {
            "RUMINATE_KAFKA_BOOTSTRAP": broker.bootstrap,
            "RUMINATE_KAFKA_PROFILE": "embedded",
            "RUMINATE_NODES": f'{{"away": "{NOBODY}"}}',
            "RUMINATE_NODE_STATUS_SECONDS": "0.1",
            "RUMINATE_STORE_URI": (tmp_path / "store").as_uri(),
            "RUMINATE_STATE_DIR": str(tmp_path),
        }
        command = [sys.executable, "-W", "error", "-m", "ruminate.deployer"]
        start: partial[AbstractContextManager[Any]] = partial(subprocess.Popen, command, env=environment)
        asyncio.run(scenario(settings, start))
