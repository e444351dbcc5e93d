"""What every bus counts. Each metric says what to do when it looks wrong."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

EVENTS_SETTLED: Final = Counter(
    "ruminate_events_settled",
    "Deliveries that ended, by outcome (done, dead_letter, tombstone); if dead_letter grows, read the dead-letter topic.",
    ["topic", "reader", "outcome"],
)
EVENT_AGE_SECONDS: Final = Histogram(
    "ruminate_event_age_seconds",
    "From an event's time to its being finished; if it grows, add replicas or concurrency to the reader.",
    ["topic", "reader"],
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600, 86400),
)
IN_FLIGHT: Final = Gauge(
    "ruminate_in_flight",
    "Deliveries fetched and not finished; at its bound for long, look at what the handler waits for.",
    ["topic", "reader"],
)
HELD: Final = Gauge(
    "ruminate_held",
    "Deliveries kept unfinished for a batch; if it only grows, look at why nothing is sealed.",
    ["topic", "reader"],
)
DEAD_LETTERS: Final = Counter(
    "ruminate_dead_letters",
    "Records that could not be processed, by reason; the log of the reader says where each stands and why "
    "(`record_given_up`): correct the writer.",
    ["topic", "reader", "reason"],
)
UNAVAILABLE: Final = Counter(
    "ruminate_unavailable",
    "Times that a handler found something away and its partition waited; `/readyz` names it: bring it back.",
    ["topic", "reader"],
)
COMMITS_REFUSED: Final = Counter(
    "ruminate_commits_refused",
    "Commits refused after a rebalance, whose records are delivered again; if it grows, look for members that come and go.",
    ["topic", "reader"],
)
PUBLISHED: Final = Counter(
    "ruminate_events_published",
    "Events acknowledged by all in-sync replicas; if it stands still while work goes on, look at the broker.",
    ["topic"],
)
