"""Passed, or why not: what two sittings of the same exam say of a candidate and of whom it is compared with. Pure.

Passed means two things.

    reasoning kept      on fixed questions (anchors): answers right, thinking well-formed, mode obeyed, no more thinking for a
                        right answer, the base's own traces of reasoning, but for those to a wrong answer, still foreseen; each
                        with confidence
    something learned   on the batch's own hold-out the candidate beats its parent: more answers right, or, where too few can
                        be checked, less loss on its rows; with 95 % confidence, in which what one conversation asks counts
                        as one observation

What the one before fails itself cannot be kept: such a measure is *not applicable*, and is never counted as kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal

from pydantic import Field

from ruminate.proof.confidence import (
    CONFIDENCE,
    Interval,
    Pairs,
    chance_of_fall,
    chance_of_gain,
    change_of_share,
    gathered,
    mean_change,
    ratio_change,
    share,
)
from ruminate.proof.exam import HOLD_OUT, Group, Question
from ruminate.proof.spoken import Answered, Sitting
from ruminate.schemas.payload import Part

Measure = Literal[
    "right",
    "well_formed",
    "obedient",
    "thinking_tokens_a_right_answer",
    "tokens_a_right_answer",
    "trace_perplexity",
    "row_loss",
]
Verdict = Literal["kept", "lost", "unproven", "not_applicable", "learned", "not_learned"]

LEAST_TRACES: Final = 16
LEAST_BOTH_RIGHT: Final = 16
"""Questions that both answer rightly, from which on their thinking is compared."""


class Policy(Part):
    """How much may be lost, and how little proves nothing."""

    most_loss: float = Field(default=0.05, gt=0, lt=1)
    """Of right answers, well-formed thinking and obedience: the share that may be lost at the far end of the interval."""
    most_perplexity_ratio: float = Field(default=1.25, gt=1)
    most_tokens_ratio: float = Field(default=2.0, gt=1)
    least_tokens_ratio: float = Field(default=0.33, gt=0, lt=1)
    """Thinking that falls below this share of what it was is no thinking any more, whatever is answered."""
    right_from: float = Field(default=0.1, gt=0, lt=1)
    """Share of right answers below which a version cannot do it."""
    form_from: float = Field(default=0.5, gt=0, lt=1)
    """The same of well-formed thinking and of obedience."""
    least_loss_fall: float = Field(default=0.01, ge=0, lt=1)
    """Of the loss before: a smaller fall may be sure, and means nothing."""
    least_checked: int = Field(default=20, ge=5)
    """Questions of a hold-out that can be checked; with fewer, the loss on its rows decides."""


class Finding(Part):
    """One measure of one group, before and after."""

    measure: Measure
    group: str
    verdict: Verdict
    questions: int
    before: float | None
    after: float | None
    change: float | None = None
    """After less before; for tokens and perplexity, after over before."""
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    """Of something learned: how likely so much is by chance."""
    because: str


class Judgement(Part):
    """What was found, and what follows from it."""

    kept: bool
    learned: bool
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether the candidate may serve."""
        return self.kept and self.learned

    @property
    def explanation(self) -> str:
        """Why it did not pass, or that it did, in one sentence."""
        missing = [finding for finding in self.findings if finding.verdict in ("lost", "unproven")]
        if missing:
            return "reasoning was not kept: " + in_words(missing[:4])
        if not self.learned:
            told = [finding for finding in self.findings if finding.verdict == "not_learned"]
            return "nothing learned: " + in_words(told)
        if not applicable(self):
            return "something was learned; there was no reasoning to be kept, or nothing that asks for it (RUMINATE_PROOF_SETS)"
        return "reasoning was kept, and something was learned"


def in_words(findings: Sequence[Finding]) -> str:
    """Measures with what was found, for people."""
    return "; ".join(f"{each.measure} ({each.group}): {each.because}" for each in findings)


def judge(
    questions: Sequence[Question], before: Sitting, after: Sitting, policy: Policy, *, rows: Sequence[str] | None = None
) -> Judgement:
    """Compare two sittings of the exam with these questions. `rows` names the observation of each of `row_losses`; without it,
    each is its own."""
    kept = [*_kept(questions, before, after, policy), *_traces_kept(before, after, policy)]
    learned = _learned(questions, before, after, policy, rows)
    return Judgement(
        kept=all(finding.verdict in ("kept", "not_applicable") for finding in kept),
        learned=learned.verdict == "learned",
        findings=(*kept, learned),
    )


def applicable(judgement: Judgement) -> bool:
    """Whether there was any reasoning to be kept."""
    return any(finding.verdict in ("kept", "lost", "unproven") for finding in judgement.findings)


def compare_served(
    questions: Sequence[Question], as_trained: Sequence[Answered], as_served: Sequence[Answered], policy: Policy
) -> tuple[Finding, ...]:
    """What a node makes of a version that has passed: the same questions, the answers it gave when it was proven, and those now.

    That it is as good was proven; here a loss has to be seen. What is `lost` must not serve, what is `unproven` may.
    """
    trained, served = Sitting(answers=tuple(as_trained)), Sitting(answers=tuple(as_served))
    return tuple(_kept(questions, trained, served, policy, by_node=True))


def lost(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Those that say that something is not there any more."""
    return tuple(finding for finding in findings if finding.verdict == "lost")


# Reasoning kept.


def _kept(
    questions: Sequence[Question], before: Sitting, after: Sitting, policy: Policy, *, by_node: bool = False
) -> list[Finding]:
    """`by_node`: right answers to a batch's own questions count here, where it is not they that prove learning; and a node counts
    the tokens of thinking and answer together."""
    findings = []
    for group in sorted({question.group for question in questions}, key=lambda group: (group.set, not group.thinks)):
        ours = [number for number, question in enumerate(questions) if question.group == group]
        then, now = [before.answers[number] for number in ours], [after.answers[number] for number in ours]
        findings += [
            _share_kept(group, "well_formed", then, now, counts=lambda answer: answer.well_formed, policy=policy),
            _share_kept(group, "obedient", then, now, counts=lambda answer: answer.obedient, policy=policy),
        ]
        if group.set != HOLD_OUT or by_node:
            checked = [at for at, pair in enumerate(zip(then, now, strict=True)) if all(each.right is not None for each in pair)]
            then, now = [then[at] for at in checked], [now[at] for at in checked]
            findings.append(_share_kept(group, "right", then, now, counts=lambda answer: bool(answer.right), policy=policy))
            if group.thinks:
                findings.append(_tokens_kept(group, then, now, policy, by_node=by_node))
    return findings


def _share_kept(
    group: Group,
    measure: Literal["right", "well_formed", "obedient"],
    then: Sequence[Answered],
    now: Sequence[Answered],
    *,
    counts: Callable[[Answered], bool],
    policy: Policy,
) -> Finding:
    was, is_now = [counts(answer) for answer in then], [counts(answer) for answer in now]
    first, last = share(sum(was), len(was)), share(sum(is_now), len(is_now))
    change = change_of_share(Pairs.of(was, is_now))
    least = policy.right_from if measure == "right" else policy.form_from
    verdict: Verdict
    if not was or first.estimate < least:
        verdict, because = (
            "not_applicable",
            f"{_percent(first.estimate)} before, which is less than {_percent(least)}: not there to be kept",
        )
    elif change.low >= -policy.most_loss:
        verdict, because = (
            "kept",
            f"{_percent(first.estimate)} before, {_percent(last.estimate)} after; lost at most {_points(-change.low)}",
        )
    elif group.set == HOLD_OUT and change.high >= 0:
        # The hold-out of a small batch is too small to prove it; the anchors are not.
        verdict, because = "not_applicable", f"{len(was)} questions are too few to tell"
    elif change.estimate < -policy.most_loss or group.set == HOLD_OUT:
        verdict = "lost"
        because = f"{_percent(first.estimate)} before, {_percent(last.estimate)} after; {_points(policy.most_loss)} may be lost"
    else:
        verdict = "unproven"
        because = (
            f"{_percent(first.estimate)} before, {_percent(last.estimate)} after on {len(was)} questions: up to "
            f"{_points(-change.low)} may be lost, {_points(policy.most_loss)} are allowed"
        )
    return _finding(measure, group, verdict, len(was), means=(first.estimate, last.estimate), change=change, because=because)


def _tokens_kept(group: Group, then: Sequence[Answered], now: Sequence[Answered], policy: Policy, *, by_node: bool) -> Finding:
    """Thinking tokens a right answer: compared on what both answer rightly, so that harder questions do not count as longer."""

    def tokens(answer: Answered) -> int:
        return max(1, answer.answer_tokens if by_node else answer.thinking_tokens)

    measure: Measure = "tokens_a_right_answer" if by_node else "thinking_tokens_a_right_answer"
    both = [(tokens(a), tokens(b)) for a, b in zip(then, now, strict=True) if a.right and b.right]
    before, after = ([pair[side] for pair in both] for side in (0, 1))
    if len(both) < LEAST_BOTH_RIGHT:
        because = f"{len(both)} questions are answered rightly by both"
        return _finding(measure, group, "not_applicable", len(both), means=None, change=None, because=because)
    ratio = ratio_change([math.log(tokens) for tokens in before], [math.log(tokens) for tokens in after])
    kept = ratio.low >= policy.least_tokens_ratio and ratio.high <= policy.most_tokens_ratio
    because = f"{ratio.estimate:.2f} times as many; {policy.least_tokens_ratio} to {policy.most_tokens_ratio} are allowed"
    means = (sum(before) / len(before), sum(after) / len(after))
    return _finding(measure, group, "kept" if kept else "lost", len(both), means=means, change=ratio, because=because)


def _traces_kept(before: Sitting, after: Sitting, policy: Policy) -> list[Finding]:
    if len(before.trace_losses) < LEAST_TRACES:
        because = f"the base thinks {len(before.trace_losses)} times in good form and to no wrong answer, {LEAST_TRACES} are needed"
        return [
            _finding("trace_perplexity", None, "not_applicable", len(before.trace_losses), means=None, change=None, because=because)
        ]
    ratio = ratio_change(before.trace_losses, after.trace_losses)
    first, last = (math.exp(sum(losses) / len(losses)) for losses in (before.trace_losses, after.trace_losses))
    kept = ratio.high <= policy.most_perplexity_ratio
    because = f"perplexity {first:.3f} before, {last:.3f} after; {policy.most_perplexity_ratio} times as much is allowed"
    return [
        _finding(
            "trace_perplexity",
            None,
            "kept" if kept else "lost",
            len(before.trace_losses),
            means=(first, last),
            change=ratio,
            because=because,
        )
    ]


# Something learned.


def _learned(questions: Sequence[Question], before: Sitting, after: Sitting, policy: Policy, rows: Sequence[str] | None) -> Finding:
    checked = [
        (bool(then.right), bool(now.right), question.observation)
        for question, then, now in zip(questions, before.answers, after.answers, strict=True)
        if question.set == HOLD_OUT and then.right is not None and now.right is not None
    ]
    if len(checked) >= policy.least_checked:
        observations = [observation for *_, observation in checked]
        pairs = Pairs.of([then for then, *_ in checked], [now for _, now, _ in checked])
        n, observed = pairs.questions, len(set(observations))
        shares = ((pairs.both + pairs.only_before) / n, (pairs.both + pairs.only_after) / n)
        told = f"{_percent(shares[0])} right before, {_percent(shares[1])} after on {n} questions held out{_out_of(observed, n)}"
        gains = [now - then for then, now, _ in checked]
        # What one conversation asks is not independent, which the interval of pairs takes it to be.
        change = change_of_share(pairs) if observed == n else mean_change(gains, observations)
        return _gain("right", n, shares, change, chance=chance_of_gain(gathered(gains, observations)), told=told)
    n = len(before.row_losses)
    if n < policy.least_checked:
        because = (
            f"{len(checked)} questions that can be checked and {n} rows are held out, {policy.least_checked} of either are needed"
        )
        return _finding("row_loss", None, "not_learned", n, means=None, change=None, because=because)
    losses = [now - then for then, now in zip(before.row_losses, after.row_losses, strict=True)]
    named = list(rows) if rows is not None else [str(number) for number in range(n)]
    change, differences = mean_change(losses, named), gathered(losses, named)
    means = (sum(before.row_losses) / n, sum(after.row_losses) / n)
    told = f"a loss of {means[0]:.3f} before, {means[1]:.3f} after on {n} rows held out{_out_of(len(differences), n)}"
    if means[0] - means[1] < policy.least_loss_fall * means[0]:
        because = f"{told}; a fall by {policy.least_loss_fall:.0%} is the least that means something"
        return _finding("row_loss", None, "not_learned", n, means=means, change=change, because=because)
    return _gain("row_loss", n, means, change, chance=chance_of_fall(differences), told=told)


def _out_of(observations: int, count: int) -> str:
    return f", of {observations} conversations" if observations < count else ""


def _gain(measure: Measure, count: int, means: tuple[float, float], change: Interval, *, chance: float, told: str) -> Finding:
    better = chance < 1 - CONFIDENCE
    because = f"{told}; as much by chance alone: {chance:.2g}"
    found = _finding(measure, None, "learned" if better else "not_learned", count, means=means, change=change, because=because)
    return found.model_copy(update={"chance": chance})


def _finding(
    measure: Measure,
    group: Group | None,
    verdict: Verdict,
    count: int,
    *,
    means: tuple[float, float] | None,
    change: Interval | None,
    because: str,
) -> Finding:
    before, after = (None, None) if means is None else means
    low, high = (change.low, change.high) if change is not None else (None, None)
    return Finding(
        measure=measure,
        group=str(group) if group else ("base" if measure == "trace_perplexity" else HOLD_OUT),
        verdict=verdict,
        questions=count,
        before=_finite(before),
        after=_finite(after),
        change=_finite(change.estimate) if change is not None else None,
        low=_finite(low),
        high=_finite(high),
        because=because,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _percent(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.1%}"


def _points(value: float) -> str:
    return f"{100 * value:.1f} points"


def harmed(
    questions: Sequence[Question], before: Sitting, after: Sitting, policy: Policy, *, rows: Sequence[str] | None = None
) -> bool:
    """Whether the batch's own hold-out is answered worse than before, with confidence: then rewards have risen for nothing."""
    fallen = _learned(questions, after, before, policy, rows)  # had it been the other way round, something would be learned
    return fallen.chance is not None and fallen.chance < (1 - CONFIDENCE) / 2
