"""The pipe on aiokafka as its documentation shows it: a batch is read, sent, acknowledged, committed."""

from __future__ import annotations

import asyncio
import signal

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from ruminate.shared.partitioning import partition_of
from tests.benchmarks.peers.task import Task

PARTITIONS = 12


async def main() -> None:
    """Run until a signal."""
    task = Task.from_environment()
    step = task.step()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    consumer = AIOKafkaConsumer(
        task.source,
        bootstrap_servers=task.bootstrap,
        group_id=task.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=task.bootstrap,
        acks="all",
        enable_idempotence=True,
        linger_ms=3,
        max_batch_size=256 * 1024,
    )
    async with consumer, producer:
        while not stopping.is_set():
            sent = []
            for records in (await consumer.getmany(timeout_ms=200, max_records=1000)).values():
                for record in records:
                    output = step(record.value, record.headers)
                    if output is not None:
                        partition = partition_of(output.order, PARTITIONS)
                        sent.append(
                            await producer.send(task.sink, output.value, output.key, partition=partition, headers=output.headers)
                        )
            if sent:
                await asyncio.gather(*sent)
                await consumer.commit()


if __name__ == "__main__":
    asyncio.run(main())
