"""What operators' words come to, and which result of a batch counts. Pure; everything is of one tenant and target.

    training-directed-v1, training-failed-v1, adapter-trained-v1  ->  which attempt is due, paused, cancelled, approved, priority

A batch has attempts: 1, and one more for every failure that a retry answers. A version is never tried again, and neither is a
failure behind which a later batch became one: the rows of the failed one are among those that the later one rehearses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ruminate.schemas.training import AdapterTrained, TrainingDirected, TrainingFailed


@dataclass(frozen=True)
class Directions:
    """What operators have said of a target."""

    paused: TrainingDirected | None
    """The word that paused it; None where it is not."""
    cancelled: Mapping[tuple[str, int], TrainingDirected]
    """By batch and attempt, the first word of each; so are retries, by the attempt that failed."""
    retried: Mapping[tuple[str, int], TrainingDirected]
    approved: frozenset[str]
    """Batches that may be trained."""
    priorities: Mapping[str, int]
    """Of batches; the last word counts."""
    priority: int
    """Of every other batch."""

    def priority_of(self, batch_id: str) -> int:
        """Higher ones go first."""
        return self.priorities.get(batch_id, self.priority)


def taken_together(words: Iterable[TrainingDirected]) -> Directions:
    """What the words say, in the order of the log."""
    paused: TrainingDirected | None = None
    cancelled: dict[tuple[str, int], TrainingDirected] = {}
    retried: dict[tuple[str, int], TrainingDirected] = {}
    approved: set[str] = set()
    priorities: dict[str, int] = {}
    priority = 0
    for word in words:
        match word.direction, word.batch_id:
            case "pause", _:
                paused = paused or word
            case "resume", _:
                paused = None
            case "prioritise", None:
                priority = word.priority
            case "prioritise", str(batch_id):
                priorities[batch_id] = word.priority
            case "approve", str(batch_id):
                approved.add(batch_id)
            case "cancel" | "retry", str(batch_id):
                said = cancelled if word.direction == "cancel" else retried
                said.setdefault((batch_id, word.attempt or 1), word)
    return Directions(paused, cancelled, retried, frozenset(approved), priorities, priority)


NOTHING_SAID = taken_together(())


@dataclass(frozen=True)
class Standing:
    """How it stands with a batch."""

    attempt: int
    """The one that has the result that counts; where none does, the one that is due."""
    result: AdapterTrained | TrainingFailed | None
    """None where an attempt is due: the first, or one more after a failure that was retried."""

    @property
    def is_retried(self) -> bool:
        """Whether a failure was answered by a retry, which has no result yet."""
        return self.result is None and self.attempt > 1


def standing(
    batch_id: str,
    number: int,
    *,
    trained: Iterable[AdapterTrained],
    failed: Iterable[TrainingFailed],
    directions: Directions = NOTHING_SAID,
) -> Standing:
    """How it stands with batch `number` of the chain; results in the order of the log."""
    versions = tuple(trained)
    for version in versions:
        if version.batch_id == batch_id:
            return Standing(version.attempt, version)
    failure = last_failure(each for each in failed if each.batch_id == batch_id)
    if failure is None:
        return Standing(1, None)
    retried = (batch_id, failure.attempt) in directions.retried
    if retried and first_after(number, versions) is None:
        return Standing(failure.attempt + 1, None)
    return Standing(failure.attempt, failure)


def last_failure(failed: Iterable[TrainingFailed]) -> TrainingFailed | None:
    """Of the failures of one batch, that which no other takes the place of: the first of the latest attempt."""
    return max(failed, key=lambda failure: failure.attempt, default=None)


def first_after(number: int, trained: Iterable[AdapterTrained]) -> AdapterTrained | None:
    """The first version of a later batch: what is behind it is not tried again."""
    return min((version for version in trained if version.number > number), key=lambda version: version.number, default=None)
