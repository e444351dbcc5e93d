"""What has to be forgotten leaves every dataset, and a crash at any step leaves nothing but work for the next look."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from prometheus_client import REGISTRY

from ruminate.accumulator.accumulate import Accumulator
from ruminate.accumulator.erasure.revise import salted
from ruminate.accumulator.making.dataset import load_manifest
from ruminate.accumulator.making.manifest import Manifest
from ruminate.accumulator.rebuilding.rebuild import SealedChain
from ruminate.accumulator.rebuilding.replay import KIND as REPLAYS
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.command.datasets.policy import ReplayPolicy
from ruminate.command.datasets.replay import replay
from ruminate.schemas.envelope import Envelope
from ruminate.schemas.erasure import ErasureRequested
from ruminate.schemas.flow import DATASET_REVISED, ERASURE_REQUESTED, REASONING_ASSESSED, TRAINING_BATCH_SEALED
from ruminate.schemas.interaction import InteractionRecorded, Message, Response
from ruminate.schemas.payload import ArtifactReference, Payload
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import Bus
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.record import Position
from ruminate.shared.store import ArtifactMissing, FileStore
from tests.folders import files_below
from tests.integration.recorded_log import (
    LENIENT,
    START,
    TARGET,
    accumulating,
    assess,
    chain_of,
    interaction,
    rebuild,
    seal,
    until,
)
from tests.integration.recorded_log import (
    record as write_down,
)

P = TypeVar("P", bound=Payload)

MARKER = "Xylokarp-7731"
SETTINGS = AccumulatorSettings(
    seal_at_rows=8,
    seal_after_min_rows=4,
    seal_check_seconds=0.01,
    seal_retry_seconds=0.05,
    holdout_ratio=0.25,
    seal_false_alarm_ratio=0,
)
PLANTED = (3, 11, 12, 30)
"""Interactions of the conversation that is to be forgotten, in several batches."""


def told(number: int, **changed: Any) -> InteractionRecorded:
    """Interaction `number`; those that are planted hold the marker in every text."""
    if number in PLANTED:
        changed = {
            "conversation_id": "c-planted",
            "messages": (Message(role="user", content=f"Where does the {MARKER} number {number} live, and on what?"),),
            "response": Response(content=f"The {MARKER} lives on bark {number}.", thinking=f"{MARKER}: bark, surely, {number}."),
            "reference_answer": f"{MARKER} {number}",
            "domain": MARKER,
        } | changed
    return interaction(number, **changed)


def erasure(**changed: Any) -> ErasureRequested:
    fields: dict[str, Any] = {
        "scope": "conversation",
        "subject": "c-planted",
        "requested_by": "an operator",
        "requested_at": START + timedelta(days=1),
    } | changed
    return ErasureRequested(**fields)


async def ask(bus: Bus, request: ErasureRequested) -> str:
    event_id = str(uuid4())
    envelope = bus.begin(ERASURE_REQUESTED, request, event_id=event_id, source="/operators")
    await bus.publish(ERASURE_REQUESTED, request, envelope)
    return event_id


def tombstone(broker: MemoryBroker, *numbers: int) -> None:
    """Take the assessments of these interactions out of the log, as the eraser and compaction do."""
    for topic_partition in [place for place in broker._partitions if place[0] == REASONING_ASSESSED.name]:
        records = broker._partitions[topic_partition]
        for at, record in enumerate(records):
            if record.value is not None and any(f'"recorded_id":"{UUID(int=n)}"'.encode() in record.value for n in numbers):
                records[at] = type(record)(record.topic, record.partition, record.offset, record.timestamp, record.key, None, [])


def traces(folder: Path) -> list[str]:
    """Every file below that holds the marker."""
    return [str(path) for path in files_below(folder) if path.is_file() and MARKER.encode() in _bytes(path)]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""  # it went meanwhile


def is_clean(store_folder: Path) -> Callable[[], bool]:
    return lambda: not traces(store_folder)


def named_in(manifest: Manifest) -> set[int]:
    """The interactions that a dataset holds something of, by number."""
    return {row.recorded_id.int for row in manifest.rows} | {aside.recorded_id.int for aside in manifest.aside}


def swept_after(accumulator: Accumulator) -> int:
    """How many requests the datasets of the target were last looked through for."""
    return sum(chain.datasets.swept_after for chain in accumulator._chains.values() if chain.target == TARGET)


async def sealed_world(
    folder: Path, broker: MemoryBroker, settings: AccumulatorSettings = SETTINGS
) -> tuple[FileStore, SealedChain]:
    """Four batches, the planted interactions in some of them, and rehearsed in later ones."""
    store = FileStore(folder / "store")
    await assess(MemoryBus(broker, reader="tester"), *(told(n) for n in range(44)))
    await seal(MemoryBus(broker, reader="accumulator"), store, 4, settings)
    assert traces(folder / "store")
    return store, await chain_of(MemoryBus(broker, reader="tester"))


def play(scenario: Callable[[Path, MemoryBroker], Coroutine[Any, Any, None]], folder: Path) -> None:
    asyncio.run(scenario(folder, MemoryBroker()))


def test_an_erasure_leaves_no_trace_in_the_store_and_rebuilds_equal_what_is_left(tmp_path: Path) -> None:
    async def scenario(folder: Path, broker: MemoryBroker) -> None:
        store, before = await sealed_world(folder, broker)
        bus = MemoryBus(broker, reader="tester")
        erasure_id = await ask(bus, erasure())
        async with accumulating(MemoryBus(broker, reader="accumulator"), store, SETTINGS):
            await until(is_clean(folder / "store"), "the marker is gone")
        after = await chain_of(bus)
        assert [batch.number for batch in after.batches] == [batch.number for batch in before.batches]
        touched = set(after.revisions)
        assert len(touched) >= 2
        for was, now in zip(before.batches, after.batches, strict=True):
            manifest = await load_manifest(store, now.dataset)
            await store.check(now.dataset)
            assert UUID(int=3) not in {row.recorded_id for row in manifest.rows}
            if now.number not in touched:
                assert now == was
                continue
            (revised,) = after.revisions[now.number]
            assert (revised.revision, revised.replaces, revised.erasure_ids) == (1, was.dataset, (erasure_id,))
            assert manifest.revision == 1
            named = {erased.salted_sha256 for erased in manifest.erased}
            assert named <= {salted(UUID(int=n), batch_id=now.batch_id, erasure_id=erasure_id) for n in PLANTED}
            counts = Counter((row.domain, row.split) for row in manifest.rows)
            for split in ("train", "holdout"):
                told_of = sum(fates.get(split, 0) for fates in manifest.strata.values())
                assert told_of == sum(count for (_, of), count in counts.items() if of == split)
            assert len(manifest.rows) == was.rows + was.holdout_rows - sum(e.was in ("train", "holdout") for e in manifest.erased)
        tombstone(broker, *PLANTED)
        rebuilt = await rebuild(MemoryBus(broker, reader="tester"), store, settings=SETTINGS)
        assert [each.outcome for each in rebuilt] == ["identical"] * len(rebuilt)
        assert not traces(folder / "store")

    play(scenario, tmp_path)


class Crash(BaseException):
    """The process ends here."""


class CrashingStore(FileStore):
    """Ends the process at one of its steps: before or after a folder is put in, or while one is taken out."""

    def __init__(self, root: Path, at: int) -> None:
        super().__init__(root)
        self.steps_left = at
        self.armed = False

    def step(self) -> None:
        if self.armed:
            self.steps_left -= 1
            if self.steps_left == 0:
                raise Crash

    async def put_tree(self, folder: Path, *, kind: str, name: str) -> ArtifactReference:
        self.step()
        reference = await super().put_tree(folder, kind=kind, name=name)
        self.step()
        return reference

    async def remove_tree(self, reference: ArtifactReference) -> None:
        self.step()
        if self.armed and self.steps_left == 1:
            # One of its files is gone, the first of those that are its alone, and it is still named.
            others = [each for _, each in self._list_trees("datasets") if each.uri != reference.uri]
            shared = {file.sha256 for each in others for file in self._files_of(each)}
            min(self._blob(file.sha256) for file in self._files_of(reference) if file.sha256 not in shared).unlink()
        self.step()
        await super().remove_tree(reference)
        self.step()


class CrashingBus(MemoryBus):
    """Ends the process before or after something is published."""

    store: CrashingStore

    async def publish(self, topic: Topic[P], payload: P, envelope: Envelope) -> Position:
        if topic is DATASET_REVISED:
            self.store.step()
        position = await super().publish(topic, payload, envelope)
        if topic is DATASET_REVISED:
            self.store.step()
        return position


@pytest.mark.parametrize("at", range(1, 20))
def test_a_crash_at_any_step_is_made_good_by_the_next_look(tmp_path: Path, at: int) -> None:
    async def scenario(folder: Path, broker: MemoryBroker) -> None:
        _, before = await sealed_world(folder, broker)
        tester = MemoryBus(broker, reader="tester")
        await ask(tester, erasure())
        store = CrashingStore(folder / "store", at)
        bus = CrashingBus(broker, reader="accumulator")
        bus.store = store
        accumulator = Accumulator(bus, store, SETTINGS, clock=lambda: START + timedelta(days=2))
        store.armed = True
        serving = asyncio.create_task(accumulator.serve())
        await asyncio.wait((serving,), timeout=None if at < 12 else 1.0)
        crashed = serving.done()
        if not crashed:  # fewer steps than that were needed
            await bus.stop()
            serving.cancel()
        result = await asyncio.gather(serving, return_exceptions=True)
        assert not crashed or isinstance(result[0], Crash)
        whole = FileStore(folder / "store")
        async with accumulating(MemoryBus(broker, reader="accumulator"), whole, SETTINGS):
            await until(is_clean(folder / "store"), "the marker is gone")
        after = await chain_of(tester)
        for was, now in zip(before.batches, after.batches, strict=True):
            await whole.check(now.dataset)
            revisions = after.revisions.get(was.number, ())
            assert len(revisions) <= 1
            assert (now == was) is (not revisions)
        tombstone(broker, *PLANTED)
        rebuilt = await rebuild(MemoryBus(broker, reader="tester"), whole, settings=SETTINGS)
        assert [each.outcome for each in rebuilt] == ["identical"] * len(rebuilt)

    play(scenario, tmp_path)


class EndsOnTheWayIn(FileStore):
    """Ends the process once so many files of a folder are in, and whoever goes on in it."""

    def __init__(self, root: Path, files: int) -> None:
        super().__init__(root)
        self.files = files

    def _keep(self, source: Path, target: Path, sha256: str, size_bytes: int) -> None:
        if self.files == 0:
            raise Crash
        super()._keep(source, target, sha256, size_bytes)
        self.files -= 1


@pytest.mark.parametrize("files", range(9))
def test_a_batch_that_never_became_one_is_forgotten_too(tmp_path: Path, files: int) -> None:
    async def scenario(folder: Path, broker: MemoryBroker) -> None:
        settings = SETTINGS.model_copy(update={"holdout_ratio": 0.0})
        tester = MemoryBus(broker, reader="tester")
        await assess(tester, *(told(n) for n in range(8)))
        bus = MemoryBus(broker, reader="accumulator")
        doomed = Accumulator(bus, EndsOnTheWayIn(folder / "store", files), settings, clock=lambda: START + timedelta(days=2))
        with pytest.raises(Crash):
            await doomed.serve()
        # Without the planted one there is no batch yet: nothing is put in again that would lie under the same names.
        await ask(tester, erasure())
        async with accumulating(MemoryBus(broker, reader="accumulator"), FileStore(folder / "store"), settings) as accumulator:
            await until(lambda: swept_after(accumulator) == 1, "the store is swept")
            assert not traces(folder / "store")
            assert list((folder / "store").rglob(".unfinished-*")) == []
            await assess(tester, *(told(n) for n in range(13, 16)))
            await until(lambda: any(chain.link.number for chain in accumulator._chains.values()), "the batch is sealed")
        (batch,) = (await chain_of(tester)).batches
        await FileStore(folder / "store").check(batch.dataset)

    play(scenario, tmp_path)


def test_what_a_frozen_replica_puts_in_after_the_sweep_goes_within_the_hour(tmp_path: Path) -> None:
    async def scenario(folder: Path, broker: MemoryBroker) -> None:
        store, before = await sealed_world(folder, broker)
        fetched = await store.fetch(before.batches[0].dataset, to=folder / "in hand")
        await ask(MemoryBus(broker, reader="tester"), erasure())
        now = [START + timedelta(days=2)]
        bus = MemoryBus(broker, reader="accumulator")
        accumulator = Accumulator(bus, store, SETTINGS, clock=lambda: now[0])
        serving = asyncio.create_task(accumulator.serve())
        await until(is_clean(folder / "store"), "the marker is gone")
        await until(lambda: swept_after(accumulator) == 1, "the store is swept")
        await store.put_tree(fetched, kind="datasets", name=f"default/{TARGET}/9")
        now[0] += timedelta(minutes=59)
        await accumulator.look_at_all()
        assert traces(folder / "store")
        now[0] += timedelta(minutes=1)
        await until(is_clean(folder / "store"), "the marker is gone again")
        await bus.stop()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    play(scenario, tmp_path)


def test_the_dataset_of_a_batch_that_lost_the_race_goes_as_soon_as_the_log_says_so(tmp_path: Path) -> None:
    async def scenario(folder: Path, broker: MemoryBroker) -> None:
        store, before = await sealed_world(folder, broker)
        late, tester = before.batches[0], MemoryBus(broker, reader="tester")
        fetched = await store.fetch(late.dataset, to=folder / "in hand")
        await ask(tester, erasure())
        async with accumulating(MemoryBus(broker, reader="accumulator"), store, SETTINGS) as accumulator:
            await until(lambda: swept_after(accumulator) == 1, "the store is swept")
            lost = await store.put_tree(fetched, kind="datasets", name=f"default/{TARGET}/1")
            said = late.model_copy(update={"dataset": lost})
            await tester.publish(TRAINING_BATCH_SEALED, said, tester.begin(TRAINING_BATCH_SEALED, said))
            # It is read before the next batch is cut.
            await assess(tester, *(told(n) for n in range(44, 60)))
            await until(is_clean(folder / "store"), "the marker is gone again")

    play(scenario, tmp_path)


def test_datasets_of_a_target_whose_name_goes_on_and_replays_that_name_nobody(tmp_path: Path) -> None:
    async def scenario(folder: Path, broker: MemoryBroker) -> None:
        store, before = await sealed_world(folder, broker)
        place = folder / "stray"
        await store.fetch(before.batches[0].dataset, to=place)
        manifest = json.loads((place / "manifest.json").read_text())
        longer = f"{TARGET}/longer"
        (place / "manifest.json").write_text(json.dumps(manifest | {"target_model": longer}))
        another = await store.put_tree(place, kind="datasets", name=f"default/{longer}/1")
        (place / "manifest.json").write_text(json.dumps({"number": 1}))
        old = await store.put_tree(place, kind="replays", name=f"night/default/{TARGET}/1")
        # Of one target alone: it says nothing of another's.
        await ask(MemoryBus(broker, reader="tester"), erasure(target_model=TARGET))
        async with accumulating(MemoryBus(broker, reader="accumulator"), store, SETTINGS) as accumulator:
            await until(lambda: swept_after(accumulator) == 1, "the store is swept")
        await store.check(another)
        with pytest.raises(ArtifactMissing):
            await store.check(old)

    play(scenario, tmp_path)


@pytest.mark.parametrize(
    "request_",
    [erasure(), erasure(what="training"), erasure(scope="interaction", subject="i-3"), erasure(scope="agent", subject="tester")],
)
def test_what_is_taken_back_before_the_cut_is_in_no_batch(tmp_path: Path, request_: ErasureRequested) -> None:
    async def scenario(folder: Path, broker: MemoryBroker) -> None:
        store, tester = FileStore(folder / "store"), MemoryBus(broker, reader="tester")
        await ask(tester, request_)
        await assess(tester, *(told(n, **({"agent": "other"} if n not in PLANTED else {})) for n in range(20)))
        await seal(MemoryBus(broker, reader="accumulator"), store, 1)
        (batch,) = (await chain_of(tester)).batches[:1]
        manifest = await load_manifest(store, batch.dataset)
        assert {left.recorded_id.int for left in manifest.left_out if left.reason == "withdrawn"} >= {3}
        assert 3 not in named_in(manifest)
        (rebuilt,) = await rebuild(tester, store, settings=SETTINGS, numbers={1})
        assert (rebuilt.outcome, rebuilt.decided) == ("identical", "anew")

    play(scenario, tmp_path)


def test_a_withdrawal_takes_nothing_out_of_what_is_sealed(tmp_path: Path) -> None:
    async def scenario(folder: Path, broker: MemoryBroker) -> None:
        store, before = await sealed_world(folder, broker)
        tester = MemoryBus(broker, reader="tester")
        await ask(tester, erasure(what="training"))
        await ask(tester, erasure(subject="c-nobody"))
        async with accumulating(MemoryBus(broker, reader="accumulator"), store, SETTINGS) as accumulator:
            await until(lambda: swept_after(accumulator) == 2, "the datasets are looked through")
        assert (await chain_of(tester)).batches == before.batches
        assert traces(folder / "store")

    play(scenario, tmp_path)


def test_what_came_after_the_request_is_kept(tmp_path: Path) -> None:
    async def scenario(folder: Path, broker: MemoryBroker) -> None:
        store, _ = await sealed_world(folder, broker)
        tester = MemoryBus(broker, reader="tester")
        # Of those planted, 3 occurred before; the others are new things under an old name.
        await ask(tester, erasure(requested_at=START + timedelta(seconds=5)))
        async with accumulating(MemoryBus(broker, reader="accumulator"), store, SETTINGS) as accumulator:
            await until(lambda: swept_after(accumulator) == 1, "the datasets are looked through")
        chain = await chain_of(tester)
        held: set[int] = set()
        for batch in chain.batches:
            held |= named_in(await load_manifest(store, batch.dataset))
        assert 3 not in held
        assert held & {11, 12, 30}

    play(scenario, tmp_path)


def test_of_a_replay_the_datasets_go_and_its_report_is_not_in_the_way(tmp_path: Path) -> None:
    async def scenario(folder: Path, broker: MemoryBroker) -> None:
        store, _ = await sealed_world(folder, broker)
        tester = MemoryBus(broker, reader="tester")
        await write_down(tester, *(told(n) for n in range(44)))
        made = await replay(tester, store, ReplayPolicy(LENIENT, SETTINGS, "stricter"))
        assert len([name for name, _ in await store.list_trees(kind=REPLAYS)]) > len(made.datasets)
        await ask(tester, erasure())
        async with accumulating(MemoryBus(broker, reader="accumulator"), store, SETTINGS) as accumulator:
            await until(lambda: swept_after(accumulator) == 1, "the store is swept")
        left = [reference.sha256 for _, reference in await store.list_trees(kind=REPLAYS)]
        assert made.summary.sha256 in left
        assert not traces(folder / "store")

    play(scenario, tmp_path)


def test_a_dataset_that_cannot_be_revised_is_shown_until_it_is_mended(tmp_path: Path) -> None:
    def blocked() -> float | None:
        labels = {"tenant": "default", "target": TARGET}
        return REGISTRY.get_sample_value("ruminate_datasets_revision_blocked", labels)

    async def scenario(folder: Path, broker: MemoryBroker) -> None:
        store, before = await sealed_world(folder, broker)
        files = {file.path: file.sha256 for file in store._files_of(before.batches[0].dataset)}
        manifest = store._blob(files["manifest.json"])
        whole = manifest.read_bytes()
        async with accumulating(MemoryBus(broker, reader="accumulator"), store, SETTINGS) as accumulator:
            await until(lambda: blocked() == 0, "the chain is shown")
            manifest.chmod(0o644)
            manifest.write_bytes(b"torn")
            await ask(MemoryBus(broker, reader="tester"), erasure())
            await until(lambda: blocked() == 1, "it is said that the dataset cannot be read")
            assert any("what has to be forgotten is still in a dataset" in reason for reason in accumulator.readiness())
            manifest.write_bytes(whole)
            await until(lambda: blocked() == 0 and not traces(folder / "store"), "it is gone on with")

    play(scenario, tmp_path)
