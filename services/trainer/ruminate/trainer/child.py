"""The training process: runs the job in a folder and reports to the service that started it.

    python -m ruminate.shared.process ruminate.trainer.child JOB_FOLDER

Reports are JSON lines on stdout. Exit code 0 means that `result.json` is there; 3 means that a failure was reported.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ruminate.trainer.outcome import JobFailed, Report

EXIT_FAILED = 3


def main(folder: Path) -> int:
    """Run the job in `folder` and say how it went."""
    # Libraries print to stdout; what they print must not pass for a report.
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    from ruminate.trainer.recipe import run  # noqa: PLC0415 - what loading it prints goes to stderr, too

    def tell(report: Report) -> None:
        print(report.model_dump_json(exclude_none=True), file=reports)

    try:
        run(folder, tell)
    except JobFailed as failed:
        tell(Report(failure=failed.failure))
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
