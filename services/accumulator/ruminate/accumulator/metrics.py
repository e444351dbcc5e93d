"""What the accumulator counts. Each sentence ends in what to do about it."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_CHAIN: Final = ("tenant", "target")

FILL: Final = Gauge(
    "ruminate_batch_fill_rows",
    "Rows that would be trained on if the batch were cut now; if it stands still, see why interactions are left out.",
    _CHAIN,
)
SEAL_AT: Final = Gauge(
    "ruminate_batch_seal_at_rows", "Rows at which a batch is sealed; if batches come too seldom, lower RUMINATE_SEAL_AT_ROWS."
)
ROWS: Final = Gauge(
    "ruminate_batch_rows",
    "Rows of the open batch by kind (reasoning, direct, held_out); if direct rows pile up, ask for more thinking.",
    (*_CHAIN, "kind"),
)
HELD: Final = Gauge(
    "ruminate_batch_held_deliveries",
    "Assessed interactions that wait for a cut, uncommitted; if it grows without end, check the ratio of reasoning rows.",
    _CHAIN,
)
BLOCKED: Final = Gauge(
    "ruminate_batch_blocked",
    "1 while a batch fails its validation; read `batch_blocked` in the log and repair what it names.",
    _CHAIN,
)
SEALED: Final = Counter(
    "ruminate_batches_sealed_total", "Batches of this replica that the log took; if none comes, see the fill.", (*_CHAIN, "reason")
)
LOST: Final = Counter(
    "ruminate_batches_lost_total",
    "Batches of this replica that came second and count for nothing; if they are many, look for rebalances.",
    _CHAIN,
)
LEFT_OUT: Final = Counter(
    "ruminate_interactions_left_out_total",
    "Assessed interactions that sealed batches left out, by reason; if `not_allowed` surprises you, check the tenant's policy.",
    ("reason",),
)
SEAL_SECONDS: Final = Histogram(
    "ruminate_seal_seconds",
    "Seconds from the decision to seal until the log took it; if it grows, look at the store.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)


def forget(chain: tuple[str, str]) -> None:
    """Take the gauges of a chain away: another replica shows them from now on."""
    for gauge in (FILL, HELD, BLOCKED):
        gauge.remove(*chain)
    for kind in ("reasoning", "direct", "held_out"):
        ROWS.remove(*chain, kind)
