"""What differs between Apache Kafka and the embedded broker, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, kw_only=True)
class BrokerProfile:
    """How to talk to one kind of broker."""

    idempotent_producer: bool
    """No duplicates by the client's own retries; the embedded broker refuses the request."""
    transactions: bool
    """Outputs and offsets together or not at all; the embedded broker answers the requests, and shows aborted records."""
    static_membership: bool
    """A replica that restarts keeps its partitions; on the embedded broker such a join waits for several sessions."""
    keeps_commit_metadata: bool
    """Crash attempts travel in the commit; the embedded broker forgets the metadata, so a file holds them."""
    takes_topic_configuration: bool
    isolation_level: Literal["read_committed", "read_uncommitted"]
    """Whether records of aborted transactions stay out of sight."""
    session_timeout_ms: int
    """After this long without a heartbeat a member is dead. Kafka refuses less than 6 s; an embedded join takes half of it."""
    heartbeat_interval_ms: int
    rebalance_timeout_ms: int
    fetch_max_wait_ms: int
    """How long a fetch may wait for a first record. The embedded broker looks only after half of it, whatever arrives."""
    idle_max_wait_ms: int
    """The same where a topic is followed beside the work, or nothing has come for a while: every fetch costs both sides time."""
    fetch_interval_seconds: float = 0.005
    """From one fetch to the next, at least: under steady load each would otherwise bring a record or two, and costs 0.3 ms."""
    max_poll_interval_ms: int = 300_000
    request_timeout_ms: int
    delivery_timeout_seconds: float = 30.0
    """How long a record may wait for its acknowledgement before the broker counts as away."""
    max_batch_bytes: int = 256 * 1024
    """A larger record travels in a batch of its own."""
    linger_seconds: float = 0.003


KAFKA: Final = BrokerProfile(
    idempotent_producer=True,
    transactions=True,
    static_membership=True,
    keeps_commit_metadata=True,
    takes_topic_configuration=True,
    isolation_level="read_committed",
    session_timeout_ms=10_000,
    heartbeat_interval_ms=3_000,
    rebalance_timeout_ms=30_000,
    fetch_max_wait_ms=500,
    idle_max_wait_ms=500,
    request_timeout_ms=40_000,
)

EMBEDDED: Final = BrokerProfile(
    idempotent_producer=False,
    transactions=False,
    static_membership=False,
    keeps_commit_metadata=False,
    takes_topic_configuration=False,
    isolation_level="read_uncommitted",
    session_timeout_ms=2_000,
    heartbeat_interval_ms=500,
    rebalance_timeout_ms=2_000,
    fetch_max_wait_ms=50,
    idle_max_wait_ms=250,
    request_timeout_ms=15_000,
)

PROFILES: Final[dict[Literal["kafka", "embedded"], BrokerProfile]] = {"kafka": KAFKA, "embedded": EMBEDDED}
