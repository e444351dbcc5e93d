"""An exam is put down so that it can be asked again, and without a word of what people have asked."""

from __future__ import annotations

import json

from ruminate.proof.asking import DIRECT, GREEDY, THINKING
from ruminate.proof.exam import HOLD_OUT, Question, held_out_questions, read_asked, read_questions
from ruminate.proof.judge import Policy
from ruminate.proof.record import ExamRecord, ask_again, record
from ruminate.proof.spoken import Answered

SECRET = "my dog is called Rex"


def held_out(*asked: str) -> list[Question]:
    rows = [
        json.dumps({"prompt": [{"role": "user", "content": each}], "chat_template_kwargs": {"enable_thinking": True}})
        for each in asked
    ]
    return held_out_questions(read_asked(rows, where="holdout.jsonl"), [])


def answered(number: int) -> Answered:
    return Answered(right=None, well_formed=True, obedient=True, thinking_tokens=number, answer_tokens=number, cut=False)


def recorded(questions: list[Question], *, samples: bool = True) -> ExamRecord:
    answers = [answered(number) for number in range(len(questions))]
    made = record(questions, answers, answer_tokens=64, seed=3, samples=samples, policy=Policy())
    return ExamRecord.model_validate_json(made.model_dump_json())


def sums(count: int) -> list[Question]:
    lines = [json.dumps({"question": f"{number}+1?", "reference": str(number + 1)}) for number in range(count)]
    return read_questions(lines, name="sums", where="sums.jsonl")


def test_what_people_asked_is_named_by_a_hash_and_found_in_the_dataset_alone() -> None:
    made = recorded([*sums(1), *held_out(SECRET)])
    assert SECRET not in made.model_dump_json()
    assert "0+1?" in made.model_dump_json()
    again = ask_again(made, held_out("something else", SECRET), most=10)
    assert [question.set for question in again.questions] == ["sums", "sums", HOLD_OUT]
    assert [each.thinking_tokens for each in again.answered] == [0, 1, 2]
    assert again.questions[2].prompt[0].content == SECRET
    assert again.gone == 0


def test_what_has_left_the_dataset_is_counted_and_not_asked() -> None:
    made = recorded(held_out("one", "two", "three"))
    again = ask_again(made, held_out("two"), most=10)
    assert [question.prompt[0].content for question in again.questions] == ["two"]
    assert [each.thinking_tokens for each in again.answered] == [1]
    assert again.gone == 2


def test_a_question_that_was_asked_in_one_mode_is_asked_again_in_that_mode() -> None:
    thinking, direct = sums(1)
    again = ask_again(recorded([direct]), [], most=10)
    assert [question.thinks for question in again.questions] == [False]
    assert thinking.key == direct.key


def test_of_each_group_so_many_are_asked_always_the_same_each_with_its_own_answer() -> None:
    questions = sums(20)
    first, second = (ask_again(recorded(order), [], most=3) for order in (questions, questions[::-1]))
    assert len(first.questions) == 6
    assert {question.key for question in first.questions} == {question.key for question in second.questions}
    for question, found in zip(first.questions, first.answered, strict=True):
        assert found.thinking_tokens == questions.index(question)


def test_it_is_asked_as_it_was_asked() -> None:
    drawn, greedy = recorded(sums(1)), recorded(sums(1), samples=False)
    assert [drawn.sampling(thinks=thinks) for thinks in (True, False)] == [THINKING, DIRECT]
    assert [greedy.sampling(thinks=thinks) for thinks in (True, False)] == [GREEDY, GREEDY]
