"""The cut through a running log that is judged, and the log as an audit reads it.

A cut through a log that moves can accuse wrongly in two ways: an effect that exists lies beyond the end that was looked at,
or a cause does. Both are impossible in this order, each step taken when the one before it is complete:

1.  What every reader has committed. An offset is committed only when everything that its record told is acknowledged, so
    all effects of what lies below are in the log from here on.
2.  The ends of dead letters, then of what was decided about them, then of what was sent back. Whoever settles a letter
    writes what he sends back first, and the word about it before the letter goes.
3.  The ends of the flow's topics against the flow: registrations first, completed interactions last. A cause is written
    before its effect, so the cause of all that we shall read lies before an end that is taken after the effect's.

Ends are high watermarks, not last stable offsets: a committed transaction can stand behind an open one, and would be out of
sight. The reading then waits until the open one is decided. Begins move while we read (retention): what goes under our
hands ends the audit, it could not judge. So does a dataset that an erasure revises, and removes, before we have read it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    DATASET_REVISED,
    DEAD_LETTER_SETTLED,
    ERASURE_REQUESTED,
    GROUP_READERS,
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    REASONING_ASSESSED,
    TRAINING_BATCH_SEALED,
    TRAINING_DIRECTED,
    TRAINING_FAILED,
)
from ruminate.shared.record import Record

LETTERS: Final = tuple(topic.dead_letters(reader).name for reader, topics in GROUP_READERS.items() for topic in topics)
RETRIES: Final = tuple(topic.retries(reader).name for reader, topics in GROUP_READERS.items() for topic in topics)

ROUNDS: Final[tuple[tuple[str, ...], ...]] = (
    LETTERS,
    (DEAD_LETTER_SETTLED.name,),
    RETRIES,
    (MODEL_REGISTERED.name, MODEL_ROLLED_BACK.name),
    (ADAPTER_TRAINED.name, TRAINING_FAILED.name),
    (TRAINING_DIRECTED.name,),
    (DATASET_REVISED.name,),
    (TRAINING_BATCH_SEALED.name,),
    (REASONING_ASSESSED.name,),
    (INTERACTION_RECORDED.name,),
    (INTERACTION_COMPLETED.name,),
    (ERASURE_REQUESTED.name,),
)
"""The topics that are audited, in the order in which their ends are taken."""

READING_ORDER: Final[tuple[str, ...]] = (
    *LETTERS,
    DEAD_LETTER_SETTLED.name,
    ERASURE_REQUESTED.name,
    *RETRIES,
    TRAINING_BATCH_SEALED.name,
    DATASET_REVISED.name,
    ADAPTER_TRAINED.name,
    TRAINING_FAILED.name,
    TRAINING_DIRECTED.name,
    MODEL_REGISTERED.name,
    MODEL_ROLLED_BACK.name,
    INTERACTION_COMPLETED.name,
    INTERACTION_RECORDED.name,
    REASONING_ASSESSED.name,
)
"""The order in which `Audit.take` wants them: what explains comes before what is explained."""


SLACK_MS: Final = 3_600_000
"""Clocks of agents, operators and brokers differ: a record is only missed when it is younger than the horizon by this much."""


class CouldNotJudge(Exception):
    """The audit cannot say anything: what is away or was lost meanwhile, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The cut. `ends` are exclusive, by topic and partition; `committed` by reader and topic, where a reader has committed.

    `whole_since_ms` names the topics that have lost their beginning, and the time from which on nothing of them is missing.
    """

    cluster: str
    taken_at_ms: int
    begins: Mapping[str, Mapping[int, int]]
    ends: Mapping[str, Mapping[int, int]]
    committed: Mapping[tuple[str, str], Mapping[int, int]]
    whole_since_ms: Mapping[str, int]

    @property
    def absent_topics(self) -> tuple[str, ...]:
        """Topics of the flow that do not exist: they count as empty."""
        return tuple(name for name in READING_ORDER if name not in self.ends)

    def may_have_lost(self, topic: str, at_ms: int) -> bool:
        """Whether a record of this time may have left the topic with its beginning."""
        since = self.whole_since_ms.get(topic)
        return since is not None and at_ms < since + SLACK_MS

    def offsets(self, topics: Iterable[str]) -> int:
        """How many offsets there are to read, gaps included."""
        return sum(
            end - self.begins[topic].get(partition, 0) for topic in topics for partition, end in self.ends.get(topic, {}).items()
        )


Offsets = dict[str, dict[int, int]]


class Cuttable(Protocol):
    """What a cut asks for, step by step."""

    async def committed(self) -> dict[tuple[str, str], dict[int, int]]:
        """What every reader has committed, by reader and topic."""
        ...

    async def ends(self, topics: Sequence[str]) -> Offsets:
        """The high watermarks of those of the topics that exist."""
        ...


async def cut(log: Cuttable) -> tuple[dict[tuple[str, str], dict[int, int]], Offsets]:
    """What is committed, and the ends, asked for in the order that this module promises."""
    committed = await log.committed()
    ends: Offsets = {}
    for topics in ROUNDS:
        ends |= await log.ends(topics)
    return committed, ends


class Log(Protocol):
    """The topics, read without a group and without leaving a trace."""

    async def snapshot(self) -> Snapshot:
        """Take the cut. Raises CouldNotJudge."""
        ...

    def read(self, topic: str, snapshot: Snapshot) -> AsyncIterator[Sequence[Record]]:
        """Every record of a topic up to its end, in the order of each partition. Raises CouldNotJudge."""
        ...

    async def has_grown(self, topic: str, snapshot: Snapshot) -> bool:
        """Whether anything was written to a topic since the cut. Raises CouldNotJudge."""
        ...
