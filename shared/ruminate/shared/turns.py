"""Whose turn it is: one item of a key at a time, in order, and none of a partition that waits.

Pure bookkeeping. `take` gives the oldest item whose key is free; its key is busy until `finish` or `park`. Items of one
key never overtake each other, and with a single taker none of a partition does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Keyed(Protocol):
    """Something that belongs to a partition, and to a key within it."""

    @property
    def share(self) -> Hashable: ...

    @property
    def key(self) -> bytes | None: ...


T = TypeVar("T", bound=Keyed)


class Turns(Generic[T]):
    """The items that wait for their turn."""

    def __init__(self) -> None:
        self._ready: deque[T] = deque()
        self._handed_on: deque[T] = deque()  # their key is busy already, with themselves
        self._busy: dict[tuple[Hashable, bytes | None], deque[T] | None] = {}  # None: nobody waits
        self._parked: dict[Hashable, deque[T]] = {}

    def add(self, item: T) -> None:
        """Put an item at the end."""
        self._ready.append(item)

    def take(self) -> T | None:
        """The next item, whose key is busy from now on; None when nothing can start."""
        while self._handed_on:
            item = self._handed_on.popleft()
            if item.share not in self._parked:
                return item
            self.park(item)
        while self._ready:
            item = self._ready.popleft()
            place = (item.share, item.key)
            if place in self._busy:  # also where its partition waits: it stays behind those of its key
                if (waiting := self._busy[place]) is None:
                    self._busy[place] = deque((item,))
                else:
                    waiting.append(item)
            elif item.share in self._parked:
                self._parked[item.share].append(item)
            else:
                self._busy[place] = None
                return item
        return None

    def finish(self, item: T) -> None:
        """Free the item's key for the next of its kind."""
        place = (item.share, item.key)
        waiting = self._busy[place]
        if waiting:
            self._handed_on.append(waiting.popleft())
        else:
            del self._busy[place]

    def park(self, item: T) -> None:
        """Give the item back: it is first again when its partition goes on, and until then nothing of it starts."""
        waiting = self._busy.pop((item.share, item.key))
        self._parked.setdefault(item.share, deque()).extend((item, *(waiting or ())))

    def go_on(self, partition: Hashable) -> None:
        """Let a parked partition start again where it stopped."""
        self._ready.extendleft(reversed(self._parked.pop(partition, ())))

    def drop(self, partition: Hashable) -> list[T]:
        """Forget what of this partition has not begun, and give it."""
        dropped = list(self._parked.pop(partition, ()))
        for item in self._handed_on:
            if item.share == partition:
                dropped.extend((item, *(self._busy.pop((partition, item.key)) or ())))
        self._handed_on = deque(item for item in self._handed_on if item.share != partition)
        for queue in (self._ready, *filter(None, self._busy.values())):
            kept = deque[T]()
            for item in queue:
                (dropped if item.share == partition else kept).append(item)
            queue.clear()
            queue.extend(kept)
        return dropped
