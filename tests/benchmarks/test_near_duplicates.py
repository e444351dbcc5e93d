"""The benchmark of near duplicates still runs, on a few of everything: its figures say nothing here, what it verifies does."""

from __future__ import annotations

import pytest

from ruminate.accumulator.curation.wording import normalised
from tests.benchmarks import near_duplicates


def test_every_likeness_has_its_line_and_both_bars_are_met() -> None:
    lines = near_duplicates.likenesses(100).splitlines()
    assert [line[:5] for line in lines[2:6]] == ["| 0.3", "| 0.4", "| 0.5", "| 0.6"]
    assert all(line.endswith(": met") for line in lines[-2:])


def test_every_edit_has_its_line() -> None:
    questions = ["Tom has 3 apples and eats 2 of them. How many are left?", "How many wheels do 7 cars have?"]
    table = near_duplicates.edits([normalised(each) for each in questions])
    assert all(f"| {edit} | " in table for edit in near_duplicates.EDITS)
    assert "0 of 2 different questions are joined" in table


def test_filling_tells_memory_time_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    near_duplicates.fill(2000)
    megabytes, seconds, size = map(float, capsys.readouterr().out.split())
    assert megabytes > 10
    assert seconds > 0
    assert 300 * 2000 < size < 310 * 2000


def test_contamination_is_listed_by_row() -> None:
    rows = [{"question": "How many?", "answer": "Seven."}, {"question": "How many are left?", "answer": "One."}]
    assert near_duplicates.contamination(rows, rows[:1]).splitlines() == [
        "1 of 2 rows touch the 1 questions of the evaluation",
        "row 0: exact, 0 runs",
    ]
