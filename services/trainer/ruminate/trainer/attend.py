"""Attends to every batch that is ours: those that are sealed, and those that an operator wants tried again.

    training-batch-sealed-v1                  ->  a delivery, train_one  ->  its result
    training-directed-v1: retry, of our own   ->  the batch as it stands in the log, train_one  ->  the result of one more attempt

Whoever has a partition of the sealed batches has its retries. Which are due is said by the log: a retry without a result is begun
again by whoever has the partition then, and the id of its result derives from the batch and the attempt.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial
from typing import Final

import structlog

from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.flow import TRAINING_BATCH_SEALED, TRAINING_DIRECTED
from ruminate.schemas.training import TrainingDirected
from ruminate.shared.bus import BrokerUnavailable, Delivery, Unavailable
from ruminate.shared.following import follow
from ruminate.trainer.train import Trainer, ask, back_off_seconds, train_one
from ruminate.trainer.turns import Chain

log = structlog.get_logger()

TARGETS_IN_HAND: Final = 256
"""So many targets of one trainer wait or train at once; a batch of one more is looked at when one of them is done."""


async def attend(trainer: Trainer) -> None:
    """Serve until the bus is stopped."""
    async with asyncio.TaskGroup() as group:
        retries = Retries(trainer, group)

        def hear(delivery: Delivery[TrainingDirected]) -> None:
            trainer.words.take(delivery)
            retries.take(delivery)

        hearing = group.create_task(follow(trainer.bus, TRAINING_DIRECTED, hear, caught_up=lambda _: None))
        try:
            await trainer.bus.serve(
                TRAINING_BATCH_SEALED,
                partial(train_one, trainer=trainer),
                concurrency=TARGETS_IN_HAND,
                on_assigned=retries.assigned,
                on_revoked=retries.revoked,
            )
        finally:
            hearing.cancel()
            await retries.revoked(retries.partitions)


class Retries:
    """What is tried again, of the partitions that are ours. What goes wrong in it, and is not foreseen, ends the group."""

    def __init__(self, trainer: Trainer, group: asyncio.TaskGroup) -> None:
        self._trainer = trainer
        self._group = group
        self._attending: dict[int, asyncio.Task[None]] = {}
        self._bells: dict[int, asyncio.Event] = {}

    @property
    def partitions(self) -> frozenset[int]:
        """Those that are ours."""
        return frozenset(self._attending)

    def take(self, delivery: Delivery[TrainingDirected]) -> None:
        """An operator's word: where it is a retry of ours, it is looked for in the log."""
        if delivery.payload.direction == "retry":
            order = TRAINING_DIRECTED.order_of(delivery.payload)
            bell = self._bells.get(self._trainer.bus.partition_of(TRAINING_BATCH_SEALED, order))
            if bell is not None:
                bell.set()

    async def assigned(self, partitions: frozenset[int]) -> None:
        """These are ours, with what is due there."""
        for number in partitions:
            self._bells[number] = asyncio.Event()
            self._attending[number] = self._group.create_task(self._attend(number, self._bells[number]))

    async def revoked(self, partitions: frozenset[int]) -> None:
        """These are another's: what runs of them ends here, and is begun again there."""
        ending = [self._attending.pop(number) for number in partitions if number in self._attending]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _attend(self, partition: int, bell: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            begun: dict[tuple[Chain, str], asyncio.Task[None]] = {}
            tries = 0
            while True:
                bell.clear()
                try:
                    due = await self._due(partition)
                    tries = 0
                except BrokerUnavailable as error:
                    tries += 1
                    log.warning("retries_not_read", partition=partition, why=str(error))
                    await asyncio.sleep(back_off_seconds(tries))
                    continue
                for delivery in due:
                    batch = delivery.payload
                    key = ((batch.tenant, batch.target_model), batch.batch_id)
                    if key not in begun or begun[key].done():
                        begun[key] = group.create_task(self._again(delivery))
                await bell.wait()

    async def _due(self, partition: int) -> list[Delivery[TrainingBatchSealed]]:
        """The batches of a partition that are to be tried again, as they stand in the log."""
        bus = self._trainer.bus
        retried: set[Chain] = set()
        # The two topics are partitioned alike; so what is said of a batch of this partition is in the one of the same number.
        async with aclosing(bus.read(TRAINING_DIRECTED, partitions=[partition])) as words:
            async for word in words:
                if word.payload.direction == "retry":
                    retried.add((word.payload.tenant, word.payload.target_model))
        if not retried:
            return []
        sealed: dict[Chain, dict[str, Delivery[TrainingBatchSealed]]] = {chain: {} for chain in retried}
        async with aclosing(bus.read(TRAINING_BATCH_SEALED, partitions=[partition])) as batches:
            async for batch in batches:
                of_chain = sealed.get((batch.payload.tenant, batch.payload.target_model))
                if of_chain is not None:
                    of_chain.setdefault(batch.payload.batch_id, batch)
        due: list[Delivery[TrainingBatchSealed]] = []
        for of_chain in sealed.values():
            if of_chain:
                history = await ask(bus, next(iter(of_chain.values())).payload)
                due += [of_chain[batch.batch_id] for batch in history.retried]
        return due

    async def _again(self, delivery: Delivery[TrainingBatchSealed]) -> None:
        log.info("batch_retried", batch_id=delivery.payload.batch_id, target_model=delivery.payload.target_model)
        tries = 0
        while True:
            delivery.told.clear()
            try:
                await train_one(delivery, self._trainer)
                for told in delivery.told:
                    await self._trainer.bus.publish(told.topic, told.payload, told.envelope)
            except (Unavailable, BrokerUnavailable) as error:
                tries += 1
                log.warning("retry_waits", batch_id=delivery.payload.batch_id, why=str(error))
                await asyncio.sleep(back_off_seconds(tries))
            else:
                self._trainer.words.wake((delivery.payload.tenant, delivery.payload.target_model))
                return
