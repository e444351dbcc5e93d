"""Apache Kafka: KafkaBus on it honours the bus contract, and it does all that is asked of a broker.

RUMINATE_TEST_KAFKA=host:port takes a cluster of one's own in place of ours: one that creates no topics by itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.real.kafka import KafkaCluster
from tests.contract.broker_contract import BrokerContract
from tests.contract.bus_contract import BusContract
from tests.contract.kafka_bench import KafkaBench

pytestmark = pytest.mark.real


@dataclass(frozen=True)
class OwnApacheKafka:
    cluster: KafkaCluster

    @property
    def bootstrap(self) -> str:
        return self.cluster.bootstrap

    def kill(self) -> None:
        self.cluster.kill(0)

    def start(self) -> None:
        self.cluster.start(0)


class TestApacheKafka(BusContract, BrokerContract):
    @pytest.fixture
    def bench(self, tmp_path: Path, request: pytest.FixtureRequest) -> KafkaBench:
        bootstrap = os.environ.get("RUMINATE_TEST_KAFKA") or request.getfixturevalue("kafka").bootstrap
        return KafkaBench(tmp_path, bootstrap, "kafka")

    @pytest.fixture
    def own_broker(self, kafka_of_one: KafkaCluster) -> OwnApacheKafka:
        return OwnApacheKafka(kafka_of_one)
