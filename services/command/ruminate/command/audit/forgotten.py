"""What was asked to be forgotten, against what the store holds. Pure.

The accumulator takes it out of every dataset within seconds, and whatever it stood in leaves the store. It is given an hour: what
is younger is listed, what is older is a fault, as is at once what a dataset holds though it says that it went.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final

from ruminate.accumulator.erasure.revise import Named, gone_from
from ruminate.accumulator.records.names import Forgotten
from ruminate.command.audit.facts import Told
from ruminate.command.audit.findings import Findings
from ruminate.command.audit.snapshot import Snapshot
from ruminate.schemas.batch import DatasetRevised
from ruminate.schemas.erasure import ErasureRequested
from ruminate.shared.record import Position

WITHIN_MS: Final = 3_600_000
"""Until then nobody is accused of being slow."""


class Forgetting:
    """Every request, and what the store has of what it names. Take all of them before anything is judged."""

    def __init__(self, snapshot: Snapshot, findings: Findings) -> None:
        self._snapshot = snapshot
        self._findings = findings
        self._asked: dict[str, Told[ErasureRequested]] = {}
        self._of_chains: dict[tuple[str, str], Forgotten] = {}

    def take(self, request: Told[ErasureRequested]) -> None:
        """One more request; the first of an id counts."""
        self._asked.setdefault(request.event_id, request)

    def knows(self, erasure_id: str) -> bool:
        """Whether somebody asked for this erasure."""
        asked = self._asked.get(erasure_id)
        return asked is not None and asked.payload.what == "everything"

    @property
    def last(self) -> Told[ErasureRequested] | None:
        """The erasure that was asked for last; None where none was, so that the store need not be looked through."""
        erasures = (asked for asked in self._asked.values() if asked.payload.what == "everything")
        return max(erasures, key=lambda asked: asked.at_ms, default=None)

    def judge(
        self,
        tenant: str,
        target: str,
        named: Iterable[Named],
        what: str,
        *,
        at: tuple[Position, str] | None = None,
        gone_for: Collection[str] = (),
    ) -> None:
        """Say what a dataset holds and must not. `at`: which event names it; `gone_for`: for which requests it says so."""
        held = Counter(gone_from(named, self._of(tenant, target)).values())
        for erasure_id, count in sorted(held.items()):
            asked = self._asked[erasure_id]
            position, event_id = at or (asked.position, asked.event_id)
            says = f"{what} holds {count} interaction{'s' * (count != 1)} that {erasure_id} asks to forget"
            self._say(says, position, event_id, since_ms=None if erasure_id in gone_for else asked.at_ms)

    def judge_replaced(self, revised: Told[DatasetRevised], *, there: bool) -> None:
        """Say whether what a dataset was before this revision is still in the store."""
        if there:
            replaced = revised.payload.replaces
            says = f"{revised.payload.batch_id}: what revision {revised.payload.revision} replaces is in the store, {replaced.uri}"
            self._say(says, revised.position, revised.event_id, since_ms=revised.at_ms)

    def judge_unread(self, says: str) -> None:
        """Say that something in the store cannot be looked through, so that nobody knows whether it is clean."""
        if (last := self.last) is not None:
            self._say(f"what it holds is not known: {says}", last.position, last.event_id, since_ms=last.at_ms)

    def _of(self, tenant: str, target: str) -> Forgotten:
        chain = (tenant, target)
        if chain not in self._of_chains:
            requests = ((event_id, asked.payload) for event_id, asked in self._asked.items())
            self._of_chains[chain] = Forgotten(tenant, target, requests)
        return self._of_chains[chain]

    def _say(self, says: str, position: Position, event_id: str, *, since_ms: int | None) -> None:
        if since_ms is not None and self._snapshot.taken_at_ms - since_ms < WITHIN_MS:
            self._findings.set_apart("unrevised", says)
        else:
            self._findings.accuse("not_forgotten", position, event_id, says)
