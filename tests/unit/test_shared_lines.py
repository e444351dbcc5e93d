"""Lines end at a line feed, however a stream was cut, and at nothing else that a text may hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
from hypothesis import given
from hypothesis import strategies as st

from ruminate.shared.lines import lines_of, streamed_lines

ODD = "a\u2028b\x85c\x0bd\x0ce\x1cf"


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, content: bytes, sizes: list[int]) -> None:
        self._content, self._sizes = content, sizes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        at = 0
        for size in self._sizes:
            yield self._content[at : at + size]
            at += size
        yield self._content[at:]


def streamed(content: bytes, sizes: list[int]) -> list[bytes]:
    async def read() -> list[bytes]:
        return [line async for line in streamed_lines(httpx.Response(200, stream=_Pieces(content, sizes)))]

    return asyncio.run(read())


@given(st.lists(st.integers(1, 40), max_size=8))
def test_what_json_may_hold_ends_no_line_however_the_stream_is_cut(sizes: list[int]) -> None:
    told = [{"text": ODD}, {"text": "two"}]
    content = b"".join(json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in told)
    assert [json.loads(line) for line in streamed(content, sizes)] == told


def test_a_last_line_without_an_end_is_one_and_carriage_returns_go() -> None:
    assert streamed(b"one\r\n\r\ntwo", []) == [b"one", b"", b"two"]
    assert streamed(b"", []) == []


def test_the_lines_of_a_file_are_those_of_an_open_one() -> None:
    assert list(lines_of(f"{ODD}\ntwo\n".encode())) == [f"{ODD}\n", "two\n"]
