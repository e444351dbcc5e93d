"""What the collector counts. Each metric says what to do when it looks wrong."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

INTERACTIONS_COLLECTED: Final = Counter(
    "ruminate_interactions_collected",
    "Completed interactions by outcome (recorded, duplicate, conflict, erased); if conflicts grow, find the agent that reuses ids.",
    ["outcome"],
)
VALUES_REDACTED: Final = Counter(
    "ruminate_values_redacted",
    "Secrets and personal data replaced before recording, by kind; if a kind of secret grows, find the agent that sends it, and "
    "have the secret changed.",
    ["kind"],
)
INTERACTIONS_SUBMITTED: Final = Counter(
    "ruminate_interactions_submitted",
    "Interactions sent by HTTP, by answer; if unavailable grows, look at the broker, if invalid grows, at the sender.",
    ["status"],
)
FEEDBACK_SUBMITTED: Final = Counter(
    "ruminate_feedback_submitted",
    "Feedback sent by HTTP, by answer; if unavailable grows, look at the broker, if invalid grows, at the sender.",
    ["status"],
)
SPANS_SUBMITTED: Final = Counter(
    "ruminate_spans_submitted",
    "Spans sent by OTLP, by outcome (taken, duplicate, refused, passed_over, unavailable); "
    "if refused grows, read partial_success in the exporter's log: mostly it captures no contents.",
    ["outcome"],
)
WINDOW_INTERACTIONS: Final = Gauge(
    "ruminate_window_interactions",
    "Ids that are remembered; at its bound, repeats of older ones are recorded again, which costs readers work: raise the bound.",
)
READ_BACK_SECONDS: Final = Histogram(
    "ruminate_read_back_seconds",
    "Time to read the window back when a partition comes; if it is near the limit, lower the records to read back.",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)
FEEDBACK_COLLECTED: Final = Counter(
    "ruminate_feedback_collected",
    "Words of feedback that became evidence; if there are none, nobody says what answers are worth: ask agents for outcomes.",
)
FEEDBACK_ERASED: Final = Counter(
    "ruminate_feedback_erased",
    "Words of feedback that were not recorded, for what they are about is erased; if it goes on, tell whoever sends it.",
)
