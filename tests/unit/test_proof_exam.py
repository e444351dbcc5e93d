"""Exams: how questions are read, how answers are taken apart, and what counts as well-formed and obedient."""

from __future__ import annotations

import json

import pytest

from ruminate.proof.exam import (
    HOLD_OUT,
    BadExam,
    Check,
    held_out_questions,
    read_questions,
    read_verifiable,
    some_of,
)
from ruminate.proof.spoken import forms, take_apart
from ruminate.trainer.rows import Row, parse_rows


def row(question: str, *, thinks: bool) -> Row:
    """A row that is held out."""
    answer = {"role": "assistant", "content": "4"} | ({"reasoning_content": "2 and 2"} if thinks else {})
    line = {
        "prompt": [{"role": "user", "content": question}],
        "completion": [answer],
        "chat_template_kwargs": {"enable_thinking": thinks},
    }
    (found,) = parse_rows([json.dumps(line)], where="holdout.jsonl")
    return found


def verifiable(question: str, reference: str) -> str:
    """A line of verifiable-holdout.jsonl."""
    return json.dumps({"prompt": [{"role": "user", "content": question}], "check": {"kind": "reference", "content": reference}})


@pytest.mark.parametrize(
    ("said", "thinks", "cut", "well_formed", "obedient"),
    [
        ("<think>\n2+2\n</think>\n\n4", True, False, True, True),
        ("<think>\n2+2\n</think>\n\n4", False, False, False, False),
        ("4", False, False, True, True),
        ("4", True, False, False, False),
        ("<think>\n\n</think>\n\n4", True, False, False, False),  # an empty thought is none
        ("<think>\n\n</think>\n\n4", False, False, False, True),  # not asked for, and a sign of thinking all the same
        ("<think>\n2+2\n</think>\n\n4", True, True, False, True),  # came to no end
        ("<think>\n2+2, 4", True, False, False, True),  # never closed
        ("<think>\n2+2\n</think>\n\n", True, False, False, True),  # no answer
        ("<think>\na</think>b</think>\n\n4", True, False, False, True),  # closed twice
        ("<think>\na<think>b</think>\n\n4", True, False, False, True),  # opened twice
        ("So <think>\n2+2\n</think>\n\n4", True, False, False, False),  # something said before
        ("2+2\n</think>\n\n4", True, False, False, False),  # closed and never opened
        ("2+2\n</think>\n\n4", False, False, False, True),
        ("", False, False, False, True),
    ],
)
def test_an_answer_has_a_form_and_obeys_or_not(said: str, thinks: bool, cut: bool, well_formed: bool, obedient: bool) -> None:
    assert forms(take_apart(said), thinks=thinks, cut=cut) == (well_formed, obedient)


def test_a_prompt_that_opens_the_thinking_is_gone_on_from() -> None:
    spoken = take_apart("2+2\n</think>\n\n4", opened=True)
    assert (spoken.thinking, spoken.answer) == ("2+2", "4")
    assert forms(spoken, thinks=True, cut=False) == (True, True)
    assert forms(take_apart("<think>2+2\n</think>\n\n4", opened=True), thinks=True, cut=False) == (False, True)


def test_a_question_is_asked_in_the_modes_that_it_names() -> None:
    lines = [
        '{"question": "2+2?", "reference": "4"}',
        "",
        '{"question": "3+3?", "reference": "6", "thinking": "off"}',
        '{"prompt": [{"role": "system", "content": "JSON"}, {"role": "user", "content": "?"}], '
        '"check": {"kind": "json_schema", "content": "{}"}, "thinking": "on"}',
    ]
    questions = read_questions(lines, name="sums", where="sums.jsonl")
    assert [(question.prompt[-1].content, question.thinks) for question in questions] == [
        ("2+2?", True),
        ("2+2?", False),
        ("3+3?", False),
        ("?", True),
    ]
    assert questions[0].check == Check(kind="reference", content="4")
    assert {str(question.group) for question in questions} == {"sums, thinking", "sums, direct"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nonsense", "line 1: the line: Invalid JSON"),
        ("{}", "give either a question or a prompt"),
        ('{"question": "2+2?"}', "give either a reference or a check"),
        ('{"question": "2+2?", "reference": "4", "thinking": "maybe"}', "line 1: thinking"),
        ('{"question": "2+2?", "check": {"kind": "guess", "content": "4"}}', "line 1: check.kind"),
        ('{"prompt": [{"role": "assistant", "content": "4"}], "reference": "4"}', "must end with user or tool"),
    ],
)
def test_a_line_that_is_no_question_is_named(line: str, says: str) -> None:
    with pytest.raises(BadExam, match=r"sums\.jsonl line 1") as caught:
        read_questions([line], name="sums", where="sums.jsonl")
    assert says in str(caught.value)


def test_rows_that_are_held_out_are_asked_in_their_mode_with_their_check() -> None:
    rows = [row("2+2?", thinks=True), row("2+2?", thinks=False), row("Hello", thinks=False)]
    checks = read_verifiable([verifiable("2+2?", "4"), verifiable("9-1?", "8")], where="verifiable-holdout.jsonl")
    questions = held_out_questions([each.asked for each in rows], checks)
    assert [(q.prompt[0].content, q.thinks, q.check and q.check.content) for q in questions] == [
        ("2+2?", True, "4"),
        ("2+2?", False, "4"),
        ("Hello", False, None),
        ("9-1?", True, "8"),  # its answer was not worth a row; the question still is one
    ]
    assert {question.set for question in questions} == {HOLD_OUT}


def test_of_many_questions_always_the_same_are_asked_of_each_set_and_mode() -> None:
    lines = [json.dumps({"question": f"{number}+1?", "reference": str(number + 1)}) for number in range(50)]
    questions = read_questions(lines, name="sums", where="sums.jsonl")
    chosen = some_of(questions, 10)
    assert len(chosen) == 20
    assert {q.prompt[0].content for q in chosen if q.thinks} == {q.prompt[0].content for q in chosen if not q.thinks}
    reordered = read_questions(reversed(lines), name="sums", where="sums.jsonl")
    assert {q.prompt[0].content for q in some_of(reordered, 10)} == {q.prompt[0].content for q in chosen}
