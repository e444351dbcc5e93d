"""Replay: which batches another policy would have cut, in the order of (occurred_at, event id).

Nothing in a replayed dataset depends on when, where or how often anything arrived in the log: no partition, no offset, no
clock, and of a repeated event one record. What a chain holds out stays held out, and what it has trained on is held out
nowhere, so that a model of one can be measured on the other. A replay extends no chain.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

from ruminate.accumulator.chain import BEGINNING, Fold, Item, Link, Sealed, batch_id_of
from ruminate.accumulator.dataset import Manifest, account, describe, in_a_folder, load_manifest, write_dataset
from ruminate.accumulator.decide import Candidate, Progress, Seal, decide, problems_of, reason_to_seal, seed_of, select
from ruminate.accumulator.digests import Sides
from ruminate.accumulator.rebuild import SealedChain
from ruminate.accumulator.rows import REPEATS, LeftOut
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.accumulator.spool import Entry, Slice, Spool
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.batch import SealReason
from ruminate.schemas.payload import ArtifactReference, Count, FiniteJson, Name, Part, Sha256, Text
from ruminate.shared.store import Store, StoreError

KIND: Final = "replays"


class Unsound(Exception):
    """A replayed batch fails the validation that every batch has to pass; the message says where."""


class ReplayRow(Part):
    """Where one line comes from, as in a chain's manifest; `rank` counts the chain's interactions in their order."""

    split: Literal["train", "holdout"]
    rank: Count
    event_id: Name
    interaction_sha256: Sha256
    recorded_id: UUID
    conversation: Name
    sha256: Sha256
    reasoning: bool
    indicators: tuple[Name, ...]
    thinking_called_for: bool


class ReplayOmission(Part):
    """An interaction that has no row."""

    rank: Count
    event_id: Name
    interaction_sha256: Sha256
    recorded_id: UUID
    reason: LeftOut


class ReplayManifest(Part):
    """What a replayed dataset is made of: the interactions with ranks from `from_rank` to `to_rank`."""

    number: Count
    tenant: Name
    target_model: Name
    from_rank: Count
    to_rank: Count
    reason: SealReason
    explanation: Text
    policy_version: Name
    policy: dict[str, FiniteJson]
    sealing: dict[str, FiniteJson]
    assessor_policy_version: Name
    assessment: dict[str, FiniteJson]
    scorer_version: Name
    seed: Name
    counts: dict[str, Count]
    left_out_counts: dict[str, Count]
    rows: tuple[ReplayRow, ...]
    left_out: tuple[ReplayOmission, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """A recorded interaction under the policy of the replay, and where the log holds it. The verdict lies in the spool."""

    chain: tuple[str, str]
    entry: Entry
    verdict: Slice
    sha256: bytes
    partition: int
    offset: int
    rejected_for: tuple[str, ...]

    @property
    def recorded_id(self) -> UUID:
        """Of the interaction."""
        return UUID(bytes=self.entry.row.item.recorded)

    @property
    def order(self) -> tuple[datetime, str]:
        """What decides where it comes."""
        return self.entry.row.item.assessed_at, self.entry.row.event_id


class Intake:
    """Every interaction once.

    Records of one id with other bytes are a fault of their writer. Which of them came first is a matter of arrival, and
    compaction keeps the last: so it is the bytes that decide, and the ids are remembered.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._judged: dict[str, Judged] = {}
        self._chains: dict[tuple[str, str], tuple[str, str]] = {}
        self.conflicts: set[str] = set()

    def __len__(self) -> int:
        return len(self._judged)

    def repeats(self, event_id: str, *, sha256: bytes) -> bool:
        """Whether we have these very bytes already."""
        known = self._judged.get(event_id)
        return known is not None and known.sha256 == sha256

    def add(self, assessed: ReasoningAssessed, *, event_id: str, sha256: bytes, partition: int, offset: int) -> None:
        """Take one in that repeats none."""
        occurred_at = assessed.interaction.occurred_at
        known = self._judged.get(event_id)
        if known is not None:
            self.conflicts.add(event_id)
            if (known.entry.row.item.assessed_at, known.sha256) < (occurred_at, sha256):
                return
        entry = self._spool.add(assessed, event_id=event_id, assessed_at=occurred_at, offset=0)
        verdict = assessed.verdict
        kept = self._spool.keep(verdict.model_dump_json().encode())
        reasons = (sys.intern(reason.partition(":")[0]) for reason in verdict.reasons) if verdict.decision == "reject" else ()
        chain = (assessed.tenant, assessed.target_model)
        chain = self._chains.setdefault(chain, chain)  # one for all of them, not one each
        self._judged[event_id] = Judged(chain, entry, kept, sha256, partition, offset, tuple(reasons))

    def chains(self) -> dict[tuple[str, str], list[Judged]]:
        """By tenant and target, in the order of (occurred_at, event id)."""
        chains: dict[tuple[str, str], list[Judged]] = {}
        for judged in self._judged.values():
            chains.setdefault(judged.chain, []).append(judged)
        return {chain: sorted(chains[chain], key=lambda judged: judged.order) for chain in sorted(chains)}


@dataclass(frozen=True, slots=True)
class Batch:
    """One replayed batch."""

    manifest: ReplayManifest
    candidates: Sequence[Candidate]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is left after the last cut."""

    explanation: str
    items: tuple[tuple[Item, LeftOut | None], ...]


class ChainReplay:
    """Cuts one chain as the accumulator would have done, had each interaction reached it when it occurred.

    `held_out` says of conversations on which side they have to stay.
    """

    def __init__(
        self,
        judged: Sequence[Judged],
        spool: Spool,
        settings: AccumulatorSettings,
        *,
        tenant: str,
        target: str,
        assessment: Mapping[str, FiniteJson],
        held_out: Sides,
    ) -> None:
        self._judged = judged
        self._spool = spool
        self._settings = settings
        self._policy = settings.policy
        self._tenant = tenant
        self._target = target
        self._assessment = assessment
        self._before = Sealed(held_out=deepcopy(held_out))
        self._link = BEGINNING
        self._fold = self._new_fold()
        self._last: datetime | None = None

    def batches(self) -> Iterator[Batch]:
        """Every batch, in order. Raises Unsound."""
        for rank, each in enumerate(self._judged):
            occurred_at, _ = each.order
            # A batch that is due by age is cut before what came later.
            if seal := self._due(occurred_at):
                yield self._seal(seal, rank - 1)
            self._fold.add(each.entry.item(offset=rank, row_max_bytes=self._settings.row_max_bytes))
            self._last = occurred_at
            if seal := self._due(occurred_at):
                yield self._seal(seal, rank)

    def waiting(self) -> Waiting:
        """What is left after the last batch."""
        now = self._last
        explanation = "" if now is None else decide(self._progress(), self._policy, now=now).explanation
        return Waiting(explanation, tuple(self._fold.judged()))

    def _new_fold(self) -> Fold:
        return Fold(sealed=self._before, holdout_ratio=self._settings.holdout_ratio)

    def _progress(self) -> Progress:
        return Progress(self._fold.counts(), self._fold.waiting_since, newest_assessed_at=self._last, folded_at=self._last)

    def _due(self, now: datetime) -> Seal | None:
        progress = self._progress()
        if reason_to_seal(progress, self._policy, now=now) is None:
            return None
        decision = decide(progress, self._policy, now=now)
        return decision if isinstance(decision, Seal) else None

    def _seal(self, seal: Seal, to_rank: int) -> Batch:
        settings, link = self._settings, self._link
        # The seed of the chain's own batch of this number: under the chain's own policy and order, the rows are its own.
        batch_id = batch_id_of(self._tenant, self._target, link.number + 1)
        seed = seed_of(batch_id, settings.shuffle_seed)
        selection = select(self._fold, self._policy, seed=seed)
        candidates = [
            self._spool.candidate(self._judged[item.offset].entry, item, held_out=held_out) for item, held_out in selection.rows()
        ]
        if problems := problems_of(candidates, self._policy, row_max_bytes=settings.row_max_bytes):
            raise Unsound(f"batch {link.number + 1} of {self._target}: {len(problems)} problems, first {'; '.join(problems[:3])}")
        made = describe(
            candidates,
            selection,
            batch_id=batch_id,
            seed=seed,
            tenant=self._tenant,
            target=self._target,
            partition=0,
            link=link,
            to_offset=to_rank,
            settings=settings,
        )
        account(made, self._before)
        self._link = Link(made.number, made.batch_id, to_rank)
        self._fold = self._new_fold()
        return Batch(_manifest(made, self._judged, seal, settings, self._assessment), candidates)


def _manifest(
    made: Manifest, judged: Sequence[Judged], seal: Seal, settings: AccumulatorSettings, assessment: Mapping[str, FiniteJson]
) -> ReplayManifest:
    first = judged[made.after_offset + 1].entry.row
    return ReplayManifest(
        number=made.number,
        tenant=made.tenant,
        target_model=made.target_model,
        from_rank=made.after_offset + 1,
        to_rank=made.to_offset,
        reason=seal.reason,
        explanation=seal.explanation,
        policy_version=made.policy_version,
        policy=made.policy,
        sealing={
            "seal_at_rows": settings.seal_at_rows,
            "seal_after_seconds": settings.seal_after_seconds,
            "seal_after_min_rows": settings.seal_after_min_rows,
        },
        assessor_policy_version=first.assessor_policy_version,
        assessment=dict(assessment),
        scorer_version=first.scorer_version,
        seed=made.seed,
        counts=made.counts,
        left_out_counts=made.left_out_counts,
        rows=tuple(
            ReplayRow(
                split=row.split,
                rank=row.offset,
                event_id=row.event_id,
                interaction_sha256=judged[row.offset].sha256.hex(),
                recorded_id=row.recorded_id,
                conversation=row.conversation,
                sha256=row.sha256,
                reasoning=row.reasoning,
                indicators=row.indicators,
                thinking_called_for=row.thinking_called_for,
            )
            for row in made.rows
        ),
        left_out=tuple(
            ReplayOmission(
                rank=left.offset,
                event_id=judged[left.offset].entry.row.event_id,
                interaction_sha256=judged[left.offset].sha256.hex(),
                recorded_id=left.recorded_id,
                reason=left.reason,
            )
            for left in made.left_out
        ),
    )


async def keep_batch(store: Store, batch: Batch, *, replay: str) -> ArtifactReference:
    """Write a replayed dataset into the store, beside the chain's own: `replays/<replay>/<tenant>/<target>/<number>`."""
    manifest = batch.manifest
    name = f"{replay}/{manifest.tenant}/{manifest.target_model}/{manifest.number}"

    async def keep(folder: Path) -> ArtifactReference:
        await asyncio.to_thread(write_dataset, folder, manifest, batch.candidates)
        return await store.put_tree(folder, kind=KIND, name=name)

    return await in_a_folder(keep)


@dataclass(frozen=True, slots=True)
class TaughtRow:
    """A row of a chain."""

    number: int
    held_out: bool
    sha256: bytes


@dataclass(slots=True)
class Taught:
    """What the batches of a chain hold."""

    batches: int = 0
    holdout_ratio: float = 0.0
    """Of the last batch; what comes next in the chain is held out by it."""
    held_out: Sides = field(default_factory=Sides)
    rows: dict[bytes, TaughtRow] = field(default_factory=dict)
    left_out: dict[bytes, LeftOut] = field(default_factory=dict)


async def taught_by(store: Store, chain: SealedChain) -> Taught:
    """Read what a chain holds from its manifests. Raises StoreError: without them nobody knows what is held out."""
    taught, sealed = Taught(), Sealed()
    for batch in chain.batches:
        try:
            manifest = await load_manifest(store, batch.dataset)
        except StoreError as error:
            raise StoreError(
                f"what {batch.batch_id} holds out is not known, so nothing is replayed beside it: {error}. "
                f"Type:  ruminate datasets rebuild --tenant {chain.tenant} --target {chain.target}"
            ) from error
        account(manifest, sealed)
        taught.batches = manifest.number
        taught.holdout_ratio = AccumulatorSettings.written_down(manifest.policy).holdout_ratio
        for row in manifest.rows:
            taught.rows[row.recorded_id.bytes] = TaughtRow(manifest.number, row.split == "holdout", bytes.fromhex(row.sha256))
        taught.left_out |= {left.recorded_id.bytes: left.reason for left in manifest.left_out if left.reason not in REPEATS}
    taught.held_out = sealed.held_out
    return taught


@dataclass(frozen=True, slots=True)
class Difference:
    """One interaction whose row the chain and the replay do not share. Batches are numbers; None where it has no row."""

    kind: Literal["gained", "lost", "changed"]
    recorded_id: UUID
    chain_batch: int | None
    replay_batch: int | None
    why: str
    """Why the other side has no row, or what changed."""


class Comparison:
    """The rows of a replay beside those of the chain, batch by batch."""

    def __init__(self, taught: Taught) -> None:
        self._taught = taught
        self._lost = dict(taught.rows)
        self._why_lost: dict[bytes, str] = {}
        self.differences: list[Difference] = []
        self.same = 0

    def take(self, manifest: ReplayManifest) -> None:
        """Take in the next batch."""
        self._why_lost |= {left.recorded_id.bytes: left.reason for left in manifest.left_out}
        for row in manifest.rows:
            taught = self._lost.pop(row.recorded_id.bytes, None)
            if taught is None:
                why = self._taught.left_out.get(row.recorded_id.bytes, "not_sealed")
                self._differs("gained", row.recorded_id, None, manifest.number, why)
            elif taught.held_out != (row.split == "holdout"):
                self._differs("changed", row.recorded_id, taught.number, manifest.number, "split")
            elif taught.sha256.hex() != row.sha256:
                self._differs("changed", row.recorded_id, taught.number, manifest.number, "bytes")
            else:
                self.same += 1

    def finish(self, waiting: Waiting) -> None:
        """Take in what waits; rows of the chain that the replay has not shown are lost."""
        self._why_lost |= {item.recorded: why_not or "waits" for item, why_not in waiting.items}
        for recorded, row in self._lost.items():
            why = self._why_lost.get(recorded, "not_recorded")
            self._differs("lost", UUID(bytes=recorded), row.number, None, why)
        self._lost.clear()

    def counts(self) -> dict[str, dict[str, int]]:
        """How many rows differ, by kind and reason."""
        found: dict[str, Counter[str]] = {"gained": Counter(), "lost": Counter(), "changed": Counter()}
        for difference in self.differences:
            found[difference.kind][difference.why] += 1
        return {kind: dict(sorted(whys.items())) for kind, whys in found.items()}

    def _differs(
        self, kind: Literal["gained", "lost", "changed"], recorded: UUID, chain: int | None, replay: int | None, why: str
    ) -> None:
        self.differences.append(Difference(kind, recorded, chain, replay, why))
