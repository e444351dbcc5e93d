"""What the monitor measures. Each sentence says what to do about it."""

from __future__ import annotations

import math

from prometheus_client import Counter, Gauge, Histogram

from ruminate.monitor.decide import DEAD_LETTER_TOPICS, Observation
from ruminate.schemas.flow import GROUP_READERS
from ruminate.schemas.metrics import PipelineMetrics

TOPIC_EVENTS = Counter(
    "ruminate_topic_events_total", "Records read of a topic; where the rate is zero, look at its writers.", ["topic"]
)
TOPIC_BYTES = Counter(
    "ruminate_topic_bytes_total", "Bytes of values read of a topic; where they soar, look at what its writers send.", ["topic"]
)
TOPIC_UNREADABLE = Counter(
    "ruminate_topic_unreadable_total",
    "Records that are no event of their topic; find their writer by the readers' dead letters and mend it.",
    ["topic"],
)
TOPIC_AGE = Histogram(
    "ruminate_topic_event_age_seconds",
    "From an event's time to the monitor's reading it; where it grows, compare with the lag and look at the broker.",
    ["topic"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 600, 3600, 86400),
)
TOPIC_LAST_EVENT = Gauge(
    "ruminate_topic_last_event_timestamp_seconds",
    "When a record of a topic was last written, as Unix time; where it stands still, look at its writers.",
    ["topic"],
)
LAG_MESSAGES = Gauge(
    "ruminate_lag_messages",
    "Records that a reader has not committed yet, NaN while unknown; where it grows, look at that service's log.",
    ["topic", "reader"],
)
LAG_SECONDS = Gauge(
    "ruminate_lag_seconds",
    "Age of the oldest record that a reader has not committed, NaN while unknown; where it grows, add replicas or mend the reader.",
    ["topic", "reader"],
)
LAG_FAILURES = Counter(
    "ruminate_lag_measurements_failed_total", "Lags that could not be measured; look at the monitor's log and at the broker."
)
BATCH_FILL = Gauge(
    "ruminate_batch_fill_examples",
    "Examples kept since the last cut of tenant/target; where it grows without a batch, read why the accumulator waits.",
    ["target"],
)
OVERALL = Gauge(
    "ruminate_window_overall_mean_ratio",
    "Mean overall score of the last window, NaN where nothing was assessed; where it falls, look at what the model answers.",
)
KEPT = Gauge(
    "ruminate_window_kept_ratio",
    "Share of the last window's assessed interactions that was kept; where it falls, read the reasons of the rejected.",
)
REASONING = Gauge(
    "ruminate_window_reasoning_ratio",
    "Share of the last window's assessed interactions that hold thinking; under 0.75, let agents ask with thinking on.",
)
DEAD_LETTERS = Counter(
    "ruminate_dead_letters_seen_total", "Dead letters, by their topic; read their headers to learn why they are there.", ["topic"]
)
WINDOWS_TOLD = Counter(
    "ruminate_windows_told_total", "Windows published on pipeline-metrics-v1; where it stands still, look at the monitor's log."
)


def show_observation(seen: Observation, *, written_at: float) -> None:
    """Count one record. `written_at` is the log's timestamp, as Unix time."""
    if seen.topic in DEAD_LETTER_TOPICS:
        DEAD_LETTERS.labels(seen.topic).inc()
        return
    TOPIC_EVENTS.labels(seen.topic).inc()
    TOPIC_BYTES.labels(seen.topic).inc(seen.value_bytes)
    TOPIC_LAST_EVENT.labels(seen.topic).set(written_at)
    if seen.age_seconds is not None:
        TOPIC_AGE.labels(seen.topic).observe(seen.age_seconds)
    if not seen.readable:
        TOPIC_UNREADABLE.labels(seen.topic).inc()


def show_window(window: PipelineMetrics) -> None:
    """Show what the last window says; what it could not know is NaN, never an old value."""
    WINDOWS_TOLD.inc()
    for gauge, ratio in ((OVERALL, window.overall_mean), (KEPT, window.kept_ratio), (REASONING, window.reasoning_ratio)):
        gauge.set(math.nan if ratio is None else ratio)
    for target, examples in window.batch_fill.items():
        BATCH_FILL.labels(target).set(examples)
    lags = {(lag.topic, lag.reader): lag for lag in window.lag}
    for reader, topics in GROUP_READERS.items():
        for topic in topics:
            lag = lags.get((topic.name, reader))
            LAG_MESSAGES.labels(topic.name, reader).set(lag.messages if lag else math.nan)
            LAG_SECONDS.labels(topic.name, reader).set(lag.seconds if lag and lag.seconds is not None else math.nan)
