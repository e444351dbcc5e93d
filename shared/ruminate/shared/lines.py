"""Lines, which end where a file's or a stream's do, at a line feed.

`str.splitlines`, and what httpx makes of it, takes U+2028, U+0085 and others for ends of lines, which stand in JSON as they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from io import StringIO

import httpx


def lines_of(content: bytes) -> Iterable[str]:
    """The lines of a file's content, each with its line feed. Raises UnicodeDecodeError."""
    return StringIO(content.decode(), newline="\n")


async def streamed_lines(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The lines of an answer as they come, without their ends; what follows the last of them, too."""
    rest = b""
    async for piece in answer.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
    if rest:
        yield rest
