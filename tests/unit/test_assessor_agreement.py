"""Which questions are the same, which answers say the same, and which have no form that can be compared."""

from __future__ import annotations

import pytest

from ruminate.assessor.evidence.agreement import agreement_of, answer_key, asks_again, question_key
from ruminate.assessor.finding.findings import find
from ruminate.assessor.judging.knowledge import Agreement
from ruminate.schemas.interaction import Message
from tests.solutions import interaction


def key(answer: str, question: str = "What is it?") -> str | None:
    return answer_key(find(interaction(question, None, answer), most_characters=10_000))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A: 18", "The answer is 18."),
        ("\\boxed{18}", "It is 18"),
        ("18.0", "18"),
        ("Yes, it is.", "yes"),
        ("It is Amber Bay.", "amber bay"),
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}'),
    ],
)
def test_the_same_answer_in_other_words_has_the_same_key(one: str, other: str) -> None:
    assert key(one) == key(other) is not None


@pytest.mark.parametrize(
    ("one", "other"), [("A: 18", "A: 19"), ("Yes", "No"), ("Amber Bay", "Amber Hill"), ('{"a": 1}', '{"a": 2}'), ("18", "yes")]
)
def test_other_answers_have_other_keys(one: str, other: str) -> None:
    assert key(one) != key(other)


@pytest.mark.parametrize("answer", ["", "A long explanation of many things that goes on and on " * 3])
def test_an_answer_without_a_short_form_is_not_compared(answer: str) -> None:
    assert key(answer) is None


def test_a_question_is_the_same_whatever_its_white_space_case_and_system_prompt() -> None:
    plain = interaction("What  is\n2 + 2?", None, "4")
    shouted = plain.model_copy(
        update={"messages": (Message(role="system", content="Be brief."), Message(role="user", content="WHAT is 2 + 2?"))}
    )
    assert question_key(plain) == question_key(shouted)
    assert question_key(plain) != question_key(interaction("What is 2 + 3?", None, "4"))
    after = plain.model_copy(
        update={"messages": (Message(role="user", content="Hi"), Message(role="assistant", content="Hi"), *plain.messages)}
    )
    assert question_key(plain) != question_key(after)


def test_agreement_counts_only_what_can_be_compared() -> None:
    assert agreement_of("18", ["18", "19", None]) == Agreement(1, 1)
    assert agreement_of("18", [None]) is None
    assert agreement_of(None, ["18"]) is None


def asked(*questions: str) -> bool:
    messages = [
        message
        for question in questions
        for message in (Message(role="user", content=question), Message(role="assistant", content="So it is."))
    ]
    return asks_again(messages[:-1])


@pytest.mark.parametrize(
    "question",
    [
        "What is the tallest mountain of Zarvex?",
        "Tell me: what is Zarvex's tallest mountain, please?",
        "No, that is a river.",
        "That's wrong.",
        "Are you sure about it?",
        "try again",
    ],
)
def test_the_same_question_in_other_words_and_a_complaint_ask_again(question: str) -> None:
    assert asked("What is the tallest mountain of Zarvex?", question)


@pytest.mark.parametrize(
    "question",
    ["And how high is it?", "Thanks!", "What is the longest river of Ombria?", "Now write a poem about the sea.", "Nothing else."],
)
def test_a_question_that_goes_on_asks_nothing_again(question: str) -> None:
    assert not asked("What is the tallest mountain of Zarvex?", question)


def test_a_first_question_asks_nothing_again() -> None:
    assert not asked("No.")
