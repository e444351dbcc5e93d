"""A reader in a process of its own, to be killed: tells every sample of one topic again on another.

RUMINATE_KAFKA_BOOTSTRAP=… python -m tests.contract.relay READER SOURCE TARGET [SECONDS]

Every setting is read from the environment; each sample takes SECONDS.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace

from ruminate.shared.bus import Delivery
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.settings import ServiceSettings
from tests.contract.bench import Sample, sample_topic


async def relay(reader: str, source: str, target: str, seconds: str = "0.005") -> None:
    topic = sample_topic(partitions=2)
    reads, writes = replace(topic, name=source), replace(topic, name=target)

    async def handle(delivery: Delivery[Sample]) -> None:
        await asyncio.sleep(float(seconds))
        delivery.tell(writes, delivery.payload)

    async with KafkaBus(ServiceSettings(), reader=reader) as bus:
        await bus.serve(reads, handle, concurrency=2)


if __name__ == "__main__":
    asyncio.run(relay(*sys.argv[1:]))
