"""MLflow is told of each job what its plan, progress, result and evidence say in figures; nothing is lost unsaid, nobody waits."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr, ValidationError

from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.payload import ArtifactReference
from ruminate.schemas.training import AdapterTrained, TokenEquality, TrainingFailed
from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.settings import problems_of
from ruminate.shared.store import FileStore
from ruminate.trainer.decide import History, decide
from ruminate.trainer.mirror.mirror import Account, Mirror
from ruminate.trainer.mirror.mlflow import Mlflow
from ruminate.trainer.mirror.notes import Note, Notes, NotesTaken
from ruminate.trainer.mirror.translate import (
    Point,
    curves_in,
    ending_of,
    exams_in,
    is_in,
    key_of,
    params_of,
    params_to_tell,
    points_of,
    result_in,
    tags_of,
    untold,
)
from ruminate.trainer.outcome import Progress
from ruminate.trainer.plan import JobPlan
from ruminate.trainer.settings import TrainerSettings
from tests.unit.mlflow_in_memory import Ledger
from tests.unit.test_trainer_decide import ARTIFACT, NOW, POLICY, log_of, sealed

BATCH = sealed(1)
NOW_MS = int(NOW.timestamp() * 1000)
TEXT = "What is the capital of Zarvex?"


def plan_of(batch: TrainingBatchSealed) -> JobPlan:
    """What would be made of it."""
    plan = decide(batch, 0, History(sealed=log_of(batch)), POLICY)
    assert isinstance(plan, JobPlan)
    return plan


PLAN = plan_of(BATCH)
FINDING = {
    "measure": "right",
    "group": "school-problems, thinking",
    "verdict": "lost",
    "questions": 256,
    "before": 0.5,
    "after": 0.25,
    "change": -0.25,
    "because": "50.0% before, 25.0% after",
}
RECORD: dict[str, Any] = {
    "stage": "thinking_fusion",
    "attempts": [{"kept": True, "explanation": "kept"}],
    "train_loss": 0.5,
    "steps": 4,
    "stopped_early": False,
    "device": "cpu",
}


def trained(**changed: Any) -> AdapterTrained:
    """The version of the batch."""
    given: dict[str, Any] = {
        "job_id": BATCH.batch_id,
        "batch_id": BATCH.batch_id,
        "target_model": "tiny",
        "version": "v1",
        "number": 1,
        "base_model": "/bases/tiny",
        "base_sha256": "b" * 64,
        "adapter": ARTIFACT,
        "gguf": (),
        "dataset": ARTIFACT,
        "stages": ("thinking_fusion",),
        "settings": {},
        "metrics": {
            "train_loss": 0.5,
            "device": "cpu",
            "rows": 100,
            "seconds": {"training": 1.5},
            "stages": [RECORD],
            "proof": {"kept": False, "learned": True, "findings": [FINDING]},
            "stages_left_out": {"cold_start": TEXT},
        },
        "equality": (TokenEquality(encoding="f16", method="free-running", probes=4, equal=4),),
        "duration_seconds": 2.5,
        "trained_at": NOW,
    }
    return AdapterTrained(**{**given, **changed})


def failed(reason: str = "reasoning_lost", **changed: Any) -> TrainingFailed:
    """Its failure."""
    given: dict[str, Any] = {
        "job_id": BATCH.batch_id,
        "batch_id": BATCH.batch_id,
        "target_model": "tiny",
        "phase": "measuring",
        "reason": reason,
        "explanation": "it was not kept",
        "evidence": {"findings": [FINDING], "update_norm": 0.25, "stages": [RECORD], "stderr": [TEXT], "step": 7},
        "failed_at": NOW,
    }
    return TrainingFailed(**{**given, **changed})


# --- what is told ---------------------------------------------------------------------------------------------------


def test_a_run_is_named_and_tagged_by_what_it_is_about_and_has_every_hyperparameter() -> None:
    tags = tags_of(BATCH, PLAN, 2, "1.2.3")
    assert tags["ruminate.batch_id"] == tags["ruminate.job_id"] == BATCH.batch_id
    assert (tags["ruminate.attempt"], tags["ruminate.version"], tags["ruminate.base"]) == ("2", "v1", "/bases/tiny")
    assert (tags["ruminate.dataset_sha256"], tags["ruminate.dataset_uri"]) == (ARTIFACT.sha256, ARTIFACT.uri)
    assert (tags["ruminate.code_version"], tags["mlflow.source.type"]) == ("1.2.3", "JOB")
    assert "ruminate.parent_version" not in tags
    params = params_of(PLAN)
    assert (params["epochs"], params["batch_rows"], params["practice.steps"]) == ("3.0", "16", "200")
    assert (params["encodings"], params["rehearsal_epochs"], params["proof.enforcement"]) == ('["f16"]', "null", "enforce")
    hyperparameters = PLAN.hyperparameters.model_dump()
    assert all(name in params or any(each.startswith(f"{name}.") for each in params) for name in hyperparameters)


def test_an_attempt_has_one_key_and_another_attempt_or_log_has_another() -> None:
    assert key_of(BATCH, 1) == key_of(BATCH.model_copy(update={"rows": 7}), 1)
    of_another_log = BATCH.model_copy(update={"sealed_at": NOW + timedelta(days=1)})
    assert len({key_of(BATCH, 1), key_of(BATCH, 2), key_of(of_another_log, 1)}) == 3
    assert is_in(History(sealed=log_of(BATCH)), BATCH)
    assert not is_in(History(sealed=log_of(of_another_log)), BATCH)


def test_params_of_a_run_that_goes_on_with_others_become_tags_for_mlflow_lets_none_change() -> None:
    assert params_to_tell({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "1"}) == ({"c": "3"}, {"ruminate.changed.b": "2"})


def test_progress_becomes_points_by_stage_and_step_and_a_phase_has_none() -> None:
    progress = Progress(phase="training", stage="reasoning_rl", step=3, steps=9, loss=0.5, reward=0.0, memory_bytes=10)
    assert set(points_of(progress, 5)) == {
        Point("reasoning_rl/loss", 0.5, 5, 3),
        Point("reasoning_rl/reward", 0.0, 5, 3),
        Point("reasoning_rl/memory_bytes", 10.0, 5, 3),
    }
    assert list(points_of(Progress(phase="exporting"), 5)) == []


def test_a_version_ends_its_run_with_every_figure_of_its_result_and_no_sentence() -> None:
    ending = ending_of(trained())
    assert (ending.status, ending.at_ms) == ("FINISHED", NOW_MS)
    told = {point.key: point.value for point in ending.points}
    assert told["result/train_loss"] == 0.5 and told["result/seconds/training"] == 1.5 and told["result/rows"] == 100
    assert told["stages/1-thinking_fusion/steps"] == 4 and told["stages/1-thinking_fusion/attempts"] == 1
    assert (told["proof/kept"], told["proof/learned"]) == (0.0, 1.0)
    measure = "proof/right/school-problems.thinking"
    assert [told[f"{measure}/{name}"] for name in ("before", "after", "change", "questions", "passed")] == [
        0.5,
        0.25,
        -0.25,
        256,
        0,
    ]
    assert told["equality/f16/free-running/equal"] == 4
    assert ending.tags["ruminate.stages"] == "thinking_fusion" and ending.tags["ruminate.device"] == "cpu"
    assert TEXT not in repr(ending)


@pytest.mark.parametrize(("reason", "status"), [("reasoning_lost", "FAILED"), ("cancelled", "KILLED")])
def test_a_failure_ends_its_run_with_its_reason_and_the_figures_of_its_evidence(reason: str, status: str) -> None:
    ending = ending_of(failed(reason))
    assert (ending.status, ending.at_ms) == (status, NOW_MS)
    assert ending.tags["ruminate.reason"] == reason and ending.tags["ruminate.explanation"] == "it was not kept"
    told = {point.key: point.value for point in ending.points}
    assert (told["result/update_norm"], told["result/step"], told["proof/right/school-problems.thinking/after"]) == (0.25, 7, 0.25)
    assert TEXT not in repr(ending)


def test_of_an_attempt_the_version_counts_and_otherwise_the_first_failure_and_none_of_another_attempt() -> None:
    first, second = failed(), failed("crashed")
    assert result_in(History(sealed=(), failed=(first, second)), BATCH, 1) is first
    assert result_in(History(sealed=(), failed=(first,), trained=(version := trained(attempt=2),)), BATCH, 2) is version
    assert result_in(History(sealed=(), failed=(first,)), BATCH, 2) is None


EVIDENCE: dict[str, Any] = {
    "groups": ["own, thinking", "own, direct", "own, thinking"],
    "before": [
        {
            "answers": [
                {"right": right, "well_formed": True, "obedient": True, "thinking_tokens": 4, "answer_tokens": 2, "cut": False}
                for right in (True, None, False)
            ],
            "row_losses": [1.0, 3.0],
            "trace_losses": [],
        }
    ],
    "after": None,
    "stages": [{**RECORD, "losses": [[1, 2.0], [2, 1.0]], "rewards": [], "looks": [[2, 1.5]]}],
}


def test_the_evidence_has_curves_and_exams_and_only_what_a_run_has_not_got_is_told_of_them() -> None:
    assert list(curves_in(EVIDENCE, 5)) == [
        Point("thinking_fusion/loss", 2.0, 5, 1),
        Point("thinking_fusion/loss", 1.0, 5, 2),
        Point("thinking_fusion/held_out_loss", 1.5, 5, 2),
    ]
    left = untold(curves_in(EVIDENCE, 5), {"thinking_fusion/loss": frozenset({1})})
    assert [(point.key, point.step) for point in left] == [("thinking_fusion/loss", 2), ("thinking_fusion/held_out_loss", 2)]
    told = {point.key: (point.value, point.step) for point in exams_in(EVIDENCE, 5)}
    assert told["exam/own.thinking/right"] == (0.5, 0) and told["exam/row_loss"] == (2.0, 0)
    assert "exam/own.direct/right" not in told and told["exam/own.direct/well_formed"] == (1.0, 0)
    after = {**EVIDENCE, "after": EVIDENCE["before"][0]}
    assert {point.step for point in exams_in(after, 5)} == {0, 1}


def test_names_are_such_as_mlflow_takes_whatever_a_set_of_questions_is_called() -> None:
    odd = {**FINDING, "group": "a/b: «c» (d), direct"}
    told = {point.key for point in ending_of(failed(evidence={"findings": [odd]})).points}
    assert "proof/right/a_b_ _c_ _d_.direct/after" in told


# --- notes ----------------------------------------------------------------------------------------------------------


def test_notes_outlive_a_kill_and_a_half_written_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "mlflow" / "job.jsonl"
    with Notes(path) as notes:
        notes.add(Note(at_ms=1, batch=BATCH, plan=PLAN))
        notes.add(Note(at_ms=2, progress=Progress(phase="training")))
        with pytest.raises(NotesTaken):
            Notes(path)
    with path.open("ab") as file:
        file.write(b'{"at_ms": 3, "progr')
    with Notes(path) as notes:
        notes.add(Note(at_ms=4, progress=Progress(phase="exporting")))
        found, offset, damaged = notes.after(0)
        assert ([note.at_ms for note in found], offset, damaged) == ([1, 2, 4], path.stat().st_size, 0)
        assert (found[0].batch, found[0].plan) == (BATCH, PLAN)
        assert notes.after(offset) == ([], offset, 0)
        notes.remove()
    assert not path.exists()


def test_a_damaged_line_is_counted_and_a_very_long_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "job.jsonl"
    line = Note(at_ms=1, batch=BATCH, plan=PLAN).model_dump_json().encode()
    path.write_bytes(b"no note\n{" + b" " * 300_000 + line[1:] + b"\n")
    with Notes(path) as notes:
        first, offset, damaged = notes.after(0)
        assert (first, damaged) == ([], 1)
        second, end, damaged = notes.after(offset)
        assert (len(second), end, damaged) == (1, path.stat().st_size, 0)


# --- telling --------------------------------------------------------------------------------------------------------


@dataclass
class World:
    """A mirror over a server in memory, and a log that says what a test wants."""

    folder: Path
    ledger: Ledger = field(default_factory=Ledger)
    history: History = field(default_factory=lambda: History(sealed=log_of(BATCH)))
    broker_away: bool = False

    def mirror(self) -> Mirror:
        """One more trainer's."""

        async def ask(_: TrainingBatchSealed) -> History:
            if self.broker_away:
                raise BrokerUnavailable("away")
            return self.history

        server = Mlflow(self.ledger.client(), lambda: None)
        store = FileStore(self.folder / "store")
        return Mirror(server, self.folder / "notes", ask=ask, store=store, uri="http://mlflow", code_version="1", replica="0")

    async def until_told(self, mirror: Mirror) -> None:
        """Rounds, until no notes are left."""
        async with asyncio.timeout(20):
            while list((self.folder / "notes").glob("*.jsonl")):
                await mirror.round()
                await asyncio.sleep(0.01)

    @property
    def run(self) -> dict[str, Any]:
        """The one run that there is."""
        (run,) = self.ledger.runs.values()
        return run

    async def evidence(self) -> ArtifactReference:
        """An adapter in the store, with what is kept beside it."""
        adapter = self.folder / "adapter"
        (adapter / "curves").mkdir(parents=True)
        (adapter / "proof.json").write_text(json.dumps(EVIDENCE))
        (adapter / "curves" / "loss.png").write_bytes(b"picture")
        return await FileStore(self.folder / "store").put_tree(adapter, kind="adapters", name="tiny-v1")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def at_step(step: int) -> Progress:
    return Progress(phase="training", stage="thinking_fusion", step=step, steps=9, loss=float(step))


def begun(mirror: Mirror, *, plan: JobPlan = PLAN) -> Account:
    account = mirror.begin(BATCH, plan, 1)
    assert account is not None
    return account


def lost(why: str) -> float:
    return REGISTRY.get_sample_value("ruminate_mirror_lost_total", {"why": why}) or 0.0


def do(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_a_server_that_is_away_is_said_once_and_told_of_everything_when_it_is_back(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> None:
        mirror = world.mirror()
        account = begun(mirror)
        account.add(at_step(1))
        world.ledger.instead = lambda _: httpx.Response(503)
        for _ in range(3):
            await mirror.round()
        assert REGISTRY.get_sample_value("ruminate_mirror_away") == 1
        (note,) = mirror.notes()
        assert note.startswith("MLflow at http://mlflow is told of 1 job later: HTTP 503")
        assert capsys.readouterr().out.count("mlflow_away") == 1
        untold_bytes = REGISTRY.get_sample_value("ruminate_mirror_untold_bytes")
        assert untold_bytes == account.notes.size_bytes > 0
        account.add(at_step(2))
        world.ledger.instead = lambda _: None
        await mirror.round()
        assert world.ledger.points("run0") == {("thinking_fusion/loss", 1.0, 1), ("thinking_fusion/loss", 2.0, 2)}
        assert (REGISTRY.get_sample_value("ruminate_mirror_away"), list(mirror.notes())) == (0, [])
        assert REGISTRY.get_sample_value("ruminate_mirror_untold_bytes") == 0
        assert world.run["tags"]["ruminate.phase"] == "training"

    do(scenario())


def test_a_job_that_waits_for_its_result_does_not_pass_for_a_word_of_the_server(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> None:
        mirror = world.mirror()
        waiting = begun(mirror)
        await mirror.round()
        waiting.ended()
        other = mirror.begin(sealed(2, name="other"), PLAN.model_copy(update={"batch_id": "other"}), 1)
        assert other is not None
        world.ledger.instead = lambda _: httpx.Response(503)
        for _ in range(3):
            waiting.due_at = 0.0
            await mirror.round()
        assert capsys.readouterr().out.count("mlflow_away") == 1

    do(scenario())


@pytest.mark.parametrize(
    "said",
    [
        httpx.Response(401),
        httpx.Response(429),
        httpx.Response(404, text="nginx"),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={}),
        httpx.Response(302, headers={"location": "http://elsewhere"}),
    ],
)
def test_whoever_answers_as_no_tracking_server_does_takes_nothing_and_nothing_is_lost(world: World, said: httpx.Response) -> None:
    async def scenario() -> None:
        mirror = world.mirror()
        begun(mirror).add(at_step(1))
        world.ledger.instead = lambda _: said
        await mirror.round()
        assert len(list(mirror.notes())) == 1
        world.ledger.instead = lambda _: None
        await mirror.round()
        assert world.ledger.points("run0") == {("thinking_fusion/loss", 1.0, 1)}

    do(scenario())


def test_a_run_ends_as_the_log_says_and_not_before_it_says_anything(world: World) -> None:
    async def scenario() -> None:
        mirror = world.mirror()
        account = begun(mirror)
        account.add(at_step(1))
        account.ended()
        world.broker_away = True
        await mirror.round()
        assert any("away" in note for note in mirror.notes())
        world.broker_away = False
        async with asyncio.timeout(5):
            while mirror.notes():
                await mirror.round()
                await asyncio.sleep(0.01)
        assert world.run["info"]["status"] == "RUNNING"
        version = trained(adapter=await world.evidence())
        world.history = History(sealed=log_of(BATCH), trained=(version,))
        await world.until_told(mirror)
        assert (world.run["info"]["status"], world.run["info"]["end_time"]) == ("FINISHED", NOW_MS)
        told = world.ledger.points("run0")
        assert [step for key, _, step in sorted(told) if key == "thinking_fusion/loss"] == [1, 2]
        assert ("thinking_fusion/held_out_loss", 1.5, 2) in told and ("exam/own.thinking/right", 0.5, 0) in told
        assert {path.partition("/artifacts/")[2] for path in world.ledger.artifacts} == {"proof.json", "curves/loss.png"}

    do(scenario())


def test_whoever_goes_on_with_a_job_goes_on_with_its_run_and_tells_what_the_one_before_could_not(world: World) -> None:
    async def scenario() -> None:
        first = world.mirror()
        account = begun(first)
        account.add(at_step(1))
        await first.round()
        account.add(at_step(2))
        first.close()  # and is gone
        second = world.mirror()
        second.take_up()
        account = begun(second, plan=PLAN.model_copy(update={"merged_dtype": "bfloat16"}))
        account.add(at_step(3))
        world.run["info"]["status"] = "FAILED"
        await second.round()
        assert [step for _, _, step in sorted(world.ledger.points("run0"))] == [1, 2, 3]
        assert world.run["info"]["status"] == "RUNNING"
        assert (world.run["params"]["merged_dtype"], world.run["tags"]["ruminate.changed.merged_dtype"]) == ("float32", "bfloat16")
        second.close()
        third = world.mirror()
        third.take_up()
        world.history = History(sealed=log_of(BATCH), failed=(failed(),))
        await world.until_told(third)
        assert world.run["info"]["status"] == "FAILED"

    do(scenario())


def test_of_two_that_make_a_run_at_once_the_later_takes_its_own_back(world: World) -> None:
    async def scenario() -> None:
        searches = []

        def another_is_quicker() -> None:
            searches.append(1)
            if len(searches) == 2:
                key = key_of(BATCH, 1)
                world.ledger.add_run("1", "v1", 0, [{"key": "ruminate.key", "value": key}])

        world.ledger.on_search = another_is_quicker
        mirror = world.mirror()
        begun(mirror).add(at_step(1))
        await mirror.round()
        assert world.run["info"]["start_time"] == 0
        assert len(world.run["metrics"]) == 1

    do(scenario())


def test_a_server_that_has_forgotten_a_run_is_told_all_of_it_again(world: World) -> None:
    async def scenario() -> None:
        mirror = world.mirror()
        account = begun(mirror)
        account.add(at_step(1))
        await mirror.round()
        world.ledger.forget()
        account.add(at_step(2))
        async with asyncio.timeout(5):
            while not world.ledger.runs or len(world.run["metrics"]) < 2:
                await mirror.round()
                await asyncio.sleep(0.01)
        assert world.ledger.points("run0") == {("thinking_fusion/loss", 1.0, 1), ("thinking_fusion/loss", 2.0, 2)}
        assert world.run["params"]["batch_rows"] == "16"

    do(scenario())


def test_what_is_refused_is_counted_and_what_comes_after_it_is_told(world: World) -> None:
    async def scenario() -> None:
        mirror, before = world.mirror(), lost("refused")
        account = begun(mirror)
        await mirror.round()
        refusal = httpx.Response(400, json={"error_code": "INVALID_PARAMETER_VALUE", "message": "must be in the 'active' state"})
        world.ledger.instead = lambda path: refusal if path == "/runs/log-batch" else None
        account.add(at_step(1))
        await mirror.round()
        assert lost("refused") - before == 2  # the loss, and the phase
        world.ledger.instead = lambda _: None
        account.add(at_step(2))
        await mirror.round()
        assert world.ledger.points("run0") == {("thinking_fusion/loss", 2.0, 2)}

    do(scenario())


def test_an_experiment_that_somebody_deleted_holds_up_its_own_jobs_and_says_how_to_get_it_back(world: World) -> None:
    async def scenario() -> None:
        mirror = world.mirror()
        begun(mirror)
        deleted = {"experiment": {"experiment_id": "7", "lifecycle_stage": "deleted"}}
        world.ledger.instead = lambda path: httpx.Response(200, json=deleted) if path == "/experiments/get-by-name" else None
        await mirror.round()
        (note,) = mirror.notes()
        assert "mlflow experiments restore -x 7" in note
        assert REGISTRY.get_sample_value("ruminate_mirror_away") == 0

    do(scenario())


def test_artifacts_that_the_server_does_not_take_itself_are_counted_and_the_run_ends(world: World) -> None:
    async def scenario() -> None:
        world.ledger.artifact_root = "s3://bucket"
        mirror, before = world.mirror(), lost("not_proxied")
        begun(mirror).ended()
        world.history = History(sealed=log_of(BATCH), trained=(trained(adapter=await world.evidence()),))
        await world.until_told(mirror)
        assert (lost("not_proxied") - before, world.ledger.artifacts) == (2, {})
        assert world.run["info"]["status"] == "FINISHED"

    do(scenario())


def test_a_version_whose_evidence_is_gone_from_the_store_ends_its_run_all_the_same(world: World) -> None:
    async def scenario() -> None:
        mirror, before = world.mirror(), lost("no_evidence")
        begun(mirror).ended()
        world.history = History(sealed=log_of(BATCH), trained=(trained(),))
        await world.until_told(mirror)
        assert lost("no_evidence") > before
        assert world.run["info"]["status"] == "FINISHED"

    do(scenario())


def test_a_job_of_a_log_that_is_gone_ends_as_killed(world: World) -> None:
    async def scenario() -> None:
        mirror = world.mirror()
        begun(mirror).ended()
        world.history = History(sealed=())
        await world.until_told(mirror)
        assert (world.run["info"]["status"], world.run["tags"]["ruminate.outcome"]) == ("KILLED", "not_in_the_log")

    do(scenario())


def test_a_disk_that_is_full_costs_notes_and_no_training(world: World) -> None:
    async def scenario() -> None:
        world.folder.mkdir(exist_ok=True)
        (world.folder / "notes").write_text("a file where a folder should be")
        before = lost("no_room")
        assert world.mirror().begin(BATCH, PLAN, 1) is None
        assert lost("no_room") == before + 1

    do(scenario())


def test_a_job_whose_first_line_finds_no_room_is_left_out_and_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        mirror, before = world.mirror(), lost("too_many")
        monkeypatch.setattr("ruminate.trainer.mirror.notes.MOST_BYTES", 10)
        assert mirror.begin(BATCH, PLAN, 1) is None
        assert lost("too_many") == before + 1
        assert list((world.folder / "notes").iterdir()) == []

    do(scenario())


def test_a_fault_of_ours_sets_the_notes_of_one_job_aside_and_leaves_the_others_alone(world: World) -> None:
    async def scenario() -> None:
        mirror, before = world.mirror(), lost("fault")
        account = begun(mirror)
        other = sealed(2, name="other")
        assert mirror.begin(other, plan_of(BATCH).model_copy(update={"batch_id": "other"}), 1) is not None

        def fault(path: str) -> httpx.Response | None:
            if path == "/runs/create" and not world.ledger.runs and lost("fault") == before:
                raise ZeroDivisionError
            return None

        world.ledger.instead = fault
        await mirror.round()
        account.add(at_step(1))
        assert lost("fault") == before + 2
        assert len(list((world.folder / "notes").glob("*.aside"))) == 1
        assert world.run["tags"]["ruminate.batch_id"] == "other"

    do(scenario())


def test_what_is_no_number_is_told_as_mlflow_writes_it(world: World) -> None:
    async def scenario() -> None:
        server = Mlflow(world.ledger.client(), lambda: None)
        run = await server.create_run(await server.experiment("x"), "v1", 0, {})
        values = (math.nan, math.inf, -math.inf, 1.0)
        await server.tell(run.run_id, points=[Point("a", value, 1, step) for step, value in enumerate(values)])
        assert [each["value"] for each in world.run["metrics"]] == ["NaN", "Infinity", "-Infinity", 1.0]
        assert await server.steps_told(run.run_id, "a") == {0, 1, 2, 3}
        await server.tell(run.run_id, points=[Point("b", 1.0, 1, step) for step in range(2500)])
        assert world.ledger.asked.count("/runs/log-batch") == 4

    do(scenario())


# --- settings -------------------------------------------------------------------------------------------------------

SERVER = {"mlflow_uri": "https://mlflow.example.org"}
SECRET = "not-for-your-eyes"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"mlflow_token": SECRET}, "RUMINATE_MLFLOW_TOKEN is set, but RUMINATE_MLFLOW_URI is not"),
        ({"mlflow_uri": "mlflow.example.org:5000"}, "RUMINATE_MLFLOW_URI has to be the address of a tracking server"),
        ({"mlflow_uri": "sqlite:///mlflow.db"}, "has to be the address of a tracking server"),
        ({"mlflow_uri": "https://[x"}, "has to be the address of a tracking server"),
        ({"mlflow_uri": f"https://me:{SECRET}@mlflow.example.org"}, "RUMINATE_MLFLOW_URI holds a log-in"),
        ({"mlflow_uri": "http://mlflow:5000", "mlflow_token": SECRET}, "would send our secret readable"),
        (SERVER | {"mlflow_username": "me"}, "RUMINATE_MLFLOW_USERNAME and RUMINATE_MLFLOW_PASSWORD_FILE go together"),
        (SERVER | {"mlflow_password": SECRET}, "go together"),
        (SERVER | {"mlflow_username": "me", "mlflow_password": SECRET, "mlflow_password_file": "p"}, "are both set: keep one"),
        (SERVER | {"mlflow_username": "me", "mlflow_password": SECRET, "mlflow_token": SECRET}, "keep one way to log in"),
    ],
)
def test_settings_that_contradict_themselves_are_refused_and_no_secret_is_shown(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainerSettings(**fields)
    told = " ".join(problems_of(caught.value))
    assert says in told
    assert SECRET not in told and SECRET not in str(caught.value)


def test_no_server_is_named_unless_somebody_does_and_an_empty_name_is_none() -> None:
    assert TrainerSettings().mlflow_uri is None
    assert TrainerSettings(mlflow_uri="").mlflow_uri is None
    TrainerSettings(mlflow_uri="http://mlflow:5000/prefix")
    TrainerSettings(mlflow_uri="http://127.0.0.1:5000", mlflow_token=SecretStr(SECRET))


def test_a_notes_moment_is_that_of_the_clock(world: World) -> None:
    async def scenario() -> None:
        mirror = world.mirror()
        before = datetime.now(UTC).timestamp() * 1000
        begun(mirror)
        await mirror.round()
        assert before - 1000 < world.run["info"]["start_time"] <= datetime.now(UTC).timestamp() * 1000

    do(scenario())
