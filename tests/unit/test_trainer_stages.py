"""Which stages a batch supports."""

from __future__ import annotations

from ruminate.trainer.plan import ORDER, StageRules
from ruminate.trainer.stages.choose import Contents, choose

RULES = StageRules()


def contents(*, rows: int = 500, long_rows: int = 0, questions: int = 0, pairs: int = 0) -> Contents:
    """What a dataset holds."""
    return Contents(rows=rows, long_rows=long_rows, questions=questions, pairs=pairs)


def test_a_batch_of_rows_alone_is_taught_in_one_stage_and_the_others_have_their_reason() -> None:
    stages, left_out = choose(contents(), RULES)
    assert stages == ("thinking_fusion",)
    assert left_out == {
        "cold_start": "0 rows have 1024 tokens of thinking or more, 64 are needed",
        "reasoning_rl": "0 questions can be checked, 64 are needed",
        "general_rl": "there are 0 pairs of answers of which one is preferred, 32 are needed",
    }


def test_a_batch_with_everything_goes_through_all_four_in_their_order() -> None:
    stages, left_out = choose(contents(long_rows=64, questions=64, pairs=32), RULES)
    assert (stages, left_out) == (ORDER, {})


def test_an_operator_decides_which_stages_there_are() -> None:
    stages, left_out = choose(
        contents(long_rows=64, questions=64, pairs=32), StageRules(wanted=("thinking_fusion", "reasoning_rl"))
    )
    assert stages == ("reasoning_rl", "thinking_fusion")
    assert left_out["cold_start"] == "RUMINATE_TRAINING_STAGES does not name it"


def test_nothing_is_taught_where_there_is_nothing() -> None:
    assert choose(contents(rows=0), RULES)[0] == ()
