"""Nothing lost, nothing doubled, on Apache Kafka: killed, frozen, rebalanced, and its broker restarted and lost; then audited.

Short: each part is killed once while one broker is restarted. Long, for three seeds: three brokers of which one is lost for a
while, fifty kills and more, ten rebalances, and owners that freeze for longer than their session and come back.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from infra.real.kafka import KafkaCluster
from ruminate.shared.process import ROPE_VARIABLE
from ruminate.shared.profiles import KAFKA
from tests.e2e.running_loop import RunningLoop, Seen, eventually, start_loop
from tests.e2e.under_fire import (
    CHILD,
    SMALL,
    SOON_SECONDS,
    WATCHED,
    Loop,
    Victims,
    check_everything_runs,
    check_interactions,
    check_registrations,
    lesson_of,
    plan,
)

pytestmark = pytest.mark.real

FROZEN_SECONDS = KAFKA.session_timeout_ms / 1000 + 3.0
READERS = ("collector", "assessor", "accumulator", "deployer")
"""Who is given a second replica for a while."""


@contextmanager
def second_replica(loop: RunningLoop, service: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another replica of a service, with the settings of the one that runs, for as long as the context is open."""
    running = psutil.Process(eventually(lambda: loop.parts()[service]["pid"], within_seconds=SOON_SECONDS, loop=loop))
    own = {"RUMINATE_REPLICA": "second", "RUMINATE_OPERATIONS_PORT": "0", "RUMINATE_COLLECTOR_PORT": "0"}
    environment = {name: value for name, value in running.environ().items() if name != ROPE_VARIABLE} | own
    with (loop.state / "logs" / f"{service}-second.log").open("ab") as log:
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
        self.happened: Counter[str] = Counter()

    def do(self, things: Sequence[Callable[[], None]]) -> None:
        """One after the other."""
        for thing in things:
            thing()

    def rebalance(self, service: str) -> None:
        """A replica joins, works, and is killed: the group divides its work twice."""
        with second_replica(self._loop, service):
            self._calm(self._rng.uniform(3.0, 6.0))
        self.happened["rebalances"] += 2

    def freeze(self, service: str) -> None:
        """An owner stops for longer than its session while another has its work, and comes back."""
        with second_replica(self._loop, service):
            while not self._frozen_and_back(service):
                self._calm(1.0)  # it was killed in its sleep: another one, then
            self._calm(3.0)
        self.happened["frozen owners"] += 1
        self.happened["rebalances"] += 2

    def _frozen_and_back(self, service: str) -> bool:
        pid = eventually(lambda: self._loop.parts()[service]["pid"], within_seconds=SOON_SECONDS, loop=self._loop)
        with suppress(psutil.NoSuchProcess):
            frozen = psutil.Process(pid)
            frozen.suspend()
            try:
                self._calm(FROZEN_SECONDS)
            finally:
                frozen.resume()
            return True
        return False

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
        time.sleep(seconds)


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
        with ThreadPoolExecutor(10) as pool, Seen(running, *WATCHED) as seen:
            loop, troubles = Loop(running, seen, pool), Disorder(running, cluster, rng)
            beside: Future[None] = pool.submit(troubles.do, disorder(troubles))
            loop.beside.append(beside)
            kills = 0
            for number, victims in enumerate(rounds, start=1):
                sending = loop.teach(lesson_of(number), state.parent)
                loop.beside += sending
                for kill in plan(rng, loop, number, victims):
                    loop.kill(kill)
                    kills += 1
                for each in sending:
                    each.result()
                loop.wait(partial(loop.registered, number))
            beside.result()
            check_registrations(loop, len(rounds))
            check_interactions(loop, state.parent)
            check_everything_runs(loop, f"v{len(rounds)}")
            audit(running)
        assert running.stop(signal.SIGINT) == []
    return troubles.happened + Counter(kills=kills)


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

    def shuffled(*victims: str) -> Sequence[str]:
        return rng.sample(victims, len(victims))

    def disorder(troubles: Disorder) -> Sequence[Callable[[], None]]:
        others = [
            *(partial(troubles.rebalance, service) for service in READERS),
            *(partial(troubles.freeze, service) for service in ("collector", "assessor", "accumulator")),
            troubles.lose_broker,
            troubles.restart_broker,
        ]
        return rng.sample(others, len(others))

    rounds = [
        Victims(
            taking=shuffled(*(("collector", "assessor", "accumulator") * 2), "gateway", "monitor"),
            training=shuffled(CHILD, CHILD, "trainer", "trainer", "accumulator"),
            deploying=shuffled("deployer", "deployer", "node", "trainer"),
        )
        for _ in range(3)
    ]
    began = time.monotonic()
    happened = run_under_fire(
        tmp_path / "state", kafka_of_three, rng, rounds, settings={"RUMINATE_KAFKA_REPLICATION": "3"}, disorder=disorder
    )
    print(f"seed {seed}: {dict(happened)} in {time.monotonic() - began:.0f} s on {os.cpu_count()} cores")
    assert happened["kills"] >= 50
    assert happened["rebalances"] >= 10
    assert happened["frozen owners"] == 3
    assert happened["lost brokers"] == happened["broker restarts"] == 1
