"""One job a device and one a target, the highest priority first and then what was sealed first."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from ruminate.shared.settings import WrongSettings
from ruminate.trainer.job import _environment
from ruminate.trainer.turns import VISIBLE_DEVICES, Place, Seat, Turns, devices_for

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def place(target: str, *, priority: int = 0, minutes: int = 0) -> Place:
    """A batch of a target, sealed so much later."""
    return Place(-priority, NOW + timedelta(minutes=minutes), ("default", target), f"{target}-1")


def test_whoever_waits_is_admitted_by_priority_and_then_by_the_age_of_its_batch() -> None:
    async def scenario() -> None:
        turns = Turns([None])
        running = turns.enter(place("a"))
        late, early, urgent = (turns.enter(each) for each in (place("b", minutes=2), place("c", minutes=1), place("d", priority=1)))
        assert running.has_turn and not any(ticket.has_turn for ticket in (late, early, urgent))
        for leaving, following in ((running, urgent), (urgent, early), (early, late)):
            turns.leave(leaving)
            assert following.has_turn
            assert [each.batch_id for each in turns.running] == [following.place.batch_id]

    asyncio.run(scenario())


def test_a_device_is_given_to_one_job_and_taken_back_and_a_target_has_one_at_a_time() -> None:
    async def scenario() -> None:
        turns = Turns(["3", "5"])
        first, second, other = turns.enter(place("a")), turns.enter(place("a", minutes=1)), turns.enter(place("b", minutes=2))
        assert (first.turn.result(), other.turn.result(), second.has_turn) == ("3", "5", False)
        third = turns.enter(place("c", minutes=3))
        turns.leave(other)
        assert (third.turn.result(), second.has_turn) == ("5", False)
        turns.leave(first)
        turns.leave(first)
        assert second.turn.result() == "3"

    asyncio.run(scenario())


def test_whoever_leaves_the_queue_takes_no_turn() -> None:
    async def scenario() -> None:
        turns = Turns([None])
        running, gone, waits = (turns.enter(place(target, minutes=n)) for n, target in enumerate("abc"))
        turns.leave(gone)
        turns.leave(running)
        assert waits.has_turn and not gone.has_turn

    asyncio.run(scenario())


def test_a_seat_keeps_its_ticket_until_the_place_is_another() -> None:
    async def scenario() -> None:
        turns = Turns([None])
        running, seat = turns.enter(place("a")), Seat(turns)
        ticket = seat.take(place("b"))
        assert seat.take(place("b")) is ticket
        assert seat.take(place("b", priority=2)) is not ticket
        turns.leave(running)
        assert not ticket.has_turn and seat.take(place("b", priority=2)).has_turn
        seat.leave()
        assert turns.enter(place("c")).has_turn

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("at_once", "visible", "devices"),
    [
        (1, None, (None,)),
        (1, "2,3", (None,)),
        (2, None, ("0", "1")),
        (2, "4, 6,7", ("4", "6")),
        (2, "GPU-8f,GPU-1a", ("GPU-8f", "GPU-1a")),
        (2, "", ("", "")),
    ],
)
def test_one_job_sees_every_device_and_of_several_each_sees_one(
    at_once: int, visible: str | None, devices: tuple[str | None, ...]
) -> None:
    assert devices_for(at_once, visible) == devices


def test_more_jobs_than_devices_are_refused_with_both_names() -> None:
    with pytest.raises(WrongSettings, match="RUMINATE_TRAINING_AT_ONCE is 3 and CUDA_VISIBLE_DEVICES is '0,1'"):
        devices_for(3, "0,1")


@pytest.mark.parametrize(("device", "sees"), [(None, None), ("3", "3"), ("", "")])
def test_the_training_process_of_a_turn_with_a_device_sees_that_one_alone(device: str | None, sees: str | None) -> None:
    assert _environment(0, device).get(VISIBLE_DEVICES) == sees
