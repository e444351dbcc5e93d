"""What the verdicts on a file come to: how each part is distributed, what was kept, who is trusted most and least, and why."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from ruminate.assessor.learning.teacher import reliability
from ruminate.command.assess.work import Assessed
from ruminate.schemas.assessment import Score, Verdict

BINS: Final = 10
PARTS: Final = (
    "overall",
    "answer_quality",
    "logical_coherence",
    "problem_decomposition",
    "evidence_usage",
    "conclusion_validity",
    "step_by_step_clarity",
    "mode_appropriateness",
)


@dataclass(slots=True)
class Distribution:
    """Of one part: how often it abstained, and the scores where it did not, in ten bins."""

    abstained: int = 0
    total: float = 0.0
    bins: list[int] = field(default_factory=lambda: [0] * BINS)

    @property
    def known(self) -> int:
        return sum(self.bins)

    @property
    def mean(self) -> float | None:
        """None where it always abstained."""
        return self.total / self.known if self.known else None

    def add(self, score: Score) -> None:
        """Count one score."""
        if score.value is None:
            self.abstained += 1
            return
        self.bins[min(BINS - 1, int(score.value * BINS))] += 1
        self.total += score.value


@dataclass(frozen=True, slots=True)
class Example:
    """A line that stands at an end of the order, and why."""

    line: int
    overall: float
    decision: str
    right: bool | None
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trust:
    """How far `overall` can be trusted, where lines say what is right: of `lines`, of which `right` are."""

    lines: int
    right: int
    auc: float | None
    same_question_pairs: int
    same_question_ranked: float | None
    brier: float
    calibration_error: float


@dataclass(slots=True)
class Report:
    """Everything about one file."""

    file: str
    policy_version: str
    scorer_version: str
    combiner: str
    most: int
    lines: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)
    refused_count: int = 0
    decisions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    with_agreement: int = 0
    evidence: Distribution = field(default_factory=Distribution)
    parts: dict[str, Distribution] = field(default_factory=lambda: {part: Distribution() for part in PARTS})
    thinking_words: int = 0
    context_words: int = 0
    steps: int = 0
    _best: list[tuple[float, int, Example]] = field(default_factory=list)
    _worst: list[tuple[float, int, Example]] = field(default_factory=list)
    _labelled: list[tuple[float, bool, str]] = field(default_factory=list)

    def add(self, assessed: Assessed) -> None:
        """Count one line."""
        verdict, taken = assessed.verdict, assessed.taken
        self.lines += 1
        self.decisions[verdict.decision] += 1
        if verdict.decision == "reject":
            self.reasons.update(reason.partition(":")[0] for reason in verdict.reasons)
        self.with_agreement += assessed.agreement is not None
        self.evidence.add(Score(value=verdict.evidence_ratio))
        for part, score in scores_of(verdict).items():
            self.parts[part].add(score)
        self.thinking_words += verdict.thinking_words
        self.context_words += verdict.context_words
        self.steps += verdict.reasoning_steps
        overall = verdict.overall.value
        if overall is None:
            return
        example = Example(taken.line, overall, verdict.decision, taken.right, _why(verdict))
        _keep(self._best, (overall, -taken.line, example), self.most)
        _keep(self._worst, (-overall, -taken.line, example), self.most)
        if taken.right is not None:
            asked = taken.interaction.messages[-1].content
            self._labelled.append((overall, taken.right, asked))

    def most_trusted(self) -> list[Example]:
        """The lines with the highest overall scores, the first of equals first."""
        return [example for _, _, example in sorted(self._best, key=lambda kept: (-kept[0], -kept[1]))]

    def least_trusted(self) -> list[Example]:
        """The lines with the lowest overall scores, the first of equals first."""
        return [example for _, _, example in sorted(self._worst, key=lambda kept: (-kept[0], -kept[1]))]

    def trust(self) -> Trust | None:
        """How far `overall` can be trusted; None where no line says what is right."""
        if not self._labelled:
            return None
        pairs = [(score, right) for score, right, _ in self._labelled]
        by_question: dict[str, list[tuple[float, bool]]] = {}
        for score, right, asked in self._labelled:
            by_question.setdefault(asked, []).append((score, right))
        ranked = [_wins(group) for group in by_question.values()]
        same = sum(total for _, total in ranked)
        measured = reliability(pairs)
        return Trust(
            lines=len(pairs),
            right=sum(right for _, right in pairs),
            auc=_auc(pairs),
            same_question_pairs=same,
            same_question_ranked=sum(won for won, _ in ranked) / same if same else None,
            brier=measured.brier,
            calibration_error=measured.calibration_error,
        )

    def as_json(self) -> dict[str, Any]:
        """For programs: everything, in plain values."""
        trust = self.trust()
        return {
            "file": self.file,
            "policy_version": self.policy_version,
            "scorer_version": self.scorer_version,
            "combiner": self.combiner,
            "lines": self.lines,
            "refused": {"count": self.refused_count, "lines": [{"line": line, "why": why} for line, why in self.refused]},
            "decisions": dict(self.decisions),
            "reasons": dict(self.reasons.most_common()),
            "with_agreement": self.with_agreement,
            "parts": {part: _plain(each) for part, each in self.parts.items()},
            "evidence_ratio": _plain(self.evidence),
            "thinking_words": self.thinking_words,
            "context_words": self.context_words,
            "reasoning_steps": self.steps,
            "most_trusted": [_plain_example(each) for each in self.most_trusted()],
            "least_trusted": [_plain_example(each) for each in self.least_trusted()],
            "trust": None if trust is None else {name: getattr(trust, name) for name in Trust.__slots__},
        }


def scores_of(verdict: Verdict) -> dict[str, Score]:
    """The scores of a verdict by name, in the order of PARTS."""
    return {
        "overall": verdict.overall,
        "answer_quality": verdict.answer_quality,
        **dict(verdict.reasoning_quality),
        "mode_appropriateness": verdict.mode_appropriateness,
    }


def _keep(kept: list[tuple[float, int, Example]], entry: tuple[float, int, Example], most: int) -> None:
    if len(kept) < most:
        heapq.heappush(kept, entry)
    elif entry[:2] > kept[0][:2]:
        heapq.heapreplace(kept, entry)


def _why(verdict: Verdict) -> tuple[str, ...]:
    reasons = verdict.reasons if verdict.decision == "reject" else ()
    return (*reasons, *verdict.overall.evidence[1:])


def _plain(distribution: Distribution) -> dict[str, Any]:
    return {
        "known": distribution.known,
        "abstained": distribution.abstained,
        "mean": distribution.mean,
        "bins": distribution.bins,
    }


def _plain_example(example: Example) -> dict[str, Any]:
    return {name: getattr(example, name) for name in Example.__slots__}


def _auc(pairs: list[tuple[float, bool]]) -> float | None:
    """How often a right one scores above a wrong one, ties half (Mann and Whitney, 1947); None where one kind is missing."""
    ordered = sorted(pairs)
    rights = sum(right for _, right in ordered)
    if not 0 < rights < len(ordered):
        return None
    ranks, at = 0.0, 0
    while at < len(ordered):
        end = at
        while end < len(ordered) and ordered[end][0] == ordered[at][0]:
            end += 1
        ranks += (at + end + 1) / 2 * sum(right for _, right in ordered[at:end])
        at = end
    return (ranks - rights * (rights + 1) / 2) / (rights * (len(ordered) - rights))


def _wins(group: list[tuple[float, bool]]) -> tuple[float, int]:
    """Of the pairs of a right and a wrong one: how many are ranked rightly, and how many there are."""
    rights = [score for score, right in group if right]
    wrongs = [score for score, right in group if not right]
    won = sum((right > wrong) + (right == wrong) / 2 for right in rights for wrong in wrongs)
    return won, len(rights) * len(wrongs)
