"""What to try next when a stage has cost reasoning, in order, each attempt measured again. Pure.

as planned
scaled       the change that the stage made, made smaller: the largest factor that passes, by bisection
gentler      trained again from where the stage began, more rehearsal among the rows, at a lower rate; then scaled
checkpoint   where the stage as planned was earlier: the latest that passes
none         the stage is undone: what was accepted before it stands
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from ruminate.schemas.payload import Count, Part
from ruminate.trainer.plan import Recovery

Kind = Literal["as_planned", "scaled", "gentler", "checkpoint"]


class Attempt(Part):
    """One way to go through a stage."""

    number: Count
    kind: Kind
    rate_factor: float = 1.0
    """Of the planned learning rate."""
    rehearsal_factor: int = 1
    """How often each rehearsed row is put among the new ones."""
    of: Count | None = None
    """The attempt whose adapter this one is made from, without training."""
    scale: float | None = None
    """Of the change that it made."""
    step: Count | None = None
    """Where it stood then."""

    @property
    def trains(self) -> bool:
        """Whether it takes steps."""
        return self.of is None


class Tried(Part):
    """What an attempt came to."""

    attempt: Attempt
    kept: bool
    learned: bool
    """More than at the beginning of the stage, with confidence."""
    harmed: bool
    """Less than at the beginning of the stage, with confidence."""

    def passes(self, *, must_learn: bool) -> bool:
        """Whether it can be gone on with. A recovery that has learned nothing has recovered nothing."""
        return self.kept and not self.harmed and (self.learned or not must_learn or self.attempt.kind == "as_planned")


def accepted(tried: Sequence[Tried], *, must_learn: bool) -> Attempt | None:
    """The attempt to go on with: of scaled ones the largest, else the only one that passes."""
    passing = [each.attempt for each in tried if each.passes(must_learn=must_learn)]
    return max(passing, key=lambda attempt: attempt.scale or 0.0, default=None)


def next_attempt(
    tried: Sequence[Tried], recovery: Recovery, snapshots: Mapping[int, Sequence[int]], *, must_learn: bool
) -> Attempt | None:
    """What to try now; None where the search is over, for `accepted` to say how it ended.

    `snapshots` gives the steps at which the adapters of an attempt were kept on its way.
    """
    number = len(tried)
    if not tried:
        return Attempt(number=0, kind="as_planned")
    passing = [each for each in tried if each.passes(must_learn=must_learn)]
    if passing and passing[-1].attempt.kind != "scaled":
        return None
    trained = [each.attempt for each in tried if each.attempt.trains]
    last = trained[-1]
    factors = {
        # What is kept and has learned too little has to be larger, as what passes may be.
        each.attempt.scale: each.kept and not each.harmed
        for each in tried
        if each.attempt.kind == "scaled" and each.attempt.of == last.number and each.attempt.scale is not None
    }
    factor = next_factor(factors, recovery.factor_tries)
    if factor is not None:
        return Attempt(
            number=number,
            kind="scaled",
            rate_factor=last.rate_factor,
            rehearsal_factor=last.rehearsal_factor,
            of=last.number,
            scale=factor,
        )
    if passing:
        return None
    if len(trained) <= recovery.gentler_tries:
        again = len(trained)
        return Attempt(
            number=number,
            kind="gentler",
            rate_factor=recovery.gentler_rate_factor**again,
            rehearsal_factor=recovery.gentler_rehearsal_factor**again,
        )
    first = tried[0].attempt
    seen = {each.attempt.step for each in tried if each.attempt.kind == "checkpoint"}
    earlier = [step for step in sorted(snapshots.get(first.number, ()), reverse=True) if step not in seen]
    return Attempt(number=number, kind="checkpoint", of=first.number, step=earlier[0]) if earlier else None


def next_factor(tested: Mapping[float, bool], tries: int) -> float | None:
    """The next factor between 0 (which costs nothing: it is where the stage began) and 1 (which costs reasoning).

    `tested` says of each factor whether it cost nothing. None after so many tries.
    """
    if len(tested) >= tries:
        return None
    harmless = max((factor for factor, costs_nothing in tested.items() if costs_nothing), default=0.0)
    harmful = min((factor for factor, costs_nothing in tested.items() if not costs_nothing), default=1.0)
    return (harmless + harmful) / 2
