"""Header names that are not UTF-8: read with what is not escaped (`\\xff`), where aiokafka would raise for ever.

Anybody who may write to a topic could otherwise stop its readers with one record: aiokafka raises while it parses, again at
each fetch, before there is a record that could become a dead letter. The fast parser stays; the slow one takes over for a
batch in which that one stumbled.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

_HEADERED_MAGIC = 2


def install() -> None:
    """Let every consumer of this process read so."""
    fetcher.MemoryRecords = _LenientRecords


class _LenientRecords(_MemoryRecordsPy):  # type: ignore[misc]
    """The batches of one fetch."""

    def next_batch(self) -> Any:
        piece = self._next_slice
        batch = super().next_batch()
        return batch if batch is None or batch.magic < _HEADERED_MAGIC else _LenientBatch(batch, piece)


class _LenientBatch:
    """One batch, as aiokafka's consumer looks at it."""

    def __init__(self, fast: Any, piece: memoryview) -> None:
        self._fast = fast
        self._piece = piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fast, name)

    def __next__(self) -> Any:
        return next(self._fast)

    def __iter__(self) -> Iterator[Any]:
        given = 0
        try:
            for record in self._fast:
                yield record
                given += 1
        except UnicodeDecodeError:
            yield from islice(_SlowBatch(self._piece), given, None)


class _SlowBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    """aiokafka's own parser in Python, over a buffer whose text is decoded with escapes."""

    _buffer: bytearray

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        if not isinstance(self._buffer, _EscapingBuffer):
            self._buffer = _EscapingBuffer(self._buffer)


class _EscapingBuffer(bytearray):
    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _EscapingBuffer(found) if isinstance(index, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        del errors
        return super().decode(encoding, "backslashreplace")
