"""What a training leaves and says holds no text that it learned from: no log, no curve, no evidence, no cache of a library."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ruminate.proof.record import EXAM_FILE, ExamRecord
from ruminate.trainer.bases.arithmetic import NEW_TASKS, SUMS, draw, row
from ruminate.trainer.job import STDERR_FILE, locked, run_job
from ruminate.trainer.learning.proving import PROOF_FILE
from ruminate.trainer.outcome import ADAPTER_FOLDER, DATASET_FOLDER, EXAMS_FOLDER, JobFailed, JobResult, Progress
from ruminate.trainer.plan import ORDER, Practice, Preference, Proof, StageRules
from tests.integration.lessons import EXAM, as_lines, lesson, preference_line, rehearsed, taught, unseen

TASK = NEW_TASKS[0]
MARK = "Quibblezax"
"""Nothing of ours, of a library's or of a vocabulary is called so."""
OWN = "Wobblefrond"
"""In a question of the operator's own, which may be told."""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where libraries would keep or leave anything, all of it below one folder."""
    for variable, place in (("TMPDIR", "tmp"), ("HF_HOME", "hub"), ("HOME", "home"), ("XDG_CACHE_HOME", "cache")):
        (tmp_path / place).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / place))
    return tmp_path


def marked(given: dict[str, Any]) -> dict[str, Any]:
    """The same, with the mark at the beginning of every text."""
    messages = ("prompt", "completion", "chosen", "rejected")
    texts = ("content", "reasoning_content")
    changed = {
        name: [{key: f"{MARK} {value}" if key in texts else value for key, value in each.items()} for each in given[name]]
        for name in messages
        if name in given
    }
    return {**given, **changed}


def some_marked(lines: list[dict[str, Any]], *, every: int = 4) -> list[dict[str, Any]]:
    """Every fourth of them is, or every second: what the others teach is not disturbed too much."""
    return [marked(line) if number % every == 0 else line for number, line in enumerate(lines)]


def job(folder: Path) -> Path:
    """One whose batch supports all four stages, and whose version is measured."""
    practised = draw(SUMS[0], 64, Random(3))  # which the base can do: what nobody answers rightly is not practised
    lesson(
        folder,
        rows=some_marked(taught(TASK, 96)),
        replay=some_marked(rehearsed(96)),
        held_out=some_marked([row(exercise, thinks=True) for exercise in unseen(TASK, 30)]),
        practised=practised,
        pairs=some_marked([preference_line(exercise, str(int(exercise.answer) + 1)) for exercise in practised[:32]], every=2),
        rules=StageRules(cold_start_thinking_tokens=20),
        proof=Proof(enforcement="report", answer_tokens=16, batch_rows=64),
        exam_questions=8,
        practice=Practice(learning_rate=1e-4, steps=2, questions_a_step=4, answers_a_question=4, answer_tokens=40),
        preference=Preference(learning_rate=1e-4, batch_rows=8),
    )
    verifiable = folder / DATASET_FOLDER / "verifiable.jsonl"
    lines = some_marked([json.loads(line) for line in verifiable.read_text().splitlines()], every=2)
    for line in lines[::4]:
        line["check"]["content"] = f"{MARK} {line['check']['content']}"
    verifiable.write_text(as_lines(lines))
    with (folder / EXAMS_FOLDER / f"{EXAM}.jsonl").open("a") as exam:
        exam.write(json.dumps({"question": f"{OWN}?", "reference": OWN}) + "\n")
    return folder


def run(folder: Path, reports: list[Progress]) -> JobResult:
    """As the service runs it: in a process of its own."""

    async def hear(progress: Progress) -> None:
        reports.append(progress)

    async def scenario() -> JobResult:
        with locked(folder) as lock:
            return await run_job(folder, lock=lock, on_progress=hear, crash_restarts=0, threads=1)

    return asyncio.run(scenario())


def holding_the_mark(folder: Path) -> Iterator[Path]:
    """Files with it, in a usual encoding."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if any(MARK.encode(encoding) in content for encoding in ("utf-8", "utf-16-le", "utf-32-le")) or MARK in path.name:
                yield path


def test_no_text_is_in_what_a_job_of_all_four_stages_leaves_or_says(places: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = job(places / "job")
    reports: list[Progress] = []
    given = {path.relative_to(folder).as_posix() for path in holding_the_mark(folder)}
    named = ("train", "replay", "holdout", "verifiable", "preferences")
    assert given == {f"{DATASET_FOLDER}/{name}.jsonl" for name in named}
    result = run(folder, reports)
    assert result.stages == ORDER
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert {
        STDERR_FILE,
        "result.json",
        f"{ADAPTER_FOLDER}/{PROOF_FILE}",
        f"{ADAPTER_FOLDER}/curves/events.out.tfevents.ruminate",
    } <= there
    assert (folder / STDERR_FILE).stat().st_size > 0, "libraries have said something, which is looked at"
    assert list(holding_the_mark(places)) == []
    asked_again = ExamRecord.model_validate_json((folder / ADAPTER_FOLDER / EXAM_FILE).read_bytes())
    assert OWN in asked_again.model_dump_json()
    assert any(each.question is None for each in asked_again.questions), "its own hold-out is named, and not told"
    said = capfd.readouterr()
    assert reports and MARK not in said.out + said.err + repr(reports) + result.model_dump_json()


def test_no_text_is_in_why_a_job_failed_on_a_row_that_is_none(places: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = lesson(places / "job", rows=[marked(line) for line in taught(TASK, 64)], proof=Proof(enforcement="off"))
    reports: list[Progress] = []
    train = folder / DATASET_FOLDER / "train.jsonl"
    lines = train.read_text().splitlines()
    train.write_text("\n".join([*lines, lines[0].replace('"role"', '"roll"', 1), f'{{"{MARK}": {MARK}']))
    with pytest.raises(JobFailed) as caught:
        run(folder, reports)
    assert caught.value.failure.reason == "bad_dataset"
    assert "train.jsonl line 65" in caught.value.failure.explanation
    assert list(holding_the_mark(places)) == [train], "whoever has brought it in removes it"
    said = capfd.readouterr()
    assert MARK not in said.out + said.err + repr(reports) + repr(caught.value.failure)
