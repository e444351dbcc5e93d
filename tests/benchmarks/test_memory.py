"""The benchmark of what an assessor keeps still reaches everything that it keeps."""

from __future__ import annotations

import asyncio

import pytest

from tests.benchmarks.memory import SAMPLES, holding, work_off


def test_evidence_is_weighed_and_lessons_are_learned_on_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(work_off(400, holding(1_000)))
    *_, last = rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == SAMPLES + 1
    done, megabytes, _, weighed, lessons, _ = (float(cell.replace(",", "")) for cell in last.strip("| ").split(" | "))
    assert (done, weighed, lessons) == (400, 60, 40)
    assert megabytes > 10
