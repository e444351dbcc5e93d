"""A loop under fire: agents that insist, people who ask, want to be forgotten, and kill; and what the log says in the end."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args
from urllib.parse import unquote, urlsplit

import httpx
import psutil

from ruminate.accumulator.making.dataset import load_manifest
from ruminate.command.connection import open_bus
from ruminate.command.demo.lesson import Question, examination, fact_exchanges, interaction
from ruminate.command.demo.run import SMALL_SETTINGS, TARGET
from ruminate.schemas.batch import DatasetRevised, TrainingBatchSealed, as_it_is
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    DATASET_REVISED,
    GROUP_READERS,
    INTERACTION_RECORDED,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    REASONING_ASSESSED,
    RECORDS_ERASED,
    TRAINING_BATCH_SEALED,
    TRAINING_FAILED,
    TRAINING_PROGRESSED,
)
from ruminate.schemas.interaction import InteractionCompleted
from ruminate.schemas.payload import Payload
from ruminate.schemas.training import JobPhase
from ruminate.shared.bus import Delivery
from ruminate.shared.dead_letters import DeadLetter
from ruminate.shared.store import open_store
from tests.e2e.fleet import chains
from tests.e2e.running_loop import RunningLoop, Seen, eventually, fetch_dataset

P = TypeVar("P", bound=Payload)

CHILD = "the trainer's child"
PHASES = get_args(JobPhase)
ROWS_A_BATCH, EPOCHS, STEPS = 64, 12, 48
SMALL = SMALL_SETTINGS | {
    "RUMINATE_SEAL_AT_ROWS": str(ROWS_A_BATCH),
    "RUMINATE_SEAL_AFTER_SECONDS": "3600",
    "RUMINATE_TRAINING_EPOCHS": str(EPOCHS),
    "RUMINATE_CHECKPOINT_STEPS": "5",
    "RUMINATE_EQUALITY_PROBES": "8",
    # What is proven here is delivery; what a version is worth is proven elsewhere.
    "RUMINATE_HOLDOUT_RATIO": "0",
    "RUMINATE_PROOF": "off",
    "RUMINATE_ERASURE_SETTLE_SECONDS": "1",
}
# A few more than a batch holds: a batch never takes exactly what one agent has sent, and some of it may be forgotten first.
ROWS_A_ROUND = ROWS_A_BATCH + 8
PRIVATE = range(1, 13, 3)
"""Places in each lesson of what belongs to a conversation of its own, that somebody may want to be forgotten."""
CONVERSATION, WORD = "private", "Xylokarp"
SOON_SECONDS = 120.0


WATCHED = (
    *(INTERACTION_RECORDED, REASONING_ASSESSED, TRAINING_BATCH_SEALED, TRAINING_PROGRESSED, ADAPTER_TRAINED),
    *(TRAINING_FAILED, MODEL_REGISTERED, MODEL_ROLLED_BACK, RECORDS_ERASED, DATASET_REVISED),
)
"""What a `Loop` has to see."""


@dataclass(frozen=True, kw_only=True)
class Victims:
    """Whom to kill in a round: while interactions are taken in, while the model is trained, while it is deployed.

    And while a conversation is forgotten: where anybody is named for that, somebody asks for it in this round.
    """

    taking: Sequence[str]
    training: Sequence[str]
    deploying: Sequence[str]
    forgetting: Sequence[str] = ()


def hard_rounds(rng: random.Random) -> list[Victims]:
    """Fifty-five kills in three rounds; in the second, a conversation is forgotten."""

    def shuffled(*victims: str) -> Sequence[str]:
        return rng.sample(victims, len(victims))

    return [
        Victims(
            taking=shuffled(*(("collector", "assessor", "accumulator") * 2), "gateway", "monitor"),
            training=shuffled(CHILD, CHILD, "trainer", "trainer", "accumulator"),
            deploying=shuffled("deployer", "deployer", "node", "trainer"),
            forgetting=shuffled("eraser", "eraser", "accumulator", "eraser") if number == 2 else (),
        )
        for number in (1, 2, 3)
    ]


@dataclass(frozen=True)
class Kill:
    """Whom, and at which moment of the loop, as far as its events show it."""

    victim: str
    when: Callable[[], bool]
    too_late: Callable[[], bool] = lambda: False
    """Whether there is nobody to kill any more."""


@dataclass
class Loop:
    """A loop under fire: agents that insist, somebody who asks, and somebody who kills.

    What can be waited for stays true once it is true, so that no moment is missed between two looks.
    """

    running: RunningLoop
    seen: Seen
    pool: ThreadPoolExecutor
    # Progress that was told before the latest kill of the job says nothing of how far it is now.
    reports_before: int = 0
    killed: set[int] = field(default_factory=set)
    sent: list[InteractionCompleted] = field(default_factory=list)
    answers: list[Future[httpx.Response]] = field(default_factory=list)
    beside: list[Future[None]] = field(default_factory=list)
    """What goes on meanwhile, and whose failure is not to be waited out."""
    forgotten: set[str] = field(default_factory=set)
    """Interactions that are erased."""
    to_be_revised: set[int] = field(default_factory=set)
    """Batches that held some of those."""

    def run(self, rng: random.Random, rounds: Sequence[Victims], folder: Path) -> None:
        """Teach a batch a round, and kill as planned."""
        for number, victims in enumerate(rounds, start=1):
            sending = self.teach(lesson_of(number), folder)
            self.beside += sending
            if victims.forgetting:
                self.forget(number)
            for kill in plan(rng, self, number, victims):
                self.kill(kill)
            for each in sending:
                each.result()
            self.wait(partial(self.registered, number))

    def recorded(self, count: int) -> bool:
        # Of what is forgotten some is never recorded.
        return len({each.payload.interaction_id for each in self.seen.of(INTERACTION_RECORDED)} | self.forgotten) >= count

    def assessed(self, count: int) -> bool:
        judged = {each.payload.interaction.interaction_id for each in self.seen.of(REASONING_ASSESSED)}
        return len(judged | self.forgotten) >= count

    def forget(self, number: int) -> None:
        """Ask that the private conversation is forgotten: some of it is learned from, some is on its way."""
        self.wait(partial(self.assessed, (number - 1) * ROWS_A_ROUND + 1))
        private = {each.interaction_id for each in self.sent if each.conversation_id == CONVERSATION}
        self.to_be_revised = {batch.number for batch in sealed(self) if private & held_by(self, batch)}
        eventually(partial(erase, self.running), within_seconds=SOON_SECONDS, loop=self.running)
        self.forgotten = private

    def tombstoned(self) -> bool:
        return bool(self.seen.of(RECORDS_ERASED))

    def revised(self) -> bool:
        return {each.payload.number for each in self.seen.of(DATASET_REVISED)} >= self.to_be_revised

    def training_reached(self, number: int, phase: str, step: int = 0) -> bool:
        """Whether the job of that batch, as it runs since the latest kill of it, is this far; once it is over, it is."""
        batches = {each.payload.batch_id for each in self.seen.of(TRAINING_BATCH_SEALED) if each.payload.number == number}
        reports = [each.payload for each in self.seen.of(TRAINING_PROGRESSED)[self.reports_before :]]
        wanted = (PHASES.index(phase), step)
        return self.trained(number) or any(
            report.job_id in batches and (PHASES.index(report.phase), report.step) >= wanted for report in reports
        )

    def trained(self, number: int) -> bool:
        return any(each.payload.number == number for each in self.seen.of(ADAPTER_TRAINED))

    def created(self, number: int) -> bool:
        (node,) = self.running.addresses["nodes"].values()
        with suppress(httpx.TransportError):
            names = [model["name"] for model in httpx.get(f"{node}/api/tags").json()["models"]]
            return f"{TARGET}:ruminate-v{number}" in names
        return False

    def registered(self, number: int) -> bool:
        return any(each.payload.number == number for each in self.seen.of(MODEL_REGISTERED))

    def wait(self, look: Callable[[], bool]) -> None:
        def look_at_all() -> bool:
            for each in self.beside:
                if each.done():
                    each.result()
            return look()

        eventually(look_at_all, within_seconds=SOON_SECONDS, loop=self.running)

    def kill(self, kill: Kill) -> None:
        """Kill -9 at the moment, and ask the model a question in the disorder that follows."""
        self.wait(kill.when)
        process = eventually(lambda: self._process(kill.victim) or kill.too_late(), within_seconds=SOON_SECONDS, loop=self.running)
        if not isinstance(process, psutil.Process):
            return
        process.kill()
        self.killed.add(process.pid)
        if kill.victim in {CHILD, "trainer"}:
            self.reports_before = len(self.seen.of(TRAINING_PROGRESSED))
        question = examination()[len(self.answers)]
        self.answers.append(self.pool.submit(ask, self.running, question))

    def _process(self, victim: str) -> psutil.Process | None:
        """The part's process as it runs now, none that was killed before."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.running.parts()["trainer" if victim == CHILD else victim]["pid"] or 0)
            if victim == CHILD:
                process = next((each for each in process.children() if "ruminate.trainer.child" in each.cmdline()), process)
            if process.pid not in self.killed and ("ruminate.trainer.child" in process.cmdline()) == (victim == CHILD):
                return process
        return None

    def teach(self, lesson: Sequence[InteractionCompleted], folder: Path) -> list[Future[None]]:
        """Send one half by HTTP and the other by the topic, both under way when this returns."""
        self.sent += lesson
        file = folder / f"interactions-{len(self.sent)}.jsonl"
        file.write_text("\n".join(each.model_dump_json() for each in lesson[1::2]))
        return [self.pool.submit(insist, self.running, lesson[::2]), self.pool.submit(publish, self.running, file)]


def lesson_of(number: int) -> list[InteractionCompleted]:
    """Other facts in each round; few without thinking, so that none is ever over the ratio."""
    thinking = [each for each in fact_exchanges() if each.thinking]
    direct = [each for each in fact_exchanges() if not each.thinking]
    many, few = ROWS_A_ROUND - 6, 6
    chosen = thinking[(number - 1) * many : number * many] + direct[(number - 1) * few : number * few]
    now = datetime.now(UTC)
    lesson = [interaction(each, number=place, run=f"round-{number}", target=TARGET, at=now) for place, each in enumerate(chosen)]
    return [private(each, number) if place in PRIVATE else each for place, each in enumerate(lesson)]


def private(each: InteractionCompleted, number: int) -> InteractionCompleted:
    """The interaction in the private conversation, with a word in it by which its text is known."""
    (asked,) = each.messages
    asked = asked.model_copy(update={"content": f"{asked.content} {word_of(number)}"})
    return each.model_copy(update={"conversation_id": CONVERSATION, "messages": (asked,)})


def word_of(number: int) -> str:
    """What is in the private texts of a round."""
    return f"({WORD}-{number}.)"


def insist(loop: RunningLoop, lesson: Sequence[InteractionCompleted]) -> None:
    """What a careful agent does: sends each interaction until it is taken."""
    url, headers = f"{loop.addresses['collector']}/v1/interactions", {"x-ruminate-source": "/agents/careful"}

    def taken(body: dict[str, Any]) -> bool:
        with suppress(httpx.TransportError):
            answer = httpx.post(url, json=body, headers=headers)
            assert answer.status_code in {200, 202, 503}, answer.text
            return answer.status_code != 503
        return False

    for each in lesson:
        body = each.model_dump(mode="json")
        eventually(partial(taken, body), within_seconds=SOON_SECONDS, loop=loop)


def publish(loop: RunningLoop, file: Path) -> None:
    """What `ruminate publish` is for: the file is typed in again until it is taken, and again changes nothing."""

    def taken() -> bool:
        published = loop.ruminate("publish", str(file))
        assert published.returncode == 0 or "acknowledge" in published.stderr or "no broker" in published.stderr, published.stderr
        return published.returncode == 0

    eventually(taken, within_seconds=SOON_SECONDS, loop=loop)


def erase(loop: RunningLoop) -> bool:
    """Whether the request was taken: the broker may be away. Asked twice, it is one erasure more, of the same."""
    asked = loop.ruminate("erase", "--conversation", CONVERSATION, "--yes")
    assert asked.returncode == 0 or "acknowledge" in asked.stderr or "no broker" in asked.stderr, asked.stdout + asked.stderr
    return asked.returncode == 0


def ask(loop: RunningLoop, question: Question) -> httpx.Response:
    """Ask through the gateway until an answer comes whole."""
    body = {"model": TARGET, "messages": [{"role": "user", "content": question.text}], "stream": False}
    body |= {"think": question.mode == "thinking", "options": {"temperature": 0, "num_predict": 16}}

    def answered() -> httpx.Response | None:
        with suppress(httpx.TransportError):
            answer = httpx.post(f"{loop.addresses['gateway']}/api/chat", json=body, timeout=30)
            return answer if answer.status_code == 200 else None
        return None

    return eventually(answered, within_seconds=SOON_SECONDS, loop=loop)


def plan(rng: random.Random, loop: Loop, number: int, victims: Victims) -> list[Kill]:
    """A moment for each victim, in the order in which the moments come."""
    # Each comes true for certain, and it is seldom known who is first.
    kills = [Kill(victim, rng.choice([lambda: True, loop.tombstoned, loop.revised])) for victim in victims.forgetting]
    counts = sorted(rng.sample(range((number - 1) * ROWS_A_ROUND + 1, number * ROWS_A_ROUND - 1), len(victims.taking)))
    for victim, count in zip(victims.taking, counts, strict=True):
        kills.append(Kill(victim, partial(rng.choice([loop.recorded, loop.assessed]), count)))
    for victim in victims.training:
        phase, step = rng.choice([("training", rng.randrange(1, STEPS)), ("training", rng.randrange(1, STEPS)), ("exporting", 0)])
        # Where a broker was away, its job may have ended before anybody heard how far it was.
        too_late = partial(loop.trained, number) if victim == CHILD else lambda: False
        kills.append(Kill(victim, partial(loop.training_reached, number, phase, step), too_late))
    return kills + [Kill(victim, partial(rng.choice([loop.trained, loop.created]), number)) for victim in victims.deploying]


def once(deliveries: Iterable[Delivery[P]], name_of: Callable[[P], object]) -> dict[object, P]:
    """What counts of these records: the first of each name. Every other of the name repeats the same event."""
    first: dict[object, Delivery[P]] = {}
    for delivery in deliveries:
        known = first.setdefault(name_of(delivery.payload), delivery)
        assert (known.envelope.source, known.envelope.id) == (delivery.envelope.source, delivery.envelope.id)
    return {name: delivery.payload for name, delivery in first.items()}


def check_everything(loop: Loop, versions: int, folder: Path) -> None:
    """So many versions are registered, every interaction counts once, and all of it runs."""
    check_forgotten(loop, versions)
    check_registrations(loop, versions)
    check_interactions(loop, folder)
    check_everything_runs(loop, f"v{versions}")


def check_registrations(loop: Loop, versions: int) -> None:
    assert [each.payload.reason for each in loop.seen.of(TRAINING_FAILED)] == []
    assert [each.payload.reason for each in loop.seen.of(MODEL_ROLLED_BACK)] == []
    (chain,) = chains(loop.seen.of(TRAINING_BATCH_SEALED)).values()
    trained = once(loop.seen.of(ADAPTER_TRAINED), lambda payload: payload.batch_id)
    registered = once(loop.seen.of(MODEL_REGISTERED), lambda payload: payload.version)
    assert [batch.number for batch in chain] == list(range(1, versions + 1))
    assert list(registered) == [f"v{number}" for number in range(1, versions + 1)]
    parent = None
    for batch, model in zip(chain, registered.values(), strict=True):
        result = trained[batch.batch_id]
        assert model.batch_id == batch.batch_id
        assert model.dataset == result.dataset
        assert result.dataset in (batch.dataset, as_it_is(batch, revisions(loop)).dataset)
        assert model.adapter == result.adapter
        assert model.parent_version == result.parent_version == parent
        assert all(probe.passed for probe in model.probes)
        parent = model.version


def check_interactions(loop: Loop, folder: Path) -> None:
    """Taken means recorded once and judged once; a row is fresh in one dataset; what was answered was captured."""
    expected = Counter(each.interaction_id for each in loop.sent if each.interaction_id not in loop.forgotten)
    expected += Counter(each.result().headers["x-ruminate-interaction"] for each in loop.answers)

    def judged() -> bool:
        # An answer that the gateway gave and that its death kept from arriving is captured, too.
        recorded = {each.payload.interaction_id for each in loop.seen.of(INTERACTION_RECORDED)} - loop.forgotten
        return {each.payload.interaction.interaction_id for each in loop.seen.of(REASONING_ASSESSED)} >= expected.keys() | recorded

    loop.wait(judged)
    recorded = once(loop.seen.of(INTERACTION_RECORDED), lambda payload: payload.interaction_id)
    revisions = once(loop.seen.of(REASONING_ASSESSED), lambda payload: (payload.recorded_id, payload.revision))
    assessed = {each.recorded_id: each for each in revisions.values() if not each.revision}
    assert recorded.keys() >= expected.keys()
    stayed = {name: each for name, each in recorded.items() if name not in loop.forgotten}
    erased = {each.recorded_id for name, each in recorded.items() if name in loop.forgotten}
    assert {each.interaction_id for each in stayed.values() if each.agent == "demo-agent"} == {
        each.interaction_id for each in loop.sent if each.interaction_id not in loop.forgotten
    }
    assert {each.recorded_id for each in stayed.values()} == assessed.keys() - erased
    assert {each.recorded_id for each in revisions.values()} == assessed.keys()
    fresh: Counter[str] = Counter()
    for batch in sealed(loop):
        dataset = fetch_dataset(loop.running, batch.dataset.model_dump(), folder / batch.batch_id)
        manifest = json.loads((dataset / "manifest.json").read_text())
        rows = manifest["rows"]
        assert len(rows) == batch.rows >= ROWS_A_BATCH - len([each for each in manifest["erased"] if each["was"] == "train"])
        fresh.update(row["recorded_id"] for row in rows if row["origin"] == "fresh")
        held = {row["recorded_id"] for place in ("rows", "rehearsed", "aside") for row in manifest[place]}
        assert held.isdisjoint(map(str, erased))
    assert set(fresh.values()) == {1}
    assert fresh.keys() <= {str(each.recorded_id) for each in stayed.values() if each.training_allowed}
    assert dead_letters(loop.running) == []


def sealed(loop: Loop) -> list[TrainingBatchSealed]:
    """The batches of the chain, each with the dataset that it has by now."""
    found = chains(loop.seen.of(TRAINING_BATCH_SEALED)).values()
    return [as_it_is(batch, revisions(loop)) for chain in found for batch in chain]


def revisions(loop: Loop) -> list[DatasetRevised]:
    return [each.payload for each in loop.seen.of(DATASET_REVISED)]


def held_by(loop: Loop, batch: TrainingBatchSealed) -> set[str]:
    """The interactions of which a batch has a row."""
    names = {str(each.payload.recorded_id): each.payload.interaction_id for each in loop.seen.of(INTERACTION_RECORDED)}
    store = open_store(loop.running.addresses["store"])
    manifest = asyncio.run(load_manifest(store, batch.dataset))
    return {names[str(row.recorded_id)] for row in manifest.rows}


def check_forgotten(loop: Loop, versions: int) -> None:
    """Of what is forgotten no byte is in the store, or gets there later; what came later under the same name stayed."""
    if not loop.forgotten:
        return
    assert loop.to_be_revised, "nothing of it was learned from"
    asked_in = max(number for number in range(1, versions + 1) if f"round-{number}-{PRIVATE[0]:04d}" in loop.forgotten)
    store = loop.running.state / "store"

    def held() -> list[int]:
        """The rounds whose private texts are in the store."""
        found = [file.read_bytes() for file in store.rglob("*") if file.is_file() and not file.name.startswith(".")]
        return [number for number in range(1, versions + 1) if any(word_of(number).encode() in data for data in found)]

    loop.wait(loop.tombstoned)
    loop.wait(loop.revised)
    loop.wait(lambda: held() == list(range(asked_in + 1, versions + 1)))
    loop.wait(lambda: all(Path(unquote(urlsplit(batch.dataset.uri).path)).exists() for batch in sealed(loop)))


def dead_letters(loop: RunningLoop) -> list[str]:
    async def read() -> list[str]:
        async with open_bus(loop.state, None) as bus:
            letters = [
                (reader, DeadLetter.from_headers(record.headers))
                for reader, topics in GROUP_READERS.items()
                for topic in topics
                async for record in bus.records(topic.dead_letters(reader))
                if record.value is not None
            ]
        return [f"{reader}: {letter.reason} {letter.explanation}" for reader, letter in letters]

    return asyncio.run(read())


def check_everything_runs(loop: Loop, version: str) -> None:
    def all_ready() -> bool:
        status = json.loads(loop.running.ruminate("status", "--json").stdout)
        return all(part["state"] == "running" for part in status["parts"].values()) and all(
            service["ready"] for service in status["services"].values()
        )

    loop.wait(all_ready)
    loop.wait(lambda: ask(loop.running, examination()[0]).headers["x-ruminate-version"] == version)
