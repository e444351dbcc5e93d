"""A device whose memory is full: fewer rows at once, more of them a step, and the same is learned. And numbers that are none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ruminate.schemas.training import Stage
from ruminate.trainer.backends.on_transformers import OnTransformers
from ruminate.trainer.bases.arithmetic import NEW_TASKS, SUMS, draw, row
from ruminate.trainer.bases.small import SHIPPED
from ruminate.trainer.outcome import ADAPTER_FOLDER, JobFailed, JobResult
from ruminate.trainer.plan import Practice, Preference, Proof, StageRules
from ruminate.trainer.recipe import run
from tests.integration.lessons import lesson, preference_line, taught, unseen

pytestmark = pytest.mark.usefixtures("one_thread")

OFF = Proof(enforcement="off")


@dataclass(frozen=True)
class OnASmallDevice(OnTransformers):
    """Runs out of memory as CUDA does, where more rows are computed at once than it has room for."""

    room: int = 8
    while_it_trains_alone: bool = False

    def load(self, base: Path, *, context_tokens: int) -> Any:
        """The base, which refuses larger batches."""
        model = super().load(base, context_tokens=context_tokens)

        def refuse(_: Any, __: Any, given: dict[str, Any]) -> None:
            if len(given["input_ids"]) > self.room and (torch.is_grad_enabled() or not self.while_it_trains_alone):
                raise torch.OutOfMemoryError("CUDA out of memory")

        model.register_forward_pre_hook(refuse, with_kwargs=True)
        return model


def only_stages(result: JobResult) -> Any:
    """The records of the stages that were run."""
    return result.metrics["stages"]


def test_a_full_device_is_given_fewer_rows_at_once_and_learns_the_same(tmp_path: Path) -> None:
    rows = taught(NEW_TASKS[0], 64)
    results = {
        name: run(lesson(tmp_path / name, rows=rows, proof=OFF), lambda _: None, backend)
        for name, backend in (("large", OnTransformers("lora")), ("small", OnASmallDevice("lora")))
    }
    (large,), (small,) = (only_stages(result) for result in results.values())
    assert (large["micro_batch_rows"], small["micro_batch_rows"]) == (32, 8)
    assert large["steps"] == small["steps"] == 2
    # Rows of unequal length are padded otherwise, and sums are added in another order.
    assert small["train_loss"] == pytest.approx(large["train_loss"], rel=1e-3)


def practised(folder: Path, *stages: Stage, proof: Proof = OFF) -> Path:
    """A job that practises, learns preferences, or both: sixteen answers, and eight pairs, a step."""
    return lesson(
        folder,
        rows=taught(NEW_TASKS[0], 64),
        held_out=[row(exercise, thinks=True) for exercise in unseen(NEW_TASKS[0], 24)],
        practised=draw(SUMS[0], 16, Random(3)),
        pairs=[preference_line(exercise, "0") for exercise in draw(NEW_TASKS[0], 16, Random(4))],
        rules=StageRules(wanted=stages, practice_least_questions=16, preference_least_pairs=16),
        proof=proof,
        exam_questions=4,
        practice=Practice(learning_rate=1e-4, steps=3, questions_a_step=4, answers_a_question=4, answer_tokens=40),
        preference=Preference(learning_rate=1e-4, batch_rows=8, epochs=1.0),
    )


def evidence(folder: Path) -> Any:
    """What stands beside the adapter."""
    return json.loads((folder / ADAPTER_FOLDER / "proof.json").read_bytes())


def test_practice_and_preferences_are_given_fewer_rows_at_once_too_and_their_curves_stay(tmp_path: Path) -> None:
    small = OnASmallDevice("lora", room=4, while_it_trains_alone=True)
    for name, backend in (("large", OnTransformers("lora")), ("small", small)):
        run(practised(tmp_path / name, "reasoning_rl", "general_rl"), lambda _: None, backend)
    large_stages, small_stages = (evidence(tmp_path / name)["stages"] for name in ("large", "small"))
    # Of preferences one pair is two rows, and the first try is with half of the rows.
    assert [stage["micro_batch_rows"] for stage in large_stages] == [32, 32]
    assert [stage["micro_batch_rows"] for stage in small_stages] == [4, 4]
    for one, other in zip(large_stages, small_stages, strict=True):
        for curve in ("losses", "rewards"):
            for (step, value), (same_step, same_value) in zip(one[curve], other[curve], strict=True):
                assert step == same_step
                assert value == pytest.approx(same_value, abs=1e-4), (one["stage"], curve, step)


def test_answers_are_written_fewer_at_once_where_the_device_is_full_in_exams_and_in_practice(tmp_path: Path) -> None:
    report = Proof(enforcement="report", answer_tokens=16, batch_rows=64)
    for name, backend in (("large", OnTransformers("lora")), ("small", OnASmallDevice("lora", room=8))):
        run(practised(tmp_path / name, "reasoning_rl", "thinking_fusion", proof=report), lambda _: None, backend)
    large, small = (evidence(tmp_path / name) for name in ("large", "small"))
    # Before anything is learned, and greedily, the same is said.
    assert small["before"][0]["answers"] == large["before"][0]["answers"]
    assert small["before"][0]["row_losses"] == pytest.approx(large["before"][0]["row_losses"], abs=1e-4)
    assert [stage["steps"] for stage in small["stages"]] == [3, 2]
    assert [stage["micro_batch_rows"] for stage in small["stages"]] == [8, 8]


@pytest.mark.parametrize("stage", ["thinking_fusion", "reasoning_rl", "general_rl"])
def test_a_device_that_cannot_take_one_row_ends_the_job_with_what_to_do(tmp_path: Path, stage: Stage) -> None:
    full = OnASmallDevice("lora", room=0, while_it_trains_alone=True)
    with pytest.raises(JobFailed) as caught:
        run(practised(tmp_path / "job", stage), lambda _: None, full)
    failure = caught.value.failure
    assert (failure.phase, failure.reason) == ("training", "out_of_memory")
    assert "lower RUMINATE_MAX_ROW_TOKENS" in failure.explanation
    assert "ruminate train retry" in failure.explanation


@dataclass(frozen=True)
class OnADeviceThatOverflows(OnTransformers):
    """Computes gradients that are no numbers, from the second step on."""

    def load(self, base: Path, *, context_tokens: int) -> Any:
        """The base, whose last layer's gradients overflow."""
        model = super().load(base, context_tokens=context_tokens)
        passes = 0

        def overflow(_: Any, given: Any, output: Any) -> None:
            nonlocal passes
            if not torch.is_grad_enabled():
                return
            passes += 1
            if passes > 1:
                output.register_hook(lambda gradient: gradient * float("inf"))

        model.model.norm.register_forward_hook(overflow)
        return model


@pytest.mark.parametrize(
    ("stage", "setting"),
    [
        ("thinking_fusion", "RUMINATE_LEARNING_RATE"),
        ("reasoning_rl", "RUMINATE_PRACTICE_RATE"),
        ("general_rl", "RUMINATE_PREFERENCE_RATE"),
    ],
)
def test_a_gradient_that_is_no_number_ends_each_kind_of_stage_at_its_step(tmp_path: Path, stage: Stage, setting: str) -> None:
    with pytest.raises(JobFailed) as caught:
        run(practised(tmp_path / "job", stage), lambda _: None, OnADeviceThatOverflows("lora"))
    failure = caught.value.failure
    assert (failure.phase, failure.reason) == ("training", "diverged")
    assert f"at step 2 of {3 if stage == 'reasoning_rl' else 2} in {stage}" in failure.explanation
    assert setting in failure.explanation
    assert failure.evidence["step"] == 2


def test_a_base_that_says_nothing_that_is_a_number_is_told_before_anything_is_learned(tmp_path: Path) -> None:
    broken = tmp_path / "base"
    broken.mkdir()
    for path in SHIPPED.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    state = {name: weight.float() for name, weight in load_file(broken / "model.safetensors").items()}
    state["model.norm.weight"][:] = 3e38  # numbers, with which nothing can be calculated
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    folder = lesson(
        tmp_path / "job",
        rows=taught(NEW_TASKS[0], 64),
        held_out=[row(exercise, thinks=True) for exercise in unseen(NEW_TASKS[0], 24)],
        base=broken,
        exam_questions=24,
        proof=Proof(answer_tokens=16),
    )
    with pytest.raises(JobFailed) as caught:
        run(folder, lambda _: None, OnTransformers("lora"))
    failure = caught.value.failure
    assert (failure.phase, failure.reason) == ("measuring", "diverged")
    assert "the base or the parent that the job begins with is damaged" in failure.explanation
