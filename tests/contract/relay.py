"""A reader in a process of its own, to be killed: tells every sample of one topic again on another.

python relay.py BOOTSTRAP STATE READER SOURCE TARGET
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from ruminate.shared.bus import Delivery
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.settings import ServiceSettings
from tests.contract.bus_contract import Sample, sample_topic


async def relay(bootstrap: str, state: str, reader: str, source: str, target: str) -> None:
    topic = sample_topic(partitions=2)
    reads, writes = replace(topic, name=source), replace(topic, name=target)

    async def handle(delivery: Delivery[Sample]) -> None:
        await asyncio.sleep(0.005)
        delivery.tell(writes, delivery.payload)

    settings = ServiceSettings(kafka_bootstrap=bootstrap, kafka_profile="embedded", state_dir=Path(state))
    async with KafkaBus(settings, reader=reader) as bus:
        await bus.serve(reads, handle, concurrency=2)


if __name__ == "__main__":
    asyncio.run(relay(*sys.argv[1:]))
