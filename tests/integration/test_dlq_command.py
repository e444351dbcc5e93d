"""`ruminate dlq` over real brokers and real readers: records are given up, looked at, sent back, dropped; none is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from typer.testing import CliRunner, Result

from infra.real.kafka import KafkaCluster
from ruminate.accumulator.making.dataset import load_manifest
from ruminate.accumulator.rebuilding.rebuild import read_chains
from ruminate.command.__main__ import app
from ruminate.command.audit.findings import Report
from ruminate.command.audit.gather import audit
from ruminate.command.dlq.outcome import outcomes
from ruminate.embedded.broker import embedded_broker
from ruminate.schemas.envelope import derive_event_id
from ruminate.schemas.flow import DEAD_LETTER_SETTLED, INTERACTION_COMPLETED, INTERACTION_RECORDED, REASONING_ASSESSED
from ruminate.schemas.interaction import InteractionRecorded
from ruminate.shared.bus import Delivery, Unprocessable
from ruminate.shared.dead_letters import DeadLetter
from ruminate.shared.decoding import now
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.letters import BOXES, Box, Letter, SentBack, letter_of, read_letters
from ruminate.shared.memory import StoredRecord
from ruminate.shared.record import Position, Record
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.shares import Outgoing
from ruminate.shared.store import FileStore
from ruminate.shared.topics import ensure_topics
from tests.integration.recorded_log import assess, interaction, record
from tests.plugins.guarded import GuardedKafka, environment_of
from tests.unit.audit_history import exchange

DEADLINE_SECONDS: Final = 90.0
SOURCE: Final = "/agents/tester"
SECRET: Final = "Rumpelstilzchen"
BOX: Final = BOXES[0]


@dataclass(frozen=True)
class World:
    """A broker with every topic of the flow, and the command as it is typed beside it."""

    settings: ServiceSettings

    @property
    def environment(self) -> dict[str, str]:
        return {
            "RUMINATE_KAFKA_BOOTSTRAP": self.settings.kafka_bootstrap,
            "RUMINATE_KAFKA_PROFILE": self.settings.kafka_profile,
            "RUMINATE_STATE_DIR": str(self.settings.state_dir),
            "RUMINATE_STORE_URI": self.settings.store_uri,
            "RUMINATE_COLLECTOR_PORT": "0",
            "RUMINATE_LOG_LEVEL": "error",
        }

    def dlq(self, verb: str, *arguments: str, typed: str | None = None) -> Result:
        state = str(self.settings.state_dir / "no-loop-here")
        return CliRunner().invoke(app, ["dlq", verb, *arguments, "--state", state], env=self.environment, input=typed)

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        found = self.dlq("list", "--json", *arguments)
        assert found.exit_code == 0, found.stderr
        return [json.loads(line) for line in found.stdout.splitlines()]

    def standing(self) -> list[Letter]:
        async def look() -> list[Letter]:
            async with KafkaBus(self.settings, reader="tests") as bus:
                return (await read_letters(bus)).standing()

        return asyncio.run(look())

    def records(self, topic: Any) -> list[Record]:
        async def look() -> list[Record]:
            async with KafkaBus(self.settings, reader="tests") as bus:
                return [record async for record in bus.records(topic)]

        return asyncio.run(look())

    def recorded(self) -> Counter[str]:
        """How often each interaction was recorded, by its own id; a repeat has the id of the first, and counts once."""
        ids = {(record.key, json.loads(record.value or b"null")["interaction_id"]) for record in self.records(INTERACTION_RECORDED)}
        return Counter(interaction for _, interaction in ids)

    def audited(self) -> Report:
        return asyncio.run(audit(self.settings))

    @contextmanager
    def running(self, service: str, **settings: str) -> Iterator[None]:
        """A service, as it is."""
        process = subprocess.Popen([sys.executable, "-m", f"ruminate.{service}"], env=os.environ | self.environment | settings)
        try:
            yield
        finally:
            process.kill()
            process.wait()


@contextmanager
def world(folder: Path, bootstrap: str, profile: str) -> Iterator[World]:
    settings = ServiceSettings(
        kafka_bootstrap=bootstrap,
        kafka_profile="embedded" if profile == "embedded" else "kafka",
        state_dir=folder,
        store_uri=(folder / "store").as_uri(),
    )
    asyncio.run(ensure_topics(settings))
    yield World(settings)


@contextmanager
def embedded_world(folder: Path) -> Iterator[World]:
    with embedded_broker() as broker, world(folder, broker.bootstrap, "embedded") as it:
        yield it


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await condition():
            await asyncio.sleep(0.05)


def give_up(world: World, *names: str, others: int = 0) -> None:
    """A collector that cannot read these yet gives them up, and whatever else there is that is no event."""

    async def complete(bus: KafkaBus) -> None:
        for name in names:
            interaction = exchange(name, response={"content": SECRET})
            envelope = bus.begin(INTERACTION_COMPLETED, interaction, event_id=name, source=SOURCE)
            await bus.publish(INTERACTION_COMPLETED, interaction, envelope)

    give_up_at(world, BOX, complete, len(names) + others)


def give_up_at(world: World, box: Box, write: Callable[[KafkaBus], Awaitable[None]], count: int) -> None:
    """A reader that cannot read what is written yet gives up so many."""

    async def too_new(delivery: Delivery[Any]) -> None:
        raise Unprocessable("too_new", f"this {box.reader} is older than its writer")

    async def scenario() -> None:
        async with KafkaBus(world.settings, reader=box.reader) as bus:
            before = len((await read_letters(bus, [box])).standing())
            await write(bus)
            serving = asyncio.create_task(bus.serve(box.topic, too_new))

            async def given_up() -> bool:
                return len((await read_letters(bus, [box])).standing()) == before + count

            await until(given_up)
            await bus.stop()
            await serving

    asyncio.run(scenario())


def put(world: World, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Any = None) -> None:
    async def scenario() -> None:
        async with AIOKafkaProducer(bootstrap_servers=world.settings.kafka_bootstrap, acks="all") as producer:
            await producer.send_and_wait(topic, value, key=key, headers=headers or [], partition=2)

    asyncio.run(scenario())


def look_send_back_and_drop(world: World) -> None:
    put(world, INTERACTION_COMPLETED.name, b"\x00garbage", key=b"g")
    put(world, INTERACTION_COMPLETED.name, None, key=b"t")
    give_up(world, "i-1", "i-2", "i-3", others=2)
    put(world, BOX.letters.name, b"poison", key=b"poison", headers=[("dlq_reason", b"\xff")])

    # Looking.
    listed = world.dlq("list")
    assert listed.exit_code == 0, listed.stderr
    assert listed.stdout.startswith("6 dead letters stand: too_new 3, ")
    assert "interaction-completed-v1, given up by collector" in listed.stdout
    assert SECRET not in listed.stdout
    letters = {each["id"]: each for each in world.listed()}
    assert Counter(each["reason"] for each in letters.values()) == {
        "too_new": 3, "missing_header": 1, "no_value": 1, "unreadable": 1
    }  # fmt: skip
    assert {each["reason"] for each in world.listed(BOX.topic.name, "--reader", "collector", "--reason", "no_value")} == {
        "no_value"
    }
    assert not world.listed("--until", "1h")
    nothing = world.dlq("replay", "--reason", "crashed")
    assert nothing.exit_code == 0
    assert nothing.stdout.startswith("nothing matches; there stand too_new 3, ")
    (garbage,) = (each["id"] for each in letters.values() if each["reason"] == "missing_header")
    (poison,) = (each["id"] for each in letters.values() if each["reason"] == "unreadable")
    too_new = [each["id"] for each in letters.values() if each["reason"] == "too_new"]

    shown = world.dlq("show", too_new[0][:8])
    assert shown.exit_code == 0, shown.stderr
    assert "this collector is older than its writer" in shown.stdout
    assert SECRET not in shown.output
    contents = world.dlq("show", too_new[0], "--value", "--headers")
    assert f'"content": "{SECRET}"' in contents.stdout
    assert f"ce_source: {SOURCE}" in contents.stdout
    assert "dlq_reason" not in contents.stdout
    assert "personal data" in contents.stderr
    assert "00000000  00 67 61 72 62 61 67 65" in world.dlq("show", garbage, "--value").stdout
    assert world.dlq("show", "00000000-").exit_code == 1

    # Sending back.
    dry = world.dlq("replay", "--reason", "too_new", "--dry-run")
    assert "3 would be sent back" in dry.stdout
    unanswered = world.dlq("replay", "--reason", "too_new", typed="")
    assert unanswered.exit_code == 1
    assert "--yes" in unanswered.stderr
    assert "nothing is sent back" in world.dlq("replay", "--reason", "too_new", typed="n\n").stdout
    assert world.dlq("replay").exit_code == 1
    assert "does not say where it comes from" in world.dlq("replay", poison).stderr
    assert not world.records(BOX.retries)
    patient = world.dlq("replay", too_new[0], "--wait", "--wait-seconds", "0")
    assert patient.exit_code == 1
    assert "1 waiting" in patient.stdout
    assert "Does it run?" in patient.stdout

    with world.running("collector"):
        mended = world.dlq("replay", *too_new, "--wait", "--by", "ann@desk", "--why", "mended", typed="y\n")
        assert mended.exit_code == 0, mended.output
        assert "is settled already: replayed" in mended.stdout
        assert "2 sent back to collector" in mended.stdout
        assert "2 done" in mended.stdout
        assert world.recorded() == {"i-1": 1, "i-2": 1, "i-3": 1}
        twice = world.dlq("replay", *too_new)
        assert twice.exit_code == 0
        assert twice.stdout.count("is settled already: replayed") == 3
        assert "by ann@desk: mended" in twice.stdout
        assert len(world.records(BOX.retries)) == 3

        again = world.dlq("replay", garbage, "--wait")
        assert again.exit_code == 1, again.output
        assert "dead again: missing_header" in again.stdout
    (died_again,) = (each for each in world.listed() if len(each["tries"]) == 2)
    assert [each["record"]["topic"] for each in died_again["tries"]] == [BOX.topic.name, BOX.retries.name]
    assert f"It is dead again: {died_again['id'][:8]}" in world.dlq("show", garbage).stdout
    history = world.dlq("show", died_again["id"]).stdout
    assert "tries         2" in history
    assert "replayed" in history

    # Dropping.
    assert world.dlq("drop", poison).exit_code == 2
    assert world.dlq("drop", poison, "--why", " ").exit_code == 2
    gone = world.dlq("drop", poison, died_again["id"], "--yes", "--by", "bob@desk", "--why", "never was an event")
    assert (gone.exit_code, gone.stdout) == (0, "2 dropped\n"), gone.stderr
    assert [each["reason"] for each in world.listed()] == ["no_value"]
    settled = [each for each in world.listed("--all") if each["state"] == "dropped"]
    assert {(each["id"], each["settled_by"], each["why"]) for each in settled} == {
        (poison, "bob@desk", "never was an event"),
        (died_again["id"], "bob@desk", "never was an event"),
    }
    assert "never was an event" in world.dlq("list", "--all").stdout
    report = world.audited()
    assert {kind: listed.count for kind, listed in report.apart.items()} == {"standing": 1, "dropped": 2, "replayed": 4}
    assert report.clean, "the poison, which nobody of ours wrote, is dropped"


def test_letters_are_looked_at_sent_back_and_dropped(tmp_path: Path) -> None:
    with embedded_world(tmp_path) as it:
        look_send_back_and_drop(it)


@pytest.mark.real
def test_letters_are_looked_at_sent_back_and_dropped_on_kafka_and_settled_ones_are_known_when_their_topic_has_forgotten_them(
    tmp_path: Path, kafka_of_one: KafkaCluster
) -> None:
    async def forget(settings: ServiceSettings) -> None:
        """As compaction and retention do in the end."""
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
        await admin.start()
        try:
            everything = {TopicPartition(BOX.letters.name, number): RecordsToDelete(-1) for number in range(BOX.letters.partitions)}
            await admin.delete_records(everything)
        finally:
            await admin.close()

    with world(tmp_path, kafka_of_one.bootstrap, "kafka") as it:
        look_send_back_and_drop(it)
        (stood,) = it.listed()
        asyncio.run(forget(it.settings))
        assert it.listed() == []
        settled = it.listed("--all")
        assert Counter(each["state"] for each in settled) == {"replayed": 4, "dropped": 2}
        assert "is settled already" in it.dlq("replay", settled[0]["id"]).stdout
        assert "30 days" in it.dlq("replay", stood["id"]).stderr


def settle_and_be_killed(world: World, settle: str, letter: Letter, steps: int) -> None:
    command = (sys.executable, "-m", "tests.integration.dlq_cut_short", settle, str(letter.id), str(steps))
    ended = subprocess.run(command, env=os.environ | world.environment, timeout=DEADLINE_SECONDS, check=False)
    assert ended.returncode == -signal.SIGKILL


def kill_at_each_step(world: World) -> None:
    put(world, INTERACTION_COMPLETED.name, b"garbage")
    give_up(world, "i-0", "i-1", "i-2", "i-3", others=1)
    letters = world.standing()
    (garbage,) = (letter for letter in letters if letter.reason == "missing_header")
    letters.remove(garbage)

    said = sent = 0
    for steps, letter in enumerate(letters):
        settle_and_be_killed(world, "replay", letter, steps)
        assert (letter in world.standing()) == (steps < 3), "only the last step takes it away"
        assert len(world.records(BOX.retries)) == sent + (steps > 0)
        assert len(world.records(DEAD_LETTER_SETTLED)) == said + (steps > 1)
        ended = world.dlq("replay", str(letter.id))
        assert ended.exit_code == 0, ended.stderr
        assert letter not in world.standing()
        sent, said = len(world.records(BOX.retries)), said + 1
        assert len(world.records(DEAD_LETTER_SETTLED)) == said, "one word about a letter, however often it is settled"
    assert sent == len(letters) + 1, "only between what is sent back and the word about it, something is sent twice"

    for steps in range(2):
        settle_and_be_killed(world, "drop", garbage, steps)
        assert world.standing() == [garbage]
    ended = world.dlq("drop", str(garbage.id), "--why", "garbage")
    assert (ended.exit_code, ended.stdout) == (0, "1 dropped\n")
    assert len(world.records(DEAD_LETTER_SETTLED)) == said + 1

    async def recorded() -> bool:
        return "collector" not in (await audit(world.settings)).pending

    with world.running("collector"):
        asyncio.run(until(recorded))
    assert world.recorded() == {f"i-{number}": 1 for number in range(4)}
    assert world.audited().faults == ()


def test_a_settling_that_is_killed_at_any_step_loses_none_and_doubles_no_effect(tmp_path: Path) -> None:
    with embedded_world(tmp_path) as it:
        kill_at_each_step(it)


@pytest.mark.real
def test_a_settling_that_is_killed_at_any_step_on_kafka_loses_none_and_doubles_no_effect(
    tmp_path: Path, kafka_of_one: KafkaCluster
) -> None:
    with world(tmp_path, kafka_of_one.bootstrap, "kafka") as it:
        kill_at_each_step(it)


def send_all_back_and_one_of_them_twice(world: World, box: Box, count: int) -> None:
    """Somebody dies after the first step of one; the command ends that one, and does nothing more when it is typed again."""
    first, *_ = letters = world.standing()
    assert len(letters) == count
    settle_and_be_killed(world, "replay", first, 1)
    sent = world.dlq("replay", "--reader", box.reader, "--yes", "--wait")
    assert sent.exit_code == 0, sent.output
    assert f"{count} done" in sent.stdout
    assert "nothing is sent back" in world.dlq("replay", "--reader", box.reader, "--yes").stdout
    assert len(world.records(box.retries)) == count + 1


def test_what_comes_back_to_the_assessor_has_the_one_verdict_that_it_would_have_had_at_first(tmp_path: Path) -> None:
    box = next(box for box in BOXES if box.reader == "assessor")
    interactions = [interaction(number) for number in range(3)]
    with embedded_world(tmp_path) as it:
        give_up_at(it, box, lambda bus: record(bus, *interactions), 3)
        with it.running("assessor"):
            send_all_back_and_one_of_them_twice(it, box, 3)
        first_ids = {
            str(
                derive_event_id(
                    tenant="default",
                    cause_source="/ruminate/collector",
                    cause_id=str(each.recorded_id),
                    topic=REASONING_ASSESSED.name,
                )
            ).encode()
            for each in interactions
        }
        verdicts = it.records(REASONING_ASSESSED)
        assert {each.key for each in verdicts} == first_ids
        assert len(verdicts) == 4, "the second of an id is a repeat, and counts nowhere"


def test_what_comes_back_to_the_accumulator_goes_into_a_later_batch_and_once(tmp_path: Path) -> None:
    box = next(box for box in BOXES if box.reader == "accumulator")
    interactions = [interaction(number) for number in range(6)]
    settings = {"RUMINATE_SEAL_AT_ROWS": "3", "RUMINATE_SEAL_AFTER_MIN_ROWS": "3", "RUMINATE_HOLDOUT_RATIO": "0"}

    async def batches(it: World) -> list[list[int]]:
        """The interactions of each, by number."""
        async with KafkaBus(it.settings, reader="tests") as bus:
            chains = await read_chains(bus)
        assert len(chains) <= 1
        manifests = [
            await load_manifest(FileStore(tmp_path / "store"), batch.dataset) for chain in chains for batch in chain.batches
        ]
        return [sorted(row.recorded_id.int for row in manifest.rows) for manifest in manifests]

    async def fill(it: World, more: Sequence[InteractionRecorded], sealed: int) -> None:
        async def are_sealed() -> bool:
            return len(await batches(it)) == sealed

        async with KafkaBus(it.settings, reader="tests") as bus:
            await assess(bus, *more)
        await until(are_sealed)

    with embedded_world(tmp_path) as it:
        give_up_at(it, box, lambda bus: assess(bus, *interactions[:2]), 2)
        with it.running("accumulator", **settings):
            asyncio.run(fill(it, interactions[2:5], 1))
            send_all_back_and_one_of_them_twice(it, box, 2)
            asyncio.run(fill(it, interactions[5:], 2))
        assert asyncio.run(batches(it)) == [[2, 3, 4], [0, 1, 5]]
        rebuilt = CliRunner().invoke(app, ["datasets", "rebuild", "--state", str(tmp_path / "none")], env=it.environment | settings)
        assert rebuilt.exit_code == 0, rebuilt.output
        assert "2 records of the interval are in no account" in rebuilt.stdout


def test_what_cannot_be_settled_is_left_out_and_hinders_no_other(tmp_path: Path) -> None:
    with embedded_world(tmp_path) as it:
        for key in (None, b"poison"):
            put(it, BOX.letters.name, b"poison", key=key)
        sent = it.dlq("replay", "--reason", "unreadable")
        assert (sent.exit_code, sent.stdout) == (0, "nothing is sent back\n")
        assert "left out: 2 dead letters, such as this: " in sent.stderr
        dropped = it.dlq("drop", "--reason", "unreadable", "--why", "poison")
        assert (dropped.exit_code, dropped.stdout) == (0, "1 dropped\n")
        assert "left out: 1 dead letter, such as this: " in dropped.stderr
        assert "it goes when its topic forgets it" in dropped.stderr


def test_whoever_is_asked_can_go_at_once_and_nothing_is_done(tmp_path: Path) -> None:
    with embedded_world(tmp_path) as it:
        put(it, INTERACTION_COMPLETED.name, b"garbage")
        put(it, INTERACTION_COMPLETED.name, b"garbage")
        give_up(it, others=2)
        command = (sys.executable, "-m", "ruminate.command", "dlq", "replay", "--reader", "collector", "--state", str(tmp_path))
        pipe = subprocess.PIPE
        asked = subprocess.Popen(command, env=os.environ | it.environment, stdin=pipe, stdout=pipe, stderr=pipe)
        with asked:
            assert asked.stderr is not None
            try:
                said = b""
                while b"send back 2 dead letters?" not in said:
                    said += os.read(asked.stderr.fileno(), 4096)
                asked.send_signal(signal.SIGINT)
                assert asked.wait(DEADLINE_SECONDS) == 1
            finally:
                asked.kill()
        assert len(it.standing()) == 2
        assert not it.records(BOX.retries)


@pytest.mark.real
def test_a_letter_that_an_open_transaction_still_hides_is_waited_for(tmp_path: Path, kafka_of_one: KafkaCluster) -> None:
    """The marker of a reader's transaction reaches its group's offsets before it reaches the letter that it wrote."""
    retried = DeadLetter(
        reason="conflict",
        explanation="",
        position=Position(BOX.retries.name, 0, 0),
        timestamp_ms=0,
        reader=BOX.reader,
        at=now(),
        key=None,
    )
    first = replace(retried, position=Position(BOX.topic.name, 2, 0))
    headers = retried.headers(first.headers([]))
    sent = SentBack(letter_of(BOX, StoredRecord(BOX.letters.name, 2, 0, 0, b"k", b"{}", first.headers([]))), 0)

    async def scenario(settings: ServiceSettings) -> None:
        place = TopicPartition(BOX.retries.name, 0)
        async with (
            KafkaBus(settings, reader="command") as bus,
            AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap, group_id=BOX.reader, enable_auto_commit=False) as group,
            AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, transactional_id="a-reader") as reader,
        ):
            await reader.begin_transaction()
            await reader.send_and_wait(BOX.letters.name, b"{}", key=b"again", headers=headers, partition=0)
            group.assign([place])
            await group.commit({place: 1})
            asking = asyncio.create_task(outcomes(bus, settings, [sent], seconds=DEADLINE_SECONDS))
            done, _ = await asyncio.wait((asking,), timeout=2)
            assert not done
            await reader.commit_transaction()
            assert [(each.fate, each.says) for each in await asking] == [("dead again", "conflict: ")]

    with world(tmp_path, kafka_of_one.bootstrap, "kafka") as it:
        asyncio.run(scenario(it.settings))


@pytest.mark.real
def test_operators_settle_dead_letters_with_the_rights_that_they_have(tmp_path: Path, guarded_flow: GuardedKafka) -> None:
    settings = guarded_flow.settings("LOGIN", "operators")
    letters = [
        DeadLetter(
            reason="too_new",
            explanation="",
            position=Position(BOX.topic.name, 2, offset),
            timestamp_ms=0,
            reader=BOX.reader,
            at=now(),
            key=None,
        )
        for offset in (1_000_001, 1_000_002)
    ]
    ids = [str(letter.id(str(tmp_path))) for letter in letters]

    async def write() -> None:
        async with KafkaBus(guarded_flow.settings("INTERNAL"), reader="tests") as bus:
            await bus.write(
                [
                    Outgoing(BOX.letters.name, 2, letter_id.encode(), b"{}", letter.headers([]))
                    for letter_id, letter in zip(ids, letters, strict=True)
                ]
            )

    def dlq(*arguments: str) -> Result:
        state = str(tmp_path / "no-loop-here")
        return CliRunner().invoke(app, ["dlq", *arguments, "--state", state], env=environment_of(settings))

    asyncio.run(write())
    shown = dlq("show", ids[0], "--value")
    assert shown.exit_code == 0, shown.stderr
    replayed = dlq("replay", ids[0], "--wait", "--wait-seconds", "0")
    assert "1 waiting" in replayed.stdout, replayed.output
    assert dlq("drop", ids[1], "--why", "a test").stdout == "1 dropped\n"
    settled = {found["id"]: found["state"] for found in map(json.loads, dlq("list", "--all", "--json").stdout.splitlines())}
    assert [settled[letter_id] for letter_id in ids] == ["replayed", "dropped"]


def test_the_command_as_it_is_typed_says_where_to_go_from_each_mistake(tmp_path: Path) -> None:
    def typed(*arguments: str, **environment: str) -> tuple[int, str]:
        command = (sys.executable, "-m", "ruminate.command", *arguments)
        ended = subprocess.run(
            command,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
            cwd=tmp_path,
        )
        return ended.returncode, ended.stderr or ended.stdout

    code, says = typed("dlq", "list", "--reader", "colector")
    assert (code, "there are collector, collector-feedback" in says) == (2, True)
    code, says = typed("dlq", "list")
    assert (code, "ruminate up" in says) == (1, True)
    with embedded_broker() as broker:
        code, says = typed("dlq", "list", RUMINATE_KAFKA_BOOTSTRAP=broker.bootstrap, RUMINATE_KAFKA_PROFILE="embedded")
        assert (code, "ruminate topics plan" in says) == (1, True)
        it = World(ServiceSettings(kafka_bootstrap=broker.bootstrap, kafka_profile="embedded", state_dir=tmp_path))
        asyncio.run(ensure_topics(it.settings))  # nobody has made a topic by looking for it
        put(it, INTERACTION_COMPLETED.name, b"garbage")
        give_up(it, others=1)
        addresses = {
            "kafka": broker.bootstrap, "kafka_profile": "embedded", "gateway": "", "collector": "", "nodes": {},
            "operations": {"accumulator": "http://127.0.0.1:1"}, "target": "", "store": "",
        }  # fmt: skip
        (tmp_path / "addresses.json").write_text(json.dumps(addresses))
        code, says = typed("dlq", "list", "--state", str(tmp_path))
        assert (code, says.splitlines()[0]) == (0, "1 dead letter stands: missing_header 1")
        code, says = typed("status", "--state", str(tmp_path))
        assert "dead letters of interaction-completed-v1: 1 (missing_header 1). Type:  ruminate dlq list" in says
