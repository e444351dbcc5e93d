"""What is in a dataset, as distributions: lengths from its own rows, scores and domains from the log while it has the records.

Everything here is counted, one row at a time; of an interaction nothing is kept but 16 bytes, to count it once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from ruminate.accumulator.curation.digests import DigestSet
from ruminate.accumulator.rebuilding.rebuild import reading
from ruminate.accumulator.records.rows import Row
from ruminate.accumulator.sealing.chain import contradicts_itself, digest_of
from ruminate.command.datasets.columns import parse_row
from ruminate.command.datasets.fetched import ROWS, Fetched
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.shared.bus import Bus

SCORES: Final = (
    "overall",
    "answer_quality",
    "mode_appropriateness",
    "logical_coherence",
    "problem_decomposition",
    "evidence_usage",
    "conclusion_validity",
    "step_by_step_clarity",
)
TEXTS: Final = ("prompt", "thinking", "answer")

_TENTHS: Final = tuple(number / 10 for number in range(1, 10))
_WORDS: Final = (1, 17, 33, 65, 129, 257, 513, 1025, 2049, 4097, 8193)


@dataclass(slots=True)
class Histogram:
    """Values by bin: `edges` are the lower edges of all bins but the first."""

    edges: Sequence[float]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.edges) + 1)

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[sum(value >= edge for edge in self.edges)] += 1
        self.total += value

    @property
    def values(self) -> int:
        """How many were counted."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """Of the values; None where there are none."""
        return self.total / self.values if self.values else None


def tenths() -> Histogram:
    """For ratios: ten bins, 1.0 in the last."""
    return Histogram(_TENTHS)


def words() -> Histogram:
    """For lengths in words: none, 1-16, 17-32, and on by doubling."""
    return Histogram(_WORDS)


@dataclass(slots=True)
class Lengths:
    """Words of each row, by what they are."""

    by_text: dict[str, Histogram] = field(default_factory=lambda: {name: words() for name in TEXTS})
    turns: Counter[int] = field(default_factory=Counter)
    rows_with_tool_calls: int = 0

    def add(self, row: Row) -> None:
        """Count a row."""
        (answer,) = row.completion
        self.by_text["prompt"].add(sum(len(turn.content.split()) for turn in row.prompt))
        self.by_text["thinking"].add(len((answer.reasoning_content or "").split()))
        self.by_text["answer"].add(len(answer.content.split()))
        self.turns[sum(turn.role == "user" for turn in row.prompt)] += 1
        self.rows_with_tool_calls += any(turn.tool_calls for turn in (*row.prompt, answer))


@dataclass(slots=True)
class Judged:
    """What the log says of the rows whose records it still has."""

    rows: int = 0
    missing: int = 0
    """Rows whose record the log no longer holds."""
    scores: dict[str, Histogram] = field(default_factory=lambda: {name: tenths() for name in SCORES})
    evidence: Counter[str] = field(default_factory=Counter)
    """Rows with evidence of this kind."""
    domains: Counter[str] = field(default_factory=Counter)
    complexities: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    agents: Counter[str] = field(default_factory=Counter)
    combiners: Counter[str] = field(default_factory=Counter)

    def add(self, assessed: ReasoningAssessed) -> None:
        """Count the record of a row."""
        self.rows += 1
        verdict, interaction = assessed.verdict, assessed.interaction
        for name in SCORES:
            holder = verdict if name in ("overall", "answer_quality", "mode_appropriateness") else verdict.reasoning_quality
            value = getattr(holder, name).value
            if value is not None:
                self.scores[name].add(value)
        for kind in {each.kind for each in assessed.evidence}:
            self.evidence[kind] += 1
        self.domains[interaction.domain or "not said"] += 1
        self.complexities[interaction.complexity or "not said"] += 1
        self.modes[interaction.thinking.mode_used] += 1
        self.agents[interaction.agent] += 1
        self.combiners[verdict.combiner] += 1


@dataclass(slots=True)
class Contents:
    """What a manifest says of its lines and of what is left out, counted."""

    rehearsed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By origin, and by the batch or the file of anchors."""
    pairs: Counter[str] = field(default_factory=Counter)
    questions: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By split and by how they are checked."""
    aside: int = 0
    details: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Of records left out, by reason, where it has details."""


def contents_of(dataset: Fetched) -> Contents:
    """Count a dataset. Raises ArtifactDamaged."""
    return Contents(
        rehearsed=Counter((each.origin, each.named) for each in dataset.rehearsed()),
        pairs=Counter(pair.kind for pair in dataset.pairs()),
        questions=Counter((asked.split, asked.kind) for asked in dataset.questions()),
        aside=sum(1 for _ in dataset.aside()),
        details=Counter((reason, detail) for reason, detail in dataset.left_out() if detail is not None),
    )


def lengths_of(dataset: Fetched) -> Lengths:
    """Measure every row of a dataset that is of its own interval. Raises NotARow."""
    lengths = Lengths()
    for file in ROWS:
        for number, line in enumerate(dataset.lines(file), start=1):
            lengths.add(parse_row(line, where=f"{file.path} line {number}"))
    return lengths


async def judged(
    bus: Bus, batch: TrainingBatchSealed, event_ids: Iterable[str], *, told: Callable[[], None] = lambda: None
) -> Judged:
    """Look up the records of these rows in the batch's interval, and behind it where compaction has moved some."""
    wanted, seen, found = DigestSet(digest_of(each) for each in event_ids), DigestSet(), Judged()
    async with aclosing(reading(bus, batch.assessed_partition, batch.after_offset + 1)) as deliveries:
        async for delivery in deliveries:
            if len(seen) == len(wanted):
                break
            told()
            assessed, event = delivery.payload, digest_of(delivery.envelope.id)
            ours = (assessed.tenant, assessed.target_model) == (batch.tenant, batch.target_model)
            if ours and event in wanted and event not in seen and not contradicts_itself(assessed):
                seen.add(event)
                found.add(assessed)
    found.missing = len(wanted) - len(seen)
    return found
