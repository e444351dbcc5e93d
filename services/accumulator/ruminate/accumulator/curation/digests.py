"""Sets of 16-byte digests in flat memory: a chain remembers everything it ever sealed, for as long as it lives.

A `set` of `bytes` takes about 100 bytes a digest; these take 20 to 30. A digest lies in one of many shards, each its digests
one after the other, short enough to be searched through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

DIGEST_BYTES: Final = 16
_MOST_A_SHARD: Final = 64
_DIVIDED_BY: Final = 4


class DigestSet:
    """A set that only grows."""

    __slots__ = ("_count", "_shards")

    def __init__(self, digests: Iterable[bytes] = ()) -> None:
        self._count = 0
        self._shards = [bytearray()]
        for digest in digests:
            self.add(digest)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, digest: bytes) -> bool:
        if not self._count:
            return False
        shard = self._shard_of(digest)
        at = shard.find(digest)
        while at % DIGEST_BYTES and at > 0:  # the end of one and the beginning of the next
            at = shard.find(digest, at + 1)
        return at >= 0

    def add(self, digest: bytes) -> None:
        """Put it in; nothing happens where it is in. Raises ValueError where it has not 16 bytes."""
        if len(digest) != DIGEST_BYTES:
            raise ValueError(f"a digest has {DIGEST_BYTES} bytes, this one {len(digest)}")
        if digest in self:
            return
        self._shard_of(digest).extend(digest)
        self._count += 1
        if self._count > _MOST_A_SHARD * len(self._shards):
            self._divide()

    def _shard_of(self, digest: bytes) -> bytearray:
        shards = self._shards
        return shards[hash(digest) % len(shards)]

    def _divide(self) -> None:
        shards, self._shards = self._shards, [bytearray() for _ in range(_DIVIDED_BY * len(self._shards))]
        for number, shard in enumerate(shards):
            shards[number] = bytearray()  # what is moved need not be in memory twice
            for start in range(0, len(shard), DIGEST_BYTES):
                digest = bytes(shard[start : start + DIGEST_BYTES])
                self._shard_of(digest).extend(digest)


class Sides:
    """On which side of a split each conversation is: held out, or trained. The first word counts."""

    __slots__ = ("_held_out", "_trained")

    def __init__(self, held_out: Mapping[bytes, bool] = MappingProxyType({})) -> None:
        self._held_out = DigestSet(digest for digest, is_held_out in held_out.items() if is_held_out)
        self._trained = DigestSet(digest for digest, is_held_out in held_out.items() if not is_held_out)

    def __len__(self) -> int:
        return len(self._held_out) + len(self._trained)

    def get(self, conversation: bytes) -> bool | None:
        """Whether it is held out; None where nobody has said."""
        return False if conversation in self._trained else True if conversation in self._held_out else None

    def settle(self, conversation: bytes, *, held_out: bool) -> None:
        """Say on which side it is, unless that was said before."""
        if self.get(conversation) is None:
            (self._held_out if held_out else self._trained).add(conversation)
