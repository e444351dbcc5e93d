"""A topic as a member of the group sees it, between a fetch and an assignment, over a consumer that obeys the test."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ruminate.shared.kafka import _GroupLog
from ruminate.shared.memory import StoredRecord
from tests.contract.bench import sample_topic


@dataclass
class Consumer:
    """Gives a batch for each fetch."""

    batches: list[list[StoredRecord]]
    fetches: int = 0
    assignments: list[dict[Any, Any]] = field(default_factory=list)

    async def getmany(self, *_: object, **__: object) -> dict[str, list[StoredRecord]]:
        self.fetches += 1
        return {"partition": self.batches.pop(0)}

    def assigned(self, starts: dict[Any, Any], _: object) -> None:
        self.assignments.append(starts)


def record(text: str) -> StoredRecord:
    return StoredRecord("t", 0, 0, 0, None, text.encode(), [])


def group_log_of(consumer: Consumer) -> _GroupLog:
    fake: Any = consumer
    assignor: Any = SimpleNamespace(on_generation_assignment=lambda _: None)
    return _GroupLog(fake, sample_topic(), fake, assignor=assignor, notes=None, transactions=None)


def test_what_was_fetched_before_an_assignment_is_not_handed_out_after_it() -> None:
    async def scenario() -> None:
        consumer = Consumer([[record("of the former owner")], [record("of the new one")]])
        group_log = group_log_of(consumer)
        polling = asyncio.create_task(group_log.poll([("t", 0)], 10, 60.0))
        await asyncio.sleep(0)  # it has begun to fetch
        await asyncio.sleep(0)  # and the records are there, which nobody has taken
        await group_log.on_partitions_assigned(set())
        assert consumer.fetches == 1
        assert list(await polling) == []
        assert list(await group_log.poll([("t", 0)], 10, 60.0)) == [record("of the new one")]

    asyncio.run(scenario())


def test_what_is_fetched_between_assignments_is_handed_out() -> None:
    async def scenario() -> None:
        consumer = Consumer([[record("first")], [record("second")]])
        group_log = group_log_of(consumer)
        await group_log.on_partitions_assigned(set())
        assert list(await group_log.poll([("t", 0)], 10, 60.0)) == [record("first")]
        assert list(await group_log.poll([("t", 0)], 10, 60.0)) == [record("second")]
        assert consumer.assignments == [{}]

    asyncio.run(scenario())
