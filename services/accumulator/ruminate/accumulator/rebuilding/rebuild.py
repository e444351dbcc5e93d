"""Rebuild: the datasets of a chain once more, out of the log, byte for byte.

    training-batch-sealed-v1 (the cuts), reasoning-assessed-v1 (the records), manifests  ->  the same bytes, or what differs

Every batch is decided anew by the functions that decided it first, with the values, the seed and the link of its own
manifest. A record that was repeated later is taken where compaction has left it. Where a record that was left out is
gone for good, nothing can be decided anew, and the rows are those that the manifest names; where a row is gone, the
batch cannot be rebuilt. Nothing is published, and nothing in the store is overwritten but what is damaged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ruminate.accumulator.curation.decontaminate import Protected
from ruminate.accumulator.curation.protect import ProtectedSets
from ruminate.accumulator.making.anchors import AnchorSets
from ruminate.accumulator.making.choose import Selection, interval_of, seed_of
from ruminate.accumulator.making.dataset import Made, as_earlier_releases, in_a_folder, load_manifest, write_files
from ruminate.accumulator.making.describe import Cut
from ruminate.accumulator.making.holdings import Holdings, account, load_holdings
from ruminate.accumulator.making.make import Sets, make, make_as_named
from ruminate.accumulator.making.manifest import KIND, POLICY_VERSION, Manifest, name_of
from ruminate.accumulator.making.shelf import Shelf
from ruminate.accumulator.making.spool import Entry, Spool
from ruminate.accumulator.records.names import Forgotten
from ruminate.accumulator.records.register import Register
from ruminate.accumulator.sealing.chain import BEGINNING, Fold, Link, Sealed, contradicts_itself, digest_of
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.batch import DatasetRevised, TrainingBatchSealed, as_revised, follows
from ruminate.schemas.flow import DATASET_REVISED, REASONING_ASSESSED, TRAINING_BATCH_SEALED
from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.bus import Bus, Delivery, OffsetLost
from ruminate.shared.store import ArtifactDamaged, ArtifactMissing, Store

Artifact = Literal["whole", "missing", "damaged"]
Outcome = Literal["identical", "differs", "incomplete", "unknown_policy"]
Told = Callable[[], None]


@dataclass(frozen=True, slots=True)
class SealedChain:
    """The batches of one tenant and target, as every reader of the log finds them.

    Where an erasure has revised a dataset, its batch names the last revision and has its rows.
    """

    partition: int
    tenant: str
    target: str
    batches: tuple[TrainingBatchSealed, ...]
    revisions: Mapping[int, tuple[DatasetRevised, ...]] = field(default_factory=dict, hash=False)
    """By the numbers of the batches, oldest first."""


@dataclass(frozen=True, slots=True)
class Vanished:
    """A record that the manifest accounts for and the log no longer holds. `event` is the id of a row's event, else its digest."""

    offset: int
    event: str
    taught: bool
    """Whether the dataset holds anything of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What became of one batch."""

    batch: TrainingBatchSealed
    outcome: Outcome
    artifact: Artifact
    """In the store, before."""
    put_back: bool = False
    decided: Literal["anew", "by_manifest", "without_manifest"] | None = None
    explanation: str = ""
    differences: tuple[str, ...] = ()
    vanished: tuple[Vanished, ...] = ()
    unaccounted: int = 0
    """Records of the interval that the manifest does not account for: its reader gave them up."""

    @property
    def whole_now(self) -> bool:
        """Whether the dataset is in the store by now, every byte."""
        return self.artifact == "whole" or self.put_back


async def read_chains(bus: Bus, *, tenant: str | None = None, target: str | None = None) -> list[SealedChain]:
    """Every chain, or those of a tenant and a target: the first record that extends a chain is its next batch."""
    chains: dict[tuple[str, str, int], list[TrainingBatchSealed]] = {}
    async for delivery in bus.read(TRAINING_BATCH_SEALED):
        sealed, partition = delivery.payload, delivery.position.partition
        if tenant in (None, sealed.tenant) and target in (None, sealed.target_model):
            batches = chains.setdefault((sealed.tenant, sealed.target_model, partition), [])
            if (Link.end_of(batches[-1]) if batches else BEGINNING).extended_by(sealed, partition=partition):
                batches.append(sealed)
    revisions: dict[tuple[str, str, int], dict[int, list[DatasetRevised]]] = {}
    async for revision in bus.read(DATASET_REVISED):
        revised, chain = revision.payload, (revision.payload.tenant, revision.payload.target_model, revision.position.partition)
        batches = chains.get(chain, [])
        if revised.number <= len(batches):
            place, known = revised.number - 1, revisions.setdefault(chain, {}).setdefault(revised.number, [])
            if follows(revised, batches[place].dataset, len(known)):
                batches[place] = as_revised(batches[place], revised)
                known.append(revised)
    return [
        SealedChain(
            partition,
            tenant,
            target,
            tuple(batches),
            {number: tuple(each) for number, each in revisions.get((tenant, target, partition), {}).items()},
        )
        for (tenant, target, partition), batches in sorted(chains.items())
        if batches
    ]


async def artifact_of(store: Store, dataset: ArtifactReference) -> Artifact:
    """Whether every byte of a dataset is where its reference says."""
    try:
        await store.check(dataset)
    except ArtifactMissing:
        return "missing"
    except ArtifactDamaged:
        return "damaged"
    return "whole"


async def rebuild_chain(
    bus: Bus,
    store: Store,
    chain: SealedChain,
    *,
    settings: AccumulatorSettings,
    protected: ProtectedSets | None = None,
    anchors: AnchorSets | None = None,
    numbers: Collection[int] | None = None,
    without_manifests: bool = False,
    told: Told = lambda: None,
) -> AsyncGenerator[Rebuilt, None]:
    """Rebuild these batches of a chain, or all, in its order, and put back what the store has lost.

    `settings` decide where there is no manifest: equal settings give equal bytes, and the sealed hash tells. `told` is
    called for every record that was read. Raises StoreError, BrokerUnavailable.
    """
    wanted = [batch for batch in chain.batches if numbers is None or batch.number in numbers]
    if not wanted:
        return
    # Without manifests, what earlier batches hold is known only by rebuilding them, too.
    begin = chain.batches[0] if without_manifests else wanted[0]
    with Spool() as spool:
        async with aclosing(reading(bus, chain.partition, begin.after_offset + 1)) as deliveries:
            log = _ChainLog(deliveries, chain, spool, told)
            rebuilding = _Rebuilding(
                store,
                chain,
                settings,
                protected or ProtectedSets(),
                anchors or AnchorSets(),
                forgotten=await _asked_to_forget(bus, chain),
                spool=spool,
                log=log,
                without_manifests=without_manifests,
            )
            for batch in chain.batches[: wanted[-1].number]:
                if batch.number < begin.number:
                    await rebuilding.pass_over(batch)
                    continue
                rebuilt = await rebuilding.rebuild(batch)
                if batch in wanted:
                    yield rebuilt


async def _asked_to_forget(bus: Bus, chain: SealedChain) -> Forgotten:
    register = Register(bus)
    await register.read()
    return register.of(chain.tenant, chain.target)


async def reading(bus: Bus, partition: int, start: int) -> AsyncGenerator[Delivery[ReasoningAssessed], None]:
    """A partition of assessments from `start` on, or from where the log begins by now."""
    try:
        async with aclosing(bus.read(REASONING_ASSESSED, partitions={partition}, start=start)) as deliveries:
            async for delivery in deliveries:
                yield delivery
    except OffsetLost:  # raised before anything is read
        async with aclosing(bus.read(REASONING_ASSESSED, partitions={partition})) as deliveries:
            async for delivery in deliveries:
                yield delivery


class _ChainLog:
    """The records of a chain that are still there, read forward only. No texts: those lie in the spool."""

    def __init__(
        self, deliveries: AsyncGenerator[Delivery[ReasoningAssessed], None], chain: SealedChain, spool: Spool, told: Told
    ) -> None:
        self._deliveries = deliveries
        self._chain = (chain.tenant, chain.target)
        self._spool = spool
        self._told = told
        self._entries: dict[int, Entry] = {}
        self._places: dict[bytes, int] = {}
        self._position = -1
        self._ended = False

    async def read_to(self, offset: int | None) -> None:
        """Read on to this offset, or to the end."""
        while not self._ended and (offset is None or self._position < offset):
            delivery = await anext(self._deliveries, None)
            if delivery is None:
                self._ended = True
                return
            self._position = delivery.position.offset
            self._told()
            assessed = delivery.payload
            if (assessed.tenant, assessed.target_model) == self._chain and not contradicts_itself(assessed):
                envelope = delivery.envelope
                entry = self._spool.add(assessed, event_id=envelope.id, assessed_at=envelope.time, offset=self._position)
                self._entries[self._position] = entry
                self._places.setdefault(entry.row.item.event, self._position)

    def interval(self, batch: TrainingBatchSealed) -> dict[int, Entry]:
        """What lies in a batch's interval, in the order of the log."""
        return {offset: entry for offset, entry in self._entries.items() if batch.after_offset < offset <= batch.to_offset}

    def find(self, named: Mapping[int, bytes]) -> dict[int, Entry]:
        """Events by the offsets at which they stood, in that order; where only a later repeat of one is left, that."""
        found = {}
        for offset, event in sorted(named.items()):
            entry = self._entries.get(offset)
            if entry is None or entry.row.item.event != event:
                entry = self._entries.get(self._places.get(event, -1))
            if entry is not None:
                found[offset] = entry
        return found

    def forget(self, to_offset: int) -> None:
        """Drop what lies up to here: no later batch needs it, for compaction moves a record only on."""
        for offset in [offset for offset in self._entries if offset <= to_offset]:
            event = self._entries.pop(offset).row.item.event
            if self._places.get(event) == offset:
                del self._places[event]


class _Rebuilding:
    """One chain, from batch to batch: what the batches so far hold, and the records that follow."""

    def __init__(
        self,
        store: Store,
        chain: SealedChain,
        settings: AccumulatorSettings,
        protected: ProtectedSets,
        anchors: AnchorSets,
        *,
        forgotten: Forgotten,
        spool: Spool,
        log: _ChainLog,
        without_manifests: bool,
    ) -> None:
        self._store = store
        self._chain = chain
        self._settings = settings.of_chain(chain.tenant, chain.target)
        self._protected = protected
        self._anchors = anchors
        self._forgotten = forgotten
        self._spool = spool
        self._shelf = Shelf(store, spool, {batch.number: batch.dataset for batch in chain.batches})
        self._log = log
        self._without_manifests = without_manifests
        self._settings_at_hand: list[AccumulatorSettings] = []
        self._protected_at_hand: dict[frozenset[str], Protected] = {}
        self._before = Sealed()
        self._unknown: TrainingBatchSealed | None = None
        """The first batch of which we do not know all that it holds: after it, nothing can be decided anew."""
        self._revised: int | None = None
        """The first batch that an erasure has revised: those after it were cut when it held more."""

    async def pass_over(self, batch: TrainingBatchSealed) -> None:
        """Take in what this batch holds, by its dataset."""
        try:
            holdings = await load_holdings(self._store, batch.dataset)
        except (ArtifactMissing, ArtifactDamaged):
            holdings = None
        self._take_in(batch, holdings)

    async def rebuild(self, batch: TrainingBatchSealed) -> Rebuilt:
        """Rebuild the next batch."""
        manifest = None if self._without_manifests else await self._manifest_of(batch)
        artifact = await artifact_of(self._store, batch.dataset)
        await self._log.read_to(batch.to_offset)
        made: Made | None = None
        if manifest is None:
            rebuilt, made = await self._without_manifest(batch, artifact)
        elif manifest.policy_version != POLICY_VERSION:
            explanation = (
                f"its manifest was written under policy_version {manifest.policy_version}; this program knows {POLICY_VERSION}. "
                "Rebuild it with a release that wrote it, or see what today's rules make of it with --policy"
            )
            rebuilt = Rebuilt(batch=batch, outcome="unknown_policy", artifact=artifact, explanation=explanation)
        else:
            rebuilt, made = await self._by_manifest(batch, artifact, manifest)
        if made is not None:
            self._shelf.put(made)
            self._take_in(batch, Holdings.of(made))
        elif self._without_manifests:
            self._take_in(batch, None)
        else:
            await self.pass_over(batch)
        self._log.forget(batch.to_offset)
        return self._elsewhere(rebuilt)

    def _elsewhere(self, rebuilt: Rebuilt) -> Rebuilt:
        """Say so where the sealed record points out of this store: what it points to has to be brought there."""
        if rebuilt.outcome != "identical" or rebuilt.whole_now:
            return rebuilt
        elsewhere = f"nothing was put back, for the sealed record points to {rebuilt.batch.dataset.uri}, out of this store"
        return replace(rebuilt, explanation="; ".join(filter(None, (rebuilt.explanation, elsewhere))))

    def _take_in(self, batch: TrainingBatchSealed, holdings: Holdings | None) -> None:
        if holdings is not None:
            account(holdings, self._before)
            if holdings.manifest.revision and self._revised is None:
                self._revised = batch.number
        elif self._unknown is None:
            self._unknown = batch

    async def _by_manifest(self, batch: TrainingBatchSealed, artifact: Artifact, manifest: Manifest) -> tuple[Rebuilt, Made | None]:
        """The outcome, and the sealed dataset where it was made."""
        rows = {row.offset: row.event_id for row in manifest.rows}
        named = {offset: digest_of(event_id) for offset, event_id in rows.items()}
        named |= {left.offset: bytes.fromhex(left.event) for left in manifest.left_out}
        found = self._log.find(named)
        if len(found) < len(named):
            await self._log.read_to(None)
            found = self._log.find(named)
        taught = rows.keys() | {aside.offset for aside in manifest.aside}
        vanished = tuple(
            Vanished(offset, rows.get(offset, named[offset].hex()), offset in taught)
            for offset in sorted(named.keys() - found.keys())
        )
        unaccounted = len(self._log.interval(batch).keys() - named.keys())
        if any(each.taught for each in vanished):
            lost = sum(each.taught for each in vanished)
            return Rebuilt(
                batch=batch,
                outcome="incomplete",
                artifact=artifact,
                explanation=f"{lost} of {len(taught)} of its records were taken out of the log, by an erasure or its retention",
                vanished=vanished,
                unaccounted=unaccounted,
            ), None
        in_the_way = []
        if vanished:
            in_the_way.append(f"{len(vanished)} records that were left out are no longer in the log")
        if self._unknown is not None:
            in_the_way.append(f"what batch {self._unknown.number} holds is not known")
        if manifest.revision:
            in_the_way.append(f"an erasure has taken {len(manifest.erased)} lines out of it")
        elif self._revised is not None:
            in_the_way.append(f"batch {self._revised} is less than it was when this one was cut")
        protected = _hashes(manifest, "protected_sets")
        if missing := sorted(name for name, sha256 in protected.items() if self._protected.sha256.get(name) != sha256):
            in_the_way.append(f"the protected set {', '.join(missing)} is not at hand as it was (RUMINATE_PROTECTED_SETS)")
        named_anchors = _hashes(manifest, "anchor_rows")
        anchors = self._anchors.as_named(named_anchors)
        if anchors is None:
            missing = sorted(name for name, sha256 in named_anchors.items() if self._anchors.sha256.get(name) != sha256)
            explanation = f"the anchor rows {', '.join(missing)} are not at hand as they were (RUMINATE_ANCHOR_ROWS)"
            return Rebuilt(batch=batch, outcome="incomplete", artifact=artifact, explanation=explanation), None
        try:
            if in_the_way:
                settings = settings_of(manifest)
                made = await make_as_named(
                    manifest, found, self._spool, shelf=self._shelf, anchors=self._anchors, settings=settings
                )
            else:
                # What was withdrawn by then, and no more: whatever was since is in a revision's manifest.
                withdrawn = {left.offset for left in manifest.left_out if left.reason == "withdrawn"}
                made = await self._decide(
                    batch, found, settings_of(manifest), protected=protected, anchors=anchors, withdrawn=withdrawn
                )
        except (ArtifactMissing, ArtifactDamaged) as error:
            return _not_rehearsed(batch, artifact, error), None
        identical, put_back = await self._keep(batch, made, artifact)
        rebuilt = Rebuilt(
            batch=batch,
            outcome="identical" if identical else "differs",
            artifact=artifact,
            put_back=put_back,
            decided="by_manifest" if in_the_way else "anew",
            explanation=f"not decided anew, the rows are those that the manifest names: {'; '.join(in_the_way)}"
            if in_the_way
            else "",
            differences=() if identical else tuple(_differences(manifest, made.manifest)),
            vanished=vanished,
            unaccounted=unaccounted,
        )
        return rebuilt, made if identical else None

    async def _without_manifest(self, batch: TrainingBatchSealed, artifact: Artifact) -> tuple[Rebuilt, Made | None]:
        """Decide with the settings that we have; the sealed hash tells whether they are those of the batch."""
        why = "manifests are not looked at" if self._without_manifests else "its manifest is gone"
        if self._revised is not None or batch.number in self._chain.revisions:
            explanation = f"{why}, and an erasure has revised it or a batch before it: only the manifest says what is left of it"
            return Rebuilt(batch=batch, outcome="incomplete", artifact=artifact, explanation=explanation), None
        if self._unknown is not None:
            explanation = f"{why}, and what batch {self._unknown.number} holds is not known: that decides what this one may hold"
            return Rebuilt(batch=batch, outcome="incomplete", artifact=artifact, explanation=explanation), None
        entries = self._log.interval(batch)
        protected, anchors = self._protected.sha256, self._anchors
        withdrawn = {
            offset for offset, entry in entries.items() if self._forgotten.withdrawn(entry.row.names, entry.row.occurred_at)
        }
        for settings in await self._settings_to_try():
            try:
                made = await self._decide(batch, entries, settings, protected=protected, anchors=anchors, withdrawn=withdrawn)
            except (ArtifactMissing, ArtifactDamaged) as error:
                return _not_rehearsed(batch, artifact, error), None
            identical, put_back = await self._keep(batch, made, artifact)
            if identical:
                return Rebuilt(
                    batch=batch,
                    outcome="identical",
                    artifact=artifact,
                    put_back=put_back,
                    decided="without_manifest",
                    explanation=f"{why}; decided by the log and the settings, and the sealed hash agrees",
                ), made
        made = await self._decide(batch, entries, self._settings, protected=protected, anchors=anchors, withdrawn=withdrawn)
        counts = made.manifest.counts
        return Rebuilt(
            batch=batch,
            outcome="differs",
            artifact=artifact,
            decided="without_manifest",
            explanation=f"{why}; {len(entries)} records of its interval are in the log, and with the settings at hand they give "
            f"{counts['train']} rows ({counts['reasoning']} reasoning) and {counts['holdout']} held out, the sealed batch has "
            f"{batch.rows} ({batch.reasoning_rows} reasoning) and {batch.holdout_rows}. Set RUMINATE_* as they were when it was "
            "sealed; a record that was erased since cannot come back",
            differences=("which rows differ is not known without the manifest",),
        ), None

    async def _settings_to_try(self) -> list[AccumulatorSettings]:
        """Ours, then those that other batches of the chain were cut with."""
        if not self._settings_at_hand:
            self._settings_at_hand.append(self._settings)
            for batch in () if self._without_manifests else self._chain.batches:
                manifest = await self._manifest_of(batch)
                if manifest is not None and manifest.policy_version == POLICY_VERSION:
                    settings = settings_of(manifest)
                    if settings not in self._settings_at_hand:
                        self._settings_at_hand.append(settings)
        return self._settings_at_hand

    async def _decide(
        self,
        batch: TrainingBatchSealed,
        entries: Mapping[int, Entry],
        settings: AccumulatorSettings,
        *,
        protected: Mapping[str, str],
        anchors: AnchorSets,
        withdrawn: Collection[int],
    ) -> Made:
        fold = Fold(sealed=self._before)
        for offset, entry in entries.items():
            fold.add(entry.item(offset=offset, limits=settings.row_limits))
        link = Link(batch.number - 1, batch.previous_batch_id, batch.after_offset)
        seed = seed_of(batch.batch_id, settings.shuffle_seed)
        made = await make(
            interval_of(fold).without(withdrawn),
            entries,
            self._spool,
            cut=Cut(batch.batch_id, seed, batch.tenant, batch.target_model, self._chain.partition, link, batch.to_offset),
            known=self._before.known,
            shelf=self._shelf,
            sets=Sets(self._protected_by(frozenset(protected)), protected, anchors),
            settings=settings,
        )
        if isinstance(made, Selection):
            raise TypeError("whatever it comes to is worth it")
        # A release that did not count them has announced none, and written down none.
        return made if batch.replay_generated_rows else as_earlier_releases(made)

    def _protected_by(self, names: frozenset[str]) -> Protected:
        if names not in self._protected_at_hand:
            self._protected_at_hand[names] = self._protected.only(names)
        return self._protected_at_hand[names]

    async def _keep(self, batch: TrainingBatchSealed, made: Made, artifact: Artifact) -> tuple[bool, bool]:
        """Whether these are the sealed bytes; and whether they were put back, because the store did not have them whole."""

        async def keep(folder: Path) -> tuple[bool, bool]:
            await asyncio.to_thread(write_files, folder, made.files())
            address = await self._store.address_tree(folder, kind=KIND, name=name_of(made.manifest))
            if address.sha256 != batch.dataset.sha256:
                return False, False
            put_back = artifact != "whole" and address == batch.dataset
            if put_back:
                await self._store.put_tree(folder, kind=KIND, name=name_of(made.manifest))
            return True, put_back

        return await in_a_folder(keep)

    async def _manifest_of(self, batch: TrainingBatchSealed) -> Manifest | None:
        try:
            return await load_manifest(self._store, batch.dataset)
        except (ArtifactMissing, ArtifactDamaged):
            return None


def _not_rehearsed(batch: TrainingBatchSealed, artifact: Artifact, error: Exception) -> Rebuilt:
    explanation = f"rows of an earlier batch are trained with it, and cannot be read: {error}. Rebuild that one first"
    return Rebuilt(batch=batch, outcome="incomplete", artifact=artifact, explanation=explanation)


def settings_of(manifest: Manifest) -> AccumulatorSettings:
    """The settings that a batch was cut with, as far as they shape it; a manifest knows protected sets by their hashes alone."""
    return AccumulatorSettings.written_down(
        {name: value for name, value in manifest.policy.items() if name not in ("protected_sets", "anchor_rows")}
    )


def _hashes(manifest: Manifest, files: Literal["protected_sets", "anchor_rows"]) -> dict[str, str]:
    """The SHA-256 of each file of operators that took part in this batch."""
    sets = manifest.policy.get(files)
    return {name: str(sha256) for name, sha256 in sets.items()} if isinstance(sets, dict) else {}


def _differences(sealed: Manifest, made: Manifest) -> Iterable[str]:
    """What differs, row by row, then whatever else does."""
    yield from _row_differences(sealed, made)
    if [row.offset for row in sealed.rows] != [row.offset for row in made.rows]:
        yield "the rows stand in another order"
    for name in Manifest.model_fields:
        if name not in ("rows", "left_out") and getattr(sealed, name) != getattr(made, name):
            yield f"{name} differs"


def _row_differences(sealed: Manifest, made: Manifest) -> Iterable[str]:
    was, now = ({row.offset: row for row in each.rows} for each in (sealed, made))
    left_out_was, left_out_now = ({left.offset: left.reason for left in each.left_out} for each in (sealed, made))
    for offset in sorted(was.keys() | now.keys() | left_out_was.keys() | left_out_now.keys()):
        if offset in was and offset in now:
            one, other = was[offset], now[offset]
            changed = [name for name in type(one).model_fields if getattr(one, name) != getattr(other, name)]
            if changed:
                yield f"row of offset {offset} (event {one.event_id}): {', '.join(changed)} differ"
        elif offset in was:
            yield f"row of offset {offset} (event {was[offset].event_id}): left out as {left_out_now.get(offset)}"
        elif offset in now:
            yield f"offset {offset} (event {now[offset].event_id}): a row, and was left out as {left_out_was.get(offset)}"
        elif left_out_was.get(offset) != left_out_now.get(offset):
            yield f"offset {offset}: left out as {left_out_now.get(offset)}, and was left out as {left_out_was.get(offset)}"
