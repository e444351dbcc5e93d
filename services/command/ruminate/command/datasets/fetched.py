"""A dataset on this machine's disk, read one row at a time: whatever its size, little of it is in memory."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import ijson
from pydantic import ValidationError

from ruminate.accumulator.dataset import MANIFEST, Manifest, RowOrigin
from ruminate.command.datasets.look import FILES
from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.store import ArtifactDamaged, Store

Split = Literal["train", "holdout"]
SPLITS: Final[tuple[Split, ...]] = ("train", "holdout")

_LONG: Final = ("rows", "left_out")
"""What a manifest says of each record."""


class Line(NamedTuple):
    """One row: its number from 1 in the split's file, its bytes, and where it comes from."""

    number: int
    data: bytes
    origin: RowOrigin


class Fetched:
    """The three files of a dataset."""

    def __init__(self, folder: Path, dataset: ArtifactReference) -> None:
        self._folder = folder
        self._dataset = dataset

    def head(self) -> Manifest:
        """The manifest without its rows and without what was left out. Raises ArtifactDamaged."""
        builder = ijson.ObjectBuilder()
        with (self._folder / MANIFEST).open("rb") as file:
            for prefix, event, value in ijson.parse(file, use_float=True):
                if prefix.partition(".")[0] not in _LONG:
                    builder.event(event, value)
        said: dict[str, Any] = builder.value
        try:
            return Manifest.model_validate(said | dict.fromkeys(_LONG, ()), strict=False)
        except ValidationError as error:
            raise self._unreadable(error) from None

    def path(self, split: Split) -> Path:
        """The file of a split."""
        return self._folder / FILES[split]

    def lines(self, split: Split) -> Iterator[bytes]:
        """The lines of a split."""
        with self.path(split).open("rb") as file:
            yield from file

    def rows(self, split: Split) -> Iterator[Line]:
        """The rows of a split in the order of its lines. Raises ArtifactDamaged where a line is not the one that is named."""
        origins = (row for row in self._origins() if row.split == split)
        number = 0
        for number, (data, origin) in enumerate(zip(self.lines(split), origins, strict=False), start=1):
            if hashlib.sha256(data).hexdigest() != origin.sha256:
                raise ArtifactDamaged(f"{self._dataset.uri}: line {number} of {FILES[split]} is not the one that {MANIFEST} names")
            yield Line(number, data, origin)
        if number != self.head().counts[split]:
            raise ArtifactDamaged(f"{self._dataset.uri}: {FILES[split]} has not the rows that {MANIFEST} counts")

    def _origins(self) -> Iterator[RowOrigin]:
        with (self._folder / MANIFEST).open("rb") as file:
            for said in ijson.items(file, "rows.item", use_float=True):
                try:
                    yield RowOrigin.model_validate(said, strict=False)
                except ValidationError as error:
                    raise self._unreadable(error) from None

    def _unreadable(self, error: ValidationError) -> ArtifactDamaged:
        return ArtifactDamaged(f"{self._dataset.uri} holds no {MANIFEST} that can be read ({type(error).__name__})")


@asynccontextmanager
async def fetched(store: Store, dataset: ArtifactReference) -> AsyncIterator[Fetched]:
    """A copy of a dataset, every byte verified, for as long as the context lasts. Raises ArtifactMissing, ArtifactDamaged."""
    with tempfile.TemporaryDirectory(prefix="ruminate-dataset-", ignore_cleanup_errors=True) as name:
        await store.fetch(dataset, to=Path(name))
        yield Fetched(Path(name), dataset)
