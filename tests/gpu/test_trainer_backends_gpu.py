"""On a CUDA device both backends learn the same from the same rows, and leave the same adapter behind.

python -m pytest -m gpu tests/gpu
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors import safe_open

from ruminate.trainer.backends.choose import UNSLOTH_NEEDS, Name
from ruminate.trainer.bases.arithmetic import NEW_TASKS, SUMS, draw, row
from ruminate.trainer.bases.tiny import make_tiny_base
from ruminate.trainer.job import locked, run_job
from ruminate.trainer.learning.proving import PROOF_FILE
from ruminate.trainer.outcome import ADAPTER_FOLDER, PARENT_FOLDER, PLAN_FILE, JobResult, Progress
from ruminate.trainer.plan import ORDER, Hyperparameters, JobPlan, Method, Practice, Preference, Proof, StageRules
from tests.integration.lessons import lesson, preference_line, rehearsed, taught, unseen
from tests.integration.test_trainer_job import ARTIFACT, prepare, rows

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

STEPS = 30
BOTH: tuple[Name, ...] = ("transformers", "unsloth")


@pytest.fixture(scope="module", autouse=True)
def device() -> None:
    """CUDA, and Unsloth with its needs."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    for name in UNSLOTH_NEEDS:
        pytest.importorskip(name) if name == "bitsandbytes" else _installed(name)


def _installed(name: str) -> None:
    from importlib.util import find_spec  # importing it here would patch what this process has imported

    if find_spec(name) is None:
        pytest.skip(
            f"needs {name}: install ruminate-trainer[gpu], or put `python -m tests.benchmarks.unsloth_bundle` into PYTHONPATH"
        )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Qwen3."""
    folder = tmp_path_factory.mktemp("base")
    make_tiny_base(folder, [json.dumps(rows())], seed=0)
    return folder


@dataclass(frozen=True)
class Done:
    """A job that was run to its end."""

    folder: Path
    result: JobResult
    losses: tuple[float, ...]
    peak_bytes: int

    @property
    def tensors(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Name, shape and type of everything in the adapter."""
        with safe_open(self.folder / ADAPTER_FOLDER / "adapter_model.safetensors", "pt") as file:
            return {name: (tuple(file.get_slice(name).get_shape()), file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118


def work(folder: Path, base: Path, backend: Name, *, method: Method = "lora", seed: int = 0, parent: Path | None = None) -> Done:
    """A whole job in a child process, as the service runs it."""
    prepare(folder, base, checkpoint_steps=1000, probes=8)
    if parent is not None:
        (folder / PARENT_FOLDER).symlink_to(parent)
    return asked(
        folder,
        backend=backend,
        parent_adapter=ARTIFACT if parent else None,
        from_base=parent is None,
        hyperparameters=Hyperparameters(
            method=method,
            learning_rate=2e-3,
            batch_rows=8,
            micro_batch_rows=8,
            max_row_tokens=256,
            seed=seed,
            epochs=STEPS * 8 / 64,
        ),
    )


def asked(folder: Path, **changed: Any) -> Done:
    """The job in this folder with a plan that is changed so, to its end."""
    plan = JobPlan.model_validate_json((folder / PLAN_FILE).read_bytes()).model_copy(update=changed)
    (folder / PLAN_FILE).write_text(plan.model_dump_json(), encoding="utf-8")
    losses: list[float] = []
    peaks = [0]

    async def note(progress: Progress) -> None:
        if progress.loss is not None:
            losses.append(progress.loss)
        peaks.append(progress.memory_bytes or 0)

    with locked(folder) as lock:
        result = asyncio.run(run_job(folder, lock=lock, on_progress=note, crash_restarts=0))
    return Done(folder, result, tuple(losses), max(peaks))


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Name, Done]:
    """The same job by either."""
    return {backend: work(tmp_path_factory.mktemp(backend) / "job", base, backend) for backend in BOTH}


def test_each_says_who_it_was_and_learns(trained: dict[Name, Done]) -> None:
    for backend, done in trained.items():
        assert (done.result.metrics["backend"], done.result.metrics["precision"]) == (backend, "bfloat16")
        assert done.result.metrics["device"] == "cuda:0"
        assert len(done.losses) == done.result.metrics["steps"] == STEPS
        assert done.losses[-1] < 0.5 * done.losses[0]


def test_loss_curves_differ_no_more_than_those_of_two_seeds(trained: dict[Name, Done], base: Path, tmp_path: Path) -> None:
    plain, fast = (trained[backend].losses for backend in BOTH)
    # B is nothing when training begins, so that the first loss is the base's, whoever computes it.
    assert fast[0] == pytest.approx(plain[0], rel=0.01)
    other = work(tmp_path / "job", base, "transformers", seed=1).losses
    noise = max(abs(one - another) for one, another in zip(plain, other, strict=True))
    assert max(abs(one - another) for one, another in zip(plain, fast, strict=True)) <= noise


def test_adapters_have_the_same_tensors(trained: dict[Name, Done]) -> None:
    plain, fast = (trained[backend].tensors for backend in BOTH)
    assert plain == fast
    assert plain


def test_tokens_are_counted_alike(trained: dict[Name, Done]) -> None:
    plain, fast = (trained[backend].result.metrics["tokens"] for backend in BOTH)
    assert plain == fast


def test_what_was_exported_says_what_was_trained(trained: dict[Name, Done]) -> None:
    for done in trained.values():
        if "equality_left_out" in done.result.metrics:
            pytest.skip(str(done.result.metrics["equality_left_out"]))
        assert all(entry.equal == entry.probes for entry in done.result.equality)


@pytest.mark.parametrize(("first", "then"), list(pairwise((*BOTH, BOTH[0]))))
def test_either_goes_on_from_the_other(trained: dict[Name, Done], base: Path, tmp_path: Path, first: Name, then: Name) -> None:
    parent = trained[first]
    done = work(tmp_path / "job", base, then, parent=parent.folder / ADAPTER_FOLDER)
    # Where the parent ended: far from where the base begins.
    assert done.losses[0] < 0.5 * parent.losses[0]
    assert done.tensors == parent.tensors


@pytest.mark.parametrize("backend", BOTH)
def test_four_bits_learn(base: Path, tmp_path: Path, backend: Name) -> None:
    done = work(tmp_path / "job", base, backend, method="qlora")
    assert done.losses[-1] < 0.5 * done.losses[0]


def test_unsloth_writes_nothing_beside_the_job(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    done = work(tmp_path / "job", base, "unsloth")
    assert list(here.iterdir()) == []
    assert not (done.folder / "compiled").exists()


@pytest.mark.parametrize("backend", BOTH)
def test_the_same_seed_gives_the_same_adapter(trained: dict[Name, Done], base: Path, tmp_path: Path, backend: Name) -> None:
    again = work(tmp_path / "job", base, backend)
    weights = Path(ADAPTER_FOLDER) / "adapter_model.safetensors"
    assert again.losses == trained[backend].losses
    assert (again.folder / weights).read_bytes() == (trained[backend].folder / weights).read_bytes()


@pytest.mark.parametrize("backend", BOTH)
def test_all_four_stages_and_the_exams_around_them(tmp_path: Path, backend: Name) -> None:
    task = NEW_TASKS[0]
    # Some that it can do and some that it cannot: of use to practise on, whatever the arithmetic rounds.
    practised = [*draw(task, 32, Random(3)), *draw(SUMS[0], 32, Random(3))]
    folder = lesson(
        tmp_path / "job",
        rows=taught(task, 320),
        replay=rehearsed(320),
        held_out=[row(exercise, thinks=True) for exercise in unseen(task, 30)],
        practised=practised,
        pairs=[preference_line(exercise, str(int(exercise.answer) + 1)) for exercise in practised[:32]],
        rules=StageRules(cold_start_thinking_tokens=20),
        proof=Proof(enforcement="report", answer_tokens=64, batch_rows=64),
        exam_questions=64,
        practice=Practice(learning_rate=1e-4, steps=3, questions_a_step=4, answers_a_question=4, answer_tokens=40),
        preference=Preference(learning_rate=1e-4, batch_rows=8),
    )
    result = asked(folder, backend=backend).result
    assert result.stages == ORDER
    assert result.metrics["backend"] == backend
    stages: Any = result.metrics["stages"]
    assert [record["steps"] for record in stages] == [record["planned_steps"] for record in stages]
    proof: Any = result.metrics["proof"]
    before = {(each["measure"], each["group"]): each["before"] for each in proof["findings"]}
    # What the base can do it does under either backend's way of writing, with thinking and without.
    for mode in ("thinking", "direct"):
        assert before["right", f"arithmetic, {mode}"] > 0.95
        assert before["well_formed", f"arithmetic, {mode}"] > 0.95
    curves = json.loads((folder / ADAPTER_FOLDER / PROOF_FILE).read_bytes())["stages"]
    assert len(curves[1]["rewards"]) == 3
    # The first preference step compares the adapter with itself: its reference is what it was when the stage began.
    assert curves[3]["losses"][0][1] == pytest.approx(0.693147, abs=1e-3)


@pytest.mark.parametrize("backend", BOTH)
def test_a_full_device_is_given_fewer_rows_at_once_and_learns_the_same(
    tmp_path: Path, backend: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    def done(name: str) -> Done:
        folder = lesson(
            tmp_path / name,
            rows=taught(NEW_TASKS[0], 1024),
            proof=Proof(enforcement="off"),
            batch_rows=512,
            micro_batch_rows=512,
            epochs=2.0,
        )
        return asked(folder, backend=backend)

    roomy = done("roomy")
    share = 0.6 * roomy.peak_bytes / torch.cuda.get_device_properties(0).total_memory
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", f"per_process_memory_fraction:{share:.6f}")
    tight = done("tight")
    told: list[Any] = [each.result.metrics["stages"] for each in (roomy, tight)]
    (roomy_record,), (tight_record,) = told
    assert roomy_record["micro_batch_rows"] == 512
    assert tight_record["micro_batch_rows"] < 512
    assert tight_record["steps"] == roomy_record["steps"] == 4
    # Sums are added in another order, and in bfloat16.
    assert tight_record["train_loss"] == pytest.approx(roomy_record["train_loss"], rel=0.02)


@pytest.mark.parametrize("backend", BOTH)
def test_layers_that_are_kept_and_layers_that_are_computed_again_teach_the_same(tmp_path: Path, backend: Name) -> None:
    done = {}
    for wish in ("on", "off"):
        folder = lesson(tmp_path / wish, rows=taught(NEW_TASKS[0], 320), proof=Proof(enforcement="off"))
        done[wish] = asked(folder, backend=backend, gradient_checkpointing=wish)
        assert done[wish].result.metrics["gradient_checkpointing"] == (wish == "on")
    assert done["off"].peak_bytes > done["on"].peak_bytes
    assert done["off"].losses == pytest.approx(done["on"].losses, rel=0.01)
