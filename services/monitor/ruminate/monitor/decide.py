"""What a record tells the monitor, how a window folds it, and what a closed window says.

    record -> glimpse -> Observation -> Tally.plus ... -> summarise -> PipelineMetrics

Nothing here may raise for what a record holds: whatever cannot be read is counted as unreadable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import ValidationError

from ruminate.schemas.assessment import Score
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.envelope import Envelope, EnvelopeError
from ruminate.schemas.flow import FLOW, GROUP_READERS, REASONING_ASSESSED, TRAINING_BATCH_SEALED
from ruminate.schemas.metrics import PipelineMetrics, ReaderLag, TopicWindow
from ruminate.schemas.payload import Name, Part, Payload

DEAD_LETTER_TOPICS: Final = tuple(topic.dead_letters(reader).name for reader, topics in GROUP_READERS.items() for topic in topics)
WATCHED_TOPICS: Final = (*(topic.name for topic in FLOW), *DEAD_LETTER_TOPICS)

_EPOCH: Final = datetime.fromtimestamp(0, UTC)


class _Judged(Part):
    decision: Literal["keep", "reject"]
    overall: Score


class _Answered(Part):
    thinking: str | None = None


class _Answer(Part):
    response: _Answered


class _Assessed(Payload):
    """The few fields of ReasoningAssessed that a window counts: the rest is passed over without building it."""

    target_model: Name
    verdict: _Judged
    interaction: _Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What a window counts of one assessed interaction."""

    target: str
    kept: bool
    thought: bool
    overall: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A sealed batch, as far as the next one needs it: everything up to `to_offset` is taken."""

    target: str
    batch_id: str
    previous_batch_id: str | None
    to_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one record tells. `readable` is false for what is no event of its topic."""

    topic: str
    value_bytes: int
    readable: bool = True
    age_seconds: float | None = None
    assessment: Assessment | None = None
    cut: Cut | None = None


def glimpse(
    topic: str, headers: Iterable[tuple[str, bytes]], value: bytes | None, *, written_at: float, read_at: float
) -> Observation | None:
    """Read as little of a record as the windows need; None for a tombstone, which is no event.

    `written_at` (the log's timestamp) and `read_at` are Unix times; a producer may have written any nonsense into the first.
    """
    if value is None:
        return None
    if topic in DEAD_LETTER_TOPICS:
        return Observation(topic=topic, value_bytes=len(value))
    try:
        envelope = Envelope.from_headers(headers, timestamp_ms=int(min(max(written_at, 0.0), read_at) * 1000))
        assessment = _assessment(value) if topic == REASONING_ASSESSED.name else None
        cut = _cut(value) if topic == TRAINING_BATCH_SEALED.name else None
    except (EnvelopeError, ValidationError):
        return Observation(topic=topic, value_bytes=len(value), readable=False)
    return Observation(
        topic=topic,
        value_bytes=len(value),
        # Clocks of two machines differ: an event from the future has no age yet.
        age_seconds=max(0.0, read_at - (envelope.time - _EPOCH).total_seconds()),
        assessment=assessment,
        cut=cut,
    )


def _assessment(value: bytes) -> Assessment:
    assessed = _Assessed.model_validate_json(value)
    return Assessment(
        target=f"{assessed.tenant}/{assessed.target_model}",
        kept=assessed.verdict.decision == "keep",
        thought=bool((assessed.interaction.response.thinking or "").strip()),
        overall=assessed.verdict.overall.value,
    )


def _cut(value: bytes) -> Cut:
    sealed = TrainingBatchSealed.model_validate_json(value)
    return Cut(
        target=f"{sealed.tenant}/{sealed.target_model}",
        batch_id=sealed.batch_id,
        previous_batch_id=sealed.previous_batch_id,
        to_offset=sealed.to_offset,
    )


@dataclass(frozen=True, slots=True)
class Tally:
    """What was read of one topic in one window. Made of numbers alone, so that a table can keep it."""

    events: int = 0
    value_bytes: int = 0
    unreadable: int = 0
    ages: int = 0
    age_seconds_sum: float = 0.0
    age_seconds_max: float = 0.0
    assessed: int = 0
    kept: int = 0
    thought: int = 0
    overalls: int = 0
    overall_sum: float = 0.0

    def plus(self, seen: Observation) -> Tally:
        """This tally with one more record."""
        age, judged = seen.age_seconds, seen.assessment
        tally = replace(
            self,
            events=self.events + 1,
            value_bytes=self.value_bytes + seen.value_bytes,
            unreadable=self.unreadable + (not seen.readable),
        )
        if age is not None:
            tally = replace(
                tally,
                ages=self.ages + 1,
                age_seconds_sum=self.age_seconds_sum + age,
                age_seconds_max=max(self.age_seconds_max, age),
            )
        if judged is not None:
            tally = replace(
                tally,
                assessed=self.assessed + 1,
                kept=self.kept + judged.kept,
                thought=self.thought + judged.thought,
                overalls=self.overalls + (judged.overall is not None),
                overall_sum=self.overall_sum + (judged.overall or 0.0),
            )
        return tally


def stored(tally: Tally) -> dict[str, float]:
    """A tally as a table keeps it."""
    return {name: getattr(tally, name) for name in Tally.__dataclass_fields__}


BUCKET_OFFSETS: Final = 4096
"""Offsets in one bucket: at most 1 KiB of text for a table to write when one more is kept."""


def bucket_of(target: str, offset: int) -> str:
    """The key of the bucket that holds an offset of this target's partition."""
    return f"{target}#{offset // BUCKET_OFFSETS}"


def with_offset(bits: str, offset: int) -> str:
    """The bucket with this offset kept. Setting a bit twice changes nothing: a record read again counts once."""
    return f"{int(bits or '0', 16) | 1 << offset % BUCKET_OFFSETS:x}"


def extends(last_batch_id: str | None, cut: Cut) -> bool:
    """Whether this is the next batch of the chain; the first record that extends it is the batch, others are ignored."""
    return last_batch_id is None or cut.previous_batch_id == last_batch_id


def taken_buckets(cut: Cut, buckets: Iterable[str]) -> list[str]:
    """The buckets of the cut's target that hold nothing beyond the cut, and can be forgotten."""
    return [key for key in buckets if _target_of(key) == cut.target and _end_of(key) <= cut.to_offset + 1]


def batch_fill(buckets: Mapping[str, str], cut_at: Mapping[str, int]) -> dict[str, int]:
    """Kept since the last cut, by tenant/target; `cut_at` names the last offset that is taken."""
    fill = dict.fromkeys(cut_at, 0)
    for key, bits in buckets.items():
        target = _target_of(key)
        already_taken = cut_at.get(target, -1) + 1 - (_end_of(key) - BUCKET_OFFSETS)
        beyond = int(bits, 16) >> min(max(already_taken, 0), BUCKET_OFFSETS)
        fill[target] = fill.get(target, 0) + beyond.bit_count()
    return fill


def _target_of(bucket: str) -> str:
    return bucket.rpartition("#")[0]


def _end_of(bucket: str) -> int:
    return (int(bucket.rpartition("#")[2]) + 1) * BUCKET_OFFSETS


def window_start(moment_seconds: float, window_seconds: float) -> float:
    """Where the window that holds this moment begins."""
    return math.floor(moment_seconds / window_seconds) * window_seconds


def due_windows(*, now: float, last: float | None, window_seconds: float, at_most: int) -> Iterator[float]:
    """The starts of the windows that are over and not yet told, oldest first; of many that were missed, the latest ones."""
    latest = window_start(now, window_seconds) - window_seconds
    earliest = latest if last is None else max(last + window_seconds, latest - (at_most - 1) * window_seconds)
    for number in range(round((latest - earliest) / window_seconds) + 1):
        yield earliest + number * window_seconds


def summarise(
    tallies: Mapping[str, Tally],
    *,
    start: datetime,
    window_seconds: float,
    lag: tuple[ReaderLag, ...],
    fill: Mapping[str, int],
) -> PipelineMetrics:
    """What a closed window says of the whole pipeline."""
    judged = tallies.get(REASONING_ASSESSED.name, Tally())
    return PipelineMetrics(
        window_start=start,
        window_seconds=window_seconds,
        topics=tuple(_topic_window(topic.name, tallies.get(topic.name, Tally()), window_seconds) for topic in FLOW),
        lag=lag,
        overall_mean=_mean(min(judged.overall_sum, judged.overalls), judged.overalls),
        kept_ratio=_mean(judged.kept, judged.assessed),
        reasoning_ratio=_mean(judged.thought, judged.assessed),
        batch_fill=dict(fill),
        dead_letters={name: tallies[name].events for name in DEAD_LETTER_TOPICS if name in tallies},
    )


def _topic_window(name: str, tally: Tally, window_seconds: float) -> TopicWindow:
    return TopicWindow(
        topic=name,
        events=tally.events,
        events_per_second=tally.events / window_seconds,
        bytes=tally.value_bytes,
        age_seconds_mean=_mean(tally.age_seconds_sum, tally.ages),
        age_seconds_max=tally.age_seconds_max if tally.ages else None,
    )


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None
