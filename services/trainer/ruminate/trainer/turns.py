"""Turns: which of the batches that could be trained is, one job a device and one a target.

    enter  ->  the highest priority first, then the batch that was sealed first  ->  turn, with its device  ->  leave

A turn is never taken away. Whoever waits may leave and enter again, and loses nothing by it: the order is that of the batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from ruminate.shared.settings import WrongSettings

VISIBLE_DEVICES: Final = "CUDA_VISIBLE_DEVICES"

Chain = tuple[str, str]
"""Tenant and target."""


@dataclass(frozen=True, order=True)
class Place:
    """Where a batch stands among those that wait: lower ones go first."""

    behind: int
    """Its priority, negated."""
    sealed_at: datetime
    chain: Chain
    batch_id: str


@dataclass(eq=False)
class Ticket:
    """What whoever waits holds. `turn` is done once it is theirs, and gives the one device that the job shall see; None: all."""

    place: Place
    turn: asyncio.Future[str | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def has_turn(self) -> bool:
        """Whether it is theirs."""
        return self.turn.done()


class Turns:
    """Of one trainer. Used from its event loop alone."""

    def __init__(self, devices: Sequence[str | None]) -> None:
        self._free = list(devices)
        self._waiting: list[Ticket] = []
        self._running: dict[Ticket, str | None] = {}

    @property
    def running(self) -> Collection[Place]:
        """Whose turn it is."""
        return [ticket.place for ticket in self._running]

    def enter(self, place: Place) -> Ticket:
        """Wait for a turn, which may come at once."""
        ticket = Ticket(place)
        self._waiting.append(ticket)
        self._admit()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """End a turn, or the wait for one; leaving twice is leaving once."""
        if ticket in self._running:
            self._free.insert(0, self._running.pop(ticket))
        elif ticket in self._waiting:
            self._waiting.remove(ticket)
        self._admit()

    def _admit(self) -> None:
        for ticket in sorted(self._waiting, key=lambda each: each.place):
            if not self._free:
                return
            if all(ticket.place.chain != running.place.chain for running in self._running):
                self._waiting.remove(ticket)
                self._running[ticket] = device = self._free.pop(0)
                ticket.turn.set_result(device)


class Seat:
    """At most one ticket of whoever looks again and again: kept where the place is the same, given back at the end."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._ticket: Ticket | None = None

    def take(self, place: Place) -> Ticket:
        """A ticket for this place."""
        if self._ticket is None or self._ticket.place != place:
            self.leave()
            self._ticket = self._turns.enter(place)
        return self._ticket

    def leave(self) -> None:
        """Want no turn, or none any more."""
        if self._ticket is not None:
            self._turns.leave(self._ticket)
            self._ticket = None


def devices_for(at_once: int, visible: str | None) -> tuple[str | None, ...]:
    """The device of each job that may run at the same time; None where one job has all that there are.

    `visible` is CUDA_VISIBLE_DEVICES as the trainer was given it. Raises WrongSettings where it names too few.
    """
    if at_once == 1:
        return (None,)
    if visible is not None and not visible.strip():
        return ("",) * at_once  # no GPU is to be seen: they share the CPU
    named = (
        [name.strip() for name in visible.split(",") if name.strip()] if visible is not None else [str(n) for n in range(at_once)]
    )
    if len(named) < at_once:
        raise WrongSettings(
            f"RUMINATE_TRAINING_AT_ONCE is {at_once} and {VISIBLE_DEVICES} is {visible!r}: each job needs a GPU of its own; "
            "lower the one, or name more in the other"
        )
    return tuple(named[:at_once])
