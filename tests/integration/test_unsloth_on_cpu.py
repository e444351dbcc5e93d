"""Unsloth's own code on a machine without a GPU: all four stages, killed and on a full device, beside TRL and PEFT in 16 bits.

What stands in for the device is in tests/stand_in. Whether the kernels calculate right, and how fast, only a GPU says (tests/gpu).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from infra.real.unsloth import UNSLOTH
from ruminate.trainer.backends.choose import Name
from ruminate.trainer.job import STDERR_FILE
from ruminate.trainer.outcome import ADAPTER_FOLDER, PLAN_FILE
from ruminate.trainer.plan import ORDER, JobPlan
from tests.integration.killing import PLACES, WEIGHTS, Kill, Made, Moment, four_stages, largest_difference, made, run_killed
from tests.plugins.real import installed

pytestmark = [pytest.mark.real, pytest.mark.long]

STAND_IN = Path(__file__).parents[1] / "stand_in"
BANNER = "Unsloth - 2x faster free finetuning"
"""Unsloth's trainers print it when they begin."""


@pytest.fixture(scope="module", autouse=True)
def surroundings() -> Iterator[None]:
    """Processes that are started find Unsloth, and a device."""
    with installed():
        paths = [str(STAND_IN), str(UNSLOTH.find()), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        yield


def prepared(folder: Path, backend: Name, **changed: Any) -> Path:
    """A job of all four stages for this backend."""
    plan_file = four_stages(folder, "report") / PLAN_FILE
    plan = JobPlan.model_validate_json(plan_file.read_bytes()).model_copy(update={"backend": backend, **changed})
    plan_file.write_text(plan.model_dump_json(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Name], Path]:
    """A job that ran undisturbed, one a backend."""
    done: dict[Name, Path] = {}

    def of(backend: Name) -> Path:
        if backend not in done:
            done[backend] = prepared(tmp_path_factory.mktemp(backend) / "job", backend)
            run_killed(done[backend])
        return done[backend]

    return of


def first_points(job: Made) -> dict[str, float]:
    """The first loss and reward of every stage."""
    return {name: points[0][1] for name, points in job.curves.items() if points and not name.endswith("looks")}


def tensors(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name, shape and type of everything in the adapter."""
    with safe_open(folder / WEIGHTS, "pt") as file:
        return {name: (tuple(file.get_slice(name).get_shape()), file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118


def test_every_stage_is_gone_through_by_unsloths_own_trainers(job: Callable[[Name], Path]) -> None:
    done = made(job("unsloth"))
    assert [(stage["stage"], stage["backend"]) for stage in done.proof["stages"]] == [(stage, "unsloth") for stage in ORDER]
    assert all(stage["steps"] == stage["planned_steps"] for stage in done.proof["stages"])
    assert (job("unsloth") / STDERR_FILE).read_text().count(BANNER) == len(ORDER)


def test_stages_begin_where_those_of_trl_begin_and_leave_the_same_tensors(job: Callable[[Name], Path]) -> None:
    fast, plain = made(job("unsloth")), made(job("transformers"))
    assert BANNER not in (job("transformers") / STDERR_FILE).read_text()
    for name, value in first_points(plain).items():
        assert first_points(fast)[name] == pytest.approx(value, rel=0.02, abs=0.02), name
    assert tensors(job("unsloth")) == tensors(job("transformers"))
    # What the base says before anything is learned it says greedily, by either way of writing.
    right = [[answer["right"] for answer in told.proof["before"][0]["answers"]] for told in (fast, plain)]
    assert right[0] == right[1]


@pytest.mark.parametrize("backend", ["transformers", "unsloth"])
def test_a_job_that_is_killed_in_every_stage_ends_with_the_same_bytes(
    job: Callable[[Name], Path], tmp_path: Path, backend: Name
) -> None:
    folder = prepared(tmp_path / "job", backend)
    kills = [Kill("child", at=Moment(PLACES.index(f"training {stage}"), 3)) for stage in ORDER]
    course = run_killed(folder, kills)
    assert len(course.killed) == len(ORDER)
    undisturbed, killed = made(job(backend)), made(folder)
    assert largest_difference(undisturbed, killed) == 0.0
    assert killed == undisturbed


def test_a_full_device_is_given_fewer_rows_at_once_in_every_stage(
    job: Callable[[Name], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUMINATE_TEST_ROOM", "256")
    folder = prepared(tmp_path / "job", "unsloth")
    run_killed(folder)
    roomy, tight = made(job("unsloth")), made(folder)
    assert all(stage["micro_batch_rows"] <= 4 for stage in tight.proof["stages"])
    assert [stage["steps"] for stage in tight.proof["stages"]] == [stage["steps"] for stage in roomy.proof["stages"]]
    for name, value in first_points(roomy).items():
        assert first_points(tight)[name] == pytest.approx(value, rel=0.02, abs=0.02), name


def test_layers_that_are_kept_teach_the_same(job: Callable[[Name], Path], tmp_path: Path) -> None:
    folder = prepared(tmp_path / "job", "unsloth", gradient_checkpointing="off")
    run_killed(folder)
    kept = made(folder)
    assert kept.result["metrics"]["gradient_checkpointing"] is False
    assert largest_difference(made(job("unsloth")), kept) <= 1e-4
    assert (folder / ADAPTER_FOLDER).is_dir()
