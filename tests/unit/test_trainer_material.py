"""Which rows steer, which prove, and which are set aside where too few are held out."""

from __future__ import annotations

import json

from ruminate.trainer.material import LARGEST_PART_SET_ASIDE, LEAST_TO_DIVIDE, divide, set_aside
from ruminate.trainer.rows import Row, parse_rows


def rows(count: int, *, modes: tuple[bool, ...] = (True, False)) -> list[Row]:
    """So many questions, each in these modes."""
    lines = [
        json.dumps(
            {
                "prompt": [{"role": "user", "content": f"{number}?"}],
                "completion": [{"role": "assistant", "content": "1"} | ({"reasoning_content": "one"} if thinks else {})],
                "chat_template_kwargs": {"enable_thinking": thinks},
            }
        )
        for number in range(count)
        for thinks in modes
    ]
    return parse_rows(lines, where="rows")


def asked(found: list[Row]) -> set[str]:
    """What is asked in them."""
    return {row.prompt[0].content for row in found}


def test_few_rows_held_out_all_prove() -> None:
    few = rows(LEAST_TO_DIVIDE // 2 - 1)
    assert divide(few) == ([], few)


def test_of_many_about_half_steer_and_no_question_does_both() -> None:
    watched, proving = divide(rows(100))
    assert len(watched) + len(proving) == 200
    assert 60 <= len(watched) <= 140
    assert not asked(watched) & asked(proving)


def test_rows_are_set_aside_by_whole_questions_and_always_the_same_ones() -> None:
    given = rows(100)
    learned, aside = set_aside(given, 32)
    assert 32 <= len(aside) <= 33
    assert len(learned) + len(aside) == len(given)
    assert not asked(learned) & asked(aside)
    assert asked(set_aside(given[::-1], 32)[1]) == asked(aside)


def test_no_more_is_set_aside_than_a_part_and_nothing_where_enough_is_held_out() -> None:
    given = rows(20)
    assert len(set_aside(given, 32)[1]) <= len(given) // LARGEST_PART_SET_ASIDE + 1
    assert set_aside(given, 0) == (given, [])
    assert set_aside(given, -5) == (given, [])
