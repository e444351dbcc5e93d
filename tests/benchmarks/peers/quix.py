"""A service on quixstreams: at least once, its own commit interval, its own batches, an idempotent producer.

`to_topic` takes no partition, so records go where Kafka's murmur2 puts their key.
"""

from __future__ import annotations

import logging
from typing import Any

from quixstreams import Application
from quixstreams.models import SerializationContext, Serializer

from tests.benchmarks.peers.steps import Output
from tests.benchmarks.peers.task import Task


class ValueOf(Serializer):  # type: ignore[misc]
    """The bytes are made already."""

    def __call__(self, value: Output, ctx: SerializationContext) -> bytes:
        return value.value


def main() -> None:
    """Run until a signal."""
    task = Task.from_environment()
    step = task.step()
    app = Application(
        broker_address=task.bootstrap,
        consumer_group=task.group,
        auto_offset_reset="earliest",
        producer_extra_config={"enable.idempotence": True, "message.max.bytes": 1 << 24},
        state_dir=task.folder,
        auto_create_topics=False,
        loglevel=logging.WARNING,
    )
    source = app.topic(task.source, key_deserializer="bytes", value_deserializer="bytes")
    sink = app.topic(task.sink, key_serializer="bytes", value_serializer=ValueOf())

    def decide(value: bytes, _key: Any, _timestamp: int, headers: Any) -> Output | None:
        return step(value, headers)

    stream = app.dataframe(source).apply(decide, metadata=True)
    if task.job != "accumulator":
        if task.job == "collector":
            stream = stream.filter(lambda output: output is not None)
        stream.set_headers(lambda output, _key, _timestamp, _headers: output.headers).to_topic(sink, key=lambda output: output.key)
    app.run()


if __name__ == "__main__":
    main()
