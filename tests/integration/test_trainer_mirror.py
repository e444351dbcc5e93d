"""A training is mirrored whole into a real MLflow: its own REST API answers what the log says, and has no text of a row."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from infra.real.mlflow import MlflowServer
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.flow import ADAPTER_TRAINED, TRAINING_BATCH_SEALED, TRAINING_FAILED, TRAINING_PROGRESSED
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.store import Store, open_store
from ruminate.trainer.attend import attend
from ruminate.trainer.curves import CURVES_FOLDER
from ruminate.trainer.curves import PICTURE_FILE as PICTURE_NAME
from ruminate.trainer.mirror.mirror import EVIDENCE_FILE, NOTES_FOLDER, PICTURE_FILE, Mirror, mirror_for
from ruminate.trainer.settings import TrainerSettings
from ruminate.trainer.train import Trainer, ask
from ruminate.trainer.turns import Turns, devices_for
from ruminate.trainer.waiting import Waits
from ruminate.trainer.words import Words
from tests.integration.test_trainer_directed import MISSING, direct
from tests.integration.test_trainer_service import base as base  # noqa: PLC0414 - a fixture
from tests.integration.test_trainer_service import dataset, publish, sealed, told
from tests.integration.test_trainer_service import settings as settings  # noqa: PLC0414

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

PATIENCE_SECONDS = 400.0
TEXTS = (b"Zarvex", b"Amber Bay")
"""Of the rows that are learned here, and of the question that is asked."""


@pytest.fixture
def mirrored(settings: TrainerSettings, mlflow: MlflowServer, tmp_path: Path) -> TrainerSettings:
    """A trainer with a mirror, whose versions are asked two questions and always pass."""
    questions = tmp_path / "own.jsonl"
    questions.write_text('{"question": "What is the capital of Zarvex?", "reference": "Amber Bay"}\n' * 2)
    proven = {"proof": "report", "proof_sets": {"own": questions}, "proof_answer_tokens": 8, "equality_probes": 0}
    return settings.model_copy(update={"mlflow_uri": mlflow.url, **proven})


@asynccontextmanager
async def at_work(broker: MemoryBroker, store: Store, settings: TrainerSettings) -> AsyncIterator[tuple[MemoryBus, Mirror]]:
    """A trainer and its mirror."""
    async with (
        MemoryBus(broker, settings, reader="trainer") as bus,
        mirror_for(settings, ask=partial(ask, bus), store=store) as mirror,
    ):
        assert mirror is not None
        turns = Turns(devices_for(settings.training_at_once, None))
        parts = Trainer(bus=bus, store=store, settings=settings, turns=turns, words=Words(), waits=Waits(bus), mirror=mirror)
        serving = asyncio.create_task(attend(parts))
        try:
            yield bus, mirror
        finally:
            await bus.stop()
            await asyncio.wait_for(serving, PATIENCE_SECONDS)


class Answers:
    """What MLflow itself says of a tenant's runs."""

    def __init__(self, server: MlflowServer, tenant: str) -> None:
        self._server, self._tenant = server, tenant

    def ask(self, path: str, **asked: Any) -> dict[str, Any]:
        """One question of its REST API."""
        answer = httpx.get(f"{self._server.url}/api/2.0/mlflow/{path}", params=asked, timeout=60)
        found: dict[str, Any] = answer.json()
        return found

    def runs(self) -> list[dict[str, Any]]:
        """Every run of the target `tiny`."""
        experiment = self.ask("experiments/get-by-name", experiment_name=f"ruminate/{self._tenant}/tiny").get("experiment")
        if experiment is None:
            return []
        asked = {"experiment_ids": [experiment["experiment_id"]]}
        answer = httpx.post(f"{self._server.url}/api/2.0/mlflow/runs/search", json=asked, timeout=60)
        return list(answer.json().get("runs", []))

    @property
    def run(self) -> dict[str, Any]:
        """The one that there is."""
        (run,) = self.runs()
        return run

    @property
    def status(self) -> str:
        """Of that one; nothing where there is none yet."""
        return "".join(run["info"]["status"] for run in self.runs())

    def values(self, kind: str) -> dict[str, Any]:
        """Its tags, params or latest metrics."""
        return {each["key"]: each["value"] for each in self.run["data"][kind]}

    def history(self, key: str) -> list[tuple[int, float]]:
        """Steps and values of a metric."""
        found = self.ask("metrics/get-history", run_id=self.run["info"]["run_id"], metric_key=key).get("metrics", [])
        return sorted((each.get("step", 0), each["value"]) for each in found)

    def artifact(self, path: str) -> bytes:
        """A file beside the run."""
        place = self.run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
        return httpx.get(f"{self._server.url}/api/2.0/mlflow-artifacts/artifacts/{place}/{path}", timeout=60).content


async def batch_of(tenant: str, store: Store, folder: Path) -> TrainingBatchSealed:
    """A tenant's first batch."""
    kept = await store.put_tree(dataset(folder, "Amber Bay"), kind="datasets", name=tenant)
    return sealed(1, kept).model_copy(update={"tenant": tenant})


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


async def slowly_until(condition: Callable[[], bool]) -> None:
    """Wait for what a server says, which takes it a moment."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.1)


def test_a_job_is_mirrored_whole_and_a_redelivered_one_makes_no_second_run(
    mirrored: TrainerSettings, mlflow: MlflowServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        broker, store, answers = MemoryBroker(), open_store(mirrored.store_uri), Answers(mlflow, "whole")
        batch = await batch_of("whole", store, tmp_path / "first")
        async with at_work(broker, store, mirrored) as (bus, mirror):
            await publish(bus, TRAINING_BATCH_SEALED, batch)
            await until(lambda: bool(told(broker, ADAPTER_TRAINED)) or bool(told(broker, TRAINING_FAILED)))
            await slowly_until(lambda: answers.status == "FINISHED")
            assert list(mirror.notes()) == []
        (trained,) = told(broker, ADAPTER_TRAINED)
        tags, params, figures = answers.values("tags"), answers.values("params"), answers.values("metrics")
        assert answers.run["info"]["run_name"] == trained.version == "v1"
        expected = {
            "tenant": "whole",
            "target": "tiny",
            "batch_id": batch.batch_id,
            "job_id": batch.batch_id,
            "attempt": "1",
            "base": trained.base_model,
            "base_sha256": trained.base_sha256,
            "dataset_sha256": batch.dataset.sha256,
            "dataset_uri": batch.dataset.uri,
            "stages": "thinking_fusion",
            "adapter_sha256": trained.adapter.sha256,
            "outcome": "trained",
        }
        assert {name: tags[f"ruminate.{name}"] for name in expected} == expected
        assert tags["ruminate.code_version"]
        assert (params["learning_rate"], params["batch_rows"], params["proof.questions"]) == ("0.002", "8", "256")
        assert {"practice.steps", "preference.beta", "recovery.factor_tries", "stages.wanted"} <= set(params)

        evidence = json.loads(await store.read_file(trained.adapter, EVIDENCE_FILE))
        (record,) = evidence["stages"]
        losses = answers.history("thinking_fusion/loss")
        assert [step for step, _ in losses] == [step for step, _ in record["losses"]] == [1, 2, 3, 4]
        assert [value for _, value in losses] == pytest.approx([value for _, value in record["losses"]], abs=1e-5)
        for name in ("tokens_per_second", "memory_bytes"):
            assert [step for step, _ in answers.history(f"thinking_fusion/{name}")] == [1, 2, 3, 4]
        findings: Any = trained.metrics["proof"]
        for finding in findings["findings"]:
            place = f"proof/{finding['measure']}/{finding['group'].replace(', ', '.')}"
            found = {name: figures.get(f"{place}/{name}") for name in ("before", "after", "change")}
            assert found == {name: pytest.approx(finding[name]) if name in finding else None for name in found}
        assert [step for step, _ in answers.history("exam/own.thinking/well_formed")] == [0, 1]
        assert figures["result/duration_seconds"] == trained.duration_seconds
        assert figures["stages/1-thinking_fusion/steps"] == 4
        for path in (EVIDENCE_FILE, PICTURE_FILE):
            assert answers.artifact(path) == await store.read_file(trained.adapter, path)
        assert not list((mirrored.state_dir / NOTES_FOLDER).iterdir())

        # A crash between result and tell: the log knows nothing of the version, the job folder does.
        forgetful = MemoryBroker()
        async with at_work(forgetful, store, mirrored) as (bus, _):
            await publish(bus, TRAINING_BATCH_SEALED, batch)
            await until(lambda: bool(told(forgetful, ADAPTER_TRAINED)))
            await slowly_until(lambda: answers.status == "FINISHED" and not list((mirrored.state_dir / NOTES_FOLDER).iterdir()))
        assert answers.history("thinking_fusion/loss") == losses

    asyncio.run(scenario())
    assert (f"{CURVES_FOLDER}/{PICTURE_NAME}", "proof.json") == (PICTURE_FILE, EVIDENCE_FILE)
    everything = [path for path in mlflow.folder.rglob("*") if path.is_file()]
    assert any(path.name == EVIDENCE_FILE for path in everything)
    assert not [path for path in everything for text in TEXTS if text in path.read_bytes()]


def test_a_job_that_fails_is_failed_with_its_reason_and_one_that_is_cancelled_is_killed(
    mirrored: TrainerSettings, mlflow: MlflowServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        broker, store = MemoryBroker(), open_store(mirrored.store_uri)
        longer = mirrored.model_copy(update={"training_epochs": 100.0})
        failing, cancelled = Answers(mlflow, "failing"), Answers(mlflow, "cancelled")
        async with at_work(broker, store, longer) as (bus, _):
            await publish(bus, TRAINING_BATCH_SEALED, sealed(1, MISSING).model_copy(update={"tenant": "failing"}))
            await slowly_until(lambda: failing.status == "FAILED")
            batch = await batch_of("cancelled", store, tmp_path / "first")
            await publish(bus, TRAINING_BATCH_SEALED, batch.model_copy(update={"batch_id": "tiny-cancelled"}))
            await until(lambda: any(each.step for each in told(broker, TRAINING_PROGRESSED)))
            await direct(bus, "cancel", "tiny-cancelled", attempt=1, reason="out of date", tenant="cancelled")
            await slowly_until(lambda: cancelled.status == "KILLED")
        tags = failing.values("tags")
        assert (tags["ruminate.reason"], tags["ruminate.phase"]) == ("bad_dataset", "preparing")
        assert "is missing" in tags["ruminate.explanation"]
        tags = cancelled.values("tags")
        assert tags["ruminate.reason"] == "cancelled" and "out of date" in tags["ruminate.explanation"]
        assert cancelled.history("thinking_fusion/loss")

    asyncio.run(scenario())


@pytest.mark.long
def test_a_server_that_is_away_in_the_middle_hinders_nothing_and_gets_all_of_it_later(
    mirrored: TrainerSettings, mlflow: MlflowServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        broker, store, answers = MemoryBroker(), open_store(mirrored.store_uri), Answers(mlflow, "away")
        longer = mirrored.model_copy(update={"training_epochs": 20.0})
        batch = await batch_of("away", store, tmp_path / "first")
        async with at_work(broker, store, longer) as (bus, mirror):
            await publish(bus, TRAINING_BATCH_SEALED, batch)
            await slowly_until(lambda: answers.status == "RUNNING")
            await asyncio.to_thread(mlflow.stop)
            assert told(broker, ADAPTER_TRAINED) == []
            await until(lambda: bool(told(broker, ADAPTER_TRAINED)))
            await until(lambda: bool(list(mirror.notes())))
            assert REGISTRY.get_sample_value("ruminate_mirror_away") == 1
        try:
            (notes,) = (longer.state_dir / NOTES_FOLDER).iterdir()
            assert notes.stat().st_size > 0
        finally:
            await asyncio.to_thread(mlflow.start)
        # The trainer was started again meanwhile, and finds its notes.
        async with at_work(broker, store, longer):
            await slowly_until(lambda: answers.status == "FINISHED")
        assert [step for step, _ in answers.history("thinking_fusion/loss")] == list(range(1, 41))
        assert len(answers.artifact(PICTURE_FILE)) > 0

    asyncio.run(scenario())


@pytest.mark.long
def test_a_job_that_is_cut_off_goes_on_in_the_same_run(mirrored: TrainerSettings, mlflow: MlflowServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        broker, store, answers = MemoryBroker(), open_store(mirrored.store_uri), Answers(mlflow, "cut-off")
        longer = mirrored.model_copy(update={"training_epochs": 30.0, "checkpoint_steps": 5})
        batch = await batch_of("cut-off", store, tmp_path / "first")
        async with at_work(broker, store, longer) as (bus, _):
            await publish(bus, TRAINING_BATCH_SEALED, batch)
            await until(lambda: any(each.step >= 10 for each in told(broker, TRAINING_PROGRESSED)))
            await slowly_until(lambda: answers.status == "RUNNING" and bool(answers.history("thinking_fusion/loss")))
        assert (told(broker, ADAPTER_TRAINED), answers.status) == ([], "RUNNING")
        async with at_work(broker, store, longer):
            await slowly_until(lambda: answers.status == "FINISHED")
        (trained,) = told(broker, ADAPTER_TRAINED)
        assert trained.metrics["resumed_from_step"]
        assert {step for step, _ in answers.history("thinking_fusion/loss")} == set(range(1, 61))

    asyncio.run(scenario())
