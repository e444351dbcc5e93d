"""Kafka transactions: what a partition's records lead to and the partition's offset, together or not at all.

One transactional id a group and input partition, `ruminate-<group>-<topic>-<partition>`, opened when the partition is
assigned. Opening fences whoever had it: an owner that froze and comes back commits nothing any more. One id a replica would
not do that, because aiokafka sends offsets without the group's generation.

Whatever goes wrong, a transaction is aborted by the same producer or left to be aborted by the next owner; an id is never
opened anew outside of an assignment, for that would fence an owner who has it rightly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    IllegalOperation,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTxnState,
    KafkaError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import OffsetAndMetadata

from ruminate.shared.bus import BrokerUnavailable, TransactionsRefused
from ruminate.shared.dead_letters import Place
from ruminate.shared.ledger import Commit
from ruminate.shared.outbox import append
from ruminate.shared.shares import AtomicWriter, Outgoing

log = structlog.get_logger()

_AGAIN_SECONDS = 0.1
_FENCED = (ProducerFenced, InvalidProducerEpoch, InvalidProducerIdMapping, InvalidTxnState, OutOfOrderSequenceNumber)
"""Our producer is of no use any more, whoever's fault that is. Sequence numbers are out of order after a batch was lost."""


class Transactions:
    """The transactional producers of one member of a group: one for each partition that it owns."""

    def __init__(self, group: str, make_producer: Callable[[str], AIOKafkaProducer], *, delivery_timeout_seconds: float) -> None:
        self._group = group
        self._make_producer = make_producer
        self._delivery_timeout_seconds = delivery_timeout_seconds
        self._writers: dict[Place, PartitionWriter] = {}

    async def own(self, places: Collection[Place]) -> Mapping[Place, AtomicWriter]:
        """A writer for each of these partitions, and for no other; those that were fenced are opened anew.

        Raises TransactionsRefused, BrokerUnavailable.
        """
        gone = [writer for place, writer in self._writers.items() if place not in places or writer.fenced]
        self._writers = {place: writer for place, writer in self._writers.items() if place in places and not writer.fenced}
        await asyncio.gather(*(writer.close() for writer in gone))
        fresh = {place: self._writer(place) for place in places if place not in self._writers}
        try:
            async with asyncio.timeout(self._delivery_timeout_seconds):
                await asyncio.gather(*(writer.open() for writer in fresh.values()))
        except BaseException as error:
            await asyncio.gather(*(writer.close() for writer in fresh.values()))
            if isinstance(error, TransactionalIdAuthorizationFailed):
                raise TransactionsRefused(
                    f"the broker does not let {self._group} use the transactional ids ruminate-{self._group}-…; "
                    "grant them (infra/kafka has the list), or unset RUMINATE_KAFKA_TRANSACTIONS"
                ) from error
            if isinstance(error, (KafkaError, TimeoutError)):
                raise BrokerUnavailable(f"transactions of {self._group} could not be opened: {type(error).__name__}") from error
            raise
        self._writers.update(fresh)
        return dict(self._writers)

    async def close(self) -> None:
        """Leave every partition; what is under way is aborted by the next owner."""
        writers, self._writers = self._writers, {}
        await asyncio.gather(*(writer.close() for writer in writers.values()))

    def _writer(self, place: Place) -> PartitionWriter:
        producer = self._make_producer(f"ruminate-{self._group}-{place[0]}-{place[1]}")
        return PartitionWriter(producer, self._group, place, delivery_timeout_seconds=self._delivery_timeout_seconds)


class PartitionWriter:
    """See `ruminate.shared.shares.AtomicWriter`."""

    def __init__(self, producer: AIOKafkaProducer, group: str, place: Place, *, delivery_timeout_seconds: float) -> None:
        self._producer = producer
        self._group = group
        self._place = TopicPartition(*place)
        self._delivery_timeout_seconds = delivery_timeout_seconds
        self._one_at_a_time = asyncio.Lock()
        self.fenced = False

    async def open(self) -> None:
        """Fence whoever had the partition, and end what they had begun."""
        await self._producer.start()

    async def write(self, records: Sequence[Outgoing], commit: Commit) -> bool:
        """See `AtomicWriter.write`."""
        async with self._one_at_a_time:
            try:
                async with asyncio.timeout(self._delivery_timeout_seconds):
                    await self._attempt_until_done(records, commit)
            except TimeoutError:
                self.fenced = True
                raise BrokerUnavailable(
                    f"a transaction of {self._group} on {self._place.topic} partition {self._place.partition} was not committed "
                    f"within {self._delivery_timeout_seconds:.0f} s"
                ) from None
            except asyncio.CancelledError:
                self.fenced = True  # in the middle of a transaction: only a new epoch ends it for sure
                raise
            return not self.fenced

    async def close(self) -> None:
        """Let the producer go, whether or not its broker is there."""
        closing = asyncio.create_task(self._close())
        await asyncio.wait((closing,), timeout=5.0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)

    async def _close(self) -> None:
        try:
            await self._producer.stop()
        except KafkaError as error:
            log.info("transactional_producer_closed_in_trouble", error=type(error).__name__)

    async def _attempt_until_done(self, records: Sequence[Outgoing], commit: Commit) -> None:
        while not self.fenced:
            if await self._attempt(records, commit):
                return
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _attempt(self, records: Sequence[Outgoing], commit: Commit) -> bool:
        """One transaction. False when it was aborted and can be tried again; `fenced` is set where that is no use."""
        producer = self._producer
        try:
            await producer.begin_transaction()
            await self._send(records)
            offsets = {self._place: OffsetAndMetadata(commit.offset, commit.metadata)}
            await producer.send_offsets_to_transaction(offsets, self._group)
            await producer.commit_transaction()
        except _FENCED as error:
            self._give_up(error)
        except (KafkaError, IllegalOperation, AssertionError) as error:
            # aiokafka checks its own state by assertions.
            await self._abort(error)
            return False
        return True

    async def _abort(self, cause: Exception) -> None:
        log.warning("transaction_aborted", topic=self._place.topic, partition=self._place.partition, error=type(cause).__name__)
        try:
            await self._producer.abort_transaction()
        except (KafkaError, IllegalOperation, AssertionError) as error:
            self._give_up(error)

    def _give_up(self, cause: Exception) -> None:
        log.warning("transactions_fenced", topic=self._place.topic, partition=self._place.partition, error=type(cause).__name__)
        self.fenced = True

    async def _send(self, records: Sequence[Outgoing]) -> None:
        batches: dict[Place, list[BatchBuilder]] = {}
        for record in records:
            place = (record.topic, record.partition)
            ready = batches.setdefault(place, [])
            if not ready or not append(ready[-1], record):
                ready.append(self._producer.create_batch())
                append(ready[-1], record)
        acknowledged: list[asyncio.Future[Any]] = []
        for (topic, partition), ready in batches.items():
            acknowledged += [await self._producer.send_batch(batch, topic, partition=partition) for batch in ready]
        await asyncio.gather(*acknowledged)
