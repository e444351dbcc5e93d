"""A job is stopped by a word, a wait ends by what comes first, and a cancellation from outside stays one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from ruminate.schemas.flow import TRAINING_DIRECTED
from ruminate.schemas.training import Direction, TrainingDirected
from ruminate.shared.bus import Delivery
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.record import Position
from ruminate.trainer.waiting import Stopped, first_of, stopped_by
from ruminate.trainer.words import Words

TINY = ("default", "tiny")


def said(direction: Direction = "pause", *, target: str = "tiny", attempt: int | None = None) -> Delivery[TrainingDirected]:
    """A word as it is read."""
    word = TrainingDirected(
        target_model=target,
        direction=direction,
        batch_id="b" if attempt else None,
        attempt=attempt,
        directed_by="ada",
        directed_at=datetime(2026, 1, 31, tzinfo=UTC),
    )
    envelope = MemoryBus(MemoryBroker(), reader="command").begin(TRAINING_DIRECTED, word)
    return Delivery(TRAINING_DIRECTED, word, envelope, Position(TRAINING_DIRECTED.name, 0, 0), [], b"", "/ruminate/command")


def test_a_word_stops_what_runs_wherever_it_stands_and_the_next_goes_on() -> None:
    async def scenario() -> None:
        words, ended = Words(), False

        async def body() -> None:
            nonlocal ended
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)  # as one that waits for its child to be gone
                ended = True

        running = asyncio.create_task(_stopped(words, body()))
        await asyncio.sleep(0)
        words.take(said("cancel", target="other", attempt=1))
        words.take(said("cancel", attempt=2))
        await asyncio.sleep(0)
        assert not running.done()
        words.take(said("cancel", attempt=1))
        assert await running == "stopped"
        assert ended
        assert asyncio.current_task() is not None

    asyncio.run(scenario())


async def _stopped(words: Words, body: object) -> str:
    try:
        async with stopped_by(words.cancels(TINY, "b", 1)):
            await body  # type: ignore[misc]
    except Stopped:
        await asyncio.sleep(0)  # would raise, were the cancellation not over
        return "stopped"
    return "ended"


def test_a_cancellation_from_outside_stays_one_and_so_does_an_error_of_the_body() -> None:
    async def scenario() -> None:
        running = asyncio.create_task(_stopped(Words(), asyncio.Event().wait()))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        async def late() -> None:
            raise TimeoutError("the body's own")

        with pytest.raises(TimeoutError, match="the body's own"):
            await _stopped(Words(), late())

        async def nothing() -> None:
            return

        assert await _stopped(Words(), nothing()) == "ended"

    asyncio.run(scenario())


def test_a_wait_ends_with_a_word_about_its_target_with_its_turn_or_with_its_time() -> None:
    async def scenario() -> None:
        words = Words()
        heard = words.count(TINY)
        waiting = asyncio.create_task(first_of(words.after(heard, TINY)))
        words.take(said(target="other"))
        await asyncio.sleep(0)
        assert not waiting.done()
        words.take(said())
        await waiting
        await first_of(words.after(heard, TINY))  # said before it was waited for
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(first_of(words.after(words.count(TINY), TINY), turn))
        await asyncio.sleep(0)
        turn.set_result(None)
        await waiting
        await first_of(words.after(words.count(TINY), TINY), within_seconds=0.001)

    asyncio.run(scenario())
