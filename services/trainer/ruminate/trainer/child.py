"""The training process: runs the job in a folder and reports to the service that started it.

    python -m ruminate.shared.process ruminate.trainer.child JOB_FOLDER

Reports are JSON lines on stdout. Exit code 0 means that `result.json` is there; 3 means that a failure was reported.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ruminate.trainer.outcome import COMPILED_FOLDER, PLAN_FILE, JobFailed, Report
from ruminate.trainer.plan import JobPlan

EXIT_FAILED = 3


def main(folder: Path) -> int:
    """Run the job in `folder` and say how it went."""
    # Libraries print to stdout; what they print must not pass for a report.
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def tell(report: Report) -> None:
        print(report.model_dump_json(exclude_none=True), file=reports)

    plan = JobPlan.model_validate_json((folder / PLAN_FILE).read_bytes())
    # Here, not above: the service imports this module and no torch; and what loading prints goes to stderr, too.
    from ruminate.trainer.backends.opening import open_backend  # noqa: PLC0415

    try:
        backend = open_backend(plan.backend, plan.hyperparameters.method, compiled=folder / COMPILED_FOLDER)
        from ruminate.trainer.recipe import run  # noqa: PLC0415 - a backend may have to be imported before trl and transformers

        run(folder, tell, backend)
    except JobFailed as failed:
        tell(Report(failure=failed.failure))
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
