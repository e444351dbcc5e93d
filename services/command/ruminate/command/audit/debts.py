"""What a reader owes for a record: an effect by now, an effect some day, or one that nobody can tell any more. Pure."""

from __future__ import annotations

from typing import Any, Final

from ruminate.command.audit.findings import Findings
from ruminate.command.audit.letters import DeadLetters, Input
from ruminate.command.audit.snapshot import Snapshot
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    INTERACTION_RECORDED,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    REASONING_ASSESSED,
    TRAINING_FAILED,
)
from ruminate.schemas.topic import Topic

SETTLED: Final = 0
OWED: Final = 1
PENDING: Final = 2
TOO_OLD: Final = 4
"""Bits, so that the debts for several records of one subject add up."""

_EFFECTS: Final[dict[str, tuple[str, ...]]] = {
    "collector": (INTERACTION_RECORDED.name,),
    "assessor": (REASONING_ASSESSED.name,),
    "accumulator": (REASONING_ASSESSED.name,),  # what was sent back, once more
    "trainer": (ADAPTER_TRAINED.name, TRAINING_FAILED.name),
    "deployer": (MODEL_REGISTERED.name, MODEL_ROLLED_BACK.name),
}
"""Where the effect of one record stands, by the reader that owes it. A batch is no effect of one record."""


class Debts:
    """What a reader owes for a record that it has read, has yet to read, or gave up."""

    def __init__(self, snapshot: Snapshot, letters: DeadLetters) -> None:
        self._snapshot = snapshot
        self._letters = letters

    def of(self, topic: Topic[Any], given: Input, at_ms: int) -> int:
        """OWED, PENDING, TOO_OLD or SETTLED, for a record of this time; `given` may stand on the topic or on its retry topic."""
        if not self.read(given):
            return PENDING
        if self._letters.fate(given, retry_topic=topic.retries(given.reader).name) != "none":
            return SETTLED
        # Whatever it came to is younger than the record itself.
        outcomes = (topic.dead_letters(given.reader).name, *_EFFECTS[given.reader])
        return TOO_OLD if any(self._snapshot.may_have_lost(outcome, at_ms) for outcome in outcomes) else OWED

    def read(self, given: Input) -> bool:
        """Whether the reader has acknowledged this record."""
        return given.offset < self._snapshot.committed.get((given.reader, given.topic), {}).get(given.partition, 0)

    def given_up(self, given: Input) -> bool:
        """Whether the reader ever made a dead letter of this record: then it states no fact."""
        return self._letters.known(given)


def judge_unreadable(findings: Findings, given: Input, debt: int) -> None:
    """What is no event has a dead letter for its only effect."""
    place = f"{given.topic} {given.partition}:{given.offset}"
    if debt == PENDING:
        findings.pending[given.reader] += 1
    elif debt == TOO_OLD:
        findings.set_apart("older", f"{place} is no event, and its dead letter may have expired")
    elif debt == OWED:
        findings.accuse("missing_effect", given.position, "", f"no event, and {given.reader} made no dead letter of it")
