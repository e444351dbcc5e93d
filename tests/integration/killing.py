"""Jobs of all four stages that are killed where a seed says so, and what has to be the same as if nothing had happened.

Where a job stands is read from its reports. A kill comes at the first one that has reached its moment, or at an instant that the
seed has drawn; its victim is the process that trains, or the service above it, with which the other has to end by itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, Literal

import psutil

from ruminate.planner.shape import adapter_parameters
from ruminate.proof.judge import Policy
from ruminate.schemas.training import Stage
from ruminate.trainer.base import shape_in
from ruminate.trainer.bases.arithmetic import NEW_TASKS, SUMS, draw, row
from ruminate.trainer.bases.small import SHIPPED
from ruminate.trainer.job import LOCK_FILE, STDERR_FILE
from ruminate.trainer.learning.blend import WEIGHTS_FILE
from ruminate.trainer.outcome import ADAPTER_FOLDER, RESULT_FILE, Progress
from ruminate.trainer.plan import ORDER, Enforcement, Practice, Preference, Proof, Recovery, StageRules
from tests.folders import files_below
from tests.integration.lessons import lesson, preference_line, rehearsed, taught, unseen

TASK: Final = NEW_TASKS[0]
STEPS: Final[dict[Stage, int]] = {"cold_start": 4, "reasoning_rl": 7, "thinking_fusion": 6, "general_rl": 5}
"""A checkpoint every two: in the first epoch, between two, and in the second."""
CHECKPOINT_STEPS: Final = 2
RANK: Final = 8
ADAPTER_BYTES: Final = 4 * adapter_parameters(shape_in(SHIPPED), RANK)
PATIENCE_SECONDS: Final = 300.0

Victim = Literal["child", "service"]
_OTHERWISE: Final = frozenset({"seconds", "duration_seconds", "resumed_from_step"})
"""What a job that was killed may say differently."""


def four_stages(folder: Path, enforcement: Enforcement, *, probes: int = 0) -> Path:
    """A small job that goes through every stage and sits an exam between them; where the proof is enforced, it has to recover."""
    return lesson(
        folder,
        rows=taught(TASK, 96),
        replay=rehearsed(32),
        held_out=[row(exercise, thinks=True) for exercise in unseen(TASK, 64)],
        practised=draw(SUMS[0], 16, Random(3)),
        pairs=[preference_line(exercise, str(int(exercise.answer) + 1)) for exercise in draw(TASK, 24, Random(4))],
        rules=StageRules(
            cold_start_thinking_tokens=20, cold_start_least_rows=16, practice_least_questions=16, preference_least_pairs=8
        ),
        recovery=Recovery(factor_tries=2, gentler_tries=0),
        # Eight questions prove little: it is the way that is to be gone through here.
        proof=Proof(
            enforcement=enforcement,
            answer_tokens=40,
            batch_rows=64,
            policy=Policy(most_loss=0.5, most_perplexity_ratio=1.5),
        ),
        exam_questions=8,
        checkpoint_steps=CHECKPOINT_STEPS,
        probes=probes,
        learning_rate=1e-3,
        warmup_ratio=0.0,
        lora_rank=RANK,
        lora_alpha=2 * RANK,
        epochs=1.5,
        early_stop_looks=2,
        practice=Practice(learning_rate=2e-4, steps=7, questions_a_step=4, answers_a_question=4, answer_tokens=40),
        # Where the proof is enforced, so fast that it costs what was learned before, and has to be made smaller.
        preference=Preference(learning_rate=8e-4 if enforcement == "enforce" else 4e-4, batch_rows=8, epochs=1.6),
    )


# --- when ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Moment:
    """How far a job has come: places are those of PLACES, in their order."""

    place: int
    step: int = 0


PLACES: Final = (
    "preparing",
    "measuring",
    *(f"{phase} {stage}" for stage in ORDER for phase in ("training", "measuring")),
    "exporting",
    "checking",
)
"""`measuring STAGE` is what follows on the stage: its exam, and what is tried where it has cost reasoning."""


@dataclass(frozen=True)
class Kill:
    """Of whom, and when: at a moment of the job, or so many seconds after its service has started."""

    victim: Victim
    at: Moment | None = None
    after_seconds: float | None = None


def drawn(seed: int, places: Sequence[int], *, instants: int, longest_seconds: float) -> list[Kill]:
    """Kills at these places, each at a step that the seed draws, and at some instants; the victim is the service once in three."""
    rng = Random(seed)
    moments = sorted(Moment(place, rng.randint(1, _steps(place))) for place in places)

    def victim() -> Victim:
        return rng.choice(("child", "child", "service"))

    by_clock = [Kill(victim(), after_seconds=rng.uniform(0.0, longest_seconds)) for _ in range(instants)]
    return [*by_clock, *(Kill(victim(), at=moment) for moment in moments)]


def dealt(seed: int, hands: int, decks: int) -> list[list[int]]:
    """Every place so many times, shuffled and dealt out: over all hands each is hit."""
    deck = [place for _ in range(decks) for place in range(len(PLACES))]
    Random(seed).shuffle(deck)
    return [deck[hand::hands] for hand in range(hands)]


def _steps(place: int) -> int:
    phase, _, stage = PLACES[place].partition(" ")
    return next((steps for name, steps in STEPS.items() if name == stage), 1) if phase == "training" else 1


class Clock:
    """Where a job stands, over all of its processes: a later one passes through places where an earlier one has been."""

    def __init__(self) -> None:
        self._stage: Stage | None = None

    def moment(self, progress: Progress) -> Moment | None:
        """The moment of a report; None for one that begins something that has no step yet."""
        if progress.stage is not None:
            self._stage = progress.stage
            return Moment(PLACES.index(f"training {progress.stage}"), progress.step)
        if progress.phase == "training":
            return None
        name = f"measuring {self._stage}" if progress.phase == "measuring" and self._stage else progress.phase
        return Moment(PLACES.index(name), 1) if name in PLACES else None


# --- running and killing -------------------------------------------------------------------------------------------


@dataclass
class Course:
    """What was seen of a job from outside."""

    killed: list[str] = field(default_factory=list)
    """Victim and place of each kill that has met somebody alive."""
    largest_bytes: int = 0
    """Of the folder, at any report, and as each kill has left it."""
    most_adapters: float = 0.0
    """The same of adapters and of moments beside them, in adapters."""
    seconds: float = 0.0
    moments: list[Moment] = field(default_factory=list)

    def look(self, folder: Path) -> None:
        """Take notice of what lies in the folder."""
        self.largest_bytes = max(self.largest_bytes, size_of(files_below(folder)))
        learned = size_of(path for path in files_below(folder) if path.name in (WEIGHTS_FILE, "optimizer.pt"))
        self.most_adapters = max(self.most_adapters, learned / ADAPTER_BYTES)


def run_killed(folder: Path, kills: Sequence[Kill] = ()) -> Course:
    """Run the job to its end through all of its kills. Raises AssertionError where it fails, or leaves a process."""
    course, clock = Course(), Clock()
    began = time.monotonic()
    pending = list(kills)
    while True:
        first = pending[0] if pending else None
        if first is not None and first.after_seconds is not None:
            pending.pop(0)
        with _service(folder) as service:
            timer = None
            if first is not None and first.after_seconds is not None:
                timer = threading.Timer(first.after_seconds, _strike, (first.victim, "by the clock", service, folder, course))
                timer.start()
            try:
                for line in service.stdout or ():
                    moment = clock.moment(Progress.model_validate_json(line))
                    course.look(folder)
                    if moment is None:
                        continue
                    course.moments.append(moment)
                    if pending and (at := pending[0].at) is not None and moment >= at:
                        kill = pending.pop(0)
                        _strike(kill.victim, PLACES[moment.place], service, folder, course)
                service.wait(PATIENCE_SECONDS)
            finally:
                if timer is not None:
                    timer.cancel()
                    timer.join()
            _require_gone(folder)
            course.look(folder)
            if service.returncode == 0:
                course.seconds = time.monotonic() - began
                return course
            assert service.returncode == -signal.SIGKILL, (folder / STDERR_FILE).read_text()[-3000:]


def _strike(victim: Victim, place: str, service: subprocess.Popen[str], folder: Path, course: Course) -> None:
    """Kill whom it is meant for; a child that is not there yet, or no more, is not missed."""
    if victim == "service":
        if service.poll() is None:
            service.kill()
            course.killed.append(f"service, {place}")
        return
    for child in children_of(folder, service.pid):
        with suppress(psutil.NoSuchProcess):
            child.kill()
            course.killed.append(f"child, {place}")


def children_of(folder: Path, service: int | None = None) -> list[psutil.Process]:
    """Every process that works in this job folder, but for the service."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if process.pid not in (service, os.getpid()) and str(folder) in process.cmdline():
                found.append(process)
    return found


def _require_gone(folder: Path) -> None:
    _, alive = psutil.wait_procs(children_of(folder), timeout=30)
    assert alive == [], "a process has outlived its service"


@contextmanager
def _service(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.integration.one_job", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as service:
        try:
            yield service
        finally:
            with suppress(ProcessLookupError):
                service.kill()


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of all files among these, which somebody else writes and removes."""
    found = 0
    for path in paths:
        with suppress(FileNotFoundError):
            found += path.stat().st_size if path.is_file() else 0
    return found


# --- what came of it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """What a finished job has left, as far as it has to be the same."""

    result: dict[str, Any]
    proof: dict[str, Any]
    files: dict[str, str]
    """Paths and SHA-256 of everything else in the folder, with what is said differently taken out of it."""

    @property
    def curves(self) -> dict[str, list[tuple[float, ...]]]:
        """Losses, rewards and looks of every stage, by their names."""
        return {
            f"{record['stage']} {curve}": [tuple(point) for point in record[curve]]
            for record in self.proof["stages"]
            for curve in ("losses", "rewards", "looks")
        }


def made(folder: Path) -> Made:
    """Read what the job in this folder has left."""
    result, proof = folder / RESULT_FILE, folder / ADAPTER_FOLDER / "proof.json"
    told = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in (result, proof) and path.name not in (STDERR_FILE, LOCK_FILE)
    }
    return Made(_comparable(json.loads(result.read_bytes())), _comparable(json.loads(proof.read_bytes())), told)


def _comparable(told: Any) -> Any:
    if isinstance(told, dict):
        return {name: _comparable(value) for name, value in told.items() if name not in _OTHERWISE}
    return [_comparable(each) for each in told] if isinstance(told, list) else told


def largest_difference(one: Made, other: Made) -> float:
    """How far the curves of two jobs are apart at most. Raises AssertionError where they do not have the same steps."""
    assert one.curves.keys() == other.curves.keys()
    largest = 0.0
    for name, points in one.curves.items():
        steps = [point[0] for point in points]
        assert steps == [point[0] for point in other.curves[name]], name
        assert steps == sorted(set(steps)), f"{name} has a step twice"
        largest = max([largest, *(abs(a[1] - b[1]) for a, b in zip(points, other.curves[name], strict=True))])
    return largest


WEIGHTS: Final = f"{ADAPTER_FOLDER}/{WEIGHTS_FILE}"
