"""From an event that was told to the record that is written: its partition, its key, its bytes, its headers."""

from __future__ import annotations

from ruminate.shared.bus import Told, Unprocessable
from ruminate.shared.decoding import encode
from ruminate.shared.partitioning import partition_of
from ruminate.shared.shares import Outgoing


def to_record(told: Told) -> Outgoing:
    """What is written for an event. Raises Unprocessable where the topic does not take an event of this size."""
    topic, payload, envelope = told.topic, told.payload, told.envelope
    value = payload if isinstance(payload, bytes) else encode(payload)
    if len(value) > topic.max_message_bytes:
        raise Unprocessable("too_large", f"the event for {topic.name} has {len(value)} bytes; it takes {topic.max_message_bytes}")
    key = envelope.id if topic.record_key == "event_id" else str(getattr(payload, topic.record_key))
    return Outgoing(topic.name, partition_of(told.order, topic.partitions), key.encode(), value, envelope.to_headers())
