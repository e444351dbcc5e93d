"""`publish` and `tail`: what goes wrong is said as it is, and what others wrote is printed as they wrote it."""

from __future__ import annotations

import asyncio
import io
from datetime import UTC, datetime
from typing import TypeVar

import pytest
from rich.console import Console

from ruminate.command.events import publish, tail
from ruminate.schemas.envelope import Envelope
from ruminate.schemas.flow import INTERACTION_COMPLETED
from ruminate.schemas.interaction import InteractionCompleted, Message, Response, Thinking
from ruminate.schemas.payload import Payload
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.record import Position

P = TypeVar("P", bound=Payload)


def interaction(name: str, *, agent: str = "tester") -> InteractionCompleted:
    return InteractionCompleted(
        interaction_id=name,
        conversation_id=name,
        agent=agent,
        target_model="qwen3",
        occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
        messages=(Message(role="user", content="?"),),
        response=Response(content="!"),
        thinking=Thinking(mode_used="direct"),
    )


class AwayForOne(MemoryBus):
    async def publish(self, topic: Topic[P], payload: P, envelope: Envelope) -> Position:
        if isinstance(payload, InteractionCompleted) and payload.interaction_id == "second":
            raise BrokerUnavailable("no broker answers")
        return await super().publish(topic, payload, envelope)


def test_a_broker_that_is_away_is_said_as_such_and_not_as_a_group_of_failures() -> None:
    async def scenario() -> None:
        async with AwayForOne(MemoryBroker(), reader="publisher") as bus:
            with pytest.raises(BrokerUnavailable, match="no broker answers"):
                await publish(bus, [interaction(name) for name in ("first", "second", "third")], source="/tests")

    asyncio.run(scenario())


@pytest.mark.parametrize("agent", ["[/x]", "[red]", ":warning:"])
def test_tail_prints_the_words_of_others_and_obeys_none(agent: str) -> None:
    printed = io.StringIO()

    async def scenario() -> None:
        async with MemoryBus(MemoryBroker(), reader="tail") as bus:
            await publish(bus, [interaction("one", agent=agent)], source="/tests")
            console = Console(file=printed, width=300)
            await tail(bus, INTERACTION_COMPLETED, as_json=False, from_beginning=True, follow=False, console=console)

    asyncio.run(scenario())
    assert f"agent={agent} " in printed.getvalue()
