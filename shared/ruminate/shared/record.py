"""Records of a log, and where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Position(NamedTuple):
    """Where a record stands in the log."""

    topic: str
    partition: int
    offset: int


class Record(Protocol):
    """One record, as any broker gives it."""

    @property
    def topic(self) -> str: ...

    @property
    def partition(self) -> int: ...

    @property
    def offset(self) -> int: ...

    @property
    def timestamp(self) -> int: ...

    @property
    def key(self) -> bytes | None: ...

    @property
    def value(self) -> bytes | None: ...

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...
