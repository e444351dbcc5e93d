"""A disk that becomes full in a job, for real: a clear end, nothing that passes for whole, and on it goes once there is room."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from errno import ENOSPC
from pathlib import Path
from typing import Any, Final

import pytest

from ruminate.planner.shape import adapter_parameters
from ruminate.trainer.base import shape_in
from ruminate.trainer.bases.arithmetic import NEW_TASKS
from ruminate.trainer.bases.small import SHIPPED
from ruminate.trainer.job import locked, run_job
from ruminate.trainer.outcome import JobResult, Progress
from ruminate.trainer.plan import Proof
from tests.integration.killing import Made, made
from tests.integration.lessons import lesson, taught

RANK: Final = 4
ADAPTER_BYTES: Final = 4 * adapter_parameters(shape_in(SHIPPED), RANK)
APART: Final = ("unshare", "--user", "--map-root-user", "--mount")


def job(folder: Path) -> Path:
    """Seven steps, with a checkpoint every two."""
    return lesson(
        folder,
        rows=taught(NEW_TASKS[0], 56),
        proof=Proof(enforcement="off"),
        checkpoint_steps=2,
        batch_rows=8,
        micro_batch_rows=8,
        lora_rank=RANK,
        lora_alpha=2 * RANK,
        encodings=("f32", "f16"),
    )


@pytest.fixture(scope="module")
def with_room(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What the job comes to where there is room all the time."""
    folder = job(tmp_path_factory.mktemp("with-room") / "job")

    async def ignore(_: Progress) -> None:
        return None

    async def run() -> JobResult:
        with locked(folder) as lock:
            return await run_job(folder, lock=lock, on_progress=ignore, crash_restarts=0, threads=1)

    asyncio.run(run())
    return made(folder)


def on_a_full_disk(folder: Path, left_bytes: int) -> list[Any]:
    """What `full_disk` says of the job in this folder."""
    command = [*APART, sys.executable, "-m", "tests.integration.full_disk", str(folder), str(left_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def require_a_disk_of_our_own() -> None:
    """Leave the test out where nobody may mount anything, and fail where it may not be left out."""
    try:
        may = subprocess.run([*APART, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        may = False
    if not may:
        says = "no file system can be mounted here: it takes Linux with user namespaces (sysctl kernel.unprivileged_userns_clone=1)"
        if os.environ.get("CI"):
            pytest.fail(says)
        pytest.skip(says)


@pytest.mark.parametrize(
    ("left_bytes", "phase"),
    [
        pytest.param(ADAPTER_BYTES // 3, "training", id="in a checkpoint's adapter", marks=pytest.mark.long),
        pytest.param(ADAPTER_BYTES * 5 // 3, "training", id="in a checkpoint's moments"),
        # Enough for all that training writes, and not for six bytes a weight of the base.
        pytest.param(5_000_000, "exporting", id="in the exported model"),
    ],
)
def test_a_disk_that_is_full_ends_the_job_with_what_to_do_and_it_goes_on_when_there_is_room(
    with_room: Made, tmp_path: Path, left_bytes: int, phase: str
) -> None:
    require_a_disk_of_our_own()
    job(tmp_path / "job")
    (tmp_path / "disk").mkdir()
    failure, done, refused, kept = on_a_full_disk(tmp_path, left_bytes)
    assert (failure["phase"], failure["reason"]) == (phase, "no_room"), failure
    assert "make room" in failure["explanation"]
    assert "ruminate train retry" in failure["explanation"]
    assert (failure["whole"], failure["unfinished"]) == (0, [])
    assert done["result"] == with_room.result
    assert done["files"] == with_room.files
    assert refused["errno"] == ENOSPC
    assert kept == {"version": "v1"}
