"""A whole loop in a process of its own, for tests that look at it from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.store import open_store

T = TypeVar("T")

RUMINATE = [sys.executable, "-m", "ruminate.command"]
STOP_WITHIN_SECONDS = 5.0


@dataclass(frozen=True)
class RunningLoop:
    """One `ruminate` process with everything under it, in a state folder."""

    process: subprocess.Popen[str]
    state: Path
    output: Path

    @property
    def addresses(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state / "addresses.json").read_text())
        return found

    def parts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state / "supervisor.json").read_text())["parts"]
        return found

    def ruminate(self, *arguments: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run another command against this state folder."""
        return subprocess.run(
            [*RUMINATE, *arguments, "--state", str(self.state)], capture_output=True, text=True, timeout=timeout, check=False
        )

    def events(self, topic: str) -> list[dict[str, Any]]:
        """What is on a topic now, oldest first within a partition."""
        tail = self.ruminate("tail", topic, "--json", "--no-follow")
        assert tail.returncode == 0, tail.stderr
        return [json.loads(line) for line in tail.stdout.splitlines()]

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: signal.Signals) -> list[psutil.Process]:
        """Send the signal; whoever is left after the promised seconds is returned (and killed)."""
        family = [psutil.Process(self.process.pid), *self.processes()]
        self.process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_WITHIN_SECONDS)
        _, left = psutil.wait_procs(family, timeout=0.0 if self.process.returncode is None else 0.5)
        for process in left:
            process.kill()
        self.process.wait()
        return left

    def said(self) -> str:
        return self.output.read_text(errors="replace")


@contextmanager
def start_loop(arguments: list[str], *, state: Path, environment: Mapping[str, str]) -> Iterator[RunningLoop]:
    """`ruminate ARGUMENTS --state STATE`, killed with everything under it when the test is over."""
    state.parent.mkdir(parents=True, exist_ok=True)
    output = state.parent / f"{state.name}.out"
    with output.open("w") as out:
        process = subprocess.Popen(
            [*RUMINATE, *arguments, "--state", str(state)],
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
    loop = RunningLoop(process, state, output)
    try:
        yield loop
    finally:
        if process.poll() is None:
            loop.stop(signal.SIGKILL)


def fetch_dataset(loop: RunningLoop, reference: Mapping[str, Any], to: Path) -> Path:
    """A dataset's folder, every byte of it checked against its manifest."""
    store = open_store(loop.addresses["store"])
    return asyncio.run(store.fetch(ArtifactReference.model_validate(reference), to=to / "dataset"))


def eventually(look: Callable[[], T | None], *, within_seconds: float, loop: RunningLoop | None = None) -> T:
    """What `look` returns once it is not None (or False); fails with what the loop has said when the time is over."""
    deadline = time.monotonic() + within_seconds
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        said = "" if loop is None else loop.said()[-4000:]
        assert loop is None or loop.process.poll() is None, f"the loop ended with exit {loop.process.returncode}:\n{said}"
        assert time.monotonic() < deadline, f"not within {within_seconds:.0f} s:\n{said}"
        time.sleep(0.05)
