"""What the eraser counts. Each metric says what to do when it looks wrong."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

OPEN: Final = Gauge(
    "ruminate_erasures_open",
    "Erasures that are asked for and not finished; if it only grows, look at the eraser's log, and at ruminate erase list.",
)
OLDEST: Final = Gauge(
    "ruminate_erasure_oldest_open_timestamp_seconds",
    "When the oldest open erasure was asked for, as Unix time, 0 where none is open; after a day, look at the eraser's log.",
)
ERASED: Final = Counter(
    "ruminate_records_erased",
    "Records that got a tombstone, by topic; if a second pass keeps finding some, find the service that still writes them.",
    ["topic"],
)
FINISHED: Final = Counter(
    "ruminate_erasures_finished", "Erasures after which nothing was left; if open ones wait and this stands still, see the log."
)
SECONDS: Final = Histogram(
    "ruminate_erasure_seconds",
    "From the moment at which an erasure was asked for to its being finished; if it nears what you promise, lower segment.ms of "
    "the topics that hold texts.",
    buckets=(60, 600, 3_600, 10_800, 21_600, 28_800, 43_200, 86_400, 172_800, 345_600, 691_200),
)
PASSES: Final = Counter(
    "ruminate_erasure_passes",
    "Passes by what they came to (erased, nothing_left, broken_off); if they break off, the log says why: erasure_pass_broken_off.",
    ["outcome"],
)
PASS_SECONDS: Final = Histogram(
    "ruminate_erasure_pass_seconds",
    "Time of one pass over everything that holds texts; if it nears the longest time that you promise, add brokers or disks.",
    buckets=(0.1, 1, 10, 60, 600, 3600, 14_400, 86_400),
)
