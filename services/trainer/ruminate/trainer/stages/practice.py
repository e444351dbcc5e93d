"""Practice: the model answers questions several times over, and what was better than its like becomes likelier (GRPO).

Questions are given as text that is rendered already, each in its mode and with its tools, because TRL renders all in one mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

from ruminate.proof.asking import Grade
from ruminate.proof.exam import Question
from ruminate.proof.spoken import forms, take_apart
from ruminate.trainer.examining.speak import in_parts
from ruminate.trainer.plan import Practice
from ruminate.trainer.rows import question_tokens
from ruminate.trainer.stages.rewards import Attempt, Reward, rewards


class Rewarder:
    """What TRL asks for rewards: one call a generation, with the answers to each question side by side."""

    __name__ = "reward"  # TRL names a function's mean in its log by it

    def __init__(self, tokenizer: Any, questions: Sequence[Question], grade: Grade, chosen: Practice) -> None:
        self._tokenizer, self._questions, self._grade, self._chosen = tokenizer, questions, grade, chosen

    def __call__(
        self, *, completion_ids: Sequence[Sequence[int]], number: Sequence[int], log_metric: Callable[[str, float], None], **_: Any
    ) -> list[float]:
        """The reward of each answer. One whose check decides nothing gets the mean of its group: so it teaches nothing.

        None would say as much, and TRL would write question and answer into the log.
        """
        attempts = [self._look_at(self._questions[n], ids) for n, ids in zip(number, completion_ids, strict=True)]
        size = self._chosen.answers_a_question
        groups = [rewards(attempts[start : start + size]) for start in range(0, len(attempts), size)]
        counted = [reward for group in groups for reward in group if reward is not None]
        if counted:
            log_metric("right", fmean(reward.right for reward in counted))
            log_metric("well_formed", fmean(reward.form for reward in counted))
        return [worth for group in groups for worth in self._worth(group)]

    def _worth(self, group: Sequence[Reward | None]) -> list[float]:
        form, length = self._chosen.form_weight, self._chosen.length_weight
        found = [None if each is None else each.right + form * each.form + length * each.brevity for each in group]
        decided = [worth for worth in found if worth is not None]
        mean = fmean(decided) if decided else 0.0
        return [mean if worth is None else worth for worth in found]

    def _look_at(self, question: Question, ids: Sequence[int]) -> Attempt:
        end = self._tokenizer.eos_token_id
        cut = end not in ids
        spoken = take_apart(self._tokenizer.decode([token for token in ids if token != end], skip_special_tokens=False))
        well_formed, _ = forms(spoken, thinks=question.thinks, cut=cut)
        right = self._grade(question, spoken.answer) if spoken.answer and not cut else False
        return Attempt(right=right, well_formed=well_formed, tokens=len(ids))


def in_modes(questions: Sequence[Question], reasoning_ratio: float, seed: int) -> list[Question]:
    """The questions, so many of them with thinking and the others without, as the seed draws."""
    random = Random(seed)  # noqa: S311 - no secret
    return [question.model_copy(update={"thinks": random.random() < reasoning_ratio}) for question in questions]


class EpochSampler(RepeatSampler):  # type: ignore[misc]
    """Questions in an order that the seed and the epoch give: TRL's goes on drawing, and a job that goes on would begin anew."""

    def __init__(self, *, seed: int, **given: Any) -> None:
        super().__init__(seed=seed, **given)
        self._seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Called by transformers before each."""
        self.generator.manual_seed(self._seed + epoch)


class _PracticeTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's, with two things changed: the order of questions, and how many answers are written side by side."""

    answers_at_once: int

    def _get_train_sampler(self, dataset: Dataset | None = None) -> EpochSampler:
        repeated = self.num_iterations * self.args.steps_per_generation
        return EpochSampler(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=repeated,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )

    def _generate_single_turn(self, prompt_ids: Any, *given: Any, **named: Any) -> Any:
        """TRL writes the answers of a step all at once, however few rows it trains at once."""

        def some(part: Sequence[Any], _: int) -> list[Any]:
            written: list[Any] = super(_PracticeTrainer, self)._generate_single_turn(part, *given, **named)[0]
            return written

        found, self.answers_at_once = in_parts(prompt_ids, self.answers_at_once, some)
        return found, None


def practice(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    grade: Grade,
    chosen: Practice,
    *,
    learning_rate: float,
    micro_rows: int,
    seed: int,
    checkpoint_steps: int,
    checkpoints: Path,
    arguments: Mapping[str, Any],
) -> GRPOTrainer:
    """A trainer that is ready to go. A step is one generation: so every checkpoint falls on the boundary between two."""
    rendered = [question_tokens(question, tokenizer) for question in questions]
    prompts = [tokenizer.decode(ids, skip_special_tokens=False) for ids in rendered]
    room = int(model.config.max_position_embeddings) - max(len(ids) for ids in rendered)
    answers = chosen.questions_a_step * chosen.answers_a_question
    trainer = _PracticeTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[Rewarder(tokenizer, questions, grade, chosen)],
        train_dataset=Dataset.from_dict({"prompt": prompts, "number": list(range(len(prompts)))}),
        args=GRPOConfig(
            output_dir=str(checkpoints),
            max_steps=chosen.steps,
            per_device_train_batch_size=micro_rows,
            gradient_accumulation_steps=answers // micro_rows,
            num_generations=chosen.answers_a_question,
            max_completion_length=min(chosen.answer_tokens, room),
            temperature=chosen.temperature,
            beta=0.0,  # no reference model in memory; what must not drift is measured, not pulled
            learning_rate=learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=math.ceil(chosen.steps * chosen.warmup_ratio),
            weight_decay=0.0,
            seed=seed,
            save_strategy="steps",
            save_steps=checkpoint_steps,
            save_total_limit=2,
            logging_steps=1,
            logging_nan_inf_filter=False,
            disable_tqdm=True,
            report_to="none",
            mask_truncated_completions=False,  # they are told that they were too long, by their reward
            use_vllm=False,
            generation_kwargs={
                "remove_invalid_values": True
            },  # what is no number cannot be drawn from; the loss says that it is none
            **arguments,
        ),
    )
    trainer.answers_at_once = answers
    return trainer
