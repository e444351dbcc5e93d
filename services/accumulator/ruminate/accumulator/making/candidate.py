"""Candidates: rows on their way into a dataset, each with what the choice looks at. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from ruminate.accumulator.curation.asked import Asked, asked_in
from ruminate.accumulator.records.facts import Facts, facts_of
from ruminate.accumulator.records.names import names_in
from ruminate.accumulator.records.rows import build, indicators_of
from ruminate.accumulator.sealing.chain import Item
from ruminate.schemas.assessment import ReasoningAssessed


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row on its way into a dataset: what the fold kept of its record, and what was read again at the cut."""

    item: Item
    held_out: bool
    line: bytes
    asked: Asked | None
    """None where the record has no row."""
    facts: Facts
    score: float
    event_id: str
    training_allowed: bool
    indicators: tuple[str, ...]
    scorer_version: str
    assessor_policy_version: str
    names: tuple[str, ...]
    """Digests of all by which an erasure may name it."""
    occurred_at: datetime


def candidate_of(assessed: ReasoningAssessed, item: Item, *, event_id: str, held_out: bool) -> Candidate:
    """The row of a record that was chosen by its item: that which its answer would have, where it is to teach without one."""
    built = build(assessed, as_if_kept=item.gives)
    # The same record had a row when it was folded; were it otherwise, validation refuses the empty line.
    line = b"" if isinstance(built, str) else built.line
    return Candidate(
        item=item,
        held_out=held_out,
        line=line,
        asked=asked_in(line) if line else None,
        facts=facts_of(assessed),
        score=assessed.verdict.overall.value or 0.0,
        event_id=event_id,
        training_allowed=assessed.interaction.training_allowed,
        indicators=indicators_of(assessed.interaction),
        scorer_version=assessed.scorer_version,
        assessor_policy_version=assessed.policy_version,
        names=names_in(assessed.interaction),
        # Nobody lays it into the future, where no request would reach it.
        occurred_at=min(assessed.interaction.occurred_at, item.assessed_at),
    )


def asked_of(candidate: Candidate) -> Asked:
    """What it asks, in the forms that are compared. Raises ValueError where it has no row."""
    if candidate.asked is None:
        raise ValueError(f"the record at offset {candidate.item.offset} has no row")
    return candidate.asked


def without_row(rows: Iterable[Candidate]) -> tuple[str, ...]:
    """Of rows that stood ready, why some cannot even be looked at: their record is not what it was when it was folded."""
    return tuple(
        f"row at offset {row.item.offset}: "
        + ("the log gives no row for it any more" if row.training_allowed else "no consent to train on it")
        for row in rows
        if row.asked is None
    )
