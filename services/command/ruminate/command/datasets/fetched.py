"""A dataset on this machine's disk, read one line at a time: whatever its size, little of it is in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import ijson
from pydantic import ValidationError

from ruminate.accumulator.making.manifest import MANIFEST, AsideOrigin, Manifest, PairOrigin, QuestionOrigin, Rehearsed, RowOrigin
from ruminate.command.datasets.files import DATA_FILES, DataFile, Origin
from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.scratch import scratch, sweep_scratch
from ruminate.shared.store import ArtifactDamaged, Store

_LONG: Final = ("rows", "rehearsed", "pairs", "questions", "aside", "left_out")
"""What a manifest says of each record and of each line."""
_TOLD: Final[dict[str, type[RowOrigin | Rehearsed | PairOrigin | QuestionOrigin | AsideOrigin]]] = {
    "rows": RowOrigin,
    "rehearsed": Rehearsed,
    "pairs": PairOrigin,
    "questions": QuestionOrigin,
    "aside": AsideOrigin,
}


class Line(NamedTuple):
    """One line: its number from 1 in its file, its bytes, and where it comes from."""

    number: int
    data: bytes
    origin: Origin


class Fetched:
    """The files of a dataset."""

    def __init__(self, folder: Path, dataset: ArtifactReference) -> None:
        self._folder = folder
        self._dataset = dataset

    def head(self) -> Manifest:
        """The manifest without what it says of single lines and records. Raises ArtifactDamaged."""
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

    def lines(self, file: DataFile) -> Iterator[bytes]:
        """The lines of a file; none where the release that wrote the dataset had no such file."""
        path = self._folder / file.path
        if path.exists():
            with path.open("rb") as lines:
                yield from lines

    def rows(self, file: DataFile) -> Iterator[Line]:
        """The lines of a file in their order. Raises ArtifactDamaged where one is not the one that is named."""
        named = (origin for origin in self._told(file.told_in) if file.tells(origin))
        for number, (data, origin) in enumerate(zip_longest(self.lines(file), named), start=1):
            if data is None or origin is None:
                raise ArtifactDamaged(f"{self._dataset.uri}: {file.path} has not the lines that {MANIFEST} names")
            if hashlib.sha256(data).hexdigest() != origin.sha256:
                raise ArtifactDamaged(f"{self._dataset.uri}: line {number} of {file.path} is not the one that {MANIFEST} names")
            yield Line(number, data, origin)

    def fresh(self) -> Iterator[RowOrigin]:
        """What is said of the rows."""
        yield from self._told("rows")

    def named(self) -> Iterator[RowOrigin | AsideOrigin]:
        """Whatever a pair or a question may come from: rows, and what teaches without one."""
        yield from self.fresh()
        yield from self.aside()

    def rehearsed(self) -> Iterator[Rehearsed]:
        """What is said of the lines of replay.jsonl."""
        yield from self._told("rehearsed")

    def aside(self) -> Iterator[AsideOrigin]:
        """What is said of the records that teach without a row."""
        yield from self._told("aside")

    def pairs(self) -> Iterator[PairOrigin]:
        """What is said of the lines of preferences.jsonl."""
        yield from self._told("pairs")

    def questions(self) -> Iterator[QuestionOrigin]:
        """What is said of the questions for practice, those of both files."""
        yield from self._told("questions")

    def left_out(self) -> Iterator[tuple[str, str | None]]:
        """Of each record that has no row, the reason and the detail."""
        with (self._folder / MANIFEST).open("rb") as file:
            for said in ijson.items(file, "left_out.item", use_float=True):
                yield said["reason"], said.get("detail")

    def _told(self, place: Literal["rows", "rehearsed", "pairs", "questions", "aside"]) -> Iterator[Any]:
        with (self._folder / MANIFEST).open("rb") as file:
            for said in ijson.items(file, f"{place}.item", use_float=True):
                try:
                    yield _TOLD[place].model_validate(said, strict=False)
                except ValidationError as error:
                    raise self._unreadable(error) from None

    def _unreadable(self, error: ValidationError) -> ArtifactDamaged:
        return ArtifactDamaged(f"{self._dataset.uri} holds no {MANIFEST} that can be read ({type(error).__name__})")


@asynccontextmanager
async def fetched(store: Store, dataset: ArtifactReference) -> AsyncIterator[Fetched]:
    """A copy of a dataset, every byte verified, for as long as the context lasts. Raises ArtifactMissing, ArtifactDamaged."""
    await asyncio.to_thread(sweep_scratch)
    with scratch("dataset") as folder:
        await store.fetch(dataset, to=folder)
        yield Fetched(folder, dataset)


ROWS: Final = (DATA_FILES["train"], DATA_FILES["holdout"])
"""The files of the rows that are of this batch's own interval."""
