"""The shelf: rows that earlier batches of a chain have trained, and their lines."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from ruminate.accumulator.curation.rehearsal import Pick
from ruminate.accumulator.making.dataset import Made, load_manifest
from ruminate.accumulator.making.manifest import TRAIN, Manifest, RowOrigin
from ruminate.accumulator.making.spool import Slice, Spool
from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.store import ArtifactDamaged, ArtifactMissing, Store


@dataclass(frozen=True, slots=True)
class Shelved:
    """A row of an earlier batch."""

    pick: Pick
    batch_id: str
    place: int
    """Of its line in train.jsonl, from 0."""
    origin: RowOrigin
    line: Slice


class Shelf:
    """Finds rows in datasets of the store, or among those that were just made. Lines go into the spool."""

    def __init__(self, store: Store, spool: Spool, datasets: Mapping[int, ArtifactReference]) -> None:
        self._store = store
        self._spool = spool
        self._datasets = datasets
        self._made: dict[int, tuple[Manifest, list[Slice]]] = {}

    def put(self, made: Made) -> None:
        """Take in a dataset that was just made: it need not be in the store."""
        lines = [self._spool.keep(candidate.line) for candidate in made.candidates if not candidate.held_out]
        self._made[made.manifest.number] = (made.manifest, lines)

    async def find(self, picks: Iterable[Pick]) -> list[Shelved]:
        """These rows, in this order. Raises StoreError, naming the dataset that does not have them."""
        wanted = list(picks)
        found: dict[Pick, Shelved] = {}
        by_number: dict[int, list[Pick]] = {}
        for pick in wanted:
            by_number.setdefault(pick.number, []).append(pick)
        for number, of_batch in sorted(by_number.items()):
            found |= await self._of_batch(number, of_batch)
        return [found[pick] for pick in wanted]

    async def _of_batch(self, number: int, picks: list[Pick]) -> dict[Pick, Shelved]:
        if number in self._made:
            manifest, slices = self._made[number]
            places = _places(manifest)
            return {
                pick: Shelved(pick, manifest.batch_id, line, origin, slices[line])
                for pick in picks
                for line, origin in (places[pick.recorded],)
            }
        dataset = self._datasets[number]
        manifest = await load_manifest(self._store, dataset)
        data = await self._store.read_file(dataset, TRAIN)
        return await asyncio.to_thread(self._taken, manifest, data, picks, dataset.uri)

    def _taken(self, manifest: Manifest, data: bytes, picks: list[Pick], uri: str) -> dict[Pick, Shelved]:
        places, lines = _places(manifest), data.splitlines(keepends=True)
        found = {}
        for pick in picks:
            if pick.recorded not in places:
                raise ArtifactMissing(f"{uri} holds no row of the interaction {UUID(bytes=pick.recorded)} any more")
            number, origin = places[pick.recorded]
            line = lines[number] if number < len(lines) else b""
            if hashlib.sha256(line).hexdigest() != origin.sha256:
                raise ArtifactDamaged(f"{uri}: line {number + 1} of {TRAIN} is not the one that the manifest names")
            found[pick] = Shelved(pick, manifest.batch_id, number, origin, self._spool.keep(line))
        return found


def _places(manifest: Manifest) -> dict[bytes, tuple[int, RowOrigin]]:
    """The line of each trained row, from 0, by its interaction."""
    trained = (row for row in manifest.rows if row.split == "train")
    return {row.recorded_id.bytes: (line, row) for line, row in enumerate(trained)}
