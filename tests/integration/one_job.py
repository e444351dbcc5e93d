"""The service's part of one job: its reports as JSON lines, and then its end. It imports no torch, as the service does not.

python -m tests.integration.one_job JOB_FOLDER
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from ruminate.trainer.job import locked, run_job
from ruminate.trainer.outcome import JobFailed, Progress


async def main(folder: Path) -> None:
    """Run the job to its end, however often its process is killed."""
    # What is logged goes to stdout, and is no report.
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    async def tell(progress: Progress) -> None:
        print(progress.model_dump_json(), file=reports)

    with locked(folder) as lock:
        await run_job(folder, lock=lock, on_progress=tell, crash_restarts=100, threads=1)


if __name__ == "__main__":
    try:
        asyncio.run(main(Path(sys.argv[1])))
    except JobFailed as failed:
        sys.exit(str(failed))
