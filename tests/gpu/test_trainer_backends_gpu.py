"""On a CUDA device both backends learn the same from the same rows, and leave the same adapter behind.

python -m pytest -m gpu tests/gpu
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ruminate.trainer.backends.choose import UNSLOTH_NEEDS, Name
from ruminate.trainer.bases.tiny import make_tiny_base
from ruminate.trainer.job import locked, run_job
from ruminate.trainer.outcome import ADAPTER_FOLDER, PARENT_FOLDER, PLAN_FILE, JobResult, Progress
from ruminate.trainer.plan import Hyperparameters, JobPlan, Method
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

    @property
    def tensors(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Name, shape and type of everything in the adapter."""
        with safe_open(self.folder / ADAPTER_FOLDER / "adapter_model.safetensors", "pt") as file:
            return {name: (tuple(file.get_slice(name).get_shape()), file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118


def work(folder: Path, base: Path, backend: Name, *, method: Method = "lora", seed: int = 0, parent: Path | None = None) -> Done:
    """A whole job in a child process, as the service runs it."""
    prepare(folder, base, checkpoint_steps=1000, probes=8)
    plan = JobPlan.model_validate_json((folder / PLAN_FILE).read_bytes()).model_copy(
        update={
            "backend": backend,
            "parent_adapter": ARTIFACT if parent else None,
            "from_base": parent is None,
            "hyperparameters": Hyperparameters(
                method=method,
                learning_rate=2e-3,
                batch_rows=8,
                micro_batch_rows=8,
                max_row_tokens=256,
                seed=seed,
                epochs=STEPS * 8 / 64,
            ),
        }
    )
    (folder / PLAN_FILE).write_text(plan.model_dump_json(), encoding="utf-8")
    if parent is not None:
        (folder / PARENT_FOLDER).symlink_to(parent)
    losses: list[float] = []

    async def note(progress: Progress) -> None:
        if progress.loss is not None:
            losses.append(progress.loss)

    with locked(folder) as lock:
        result = asyncio.run(run_job(folder, lock=lock, on_progress=note, crash_restarts=0))
    return Done(folder, result, tuple(losses))


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
