"""Nothing lost, nothing doubled, on Apache Kafka: killed, frozen, rebalanced, and its broker restarted and lost; then audited.

Short: each part is killed once while one broker is restarted. Long, for three seeds: three brokers of which one is lost for a
while, fifty kills and more, ten rebalances, owners that freeze for longer than their session and come back, and a conversation that
is forgotten in the middle of it. What is counted has been seen: a rebalance in how the group's partitions are divided, a frozen
owner in who has them meanwhile.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from infra.real.kafka import KafkaCluster
from ruminate.schemas.flow import FLOW
from ruminate.shared.process import ROPE_VARIABLE
from tests.contract.kafka_bench import ANSWER_SECONDS, shares_of
from tests.e2e.running_loop import RunningLoop, Seen, eventually, start_loop
from tests.e2e.under_fire import CHILD, SMALL, SOON_SECONDS, WATCHED, Loop, Victims, check_everything, hard_rounds

pytestmark = pytest.mark.real

READERS = ("collector", "assessor", "accumulator", "deployer")
"""Who is given a second replica for a while."""


FIRST, SECOND = "0", "second"
"""The replica that runs with the loop, and the one that is added to it."""

Shares = Mapping[str, set[tuple[str, int]]]
"""What each replica of a service has, by its name."""


@contextmanager
def second_replica(loop: RunningLoop, service: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another replica of a service, with the settings of the one that runs, for as long as the context is open."""
    running = psutil.Process(eventually(lambda: loop.parts()[service]["pid"], within_seconds=SOON_SECONDS, loop=loop))
    own = {"RUMINATE_REPLICA": SECOND, "RUMINATE_OPERATIONS_PORT": "0", "RUMINATE_COLLECTOR_PORT": "0"}
    environment = {name: value for name, value in running.environ().items() if name != ROPE_VARIABLE} | own
    with (loop.state / "logs" / f"{service}-{SECOND}.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", f"ruminate.{service}"], env=environment, stdout=log, stderr=log)
    try:
        yield process
        assert process.poll() is None, f"the second {service} ended with exit {process.returncode}"
    finally:
        process.kill()
        process.wait()


class Disorder:
    """What happens beside the kills, in a thread of its own."""

    def __init__(self, loop: RunningLoop, cluster: KafkaCluster, rng: random.Random) -> None:
        self._loop, self._cluster, self._rng = loop, cluster, rng
        self._over = threading.Event()
        self.happened: Counter[str] = Counter()

    def do(self, things: Sequence[Callable[[], None]]) -> None:
        """One after the other."""
        for thing in things:
            if not self._over.is_set():
                thing()

    def end(self) -> None:
        """Begin nothing more."""
        self._over.set()

    def rebalance(self, service: str) -> None:
        """A replica joins, works, and is killed: the group divides its work twice."""
        with self._joined(service):
            self._calm(self._rng.uniform(1.0, 4.0))

    def freeze(self, service: str) -> None:
        """An owner stops until its session is over and another has all of its work, and comes back."""
        with self._joined(service):
            while not self._frozen_and_back(service) and not self._over.is_set():
                self._calm(1.0)  # it was killed meanwhile: another one, then
            self._calm(3.0)

    @contextmanager
    def _joined(self, service: str) -> Iterator[None]:
        """A second replica that has its part of the work; it is killed at the end, and the first has all of it again."""
        with second_replica(self._loop, service):
            self._until(service, lambda shares: bool(shares.get(SECOND)))
            self.happened["rebalances"] += 1
            yield
        self._until(service, lambda shares: SECOND not in shares and bool(shares.get(FIRST)))
        self.happened["rebalances"] += 1

    def _frozen_and_back(self, service: str) -> bool:
        """Whether an owner froze, was replaced, and came back; False where it was killed before that."""
        with suppress(psutil.NoSuchProcess):
            owner = self._owner(service)
            owner.suspend()
            try:
                self._until(service, lambda shares: FIRST not in shares and bool(shares.get(SECOND)), unless_gone=owner)
            finally:
                owner.resume()
            self._until(service, lambda shares: bool(shares.get(FIRST)), unless_gone=owner)
            if not is_gone(owner):  # nobody else has had its name
                self.happened["rebalances"] += 2
                self.happened["frozen owners"] += 1
                return True
        return False

    def _owner(self, service: str) -> psutil.Process:
        """The process of the first replica, once it has its partitions and says that it is ready."""

        def owner() -> psutil.Process | None:
            pid = self._loop.parts()[service]["pid"]
            with suppress(httpx.TransportError, psutil.NoSuchProcess):
                found = psutil.Process(pid or 0)
                ready = httpx.get(f"{self._loop.addresses['operations'][service]}/readyz", timeout=5).status_code == 200
                return found if pid and ready and not is_gone(found) else None
            return None

        return eventually(owner, within_seconds=SOON_SECONDS, loop=self._loop)

    def _until(self, service: str, divided: Callable[[Shares], bool], *, unless_gone: psutil.Process | None = None) -> None:
        """Wait until the group's partitions are divided so, or that process is gone."""

        def look() -> bool:
            with suppress(KafkaException):
                shares = shares_of(self._cluster.bootstrap, service)
                return divided({name.removeprefix(f"{service}-"): share for name, share in shares.items()})
            return False

        eventually(
            lambda: look() or (unless_gone is not None and is_gone(unless_gone)), within_seconds=SOON_SECONDS, loop=self._loop
        )

    def restart_broker(self) -> None:
        """Each broker stops as it should and comes back, one after the other: with one of them, all is away meanwhile."""
        for number in range(len(self._cluster.brokers)):
            self._cluster.stop(number)
            self._cluster.start(number)
        self.happened["broker restarts"] += 1

    def lose_broker(self) -> None:
        """One broker is killed, is away for a while, and comes back."""
        lost = self._rng.randrange(len(self._cluster.brokers))
        self._cluster.kill(lost)
        self._calm(10.0)
        self._cluster.start(lost)
        self.happened["lost brokers"] += 1

    def _calm(self, seconds: float) -> None:
        """Let things take their course; how long is part of what happens, not a wait for something."""
        self._over.wait(seconds)


def is_gone(process: psutil.Process) -> bool:
    """Whether it has ended, although nobody may have been told yet."""
    with suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def durability(cluster: KafkaCluster) -> set[tuple[int, int]]:
    """How many replicas the topics of the flow have, and how many of them must have a record before it is acknowledged."""
    names = [topic.name for topic in FLOW]
    with AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 2}) as admin:
        topics = admin.list_topics(timeout=ANSWER_SECONDS).topics
        settings = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in names])
        least = {
            resource.name: int(found.result(ANSWER_SECONDS)["min.insync.replicas"].value) for resource, found in settings.items()
        }
    return {(len(partition.replicas), least[name]) for name in names for partition in topics[name].partitions.values()}


def audit(loop: RunningLoop) -> None:
    """What an operator would type says that nothing is wrong, and it could judge."""
    audited = loop.ruminate("audit", timeout=300)
    assert audited.returncode == 0, audited.stdout + audited.stderr


def run_under_fire(
    state: Path,
    cluster: KafkaCluster,
    rng: random.Random,
    rounds: Sequence[Victims],
    *,
    settings: Mapping[str, str],
    disorder: Callable[[Disorder], Sequence[Callable[[], None]]],
) -> Counter[str]:
    """Teach a batch a round under kills and disorder; audit while it runs, and judge it at the end. What happened, counted."""
    environment = {**SMALL, **settings}
    with start_loop(["up", "--kafka", cluster.bootstrap], state=state, environment=environment) as running:
        eventually(lambda: "everything is ready" in running.said(), within_seconds=SOON_SECONDS, loop=running)
        assert durability(cluster) == {(len(cluster.brokers), min(2, len(cluster.brokers)))}
        with ThreadPoolExecutor(10) as pool, Seen(running, *WATCHED) as seen:
            loop, troubles = Loop(running, seen, pool), Disorder(running, cluster, random.Random(rng.random()))
            beside: Future[None] = pool.submit(troubles.do, disorder(troubles))
            loop.beside.append(beside)
            try:
                loop.run(rng, rounds, state.parent)
                beside.result()
                check_everything(loop, len(rounds), state.parent)
            finally:
                troubles.end()
            audit(running)
        assert running.stop(signal.SIGINT) == []
    return troubles.happened + Counter(kills=len(loop.killed))


@pytest.mark.timeout(400)
def test_each_part_is_killed_and_the_broker_restarted_and_the_audit_finds_nothing(
    tmp_path: Path, kafka_of_one: KafkaCluster
) -> None:
    rounds = [Victims(taking=["collector", "assessor", "accumulator"], training=[CHILD], deploying=["deployer", "gateway"])]
    happened = run_under_fire(
        tmp_path / "state",
        kafka_of_one,
        random.Random(1),
        rounds,
        settings={},
        disorder=lambda troubles: [troubles.restart_broker],
    )
    assert happened == Counter({"kills": 6, "broker restarts": 1})


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_fifty_kills_ten_rebalances_frozen_owners_and_a_lost_broker_and_the_audit_finds_nothing(
    tmp_path: Path, kafka_of_three: KafkaCluster, seed: int
) -> None:
    rng = random.Random(seed)

    def disorder(troubles: Disorder) -> Sequence[Callable[[], None]]:
        others: list[Callable[[], None]] = [
            *(partial(troubles.rebalance, service) for service in READERS),
            *(partial(troubles.freeze, service) for service in ("collector", "assessor", "accumulator")),
            troubles.lose_broker,
            troubles.restart_broker,
        ]
        return rng.sample(others, len(others))

    # A job that lasts, or it is over before its child can be killed as often as it has to be.
    settings = {"RUMINATE_KAFKA_REPLICATION": "3", "RUMINATE_EQUALITY_PROBES": "64"}
    began = time.monotonic()
    happened = run_under_fire(tmp_path / "state", kafka_of_three, rng, hard_rounds(rng), settings=settings, disorder=disorder)
    print(f"seed {seed}: {dict(happened)} in {time.monotonic() - began:.0f} s on {os.cpu_count()} cores")
    assert happened["kills"] >= 50
    assert happened["rebalances"] >= 10
    assert happened["frozen owners"] == 3
    assert happened["lost brokers"] == happened["broker restarts"] == 1
