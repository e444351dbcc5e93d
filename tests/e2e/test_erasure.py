"""Somebody is forgotten while everything is killed: in no store, no state, no topic on the disk and no rebuild is anything left.

One conversation has a word in all of its texts. It is sealed into datasets, rehearsed, trained on, given up as a dead letter, in
the middle of being sealed, in the folder of a job, in a spool and on its way when `ruminate erase` asks for it. Every service that
has to do with it is killed (-9) at its first, second, third … step until nothing is left to do; then the word is looked for as
bytes in every file.

Short: a few kills of each. Long: a kill at every step of it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.real.kafka import KafkaCluster, kafka_cluster
from ruminate.eraser.lives import COMPACTED, LASTING
from ruminate.gateway.settings import GatewaySettings
from ruminate.gateway.spool import Spooled, open_spool
from ruminate.schemas.envelope import Envelope
from ruminate.schemas.erasure import RecordsErased
from ruminate.schemas.feedback import FeedbackGiven
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    DATASET_REVISED,
    EVIDENCE_RECORDED,
    FEEDBACK_GIVEN,
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    MODEL_MARKED,
    REASONING_ASSESSED,
    RECORDS_ERASED,
    TRAINING_BATCH_SEALED,
)
from ruminate.schemas.interaction import InteractionCompleted
from ruminate.shared.decoding import encode
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.topics import ensure_topics
from ruminate.trainer.bases.tiny import make_tiny_base
from tests.e2e.fleet import PATIENCE_SECONDS, SOURCE, Fleet, Replica, fleet_at, interactions
from tests.folders import files_below
from tests.integration.test_eraser_kafka import hurry
from tests.plugins.real import installed

pytestmark = pytest.mark.real

MARKER = "Xylokarp-7731"
CONVERSATION = "c-forget"
ROWS_A_BATCH = 8
LETTERS = INTERACTION_COMPLETED.dead_letters("collector").name
NOBODY = "http://127.0.0.1:9"

LEARNED, LEARNING, SEALING = "target-0", "target-1", "target-2"
"""Of the first, two batches are sealed and one is trained; the trainer is killed in the middle of the second, and the accumulator
in the middle of sealing the third."""


@pytest.fixture
def cluster() -> Iterator[KafkaCluster]:
    """A broker of our own, whose cleaner looks often."""
    with installed(), kafka_cluster(settings={"log.cleaner.backoff.ms": "100"}) as running:
        yield running


# What flows in.


def asked(numbers: range, target: str) -> list[InteractionCompleted]:
    """Interactions of which every third is of the conversation that is to be forgotten."""
    return [
        (told(each) if number % 3 == 0 else each).model_copy(update={"target_model": target})
        for number, each in zip(numbers, interactions(numbers, conversations=10_000), strict=True)
    ]


def told(each: InteractionCompleted) -> InteractionCompleted:
    """The interaction in that conversation, with the word wherever somebody may write."""
    *before, question = each.messages
    content, thinking = each.response.content, each.response.thinking
    return each.model_copy(
        update={
            "conversation_id": CONVERSATION,
            "messages": (*before, question.model_copy(update={"content": f"{question.content} {MARKER} asks."})),
            "response": each.response.model_copy(
                update={"content": f"{content} {MARKER} says so.", "thinking": f"{thinking} {MARKER} thinks so."}
            ),
            "context": each.context.model_copy(update={"other": {"note": f"{MARKER} was here"}}),
            "thinking": each.thinking.model_copy(update={"reason": f"{MARKER} asked for it"}),
            "tags": (*each.tags, MARKER),
            "domain": MARKER,
        }
    )


def comment(fleet: Fleet, about: InteractionCompleted) -> None:
    """Somebody says what an answer was worth, with the word in it."""
    given = FeedbackGiven(
        interaction_id=about.interaction_id,
        interaction_source=SOURCE,
        conversation_id=CONVERSATION,
        given_by="anna",
        given_at=datetime.now(UTC),
        comment=f"{MARKER} comments",
        correction=f"{MARKER} corrects",
    )

    async def tell() -> None:
        async with KafkaBus(fleet.client, reader="agents") as bus:
            await bus.publish(FEEDBACK_GIVEN, given, bus.begin(FEEDBACK_GIVEN, given, source="/agents/anna"))

    asyncio.run(tell())


def spool(fleet: Fleet, each: InteractionCompleted) -> None:
    """What a gateway had answered, and not published, when it was killed."""
    settings = GatewaySettings(state_dir=fleet.state_of("gateway", "0"), replica="0")
    envelope = Envelope(
        id=each.interaction_id,
        source="/ruminate/gateway",
        type=INTERACTION_COMPLETED.event_type,
        time=each.occurred_at,
        traceparent=f"00-{'1' * 32}-{'2' * 16}-01",
        order=INTERACTION_COMPLETED.order_of(each),
    )
    with open_spool(settings.state_dir / "gateway-0" / "spool", settings) as kept:
        asyncio.run(kept.append(Spooled(envelope, encode(each))))


def eventually(look: Callable[[], object], *, what: str) -> None:
    """Return once it is so. Looking at a topic costs more than a wait for it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not look():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:.0f} s: {what}"
        time.sleep(0.25)


# Where it could be.


def traces(*folders: Path, but_for: Collection[Path] = ()) -> list[Path]:
    """Every file below that holds the word."""
    files = (file for file in files_below(*folders) if file.is_file() and file not in but_for)
    return [file for file in files if MARKER.encode() in _bytes(file)]


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""  # it went meanwhile


def on_disk(cluster: KafkaCluster) -> set[str]:
    """Whatever the broker keeps that holds the word, by topic."""
    return {file.parent.name.rpartition("-")[0] for broker in cluster.brokers for file in traces(broker.folder / "data")}


# Who is killed.


@dataclass
class Siege:
    """Services that are started again and again, each to be killed at one of its steps."""

    fleet: Fleet
    steps: dict[str, Iterator[int | None]]
    """By service: at which step each of its processes is killed; None: it is not."""
    doomed: dict[str, bool] = field(default_factory=dict)
    running: dict[str, Replica] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)

    def go_on(self) -> None:
        """Start again whoever is gone."""
        for service, steps in self.steps.items():
            replica = self.running.get(service)
            if replica is not None:
                code = replica.process.poll()
                if code is None:
                    continue
                assert code == -signal.SIGKILL, f"{service} ended with {code}:\n{replica.said()}"
                self.kills[service] += 1
            self._start(service, next(steps))

    def until(self, over: Callable[[], bool], *, what: str, within_seconds: float) -> None:
        """Kill and start until it is over, looked at once in a while. Then whoever is still to be killed is, and all run on."""
        deadline, looked = time.monotonic() + within_seconds, 0.0
        while True:
            self.go_on()
            if time.monotonic() - looked > 1.0:
                if over():
                    break
                looked = time.monotonic()
            assert time.monotonic() < deadline, f"not within {within_seconds:.0f} s: {what}; killed {dict(self.kills)}"
            time.sleep(0.05)
        for service in [service for service, doomed in self.doomed.items() if doomed]:
            self.running[service].kill()
            self._start(service, None)

    def _start(self, service: str, step: int | None) -> None:
        self.running[service] = self.fleet.start(service, killed_at=step)
        self.doomed[service] = step is not None


def cut_short_sealing(fleet: Fleet, steps: Sequence[int]) -> int:
    """Kill the accumulator at each of these steps, until files are in the store that no dataset names; how often."""
    for kills, step in enumerate(steps, start=1):
        replica = fleet.start("accumulator", killed_at=step)
        assert replica.process.wait(PATIENCE_SECONDS) == -signal.SIGKILL, replica.said()
        assert not [batch for batch in fleet.read(TRAINING_BATCH_SEALED) if batch.payload.target_model == SEALING]
        unnamed = set(traces(fleet.folder / "store" / "blobs")) - named(fleet)
        if unnamed and any(file.name.startswith(".unfinished-") for file in files_below(fleet.folder / "store")):
            return kills
    raise AssertionError("every step is before or behind the one that leaves files behind")


def named(fleet: Fleet) -> set[Path]:
    """The files of all datasets in the store."""
    manifests = (fleet.folder / "store").glob("datasets/*/[0-9a-f]*.json")
    hashes = {file["sha256"] for manifest in manifests for file in json.loads(manifest.read_bytes())["files"]}
    return {fleet.folder / "store" / "blobs" / each[:2] / each for each in hashes}


# The story.


def surroundings(folder: Path) -> dict[str, str]:
    """Settings of all services: small batches, a tiny base, a node that is away, and a folder of our own for temporary files."""
    base = folder / "base"
    base.mkdir(parents=True)
    (folder / "tmp").mkdir()
    make_tiny_base(base, [encode(each).decode() for each in interactions(range(8))], seed=0)
    return {
        "TMPDIR": str(folder / "tmp"),
        "RUMINATE_SEAL_AT_ROWS": str(ROWS_A_BATCH),
        "RUMINATE_SEAL_FALSE_ALARM_RATIO": "0",
        "RUMINATE_SEAL_CHECK_SECONDS": "0.2",
        "RUMINATE_HOLDOUT_RATIO": "0",
        "RUMINATE_ERASURE_SETTLE_SECONDS": "0.2",
        "RUMINATE_NODES": json.dumps({"away": NOBODY}),
        "RUMINATE_NODE_STATUS_SECONDS": "0.2",
        "RUMINATE_GATEWAY_PORT": "0",
        "RUMINATE_BASES": json.dumps(dict.fromkeys((LEARNED, LEARNING, SEALING), str(base))),
        "RUMINATE_TRAINING_EPOCHS": "1",
        "RUMINATE_BATCH_ROWS": "8",
        "RUMINATE_MICRO_BATCH_ROWS": "8",
        "RUMINATE_TRAINING_THREADS": "1",
        "RUMINATE_MERGED_DTYPE": "float32",
        "RUMINATE_EQUALITY_PROBES": "0",
        "RUMINATE_PROOF": "off",
        "RUMINATE_CRASH_RESTARTS": "100",
    }


def batches(fleet: Fleet, target: str) -> int:
    return len({each.payload.number for each in fleet.read(TRAINING_BATCH_SEALED) if each.payload.target_model == target})


def flow_in(fleet: Fleet, cluster: KafkaCluster) -> None:
    """The word comes everywhere, and everybody who has it is killed."""
    running = {service: fleet.start(service) for service in ("collector", "assessor", "accumulator")}

    def until_sealed(numbers: range, target: str, number: int) -> None:
        fleet.publish(asked(numbers, target))
        eventually(lambda: batches(fleet, target) == number, what=f"batch {number} of {target} is sealed")

    until_sealed(range(0, 8), LEARNED, 1)
    trainer = fleet.start("trainer")
    eventually(lambda: fleet.count(ADAPTER_TRAINED) == 1, what="the first batch is trained")
    until_sealed(range(10, 18), LEARNING, 1)
    jobs = fleet.state_of("trainer", "0") / "jobs"
    eventually(lambda: traces(jobs), what="the trainer has the second batch's rows in hand")
    trainer.kill()
    until_sealed(range(20, 28), LEARNED, 2)

    (about,) = asked(range(0, 1), LEARNED)
    comment(fleet, about)
    fleet.publish([about.model_copy(update={"outcome": "failed"})])
    eventually(lambda: fleet.count(EVIDENCE_RECORDED), what="the comment is evidence")
    eventually(lambda: LETTERS in on_disk(cluster), what="what contradicts an earlier record is a dead letter")
    running["accumulator"].kill()
    fleet.publish(asked(range(30, 38), SEALING))
    eventually(lambda: len(judged(fleet)) == 32, what="what is to be sealed is judged")


def judged(fleet: Fleet) -> set[str]:
    return {each.payload.interaction.interaction_id for each in fleet.read(REASONING_ASSESSED)}


def leave_unread(fleet: Fleet) -> None:
    """What nobody has read yet when they are killed: recorded, published and answered."""
    assessor, collector = (next(each for each in fleet.replicas if each.service == name) for name in ("assessor", "collector"))
    assessor.kill()
    before = fleet.count(INTERACTION_RECORDED)
    fleet.publish(asked(range(42, 44), LEARNED))
    eventually(lambda: fleet.count(INTERACTION_RECORDED) == before + 2, what="what is not judged yet is recorded")
    collector.kill()
    fleet.publish(asked(range(45, 47), LEARNED))
    spool(fleet, *asked(range(48, 49), LEARNED))


def ask(fleet: Fleet) -> str:
    """What somebody types who wants it forgotten; its id."""
    words = ("erase", "--conversation", CONVERSATION, "--reason", "a letter", "--yes", "--json")
    said: dict[str, Any] = json.loads(ruminate(fleet, *words))
    return str(said["id"])


def ruminate(fleet: Fleet, *words: str) -> str:
    command = (sys.executable, "-m", "ruminate.command", *words, "--kafka", fleet.bootstrap, "--state", str(fleet.folder))
    environment = os.environ | {"TMPDIR": fleet.settings["TMPDIR"]}
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False, env=environment)
    assert done.returncode == 0, f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def finished(fleet: Fleet) -> RecordsErased | None:
    return next((each.payload for each in fleet.read(RECORDS_ERASED) if each.payload.stage == "finished"), None)


def is_marked_where_it_learned(fleet: Fleet) -> bool:
    """Whether every version that was trained on what is replaced by now has its mark."""
    old = {each.payload.replaces.sha256 for each in fleet.read(DATASET_REVISED)}
    trained = [each.payload for each in fleet.read(ADAPTER_TRAINED)]
    learned = {(each.target_model, each.version) for each in trained if each.dataset.sha256 in old}
    marked = {(each.payload.target_model, each.payload.version) for each in fleet.read(MODEL_MARKED)}
    return (LEARNED, "v1") in learned and learned == marked


def forget(cluster: KafkaCluster, folder: Path, steps: dict[str, Iterator[int | None]], sealing: Sequence[int]) -> Counter[str]:
    """The whole story; how often who was killed."""
    with fleet_at(cluster.bootstrap, folder, **surroundings(folder)) as fleet:
        asyncio.run(ensure_topics(fleet.client))
        hurry(cluster, COMPACTED)
        flow_in(fleet, cluster)
        kills = Counter(sealing=cut_short_sealing(fleet, sealing))
        leave_unread(fleet)
        store, state = folder / "store", folder / "state"
        assert traces(store) and traces(state / "trainer-0") and traces(state / "gateway-0")
        texts = {INTERACTION_RECORDED.name, REASONING_ASSESSED.name, EVIDENCE_RECORDED.name, LETTERS}
        assert on_disk(cluster) == texts | {INTERACTION_COMPLETED.name, FEEDBACK_GIVEN.name}
        erasure_id = ask(fleet)

        siege = Siege(fleet, steps)

        def over() -> bool:
            return not traces(folder) and finished(fleet) is not None and is_marked_where_it_learned(fleet)

        siege.until(over, what="everything is forgotten", within_seconds=3000)
        fleet.start("monitor")
        eventually(lambda: fleet.count(ADAPTER_TRAINED) == 2, what="the batch in hand is trained, as it is now")
        eventually(lambda: {"i-43", "i-46"} <= judged(fleet), what="what nobody asked to forget goes on")
        for replica in fleet.replicas:
            replica.kill()

        event = finished(fleet)
        assert event is not None
        assert event.erasure_id == erasure_id
        check_files(fleet)
        check_broker(cluster, event)
        check_rebuilds(fleet)
        fleet.audit()
        return kills + siege.kills


def check_files(fleet: Fleet) -> None:
    """No store, no state, no log and no folder for temporary files has the word; no scratch folder is left."""
    assert traces(fleet.folder) == []
    assert list((fleet.folder / "tmp").glob("ruminate-*")) == []
    assert list((fleet.folder / "store").rglob(".unfinished-*")) == []


def check_broker(cluster: KafkaCluster, event: RecordsErased) -> None:
    """What is compacted holds no byte of it; what ends by retention does, and it is said until when."""
    eventually(lambda: on_disk(cluster) <= set(LASTING), what="the cleaner has come")
    assert event.gone_by is not None
    assert datetime.now(UTC) < event.gone_by
    lasting = on_disk(cluster)
    assert lasting >= {INTERACTION_COMPLETED.name, FEEDBACK_GIVEN.name}
    for name in lasting:
        ends = event.ends_by[name]
        assert ends is not None
        assert timedelta(days=7) < ends - event.erased_at < timedelta(days=7, hours=7)


def check_rebuilds(fleet: Fleet) -> None:
    """What is gone from the store comes back from the log, without the word."""
    for manifest in (fleet.folder / "store").glob("datasets/*/[0-9a-f]*.json"):
        for file in json.loads(manifest.read_bytes())["files"]:
            if file["path"] != "manifest.json":
                (fleet.folder / "store" / "blobs" / file["sha256"][:2] / file["sha256"]).unlink(missing_ok=True)
    for target, revised in ((LEARNED, 2), (LEARNING, 1)):
        rebuilt = json.loads(ruminate(fleet, "datasets", "rebuild", "--target", target, "--store", fleet.store_uri, "--json"))
        assert [(each["outcome"], each["artifact"], each["put_back"]) for each in rebuilt] == [
            ("identical", "missing", True)
        ] * revised
        assert all("an erasure has taken" in each["explanation"] for each in rebuilt)
    ruminate(fleet, "datasets", "verify", "--store", fleet.store_uri)
    assert traces(fleet.folder) == []


def some(*steps: int) -> Iterator[int | None]:
    """These, and then none."""
    return itertools.chain(steps, itertools.repeat(None))


@pytest.mark.timeout(280)
def test_killed_now_and_then_nothing_of_a_conversation_is_left_anywhere(cluster: KafkaCluster, tmp_path: Path) -> None:
    steps = {
        "eraser": some(3),
        "accumulator": some(40),
        "collector": some(1),
        "assessor": some(2),
        "deployer": some(1),
        "trainer": some(),
        "gateway": some(),
    }
    began = time.monotonic()
    kills = forget(cluster, tmp_path / "world", steps, range(30, 60, 4))
    print(f"killed {kills} in {time.monotonic() - began:.0f} s on {os.cpu_count()} cores")


class EveryStepOfItsWork:
    """The first, the second, the third …; and from the first on again where something has become of it, twice."""

    def __init__(self, became: Callable[[], object], *, most_times: int = 2) -> None:
        self._became = became
        self._times_left = most_times
        self._last: object = None
        self._step = 0

    def __iter__(self) -> Iterator[int | None]:
        return self

    def __next__(self) -> int:
        now = self._became()
        if self._last not in (None, now) and self._times_left:
            self._step, self._times_left = 0, self._times_left - 1
        self._last = now
        self._step += 1
        return self._step


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_at_every_step_nothing_of_a_conversation_is_left_anywhere(cluster: KafkaCluster, tmp_path: Path) -> None:
    world = tmp_path / "world"

    def datasets() -> object:
        # Which revisions are in the store: each is put in, announced, and the old one taken out.
        return sorted(str(manifest) for manifest in (world / "store").glob("datasets/*/[0-9a-f]*.json"))

    steps: dict[str, Iterator[int | None]] = {
        # As soon as it has written once or twice: the markers are written again where the last word was not.
        "eraser": itertools.cycle((1, 2)),
        "accumulator": EveryStepOfItsWork(datasets),
        # These tell something all the time, or have no more to do than that.
        "collector": some(*range(1, 9)),
        "assessor": some(*range(1, 13)),
        "deployer": some(*range(1, 7)),
        "gateway": some(*range(1, 5)),
        "trainer": some(*range(1, 40, 3)),
    }
    began = time.monotonic()
    kills = forget(cluster, world, steps, range(1, 100))
    print(f"killed {dict(kills)} in {time.monotonic() - began:.0f} s on {os.cpu_count()} cores")
    assert kills["accumulator"] > 60
    assert kills["eraser"] >= 4
