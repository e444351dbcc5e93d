"""The body of a request, held up to a limit: as it was sent, or unpacked."""

from __future__ import annotations

import zlib
from typing import Final, Protocol

from starlette.exceptions import HTTPException
from starlette.requests import Request

from ruminate.schemas.topic import MEBIBYTE

# What is over the limit is read on and thrown away, so that a client that is still sending gets to read the answer.
_DISCARDED_BYTES: Final = 64 * MEBIBYTE
_GZIP: Final = 31  # window bits of zlib that mean a gzip header


async def read_body(request: Request, limit: int, *, gzipped: bool = False) -> bytes:
    """The whole body, unpacked where it is `gzipped`. The limit holds for what was sent and for what it unpacks to, in bytes.

    Raises HTTPException (413, 400) and ClientDisconnect.
    """
    chunks: list[bytes] = []
    taken = sent = 0
    unpacking: _Unpacking = _Gzip() if gzipped else _Plain()
    async for chunk in request.stream():
        sent += len(chunk)
        if taken <= limit and sent <= limit:
            piece = unpacking.feed(chunk, limit + 1 - taken)
            taken += len(piece)
            chunks.append(piece)
        else:
            chunks.clear()
            if sent > limit + _DISCARDED_BYTES:
                break
    if taken > limit or sent > limit:
        unpacked = ", unpacked," if gzipped else ""
        raise HTTPException(413, f"the body{unpacked} has more than {limit} bytes, which is the limit; send less at once")
    if not unpacking.whole:
        raise HTTPException(400, "the gzip body ends before its end; send it again, whole")
    return b"".join(chunks)


class _Unpacking(Protocol):
    @property
    def whole(self) -> bool: ...

    def feed(self, chunk: bytes, most: int) -> bytes: ...


class _Plain:
    whole = True

    def feed(self, chunk: bytes, most: int) -> bytes:
        return chunk


class _Gzip:
    """One gzip member after the other; never more than `most` bytes at once, however small they were packed."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._begun = False

    @property
    def whole(self) -> bool:
        return self._member.eof or not self._begun

    def feed(self, chunk: bytes, most: int) -> bytes:
        pieces: list[bytes] = []
        try:
            while chunk and most > 0:
                if self._member.eof:
                    self._member = zlib.decompressobj(_GZIP)
                self._begun = True
                piece = self._member.decompress(chunk, most)
                most -= len(piece)
                pieces.append(piece)
                chunk = self._member.unused_data or self._member.unconsumed_tail
        except zlib.error:
            raise HTTPException(400, "the body is not gzip, as content-encoding says") from None
        return b"".join(pieces)
