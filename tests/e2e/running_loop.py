"""A whole loop in a process of its own, for tests that look at it from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import psutil
import pytest

from infra.real.kafka import KafkaCluster, kafka_cluster
from infra.real.ollama import OllamaNode, ollama_node
from ruminate.command.connection import open_bus
from ruminate.schemas.payload import ArtifactReference, Payload
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import BrokerUnavailable, Bus, Delivery
from ruminate.shared.record import Position
from ruminate.shared.store import open_store
from tests.plugins.real import installed

T = TypeVar("T")
P = TypeVar("P", bound=Payload)

RUMINATE = [sys.executable, "-m", "ruminate.command"]
STOP_WITHIN_SECONDS = 5.0
# Every process that a loop starts inherits it, so that orphans are found, too.
MARK = "LOOP_UNDER_TEST"


@dataclass(frozen=True)
class Pair:
    """Which broker and which node a loop runs on; None is the embedded one."""

    kafka: bool = False
    ollama: str | None = None

    def __str__(self) -> str:
        broker, node = "Apache Kafka" if self.kafka else "embedded", f"Ollama {self.ollama}" if self.ollama else "embedded"
        return f"{broker} + {node}"


EMBEDDED = Pair()
PAIRS = [
    pytest.param(EMBEDDED, id=str(EMBEDDED)),
    pytest.param(NEW := Pair(kafka=True, ollama="0.34.0"), id=str(NEW), marks=pytest.mark.real),
    # The nodes' own suite holds what the older one does otherwise.
    pytest.param(OLD := Pair(kafka=True, ollama="0.24.0"), id=str(OLD), marks=[pytest.mark.real, pytest.mark.long]),
]
"""What the whole loop is proven on: parameters of a fixture."""


@dataclass(frozen=True)
class Parts:
    """The real parts of a pair, running; a loop on them starts with `options`."""

    kafka: KafkaCluster | None
    node: OllamaNode | None

    @property
    def options(self) -> list[str]:
        """For `ruminate up` and `ruminate demo`."""
        kafka = ["--kafka", self.kafka.bootstrap] if self.kafka else []
        return [*kafka, "--node", self.node.url] if self.node else kafka


@contextmanager
def running_parts(pair: Pair) -> Iterator[Parts]:
    """The real parts of a pair, of this loop alone: topics and models have the same names in every loop."""
    with contextlib.ExitStack() as resources, installed():
        node = resources.enter_context(ollama_node(pair.ollama)) if pair.ollama else None
        kafka = resources.enter_context(kafka_cluster()) if pair.kafka else None
        yield Parts(kafka, node)


@dataclass(frozen=True)
class RunningLoop:
    """One `ruminate` process with everything under it, in a state folder."""

    process: subprocess.Popen[str]
    state: Path
    output: Path
    mark: str

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
        """Whatever this loop has started and still runs, itself among it, whoever is the parent by now."""
        everyone = psutil.process_iter(["environ"], ad_value=None)
        return [each for each in everyone if (each.info["environ"] or {}).get(MARK) == self.mark]

    def stop(self, number: signal.Signals) -> list[str]:
        """Send the signal; the command lines of whoever is left after the promised seconds are returned (and they are killed)."""
        deadline = time.monotonic() + STOP_WITHIN_SECONDS
        self.process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_WITHIN_SECONDS)
        while (left := self.processes()) and time.monotonic() < deadline:
            psutil.wait_procs(left, timeout=0.1)
        said = [_command_line(process) for process in left]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        return said

    def said(self) -> str:
        return self.output.read_text(errors="replace")


def _command_line(process: psutil.Process) -> str:
    try:
        return f"{process.pid}: {' '.join(process.cmdline())}"
    except psutil.NoSuchProcess:
        return f"{process.pid}: gone a moment too late"


class Seen:
    """What has come on some topics so far, in the order of each partition; read in a thread, for as long as the context is open."""

    def __init__(self, loop: RunningLoop, *topics: Topic[Any]) -> None:
        self._loop, self._topics = loop, topics
        self._deliveries: dict[str, list[Delivery[Any]]] = defaultdict(list)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._read()), name="seen")
        self._over = threading.Event()
        self._failure: BaseException | None = None

    def of(self, topic: Topic[P]) -> list[Delivery[P]]:
        """Every record of the topic up to now, repetitions among them."""
        if self._failure is not None:
            raise self._failure
        return list(self._deliveries[topic.name])

    def __enter__(self) -> Seen:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    async def _read(self) -> None:
        async with open_bus(self._loop.state, None) as bus:
            readers = [asyncio.create_task(self._follow(bus, topic)) for topic in self._topics]
            over = asyncio.create_task(asyncio.to_thread(self._over.wait))
            done, _ = await asyncio.wait([over, *readers], return_when=asyncio.FIRST_COMPLETED)
            self._failure = next((task.exception() for task in done), None)
            self._over.set()
            for task in readers:
                task.cancel()
            await asyncio.gather(over, *readers, return_exceptions=True)

    async def _follow(self, bus: Bus, topic: Topic[Any]) -> None:
        seen: set[Position] = set()
        while True:
            try:
                async for delivery in bus.read(topic, follow=True):
                    if delivery.position not in seen:
                        seen.add(delivery.position)
                        self._deliveries[topic.name].append(delivery)
            except BrokerUnavailable:
                await asyncio.sleep(0.5)  # it is restarted in the middle of some tests


@contextmanager
def start_loop(arguments: list[str], *, state: Path, environment: Mapping[str, str]) -> Iterator[RunningLoop]:
    """`ruminate ARGUMENTS --state STATE`, killed with everything under it when the test is over."""
    state.parent.mkdir(parents=True, exist_ok=True)
    output, mark = state.parent / f"{state.name}.out", uuid4().hex
    with output.open("w") as out:
        process = subprocess.Popen(
            [*RUMINATE, *arguments, "--state", str(state)],
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment, MARK: mark},
        )
    loop = RunningLoop(process, state, output, mark)
    try:
        yield loop
    finally:
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
