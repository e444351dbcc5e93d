"""What every bus counts. Each metric says what to do when it looks wrong."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from ruminate.shared.tallies import AgeHistogram, SettledCounter, Tallies

EVENTS: Final = Tallies()
"""Counted without a lock and without a label look-up, because it is done for every record."""

EVENTS_SETTLED: Final = SettledCounter(
    EVENTS,
    "ruminate_events_settled",
    "Deliveries that ended, by outcome (done, dead_letter, tombstone); if dead_letter grows, type: ruminate dlq list.",
)
EVENT_AGE_SECONDS: Final = AgeHistogram(
    EVENTS,
    "ruminate_event_age_seconds",
    "From an event's time to its being finished; if it grows, add replicas or concurrency to the reader.",
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
    "Records that could not be processed, by reason; type: ruminate dlq list. Correct the writer, or the reader and replay.",
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
TRANSACTION_SECONDS: Final = Histogram(
    "ruminate_transaction_seconds",
    "From the beginning of a transaction to its being committed; if it grows, look at the broker's transaction coordinator.",
    ["topic", "reader"],
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 1, 3, 10),
)
