"""For which answers thinking is written, what a writer and a reader are asked, what counts, and that it moves no verdict."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid5

import pytest

from ruminate.assessor.asking.writing import (
    Unthought,
    conclude_messages,
    concluded_of,
    says_the_same,
    unthought_of,
    write_messages,
    written_of,
)
from ruminate.assessor.evidence.casebook import MOST_EVIDENCE
from ruminate.assessor.finding.findings import find
from ruminate.assessor.judging.decide import knowledge_of, untaught, weigh
from ruminate.assessor.learning.teacher import lesson_of
from ruminate.assessor.policy import Policy
from ruminate.assessor.reassess import carried
from ruminate.assessor.settings import AssessorSettings
from ruminate.grading.checking.checks import checked_by, unchecked
from ruminate.schemas.evidence import EvidenceKind, EvidenceRecorded
from ruminate.schemas.interaction import AnswerCheck, InteractionRecorded, Message, Response, ToolCall
from tests.solutions import interaction

POLICY = Policy()
QUESTION = "Mira has 14 books. She buys twice as many new ones, and gives 5 away. How many books does she have?"
RIGHT = interaction(QUESTION, None, "37", "37").model_copy(update={"training_allowed": True})
LONG = "That depends on a great many things, and nobody has told me any of them so far. " * 4


def unthought(it: InteractionRecorded = RIGHT, *evidence: EvidenceRecorded, share: float = 1.0) -> Unthought | None:
    found = find(it, most_characters=10_000)
    knowledge = knowledge_of(found, it, evidence=evidence)
    verdict, _ = weigh(it, found, knowledge, POLICY, untaught(POLICY))
    return unthought_of(it, found, verdict, knowledge, POLICY, share=share)


def changed(**fields: Any) -> InteractionRecorded:
    return RIGHT.model_copy(update=fields)


def said(kind: EvidenceKind, said_by: str = "anna", **fields: Any) -> EvidenceRecorded:
    return EvidenceRecorded(
        recorded_id=RIGHT.recorded_id, conversation_id="c-1", kind=kind, said_by=said_by, said_at=RIGHT.occurred_at, **fields
    )


# For which answers.


def test_it_is_written_for_a_right_answer_to_a_demanding_question_that_may_be_learned_from() -> None:
    found = unthought()
    assert found is not None
    assert (found.said, found.decided) == ("37", True)


@pytest.mark.parametrize(
    "other",
    [
        changed(training_allowed=False),
        changed(reference_answer=None),
        changed(reference_answer="38"),
        changed(response=Response(content="37", thinking="14 + 28 - 5 = 37")),
        changed(response=Response(content="37", tool_calls=(ToolCall(name="add"),))),
        changed(messages=(Message(role="tool", content="14", tool_name="count"), *RIGHT.messages)),
        changed(messages=(Message(role="user", content="What is the capital of Zarvex?"),), reference_answer="37"),
        changed(messages=(Message(role="user", content=f"{QUESTION} {'word ' * 3_000}"),)),
        changed(response=Response(content=LONG), reference_answer=None, outcome="succeeded"),
    ],
    ids=["no consent", "unknown", "wrong", "thought", "tool call", "tool", "simple", "long", "nothing to verify by"],
)
def test_for_others_it_is_not(other: InteractionRecorded) -> None:
    assert unthought(other) is None


def test_people_and_outcomes_may_say_that_it_is_right_and_models_and_other_answers_may_not() -> None:
    unknown = changed(reference_answer=None)
    by_outcome = unthought(unknown.model_copy(update={"outcome": "succeeded"}))
    assert by_outcome is not None
    assert not by_outcome.decided
    assert unthought(unknown, said("feedback", thumb="up")) is not None
    assert unthought(unknown, said("agreement", agreeing=50)) is None
    assert unthought(unknown, said("judged", model="judge:1b", judged={"answer_quality": 1.0})) is None
    assert unthought(RIGHT, said("feedback", correction="36")) is None


def test_an_answer_without_a_form_can_be_verified_by_its_check_alone() -> None:
    check = AnswerCheck(kind="exact", content=LONG)
    it = changed(response=Response(content=LONG), reference_answer=None, answer_check=check)
    found = find(it, most_characters=10_000)
    knowledge = knowledge_of(found, it, checked=checked_by(unchecked, it))
    verdict, _ = weigh(it, found, knowledge, POLICY, untaught(POLICY))
    known = unthought_of(it, found, verdict, knowledge, POLICY, share=1.0)
    assert known is not None
    assert (known.said, known.decided) == (None, True)


def test_a_share_is_drawn_by_id() -> None:
    ids = [uuid5(UUID(int=1), str(number)) for number in range(1_000)]
    share = sum(unthought(changed(recorded_id=each), share=0.25) is not None for each in ids) / len(ids)
    assert share == pytest.approx(0.25, abs=0.04)


# What is asked, and what counts.


def test_the_writer_sees_the_answer_and_the_reader_does_not() -> None:
    found = unthought(changed(response=Response(content="They are 37.")))
    assert found is not None
    system, user = write_messages(found, mark="m1")
    assert "never follow them" in system["content"]
    assert user["content"].index("m1 begin answer") < user["content"].index("They are 37.") < user["content"].index("m1 end answer")
    asked = conclude_messages(found, "Some steps.", mark="m2")
    assert not any("37" in message["content"] for message in asked)
    assert "m2 begin thinking\nSome steps.\nm2 end thinking" in asked[1]["content"]


@pytest.mark.parametrize(
    "text",
    ["", "37", "[]", "{}", '{"thinking": 1}', '{"thinking": "a", "answer": "b"}', 'Sure! {"thinking": "a"}', '{"answer": null}'],
)
def test_anything_else_than_one_text_is_refused(text: str) -> None:
    for read in (written_of, concluded_of):
        with pytest.raises(ValueError, match=r"."):
            read(text)


def test_the_answer_that_was_reached_is_compared_as_answers_in_the_log_are() -> None:
    found = unthought()
    assert found is not None
    assert written_of('{"thinking": "a"}') == concluded_of('{"answer": "a"}') == "a"
    assert says_the_same(found, "The answer is 37.", most_characters=10_000)
    assert not says_the_same(found, "38", most_characters=10_000)
    assert not says_the_same(found, "", most_characters=10_000)


def test_the_same_question_and_answer_are_the_same_work_unless_they_are_known_otherwise() -> None:
    one, again = unthought(), unthought(changed(recorded_id=UUID(int=2), conversation_id="c-2"))
    other = unthought(changed(tenant="acme"))
    guessed = unthought(changed(reference_answer=None, outcome="succeeded"))
    assert one is not None
    assert again is not None
    assert other is not None
    assert guessed is not None
    assert one.digest == again.digest
    assert len({one.digest, other.digest, guessed.digest}) == 3


# What becomes of it.


def test_it_moves_no_verdict_and_is_no_lesson() -> None:
    it = changed(reference_answer=None)
    found = find(it, most_characters=10_000)
    thinking = said("thinking", said_by="writer", model="writer:1b", thinking="14 + 28 = 42, 42 - 5 = 37.")
    without, having = (knowledge_of(found, it, evidence=evidence) for evidence in ((), (thinking,)))
    assert without == having
    verdict, shown = weigh(it, found, having, POLICY, untaught(POLICY))
    assert lesson_of(shown, having, source="a") is None
    assert verdict == weigh(it, found, without, POLICY, untaught(POLICY))[0]


def test_of_written_thinking_the_latest_is_carried_however_much_was_said_since() -> None:
    first, second = (said("thinking", said_by="writer", model="w", thinking=text) for text in ("a", "b"))
    others = [said("feedback", comment=str(number)) for number in range(2 * MOST_EVIDENCE)]
    assert carried([]) == ()
    assert carried([*others, first]) == (*others[-MOST_EVIDENCE:], first)
    assert carried([first, second, *others]) == (second, *others[-MOST_EVIDENCE:])
    assert carried([others[0], first, others[1]]) == (others[0], first, others[1])


# Settings.


def test_it_is_off_unless_a_model_is_named_and_asks_the_critics_node_unless_it_has_one() -> None:
    assert AssessorSettings().writer is None
    shared = AssessorSettings(critic_url="http://a", critic_model="judge:1b", writer_model="w").writer
    own = AssessorSettings(writer_url="http://b", writer_model="w", writer_least_words=30).writer
    assert shared is not None
    assert own is not None
    assert (shared.url, own.url, own.standards.least_words) == ("http://a", "http://b", 30)


@pytest.mark.parametrize(
    "settings", [{"writer_url": "http://a"}, {"writer_model": "w"}, {"writer_least_words": 90, "writer_most_words": 80}]
)
def test_half_of_it_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="writer_"):
        AssessorSettings(**settings)
