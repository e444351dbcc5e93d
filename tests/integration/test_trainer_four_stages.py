"""Four stages in one job, each as it is meant: practice by rewards, preferences beside what the model was."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from transformers import AutoTokenizer

from ruminate.proof.exam import Check, Question
from ruminate.proof.messages import Message
from ruminate.schemas.training import Stage
from ruminate.trainer.backends.on_transformers import OnTransformers
from ruminate.trainer.bases.arithmetic import NEW_TASKS, draw, row
from ruminate.trainer.bases.small import SHIPPED
from ruminate.trainer.learning.proving import PROOF_FILE
from ruminate.trainer.outcome import ADAPTER_FOLDER, JobResult, Report
from ruminate.trainer.plan import ORDER, Practice, Preference, Proof, StageRules
from ruminate.trainer.recipe import run
from ruminate.trainer.stages.practice import EpochSampler, Rewarder, in_modes
from tests.integration.lessons import lesson, preference_line, rehearsed, taught, unseen

TASK = NEW_TASKS[0]


def everything(folder: Path) -> Path:
    """A job whose batch supports all four stages."""
    practised = draw(TASK, 64, Random(3))
    return lesson(
        folder,
        rows=taught(TASK, 320),
        replay=rehearsed(320),
        held_out=[row(exercise, thinks=True) for exercise in unseen(TASK, 30)],
        practised=practised,
        pairs=[preference_line(exercise, str(int(exercise.answer) + 1)) for exercise in practised[:32]],
        rules=StageRules(cold_start_thinking_tokens=20),
        proof=Proof(enforcement="off"),
        practice=Practice(learning_rate=1e-4, steps=3, questions_a_step=4, answers_a_question=4, answer_tokens=40),
        preference=Preference(learning_rate=1e-4, batch_rows=8),
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, JobResult, list[Stage]]:
    """The folder and the result of such a job, and the stages in the order in which they were told."""
    folder = everything(tmp_path_factory.mktemp("all") / "job")
    seen: list[Stage] = []

    def tell(report: Report) -> None:
        if report.progress is not None and report.progress.stage is not None and report.progress.stage not in seen:
            seen.append(report.progress.stage)

    return folder, run(folder, tell, OnTransformers("lora")), seen


def test_a_batch_that_supports_all_four_stages_goes_through_them_in_their_order(done: tuple[Path, JobResult, list[Stage]]) -> None:
    folder, result, seen = done
    assert result.stages == ORDER == tuple(seen)
    assert result.metrics["stages_left_out"] == {}
    stages: Any = result.metrics["stages"]
    assert [record["stage"] for record in stages] == list(ORDER)
    assert [record["steps"] for record in stages] == [record["planned_steps"] for record in stages]
    curves = json.loads((folder / ADAPTER_FOLDER / PROOF_FILE).read_bytes())["stages"]
    assert len(curves[1]["rewards"]) == 3
    # The first preference step compares the adapter with itself: TRL's reference is what it was when the stage began.
    assert curves[3]["losses"][0][1] == pytest.approx(0.6931, abs=1e-3)
    weights = json.loads((folder / ADAPTER_FOLDER / "adapter_config.json").read_bytes())
    assert weights["r"] == 64
    assert not (folder / ADAPTER_FOLDER / "ref").exists()


def test_a_batch_of_rows_alone_goes_through_one_and_says_why_not_through_the_others(tmp_path: Path) -> None:
    folder = lesson(tmp_path / "job", rows=taught(TASK, 64), rules=StageRules(), proof=Proof(enforcement="off"))
    result = run(folder, lambda _: None, OnTransformers("lora"))
    assert result.stages == ("thinking_fusion",)
    left_out: Any = result.metrics["stages_left_out"]
    assert set(left_out) == {"cold_start", "reasoning_rl", "general_rl"}
    assert left_out["reasoning_rl"] == "0 questions can be checked, 64 are needed"


@pytest.mark.long
def test_the_same_seed_gives_the_same_adapter(done: tuple[Path, JobResult, list[Stage]], tmp_path: Path) -> None:
    again = everything(tmp_path / "again")
    run(again, lambda _: None, OnTransformers("lora"))
    weights = Path(ADAPTER_FOLDER) / "adapter_model.safetensors"
    assert (done[0] / weights).read_bytes() == (again / weights).read_bytes()


def test_rewards_are_given_for_what_was_said_and_not_for_what_a_decoder_left_out() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    question = Question(
        set="hold-out",
        prompt=(Message(role="user", content="2+2?"),),
        thinks=True,
        check=Check(kind="exact", content="4"),
    )
    told: dict[str, float] = {}
    rewarder = Rewarder(
        tokenizer,
        [question],
        lambda asked, answer: asked.check is not None and answer == asked.check.content,
        Practice(answers_a_question=4, form_weight=0.2, length_weight=0.1),
    )

    def said(text: str, *, ended: bool = True) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, tokenizer.eos_token_id] if ended else ids

    good = said("<think>\n2+2=4\n</think>\n\n4")
    long = said("<think>\n2+2=4, 2+2=4, 2+2=4\n</think>\n\n4")
    wrong = said("<think>\n2+2=5\n</think>\n\n5")
    cut = said("<think>\n2+2=4\n</think>\n\n4", ended=False)
    rewards = rewarder(completion_ids=[good, long, wrong, cut], number=[0, 0, 0, 0], log_metric=told.__setitem__)
    best, longest, wrongly, unended = rewards
    assert best > longest > wrongly >= unended
    assert longest == pytest.approx(1.2 - 0.05)
    assert wrongly == pytest.approx(0.2)
    assert told == {"right": 0.5, "well_formed": 0.75}


def test_questions_are_practised_in_both_modes_as_the_share_says() -> None:
    question = Question(set="hold-out", prompt=(Message(role="user", content="2+2?"),), thinks=True)
    modes = [asked.thinks for asked in in_modes([question] * 1000, 0.75, seed=0)]
    assert 700 < sum(modes) < 800
    assert modes == [asked.thinks for asked in in_modes([question] * 1000, 0.75, seed=0)]


def test_each_epoch_has_its_order_of_questions_wherever_a_job_goes_on() -> None:
    def sampler() -> EpochSampler:
        return EpochSampler(data_source=range(8), mini_repeat_count=2, batch_size=4, repeat_count=1, shuffle=True, seed=0)

    def order(questions: EpochSampler, epoch: int) -> list[int]:
        questions.set_epoch(epoch)
        return list(questions)

    undisturbed = sampler()
    first, second = order(undisturbed, 0), order(undisturbed, 1)
    assert sorted(first) == sorted(second) == sorted([*range(8), *range(8)])
    assert first != second == order(sampler(), 1)
