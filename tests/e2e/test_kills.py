"""Killed in the middle: whichever part it is, the loop ends as if nothing had happened; and nothing outlives `ruminate` itself."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.e2e.running_loop import RunningLoop, Seen, eventually, start_loop
from tests.e2e.under_fire import (
    CHILD,
    SMALL,
    SOON_SECONDS,
    WATCHED,
    Loop,
    Victims,
    check_everything,
    hard_rounds,
    lesson_of,
    publish,
)


def run_rounds(state: Path, rng: random.Random, rounds: Sequence[Victims]) -> None:
    """Teach a batch a round, kill as planned, and look at what the log says in the end."""
    with start_loop(["up"], state=state, environment=SMALL) as running:
        eventually(lambda: "everything is ready" in running.said(), within_seconds=SOON_SECONDS, loop=running)
        with ThreadPoolExecutor(8) as pool, Seen(running, *WATCHED) as seen:
            loop = Loop(running, seen, pool)
            loop.run(rng, rounds, state.parent)
            check_everything(loop, len(rounds), state.parent)


@pytest.mark.timeout(400)
def test_each_part_is_killed_once_and_the_loop_ends_with_one_registration_a_version(tmp_path: Path) -> None:
    everybody = Victims(
        taking=["collector", "assessor", "accumulator", "gateway", "monitor"],
        training=[CHILD, "trainer"],
        deploying=["deployer", "node"],
    )
    run_rounds(tmp_path / "state", random.Random(1), [everybody])


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_conversation_is_forgotten_between_two_versions_while_the_eraser_is_killed(tmp_path: Path) -> None:
    rounds = [
        Victims(taking=["collector"], training=["trainer"], deploying=[]),
        Victims(taking=["accumulator"], training=[], deploying=["deployer"], forgetting=["eraser"]),
    ]
    run_rounds(tmp_path / "state", random.Random(1), rounds)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_each_part_is_killed_often_and_the_loop_ends_with_one_registration_a_version(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    run_rounds(tmp_path / "state", rng, hard_rounds(rng))


# --- `ruminate` itself ----------------------------------------------------------------------------------------------


def is_locked(loop: RunningLoop) -> bool:
    """Whether this start, and none before it, holds the folder."""
    file = loop.state / "supervisor.json"
    return file.exists() and json.loads(file.read_text())["pid"] == loop.process.pid


def runs_its_broker(loop: RunningLoop) -> bool:
    return is_locked(loop) and "broker" in loop.parts()


def starts_its_last_service(loop: RunningLoop) -> bool:
    return is_locked(loop) and "gateway" in loop.parts()


def exports_its_base(loop: RunningLoop) -> bool:
    return runs_module(loop, "ruminate.trainer.export")


def runs_module(loop: RunningLoop, module: str) -> bool:
    for process in loop.processes():
        with suppress(psutil.NoSuchProcess):
            if module in process.cmdline():
                return True
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize(
    "moment",
    [
        is_locked,
        runs_its_broker,
        exports_its_base,
        starts_its_last_service,
    ],
    ids=lambda m: m.__name__,
)
def test_nothing_outlives_a_start_that_is_cut_short(
    tmp_path: Path, moment: Callable[[RunningLoop], bool], number: signal.Signals
) -> None:
    with start_loop(["up"], state=tmp_path / "state", environment={}) as loop:
        eventually(partial(moment, loop), within_seconds=60, loop=loop)
        assert loop.stop(number) == []
        assert "Traceback" not in loop.said()
    # A base that was exported halfway would pass for a whole one.
    assert all(path.stat().st_size > 2_000_000 for path in (tmp_path / "state" / "base").glob("*.gguf"))


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_nothing_outlives_it_in_the_middle_of_training_and_its_folder_can_be_used_again(
    tmp_path: Path, number: signal.Signals
) -> None:
    state, lesson = tmp_path / "state", tmp_path / "lesson.jsonl"
    lesson.write_text("\n".join(each.model_dump_json() for each in lesson_of(1)))
    with start_loop(["up"], state=state, environment=SMALL | {"RUMINATE_TRAINING_EPOCHS": "100"}) as loop:
        eventually(lambda: "everything is ready" in loop.said(), within_seconds=SOON_SECONDS, loop=loop)
        publish(loop, lesson)
        eventually(lambda: runs_module(loop, "ruminate.trainer.child"), within_seconds=SOON_SECONDS, loop=loop)
        assert loop.stop(number) == []
        assert "Traceback" not in loop.said()
    with start_loop(["up"], state=state, environment=SMALL) as loop:
        eventually(lambda: "everything is ready" in loop.said(), within_seconds=SOON_SECONDS, loop=loop)
        assert loop.stop(signal.SIGINT) == []
