"""Which stages a batch supports, and for each that it does not, the reason. Pure.

    cold_start        long chains of thought, supervised
    reasoning_rl      practice: questions whose answers can be checked, by GRPO
    thinking_fusion   all rows, with thinking and without, supervised
    general_rl        preferences: corrections and thumbs, by DPO

They run in this order, as Qwen3 itself was made (https://arxiv.org/abs/2505.09388, section 4).
"""

from __future__ import annotations

from ruminate.schemas.payload import Count, Part
from ruminate.schemas.training import Stage
from ruminate.trainer.plan import ORDER, StageRules


class Contents(Part):
    """What a dataset holds to train on, counted."""

    rows: Count
    long_rows: Count
    """Rows whose thinking has at least `cold_start_thinking_tokens`."""
    questions: Count
    """That can be checked, and ask for no tools."""
    pairs: Count


def choose(contents: Contents, rules: StageRules) -> tuple[tuple[Stage, ...], dict[Stage, str]]:
    """The stages to run, in order, and why each of the others is left out."""
    left_out: dict[Stage, str] = {}
    for stage in ORDER:
        if stage not in rules.wanted:
            left_out[stage] = "RUMINATE_TRAINING_STAGES does not name it"
        elif (reason := _lacks(stage, contents, rules)) is not None:
            left_out[stage] = reason
    return tuple(stage for stage in ORDER if stage not in left_out), left_out


def _lacks(stage: Stage, contents: Contents, rules: StageRules) -> str | None:
    if stage == "cold_start" and contents.long_rows < rules.cold_start_least_rows:
        return (
            f"{contents.long_rows} rows have {rules.cold_start_thinking_tokens} tokens of thinking or more, "
            f"{rules.cold_start_least_rows} are needed"
        )
    if stage == "reasoning_rl" and contents.questions < rules.practice_least_questions:
        return f"{contents.questions} questions can be checked, {rules.practice_least_questions} are needed"
    if stage == "thinking_fusion" and contents.rows == 0:
        return "there are no rows"
    if stage == "general_rl" and contents.pairs < rules.preference_least_pairs:
        return f"there are {contents.pairs} pairs of answers of which one is preferred, {rules.preference_least_pairs} are needed"
    return None
