"""`rebuild --policy`: what another policy would have taught, beside what was taught.

    interaction-recorded-v1  ->  judge (the scorer of this program, by the snapshot that judged it at first, with what people
                                 said of it)  ->  order, cut  ->  replays/<name>/… in the store

Nothing is published, no chain moves and nothing trains. The datasets depend on the interactions, on the policy and on what
the chains hold out, and so do the verdicts in `assessments.jsonl`; in `sources.jsonl` alone stands where in the log each
interaction was found.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Final

import orjson

from ruminate.accumulator.making.dataset import in_a_folder
from ruminate.accumulator.making.spool import Spool
from ruminate.accumulator.rebuilding.rebuild import read_chains
from ruminate.accumulator.rebuilding.replay import (
    KIND,
    Batch,
    ChainReplay,
    Comparison,
    Difference,
    Intake,
    Judged,
    Taught,
    Waiting,
    keep_batch,
    taught_by,
)
from ruminate.accumulator.records.names import Forgotten
from ruminate.accumulator.records.register import Register
from ruminate.assessor.judging.decide import judge
from ruminate.command.datasets.look import not_found
from ruminate.command.datasets.policy import ReplayPolicy
from ruminate.command.datasets.report import ChainSize, ReplayedBatch, ReplayedChain, report_of, summary_of
from ruminate.command.datasets.scorers import KnownScorers, read_feedback
from ruminate.grading.checking.checker import Checker
from ruminate.grading.checking.checks import Checks
from ruminate.grading.checking.mathematician import Mathematician
from ruminate.grading.checking.mathematics import Equal
from ruminate.schemas.flow import INTERACTION_RECORDED
from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.bus import Bus
from ruminate.shared.store import Store

Told = Callable[[str], None]
"""Called for every interaction that was read and every batch that was cut, with what it is."""

Key = tuple[str, str]
"""Tenant and target."""

_LINE: Final = orjson.OPT_APPEND_NEWLINE


@dataclass(frozen=True)
class Replay:
    """What a replay made."""

    chains: tuple[ReplayedChain, ...]
    datasets: Mapping[Key, Sequence[ArtifactReference]]
    summary: ArtifactReference
    report: str


async def replay(
    bus: Bus,
    store: Store,
    policy: ReplayPolicy,
    *,
    tenant: str | None = None,
    target: str | None = None,
    told: Told = lambda _: None,
) -> Replay:
    """Judge every recorded interaction anew, cut, and keep the verdicts, the datasets and the report.

    Raises NotFound, StoreError, Unsound, BrokerUnavailable.
    """
    sealed = await read_chains(bus, tenant=tenant, target=target)
    taught = {(chain.tenant, chain.target): await taught_by(store, chain) for chain in sealed}
    register = Register(bus)
    await register.read()
    with Spool() as spool, Mathematician() as equal, Checker(policy.assessment.code_limits) as checks:
        intake = Intake(spool)
        there = await _take_in(bus, intake, policy, tenant, target, told, equal, checks)
        judged = intake.chains()
        if there and not judged and not taught:
            raise not_found("no interaction is recorded", tenant, target, there)
        chains, differences, datasets = [], [], {}
        for key in sorted(judged.keys() | taught.keys()):
            known = taught.get(key, Taught())
            chain, comparison, datasets[key] = await _replay_chain(
                key, judged.get(key, []), known, spool, store, policy, told, forgotten=register.of(*key)
            )
            chains.append(chain)
            differences.append(comparison.differences)
        conflicts = sorted(intake.conflicts)
        report = report_of(policy, chains, differences, conflicts)

        async def keep(folder: Path) -> ArtifactReference:
            await asyncio.to_thread(_write, folder, judged, spool, chains, differences)
            summary = orjson.dumps(summary_of(policy, chains, conflicts), option=orjson.OPT_INDENT_2)
            await asyncio.to_thread((folder / "replay.json").write_bytes, summary)
            await asyncio.to_thread((folder / "report.md").write_text, report, encoding="utf-8")
            return await store.put_tree(folder, kind=KIND, name=policy.name)

        return Replay(tuple(chains), datasets, await in_a_folder(keep), report)


async def _take_in(
    bus: Bus, intake: Intake, policy: ReplayPolicy, tenant: str | None, target: str | None, told: Told, equal: Equal, checks: Checks
) -> set[Key]:
    """Judge what is asked for, and give every chain of which something is recorded."""
    version = policy.assessment.version
    there: set[Key] = set()
    scorers = KnownScorers(policy.assessment.weights)
    await scorers.read(bus)
    feedback = await read_feedback(bus)
    async with aclosing(bus.read(INTERACTION_RECORDED)) as deliveries:
        async for delivery in deliveries:
            told("interactions")
            interaction, event_id = delivery.payload, delivery.envelope.id
            there.add((interaction.tenant, interaction.target_model))
            if tenant in (None, interaction.tenant) and target in (None, interaction.target_model):
                sha256 = hashlib.sha256(delivery.value).digest()
                if not intake.repeats(event_id, sha256=sha256):
                    intake.add(
                        judge(
                            interaction,
                            policy.assessment,
                            policy_version=version,
                            combiner=scorers.combiner_of(interaction.tenant, interaction.recorded_id),
                            equal=equal,
                            checks=checks,
                            evidence=feedback.get(interaction.recorded_id, ()),
                        ),
                        event_id=event_id,
                        sha256=sha256,
                        partition=delivery.position.partition,
                        offset=delivery.position.offset,
                    )
    return there


async def _replay_chain(
    key: Key,
    judged: Sequence[Judged],
    taught: Taught,
    spool: Spool,
    store: Store,
    policy: ReplayPolicy,
    told: Told,
    *,
    forgotten: Forgotten,
) -> tuple[ReplayedChain, Comparison, list[ArtifactReference]]:
    tenant, target = key
    # What the chain is going to hold out must not be trained here, either.
    holdout_ratio = max(policy.batch.holdout_ratio, taught.holdout_ratio)
    replaying = ChainReplay(
        judged,
        store,
        spool,
        policy.batch.model_copy(update={"holdout_ratio": holdout_ratio}),
        tenant=tenant,
        target=target,
        assessment=policy.values["assessment"],
        known=taught.known,
        protected=policy.protected,
        anchors=policy.anchors,
        forgotten=forgotten,
    )
    comparison, batches, references = Comparison(taught), [], []
    async for batch in replaying.batches():
        references.append(await keep_batch(store, batch, replay=policy.name))
        batches.append(_batch(batch, judged, references[-1]))
        comparison.take(batch.manifest)
        told("batches")
    waiting = replaying.waiting()
    comparison.finish(waiting)
    chain = ReplayedChain(
        tenant=tenant,
        target=target,
        interactions=len(judged),
        holdout_ratio=holdout_ratio,
        rejected_for=_sorted(Counter(reason for each in judged for reason in each.rejected_for)),
        batches=batches,
        waiting=_waiting(waiting),
        waiting_explanation=waiting.explanation,
        chain=ChainSize(
            batches=taught.batches,
            rows=sum(not row.held_out for row in taught.rows.values()),
            holdout_rows=sum(row.held_out for row in taught.rows.values()),
        ),
        same_rows=comparison.same,
        differing_rows=comparison.counts(),
    )
    return chain, comparison, references


def _batch(batch: Batch, judged: Sequence[Judged], dataset: ArtifactReference) -> ReplayedBatch:
    manifest = batch.manifest
    first, last = (judged[rank].order[0].astimezone(UTC).isoformat() for rank in (manifest.from_rank, manifest.to_rank))
    return ReplayedBatch(
        number=manifest.number,
        reason=manifest.reason,
        rows=manifest.counts["train"],
        reasoning_rows=manifest.counts["reasoning"],
        holdout_rows=manifest.counts["holdout"],
        left_out=manifest.left_out_counts,
        first_occurred_at=first,
        last_occurred_at=last,
        dataset_sha256=dataset.sha256,
    )


def _waiting(waiting: Waiting) -> dict[str, int]:
    return _sorted(Counter(why_not or "rows" for _, why_not in waiting.items))


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _write(
    folder: Path,
    judged: Mapping[Key, Sequence[Judged]],
    spool: Spool,
    chains: Sequence[ReplayedChain],
    differences: Sequence[Sequence[Difference]],
) -> None:
    with (folder / "differences.jsonl").open("wb") as lines:
        for chain, of_chain in zip(chains, differences, strict=True):
            for difference in of_chain:
                line = {"tenant": chain.tenant, "target": chain.target, "difference": difference}
                lines.write(orjson.dumps(line, option=_LINE))
    with (folder / "assessments.jsonl").open("wb") as lines:
        for name, each in _ranked(judged):
            verdict = {"recorded_id": each.recorded_id, "verdict": orjson.Fragment(spool.read(each.verdict))}
            lines.write(orjson.dumps(name | verdict, option=_LINE))
    with (folder / "sources.jsonl").open("wb") as lines:
        for name, each in _ranked(judged):
            source = {"partition": each.partition, "offset": each.offset, "sha256": each.sha256.hex()}
            lines.write(orjson.dumps(name | source, option=_LINE))


def _ranked(judged: Mapping[Key, Sequence[Judged]]) -> Iterator[tuple[dict[str, object], Judged]]:
    """Every interaction in the order of its chain, and what names it."""
    for (tenant, target), interactions in judged.items():
        for rank, each in enumerate(interactions):
            yield {"tenant": tenant, "target": target, "rank": rank, "event_id": each.entry.row.event_id}, each
