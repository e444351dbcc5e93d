"""A service on faust-streaming: one agent, raw bytes in and out, acks from all replicas, batches as large as ours."""

from __future__ import annotations

import faust
from faust.types import StreamT

from ruminate.shared.partitioning import partition_of
from tests.benchmarks.peers.task import Task

PARTITIONS = 12


def main() -> None:
    """Run a worker until a signal."""
    task = Task.from_environment()
    step = task.step()
    app = faust.App(
        task.group,
        broker=f"kafka://{task.bootstrap}",
        datadir=task.folder,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        producer_acks=-1,
        producer_linger=0.003,
        producer_max_batch_size=256 * 1024,
        producer_max_request_size=1 << 24,
    )
    source = app.topic(task.source, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    sink = app.topic(task.sink, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

    async def serve(stream: StreamT[bytes]) -> None:
        async for event in stream.events():
            output = step(event.value, event.headers.items())
            if output is not None:
                await sink.send(
                    key=output.key,
                    value=output.value,
                    headers=output.headers,
                    partition=partition_of(output.order, PARTITIONS),
                )

    app.agent(source)(serve)
    faust.Worker(app, loglevel="warning").execute_from_commandline()


if __name__ == "__main__":
    main()
