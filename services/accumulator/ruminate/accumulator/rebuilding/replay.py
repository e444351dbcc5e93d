"""Replay: which batches another policy would have cut, in the order of (occurred_at, event id).

Nothing in a replayed dataset depends on when, where or how often anything arrived in the log: no partition, no offset, no
clock, and of a repeated event one record. What a chain holds out stays held out, and what it has trained on is held out
nowhere, so that a model of one can be measured on the other. A replay extends no chain.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

from pydantic import Field

from ruminate.accumulator.curation.known import Known
from ruminate.accumulator.curation.protect import ProtectedSets
from ruminate.accumulator.making.anchors import AnchorSets
from ruminate.accumulator.making.beside import PairKind
from ruminate.accumulator.making.choose import Selection, interval_of, seed_of
from ruminate.accumulator.making.dataset import Made, in_a_folder, write_files
from ruminate.accumulator.making.describe import Cut
from ruminate.accumulator.making.holdings import Holdings, account, load_holdings, settled_by
from ruminate.accumulator.making.make import Sets, make
from ruminate.accumulator.making.manifest import MANIFEST, Digest, Manifest, as_bytes
from ruminate.accumulator.making.shelf import Shelf
from ruminate.accumulator.making.spool import Entry, Slice, Spool
from ruminate.accumulator.rebuilding.rebuild import SealedChain, settings_of
from ruminate.accumulator.records.facts import CheckKind
from ruminate.accumulator.records.names import Forgotten
from ruminate.accumulator.records.rows import REPEATS, LeftOut
from ruminate.accumulator.sealing.chain import BEGINNING, Fold, Item, Link, Sealed, batch_id_of
from ruminate.accumulator.sealing.decide import Look, Progress, Seal, decide, enough, reason_to_seal
from ruminate.accumulator.sealing.drift import Looked, look
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.batch import SealReason
from ruminate.schemas.payload import ArtifactReference, Count, FiniteJson, Name, Part, Ratio, Sha256, Text, Timestamp
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
    generated_thinking: bool
    score: Ratio
    domain: Name
    difficulty: Name
    cluster: Digest
    indicators: tuple[Name, ...]
    thinking_chance: Ratio | None
    thinking_called_for: bool
    names: tuple[Name, ...] = ()
    occurred_at: Timestamp | None = None


class ReplayRehearsed(Part):
    """A row of an earlier batch of the replay, or an anchor, that is trained once more."""

    origin: Literal["replay", "anchor"]
    number: Count | None
    named: Name | None
    line: Count
    recorded_id: UUID | None
    names: tuple[Name, ...] = ()
    occurred_at: Timestamp | None
    sha256: Sha256
    reasoning: bool


class ReplayPair(Part):
    """A line of preferences.jsonl, by the ranks of its interactions."""

    kind: PairKind
    chosen: Count | None
    rejected: Count
    sha256: Sha256


class ReplayQuestion(Part):
    """A line of verifiable.jsonl or verifiable-holdout.jsonl."""

    split: Literal["train", "holdout"]
    rank: Count
    kind: CheckKind
    sha256: Sha256


class ReplayAside(Part):
    """An interaction without a row that gives a pair or a question."""

    rank: Count
    recorded_id: UUID
    names: tuple[Name, ...] = ()
    occurred_at: Timestamp


class ReplayOmission(Part):
    """An interaction that has no row."""

    rank: Count
    event_id: Name
    interaction_sha256: Sha256
    recorded_id: UUID
    reason: LeftOut
    detail: Name | None = None


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
    strata: dict[str, dict[str, Count]] = Field(default_factory=dict)
    rows: tuple[ReplayRow, ...]
    rehearsed: tuple[ReplayRehearsed, ...] = ()
    pairs: tuple[ReplayPair, ...] = ()
    questions: tuple[ReplayQuestion, ...] = ()
    aside: tuple[ReplayAside, ...] = ()
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
    made: Made


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is left after the last cut."""

    explanation: str
    items: tuple[tuple[Item, LeftOut | None], ...]


class ChainReplay:
    """Cuts one chain as the accumulator would have done, had each interaction reached it when it occurred.

    `known` says of conversations and clusters on which side they have to stay, and what is held out.
    """

    def __init__(
        self,
        judged: Sequence[Judged],
        store: Store,
        spool: Spool,
        settings: AccumulatorSettings,
        *,
        tenant: str,
        target: str,
        assessment: Mapping[str, FiniteJson],
        known: Known,
        protected: ProtectedSets | None = None,
        anchors: AnchorSets | None = None,
        forgotten: Forgotten | None = None,
    ) -> None:
        self._judged = judged
        self._spool = spool
        self._settings = settings = settings.of_chain(tenant, target)
        self._policy = settings.policy
        self._tenant = tenant
        self._target = target
        self._assessment = assessment
        protected = protected or ProtectedSets()
        self._sets = Sets(protected.only(protected.sha256), protected.sha256, anchors or AnchorSets())
        self._forgotten = forgotten or Forgotten(tenant, target)
        # What it trains once more are rows of its own batches, none of which need be in the store.
        self._shelf = Shelf(store, spool, {})
        self._before = Sealed(known=deepcopy(known))
        self._link = BEGINNING
        self._fold = self._new_fold()
        self._look: Look | None = None
        self._looked: Looked | None = None
        self._sealed_at: deque[datetime] = deque(maxlen=self._policy.most_a_day or 1)
        self._last: datetime | None = None

    async def batches(self) -> AsyncIterator[Batch]:
        """Every batch, in order. Raises Unsound."""
        for rank, each in enumerate(self._judged):
            occurred_at, _ = each.order
            # A batch that is due by age is cut before what came later.
            if (seal := self._due(occurred_at)) and (batch := await self._seal(seal, rank - 1, occurred_at)):
                yield batch
            self._fold.add(each.entry.item(offset=rank, limits=self._settings.row_limits))
            self._looked = look(self._looked, self._fold.sample, self._before.sample, alpha=self._policy.false_alarm_ratio)
            self._last = occurred_at
            if (seal := self._due(occurred_at)) and (batch := await self._seal(seal, rank, occurred_at)):
                yield batch

    def waiting(self) -> Waiting:
        """What is left after the last batch."""
        now = self._last
        explanation = "" if now is None else decide(self._progress(), self._policy, now=now).explanation
        return Waiting(explanation, tuple(self._fold.judged()))

    def _new_fold(self) -> Fold:
        return Fold(sealed=self._before)

    def _progress(self) -> Progress:
        return Progress(
            self._fold.counts(),
            self._look,
            self._fold.waiting_since,
            newest_assessed_at=self._last,
            folded_at=self._last,
            tokens=self._fold.tokens(),
            looked=self._looked,
            sealed_at=self._sealed_at,
            records=len(self._fold.items),
        )

    def _due(self, now: datetime) -> Seal | None:
        progress = self._progress()
        if reason_to_seal(progress, self._policy, now=now) is None:
            return None
        decision = decide(progress, self._policy, now=now)
        return decision if isinstance(decision, Seal) else None

    async def _seal(self, seal: Seal, to_rank: int, now: datetime) -> Batch | None:
        """The batch that is due; None where too little of what stands ready can be trained."""
        settings, link = self._settings, self._link
        # The seed of the chain's own batch of this number: under the chain's own policy and order, the rows are its own.
        batch_id = batch_id_of(self._tenant, self._target, link.number + 1)
        seed = seed_of(batch_id, settings.shuffle_seed)
        interval = interval_of(self._fold)
        rows = {offset: self._judged[offset].entry.row for offset in interval.wanted()}
        interval = interval.without(
            {offset for offset, row in rows.items() if self._forgotten.withdrawn(row.names, row.occurred_at)}
        )
        entries = {offset: self._judged[offset].entry for offset in interval.wanted()}
        counts = self._fold.counts()
        made = await make(
            interval,
            entries,
            self._spool,
            cut=Cut(batch_id, seed, self._tenant, self._target, 0, link, to_rank),
            known=self._before.known,
            shelf=self._shelf,
            sets=self._sets,
            settings=settings,
            worth=lambda selection: enough(Look(counts, selection.trainable, selection.tokens), seal, self._policy),
        )
        if isinstance(made, Selection):
            self._look = Look(counts, made.trainable, made.tokens)
            return None
        if problems := made.problems:
            raise Unsound(f"batch {link.number + 1} of {self._target}: {len(problems)} problems, first {'; '.join(problems[:3])}")
        self._shelf.put(made)
        manifest = made.manifest
        account(Holdings.of(made), self._before)
        self._link = Link(manifest.number, manifest.batch_id, to_rank)
        self._fold, self._look, self._looked = self._new_fold(), None, None
        self._sealed_at.append(now)
        return Batch(_manifest(manifest, self._judged, seal, settings, self._assessment), made)


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
            "seal_at_tokens": settings.seal_at_tokens,
            "seal_at_records": settings.seal_at_records,
            "seal_false_alarm_ratio": settings.seal_false_alarm_ratio,
            "seal_most_a_day": settings.seal_most_a_day,
            "seal_quiet_hours": settings.seal_quiet_hours,
            "seal_time_zone": settings.seal_time_zone,
        },
        assessor_policy_version=first.assessor_policy_version,
        assessment=dict(assessment),
        scorer_version=first.scorer_version,
        seed=made.seed,
        counts=made.counts,
        left_out_counts=made.left_out_counts,
        strata=made.strata,
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
                generated_thinking=row.generated_thinking,
                score=row.score,
                domain=row.domain,
                difficulty=row.difficulty,
                cluster=row.cluster,
                indicators=row.indicators,
                thinking_chance=row.thinking_chance,
                thinking_called_for=row.thinking_called_for,
                names=row.names,
                occurred_at=row.occurred_at,
            )
            for row in made.rows
        ),
        rehearsed=tuple(
            ReplayRehearsed(
                origin=each.origin,
                number=each.number,
                named=each.named if each.origin == "anchor" else None,
                line=each.line,
                recorded_id=each.recorded_id,
                names=each.names,
                occurred_at=each.occurred_at,
                sha256=each.sha256,
                reasoning=each.reasoning,
            )
            for each in made.rehearsed
        ),
        pairs=tuple(
            ReplayPair(kind=pair.kind, chosen=pair.chosen, rejected=pair.rejected, sha256=pair.sha256) for pair in made.pairs
        ),
        questions=tuple(
            ReplayQuestion(split=asked.split, rank=asked.offset, kind=asked.kind, sha256=asked.sha256) for asked in made.questions
        ),
        aside=tuple(
            ReplayAside(rank=each.offset, recorded_id=each.recorded_id, names=each.names, occurred_at=each.occurred_at)
            for each in made.aside
        ),
        left_out=tuple(
            ReplayOmission(
                rank=left.offset,
                event_id=judged[left.offset].entry.row.event_id,
                interaction_sha256=judged[left.offset].sha256.hex(),
                recorded_id=left.recorded_id,
                reason=left.reason,
                detail=left.detail,
            )
            for left in made.left_out
        ),
    )


async def keep_batch(store: Store, batch: Batch, *, replay: str) -> ArtifactReference:
    """Write a replayed dataset into the store, beside the chain's own: `replays/<replay>/<tenant>/<target>/<number>`."""
    manifest = batch.manifest
    name = f"{replay}/{manifest.tenant}/{manifest.target_model}/{manifest.number}"

    async def keep(folder: Path) -> ArtifactReference:
        await asyncio.to_thread(write_files, folder, {**batch.made.files(), MANIFEST: (as_bytes(manifest),)})
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
    known: Known = field(default_factory=Known)
    """On which side what it holds is; all of it may be chosen once more."""
    rows: dict[bytes, TaughtRow] = field(default_factory=dict)
    left_out: dict[bytes, LeftOut] = field(default_factory=dict)


async def taught_by(store: Store, chain: SealedChain) -> Taught:
    """Read what a chain holds from its manifests. Raises StoreError: without them nobody knows what is held out."""
    taught = Taught()
    for batch in chain.batches:
        try:
            holdings = await load_holdings(store, batch.dataset)
        except StoreError as error:
            raise StoreError(
                f"what {batch.batch_id} holds out is not known, so nothing is replayed beside it: {error}. "
                f"Type:  ruminate datasets rebuild --tenant {chain.tenant} --target {chain.target}"
            ) from error
        manifest = holdings.manifest
        taught.known.settle(settled_by(holdings), counts=False)
        taught.batches = manifest.number
        taught.holdout_ratio = settings_of(manifest).holdout_ratio
        for row in manifest.rows:
            taught.rows[row.recorded_id.bytes] = TaughtRow(manifest.number, row.split == "holdout", bytes.fromhex(row.sha256))
        taught.left_out |= {left.recorded_id.bytes: left.reason for left in manifest.left_out if left.reason not in REPEATS}
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
