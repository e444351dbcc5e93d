"""Reasoning kept and something learned, on a model that really thinks: passed, refused, and mended in each of the ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ruminate.trainer.backends.on_transformers import OnTransformers
from ruminate.trainer.bases.arithmetic import NEW_TASKS, SUMS, draw, row
from ruminate.trainer.learning.proving import PROOF_FILE
from ruminate.trainer.outcome import ADAPTER_FOLDER, DATASET_FOLDER, Failure, JobFailed, JobResult, Report
from ruminate.trainer.plan import Preference, Proof, Recovery
from ruminate.trainer.recipe import run
from tests.integration.lessons import lesson, preference_line, rehearsed, taught, unseen

pytestmark = pytest.mark.usefixtures("one_thread")

TASK = NEW_TASKS[0]
NEW_ROWS = 480
FORGETFUL: dict[str, Any] = {"learning_rate": 4e-3, "warmup_ratio": 0.0}
"""A rate at which nothing that is not rehearsed stays."""


def held_out(count: int = 40) -> list[dict[str, Any]]:
    """Rows of the new task that are held out; what is learned shows in the loss on them."""
    return [row(exercise, thinks=number % 4 > 0) for number, exercise in enumerate(unseen(TASK, count))]


def ended(folder: Path) -> JobResult | Failure:
    """What the job in this folder comes to."""
    reports: list[Report] = []
    try:
        return run(folder, reports.append, OnTransformers("lora"))
    except JobFailed as failed:
        return failed.failure


def findings(result: JobResult) -> dict[tuple[str, str], str]:
    """Verdicts, by measure and group."""
    proof: Any = result.metrics["proof"]
    return {(finding["measure"], finding["group"]): finding["verdict"] for finding in proof["findings"]}


def only_stage(told: Mapping[str, Any]) -> Any:
    """The record of the one stage that was run."""
    (stage,) = told["stages"]
    return stage


def attempts(record: Any) -> list[str]:
    """Kinds of the attempts of a stage."""
    return [attempt["attempt"]["kind"] for attempt in record["attempts"]]


def test_a_version_that_has_learned_and_still_reasons_passes_with_the_evidence_beside_it(tmp_path: Path) -> None:
    folder = lesson(tmp_path / "job", rows=taught(TASK, NEW_ROWS), replay=rehearsed(960), held_out=held_out(), probes=8)
    result = ended(folder)
    assert isinstance(result, JobResult), result
    found = findings(result)
    for measure in ("well_formed", "obedient", "right", "thinking_tokens_a_right_answer"):
        assert found[measure, "arithmetic, thinking"] == "kept"
    assert found["trace_perplexity", "base"] == "kept"
    assert found["row_loss", "hold-out"] == "learned"
    evidence = json.loads((folder / ADAPTER_FOLDER / PROOF_FILE).read_bytes())
    assert evidence["judgement"]["kept"] is evidence["judgement"]["learned"] is True
    assert len(evidence["before"][0]["answers"]) == len(evidence["after"]["answers"]) == 2 * 256 + 40
    assert (folder / "stages").exists() is False


def test_a_model_that_is_taught_to_stop_thinking_is_refused(tmp_path: Path) -> None:
    thoughtless = [
        row(exercise._replace(thinking="."), thinks=True)
        for task in (TASK, *SUMS)
        for exercise in (task.work(number, 10) for number in range(10, 100))
    ]
    folder = lesson(
        tmp_path / "job",
        rows=thoughtless,
        held_out=[row(exercise._replace(thinking="."), thinks=True) for exercise in unseen(TASK, 40)],
        recovery=Recovery(factor_tries=1, gentler_tries=0),
        epochs=4.0,
        **FORGETFUL,
    )
    failure = ended(folder)
    assert isinstance(failure, Failure)
    assert (failure.phase, failure.reason) == ("measuring", "reasoning_lost")
    stage = only_stage(failure.evidence)
    assert attempts(stage)[:2] == ["as_planned", "scaled"]
    assert "thinking_tokens" in json.dumps(stage) or "right (arithmetic, thinking)" in json.dumps(stage)
    assert not (folder / ADAPTER_FOLDER).exists()


def test_a_change_that_costs_reasoning_is_made_smaller(tmp_path: Path) -> None:
    folder = lesson(tmp_path / "job", rows=taught(TASK, NEW_ROWS), held_out=held_out(), **FORGETFUL)
    result = ended(folder)
    assert isinstance(result, JobResult), result
    stage = only_stage(result.metrics)
    kinds = attempts(stage)
    accepted = stage["attempts"][stage["accepted"]]["attempt"]
    assert kinds[0] == "as_planned"
    assert accepted["kind"] == "scaled"
    assert 0 < accepted["scale"] < 1


def test_a_stage_that_costs_reasoning_is_run_again_more_gently_with_more_rehearsal(tmp_path: Path) -> None:
    folder = lesson(
        tmp_path / "job",
        rows=taught(TASK, NEW_ROWS),
        replay=rehearsed(960),
        held_out=held_out(),
        recovery=Recovery(factor_tries=0, gentler_tries=2, gentler_rate_factor=0.2),
        **FORGETFUL,
    )
    result = ended(folder)
    assert isinstance(result, JobResult), result
    stage = only_stage(result.metrics)
    assert set(attempts(stage)[1:]) == {"gentler"}


def test_the_last_good_checkpoint_is_gone_back_to(tmp_path: Path) -> None:
    folder = lesson(
        tmp_path / "job",
        rows=taught(TASK, NEW_ROWS),
        held_out=held_out(),
        recovery=Recovery(factor_tries=0, gentler_tries=0),
        learning_rate=3e-4,
        epochs=2.0,
        warmup_ratio=0.5,  # so that it has hardly moved a quarter of the way
        schedule="constant_with_warmup",
    )
    result = ended(folder)
    assert isinstance(result, JobResult), result
    stage = only_stage(result.metrics)
    assert set(attempts(stage)[1:]) == {"checkpoint"}


def test_what_changes_nothing_is_refused_as_nothing_learned_with_the_norm_of_the_update(tmp_path: Path) -> None:
    folder = lesson(tmp_path / "job", rows=taught(TASK, 64), held_out=held_out(), learning_rate=1e-7)
    failure = ended(folder)
    assert isinstance(failure, Failure)
    assert failure.reason == "nothing_learned"
    norm = failure.evidence["update_norm"]
    assert isinstance(norm, float)
    assert 0 < norm < 0.1


def test_a_batch_that_holds_nothing_out_sets_rows_aside_to_be_proven_by(tmp_path: Path) -> None:
    folder = lesson(tmp_path / "job", rows=taught(TASK, NEW_ROWS), replay=rehearsed(960))
    result = ended(folder)
    assert isinstance(result, JobResult), result
    assert result.metrics["rows_set_aside"] == 32
    assert result.metrics["rows"] == NEW_ROWS + 960 - 32
    assert findings(result)["row_loss", "hold-out"] == "learned"


def test_a_batch_that_is_too_small_to_prove_anything_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    failure = ended(lesson(tmp_path / "job", rows=taught(TASK, 40)))
    assert isinstance(failure, Failure)
    assert (failure.phase, failure.reason) == ("preparing", "too_few_to_prove")
    assert "RUMINATE_SEAL_AFTER_MIN_ROWS" in failure.explanation


def manifest(folder: Path, *, rows: int, held_out: int, conversations: int) -> None:
    """Say out of how many conversations the rows that are held out are, and that every other row is of one of its own."""
    splits = [*["train"] * rows, *["holdout"] * held_out]
    written = {
        "rows": [
            {"split": split, "offset": at, "conversation": f"c{at % conversations if split == 'holdout' else at}"}
            for at, split in enumerate(splits)
        ]
    }
    (folder / DATASET_FOLDER / "manifest.json").write_text(json.dumps(written), encoding="utf-8")


def test_rows_of_a_few_conversations_prove_nothing_and_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    asked = held_out()
    folder = lesson(tmp_path / "job", rows=taught(TASK, 64), held_out=asked)
    manifest(folder, rows=64, held_out=len(asked), conversations=3)
    failure = ended(folder)
    assert isinstance(failure, Failure)
    assert (failure.phase, failure.reason) == ("preparing", "too_few_to_prove")
    assert "of 3 conversations" in failure.explanation
    assert failure.evidence == {"conversations": 3, "needed": 5}


def test_a_manifest_of_other_rows_is_a_broken_dataset(tmp_path: Path) -> None:
    folder = lesson(tmp_path / "job", rows=taught(TASK, 64), held_out=held_out())
    manifest(folder, rows=63, held_out=len(held_out()), conversations=64)
    failure = ended(folder)
    assert isinstance(failure, Failure)
    assert failure.reason == "bad_dataset"
    assert "manifest.json speaks of 63 rows (train), and 64 are there" in failure.explanation


def test_a_stage_that_was_undone_is_none_of_those_that_made_the_version(tmp_path: Path) -> None:
    practised = draw(SUMS[0], 64, Random(1))
    folder = lesson(
        tmp_path / "job",
        rows=taught(TASK, NEW_ROWS),
        replay=rehearsed(960),
        held_out=held_out(),
        # What is already answered rightly is learned to be answered otherwise, much too fast: it costs what the base can do.
        pairs=[preference_line(exercise._replace(answer="0"), exercise.answer) for exercise in practised],
        stages=("thinking_fusion", "general_rl"),
        recovery=Recovery(factor_tries=0, gentler_tries=0),
        preference=Preference(learning_rate=1e-2, epochs=8.0, batch_rows=8, beta=1.0),
        checkpoint_steps=1000,
    )
    result = ended(folder)
    assert isinstance(result, JobResult), result
    assert result.stages == ("thinking_fusion",)
    stages: Any = result.metrics["stages"]
    assert [stage["accepted"] for stage in stages] == [0, None]


def test_where_it_is_only_reported_every_version_passes_and_says_so(tmp_path: Path) -> None:
    folder = lesson(
        tmp_path / "job",
        rows=taught(TASK, 64),
        held_out=held_out(),
        learning_rate=1e-7,
        proof=Proof(enforcement="report", answer_tokens=64, batch_rows=64),
    )
    result = ended(folder)
    assert isinstance(result, JobResult)
    assert findings(result)["row_loss", "hold-out"] == "not_learned"
