"""Decide: is a batch worth sealing, which rows go in, and is it sound? Pure: the moment is passed in.

A batch is never below the reasoning ratio. Direct rows over it do not count, and at the cut they are left out; where
reasoning rows are few, that makes the batch wait, whatever its age.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from functools import cache
from typing import Literal, NamedTuple

from pydantic import ValidationError

from ruminate.accumulator.chain import Counts, Fold, Item
from ruminate.accumulator.rows import LeftOut, Row, build, indicators_of
from ruminate.schemas.assessment import ReasoningAssessed

CATCHING_UP_SECONDS = 60.0
"""Records older than this when they are folded come from a backlog: more is about to follow."""
QUIET_SECONDS = 5.0
"""A backlog has ended when nothing more was folded for this long."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When a batch is worth training, and what it must be."""

    seal_at_rows: int
    min_reasoning_ratio: float
    seal_after_seconds: float
    seal_after_min_rows: int

    @property
    def share(self) -> Fraction:
        """The ratio as the decimal that was written down: 0.8 is 4/5, not the nearest binary fraction."""
        return _written(self.min_reasoning_ratio)

    def direct_allowed(self, reasoning: int) -> int:
        """How many direct rows this many reasoning rows carry."""
        share = self.share
        return reasoning * (share.denominator - share.numerator) // share.numerator


@cache
def _written(ratio: float) -> Fraction:
    return Fraction(ratio).limit_denominator(10_000)


class Progress(NamedTuple):
    """A fold's rows, and its times."""

    counts: Counts
    waiting_since: datetime | None = None
    newest_assessed_at: datetime | None = None
    folded_at: datetime | None = None


Reason = Literal["count", "ratio", "age"]


@dataclass(frozen=True, slots=True)
class Seal:
    """Cut now, and why."""

    reason: Reason
    explanation: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet, and why."""

    explanation: str


def usable_rows(counts: Counts, policy: Policy) -> int:
    """Rows that a batch cut now would train on."""
    return counts.reasoning + min(counts.direct, policy.direct_allowed(counts.reasoning))


def reason_to_seal(progress: Progress, policy: Policy, *, now: datetime) -> Reason | None:
    """Why to cut now, None to wait: what `decide` says, without the words, for it is asked at each record of a backlog."""
    counts = progress.counts
    rows = usable_rows(counts, policy)
    if rows >= policy.seal_at_rows:
        return "ratio" if counts.reasoning + counts.direct > rows else "count"
    return "age" if rows >= policy.seal_after_min_rows and _old(progress, policy, now) else None


def decide(progress: Progress, policy: Policy, *, now: datetime) -> Seal | Wait:
    """Seal by count; by ratio, where the count waited for reasoning rows; by age, with fewer rows. Or wait."""
    counts, reason = progress.counts, reason_to_seal(progress, policy, now=now)
    rows = usable_rows(counts, policy)
    surplus = counts.reasoning + counts.direct - rows
    direct = f"{counts.direct} direct" if not surplus else f"{counts.direct - surplus} of {counts.direct} direct"
    have = f"{rows} row{'s' * (rows != 1)} ({counts.reasoning} reasoning, {direct})"
    needs = f"sealing needs {policy.seal_at_rows} (RUMINATE_SEAL_AT_ROWS)"
    ratio = f"at least {float(policy.share):.0%} reasoning (RUMINATE_MIN_REASONING_RATIO)"
    if reason == "count":
        return Seal(reason, f"{have}, {needs}")
    if reason == "ratio":
        return Seal(reason, f"{have}, {needs} with {ratio}")
    if reason == "age":
        age = (now - progress.waiting_since).total_seconds() if progress.waiting_since else 0.0
        return Seal(
            reason,
            f"{have}, the oldest waits for {age:.0f} s; sealing needs {policy.seal_after_min_rows} "
            f"(RUMINATE_SEAL_AFTER_MIN_ROWS) after {policy.seal_after_seconds:.0f} s (RUMINATE_SEAL_AFTER_SECONDS)",
        )
    short = f"; {surplus} direct rows wait for reasoning rows, there must be {ratio}" if surplus else ""
    return Wait(f"{have}, {needs}{short}. Waiting.")


def _old(progress: Progress, policy: Policy, now: datetime) -> bool:
    if progress.waiting_since is None or progress.folded_at is None or progress.newest_assessed_at is None:
        return False
    backlog = (progress.folded_at - progress.newest_assessed_at).total_seconds() > CATCHING_UP_SECONDS
    if backlog and (now - progress.folded_at).total_seconds() < QUIET_SECONDS:
        return False
    return (now - progress.waiting_since).total_seconds() >= policy.seal_after_seconds


@dataclass(frozen=True, slots=True)
class Selection:
    """Every record of the interval, once: the rows, in the order of their lines, and the rest with its reason."""

    train: tuple[Item, ...]
    holdout: tuple[Item, ...]
    left_out: tuple[tuple[Item, LeftOut], ...]

    def rows(self) -> Iterator[tuple[Item, bool]]:
        """Every row in the order of the lines, and whether it is held out."""
        yield from ((item, False) for item in self.train)
        yield from ((item, True) for item in self.holdout)


def seed_of(batch_id: str, shuffle_seed: int) -> str:
    """What the order of a batch's rows and the choice among its direct rows depend on."""
    return f"{shuffle_seed}/{batch_id}"


def select(fold: Fold, policy: Policy, *, seed: str) -> Selection:
    """Choose the rows of a batch. Direct rows over the ratio go by the order of a seeded hash; so does the order of lines."""

    def drawn(items: Iterable[Item], purpose: str) -> list[Item]:
        return sorted(items, key=lambda item: hashlib.sha256(f"{seed}/{purpose}/".encode() + item.recorded).digest())

    rows: list[Item] = []
    left_out: list[tuple[Item, LeftOut]] = []
    for item, why_not in fold.judged():
        if why_not is None:
            rows.append(item)
        else:
            left_out.append((item, why_not))
    held_out = [item for item in rows if fold.is_held_out(item)]
    train = [item for item in rows if not fold.is_held_out(item)]
    reasoning = [item for item in train if item.reasoning]
    direct = drawn((item for item in train if not item.reasoning), "sample")
    allowed = policy.direct_allowed(len(reasoning))
    left_out += [(item, "over_ratio") for item in direct[allowed:]]
    return Selection(
        train=tuple(drawn(reasoning + direct[:allowed], "order")),
        holdout=tuple(drawn(held_out, "order")),
        left_out=tuple(sorted(left_out, key=lambda entry: entry[0].offset)),
    )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row on its way into a dataset: what the fold kept of its record, and what was read again at the cut."""

    item: Item
    held_out: bool
    line: bytes
    event_id: str
    training_allowed: bool
    indicators: tuple[str, ...]
    scorer_version: str
    assessor_policy_version: str


def candidate_of(assessed: ReasoningAssessed, item: Item, *, event_id: str, held_out: bool, row_max_bytes: int) -> Candidate:
    """The row of a record that was chosen by its item."""
    built = build(assessed, row_max_bytes=row_max_bytes)
    return Candidate(
        item=item,
        held_out=held_out,
        # The same record had a row when it was folded; were it otherwise, validation refuses the empty line.
        line=b"" if isinstance(built, str) else built.line,
        event_id=event_id,
        training_allowed=assessed.interaction.training_allowed,
        indicators=indicators_of(assessed.interaction),
        scorer_version=assessed.scorer_version,
        assessor_policy_version=assessed.policy_version,
    )


def problems_of(candidates: Sequence[Candidate], policy: Policy, *, row_max_bytes: int) -> tuple[str, ...]:
    """Why this dataset must not be written; empty when it is sound. Looks at the lines themselves, not at how they came to be."""
    problems: list[str] = []
    trained = [candidate for candidate in candidates if not candidate.held_out]
    reasoning = sum(candidate.item.reasoning for candidate in trained)
    if not trained:
        problems.append("no row to train on")
    elif reasoning < policy.share * len(trained):
        problems.append(f"{reasoning} of {len(trained)} rows reason; there must be at least {float(policy.share):.0%}")
    for what, keys in (
        ("interaction", [candidate.item.recorded for candidate in candidates]),
        ("event", [candidate.item.event for candidate in candidates]),
    ):
        if repeated := sum(count - 1 for count in Counter(keys).values()):
            problems.append(f"{repeated} rows repeat an {what}")
    if both := len({c.item.conversation for c in trained} & {c.item.conversation for c in candidates if c.held_out}):
        problems.append(f"{both} conversations are both trained and held out")
    for candidate in candidates:
        problems += (f"row at offset {candidate.item.offset}: {problem}" for problem in _row_problems(candidate, row_max_bytes))
    return tuple(problems)


def _row_problems(candidate: Candidate, row_max_bytes: int) -> Iterable[str]:
    if not candidate.training_allowed:
        yield "no consent to train on it"
    if len(candidate.line) > row_max_bytes:
        yield f"{len(candidate.line)} bytes; at most {row_max_bytes} (RUMINATE_ROW_MAX_BYTES)"
    if candidate.line.count(b"\n") != 1 or not candidate.line.endswith(b"\n"):
        yield "is not one line"
    try:
        row = Row.model_validate_json(candidate.line)
    except ValidationError as error:
        # Where and what kind, never the contents.
        yield "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['type']}" for each in error.errors(include_input=False))
        return
    (answer,) = row.completion
    if not answer.content.strip() and not answer.tool_calls:
        yield "the answer is empty"
    thinks = bool((answer.reasoning_content or "").strip())
    if thinks != candidate.item.reasoning or thinks != row.chat_template_kwargs.enable_thinking:
        yield "it does not keep the thinking that it is counted for"
