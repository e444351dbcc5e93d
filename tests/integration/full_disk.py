"""A job on a disk of its own that becomes full while it trains, and has room again afterwards.

    unshare --user --map-root-user --mount python -m tests.integration.full_disk FOLDER LEFT_BYTES

FOLDER holds `job`, prepared, and `disk`, on which a file system of DISK_BYTES in memory is mounted, for this process and its
children alone. Once the first step is told, all of it but LEFT_BYTES is taken. Prints a JSON line with the failure and what it
has left, and one with what the job came to when there was room again.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import psutil

from ruminate.shared.store import open_store
from ruminate.trainer.job import finished, locked, run_job
from ruminate.trainer.outcome import PLAN_FILE, JobFailed, JobResult, Progress
from ruminate.trainer.plan import JobPlan
from ruminate.trainer.train import keep
from tests.integration.killing import made

DISK_BYTES: Final = 64 * 2**20
_BALLAST: Final = "ballast"
_BLOCK_BYTES: Final = 4096


def fill(disk: Path, left_bytes: int) -> None:
    """Take all of the disk but so much, while nobody else takes any of it."""
    others = psutil.Process().children(recursive=True)
    for process in others:
        process.suspend()
    try:
        taken = shutil.disk_usage(disk).free - left_bytes
        with (disk / _BALLAST).open("wb") as file:
            for _ in range(taken // _BLOCK_BYTES):
                file.write(bytes(_BLOCK_BYTES))
    finally:
        for process in others:
            process.resume()


async def run(job: Path, disk: Path, left_bytes: int | None) -> JobResult:
    """Run the job, and fill the disk at its first step, where it is to be filled."""

    async def watch(progress: Progress) -> None:
        if progress.step == 1 and left_bytes is not None:
            fill(disk, left_bytes)

    with locked(job) as lock:
        return await run_job(job, lock=lock, on_progress=watch, crash_restarts=0, threads=1)


def main(folder: Path, left_bytes: int) -> None:
    """Fail, make room, go on."""
    disk = folder / "disk"
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", disk], check=True)
    job = disk / "job"
    shutil.copytree(folder / "job", job)
    try:
        asyncio.run(run(job, disk, left_bytes))
    except JobFailed as failed:
        whole = [path for path in (*job.glob("gguf/*.gguf"), job / "result.json") if path.exists() and path.name[0] != "."]
        unfinished = [str(path.relative_to(job)) for path in job.glob("gguf/.partial-*")]
        print(json.dumps({**failed.failure.model_dump(mode="json"), "whole": len(whole), "unfinished": unfinished}), flush=True)
    (disk / _BALLAST).unlink()
    result = asyncio.run(run(job, disk, None))
    told = made(job)
    print(json.dumps({"result": told.result, "files": told.files, "resumed": result.metrics["resumed_from_step"]}), flush=True)

    # The store's disk is full when the job is done: what it made stays, and is kept once there is room.
    plan = JobPlan.model_validate_json((job / PLAN_FILE).read_bytes())
    store = open_store((disk / "store").as_uri())
    fill(disk, 2**20)
    try:
        asyncio.run(keep(plan, 1, result, job, store))
    except OSError as error:
        print(json.dumps({"errno": error.errno}), flush=True)
    (disk / _BALLAST).unlink()
    assert finished(job) == result
    trained = asyncio.run(keep(plan, 1, result, job, store))
    for file in trained.gguf:
        asyncio.run(store.check(file.file))
    print(json.dumps({"version": trained.version}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
