"""The window of interaction ids seen lately: tells a repeat from a first record, as far as this replica knows.

What it guarantees, and what not. Recorded ids are derived from (tenant, source, id), so a repeat that slips through is
recorded again under the same id, and every reader keeps the first: the window saves work and finds conflicts, it is not
what keeps a fact from counting twice. It is bounded, it knows what this replica has read or taken, and it is read back
from the log when a partition comes to us: nothing is written to disk.

Each entry names the log position of its record. Without it, a record that is delivered again (after a crash or a
rebalance) would look like a repeat of itself and be dropped, unrecorded.
"""

from __future__ import annotations

from collections import OrderedDict

from ruminate.collector.decide import Seen
from ruminate.collector.metrics import WINDOW_INTERACTIONS


class Window:
    """At most `most` ids; the one that was added first leaves first."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._seen: OrderedDict[bytes, Seen] = OrderedDict()
        WINDOW_INTERACTIONS.set_function(self._seen.__len__)

    def seen(self, key: bytes) -> Seen | None:
        """The first record of that id that we know of."""
        return self._seen.get(key)

    def remember(self, key: bytes, seen: Seen) -> None:
        """Note a record, unless an earlier one is known."""
        known = self._seen.get(key)
        if known is not None:
            if known.partition == seen.partition and seen.offset < known.offset:
                self._seen[key] = seen
            return
        self._seen[key] = seen
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)
