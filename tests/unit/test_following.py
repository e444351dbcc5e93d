"""Following a small topic: nobody handles anything before it is read, and what ends it ends the service."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ruminate.shared.bus import BrokerUnavailable, Delivery, Unavailable
from ruminate.shared.following import Following
from ruminate.shared.memory import MemoryBroker, MemoryBus
from tests.contract.bench import Sample, publish, sample_topic, serving, until

TOPIC = sample_topic()


class Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_nothing_is_handled_before_the_topic_is_read_to_its_end_and_then_what_comes_is_heard() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        served = sample_topic(partitions=1)
        heard: set[int] = set()
        handled: list[tuple[int, int]] = []

        async def handle(delivery: Delivery[Sample]) -> None:
            handled.append((delivery.payload.number, len(heard)))

        async with MemoryBus(broker, reader="reader") as bus:
            await publish(bus, served, Sample(conversation="c", number=0))
            await publish(bus, TOPIC, *(Sample(conversation=str(number), number=number) for number in range(50)))
            following = Following(bus, TOPIC, lambda told: heard.add(told.payload.number))
            with pytest.raises(Unavailable, match="is not read to its end yet"):
                following.check()
            async with serving(bus, served, following.before(handle)):
                await until(lambda: bus.readiness() and not handled)
                async with following:
                    await until(lambda: handled)
                    assert handled == [(0, 50)]
                    await publish(bus, TOPIC, Sample(conversation="late", number=50))
                    await until(lambda: 50 in heard)

    asyncio.run(scenario())


def test_who_has_heard_nothing_for_too_long_handles_nothing() -> None:
    async def scenario() -> None:
        clock = Clock()
        async with (
            MemoryBus(MemoryBroker(), reader="reader") as bus,
            Following(bus, TOPIC, lambda _: None, most_behind_seconds=60, clock=clock) as following,
        ):

            def caught_up() -> bool:
                try:
                    following.check()
                except Unavailable:
                    return False
                return True

            await until(caught_up)
            clock.seconds += 61  # as if the broker had said nothing for so long
            assert not caught_up()
            await until(caught_up)

    asyncio.run(scenario())


def test_what_ends_the_following_is_raised_by_the_next_delivery() -> None:
    def stumble(_: Delivery[Any]) -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        async with MemoryBus(MemoryBroker(), reader="reader") as bus:
            await publish(bus, TOPIC, Sample(conversation="c", number=1))
            async with Following(bus, TOPIC, stumble) as following:
                async with asyncio.timeout(20):
                    while True:
                        try:
                            following.check()
                        except Unavailable:
                            await asyncio.sleep(0.01)
                        except ZeroDivisionError:
                            return
                        else:
                            raise AssertionError("it was never read to its end")

    asyncio.run(scenario())


class AwayAtFirst(MemoryBus):
    tries = 0

    async def read(self, *arguments: Any, **how: Any) -> Any:
        self.tries += 1
        if self.tries == 1:
            raise BrokerUnavailable("away")
        async for delivery in super().read(*arguments, **how):
            yield delivery


def test_a_broker_that_was_away_is_asked_again() -> None:
    async def scenario() -> None:
        heard: list[int] = []
        async with AwayAtFirst(MemoryBroker(), reader="reader") as bus:
            await publish(bus, TOPIC, Sample(conversation="c", number=1))
            async with Following(bus, TOPIC, lambda told: heard.append(told.payload.number)):
                await until(lambda: heard == [1])

    asyncio.run(scenario())
