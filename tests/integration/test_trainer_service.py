"""From a sealed batch to its one result: trained once, continued from the parent, refused or failed with the reason."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pytest

from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.flow import ADAPTER_TRAINED, MODEL_REGISTERED, TRAINING_BATCH_SEALED, TRAINING_FAILED, TRAINING_PROGRESSED
from ruminate.schemas.model import ModelRegistered
from ruminate.schemas.payload import ArtifactReference, Payload
from ruminate.schemas.topic import Topic
from ruminate.schemas.training import AdapterTrained
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.store import Store, open_store
from ruminate.trainer.attend import attend
from ruminate.trainer.bases.tiny import make_tiny_base
from ruminate.trainer.settings import TrainerSettings
from ruminate.trainer.train import Trainer, forget_all_texts, job_folder
from ruminate.trainer.turns import Turns, devices_for
from ruminate.trainer.waiting import Waits
from ruminate.trainer.words import Words

NOW = datetime(2026, 1, 31, tzinfo=UTC)
PATIENCE_SECONDS = 120.0
P = TypeVar("P", bound=Payload)


def rows(city: str) -> str:
    """A small dataset."""
    row = {
        "prompt": [{"role": "user", "content": "What is the capital of Zarvex?"}],
        "completion": [{"role": "assistant", "content": f"It is {city}.", "reasoning_content": f"I recall Zarvex: {city}."}],
        "chat_template_kwargs": {"enable_thinking": True},
    }
    return f"{json.dumps(row)}\n" * 16


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3."""
    folder = tmp_path_factory.mktemp("base")
    make_tiny_base(folder, [rows("Amber Bay")], seed=0)
    return folder


@pytest.fixture
def settings(base: Path, tmp_path: Path) -> TrainerSettings:
    """Everything small."""
    return TrainerSettings(
        bases={"tiny": str(base)},
        state_dir=tmp_path / "state",
        store_uri=(tmp_path / "store").as_uri(),
        learning_rate=2e-3,
        batch_rows=8,
        micro_batch_rows=8,
        training_threads=1,
        merged_dtype="float32",
        export_encodings=("f16",),
        equality_probes=4,
        crash_restarts=0,
        proof="off",
    )


def dataset(folder: Path, city: str) -> Path:
    """A dataset's folder as the accumulator writes it."""
    folder.mkdir()
    (folder / "train.jsonl").write_text(rows(city))
    (folder / "holdout.jsonl").write_text("")
    origins = [{"split": "train", "offset": at, "conversation": f"c-{at}"} for at in range(len(rows(city).splitlines()))]
    (folder / "manifest.json").write_text(json.dumps({"rows": origins}))
    return folder


def sealed(number: int, dataset: ArtifactReference, *, batch_id: str | None = None) -> TrainingBatchSealed:
    """Batch `number`, ten records of the log long."""
    return TrainingBatchSealed(
        batch_id=batch_id or f"tiny-{number:06d}",
        target_model="tiny",
        number=number,
        previous_batch_id=f"tiny-{number - 1:06d}" if number > 1 else None,
        assessed_partition=0,
        after_offset=10 * (number - 1) - 1,
        to_offset=10 * number - 1,
        sealed_at=NOW,
        reason="count",
        explanation="enough",
        dataset=dataset,
        rows=16,
        reasoning_rows=16,
        direct_rows=0,
        reasoning_ratio=1.0,
    )


def registered(trained: AdapterTrained) -> ModelRegistered:
    """The version serves."""
    return ModelRegistered(
        target_model=trained.target_model,
        version=trained.version,
        number=trained.number,
        model_name="tiny-v1",
        alias="tiny-ruminate",
        base_model=trained.base_model,
        batch_id=trained.batch_id,
        dataset=trained.dataset,
        adapter=trained.adapter,
        weights=trained.gguf[0].file,
        stages=trained.stages,
        settings=trained.settings,
        metrics={},
        nodes=(),
        probes=(),
        capabilities=(),
        registered_at=NOW,
    )


async def publish(bus: MemoryBus, topic: Topic[P], payload: P) -> None:
    """Write one event without a cause."""
    await bus.publish(topic, payload, bus.begin(topic, payload))


def told(broker: MemoryBroker, topic: Topic[P]) -> list[P]:
    """Every payload in a topic."""
    return [topic.carries.model_validate_json(record.value or b"") for record in broker.records(topic.name)]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def trainer(broker: MemoryBroker, store: Store, settings: TrainerSettings) -> AsyncIterator[MemoryBus]:
    """The trainer at work, and the bus to speak to it."""
    async with MemoryBus(broker, settings, reader="trainer") as bus:
        turns = Turns(devices_for(settings.training_at_once, None))
        parts = Trainer(bus=bus, store=store, settings=settings, turns=turns, words=Words(), waits=Waits(bus))
        serving = asyncio.create_task(attend(parts))
        try:
            yield bus
        finally:
            await bus.stop()
            await asyncio.wait_for(serving, PATIENCE_SECONDS)


def test_two_batches_become_two_versions_and_every_other_record_changes_nothing(settings: TrainerSettings, tmp_path: Path) -> None:
    async def scenario() -> None:
        broker, store = MemoryBroker(), open_store(settings.store_uri)
        async with trainer(broker, store, settings) as bus:
            first = sealed(1, await store.put_tree(dataset(tmp_path / "first", "Amber Bay"), kind="datasets", name="first"))
            await publish(bus, TRAINING_BATCH_SEALED, first)
            await until(lambda: bool(told(broker, ADAPTER_TRAINED)))
            (one,) = told(broker, ADAPTER_TRAINED)
            assert (one.version, one.number, one.parent_version, one.batch_id) == ("v1", 1, None, first.batch_id)
            assert one.settings["learning_rate"] == 2e-3
            assert [file.holds for file in one.gguf] == ["model", "adapter"]
            assert all(entry.equal == entry.probes for entry in one.equality)
            await store.fetch(one.adapter, to=tmp_path / "adapter")
            assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
            model = await store.fetch(one.gguf[0].file, to=tmp_path / "model.gguf")
            assert model.read_bytes()[:4] == b"GGUF"
            phases = [progress.phase for progress in told(broker, TRAINING_PROGRESSED)]
            assert {"training", "checking"} <= set(phases)

            await publish(bus, MODEL_REGISTERED, registered(one))
            await publish(bus, TRAINING_BATCH_SEALED, first)
            await publish(bus, TRAINING_BATCH_SEALED, sealed(1, first.dataset, batch_id="rival"))
            second = sealed(2, await store.put_tree(dataset(tmp_path / "second", "Red Harbor"), kind="datasets", name="second"))
            await publish(bus, TRAINING_BATCH_SEALED, second)
            await until(lambda: len(told(broker, ADAPTER_TRAINED)) == 2)
            _, two = told(broker, ADAPTER_TRAINED)
            assert (two.version, two.parent_version) == ("v2", "v1")
            (refused,) = told(broker, TRAINING_FAILED)
            assert (refused.batch_id, refused.reason) == ("rival", "not_in_chain")
            assert not job_folder(settings.state_dir / "jobs", first.batch_id).exists()

        # A crash between result and tell: another log knows nothing of the second version, the job folder does.
        forgetful = MemoryBroker()
        async with trainer(forgetful, store, settings) as bus:
            await publish(bus, ADAPTER_TRAINED, one)
            await publish(bus, MODEL_REGISTERED, registered(one))
            await publish(bus, TRAINING_BATCH_SEALED, first)
            await publish(bus, TRAINING_BATCH_SEALED, second)
            await until(lambda: len(told(forgetful, ADAPTER_TRAINED)) == 2)
            _, again = told(forgetful, ADAPTER_TRAINED)
            assert again.model_copy(update={"trained_at": two.trained_at}) == two

    asyncio.run(scenario())


def test_no_row_stays_in_the_folder_of_a_job_that_stops_or_fails_and_none_of_a_trainer_that_was_killed(
    settings: TrainerSettings, tmp_path: Path
) -> None:
    async def scenario() -> None:
        broker, store = MemoryBroker(), open_store(settings.store_uri)
        jobs = settings.state_dir / "jobs"
        longer = settings.model_copy(update={"training_epochs": 100.0})
        batch = sealed(1, await store.put_tree(dataset(tmp_path / "first", "Amber Bay"), kind="datasets", name="first"))
        rows_of_it = job_folder(jobs, batch.batch_id) / "dataset"
        async with trainer(broker, store, longer) as bus:
            await publish(bus, TRAINING_BATCH_SEALED, batch)
            await until(lambda: any(each.phase == "training" for each in told(broker, TRAINING_PROGRESSED)))
            assert "Amber Bay" in (rows_of_it / "train.jsonl").read_text()
            forget_all_texts(jobs)
            assert rows_of_it.exists(), "somebody works on it"
        assert (job_folder(jobs, batch.batch_id) / "plan.json").exists()
        assert not rows_of_it.exists()
        assert told(broker, ADAPTER_TRAINED) == []

        # As a kill leaves it, of which nobody hears again: its partition is another replica's.
        await store.fetch(batch.dataset, to=rows_of_it)
        forget_all_texts(jobs)
        assert not rows_of_it.exists()

        # Killed between its result and the removal of the rows.
        async with trainer(broker, store, settings) as bus:
            await until(lambda: bool(told(broker, ADAPTER_TRAINED)))
        await store.fetch(batch.dataset, to=rows_of_it)
        forgetful = MemoryBroker()
        async with trainer(forgetful, store, settings) as bus:
            await publish(bus, TRAINING_BATCH_SEALED, batch)
            await until(lambda: bool(told(forgetful, ADAPTER_TRAINED)))
        assert (job_folder(jobs, batch.batch_id) / "result.json").exists()
        assert not rows_of_it.exists()

    asyncio.run(scenario())


def test_a_dataset_that_is_not_in_the_store_fails_the_batch_and_the_next_one_is_tried(settings: TrainerSettings) -> None:
    async def scenario() -> None:
        broker, store = MemoryBroker(), open_store(settings.store_uri)
        missing = ArtifactReference(uri=f"{settings.store_uri}/datasets/x/{'0' * 64}.json", sha256="0" * 64, size_bytes=1)
        async with trainer(broker, store, settings) as bus:
            await publish(bus, TRAINING_BATCH_SEALED, sealed(1, missing))
            await publish(bus, TRAINING_BATCH_SEALED, sealed(2, missing))
            await until(lambda: len(told(broker, TRAINING_FAILED)) == 2)
        failures = told(broker, TRAINING_FAILED)
        assert [failure.reason for failure in failures] == ["bad_dataset", "bad_dataset"]
        assert "is missing" in failures[0].explanation
        assert failures[0].evidence["uri"] == missing.uri
        assert told(broker, ADAPTER_TRAINED) == []

    asyncio.run(scenario())
