"""Which partition an ordering key is in: Kafka's murmur2, the same wherever a record is written."""

from __future__ import annotations

from functools import lru_cache

from aiokafka.partitioner import murmur2


@lru_cache(maxsize=65536)  # pure Python: 5 µs a key
def partition_of(order: str, partitions: int) -> int:
    """The partition of `order` among `partitions`, as Kafka's own clients choose it for that key."""
    hashed: int = murmur2(order.encode())
    return (hashed & 0x7FFFFFFF) % partitions
