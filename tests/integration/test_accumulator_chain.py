"""The chain of batches over a log: one, whoever cuts it and whenever somebody is killed."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import prometheus_client
import pytest

from ruminate.accumulator.accumulate import Accumulator
from ruminate.accumulator.making.dataset import Made, keep_dataset, load_manifest
from ruminate.accumulator.making.manifest import Manifest
from ruminate.accumulator.making.report import Report
from ruminate.accumulator.records.rows import Row
from ruminate.accumulator.sealing.chain import BEGINNING, Link
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.schemas.assessment import ReasoningAssessed, ReasoningQuality, Score, Verdict
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.envelope import Envelope
from ruminate.schemas.flow import REASONING_ASSESSED, TRAINING_BATCH_SEALED
from ruminate.schemas.interaction import InteractionRecorded, Message, Response, Thinking
from ruminate.schemas.payload import ArtifactReference, Payload
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import Delivery
from ruminate.shared.decoding import encode
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.record import Position
from ruminate.shared.store import FileStore

P = TypeVar("P", bound=Payload)

START = datetime(2026, 11, 1, tzinfo=UTC)
NONE = Score(value=None)
QUALITY = ReasoningQuality(
    logical_coherence=NONE,
    problem_decomposition=NONE,
    evidence_usage=NONE,
    conclusion_validity=NONE,
    step_by_step_clarity=NONE,
)
SETTINGS = AccumulatorSettings(
    seal_at_rows=8, seal_after_min_rows=4, seal_check_seconds=0.01, seal_retry_seconds=0.05, holdout_ratio=0
)


def assessed(number: int, *, target: str = "qwen3:8b", thinks: bool = True, keep: bool = True, **changed: Any) -> ReasoningAssessed:
    """The assessment of interaction `number`, changed as told."""
    fields: dict[str, Any] = {
        "interaction_id": f"i-{number}",
        "conversation_id": f"c-{number}",
        "agent": "tester",
        "target_model": target,
        "occurred_at": START,
        "messages": (Message(role="user", content=f"question {number}"),),
        "response": Response(content=f"answer {number}", thinking=f"thought {number}" if thinks else None),
        "thinking": Thinking(mode_used="thinking" if thinks else "direct"),
        "training_allowed": True,
        "source": "/tester",
        "recorded_id": UUID(int=number),
    } | changed
    return ReasoningAssessed(
        target_model=target,
        recorded_id=fields["recorded_id"],
        policy_version="p1",
        scorer_version="s1",
        verdict=Verdict(
            answer_quality=NONE,
            reasoning_quality=QUALITY,
            mode_appropriateness=NONE,
            overall=NONE,
            evidence_ratio=0.0,
            decision="keep" if keep else "reject",
            reasons=(),
        ),
        interaction=InteractionRecorded(**fields),
    )


async def until(condition: Callable[[], bool], what: str, *, seconds: float = 60.0) -> None:
    """Return when the condition holds; fail with `what` after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        await asyncio.sleep(0.002)


@dataclass
class World:
    """A broker, a store, and a clock that a test can turn."""

    store: FileStore
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    ahead: timedelta = timedelta()

    def clock(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    async def assess(self, *records: ReasoningAssessed, event_ids: bool = True) -> None:
        """Write these assessments; the same record has the same event id each time."""
        bus = MemoryBus(self.broker, reader="assessor")
        for record in records:
            content = f"{record.recorded_id}/{record.revision}" if event_ids else str(uuid4())
            event_id = str(UUID(bytes=hashlib.sha256(content.encode()).digest()[:16]))
            await bus.publish(REASONING_ASSESSED, record, bus.begin(REASONING_ASSESSED, record, event_id=event_id))

    @asynccontextmanager
    async def accumulating(
        self, bus: MemoryBus | None = None, *, store: FileStore | None = None, settings: AccumulatorSettings = SETTINGS
    ) -> AsyncIterator[Accumulator]:
        """An accumulator at work, killed at the end of the context."""
        bus = bus or MemoryBus(self.broker, settings, reader="accumulator")
        accumulator = Accumulator(bus, store or self.store, settings, clock=self.clock)
        task = asyncio.create_task(accumulator.serve())
        try:
            yield accumulator
        finally:
            if task.done():
                task.result()
            while not task.done():  # killed at any point, also where it would rather finish first
                task.cancel()
                await asyncio.wait((task,), timeout=0.1)

    def published(self, target: str = "qwen3:8b") -> list[TrainingBatchSealed]:
        """Everything that was published as a batch, also what extends nothing."""
        records = self.broker.records(TRAINING_BATCH_SEALED.name)
        batches = [TrainingBatchSealed.model_validate_json(record.value or b"") for record in records]
        return [batch for batch in batches if batch.target_model == target]

    def chain(self, target: str = "qwen3:8b") -> list[TrainingBatchSealed]:
        """The batches, as every reader finds them."""
        link, batches = BEGINNING, []
        for sealed in self.published(target):
            if link.extended_by(sealed, partition=partition_of(target)):
                link = Link(sealed.number, sealed.batch_id, sealed.to_offset)
                batches.append(sealed)
        return batches

    def committed(self, target: str = "qwen3:8b") -> int:
        """The offset from which the group would read again."""
        commit = self.broker.committed("accumulator", REASONING_ASSESSED.name).get(partition_of(target))
        return commit.offset if commit else 0

    async def manifests(self, target: str = "qwen3:8b") -> list[Manifest]:
        return [await load_manifest(self.store, batch.dataset) for batch in self.chain(target)]


def partition_of(target: str) -> int:
    return MemoryBus(MemoryBroker(), reader="tester").partition_of(REASONING_ASSESSED, f"default/{target}")


def neighbour_of(target: str) -> str:
    """Another target in the same partition."""
    return next(other for n in range(1000) if partition_of(other := f"neighbour-{n}") == partition_of(target))


Scenario = Callable[[World], Coroutine[Any, Any, None]]


def play(scenario: Scenario, folder: Path) -> None:
    asyncio.run(scenario(World(FileStore(folder / "store"))))


def test_enough_rows_become_a_dataset_that_accounts_for_every_record_and_their_offsets_are_committed(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.assess(
            *(assessed(n) for n in range(6)),
            assessed(6, keep=False),
            assessed(7, training_allowed=False),
            assessed(0),
            *(assessed(n, thinks=False) for n in range(8, 12)),
            assessed(12),
        )
        async with world.accumulating():
            await until(lambda: world.committed() == 11, "the batch is committed")
            (batch,) = world.chain()
            assert (batch.batch_id, batch.number, batch.previous_batch_id) == ("qwen3_8b-000001", 1, None)
            assert (batch.after_offset, batch.to_offset, batch.reason) == (-1, 10, "count")
            assert batch.explanation == "8 rows (6 reasoning, 2 direct), sealing needs 8 (RUMINATE_SEAL_AT_ROWS)"
            assert (batch.rows, batch.reasoning_rows, batch.direct_rows, batch.reasoning_ratio) == (8, 6, 2, 0.75)
            assert batch.rejected_interactions == 2
        folder = await world.store.fetch(batch.dataset, to=tmp_path / "fetched")
        lines = (folder / "train.jsonl").read_bytes().splitlines(keepends=True)
        assert (folder / "holdout.jsonl").read_bytes() == b""
        (manifest,) = await world.manifests()
        assert manifest.left_out_counts == {"duplicate": 1, "not_allowed": 1, "rejected": 1}
        assert sorted([*(row.offset for row in manifest.rows), *(left.offset for left in manifest.left_out)]) == list(range(11))
        assert [row.sha256 for row in manifest.rows] == [hashlib.sha256(line).hexdigest() for line in lines]
        for row, line in zip(manifest.rows, lines, strict=True):
            parsed = Row.model_validate_json(line)
            assert parsed.prompt[0].content == f"question {row.recorded_id.int}"
            assert parsed.chat_template_kwargs.enable_thinking is row.reasoning

    play(scenario, tmp_path)


def test_batches_follow_each_other_and_an_interaction_is_fresh_once(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        records = [assessed(n) for n in range(24)]
        async with world.accumulating() as accumulator:
            for begin in range(0, 24, 4):
                # Each interaction comes again, as a repeated event and as an event of its own.
                await world.assess(*records[begin : begin + 4], *records[: begin + 4])
                await world.assess(*records[: begin + 4], event_ids=False)
            await until(lambda: end_of(accumulator).number == 3, "three batches")
        assert world.chain() == world.published()
        fresh = [row.recorded_id for manifest in await world.manifests() for row in manifest.rows]
        assert sorted(each.int for each in fresh) == list(range(24))

    play(scenario, tmp_path)


def test_the_same_log_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "other"):

        async def scenario(world: World) -> None:
            await world.assess(*(assessed(n, thinks=n % 5 > 0) for n in range(30)))
            async with world.accumulating(settings=SETTINGS.model_copy(update={"holdout_ratio": 0.3})) as accumulator:
                await until(lambda: end_of(accumulator).number >= 2, "two batches")
            digests.append([batch.dataset.sha256 for batch in world.chain()[:2]])

        play(scenario, tmp_path / name)
    assert digests[0] == digests[1]


def test_two_accumulators_that_both_believe_the_partitions_theirs_make_one_chain(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        # Two groups: each reads every partition, as a replica does that has not yet heard that it lost one.
        other = MemoryBus(world.broker, SETTINGS, reader="accumulator-zombie")
        eager = SETTINGS.model_copy(update={"seal_at_rows": 5})
        async with world.accumulating() as one, world.accumulating(other, settings=eager) as two:
            for begin in range(0, 60, 3):
                await world.assess(*(assessed(n) for n in range(begin, begin + 3)))
                await asyncio.sleep(0)
            await until(
                lambda: max(end_of(one).to_offset, end_of(two).to_offset) >= 60 - 8 and end_of(one).number > 0 < end_of(two).number,
                "both have a chain, and what can be sealed is sealed",
            )
            # Whoever is behind is behind on the same chain.
            ends = {batch.number: batch.to_offset for batch in world.chain()}
            assert all(ends[end_of(each).number] == end_of(each).to_offset for each in (one, two))
        async with world.accumulating(settings=SETTINGS.model_copy(update={"seal_at_rows": 1})):
            await until(lambda: world.committed() == 60, "a third one takes the chain over and seals the rest")
        assert [batch.number for batch in world.chain()] == list(range(1, len(world.chain()) + 1))
        fresh = [row.recorded_id.int for manifest in await world.manifests() for row in manifest.rows]
        assert sorted(fresh) == list(range(60))

    play(scenario, tmp_path)


def end_of(accumulator: Accumulator, target: str = "qwen3:8b") -> Link:
    """The end of a chain, as this accumulator knows it."""
    return next((chain.link for chain in accumulator._chains.values() if chain.target == target), BEGINNING)


def test_two_replicas_share_the_partitions_and_take_over_from_each_other(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        targets = [f"target-{n}" for n in range(8)]
        await world.assess(*(assessed(n, target=target) for target in targets for n in range(5)))
        async with world.accumulating() as one:
            async with world.accumulating() as other:
                await world.assess(*(assessed(n, target=target) for target in targets for n in range(5, 9)))
                await until(
                    lambda: all(end_of(one, target).number + end_of(other, target).number == 1 for target in targets),
                    "one of the two stands at the first batch of each target",
                )
                assert all(any(end_of(replica, target).number for target in targets) for replica in (one, other))
            await world.assess(*(assessed(n, target=target) for target in targets for n in range(9, 16)))
            await until(lambda: all(end_of(one, target).number == 2 for target in targets), "a second batch of each target")
        for target in targets:
            fresh = [row.recorded_id.int for manifest in await world.manifests(target) for row in manifest.rows]
            assert sorted(fresh) == list(range(16))

    play(scenario, tmp_path)


class StoreThatStopsAfterWriting(FileStore):
    """Keeps the dataset and never says so: whoever waits for it can only be killed."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.written: list[ArtifactReference] = []

    async def put_tree(self, folder: Path, *, kind: str, name: str) -> ArtifactReference:
        self.written.append(await super().put_tree(folder, kind=kind, name=name))
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


class BusThatStopsAfterPublishing(MemoryBus):
    """Publishes, is acknowledged, and never returns."""

    acknowledged = False

    async def publish(self, topic: Topic[P], payload: P, envelope: Envelope) -> Position:
        await super().publish(topic, payload, envelope)
        self.acknowledged = True
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


def test_a_kill_between_the_store_and_the_log_ends_in_the_same_dataset(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.assess(*(assessed(n) for n in range(10)))
        store = StoreThatStopsAfterWriting(tmp_path / "store")
        async with world.accumulating(store=store):
            await until(lambda: bool(store.written), "the dataset is written")
        assert (world.published(), world.committed()) == ([], 0)
        async with world.accumulating():
            await until(lambda: world.committed() == 8, "the batch is committed")
        assert [batch.dataset for batch in world.published()] == store.written

    play(scenario, tmp_path)


def test_a_kill_between_the_log_and_the_commit_ends_in_one_batch(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.assess(*(assessed(n) for n in range(10)))
        bus = BusThatStopsAfterPublishing(world.broker, SETTINGS, reader="accumulator")
        async with world.accumulating(bus):
            await until(lambda: bus.acknowledged, "the batch is published")
        assert world.committed() == 0
        async with world.accumulating():
            await until(lambda: world.committed() == 8, "the batch is taken over and committed")
            await world.assess(*(assessed(n) for n in range(10, 16)))
            await until(lambda: world.committed() == 16, "the next batch is committed")
        assert [batch.number for batch in world.published()] == [1, 2]
        assert [len(manifest.rows) for manifest in await world.manifests()] == [8, 8]

    play(scenario, tmp_path)


class StoreThatStopsBeforeCopying(FileStore):
    """Its thread copies when the test says so."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.folder: Path | None = None
        self.may_copy, self.has_copied = threading.Event(), threading.Event()

    def _put_tree(self, folder: Path, kind: str, name: str) -> ArtifactReference:
        self.folder = folder
        self.may_copy.wait(10)
        try:
            return super()._put_tree(folder, kind, name)
        finally:
            self.has_copied.set()


def test_a_dataset_that_is_cancelled_on_its_way_into_the_store_leaves_no_text_behind(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.assess(*(assessed(n) for n in range(8)))
        async with world.accumulating():
            await until(lambda: world.committed() == 8, "the batch is committed")
        store = StoreThatStopsBeforeCopying(tmp_path / "store")
        (manifest,) = await world.manifests()
        keeping = asyncio.create_task(keep_dataset(store, Made(manifest, [], [], [], [], [], Report(checks=()))))
        await until(lambda: store.folder is not None, "the copy begins")
        keeping.cancel()
        await asyncio.wait((keeping,), timeout=0.05)
        store.may_copy.set()
        with pytest.raises(asyncio.CancelledError):
            await keeping
        await until(store.has_copied.is_set, "the copy ends")
        assert store.folder is not None
        assert not store.folder.exists()

    play(scenario, tmp_path)


def test_age_seals_a_smaller_batch_without_a_new_record(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.assess(*(assessed(n) for n in range(5)))
        async with world.accumulating() as accumulator:
            await until(lambda: fill(accumulator) == 5, "five rows are folded")
            await until(lambda: gauge("ruminate_batch_fill_rows", tenant="default", target="qwen3:8b") == 5, "the gauge shows it")
            assert gauge("ruminate_batch_seal_at_rows", tenant="default", target="qwen3:8b") == 8
            assert world.published() == []
            world.ahead = timedelta(days=2)
            await until(lambda: world.committed() == 5, "the batch is committed")
            (batch,) = world.chain()
            assert (batch.reason, batch.rows) == ("age", 5)

    play(scenario, tmp_path)


def fill(accumulator: Accumulator, target: str = "qwen3:8b") -> int:
    return sum(
        chain.fold.counts().reasoning + chain.fold.counts().direct
        for chain in accumulator._chains.values()
        if chain.target == target
    )


def gauge(name: str, **labels: str) -> float | None:
    return prometheus_client.REGISTRY.get_sample_value(name, labels)


def test_a_batch_waits_for_reasoning_rows_whatever_its_age(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.ahead = timedelta(days=30)
        await world.assess(*(assessed(n, thinks=False) for n in range(40)))
        async with world.accumulating() as accumulator:
            await until(lambda: fill(accumulator) == 40, "forty direct rows are folded")
            await accumulator.look_at_all()
            assert world.published() == []
            world.ahead = timedelta()
            await world.assess(*(assessed(n) for n in range(40, 46)))
            await until(lambda: world.committed() == 46, "the batch is committed")
        (batch,) = world.chain()
        assert (batch.reason, batch.reasoning_rows, batch.direct_rows, batch.rejected_interactions) == ("ratio", 6, 2, 38)
        (manifest,) = await world.manifests()
        assert manifest.left_out_counts == {"over_ratio": 38}

    play(scenario, tmp_path)


def test_a_quiet_chain_holds_the_commit_of_its_partition_back_and_loses_nothing(tmp_path: Path) -> None:
    quiet = neighbour_of("qwen3:8b")

    async def scenario(world: World) -> None:
        await world.assess(assessed(0), assessed(100, target=quiet), *(assessed(n) for n in range(1, 8)))
        async with world.accumulating() as accumulator:
            await until(lambda: bool(world.chain()), "the loud chain has its batch")
            await until(lambda: world.committed() == 1, "all before the quiet chain's record is committed")
            assert fill(accumulator, quiet) == 1
        async with world.accumulating():
            await world.assess(*(assessed(n, target=quiet) for n in range(101, 108)))
            await until(lambda: world.committed() == 16, "both chains are committed")
        assert [batch.rows for batch in world.chain()] == [8]
        assert [batch.rows for batch in world.chain(quiet)] == [8]

    play(scenario, tmp_path)


def test_a_store_that_is_away_delays_the_batch_and_readiness_says_so(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        (tmp_path / "store").write_text("in the way")
        await world.assess(*(assessed(n) for n in range(8)))
        bus = MemoryBus(world.broker, SETTINGS, reader="accumulator")
        async with world.accumulating(bus):
            await until(
                lambda: any("does not take qwen3_8b-000001" in each for each in bus.readiness()), "readiness names the store"
            )
            (tmp_path / "store").unlink()
            await until(lambda: world.committed() == 8, "the batch is committed")

    play(scenario, tmp_path)


def test_nothing_more_is_taken_while_a_manifest_of_the_chain_is_missing(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.assess(*(assessed(n) for n in range(8)))
        async with world.accumulating():
            await until(lambda: world.committed() == 8, "the first batch is committed")
        await world.assess(*(assessed(n) for n in range(4, 16)))
        (tmp_path / "store").rename(tmp_path / "elsewhere")
        bus = MemoryBus(world.broker, SETTINGS, reader="accumulator")
        async with world.accumulating(bus):
            await until(lambda: any("nothing more is taken" in each for each in bus.readiness()), "readiness names the manifest")
            (tmp_path / "elsewhere").rename(tmp_path / "store")
            await until(lambda: world.committed() == 20, "the second batch is committed")
        fresh = [row.recorded_id.int for manifest in await world.manifests() for row in manifest.rows]
        assert sorted(fresh) == list(range(16))

    play(scenario, tmp_path)


def test_what_was_erased_between_its_delivery_and_the_cut_is_in_no_batch(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.assess(*(assessed(n) for n in range(7)))
        async with world.accumulating() as accumulator:
            await until(lambda: fill(accumulator) == 7, "seven rows are folded")
            log = world.broker._partitions[REASONING_ASSESSED.name, partition_of("qwen3:8b")]
            log[3] = replace(log[3], value=None)
            await world.assess(assessed(7), assessed(8))
            await until(lambda: world.committed() == 9, "the batch is committed")
        (manifest,) = await world.manifests()
        assert sorted(row.offset for row in manifest.rows) == [0, 1, 2, 4, 5, 6, 7, 8]
        assert manifest.left_out == ()

    play(scenario, tmp_path)


class BusWhoseLogWithdrawsConsent(MemoryBus):
    """Reads a target's records again without the consent that they were delivered with."""

    withdrawn: str | None = None

    async def read(self, topic: Topic[P], **kwargs: Any) -> AsyncGenerator[Delivery[P], None]:
        async for delivery in super().read(topic, **kwargs):
            payload = delivery.payload
            if isinstance(payload, ReasoningAssessed) and payload.target_model == self.withdrawn:
                interaction = payload.interaction.model_copy(update={"training_allowed": False})
                delivery.payload = payload.model_copy(update={"interaction": interaction})
            yield delivery


def test_a_batch_that_fails_its_validation_blocks_its_own_chain_until_it_is_sound(tmp_path: Path) -> None:
    neighbour = neighbour_of("qwen3:8b")

    async def scenario(world: World) -> None:
        bus = BusWhoseLogWithdrawsConsent(world.broker, SETTINGS, reader="accumulator")
        bus.withdrawn = "qwen3:8b"
        await world.assess(*(assessed(n) for n in range(9)), *(assessed(n, target=neighbour) for n in range(20, 28)))
        async with world.accumulating(bus) as accumulator:
            await until(lambda: bool(world.chain(neighbour)), "the other chain goes on")
            assert world.published() == []
            (reason,) = accumulator.readiness()
            assert reason.startswith("batch 1 of qwen3:8b is blocked: row at offset ")
            assert "no consent" in reason
            bus.withdrawn = None
            await until(lambda: world.committed() == 17, "the blocked batch is tried again and committed")
            assert accumulator.readiness() == []
        (batch,) = world.chain()
        assert batch.rows == 9

    play(scenario, tmp_path)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (assessed(1, tenant="acme"), "inconsistent"),
        (assessed(1).model_copy(update={"recorded_id": UUID(int=2)}), "inconsistent"),
    ],
)
def test_an_assessment_that_contradicts_its_interaction_becomes_a_dead_letter(
    tmp_path: Path, record: ReasoningAssessed, reason: str
) -> None:
    async def scenario(world: World) -> None:
        await world.assess(record)
        letters = REASONING_ASSESSED.dead_letters("accumulator").name
        async with world.accumulating():
            await until(lambda: bool(world.broker.records(letters)), "a dead letter is written")
        (letter,) = world.broker.records(letters)
        assert any(reason.encode() in value for _, value in letter.headers)

    play(scenario, tmp_path)


def test_an_assessment_in_a_partition_that_is_not_its_own_becomes_a_dead_letter(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.assess(assessed(1))
        (record,) = world.broker.records(REASONING_ASSESSED.name)
        elsewhere = (record.partition + 1) % REASONING_ASSESSED.partitions
        world.broker.append(record.topic, record.value, key=record.key, headers=record.headers, partition=elsewhere)
        letters = REASONING_ASSESSED.dead_letters("accumulator").name
        async with world.accumulating():
            await until(lambda: bool(world.broker.records(letters)), "a dead letter is written")
        (letter,) = world.broker.records(letters)
        assert any(b"wrong_partition" in value for _, value in letter.headers)

    play(scenario, tmp_path)


def test_a_dead_letter_that_comes_back_goes_to_the_end_of_its_log_and_is_sealed_from_there(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.assess(assessed(1))
        (record,) = world.broker.records(REASONING_ASSESSED.name)
        own, elsewhere = record.partition, (record.partition + 1) % REASONING_ASSESSED.partitions
        lost = encode(assessed(2))
        headers = Envelope(
            id=str(UUID(int=22)), source="/ruminate/assessor", type=REASONING_ASSESSED.event_type, time=datetime.now(UTC)
        ).to_headers()
        world.broker.append(record.topic, lost, key=b"2", headers=headers, partition=elsewhere)
        letters, retries = REASONING_ASSESSED.dead_letters("accumulator").name, REASONING_ASSESSED.retries("accumulator").name
        async with world.accumulating():
            await until(lambda: bool(world.broker.records(letters)), "a dead letter is written")
            (letter,) = world.broker.records(letters)
            world.broker.append(retries, letter.value, key=b"2", headers=letter.headers)
            await until(lambda: len(world.broker.records(record.topic, own)) == 2, "it is put where it belongs")
        again = world.broker.records(record.topic, own)[-1]
        assert again.value == lost
        assert dict(again.headers)["ce_id"] == str(UUID(int=22)).encode()
        assert not any(name.startswith("dlq_") for name, _ in again.headers)

    play(scenario, tmp_path)


def test_batches_that_end_with_the_same_verdict_are_two_events(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async with world.accumulating() as accumulator:
            await world.assess(*(assessed(n) for n in range(8)))
            await until(lambda: end_of(accumulator).number == 1, "the first batch")
            # The verdict that ended it comes once more, last of all, and the batch after it is cut there by its age.
            await world.assess(*(assessed(n) for n in range(8, 13)), assessed(7))
            await until(lambda: any(chain.folded_to == 13 for chain in accumulator._chains.values()), "all of it is folded")
            world.ahead = timedelta(days=2)
            await until(lambda: end_of(accumulator).number == 2, "the second batch")
        ids = [dict(record.headers)["ce_id"] for record in world.broker.records(TRAINING_BATCH_SEALED.name)]
        assert len(ids) == len(set(ids)) == 2

    play(scenario, tmp_path)
