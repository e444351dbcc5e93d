"""Apache Kafka, one node or three (KRaft), for as long as a context lasts: ready when it says so, nothing left behind.

    with kafka_cluster(brokers=3) as cluster:
        cluster.bootstrap          what clients are told
        cluster.kill(0)            SIGKILL; stop(0) asks politely
        cluster.start(0)           back on the same ports, returns when it is ready
        cluster.pause(1)           frozen, as by a long collection or a suspended machine; resume(1)

Every broker has two listeners for clients. CLIENT is what `bootstrap` names: its security protocol is `client_protocol`
(SSL, SASL_SSL …) and its properties come by `settings` (`listener.name.client.…`, `ssl.keystore.location` …). INTERNAL is
plain on loopback and stays so: the brokers speak over it, readiness is asked there, and an admin client may use it to set
a secured cluster up. Where an authorizer is set, `super.users` has to name `User:ANONYMOUS` for it.
"""

from __future__ import annotations

import re
import secrets
import shutil
import signal
import subprocess
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Literal

from confluent_kafka import Consumer, KafkaException, TopicPartition

from infra.real.cache import MissingPart, Part, digest, run
from infra.real.ports import hold_port, on_free_ports
from infra.real.tied import Tied, tail, temporary_folder

VERSION = "4.1.0"
READY_SECONDS = 120.0
STOP_SECONDS = 60.0
_ASK_SECONDS = 0.2
_HERE = Path(__file__).parent
_POM, _HASHES = _HERE / "pom.xml", _HERE / "kafka.sha256"
_ARCHIVE = "classes.jsa"
_CHECKPOINT = "bootstrap.checkpoint"
_COORDINATOR_PARTITIONS = 3
_GROUP_OF_EACH_PARTITION = ("a", "b", "c")
"""The hash of a one-letter group is its code: 97, 98 and 99 fall into three partitions."""

_STARTED = "Transition from STARTING to STARTED"

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]

# What makes a broker that lives for seconds quick: no second compiler, one collector thread, classes from an archive.
_BRIEF = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData")
QUICK = (*_BRIEF, f"-XX:SharedArchiveFile={_ARCHIVE}", "-Xshare:auto")
HEAP = "-Xmx512m"


class BrokerDidNotStart(RuntimeError):
    """A broker ended early or was not ready in time; the message shows its complaints."""


def kafka_uuid() -> str:
    """An id as Kafka writes them; it never begins with a dash, which Kafka's tools take for an option."""
    return urlsafe_b64encode(b"R" + secrets.token_bytes(15)).decode().rstrip("=")


@dataclass(frozen=True)
class _Ports:
    controller: int
    internal: int
    client: int
    further: Mapping[str, int]


@dataclass
class _Broker:
    number: int
    ports: _Ports
    folder: Path
    running: Tied | None = None
    logged_before_bytes: int = 0
    """So long was the log when it was started last."""

    @property
    def log(self) -> Path:
        return self.folder / "broker.log"


@dataclass
class KafkaCluster:
    """Brokers that are ready; they are counted from 0."""

    home: Path
    brokers: list[_Broker]
    settings: Mapping[str, str]
    client_protocol: Protocol
    jvm: Sequence[str]
    listeners: Mapping[str, Protocol] = field(default_factory=dict)
    cluster_id: str = field(default_factory=kafka_uuid)
    """Of brokers whose folders are empty; others keep the one that they have."""

    @property
    def bootstrap(self) -> str:
        """Where clients begin: the CLIENT listener of each broker."""
        return ",".join(f"127.0.0.1:{broker.ports.client}" for broker in self.brokers)

    @property
    def internal(self) -> str:
        """The plain listener of each broker: for setting up a secured cluster, and for looking at it."""
        return ",".join(f"127.0.0.1:{broker.ports.internal}" for broker in self.brokers)

    def at(self, listener: str) -> str:
        """A further listener of each broker."""
        return ",".join(f"127.0.0.1:{broker.ports.further[listener]}" for broker in self.brokers)

    def kill(self, number: int) -> None:
        """SIGKILL; gone when this returns."""
        self._running(number).kill()
        self.brokers[number].running = None

    def stop(self, number: int) -> None:
        """SIGTERM: it hands its partitions over, flushes and ends."""
        running = self._running(number)
        running.signal(signal.SIGTERM)
        try:
            running.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log = tail(self.log(number))
            raise RuntimeError(f"broker {number} did not stop within {STOP_SECONDS:.0f} s of SIGTERM:\n{log}") from None
        running.end()
        self.brokers[number].running = None

    def start(self, *numbers: int) -> None:
        """Start brokers again, on the ports and the data that they had; returns when all of them are ready.

        Start several at once where no majority of them runs: none gets ready alone.
        """
        for number in numbers:
            broker = self.brokers[number]
            if broker.running is not None:
                if broker.running.ended() is None:
                    raise RuntimeError(f"broker {number} runs already")
                broker.running.end()
            broker.logged_before_bytes = broker.log.stat().st_size if broker.log.exists() else 0
            broker.running = self._spawn(broker)
        try:
            self._wait_until_ready(numbers)
        except BaseException:
            for number in numbers:
                self.kill(number)
            raise

    def pause(self, number: int) -> None:
        """SIGSTOP: the broker keeps its connections and answers nothing."""
        self._running(number).signal(signal.SIGSTOP)

    def resume(self, number: int) -> None:
        """SIGCONT; what follows (the controller may have fenced it) is the broker's own affair."""
        self._running(number).signal(signal.SIGCONT)

    def log(self, number: int) -> Path:
        """All that the broker has said, over its restarts."""
        return self.brokers[number].log

    def end(self) -> None:
        """Kill every broker that still runs."""
        for broker in self.brokers:
            if broker.running is not None:
                broker.running.end()
                broker.running = None

    def _running(self, number: int) -> Tied:
        running = self.brokers[number].running
        if running is None:
            raise RuntimeError(f"broker {number} does not run")
        return running

    def _spawn(self, broker: _Broker) -> Tied:
        data = broker.folder / "data"
        if not (data / "meta.properties").exists():
            _format(data, self.home / _CHECKPOINT, broker.number, self.cluster_id)
        properties = broker.folder / "server.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties(broker).items()))
        temporary = broker.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        return Tied(
            [*_java(self.home, HEAP, f"-Djava.io.tmpdir={temporary}", *self.jvm), "kafka.Kafka", str(properties)],
            log=broker.log,
            folder=self.home,
        )

    def _properties(self, broker: _Broker) -> dict[str, str]:
        count, ports = len(self.brokers), broker.ports
        listeners = {"INTERNAL": ports.internal, "CLIENT": ports.client, **ports.further}
        protocols = {"CONTROLLER": "PLAINTEXT", "INTERNAL": "PLAINTEXT", "CLIENT": self.client_protocol, **self.listeners}
        addresses = ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items())
        replication, least = str(count), str(min(2, count))
        return {
            "process.roles": "broker,controller",
            "node.id": str(broker.number),
            "log.dirs": str(broker.folder / "data"),
            "controller.quorum.voters": ",".join(f"{b.number}@127.0.0.1:{b.ports.controller}" for b in self.brokers),
            "listeners": f"CONTROLLER://127.0.0.1:{ports.controller},{addresses}",
            "advertised.listeners": addresses,
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "INTERNAL",
            "auto.create.topics.enable": "false",
            "default.replication.factor": replication,
            "min.insync.replicas": least,
            "offsets.topic.num.partitions": str(_COORDINATOR_PARTITIONS),
            "offsets.topic.replication.factor": replication,
            "transaction.state.log.num.partitions": str(_COORDINATOR_PARTITIONS),
            "transaction.state.log.replication.factor": replication,
            "transaction.state.log.min.isr": least,
            "share.coordinator.state.topic.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": replication,
            "share.coordinator.state.topic.min.isr": least,
            "group.initial.rebalance.delay.ms": "0",
            # What can be compacted is looked for every 15 s, if nobody says otherwise.
            "log.cleaner.backoff.ms": "500",
            # A broker that comes back is refused until its previous life counts as over: 9 s, if nobody says otherwise.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            # A topic may raise its own limit so far; the default for topics stays Kafka's, so that one that forgot shows.
            "replica.fetch.max.bytes": str(40 * 1024 * 1024),
            **self.settings,
        }

    def _wait_until_ready(self, numbers: Collection[int]) -> None:
        """Until the brokers are registered and have caught up, and a coordinator answers for every group."""
        deadline = time.monotonic() + READY_SECONDS
        # Others may still believe in the broker's previous life, so it is the broker that has to say so first.
        self._until(lambda: all(map(self._has_started, numbers)), "did not register", numbers, deadline)
        asked = {"bootstrap.servers": self.internal, "log_level": 0, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100}
        with ExitStack() as resources:
            askers = [resources.enter_context(closing(Consumer(asked | {"group.id": group}))) for group in _GROUP_OF_EACH_PARTITION]
            for asker in askers:
                self._until(partial(_coordinator_answers, asker), "gave no group coordinator", numbers, deadline)
            self._until(partial(_have_caught_up, askers[0], numbers), "did not catch up", numbers, deadline)

    def _has_started(self, number: int) -> bool:
        """The broker's own word, given once the controller has registered it and lets it serve."""
        return _STARTED in self._said(number)

    def _said(self, number: int) -> str:
        """What the broker has said since it was started last."""
        with self.log(number).open("rb") as log:
            log.seek(self.brokers[number].logged_before_bytes)
            return log.read().decode(errors="replace")

    def _complaints(self, number: int) -> str:
        """The lines that say what is wrong, which are not the last ones: a broker that fails tells all of its ending."""
        lines = self._said(number).splitlines()
        telling = [line for line in lines if re.search(r"\b(ERROR|FATAL|Error|Caused by)\b|Exception: ", line)]
        return "\n".join(telling[:15] or lines[-15:])

    def _until(self, condition: Callable[[], bool], failure: str, numbers: Collection[int], deadline: float) -> None:
        while not condition():
            for number in numbers:
                code = self._running(number).ended()
                if code is not None:
                    raise BrokerDidNotStart(f"broker {number} ended with code {code}:\n{self._complaints(number)}")
            if time.monotonic() > deadline:
                logs = "\n".join(f"broker {number}:\n{self._complaints(number)}" for number in numbers)
                raise BrokerDidNotStart(f"brokers {list(numbers)} {failure} within {READY_SECONDS:.0f} s\n{logs}")
            time.sleep(0.02)


@contextmanager
def kafka_cluster(
    *,
    brokers: int = 1,
    folder: Path | None = None,
    settings: Mapping[str, str] | None = None,
    client_protocol: Protocol = "PLAINTEXT",
    listeners: Mapping[str, Protocol] | None = None,
    jvm: Sequence[str] = QUICK,
    port: int = 0,
) -> Iterator[KafkaCluster]:
    """A cluster that is ready, on loopback, for as long as the context lasts.

    folder: where the data lies and stays; without it, in a temporary folder that goes with the context.
    settings: broker properties, added to ours and stronger than they are.
    listeners: further ones by name (upper case), each with its protocol; `cluster.at(name)` is where they are.
    jvm: options of the Java machine; the default starts quickly and compiles simply: `()` for measuring throughput.
    port: of the first broker, the next ones count on from there; 0 takes free ones.
    """
    home = KAFKA.find()
    further = dict(listeners or {})
    with ExitStack() as resources:
        place = folder if folder is not None else resources.enter_context(temporary_folder("kafka"))

        def start() -> KafkaCluster:
            ports = _ports(resources, brokers, port, further)
            made = [_Broker(number, its_own, place / f"broker-{number}") for number, its_own in enumerate(ports)]
            cluster = KafkaCluster(home, made, dict(settings or {}), client_protocol, jvm, further)
            resources.callback(cluster.end)
            for broker in made:
                broker.folder.mkdir(parents=True, exist_ok=True)
            cluster.start(*range(brokers))
            return cluster

        yield start() if port else on_free_ports(start)


def _have_caught_up(asker: Consumer, numbers: Collection[int]) -> bool:
    try:
        found = asker.list_topics(timeout=_ASK_SECONDS)
    except KafkaException:
        return False
    partitions = [partition for topic in found.topics.values() for partition in topic.partitions.values()]
    return found.brokers.keys() >= set(numbers) and all(
        partition.leader >= 0 and (number not in partition.replicas or number in partition.isrs)
        for partition in partitions
        for number in numbers
    )


def _coordinator_answers(asker: Consumer) -> bool:
    """Ask for an offset that was never committed: only a coordinator that has loaded its groups says so."""
    try:
        asker.committed([TopicPartition("none", 0)], timeout=_ASK_SECONDS)
    except KafkaException:
        return False
    return True


def _ports(held: ExitStack, brokers: int, first: int = 0, further: Collection[str] = ()) -> list[_Ports]:
    """Three ports a broker, and one for each further listener; `first` is that of the first broker's clients, if not any."""
    return [
        _Ports(
            controller=hold_port(held),
            internal=hold_port(held),
            client=first + number if first else hold_port(held),
            further={name: hold_port(held) for name in further},
        )
        for number in range(brokers)
    ]


def _format(data: Path, checkpoint: Path, number: int, cluster_id: str) -> None:
    """What `kafka-storage format` does, less the two seconds: the checkpoint is the same for every node and cluster."""
    data.mkdir(parents=True, exist_ok=True)
    shutil.copy(checkpoint, data / _CHECKPOINT)
    words = {"version": "1", "cluster.id": cluster_id, "node.id": str(number), "directory.id": kafka_uuid()}
    (data / "meta.properties").write_text("".join(f"{key}={value}\n" for key, value in words.items()))


def _java(home: Path, *options: str) -> list[str]:
    # Relative to `home`, so that the archive of classes is still theirs after the folder was moved into the cache.
    jars = ":".join(f"libs/{jar.name}" for jar in sorted((home / "libs").glob("*.jar")))
    logging = ("showDateTime=true", "dateTimeFormat=HH:mm:ss.SSS")
    return ["java", *options, *(f"-Dorg.slf4j.simpleLogger.{word}" for word in logging), "-cp", jars]


def _build(folder: Path) -> None:
    said = run("java", "-version")
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < 17:
        raise MissingPart(f"Apache Kafka {VERSION} needs Java 17 or newer, and `java -version` says: {said.splitlines()[0]}")
    libs = folder / "libs"
    run("mvn", "-q", "-B", "-f", _POM, "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={libs}")
    _verify(libs)
    with temporary_folder("kafka-install") as place:
        _keep_checkpoint(folder, place)
        _keep_archive(folder, place)


def _verify(libs: Path) -> None:
    wanted = {name: want for want, name in (line.split() for line in _HASHES.read_text().splitlines())}
    found = {jar.name: sha256(jar.read_bytes()).hexdigest() for jar in libs.iterdir()}
    if found != wanted:
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise RuntimeError(f"these jars are not the ones that {_HASHES.name} names: {', '.join(differing)}")


def _keep_checkpoint(folder: Path, place: Path) -> None:
    """Format a storage once; what it writes beside the ids is kept for all clusters."""
    properties = place / "format.properties"
    controller = "process.roles=broker,controller\nnode.id=0\ncontroller.quorum.voters=0@127.0.0.1:1\n"
    listeners = "listeners=CONTROLLER://127.0.0.1:1,CLIENT://127.0.0.1:2\ncontroller.listener.names=CONTROLLER\n"
    mapping = "listener.security.protocol.map=CONTROLLER:PLAINTEXT,CLIENT:PLAINTEXT\ninter.broker.listener.name=CLIENT\n"
    properties.write_text(f"{controller}{listeners}{mapping}log.dirs={place / 'data'}\n")
    run(*_java(folder, *_BRIEF), "kafka.tools.StorageTool", "format", "-t", kafka_uuid(), "-c", properties, folder=folder)
    shutil.copy(place / "data" / _CHECKPOINT, folder / _CHECKPOINT)


def _keep_archive(folder: Path, place: Path) -> None:
    """Let one broker live and end; the classes that it loaded are archived, which saves a third of every later start."""
    with ExitStack() as held:
        (ports,) = _ports(held, 1)
        broker = _Broker(0, ports, place / "broker-0")
        broker.folder.mkdir()
        cluster = KafkaCluster(folder, [broker], {}, "PLAINTEXT", (*_BRIEF, f"-XX:ArchiveClassesAtExit={_ARCHIVE}"))
        held.callback(cluster.end)
        cluster.start(0)
        cluster.stop(0)


KAFKA = Part(
    name=f"kafka-{VERSION}",
    alias="kafka",
    recipe=digest(_POM, _HASHES, "archive of classes, checkpoint"),
    build=_build,
    tools={"mvn": ("maven",)},
    needs={"java": ("openjdk-17-jre-headless", "openjdk-21-jre-headless")},
)
