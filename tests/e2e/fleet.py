"""Replicas of services at one broker, each a process of its own, killed with the context; and what the log says they did."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families

from infra.real.ports import hold_port
from ruminate.accumulator.making.dataset import load_manifest
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.flow import (
    GROUP_READERS,
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    REASONING_ASSESSED,
    TRAINING_BATCH_SEALED,
)
from ruminate.schemas.interaction import InteractionCompleted
from ruminate.schemas.payload import Payload
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import Delivery
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.lag import LagProbe
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.store import FileStore
from tests.contract.kafka_bench import shares_of

P = TypeVar("P", bound=Payload)
T = TypeVar("T")

PATIENCE_SECONDS = 120.0
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "schemas" / "examples" / INTERACTION_COMPLETED.name / "valid" / "thought-and-answered.json"
SOURCE = "/agents/careful"


def eventually(look: Callable[[], T], *, what: str, within_seconds: float = PATIENCE_SECONDS) -> T:
    """What `look` returns once it is true; fails when the time is over."""
    deadline = time.monotonic() + within_seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {within_seconds:.0f} s: {what}"
        time.sleep(0.05)
    return found


@dataclass
class Replica:
    """One process of a service."""

    service: str
    name: str
    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def ready(self) -> bool:
        """Whether it says so itself. Fails when it has ended."""
        return self._answers("readyz")

    def lives(self) -> bool:
        """Whether it is so far that it joins its group. Fails when it has ended."""
        return self._answers("livez")

    def _answers(self, path: str) -> bool:
        assert self.process.poll() is None, f"{self.log.name} ended with {self.process.returncode}:\n{self.said()}"
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/{path}", timeout=5).status_code == 200
        return False

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=5).text
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())

    def done(self) -> float:
        """Records that it has finished."""
        return self.metric("ruminate_events_settled_total", outcome="done")

    def kill(self) -> None:
        """SIGKILL; gone when this returns."""
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


def all_ready(replicas: Collection[Replica]) -> bool:
    return all(replica.ready() for replica in replicas)


@dataclass
class Fleet:
    """Whatever runs, and where."""

    bootstrap: str
    folder: Path
    profile: str = "kafka"
    settings: Mapping[str, str] = field(default_factory=dict)
    replicas: list[Replica] = field(default_factory=list)
    held: ExitStack = field(default_factory=ExitStack)
    """The ports of all of them, until the fleet ends."""

    @property
    def client(self) -> ServiceSettings:
        """Settings of somebody who looks."""
        profile = "embedded" if self.profile == "embedded" else "kafka"
        return ServiceSettings(kafka_bootstrap=self.bootstrap, kafka_profile=profile, state_dir=self.folder)

    @property
    def store_uri(self) -> str:
        return f"file://{self.folder}/store"

    @property
    def store(self) -> FileStore:
        return FileStore(self.folder / "store")

    def start(
        self, service: str, name: str = "0", *, tree: Path | None = None, killed_at: int | None = None, **settings: str
    ) -> Replica:
        """One more process of a service; from another checkout where `tree` names one. Its log is kept over restarts.

        `killed_at` is the step at which it is killed: see `cut_short`.
        """
        port, collector_port = hold_port(self.held), hold_port(self.held)
        environment = os.environ | {
            "RUMINATE_KAFKA_BOOTSTRAP": self.bootstrap,
            "RUMINATE_KAFKA_PROFILE": self.profile,
            "RUMINATE_STORE_URI": self.store_uri,
            "RUMINATE_STATE_DIR": str(self.state_of(service, name)),
            "RUMINATE_REPLICA": name,
            "RUMINATE_OPERATIONS_PORT": str(port),
            "RUMINATE_COLLECTOR_PORT": str(collector_port),
            **self.settings,
            **settings,
        }
        if tree is not None:
            environment["PYTHONPATH"] = os.pathsep.join(map(str, package_folders(tree)))
        module: tuple[str, ...] = (f"ruminate.{service}",)
        if killed_at is not None:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
            module = ("tests.e2e.cut_short", service, str(killed_at))
        log = self.folder / f"{service}-{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                (sys.executable, "-m", *module), env=environment, stdout=output, stderr=output, cwd=self.folder
            )
        replica = Replica(service, name, f"http://127.0.0.1:{port}", log, process)
        self.replicas.append(replica)
        return replica

    def start_two(self, *services: str, **settings: str) -> dict[str, tuple[Replica, Replica]]:
        """Two replicas of each, ready, with the partitions divided between them."""
        pairs = {
            service: (
                self.start(service, "0", tree=None, killed_at=None, **settings),
                self.start(service, "1", tree=None, killed_at=None, **settings),
            )
            for service in services
        }
        for service, pair in pairs.items():
            eventually(partial(all_ready, pair), what=f"both replicas of {service} are ready")
            eventually(partial(self.is_divided, service), what=f"{service}'s partitions are divided")
        return pairs

    def state_of(self, service: str, name: str) -> Path:
        """Where that replica keeps its local files."""
        return self.folder / "state" / f"{service}-{name}"

    def shares(self, service: str) -> dict[str, set[tuple[str, int]]]:
        """See `shares_of`."""
        return shares_of(self.bootstrap, service)

    def is_divided(self, service: str, members: int = 2) -> bool:
        """Whether that many members have partitions, all of them together every one, and no two the same."""
        shares = self.shares(service).values()
        everything = {(topic.name, number) for topic in GROUP_READERS[service] for number in range(topic.partitions)}
        assigned = set[tuple[str, int]]().union(*shares)
        return len(shares) == members and all(shares) and sum(map(len, shares)) == len(assigned) and everything <= assigned

    def publish(self, interactions: Collection[InteractionCompleted]) -> None:
        """What careful agents do: each interaction under an id of its own."""

        async def publish() -> None:
            async with KafkaBus(self.client, reader="agents") as bus:

                async def one(interaction: InteractionCompleted) -> None:
                    envelope = bus.begin(INTERACTION_COMPLETED, interaction, event_id=interaction.interaction_id, source=SOURCE)
                    await bus.publish(INTERACTION_COMPLETED, interaction, envelope)

                await asyncio.gather(*map(one, interactions))

        asyncio.run(publish())

    def read(self, topic: Topic[P]) -> list[Delivery[P]]:
        """Every record of a topic, in the order of each partition."""

        async def read() -> list[Delivery[P]]:
            async with KafkaBus(self.client, reader="onlooker") as bus:
                return [delivery async for delivery in bus.read(topic)]

        return asyncio.run(read())

    def count(self, topic: Topic[Any]) -> int:
        """Events of a topic, each id once."""
        return len({delivery.envelope.id for delivery in self.read(topic)})

    def audit(self) -> dict[str, Any]:
        """What `ruminate audit` finds; fails with its words where it finds a fault or cannot judge."""
        command = (sys.executable, "-m", "ruminate.command", "audit", "--json", "--kafka", self.bootstrap)
        store = ("--store", self.store_uri, "--state", str(self.folder))
        audited = subprocess.run((*command, *store), capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
        assert audited.returncode == 0, f"the audit ended with {audited.returncode}:\n{audited.stdout[-4000:]}\n{audited.stderr}"
        found: dict[str, Any] = json.loads(audited.stdout)
        return found

    def lags(self) -> dict[str, int | None]:
        """Unread records by reader and topic."""

        async def measure() -> dict[str, int | None]:
            async with LagProbe(self.client) as probe:
                return {f"{lag.reader} on {lag.topic}": lag.messages for lag in await probe.measure()}

        return asyncio.run(measure())


def package_folders(tree: Path) -> list[Path]:
    """Where the packages of a checkout lie: before those that are installed, they are the ones that are imported."""
    return [tree / "schemas", tree / "shared", *sorted(each for each in (tree / "services").iterdir() if each.is_dir())]


@contextmanager
def fleet_at(bootstrap: str, folder: Path, *, profile: str = "kafka", **settings: str) -> Iterator[Fleet]:
    """A fleet without any process yet; all of them are killed in the end."""
    fleet = Fleet(bootstrap, folder, profile, settings)
    try:
        yield fleet
    finally:
        for replica in fleet.replicas:
            replica.process.send_signal(signal.SIGKILL)
        for replica in fleet.replicas:
            replica.process.wait()
        fleet.held.close()


def interactions(numbers: range, *, targets: int = 1, conversations: int = 64) -> list[InteractionCompleted]:
    """The example that people read, as many interactions of as many targets, none of which continues another.

    Each asks something else: of one question that is asked again and again, a few answers are enough.
    """
    example = InteractionCompleted.model_validate_json(json.dumps(json.loads(EXAMPLE.read_bytes())["value"]))
    *before, asked = example.messages
    return [
        example.model_copy(
            update={
                "messages": (*before, asked.model_copy(update={"content": f"{asked.content} ({number})"})),
                "interaction_id": f"i-{number}",
                "conversation_id": f"c-{number % conversations}",
                "target_model": f"target-{number % targets}",
            }
        )
        for number in numbers
    ]


def once(deliveries: Collection[Delivery[P]]) -> dict[str, Delivery[P]]:
    """The first record of each id. Every other of it is the same bytes again."""
    first: dict[str, Delivery[P]] = {}
    for delivery in deliveries:
        known = first.setdefault(delivery.envelope.id, delivery)
        assert known.payload == delivery.payload, f"two events have the id {delivery.envelope.id}"
    return first


def chains(deliveries: Collection[Delivery[TrainingBatchSealed]]) -> dict[str, list[TrainingBatchSealed]]:
    """By target: the batches that extend each other; whatever does not is one of them again."""
    found: dict[str, list[TrainingBatchSealed]] = defaultdict(list)
    for batch in (delivery.payload for delivery in deliveries):
        chain = found[batch.target_model]
        end = (chain[-1].number, chain[-1].batch_id, chain[-1].to_offset) if chain else (0, None, -1)
        if (batch.number - 1, batch.previous_batch_id, batch.after_offset) == end:
            chain.append(batch)
        else:
            assert batch.batch_id in {link.batch_id for link in chain}, f"{batch.batch_id} is in no chain"
    return dict(found)


def sealed_rows(fleet: Fleet) -> int:
    """How many rows the accepted batches have."""
    return sum(batch.rows for chain in chains(fleet.read(TRAINING_BATCH_SEALED)).values() for batch in chain)


def check_each_once(fleet: Fleet, count: int) -> None:
    """The first `count` interactions, and no other, are recorded, judged and a row of an accepted batch once; so says the audit."""
    recorded, assessed = once(fleet.read(INTERACTION_RECORDED)), once(fleet.read(REASONING_ASSESSED))
    assert {each.payload.interaction_id for each in recorded.values()} == {f"i-{number}" for number in range(count)}
    assert len(recorded) == len(assessed) == count
    rows = fresh_rows(fleet)
    assert set(rows.values()) == {1}
    assert rows.keys() == {str(each.payload.recorded_id) for each in recorded.values()}
    fleet.audit()


def fresh_rows(fleet: Fleet) -> Counter[str]:
    """How often each interaction is a row of an accepted batch."""
    sealed = chains(fleet.read(TRAINING_BATCH_SEALED))

    async def rows() -> Counter[str]:
        manifests = [await load_manifest(fleet.store, batch.dataset) for chain in sealed.values() for batch in chain]
        return Counter(str(row.recorded_id) for manifest in manifests for row in manifest.rows)

    return asyncio.run(rows())
