"""Make: the dataset of an interval, from the choice of rows to the report on them: for accumulator, rebuild and replay alike."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from ruminate.accumulator.curation.asked import texts_in
from ruminate.accumulator.curation.decontaminate import Protected
from ruminate.accumulator.curation.known import Known
from ruminate.accumulator.curation.rehearsal import Pick
from ruminate.accumulator.making.anchors import AnchorSets
from ruminate.accumulator.making.beside import Pair, Question, Source, correction_line, question_line, thumbs_line
from ruminate.accumulator.making.choose import Interval, Selection
from ruminate.accumulator.making.compose import Composed, compose, source_of
from ruminate.accumulator.making.dataset import Made
from ruminate.accumulator.making.describe import Cut, Revived, describe
from ruminate.accumulator.making.manifest import Manifest, PairOrigin, Rehearsed
from ruminate.accumulator.making.report import Contents, report_of
from ruminate.accumulator.making.shelf import Shelf, Shelved
from ruminate.accumulator.making.spool import Entry, Spool
from ruminate.accumulator.records.rows import shows
from ruminate.accumulator.sealing.decide import Policy
from ruminate.accumulator.settings import AccumulatorSettings


@dataclass(frozen=True, slots=True)
class Sets:
    """What operators put beside the log: texts that are never trained, by SHA-256 of their files, and rows that always are."""

    protected: Protected = field(default_factory=Protected)
    protected_sha256: Mapping[str, str] = field(default_factory=dict)
    anchors: AnchorSets = field(default_factory=AnchorSets)


async def make(
    interval: Interval,
    entries: Mapping[int, Entry],
    spool: Spool,
    *,
    cut: Cut,
    known: Known,
    shelf: Shelf,
    sets: Sets,
    settings: AccumulatorSettings,
    worth: Callable[[Selection], bool] = lambda _: True,
) -> Made | Selection:
    """Make the dataset of this cut; where it is not `worth` it, nothing but the choice of its rows.

    `entries` has what `interval` wants, by offset. What grows with the batch leaves the event loop. Raises StoreError where rows of
    earlier batches are not to be had.
    """
    policy, rules = settings.policy, settings.rules(sets.protected, sets.anchors.questions)
    composing = partial(compose, interval, entries, spool, known=known, rules=rules, policy=policy, seed=cut.seed)
    composed = await asyncio.to_thread(composing)
    if not worth(composed.selection):
        return composed.selection
    picks = await asyncio.to_thread(_picks, composed, known, policy, cut.seed)
    shelved = await shelf.find(picks)
    finishing = partial(_finished, composed, shelved, spool=spool, cut=cut, known=known, sets=sets, settings=settings)
    return await asyncio.to_thread(finishing)


def _picks(composed: Composed, known: Known, policy: Policy, seed: str) -> list[Pick]:
    """The rows of earlier batches that go with these: of the buffer's own mixture, as far as the ratio allows."""
    reasoning, direct = known.buffer.counts()
    wanted = min(policy.replayed(len(composed.selection.train)), reasoning + direct)
    if not wanted:
        return []
    most_direct = min(direct, round(wanted * direct / (reasoning + direct)))
    chosen = min(reasoning, wanted - most_direct)
    return known.buffer.draw(reasoning=chosen, direct=min(most_direct, policy.direct_allowed(chosen)), seed=seed)


def _finished(
    composed: Composed,
    shelved: list[Shelved],
    *,
    spool: Spool,
    cut: Cut,
    known: Known,
    sets: Sets,
    settings: AccumulatorSettings,
) -> Made:
    policy = settings.policy
    again = [*_replayed(composed, shelved, spool), *_anchored(composed, sets.anchors, policy, cut.seed)]
    # Images were kept when it was fresh, and are kept no longer.
    revived = _within_ratio([each for each in again if settings.keep_images or not shows(each.line)], policy)
    manifest = describe(
        composed,
        revived,
        cut,
        settings=settings,
        predictor=known.predictor,
        protected=sets.protected_sha256,
        anchors=sets.anchors.sha256,
    )
    contents = Contents(composed.candidates, [each.line for each in revived], composed.pairs, composed.questions)
    return Made(
        manifest,
        composed.candidates,
        revived,
        composed.pairs,
        composed.questions,
        [each.candidate for each in composed.aside],
        report_of(contents, policy, settings.limits, touched=composed.guard.touched),
    )


async def make_as_named(
    manifest: Manifest,
    entries: Mapping[int, Entry],
    spool: Spool,
    *,
    shelf: Shelf,
    anchors: AnchorSets,
    settings: AccumulatorSettings,
) -> Made:
    """The dataset that a manifest names, with the bytes that the log has of its records, whatever would be decided of them today.

    `entries` has the rows and what stands aside, by offset. Raises StoreError where rows of earlier batches are not to be had, and
    KeyError where an anchor is not.
    """
    candidates = [
        spool.candidate(entries[row.offset], entries[row.offset].row.item, held_out=row.split == "holdout") for row in manifest.rows
    ]
    rows = tuple(
        row.model_copy(update={"sha256": hashlib.sha256(candidate.line).hexdigest()})
        for row, candidate in zip(manifest.rows, candidates, strict=True)
    )
    named = {row.offset for row in manifest.rows} | {aside.offset for aside in manifest.aside}
    sources = {offset: source_of(entries[offset].row, entries[offset], spool) for offset in named}
    pairs = [Pair(pair.kind, pair.chosen, pair.rejected, _line_of(pair, sources)) for pair in manifest.pairs]
    questions = [
        Question(asked.offset, asked.split == "holdout", asked.kind, (question_line(sources[asked.offset]) or ("", b""))[1])
        for asked in manifest.questions
    ]
    picks = [
        Pick(each.number, each.recorded_id.bytes)
        for each in manifest.rehearsed
        if each.number is not None and each.recorded_id is not None
    ]
    shelved = iter(await shelf.find(picks))
    revived = [
        Revived(each, anchors.rows[each.named][each.line].line if each.number is None else spool.read(next(shelved).line))
        for each in manifest.rehearsed
    ]
    contents = Contents(candidates, [each.line for each in revived], pairs, questions)
    return Made(
        manifest.model_copy(update={"rows": rows}),
        candidates,
        revived,
        pairs,
        questions,
        [entries[each.offset].row for each in manifest.aside],
        # What it must not give away was looked at when it was sealed.
        None if manifest.revision else report_of(contents, settings.policy, settings.limits, touched=lambda _: None),
    )


def _line_of(pair: PairOrigin, sources: Mapping[int, Source]) -> bytes:
    rejected = sources[pair.rejected]
    line = correction_line(rejected) if pair.chosen is None else thumbs_line(sources[pair.chosen], rejected)
    return line or b""


def _within_ratio(revived: list[Revived], policy: Policy) -> list[Revived]:
    """Without the last direct rows, where those that give something away have left too few that reason."""
    allowed = policy.direct_allowed(sum(each.origin.reasoning for each in revived))
    kept = []
    for each in revived:
        if not each.origin.reasoning:
            if not allowed:
                continue
            allowed -= 1
        kept.append(each)
    return kept


def _replayed(composed: Composed, shelved: list[Shelved], spool: Spool) -> list[Revived]:
    """Those that give nothing away of what is measured by now."""
    revived = []
    for each in shelved:
        line, row = spool.read(each.line), each.origin
        if composed.guard.touched(texts_in(line)) is not None or composed.guard.tied(
            bytes.fromhex(row.conversation), bytes.fromhex(row.cluster)
        ):
            continue
        origin = Rehearsed(
            origin="replay",
            named=each.batch_id,
            number=each.pick.number,
            line=each.place,
            sha256=row.sha256,
            reasoning=row.reasoning,
            generated_thinking=row.generated_thinking,
            event_id=row.event_id,
            recorded_id=row.recorded_id,
            conversation=row.conversation,
            partition=row.partition,
            offset=row.offset,
            score=row.score,
            domain=row.domain,
            difficulty=row.difficulty,
            names=row.names,
            occurred_at=row.occurred_at,
        )
        revived.append(Revived(origin, line))
    return revived


def _anchored(composed: Composed, anchors: AnchorSets, policy: Policy, seed: str) -> list[Revived]:
    """As many anchors as the policy wants, in the order of a seeded hash, as long as enough of them reason."""

    def order(place: tuple[str, int]) -> bytes:
        return hashlib.sha256(f"{seed}/anchor/{place[0]}/{place[1]}".encode()).digest()

    wanted = policy.anchored(len(composed.selection.train))
    every = sorted(anchors.every(), key=lambda anchor: (not anchor.reasoning, order((anchor.name, anchor.place))))
    reasoning = sum(anchor.reasoning for anchor in every)
    direct = min(len(every) - reasoning, round(wanted * (len(every) - reasoning) / len(every)) if every else 0)
    thinking = min(reasoning, wanted - direct)
    chosen = [*every[:thinking], *every[reasoning : reasoning + min(direct, policy.direct_allowed(thinking))]]
    return [
        Revived(
            Rehearsed(
                origin="anchor",
                named=anchor.name,
                number=None,
                line=anchor.place,
                sha256=hashlib.sha256(anchor.line).hexdigest(),
                reasoning=anchor.reasoning,
                event_id=None,
                recorded_id=None,
                conversation=None,
                partition=None,
                offset=None,
                score=None,
                domain=None,
                difficulty=None,
                occurred_at=None,
            ),
            anchor.line,
        )
        for anchor in chosen
        if composed.guard.touched(texts_in(anchor.line)) is None
    ]
