"""Describe: the manifest of a cut's rows. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from ruminate.accumulator.curation.predictor import Lesson, Predictor
from ruminate.accumulator.making.candidate import Candidate, asked_of
from ruminate.accumulator.making.compose import Aside, Composed
from ruminate.accumulator.making.manifest import (
    OTHER,
    POLICY_VERSION,
    AsideOrigin,
    Manifest,
    Omission,
    PairOrigin,
    QuestionOrigin,
    Rehearsed,
    RowOrigin,
)
from ruminate.accumulator.sealing.chain import Link
from ruminate.accumulator.settings import AccumulatorSettings


@dataclass(frozen=True, slots=True)
class Revived:
    """A row that is trained once more, and its line."""

    origin: Rehearsed
    line: bytes


@dataclass(frozen=True, slots=True)
class Cut:
    """Which batch of which chain an interval becomes."""

    batch_id: str
    seed: str
    tenant: str
    target: str
    partition: int
    link: Link
    to_offset: int


def describe(
    composed: Composed,
    revived: Sequence[Revived],
    cut: Cut,
    *,
    settings: AccumulatorSettings,
    predictor: Predictor,
    protected: Mapping[str, str],
    anchors: Mapping[str, str],
) -> Manifest:
    """The manifest of these rows. `predictor` is what the chain had counted before; the last two are hashes of files."""
    selection, candidates = composed.selection, composed.candidates
    rows = tuple(_origin_of(candidate, cut.partition, composed) for candidate in candidates)
    train = [row for row in rows if row.split == "train"]
    reasoning = sum(row.reasoning for row in train)
    taught = predictor.taught(
        Lesson(candidate.facts.signs, candidate.facts.needed_thinking) for candidate in candidates if not candidate.facts.generated
    )
    origins = Counter(each.origin.origin for each in revived)
    return Manifest(
        batch_id=cut.batch_id,
        number=cut.link.number + 1,
        previous=cut.link.batch_id,
        tenant=cut.tenant,
        target_model=cut.target,
        partition=cut.partition,
        after_offset=cut.link.to_offset,
        to_offset=cut.to_offset,
        policy_version=POLICY_VERSION,
        policy={
            **settings.shaping(),
            "protected_sets": dict(sorted(protected.items())),
            "anchor_rows": dict(sorted(anchors.items())),
        },
        seed=cut.seed,
        scorer_versions=tuple(sorted({candidate.scorer_version for candidate in candidates})),
        assessor_policy_versions=tuple(sorted({candidate.assessor_policy_version for candidate in candidates})),
        counts={
            "train": len(train),
            "reasoning": reasoning,
            "direct": len(train) - reasoning,
            "generated": sum(row.generated_thinking for row in train),
            "holdout": len(rows) - len(train),
            "replay": origins["replay"],
            "anchors": origins["anchor"],
            **replay_generated(each.origin for each in revived),
            "preferences": len(composed.pairs),
            "verifiable": sum(not question.held_out for question in composed.questions),
            "thinking_missing": sum(row.thinking_called_for and not row.reasoning for row in rows),
        },
        left_out_counts=dict(sorted(Counter(omitted.reason for omitted in selection.left_out).items())),
        strata=_strata(composed),
        predictor={"seen": taught.seen, **taught.signs},
        sample=selection.sample,
        rows=rows,
        rehearsed=tuple(each.origin for each in revived),
        pairs=tuple(
            PairOrigin(kind=pair.kind, chosen=pair.chosen, rejected=pair.rejected, sha256=hashlib.sha256(pair.line).hexdigest())
            for pair in composed.pairs
        ),
        questions=tuple(
            QuestionOrigin(
                split="holdout" if question.held_out else "train",
                offset=question.offset,
                kind=question.kind,
                sha256=hashlib.sha256(question.line).hexdigest(),
            )
            for question in composed.questions
        ),
        aside=tuple(_aside_of(each) for each in composed.aside),
        left_out=tuple(
            Omission(
                offset=item.offset, event=item.event.hex(), recorded_id=UUID(bytes=item.recorded), reason=reason, detail=detail
            )
            for item, reason, detail in selection.left_out
        ),
    )


def replay_generated(rehearsed: Iterable[Rehearsed]) -> dict[str, int]:
    """The count of rehearsed rows whose thinking was written afterwards; of none there is no word, as in earlier releases."""
    count = sum(each.generated_thinking for each in rehearsed)
    return {"replay_generated": count} if count else {}


def _strata(composed: Composed) -> dict[str, dict[str, int]]:
    """What became of the rows that stood ready, by stratum."""
    fates: dict[str, Counter[str]] = {}
    selection = composed.selection
    rows = (*selection.train, *selection.holdout)
    domains = {composed.looked_at[item.offset].facts.stratum.domain for item in rows}
    became = [
        *((item, "train") for item in selection.train),
        *((item, "holdout") for item in selection.holdout),
        *((omitted.item, omitted.reason) for omitted in selection.left_out if omitted.item.offset in composed.needs),
    ]
    for item, fate in became:
        domain, difficulty = composed.looked_at[item.offset].facts.stratum
        mode = "thinking" if item.reasoning else "direct"
        fates.setdefault(f"{domain if domain in domains else OTHER}/{difficulty}/{mode}", Counter())[fate] += 1
    return {name: dict(sorted(counts.items())) for name, counts in sorted(fates.items())}


def _origin_of(candidate: Candidate, partition: int, composed: Composed) -> RowOrigin:
    item, asked, facts = candidate.item, asked_of(candidate), candidate.facts
    need = composed.needs[item.offset]
    return RowOrigin(
        split="holdout" if candidate.held_out else "train",
        partition=partition,
        offset=item.offset,
        event_id=candidate.event_id,
        recorded_id=UUID(bytes=item.recorded),
        revision=item.revision,
        conversation=item.conversation.hex(),
        sha256=hashlib.sha256(candidate.line).hexdigest(),
        reasoning=item.reasoning,
        generated_thinking=facts.generated,
        score=candidate.score,
        domain=facts.stratum.domain,
        difficulty=facts.stratum.difficulty,
        cluster=composed.selection.clusters[item.offset].hex(),
        question=asked.question.hex(),
        content=asked.content.hex(),
        thing=None if asked.thing is None else asked.thing.hex(),
        indicators=candidate.indicators,
        thinking_chance=need.chance,
        thinking_called_for=need.called_for,
        names=candidate.names,
        occurred_at=candidate.occurred_at,
    )


def _aside_of(aside: Aside) -> AsideOrigin:
    candidate, asked = aside.candidate, asked_of(aside.candidate)
    return AsideOrigin(
        offset=candidate.item.offset,
        event_id=candidate.event_id,
        recorded_id=UUID(bytes=candidate.item.recorded),
        conversation=candidate.item.conversation.hex(),
        reasoning=asked.lane == "thinking",
        cluster=aside.cluster.hex(),
        question=asked.question.hex(),
        content=asked.content.hex(),
        names=candidate.names,
        occurred_at=candidate.occurred_at,
    )
