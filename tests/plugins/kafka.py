"""Apache Kafka: one broker for all tests that ask for it, and three for those that lose one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.real.kafka import KafkaCluster, kafka_cluster
from tests.plugins.real import installed


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaCluster]:
    """A broker that all tests of a process share: name topics and groups freshly, and leave it running."""
    with installed(), kafka_cluster() as cluster:
        yield cluster


@pytest.fixture
def kafka_of_one() -> Iterator[KafkaCluster]:
    """A broker of a test's own, to stop, kill and start."""
    with installed(), kafka_cluster() as cluster:
        yield cluster


@pytest.fixture
def kafka_of_three() -> Iterator[KafkaCluster]:
    """Three brokers of a test's own: replication 3, and two that must have a record before it is acknowledged."""
    with installed(), kafka_cluster(brokers=3) as cluster:
        yield cluster
