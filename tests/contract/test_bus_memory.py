"""MemoryBus honours the bus contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ruminate.schemas.envelope import Headers
from ruminate.schemas.topic import Topic
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.record import Record
from tests.contract.bench import Bench
from tests.contract.bus_contract import BusContract
from tests.contract.transactions_contract import TransactionsContract


class MemoryBench(Bench):
    def __init__(self, state: Path, **fields: Any) -> None:
        super().__init__(state, **fields)
        self.broker = MemoryBroker()

    def bus(self, reader: str, **fields: Any) -> MemoryBus:
        return MemoryBus(self.broker, self.settings(**fields), reader=reader)

    async def create(self, *topics: Topic[Any], reader: str) -> None:
        return None

    async def put(
        self, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Headers | None = None, partition: int = 0
    ) -> int:
        return self.broker.append(topic, value, key=key, headers=headers, partition=partition)

    async def records(self, topic: str, partitions: int, *, committed: bool = False) -> Sequence[Record]:
        return self.broker.records(topic)

    async def committed(self, reader: str, topic: Topic[Any]) -> dict[int, int]:
        return {
            partition: commit.offset for partition, commit in self.broker.committed(reader, topic.name).items() if commit.offset
        }


class TestMemoryBus(BusContract):
    @pytest.fixture
    def bench(self, tmp_path: Path) -> Bench:
        return MemoryBench(tmp_path)


class TestMemoryBusWithTransactions(BusContract, TransactionsContract):
    @pytest.fixture
    def bench(self, tmp_path: Path) -> Bench:
        return MemoryBench(tmp_path, kafka_transactions=True)
