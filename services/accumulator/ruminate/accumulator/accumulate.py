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
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from ruminate.accumulator import metrics
from ruminate.accumulator.chain import BEGINNING, Counts, Fold, Link, Sealed, batch_id_of, contradicts_itself, item_of
from ruminate.accumulator.dataset import Manifest, account, describe, keep_dataset, load_manifest
from ruminate.accumulator.decide import (
    Candidate,
    Progress,
    Seal,
    Selection,
    candidate_of,
    decide,
    problems_of,
    reason_to_seal,
    seed_of,
    select,
    usable_rows,
)
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.flow import REASONING_ASSESSED, TRAINING_BATCH_SEALED
from ruminate.schemas.payload import ArtifactReference, Payload
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import BrokerUnavailable, Bus, Delivery, Hold, Unavailable, Unprocessable
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
    fold: Fold
    sealed_read_to: int
    link: Link = BEGINNING
    unread_manifests: list[ArtifactReference] = field(default_factory=list)
    last: Delivery[ReasoningAssessed] | None = None
    folded_at: datetime | None = None
    held: deque[tuple[int, Hold]] = field(default_factory=deque)
    problems: tuple[str, ...] = ()
    blocked_until: datetime | None = None
    shown: Counts | None = None
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
            waiting_since=self.fold.waiting_since,
            newest_assessed_at=self.last.envelope.time if self.last is not None else None,
            folded_at=self.folded_at,
        )


class Accumulator:
    """The chains of the partitions that are ours."""

    def __init__(self, bus: Bus, store: Store, settings: AccumulatorSettings, *, clock: Clock) -> None:
        self._bus = bus
        self._store = store
        self._settings = settings
        self._policy = settings.policy
        self._clock = clock
        self._chains: dict[tuple[int, str, str], Chain] = {}
        self._sealed_read_to: dict[int, int] = {}
        metrics.SEAL_AT.set(settings.seal_at_rows)

    async def serve(self) -> None:
        """Accumulate until the bus stops."""
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
            delivery.pass_on()
            return
        chain = self._chain_of(delivery)
        offset = delivery.position.offset
        async with chain.lock:
            if chain.unread_manifests:
                await self._read_manifests(chain)
            if offset > chain.folded_to:
                chain.fold.add(
                    item_of(
                        delivery.payload,
                        event_id=delivery.envelope.id,
                        assessed_at=delivery.envelope.time,
                        offset=offset,
                        row_max_bytes=self._settings.row_max_bytes,
                    )
                )
                chain.last, chain.folded_at = delivery, self._clock()
            if reason_to_seal(chain.progress(), self._policy, now=self._clock()) is not None:
                await self._seal_if_due(chain)
            if offset > chain.link.to_offset:
                chain.held.append((offset, delivery.hold()))

    async def _seal_by_age(self) -> None:
        while True:
            await asyncio.sleep(self._settings.seal_check_seconds)
            await self.look_at_all()

    async def look_at_all(self) -> None:
        """Seal what became due without a new record (by age, or once blocked), and show how full every batch is."""
        for chain in list(self._chains.values()):
            if not chain.lock.locked():  # else its handler is at it, and looks, too
                async with chain.lock:
                    try:
                        await self._seal_if_due(chain)
                    except Unavailable as unavailable:
                        log.warning("seal_postponed", tenant=chain.tenant, target=chain.target, what=unavailable.what)
            self._show(chain)

    async def _seal_if_due(self, chain: Chain) -> None:
        """Seal for as long as the fold asks for it. Raises Unavailable; it is asked again then."""
        try:
            await self._read_manifests(chain)
            while chain.last is not None:
                now = self._clock()
                progress = chain.progress()
                if reason_to_seal(progress, self._policy, now=now) is None:
                    return
                seal = decide(progress, self._policy, now=now)
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
        settings, link = self._settings, chain.link
        batch_id = batch_id_of(chain.tenant, chain.target, link.number + 1)
        seed = seed_of(batch_id, settings.shuffle_seed)
        # Whatever grows with the batch leaves the event loop, so that polling and heartbeats go on. The lock keeps the fold.
        selection = await asyncio.to_thread(select, chain.fold, settings.policy, seed=seed)
        candidates, missing = await self._read_again(chain, selection)
        if missing:
            log.warning("records_vanished", batch_id=batch_id, records=len(missing))
            chain.fold = chain.fold.after(link.to_offset, sealed=chain.fold.sealed, without=missing)
            return
        problems = await asyncio.to_thread(problems_of, candidates, settings.policy, row_max_bytes=settings.row_max_bytes)
        if problems:
            chain.problems, chain.blocked_until = problems, now + timedelta(seconds=settings.seal_retry_seconds)
            log.error("batch_blocked", batch_id=batch_id, problems=problems[:10], more=len(problems[10:]))
            return
        manifest = await asyncio.to_thread(
            describe,
            candidates,
            selection,
            batch_id=batch_id,
            seed=seed,
            tenant=chain.tenant,
            target=chain.target,
            partition=chain.partition,
            link=link,
            to_offset=last.position.offset,
            settings=settings,
        )
        try:
            dataset = await keep_dataset(self._store, manifest, candidates)
        except (StoreError, OSError) as error:
            raise Unavailable(f"the store does not take {batch_id}: {error}") from error
        del candidates  # what follows reads the manifest back, and a large batch need not be in memory twice
        sealed = _announcement(manifest, due, dataset, now)
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

    async def _read_again(self, chain: Chain, selection: Selection) -> tuple[list[Candidate], list[int]]:
        """The rows with their lines, read from the log, and the offsets that are no longer there."""
        chosen = {item.offset: (item, held_out) for item, held_out in selection.rows()}
        last = max(chosen)
        found: dict[int, Candidate] = {}
        async with self._reading(REASONING_ASSESSED, {chain.partition}, start=min(chosen)) as deliveries:
            async for delivery in deliveries:
                offset = delivery.position.offset
                if offset in chosen:
                    item, held_out = chosen[offset]
                    found[offset] = candidate_of(
                        delivery.payload,
                        item,
                        event_id=delivery.envelope.id,
                        held_out=held_out,
                        row_max_bytes=self._settings.row_max_bytes,
                    )
                if offset >= last:
                    break
        return [found[offset] for offset in chosen if offset in found], [offset for offset in chosen if offset not in found]

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
            manifests = [await load_manifest(self._store, reference) for reference in chain.unread_manifests]
        except (StoreError, OSError) as error:
            raise Unavailable(f"what {chain.target} has sealed cannot be read, so nothing more is taken: {error}") from error
        for manifest in manifests:
            account(manifest, chain.fold.sealed)
        chain.unread_manifests.clear()
        chain.problems, chain.blocked_until = (), None
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
            fold = Fold(sealed=Sealed(), holdout_ratio=self._settings.holdout_ratio)
            self._chains[place] = Chain(partition, tenant, target, fold, self._sealed_read_to[partition])
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
        counts = chain.fold.counts()
        rows = usable_rows(counts, self._policy)
        metrics.FILL.labels(*chain.labels).set(rows)
        metrics.HELD.labels(*chain.labels).set(len(chain.held))
        metrics.BLOCKED.labels(*chain.labels).set(bool(chain.problems))
        for kind, count in counts._asdict().items():
            metrics.ROWS.labels(*chain.labels, kind).set(count)
        if counts != chain.shown:
            chain.shown = counts
            decision = decide(chain.progress(), self._policy, now=self._clock())
            log.info("batch_filled", tenant=chain.tenant, target=chain.target, rows=rows, explanation=decision.explanation)


def _extend(chain: Chain, delivery: Delivery[TrainingBatchSealed]) -> bool:
    """Move the end of the chain on if this record is its next batch."""
    sealed = delivery.payload
    chain.sealed_read_to = delivery.position.offset + 1
    if (sealed.tenant, sealed.target_model) != (chain.tenant, chain.target):
        return False
    if not chain.link.extended_by(sealed, partition=chain.partition):
        log.info("sealed_batch_ignored", batch_id=sealed.batch_id, number=sealed.number, chain_is_at=chain.link.number)
        return False
    chain.link = Link.end_of(sealed)
    chain.unread_manifests.append(sealed.dataset)
    return True


def _announcement(manifest: Manifest, due: Seal, dataset: ArtifactReference, now: datetime) -> TrainingBatchSealed:
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
        reasoning_ratio=counts["reasoning"] / counts["train"],
        holdout_rows=counts["holdout"],
        rejected_interactions=manifest.rejected_interactions,
    )
