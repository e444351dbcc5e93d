"""The datasets of a chain, once more out of the log: the same bytes, or what is in the way."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ruminate.accumulator.making.dataset import load_manifest
from ruminate.accumulator.making.manifest import POLICY_VERSION, Rehearsed
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import REASONING_ASSESSED, TRAINING_BATCH_SEALED
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.store import FileStore
from tests.integration.recorded_log import SETTINGS, START, TARGET, Pieces, assess, chain_of, interaction, outcomes, rebuild, seal

Scenario = Callable[[MemoryBroker, FileStore, Pieces], Awaitable[None]]


def play(scenario: Scenario, folder: Path) -> None:
    """With three batches of a chain: rows of both kinds, rejected ones, repeats across batches and conversations that go on."""

    async def prepare() -> None:
        broker, store = MemoryBroker(), FileStore(folder / "store")
        bus = MemoryBus(broker, SETTINGS, reader="accumulator")
        await assess(bus, *some(0, 64))
        await seal(bus, store, 3)
        await scenario(broker, store, Pieces(folder / "store"))

    asyncio.run(prepare())


def some(begin: int, end: int) -> list[Any]:
    interactions = []
    for number in range(begin, end):
        changed: dict[str, Any] = {}
        if number % 7 == 3:
            changed["training_allowed"] = False
        if number % 6 == 5:
            changed |= {"conversation_id": f"c-{number - 1}", "continues_interaction": f"i-{number - 1}"}
        interactions.append(interaction(number, thinks=number % 5 != 0, **changed))
        if number % 4 == 0:
            interactions.append(interactions[len(interactions) // 2])
    return interactions


def command(broker: MemoryBroker) -> MemoryBus:
    return MemoryBus(broker, reader="command")


def test_every_batch_is_decided_anew_and_has_the_sealed_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(broker: MemoryBroker, store: FileStore, pieces: Pieces) -> None:
        # What the environment says is not what the batches were cut with.
        monkeypatch.setenv("RUMINATE_INDICATOR_WEIGHTS", '{"why": 5}')
        monkeypatch.setenv("RUMINATE_SHUFFLE_SEED", "9")
        other = AccumulatorSettings(holdout_ratio=0, min_reasoning_ratio=0.2)
        for _ in range(2):
            rebuilt = await rebuild(command(broker), store, settings=other)
            assert outcomes(rebuilt) == ["identical"] * len(rebuilt)
            assert len(rebuilt) >= 3
            assert all(each.decided == "anew" and each.artifact == "whole" and not each.put_back for each in rebuilt)

    play(scenario, tmp_path)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("without_manifests", [True, False])
def test_rehearsed_rows_with_written_thinking_are_counted_in_the_log_and_what_earlier_releases_sealed_is_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: bool, without_manifests: bool
) -> None:
    settings = SETTINGS.model_copy(update={"generated_most_ratio": 0.5})

    def silent(**told: Any) -> Rehearsed:
        return Rehearsed(**told | {"generated_thinking": False})

    async def scenario() -> None:
        broker, store = MemoryBroker(), FileStore(tmp_path / "store")
        bus = MemoryBus(broker, settings, reader="accumulator")
        asked = [interaction(number, thinks=number % 3 != 0) for number in range(48)]
        wrote = {
            each.recorded_id: [
                EvidenceRecorded(
                    recorded_id=each.recorded_id,
                    conversation_id=each.conversation_id,
                    kind="thinking",
                    said_by="writer",
                    said_at=START,
                    thinking="One more is one more.",
                    model="m",
                )
            ]
            for each in asked
            if each.response.thinking is None
        }
        await assess(bus, *asked, evidence=wrote)
        with monkeypatch.context() as earlier:
            if not counted:
                earlier.setattr("ruminate.accumulator.making.make.Rehearsed", silent)
            await seal(bus, store, 3, settings)
        batches = (await chain_of(command(broker))).batches
        counts = [(await load_manifest(store, batch.dataset)).counts for batch in batches]
        announced = [batch.replay_generated_rows for batch in batches]
        assert announced == [each.get("replay_generated", 0) for each in counts]
        assert any(announced) is counted
        rebuilt = await rebuild(command(broker), store, settings=settings, without_manifests=without_manifests)
        assert outcomes(rebuilt) == ["identical"] * len(batches), [each.explanation for each in rebuilt]

    asyncio.run(scenario())


@pytest.mark.parametrize("lost", ["train.jsonl", "holdout.jsonl", "manifest.json", "tree", "everything"])
def test_what_the_store_has_lost_or_damaged_is_put_back(tmp_path: Path, lost: str) -> None:
    async def scenario(broker: MemoryBroker, store: FileStore, pieces: Pieces) -> None:
        # Two that hold something out: what is empty is one blob for all of them.
        first, second = [batch for batch in (await chain_of(command(broker))).batches if batch.holdout_rows][:2]
        if lost == "everything":
            shutil.rmtree(pieces.root)
        else:
            (pieces.tree(first) if lost == "tree" else pieces.blob_of(first, lost)).unlink()
            (pieces.tree(second) if lost == "tree" else pieces.blob_of(second, lost)).write_bytes(b"damaged")
        rebuilt = await rebuild(command(broker), store, numbers={first.number, second.number})
        assert outcomes(rebuilt) == ["identical", "identical"]
        assert [each.artifact for each in rebuilt] == ["missing", "missing" if lost == "everything" else "damaged"]
        assert all(each.put_back for each in rebuilt)
        without = lost not in ("train.jsonl", "holdout.jsonl")
        assert {each.decided for each in rebuilt} == {"without_manifest" if without else "anew"}
        for batch in (first, second):
            await store.check(batch.dataset)
            assert (await load_manifest(store, batch.dataset)).batch_id == batch.batch_id

    play(scenario, tmp_path)


def test_the_log_and_equal_settings_are_enough(tmp_path: Path) -> None:
    async def scenario(broker: MemoryBroker, store: FileStore, pieces: Pieces) -> None:
        rebuilt = await rebuild(command(broker), store, without_manifests=True)
        assert outcomes(rebuilt) == ["identical"] * len(rebuilt)
        assert {each.decided for each in rebuilt} == {"without_manifest"}
        (last,) = await rebuild(command(broker), store, without_manifests=True, numbers={3})
        assert (last.batch.number, last.outcome) == (3, "identical")

    play(scenario, tmp_path)


def test_other_settings_without_a_manifest_are_told_by_the_sealed_hash(tmp_path: Path) -> None:
    async def scenario(broker: MemoryBroker, store: FileStore, pieces: Pieces) -> None:
        other = SETTINGS.model_copy(update={"shuffle_seed": 1})
        rebuilt = await rebuild(command(broker), store, settings=other, without_manifests=True)
        assert outcomes(rebuilt) == ["differs", *["incomplete"] * (len(rebuilt) - 1)]
        assert "RUMINATE_*" in rebuilt[0].explanation
        assert "batch 1" in rebuilt[1].explanation

    play(scenario, tmp_path)


def test_a_batch_without_a_manifest_is_tried_with_the_values_of_its_neighbours(tmp_path: Path) -> None:
    async def scenario(broker: MemoryBroker, store: FileStore, pieces: Pieces) -> None:
        pieces.tree((await chain_of(command(broker))).batches[1]).unlink()
        other = AccumulatorSettings(holdout_ratio=0)
        rebuilt = await rebuild(command(broker), store, settings=other)
        assert outcomes(rebuilt) == ["identical"] * len(rebuilt)
        assert [each.decided for each in rebuilt][:3] == ["anew", "without_manifest", "anew"]

    play(scenario, tmp_path)


def test_a_store_that_was_moved_is_told_where_the_sealed_records_point(tmp_path: Path) -> None:
    async def scenario(broker: MemoryBroker, store: FileStore, pieces: Pieces) -> None:
        pieces.root.rename(tmp_path / "moved")
        (rebuilt,) = await rebuild(command(broker), FileStore(tmp_path / "moved"), numbers={1})
        assert (rebuilt.outcome, rebuilt.put_back, rebuilt.whole_now) == ("identical", False, False)
        assert f"points to {rebuilt.batch.dataset.uri}, out of this store" in rebuilt.explanation
        assert not pieces.root.exists()

    play(scenario, tmp_path)


def vanish(broker: MemoryBroker, offset: int) -> str:
    """Take a record out of the log, as compaction does after a tombstone; give its event id."""
    partition = MemoryBus(broker, reader="tester").partition_of(REASONING_ASSESSED, f"default/{TARGET}")
    records = broker._partitions[REASONING_ASSESSED.name, partition]
    gone = records[offset]
    records[offset] = type(gone)(gone.topic, gone.partition, gone.offset, gone.timestamp, gone.key, None, [])
    return (gone.key or b"").decode()


def vanish_event(broker: MemoryBroker, event_id: str) -> None:
    partition = MemoryBus(broker, reader="tester").partition_of(REASONING_ASSESSED, f"default/{TARGET}")
    for record in broker.records(REASONING_ASSESSED.name, partition):
        if record.key == event_id.encode():
            vanish(broker, record.offset)


def test_a_row_that_was_erased_is_named_and_nothing_is_made_up(tmp_path: Path) -> None:
    async def scenario(broker: MemoryBroker, store: FileStore, pieces: Pieces) -> None:
        second = (await chain_of(command(broker))).batches[1]
        row = (await load_manifest(store, second.dataset)).rows[0]
        vanish_event(broker, row.event_id)
        pieces.blob_of(second, "train.jsonl").unlink()
        rebuilt = await rebuild(command(broker), store)
        assert outcomes(rebuilt) == ["identical", *["incomplete"] * (len(rebuilt) - 1)]
        assert (row.offset, row.event_id, True) in [(each.offset, each.event, each.taught) for each in rebuilt[1].vanished]
        assert "rows of an earlier batch are trained with it" in rebuilt[2].explanation
        assert rebuilt[1].explanation.startswith("1 of ")
        assert not pieces.blob_of(second, "train.jsonl").exists()

    play(scenario, tmp_path)


def test_where_only_what_was_left_out_is_gone_the_manifest_still_gives_the_bytes(tmp_path: Path) -> None:
    async def scenario(broker: MemoryBroker, store: FileStore, pieces: Pieces) -> None:
        first = (await chain_of(command(broker))).batches[0]
        manifest = await load_manifest(store, first.dataset)
        left = next(left for left in manifest.left_out if left.reason == "not_allowed")
        vanish(broker, left.offset)
        pieces.blob_of(first, "train.jsonl").unlink()
        (rebuilt,) = await rebuild(command(broker), store, numbers={1})
        assert (rebuilt.outcome, rebuilt.decided, rebuilt.put_back) == ("identical", "by_manifest", True)
        assert [(each.offset, each.taught) for each in rebuilt.vanished] == [(left.offset, False)]

    play(scenario, tmp_path)


def test_a_repeat_that_compaction_left_stands_in_for_the_first(tmp_path: Path) -> None:
    async def scenario(broker: MemoryBroker, store: FileStore, pieces: Pieces) -> None:
        bus = command(broker)
        await assess(bus, *some(0, 64))
        partition = bus.partition_of(REASONING_ASSESSED, f"default/{TARGET}")
        records = broker.records(REASONING_ASSESSED.name, partition)
        last = {record.key: record.offset for record in records}
        for record in records:
            if last[record.key] != record.offset:
                vanish(broker, record.offset)
        rebuilt = await rebuild(bus, store)
        assert outcomes(rebuilt) == ["identical"] * len(rebuilt)
        assert {each.decided for each in rebuilt} == {"anew"}

    play(scenario, tmp_path)


def test_a_manifest_of_an_unknown_policy_version_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(broker: MemoryBroker, store: FileStore, pieces: Pieces) -> None:
        monkeypatch.setattr("ruminate.accumulator.rebuilding.rebuild.POLICY_VERSION", "batch-99")
        rebuilt = await rebuild(command(broker), store)
        assert outcomes(rebuilt) == ["unknown_policy"] * len(rebuilt)
        assert POLICY_VERSION in rebuilt[0].explanation
        assert "--policy" in rebuilt[0].explanation

    play(scenario, tmp_path)


def test_rows_that_come_out_otherwise_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(broker: MemoryBroker, store: FileStore, pieces: Pieces) -> None:
        first = (await chain_of(command(broker))).batches[0]
        row, *_ = (await load_manifest(store, first.dataset)).rows
        partition = command(broker).partition_of(REASONING_ASSESSED, f"default/{TARGET}")
        records = broker._partitions[REASONING_ASSESSED.name, partition]
        was = records[row.offset]
        value = (was.value or b"").replace(b"The answer is", b"The reply is")
        records[row.offset] = type(was)(was.topic, was.partition, was.offset, was.timestamp, was.key, value, was.headers)
        (rebuilt,) = await rebuild(command(broker), store, numbers={1})
        assert rebuilt.outcome == "differs"
        assert rebuilt.differences == (f"row of offset {row.offset} (event {row.event_id}): sha256, content differ",)

    play(scenario, tmp_path)


def test_a_batch_that_came_second_is_no_part_of_the_chain(tmp_path: Path) -> None:
    async def scenario(broker: MemoryBroker, store: FileStore, pieces: Pieces) -> None:
        chain = await chain_of(command(broker))
        bus = command(broker)
        second = chain.batches[1]
        await bus.publish(TRAINING_BATCH_SEALED, second, bus.begin(TRAINING_BATCH_SEALED, second))
        assert await chain_of(bus) == chain

    play(scenario, tmp_path)
