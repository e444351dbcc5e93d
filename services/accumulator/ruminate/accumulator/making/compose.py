"""Compose: what of an interval goes into a dataset: its rows, and the pairs and questions beside them. Texts lie in the spool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from ruminate.accumulator.curation.asked import texts_in
from ruminate.accumulator.curation.curate import Guard, Rules, Standing, curate
from ruminate.accumulator.curation.known import Known
from ruminate.accumulator.making.beside import Pair, Question, Source, pairs_of, questions_of
from ruminate.accumulator.making.candidate import Candidate
from ruminate.accumulator.making.choose import Interval, Selection, choose
from ruminate.accumulator.making.spool import Entry, Spool
from ruminate.accumulator.records.rows import thinking_called_for
from ruminate.accumulator.sealing.decide import Policy


class Need(NamedTuple):
    """Whether a question calls for thinking: how likely that is, going by earlier ones, and what follows of that and its signs."""

    chance: float | None
    called_for: bool


class Aside(NamedTuple):
    """A record that teaches without a row, and the cluster of its question."""

    candidate: Candidate
    cluster: bytes


@dataclass(frozen=True, slots=True)
class Composed:
    """Which records have a row, and why the others have none; the rows with their lines, in their order; what comes beside them."""

    selection: Selection
    candidates: list[Candidate]
    needs: Mapping[int, Need]
    """Of every row that stood ready, by its offset."""
    looked_at: Mapping[int, Candidate]
    """Every record that was read again, without its line, by its offset."""
    pairs: list[Pair]
    questions: list[Question]
    aside: list[Aside]
    guard: Guard


def compose(
    interval: Interval, entries: Mapping[int, Entry], spool: Spool, *, known: Known, rules: Rules, policy: Policy, seed: str
) -> Composed:
    """Choose what goes into a batch. `entries` has what `interval` wants, by offset; `known` stays as it is."""

    def texts(offset: int) -> tuple[str, ...]:
        return texts_in(spool.read(entries[offset].line))

    # Where a record was moved by compaction, or ranks take the place of offsets, only the interval's own items are right.
    looked_at = {offset: replace(entries[offset].row, item=item) for offset, item in interval.wanted().items()}
    standing = [_standing(looked_at[item.offset]) for item in interval.standing]
    needs = {row.offset: need_of(looked_at[row.offset], known, rules) for row in standing}
    curated = curate(standing, known, rules, texts=texts)
    selection = choose(
        interval,
        curated,
        policy,
        seed=seed,
        looked_at=looked_at,
        called_for=lambda candidate: needs[candidate.item.offset].called_for,
    )
    candidates = [spool.candidate(entries[item.offset], item, held_out=held_out) for item, held_out in selection.rows()]
    held_out = {item.offset for item in selection.holdout}
    rows = {candidate.item.offset for candidate in candidates}
    clusters = dict(curated.clusters)
    taught = []
    for offset, candidate in sorted(looked_at.items()):
        entry = entries[offset]
        if not candidate.item.gives or candidate.asked is None or not 0 < entry.line.size_bytes <= rules.row_max_bytes:
            continue
        clusters[offset], apart = curated.guard.place(_standing(candidate), clusters.get(offset))
        if not apart or offset in held_out:
            taught.append(source_of(candidate, entry, spool))

    def clean(texts: Sequence[str], signature: bytes) -> bool:
        return curated.guard.touched(texts, signature) is None

    pairs = list(pairs_of([source for source in taught if source.offset not in held_out], known, clean=clean))
    questions = list(questions_of(taught, known, held_out=held_out.__contains__, clean=clean))
    used = {offset for pair in pairs for offset in (pair.rejected, pair.chosen) if offset is not None}
    used |= {question.offset for question in questions}
    aside = [Aside(looked_at[offset], clusters[offset]) for offset in sorted(used - rows)]
    return Composed(selection, candidates, needs, looked_at, pairs, questions, aside, curated.guard)


def need_of(candidate: Candidate, known: Known, rules: Rules) -> Need:
    """Whether its question calls for thinking."""
    chance = known.predictor.chance(candidate.facts.signs)
    shown = thinking_called_for(candidate.indicators, weights=rules.indicator_weights, at=rules.thinking_called_for_at)
    return Need(chance, shown or (chance is not None and chance >= rules.thinking_predicted_at))


def _standing(row: Candidate) -> Standing:
    if row.asked is None:  # it had a row when it was folded, and the same record always has
        raise ValueError(f"the record at offset {row.item.offset} has no row")
    return Standing(row.item.offset, row.item.recorded, row.item.conversation, row.score, row.asked)


def source_of(candidate: Candidate, entry: Entry, spool: Spool) -> Source:
    """What a record gives beside its row. Raises ValueError where it would have none even if it were kept."""
    if candidate.asked is None:
        raise ValueError(f"the record at offset {candidate.item.offset} has no row")
    return Source(
        candidate,
        candidate.asked,
        line=partial(spool.read, entry.line),
        correction=lambda: spool.aside(entry).correction,
        check=lambda: spool.aside(entry).check,
    )
