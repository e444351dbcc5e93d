"""The accumulator at work: fold what was assessed, read what was sealed, seal what is due.

Memory holds no texts: at the cut the interval is read again from the log. So a hundred thousand interactions that wait
cost tens of megabytes, and what an erasure has taken out of the log by then is in no batch.

The log decides, also about our own batches: whatever was published is read back, and only what is found there as the first
record that extends the chain moves the chain on. A second replica, a repeated publication and a restart are one case.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from ruminate.accumulator import metrics
from ruminate.accumulator.curation.protect import ProtectedSets
from ruminate.accumulator.erasure.reviser import Datasets, Reviser
from ruminate.accumulator.making.anchors import AnchorSets
from ruminate.accumulator.making.candidate import without_row
from ruminate.accumulator.making.choose import Interval, Selection, interval_of, seed_of
from ruminate.accumulator.making.dataset import keep_dataset
from ruminate.accumulator.making.describe import Cut
from ruminate.accumulator.making.holdings import account, load_holdings
from ruminate.accumulator.making.make import Sets, make
from ruminate.accumulator.making.manifest import Manifest
from ruminate.accumulator.making.shelf import Shelf
from ruminate.accumulator.making.spool import Entry, Spool
from ruminate.accumulator.records.names import names_in
from ruminate.accumulator.records.register import Register
from ruminate.accumulator.sealing.chain import BEGINNING, Counts, Fold, Item, Link, Sealed, batch_id_of, contradicts_itself, item_of
from ruminate.accumulator.sealing.decide import (
    Look,
    Policy,
    Progress,
    Seal,
    decide,
    enough,
    expected,
    paused,
    reason_to_seal,
    usable_rows,
)
from ruminate.accumulator.sealing.drift import Looked, look
from ruminate.accumulator.sealing.pauses import Pause
from ruminate.accumulator.sealing.requests import Requests
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.flow import BATCH_REQUESTED, DATASET_REVISED, ERASURE_REQUESTED, REASONING_ASSESSED, TRAINING_BATCH_SEALED
from ruminate.schemas.payload import ArtifactReference, Payload
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import BrokerUnavailable, Bus, Delivery, Hold, Unavailable, Unprocessable
from ruminate.shared.following import Following
from ruminate.shared.store import Store, StoreError

log = structlog.get_logger()

P = TypeVar("P", bound=Payload)
Clock = Callable[[], datetime]


@dataclass(slots=True)
class Chain:
    """One tenant's and target's chain, as far as we have read it, and the fold after its end."""

    partition: int
    tenant: str
    target: str
    settings: AccumulatorSettings
    """Its own, where it has some."""
    policy: Policy
    requests: Requests
    fold: Fold
    sealed_read_to: int
    sealed_at: deque[datetime]
    datasets: Datasets
    link: Link = BEGINNING
    unread_manifests: list[int] = field(default_factory=list)
    last: Delivery[ReasoningAssessed] | None = None
    folded_at: datetime | None = None
    look: Look | None = None
    looked: Looked | None = None
    held: deque[tuple[int, Hold]] = field(default_factory=deque)
    problems: tuple[str, ...] = ()
    blocked_until: datetime | None = None
    unerased: str = ""
    """Why what has to be forgotten could not be taken out the last time."""
    shown: tuple[Counts, Pause | None, int] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def folded_to(self) -> int:
        """The last offset that the fold has taken in, or the end of the last batch."""
        return self.last.position.offset if self.last is not None else self.link.to_offset

    @property
    def labels(self) -> tuple[str, str]:
        """Of its metrics."""
        return self.tenant, self.target

    def progress(self) -> Progress:
        """What the decision to seal looks at."""
        return Progress(
            counts=self.fold.counts(),
            look=self.look,
            waiting_since=self.fold.waiting_since,
            newest_assessed_at=self.last.envelope.time if self.last is not None else None,
            folded_at=self.folded_at,
            tokens=self.fold.tokens(),
            looked=self.looked,
            sealed_at=self.sealed_at,
            requests=len(self.requests.of(self.tenant, self.target)),
            records=len(self.fold.items),
        )

    def take_in(self, item: Item) -> None:
        """Fold one more record, and look at the whole where that is due."""
        self.fold.add(item)
        self.looked = look(self.looked, self.fold.sample, self.fold.sealed.sample, alpha=self.policy.false_alarm_ratio)


class Accumulator:
    """The chains of the partitions that are ours."""

    def __init__(
        self,
        bus: Bus,
        store: Store,
        settings: AccumulatorSettings,
        *,
        clock: Clock,
        protected: ProtectedSets | None = None,
        anchors: AnchorSets | None = None,
    ) -> None:
        self._bus = bus
        self._store = store
        self._settings = settings
        self._requests = Requests(bus)
        self._register = Register(bus)
        self._words = Following(bus, BATCH_REQUESTED, self._requests.take)
        self._following = Following(bus, ERASURE_REQUESTED, self._register.take)
        self._reviser = Reviser(bus, store, self._register, clock=clock)
        protected = protected or ProtectedSets()
        self._sets = Sets(protected.only(protected.sha256), protected.sha256, anchors or AnchorSets())
        self._clock = clock
        self._chains: dict[tuple[int, str, str], Chain] = {}
        self._sealed_read_to: dict[int, int] = {}

    async def serve(self) -> None:
        """Accumulate until the bus stops."""
        async with self._words, self._following:
            await self._serve()

    async def _serve(self) -> None:
        ticking = asyncio.create_task(self._seal_by_age(), name="seal-by-age")
        serving = asyncio.create_task(
            self._bus.serve(REASONING_ASSESSED, self.take, concurrency=8, on_assigned=self.assigned, on_revoked=self.revoked),
            name="serve",
        )
        try:
            done, _ = await asyncio.wait((ticking, serving), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (ticking, serving):
                task.cancel()
            await asyncio.gather(ticking, serving, return_exceptions=True)

    def readiness(self) -> Collection[str]:
        """Which chains cannot move, and why."""
        return [
            f"batch {chain.link.number + 1} of {chain.target} is blocked: {'; '.join(chain.problems[:3])}"
            for chain in self._chains.values()
            if chain.problems
        ] + [
            f"what has to be forgotten is still in a dataset of {chain.target}: {chain.unerased}"
            for chain in self._chains.values()
            if chain.unerased
        ]

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Read the chains of these partitions from our own output; their manifests are read when a record needs them."""
        self._forget(partitions)
        self._sealed_read_to.update(dict.fromkeys(partitions, 0))
        async with self._reading(TRAINING_BATCH_SEALED, partitions, start=None) as deliveries:
            async for delivery in deliveries:
                partition = delivery.position.partition
                self._sealed_read_to[partition] = delivery.position.offset + 1
                _extend(self._chain(partition, delivery.payload.tenant, delivery.payload.target_model), delivery)
        async with self._reading(DATASET_REVISED, partitions, start=None) as revisions:
            async for revision in revisions:
                partition, revised = revision.position.partition, revision.payload
                self._chain(partition, revised.tenant, revised.target_model).datasets.take(revision)
        # What is asked for is known before anything is sealed, so that the next batch answers it, whatever its reason.
        await self._requests.read(partitions)
        log.info("partitions_assigned", partitions=sorted(partitions), chains=len(self._chains))

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Drop the folds of these partitions: whoever has them now builds them anew from the log."""
        self._forget(partitions)
        log.info("partitions_revoked", partitions=sorted(partitions), chains=len(self._chains))

    async def take(self, delivery: Delivery[ReasoningAssessed]) -> None:
        """Fold one assessed interaction, and seal if that makes a batch due. What no batch holds yet stays held.

        One that was a dead letter goes to the end of its log first: the batch that its old place belongs to may be sealed.
        """
        if contradicts_itself(delivery.payload):
            raise Unprocessable("inconsistent", "tenant, target_model and recorded_id must be those of the interaction within")
        if delivery.retried:
            self._following.check()
            if not self._is_erased(delivery):  # else it would come back behind its tombstone
                delivery.pass_on()
            return
        chain = self._chain_of(delivery)
        offset = delivery.position.offset
        async with chain.lock:
            if chain.unread_manifests:
                await self._read_manifests(chain)
            if offset > chain.folded_to:
                chain.take_in(
                    item_of(
                        delivery.payload,
                        event_id=delivery.envelope.id,
                        assessed_at=delivery.envelope.time,
                        offset=offset,
                        limits=self._settings.row_limits,
                    )
                )
                chain.last, chain.folded_at = delivery, self._clock()
            if reason_to_seal(chain.progress(), chain.policy, now=self._clock()) is not None:
                await self._seal_if_due(chain)
            if offset > chain.link.to_offset:
                chain.held.append((offset, delivery.hold()))

    def _is_erased(self, delivery: Delivery[ReasoningAssessed]) -> bool:
        interaction = delivery.payload.interaction
        forgotten = self._register.of(delivery.payload.tenant, delivery.payload.target_model)
        return forgotten.erased(names_in(interaction), min(interaction.occurred_at, delivery.envelope.time)) is not None

    async def _seal_by_age(self) -> None:
        while True:
            await asyncio.sleep(self._settings.seal_check_seconds)
            await self.look_at_all()

    async def look_at_all(self) -> None:
        """Seal what became due without a new record (by age, by a word, after a pause), and show how full every batch is."""
        for following in (self._words, self._following):
            with suppress(Unavailable):  # then it is read in a moment; and nothing is cut before it is read once more
                following.check()
        for chain in list(self._chains.values()):
            if not chain.lock.locked():  # else its handler is at it, and looks, too
                async with chain.lock:
                    try:
                        await self._revise_if_due(chain)
                        await self._seal_if_due(chain)
                    except Unavailable as unavailable:
                        log.warning("seal_postponed", tenant=chain.tenant, target=chain.target, what=unavailable.what)
            self._show(chain)

    async def _revise_if_due(self, chain: Chain) -> None:
        """Take out of the chain's datasets what has to be forgotten. Raises Unavailable; it is gone on with then."""
        chain.unerased = ""
        if not self._reviser.due(chain.datasets):
            return
        try:
            moved = await self._reviser.work(chain.datasets)
        except (BrokerUnavailable, StoreError, OSError) as error:
            chain.unerased = str(error)
            raise Unavailable(f"what has to be forgotten is still in a dataset of {chain.target}: {error}") from error
        if moved:
            # What the chain holds is less now: it is counted anew.
            chain.fold.sealed = Sealed()
            chain.unread_manifests = sorted(chain.datasets.current)
            await self._read_manifests(chain)

    async def _seal_if_due(self, chain: Chain) -> None:
        """Seal for as long as the fold asks for it. Raises Unavailable; it is asked again then."""
        try:
            await self._read_manifests(chain)
            while chain.last is not None:
                now = self._clock()
                progress = chain.progress()
                if reason_to_seal(progress, chain.policy, now=now) is None:
                    return
                seal = decide(progress, chain.policy, now=now)
                if not isinstance(seal, Seal) or (chain.blocked_until is not None and now < chain.blocked_until):
                    return
                # Somebody else may have cut already; then the fold begins later, and the question is a new one.
                if not await self._catch_up(chain):
                    with metrics.SEAL_SECONDS.time():
                        await self._seal(chain, chain.last, seal, now)
        except BrokerUnavailable as error:
            # Perhaps a batch was written all the same: the next attempt reads before it writes.
            raise Unavailable(f"the broker: {error}") from error

    async def _seal(self, chain: Chain, last: Delivery[ReasoningAssessed], due: Seal, now: datetime) -> None:
        """Cut after `last`: read again, validate, keep, publish, and let the log decide whose batch it is."""
        settings, policy, link = chain.settings, chain.policy, chain.link
        batch_id = batch_id_of(chain.tenant, chain.target, link.number + 1)
        seed = seed_of(batch_id, settings.shuffle_seed)
        # Whatever grows with the batch leaves the event loop, so that polling and heartbeats go on. The lock keeps the fold.
        interval = await asyncio.to_thread(interval_of, chain.fold)
        with Spool() as spool:
            entries, missing = await self._read_again(chain, interval, spool)
            if missing:
                log.warning("records_vanished", batch_id=batch_id, records=len(missing))
                chain.fold = chain.fold.after(link.to_offset, sealed=chain.fold.sealed, without=missing)
                chain.look = None
                return
            await self._register.read()
            forgotten = self._register.of(chain.tenant, chain.target)
            interval = interval.without(
                {offset for offset, entry in entries.items() if forgotten.withdrawn(entry.row.names, entry.row.occurred_at)}
            )
            if problems := without_row(entries[item.offset].row for item in interval.standing):
                self._block(chain, batch_id, problems, now)
                return
            cut = Cut(batch_id, seed, chain.tenant, chain.target, chain.partition, link, last.position.offset)
            counts = chain.fold.counts()
            try:
                made = await make(
                    interval,
                    entries,
                    spool,
                    cut=cut,
                    known=chain.fold.sealed.known,
                    shelf=Shelf(self._store, spool, chain.datasets.current),
                    sets=self._sets,
                    settings=settings,
                    worth=lambda selection: enough(Look(counts, selection.trainable, selection.tokens), due, policy),
                )
            except (StoreError, OSError) as error:
                raise Unavailable(f"what {chain.target} has sealed cannot be read to rehearse it: {error}") from error
        if isinstance(made, Selection):
            chain.look = Look(counts, made.trainable, made.tokens)
            log.info("batch_waits_on", batch_id=batch_id, explanation=decide(chain.progress(), policy, now=now).explanation)
            return
        if problems := made.problems:
            self._block(chain, batch_id, problems, now)
            return
        manifest = made.manifest
        try:
            dataset = await keep_dataset(self._store, made)
        except (StoreError, OSError) as error:
            raise Unavailable(f"the store does not take {batch_id}: {error}") from error
        del made  # what follows reads the manifest back, and a large batch need not be in memory twice
        sealed = _announcement(manifest, due, dataset, now, requests=tuple(self._requests.of(chain.tenant, chain.target)))
        await self._bus.publish(TRAINING_BATCH_SEALED, sealed, last.follow(TRAINING_BATCH_SEALED, sealed, ordinal=manifest.number))
        if not await self._catch_up(chain):
            raise Unavailable(f"{batch_id} is acknowledged and cannot be read back yet")
        if chain.link.to_offset != sealed.to_offset:
            metrics.LOST.labels(*chain.labels).inc()
            return
        metrics.SEALED.labels(*chain.labels, due.reason).inc()
        for reason, count in manifest.left_out_counts.items():
            metrics.LEFT_OUT.labels(reason).inc(count)
        log.info(
            "batch_sealed",
            batch_id=batch_id,
            reason=due.reason,
            explanation=due.explanation,
            **manifest.counts,
            left_out=manifest.left_out_counts,
        )

    def _block(self, chain: Chain, batch_id: str, problems: tuple[str, ...], now: datetime) -> None:
        """Cut nothing of this chain for a while: a batch that is not sound is never written."""
        chain.problems, chain.blocked_until = problems, now + timedelta(seconds=self._settings.seal_retry_seconds)
        log.error("batch_blocked", batch_id=batch_id, problems=problems[:10], more=len(problems[10:]))

    async def _read_again(self, chain: Chain, interval: Interval, spool: Spool) -> tuple[dict[int, Entry], list[int]]:
        """What the interval wants, read from the log into the spool, by offset; and the offsets that are no longer there."""
        chosen = interval.wanted()
        found: dict[int, Entry] = {}
        if not chosen:
            return found, []
        last = max(chosen)
        async with self._reading(REASONING_ASSESSED, {chain.partition}, start=min(chosen)) as deliveries:
            async for delivery in deliveries:
                offset = delivery.position.offset
                if offset in chosen:
                    found[offset] = spool.take(delivery.payload, chosen[offset], event_id=delivery.envelope.id)
                if offset >= last:
                    break
        return found, [offset for offset in chosen if offset not in found]

    async def _catch_up(self, chain: Chain) -> bool:
        """Read what was sealed since we last looked; whether the chain has moved. Raises Unavailable."""
        moved = False
        async with self._reading(TRAINING_BATCH_SEALED, {chain.partition}, start=chain.sealed_read_to) as deliveries:
            async for delivery in deliveries:
                moved |= _extend(chain, delivery)
        await self._read_manifests(chain)
        return moved

    async def _read_manifests(self, chain: Chain) -> None:
        """Take over the batches that the chain has gained: their ids never come again, and their deliveries are finished."""
        if not chain.unread_manifests:
            return
        try:
            # An old revision is no longer there: whoever revised it has said so before.
            if await self._reviser.catch_up(chain.datasets):
                chain.fold.sealed, chain.unread_manifests = Sealed(), sorted(chain.datasets.current)
            sealed = [await load_holdings(self._store, chain.datasets.current[number]) for number in chain.unread_manifests]
        except (StoreError, OSError) as error:
            raise Unavailable(f"what {chain.target} has sealed cannot be read, so nothing more is taken: {error}") from error
        for holdings in sealed:
            await asyncio.to_thread(account, holdings, chain.fold.sealed)
        chain.unread_manifests.clear()
        chain.problems, chain.blocked_until, chain.look, chain.looked = (), None, None, None
        chain.fold = chain.fold.after(chain.link.to_offset, sealed=chain.fold.sealed)
        if chain.last is not None and chain.last.position.offset <= chain.link.to_offset:
            chain.last = None
        while chain.held and chain.held[0][0] <= chain.link.to_offset:
            _, hold = chain.held.popleft()
            hold.release()

    def _chain_of(self, delivery: Delivery[ReasoningAssessed]) -> Chain:
        """The chain that a record belongs to. Raises Unprocessable where it lies in a wrong partition."""
        assessed, partition = delivery.payload, delivery.position.partition
        if (partition, assessed.tenant, assessed.target_model) not in self._chains:
            expected = self._bus.partition_of(REASONING_ASSESSED, REASONING_ASSESSED.order_of(assessed))
            if partition != expected:
                raise Unprocessable("wrong_partition", f"it lies in partition {partition}, its tenant and target in {expected}")
        return self._chain(partition, assessed.tenant, assessed.target_model)

    def _chain(self, partition: int, tenant: str, target: str) -> Chain:
        place = (partition, tenant, target)
        if place not in self._chains:
            settings = self._settings.of_chain(tenant, target)
            policy = settings.policy
            self._chains[place] = Chain(
                partition,
                tenant,
                target,
                settings,
                policy,
                self._requests,
                fold=Fold(sealed=Sealed()),
                sealed_read_to=self._sealed_read_to[partition],
                sealed_at=deque(maxlen=policy.most_a_day or 1),
                datasets=Datasets(partition, tenant, target),
            )
        return self._chains[place]

    def _forget(self, partitions: frozenset[int]) -> None:
        for place in [place for place in self._chains if place[0] in partitions]:
            metrics.forget(self._chains.pop(place).labels)

    def _reading(
        self, topic: Topic[P], partitions: Collection[int], *, start: int | None
    ) -> aclosing[AsyncGenerator[Delivery[P], None]]:
        # Leaving early has to close the reader at once, not when the garbage is collected.
        return aclosing(self._bus.read(topic, partitions=partitions, start=start))

    def _show(self, chain: Chain) -> None:
        now, progress = self._clock(), chain.progress()
        pause = paused(progress, chain.policy, now=now)
        metrics.show(
            chain.labels,
            progress,
            chain.policy,
            pause=pause,
            held_deliveries=len(chain.held),
            blocked=bool(chain.problems),
            revision_blocked=bool(chain.unerased),
        )
        shown = (progress.counts, pause, progress.requests)
        if shown != chain.shown:
            chain.shown = shown
            rows = usable_rows(expected(progress), chain.policy)
            decision = decide(progress, chain.policy, now=now)
            log.info("batch_filled", tenant=chain.tenant, target=chain.target, rows=rows, explanation=decision.explanation)


def _extend(chain: Chain, delivery: Delivery[TrainingBatchSealed]) -> bool:
    """Move the end of the chain on if this record is its next batch."""
    sealed = delivery.payload
    chain.sealed_read_to = delivery.position.offset + 1
    if (sealed.tenant, sealed.target_model) != (chain.tenant, chain.target):
        return False
    if not chain.link.extended_by(sealed, partition=chain.partition):
        log.info("sealed_batch_ignored", batch_id=sealed.batch_id, number=sealed.number, chain_is_at=chain.link.number)
        chain.datasets.ignore()
        return False
    chain.link = Link.end_of(sealed)
    chain.sealed_at.append(sealed.sealed_at)
    chain.requests.answered(chain.tenant, chain.target, sealed.requests)
    chain.unread_manifests.append(sealed.number)
    chain.datasets.seal(sealed.number, sealed.dataset)
    return True


def _announcement(
    manifest: Manifest, due: Seal, dataset: ArtifactReference, now: datetime, *, requests: tuple[str, ...] = ()
) -> TrainingBatchSealed:
    counts = manifest.counts
    return TrainingBatchSealed(
        tenant=manifest.tenant,
        batch_id=manifest.batch_id,
        target_model=manifest.target_model,
        number=manifest.number,
        previous_batch_id=manifest.previous,
        assessed_partition=manifest.partition,
        after_offset=manifest.after_offset,
        to_offset=manifest.to_offset,
        sealed_at=now,
        reason=due.reason,
        explanation=due.explanation,
        dataset=dataset,
        rows=counts["train"],
        reasoning_rows=counts["reasoning"],
        direct_rows=counts["direct"],
        reasoning_ratio=counts["reasoning"] / counts["train"] if counts["train"] else 1.0,
        holdout_rows=counts["holdout"],
        replay_rows=counts["replay"] + counts["anchors"],
        generated_rows=counts["generated"],
        replay_generated_rows=counts.get("replay_generated", 0),
        preference_pairs=counts["preferences"],
        verifiable_questions=counts["verifiable"],
        rejected_interactions=manifest.rejected_interactions,
        requests=requests,
    )
