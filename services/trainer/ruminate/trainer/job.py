"""Runs one job in a child process, for hours if need be, and never leaves a process behind.

    job folder locked  ->  child reports  ->  result.json
                           child killed   ->  a new child goes on from the last checkpoint, a few times
                           we are cancelled, or killed  ->  the child ends at once

The lock travels with the child: whoever else is given the job waits until the last process of it is gone.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

from ruminate.shared.process import Rope
from ruminate.shared.store import whole_file
from ruminate.trainer import metrics
from ruminate.trainer.child import EXIT_FAILED
from ruminate.trainer.outcome import PLAN_FILE, RESULT_FILE, Failure, JobFailed, JobResult, Progress, Report, clear
from ruminate.trainer.plan import JobPlan
from ruminate.trainer.turns import VISIBLE_DEVICES

log = structlog.get_logger()

OnProgress = Callable[[Progress], Awaitable[None]]

LOCK_FILE: Final = "lock"
STDERR_FILE: Final = "stderr.log"
STDERR_TAIL_BYTES: Final = 2000
LONGEST_REPORT_BYTES: Final = 2**22
"""The evidence of a failure has every measure of every attempt."""


class JobBusy(Exception):
    """Another process works in this job folder; try again later."""


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the job folder for us alone; gives the descriptor that a child inherits with the lock. Raises JobBusy."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JobBusy(f"{folder} is locked by another process; it is tried again") from None
    else:
        yield descriptor
    finally:
        os.close(descriptor)


def begin(folder: Path, plan: JobPlan) -> None:
    """Write the plan. What another plan left in the folder is removed: its checkpoints belong to other settings."""
    wanted = plan.model_dump_json(indent=2).encode()
    path = folder / PLAN_FILE
    if path.exists() and path.read_bytes() == wanted:
        return
    for entry in folder.iterdir():
        if entry.name != LOCK_FILE:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    with whole_file(path) as out:
        out.write(wanted)


def finished(folder: Path) -> JobResult | None:
    """The result of a job that was run to its end, by whomever."""
    path = folder / RESULT_FILE
    return JobResult.model_validate_json(path.read_bytes()) if path.exists() else None


async def run_job(
    folder: Path, *, lock: int, on_progress: OnProgress, crash_restarts: int, threads: int = 0, device: str | None = None
) -> JobResult:
    """Run the job in `folder` to its result. Raises JobFailed with the child's reason, or `crashed` after too many restarts.

    `device` is the only GPU that the child sees; without one, it sees what we do. Cancelled, it kills the child and returns
    when that is gone.
    """
    crashes = 0
    while (result := finished(folder)) is None:
        code, last = await _run_child(folder, lock=lock, on_progress=on_progress, threads=threads, device=device)
        if code == 0:
            continue
        if code == EXIT_FAILED and last.failure is not None:
            raise JobFailed(last.failure)
        crashes += 1
        metrics.CHILD_CRASHES.inc()
        log.warning("training_child_crashed", exit_code=code, crashes=crashes, restarts_left=max(0, crash_restarts - crashes + 1))
        if crashes > crash_restarts:
            raise JobFailed(_crashed(folder, code, crashes, last.progress))
    clear(folder)  # a child that was killed behind its result has not
    return result


async def _run_child(folder: Path, *, lock: int, on_progress: OnProgress, threads: int, device: str | None) -> tuple[int, Report]:
    """One child from start to end: its exit code, and the last that it said."""
    rope = Rope()
    try:
        with (folder / STDERR_FILE).open("ab") as stderr:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "ruminate.shared.process", "ruminate.trainer.child", str(folder)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                limit=LONGEST_REPORT_BYTES,
                stderr=stderr,
                pass_fds=(rope.reading_end, lock),
                env={**os.environ, **rope.environment(), **_environment(threads, device)},
                start_new_session=True,  # a group of its own, so that what it starts ends with it
            )
        try:
            last = Report()
            assert child.stdout is not None  # noqa: S101 - asked for above
            async for line in child.stdout:
                if not line.endswith(b"\n"):
                    break  # killed in the middle of a word
                last = Report.model_validate_json(line)
                if last.progress is not None:
                    await on_progress(last.progress)
            return await child.wait(), last
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
    finally:
        rope.cut()


def _environment(threads: int, device: str | None) -> dict[str, str]:
    # The libraries would report every training to their makers.
    private = {"HF_HUB_DISABLE_TELEMETRY": "1"}
    chosen = {} if device is None else {VISIBLE_DEVICES: device}
    return private | ({"OMP_NUM_THREADS": str(threads)} if threads else {}) | chosen


def _crashed(folder: Path, code: int, crashes: int, progress: Progress | None) -> Failure:
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    path = folder / STDERR_FILE
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - STDERR_TAIL_BYTES))
        tail = file.read().decode(errors="replace").splitlines()
    return Failure(
        phase=progress.phase if progress else "preparing",
        reason="crashed",
        explanation=f"the training process ended {how}, {crashes} times, each time without a reason of its own; "
        "SIGKILL is most often the kernel's answer to full memory. Look at the evidence, then type:  ruminate train retry",
        evidence={"exit_code": code, "crashes": crashes, "step": progress.step if progress else 0, "stderr": list(tail)},
    )
