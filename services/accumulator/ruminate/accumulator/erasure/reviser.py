"""The reviser: an erasure takes its lines out of every dataset that holds them, and what they stood in leaves the store.

    register ──▶ look through the manifests ──▶ revised dataset in the store ──▶ dataset-revised-v1 ──▶ the old one is removed

The first record that follows a batch's last revision is its next one; whoever comes second is ignored. What there is to do is told
by the log and the store alone, so a crash at any step leaves nothing but work for the next look: a revision that nobody announced
is made again, an old dataset that nobody removed is found again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog
from pydantic import ValidationError

from ruminate.accumulator import metrics
from ruminate.accumulator.erasure.revise import LINES, Named, gone_from, named_in, revise
from ruminate.accumulator.making.dataset import in_a_folder, load_manifest, write_files
from ruminate.accumulator.making.manifest import KIND, MANIFEST, SIGNATURES, Manifest, name_of
from ruminate.accumulator.rebuilding.replay import KIND as REPLAYS
from ruminate.accumulator.rebuilding.replay import ReplayManifest
from ruminate.accumulator.records.names import Forgotten
from ruminate.accumulator.records.register import Register
from ruminate.schemas.batch import DatasetRevised, follows
from ruminate.schemas.envelope import derive_event_id
from ruminate.schemas.flow import DATASET_REVISED
from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.bus import Bus, Delivery
from ruminate.shared.scratch import sweep_scratch
from ruminate.shared.store import ArtifactDamaged, ArtifactMissing, Store, StoreError

log = structlog.get_logger()

SOURCE: Final = "/ruminate/accumulator"
_SWEEP_AGAIN: Final = timedelta(hours=1)
"""A replica that was frozen may have put in what it had in hand, long after the store was swept."""
_NEVER_SWEPT: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class Datasets:
    """The datasets of a chain as they are by now, by the numbers of their batches."""

    partition: int
    tenant: str
    target: str
    current: dict[int, ArtifactReference] = field(default_factory=dict)
    revisions: dict[int, int] = field(default_factory=dict)
    read_to: int = 0
    """Of dataset-revised-v1."""
    looked_through: dict[int, tuple[int, int]] = field(default_factory=dict)
    """At which revision, and after how many requests, a dataset was looked through."""
    swept_after: int = 0
    """How many requests there were when the store was swept."""
    sweep_at: datetime = _NEVER_SWEPT
    """When it is swept again, whatever was asked meanwhile."""

    def seal(self, number: int, dataset: ArtifactReference) -> None:
        """A batch has joined the chain."""
        self.current[number] = dataset

    def ignore(self) -> None:
        """A batch was sealed that is none of the chain: its dataset lies in the store all the same."""
        self.swept_after = 0

    def take(self, delivery: Delivery[DatasetRevised]) -> bool:
        """Whether this record is a dataset's next revision."""
        revised = delivery.payload
        self.read_to = max(self.read_to, delivery.position.offset + 1)
        if (revised.tenant, revised.target_model) != (self.tenant, self.target):
            return False
        if not follows(revised, self.current.get(revised.number), self.revisions.get(revised.number, 0)):
            return False
        self.current[revised.number] = revised.dataset
        self.revisions[revised.number] = revised.revision
        return True


class Reviser:
    """Revises the datasets of chains whose partitions are ours."""

    def __init__(self, bus: Bus, store: Store, register: Register, *, clock: Callable[[], datetime]) -> None:
        self._bus = bus
        self._store = store
        self._register = register
        self._clock = clock

    def due(self, datasets: Datasets) -> bool:
        """Whether there is anything to look through."""
        requests = len(self._register.of(datasets.tenant, datasets.target))
        return bool(requests) and (
            datasets.swept_after != requests
            or self._clock() >= datasets.sweep_at
            or any(
                datasets.looked_through.get(number) != (self._revision(datasets, number), requests) for number in datasets.current
            )
        )

    async def catch_up(self, datasets: Datasets) -> bool:
        """Read what was revised since we last looked; whether anything was. Raises BrokerUnavailable."""
        moved = False
        reading = self._bus.read(DATASET_REVISED, partitions={datasets.partition}, start=datasets.read_to)
        async with aclosing(reading) as deliveries:
            async for delivery in deliveries:
                moved |= datasets.take(delivery)
        return moved

    async def work(self, datasets: Datasets) -> bool:
        """Take out of the datasets of a chain whatever has to be forgotten; whether any was revised, by whomever.

        Raises BrokerUnavailable, StoreError, and OSError where the disk does not take it.
        """
        forgotten = self._register.of(datasets.tenant, datasets.target)
        requests = len(forgotten)
        moved = await self.catch_up(datasets)
        for number in sorted(datasets.current):
            looked = (self._revision(datasets, number), requests)
            while datasets.looked_through.get(number) != looked:
                manifest = await load_manifest(self._store, datasets.current[number])
                if gone := gone_from(named_in(manifest), forgotten):
                    moved |= await self._revise(datasets, number, manifest, gone)
                else:
                    datasets.looked_through[number] = looked
                looked = (self._revision(datasets, number), requests)
        began_at = self._clock()
        if datasets.swept_after != requests or began_at >= datasets.sweep_at:
            await self._sweep(datasets, forgotten)
            datasets.swept_after, datasets.sweep_at = requests, began_at + _SWEEP_AGAIN
        return moved

    def _revision(self, datasets: Datasets, number: int) -> int:
        return datasets.revisions.get(number, 0)

    async def _revise(self, datasets: Datasets, number: int, manifest: Manifest, gone: Mapping[UUID, str]) -> bool:
        old = datasets.current[number]
        files = {name: await self._store.read_file(old, name) for name in (*LINES, SIGNATURES)}
        revised, contents = await asyncio.to_thread(revise, manifest, files, gone)

        async def keep(folder: Path) -> ArtifactReference:
            await asyncio.to_thread(write_files, folder, {name: (data,) for name, data in contents.items()})
            return await self._store.put_tree(folder, kind=KIND, name=name_of(revised))

        new = await in_a_folder(keep)
        event = _announcement(revised, old, new, self._clock())
        cause = f"{revised.batch_id}/{revised.revision}"
        event_id = derive_event_id(tenant=event.tenant, cause_source=SOURCE, cause_id=cause, topic=DATASET_REVISED.name)
        envelope = self._bus.begin(DATASET_REVISED, event, event_id=str(event_id), source=SOURCE)
        await self._bus.publish(DATASET_REVISED, event, envelope)
        # Perhaps another replica was first; then what it made is looked through next.
        if not await self.catch_up(datasets):
            raise StoreError(f"revision {revised.revision} of {revised.batch_id} is acknowledged and cannot be read back yet")
        metrics.REVISED.labels(datasets.tenant, datasets.target).inc()
        log.info("dataset_revised", batch_id=revised.batch_id, revision=revised.revision, erased=event.erased_interactions)
        # Not before the log names the new one: whoever reads a dataset meanwhile finds one or the other.
        await self._store.remove_tree(old)
        return True

    async def _sweep(self, datasets: Datasets, forgotten: Forgotten) -> None:
        """Remove what no chain names and holds what has to be forgotten: old revisions, what was cut short or lost, replays."""
        await asyncio.to_thread(sweep_scratch)
        await self._store.remove_unfinished()
        current = {reference.sha256 for reference in datasets.current.values()}
        for name, reference in await self._store.list_trees(kind=KIND):
            # The whole name: another target's may begin with this one's.
            if name.rpartition("/")[0] == f"{datasets.tenant}/{datasets.target}" and reference.sha256 not in current:
                data = await self._manifest_of(reference)
                if data is None or _is_touched(data, reference, datasets, forgotten):
                    await self._remove(reference)
        for name, reference in await self._store.list_trees(kind=REPLAYS):
            if "/" not in name:
                continue  # what a replay says of all its datasets: it lies beside them, and has no manifest
            _, tenant, *target, _ = name.split("/")
            if (tenant, "/".join(target)) == (datasets.tenant, datasets.target):
                data = await self._manifest_of(reference)
                if data is None or _is_touched_replay(data, forgotten):
                    await self._remove(reference)

    async def _manifest_of(self, reference: ArtifactReference) -> bytes | None:
        """None where it is gone: then nobody reads that dataset again, and somebody has begun to remove it."""
        try:
            return await self._store.read_file(reference, MANIFEST)
        except ArtifactMissing:
            return None

    async def _remove(self, reference: ArtifactReference) -> None:
        await self._store.remove_tree(reference)
        log.info("dataset_removed", uri=reference.uri)


def _is_touched(data: bytes, reference: ArtifactReference, datasets: Datasets, forgotten: Forgotten) -> bool:
    """Whether a dataset of the chain holds what has to be forgotten. Raises ArtifactDamaged where its manifest cannot be read."""
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ArtifactDamaged(f"{reference.uri} holds no {MANIFEST} that can be read ({type(error).__name__})") from None
    whose = (manifest.tenant, manifest.target_model)
    return whose == (datasets.tenant, datasets.target) and bool(gone_from(named_in(manifest), forgotten))


def _is_touched_replay(data: bytes, forgotten: Forgotten) -> bool:
    """Whether a replayed dataset holds it, or is of a release that did not write down whose its rows are: it can be made again."""
    try:
        manifest = ReplayManifest.model_validate_json(data)
    except ValidationError:
        return True
    if any(not row.names for row in manifest.rows):
        return True
    named: list[Named] = [*manifest.rows, *manifest.aside, *manifest.rehearsed]
    return bool(gone_from(named, forgotten))


def _announcement(revised: Manifest, old: ArtifactReference, new: ArtifactReference, now: datetime) -> DatasetRevised:
    counts = revised.counts
    return DatasetRevised(
        tenant=revised.tenant,
        batch_id=revised.batch_id,
        target_model=revised.target_model,
        number=revised.number,
        revision=revised.revision,
        replaces=old,
        dataset=new,
        revised_at=now,
        erasure_ids=tuple(sorted({erased.erasure_id for erased in revised.erased})),
        erased_interactions=len({erased.salted_sha256 for erased in revised.erased}),
        rows=counts["train"],
        reasoning_rows=counts["reasoning"],
        direct_rows=counts["direct"],
        holdout_rows=counts["holdout"],
        replay_rows=counts["replay"] + counts["anchors"],
        generated_rows=counts["generated"],
        replay_generated_rows=counts.get("replay_generated", 0),
        preference_pairs=counts["preferences"],
        verifiable_questions=counts["verifiable"],
    )
