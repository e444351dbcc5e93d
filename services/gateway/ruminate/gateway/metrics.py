"""What the gateway counts, and what to do about it."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

REQUESTS: Final = Counter(
    "ruminate_gateway_requests_total",
    "Requests by route and how they ended. When `failed` or `unavailable` grows, look at the nodes' logs.",
    ("route", "outcome"),
)
RETRIES: Final = Counter(
    "ruminate_gateway_retries_total",
    "Requests that a node failed before its first byte and that were tried again. When it grows, restart or replace that node.",
    ("node",),
)
FIRST_TOKEN: Final = Histogram(
    "ruminate_first_token_seconds",
    "From the request to the first thinking or answer that left. When it grows, add nodes or shorten prompts.",
    ("node", "thinking"),
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
IN_FLIGHT: Final = Gauge(
    "ruminate_gateway_in_flight",
    "Requests that a node works on now. When one node holds them all, look why the others do not have the model.",
    ("node",),
)
NODE_UP: Final = Gauge(
    "ruminate_gateway_node_up", "1 while a node gets requests. When it is 0, start the node or take it out.", ("node",)
)
CAPTURES: Final = Counter(
    "ruminate_gateway_captures_total",
    "Finished answers by what became of their event. Anything but `spooled` is lost to training: the log says why.",
    ("outcome",),
)
SPOOL_BYTES: Final = Gauge(
    "ruminate_gateway_spool_bytes", "Bytes of events that the broker does not have yet. When it grows, look at the broker."
)
SPOOL_EVENTS: Final = Gauge(
    "ruminate_gateway_spool_events", "Events that the broker does not have yet. When it grows, look at the broker."
)
SPOOL_DAMAGED: Final = Counter(
    "ruminate_gateway_spool_damaged_total",
    "Spooled events that could not be read back and were set aside. When it grows, check the disk, then read the folder `damaged`.",
)
