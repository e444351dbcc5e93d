"""Decide: is a batch worth sealing? Pure: the moment is passed in.

A batch is never below the reasoning ratio. Direct rows over it do not count, and at the cut they are left out; where
reasoning rows are few, that makes the batch wait, whatever its age.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from functools import cache
from typing import Final, NamedTuple

from ruminate.accumulator.sealing.chain import Counts
from ruminate.accumulator.sealing.drift import LEAST_EFFECT, NAMES, Looked
from ruminate.accumulator.sealing.pauses import Pause, QuietHours, pause_of
from ruminate.schemas.batch import SealReason

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
    generated_most_ratio: float = 0.0
    replay_ratio: float = 0.0
    anchor_ratio: float = 0.0
    seal_at_tokens: int | None = None
    seal_at_records: int | None = None
    """Records that wait, at most: then a batch is cut with whatever rows there are. None bounds nothing."""
    false_alarm_ratio: float = 0.0
    """Share of batches that are sealed for a drift which is none, at most; 0 looks for none."""
    most_a_day: int | None = None
    quiet_hours: QuietHours | None = None

    @property
    def share(self) -> Fraction:
        """The ratio as the decimal that was written down: 0.8 is 4/5, not the nearest binary fraction."""
        return _written(self.min_reasoning_ratio)

    def direct_allowed(self, reasoning: int) -> int:
        """How many direct rows this many reasoning rows carry."""
        share = self.share
        return reasoning * (share.denominator - share.numerator) // share.numerator

    def generated_allowed(self, captured: int) -> int:
        """How many rows whose thinking was written afterwards go with this many whose thinking was captured."""
        return _beside(captured, self.generated_most_ratio)

    def replayed(self, fresh: int) -> int:
        """How many rows of earlier batches go with this many fresh ones."""
        return _beside(fresh, self.replay_ratio)

    def anchored(self, fresh: int) -> int:
        """How many anchors go with this many fresh rows."""
        return _beside(fresh, self.anchor_ratio)


def _beside(rows: int, ratio: float) -> int:
    """How many others go with these rows, for the others to be this share of both."""
    share = _written(ratio)
    return rows * share.numerator // (share.denominator - share.numerator)


@cache
def _written(ratio: float) -> Fraction:
    return Fraction(ratio).limit_denominator(10_000)


class Look(NamedTuple):
    """What a cut would have come to that was not worth it: so many rows stood ready, and so many of them could be trained."""

    standing: Counts
    trainable: Counts
    tokens: int = 0
    """Of the rows that would have been trained."""

    @property
    def lost(self) -> Counts:
        """Rows that stand ready, and are held out or left out."""
        standing, trainable = self.standing, self.trainable
        return Counts(standing.reasoning - trainable.reasoning, standing.direct - trainable.direct)


class Progress(NamedTuple):
    """A fold's rows, and its times. `look` is the last look at them that ended without a batch."""

    counts: Counts
    look: Look | None = None
    waiting_since: datetime | None = None
    newest_assessed_at: datetime | None = None
    folded_at: datetime | None = None
    tokens: Counts = Counts()
    """Of the rows, by kind."""
    looked: Looked | None = None
    """The last look at whether the interactions are other than those of the last batch."""
    sealed_at: Sequence[datetime] = ()
    """When the last batches were sealed, as many as the budget of a day looks at."""
    requests: int = 0
    """Operators' words that no batch has answered."""
    records: int = 0
    """All that were folded since the last cut, whether or not they have rows."""


@dataclass(frozen=True, slots=True)
class Seal:
    """Cut now, and why."""

    reason: SealReason
    explanation: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet, and why. `pause` is what a batch waits for that is due."""

    explanation: str
    pause: Pause | None = None


def usable_rows(counts: Counts, policy: Policy) -> int:
    """Rows that a batch of these would train on."""
    return counts.reasoning + min(counts.direct, policy.direct_allowed(counts.reasoning))


def expected(progress: Progress) -> Counts:
    """Rows to be trained that stand ready: those of the last look, and all that came since."""
    counts, look = progress.counts, progress.look
    if look is None:
        return counts
    return Counts(max(0, counts.reasoning - look.lost.reasoning), max(0, counts.direct - look.lost.direct))


def usable_tokens(progress: Progress, policy: Policy) -> int:
    """Tokens that a batch would train on, taking those of a row that is left out for the mean of its kind."""
    counts, tokens, rows = progress.counts, progress.tokens, expected(progress)
    direct = min(rows.direct, policy.direct_allowed(rows.reasoning))
    return tokens.reasoning * rows.reasoning // max(1, counts.reasoning) + tokens.direct * direct // max(1, counts.direct)


_GROWTH: Final = 16
"""A look reads every row that stands ready: so the next one waits until there are a sixteenth more."""


def reason_to_seal(progress: Progress, policy: Policy, *, now: datetime) -> SealReason | None:
    """Why to cut now, None to wait: what `decide` says, without the words, for it is asked at each record of a backlog."""
    reason = _due(progress, policy, now)
    if reason is not None and _pause(progress, policy, now) is None:
        return reason
    return "operator" if _asked_for(progress, policy) else None


def _due(progress: Progress, policy: Policy, now: datetime) -> SealReason | None:
    """Why a batch is due, whether or not it has to wait for a pause to end."""
    return _rows_due(progress, policy, now) or ("records" if _too_many(progress, policy) else None)


def _too_many(progress: Progress, policy: Policy) -> bool:
    """Whether no more may wait: of a stream that never makes a batch, the fold would grow without end."""
    return policy.seal_at_records is not None and progress.records >= policy.seal_at_records


def _rows_due(progress: Progress, policy: Policy, now: datetime) -> SealReason | None:
    counts = expected(progress)
    rows = usable_rows(counts, policy)
    if rows >= policy.seal_at_rows and _worth_a_look(progress, policy, policy.seal_at_rows):
        return "ratio" if counts.rows > rows else "count"
    if rows < policy.seal_after_min_rows or not _worth_a_look(progress, policy, policy.seal_after_min_rows):
        return None
    if (
        policy.seal_at_tokens is not None
        and usable_tokens(progress, policy) >= policy.seal_at_tokens
        and _worth_a_look(progress, policy, policy.seal_after_min_rows, tokens=policy.seal_at_tokens)
    ):
        return "tokens"
    if progress.looked is not None and progress.looked.found is not None:
        return "quality" if progress.looked.found.what == "quality" else "drift"
    return "age" if _old(progress, policy, now) else None


def _asked_for(progress: Progress, policy: Policy) -> bool:
    """Whether an operator's word stands and there is something to seal."""
    return bool(progress.requests) and usable_rows(expected(progress), policy) >= 1 and _worth_a_look(progress, policy, 1)


def _pause(progress: Progress, policy: Policy, now: datetime) -> Pause | None:
    return pause_of(policy.quiet_hours, policy.most_a_day, progress.sealed_at, now=now)


def paused(progress: Progress, policy: Policy, *, now: datetime) -> Pause | None:
    """What a batch that is due waits for; None where none is due, or nothing is in its way."""
    return None if _due(progress, policy, now) is None else _pause(progress, policy, now)


def _worth_a_look(progress: Progress, policy: Policy, needed: int, *, tokens: int = 0) -> bool:
    look = progress.look
    if look is None or (usable_rows(look.trainable, policy) >= needed and look.tokens >= tokens):
        return True
    return _GROWTH * (progress.counts.rows - look.standing.rows) >= look.standing.rows


def enough(found: Look, due: Seal, policy: Policy) -> bool:
    """Whether what a look has found makes the batch that was due. Where too many records wait, anything does."""
    if due.reason == "records":
        return True
    needed = {"count": policy.seal_at_rows, "ratio": policy.seal_at_rows, "operator": 1}.get(due.reason, policy.seal_after_min_rows)
    tokens = policy.seal_at_tokens if due.reason == "tokens" else None
    return usable_rows(found.trainable, policy) >= needed and found.tokens >= (tokens or 0)


def decide(progress: Progress, policy: Policy, *, now: datetime) -> Seal | Wait:
    """Seal by count; by ratio, where the count waited for reasoning rows; for other reasons, with fewer rows. Or wait."""
    reason, have = reason_to_seal(progress, policy, now=now), _have(progress, policy)
    if reason is not None:
        return Seal(reason, f"{have}, {_because(reason, progress, policy, now)}")
    due, pause = _due(progress, policy, now), _pause(progress, policy, now)
    if due is not None and pause is not None:
        return Wait(f"{have}, due ({due}): {_because(due, progress, policy, now)}. {_in_the_way(pause, policy)}.", pause)
    surplus = expected(progress).rows - usable_rows(expected(progress), policy)
    short = f"; {surplus} direct rows wait for reasoning rows, there must be {_ratio(policy)}" if surplus else ""
    asked = "; an operator has asked for it, which needs one row" if progress.requests else ""
    return Wait(f"{have}, {_needs(policy)}{short}{asked}. Waiting.")


def _have(progress: Progress, policy: Policy) -> str:
    counts = expected(progress)
    rows = usable_rows(counts, policy)
    surplus = counts.rows - rows
    direct = f"{counts.direct} direct" if not surplus else f"{counts.direct - surplus} of {counts.direct} direct"
    have = f"{rows} row{'s' * (rows != 1)} ({counts.reasoning} reasoning, {direct})"
    if progress.look is not None and (lost := progress.look.lost.rows):
        have += f" beside {lost} that would be held out or left out"
    return have


def _needs(policy: Policy) -> str:
    return f"sealing needs {policy.seal_at_rows} (RUMINATE_SEAL_AT_ROWS)"


def _ratio(policy: Policy) -> str:
    return f"at least {float(policy.share):.0%} reasoning (RUMINATE_MIN_REASONING_RATIO)"


def _because(reason: SealReason, progress: Progress, policy: Policy, now: datetime) -> str:
    """The numbers behind a reason."""
    fewest = f"{policy.seal_after_min_rows} (RUMINATE_SEAL_AFTER_MIN_ROWS)"
    match reason:
        case "count" | "ratio":
            return _needs(policy) if reason == "count" else f"{_needs(policy)} with {_ratio(policy)}"
        case "tokens":
            tokens = usable_tokens(progress, policy)
            return f"{tokens} tokens; sealing needs {policy.seal_at_tokens} (RUMINATE_SEAL_AT_TOKENS) in at least {fewest}"
        case "drift" | "quality":
            return (
                f"{_said(progress.looked)} (RUMINATE_SEAL_FALSE_ALARM_RATIO {policy.false_alarm_ratio:g}); sealing needs {fewest}"
            )
        case "records":
            return f"{progress.records} records wait, as many as may (RUMINATE_SEAL_AT_RECORDS); sealing needs no row"
        case "operator":
            words = f"{progress.requests} operators' words" if progress.requests > 1 else "an operator's word"
            return f"{words}; sealing needs 1"
        case "age":
            age = (now - progress.waiting_since).total_seconds() if progress.waiting_since else 0.0
            return (
                f"the oldest waits for {age:.0f} s; sealing needs {fewest} after {policy.seal_after_seconds:.0f} s "
                "(RUMINATE_SEAL_AFTER_SECONDS)"
            )


def _said(looked: Looked | None) -> str:
    if looked is None or looked.found is None:
        raise ValueError("nothing was found that could be said")
    found = looked.found
    what = {"quality": "scores are lower", "scores": "scores are distributed otherwise", "topics": "topics are other"}
    return (
        f"{what[found.what]} than in the last batch's interval: {NAMES[found.what]}, statistic {found.statistic:.4g}, effect "
        f"{found.effect:.3f} (from {LEAST_EFFECT[found.what]:g}), p {found.p_value:.2g} (up to {looked.alpha:.2g}) at look "
        f"{looked.look}, {looked.waiting} conversations against {looked.before}"
    )


def _in_the_way(pause: Pause, policy: Policy) -> str:
    until = f"{pause.until.astimezone(UTC):%Y-%m-%d %H:%MZ}"
    if pause.why == "budget":
        return f"{policy.most_a_day} in 24 hours is the budget (RUMINATE_SEAL_MOST_A_DAY): waiting until {until}"
    return f"These are quiet hours (RUMINATE_SEAL_QUIET_HOURS): waiting until {until}"


def _old(progress: Progress, policy: Policy, now: datetime) -> bool:
    if progress.waiting_since is None or progress.folded_at is None or progress.newest_assessed_at is None:
        return False
    backlog = (progress.folded_at - progress.newest_assessed_at).total_seconds() > CATCHING_UP_SECONDS
    if backlog and (now - progress.folded_at).total_seconds() < QUIET_SECONDS:
        return False
    return (now - progress.waiting_since).total_seconds() >= policy.seal_after_seconds
