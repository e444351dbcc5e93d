"""Which questions a panel is asked, what of its answers counts, when it has said enough, and how they add up with logged ones."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid5

import pytest

from ruminate.assessor.asking.opinions import Asked, Given, asked_of, counted, given_of, has_said_enough, is_chosen, wording_of
from ruminate.assessor.finding.findings import find
from ruminate.assessor.judging.decide import assess, knowledge_of
from ruminate.assessor.judging.knowledge import Agreement, Knowledge
from ruminate.assessor.policy import Policy
from ruminate.assessor.settings import AssessorSettings
from ruminate.grading.checking.answers import Comparison
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.interaction import AnswerCheck, ImageReference, InteractionRecorded, Message
from tests.solutions import interaction

POLICY = Policy()
MODEL = "another:1b"
QUESTION = "Ann has 3 apples and buys 4 more apples. How many apples does Ann have now?"
IT = interaction(QUESTION, "Ann has 3 apples and buys 4, so she has 3 + 4 = 7 apples.", "7")


def asked(it: InteractionRecorded = IT, *, model: str = MODEL) -> Asked:
    found = asked_of(it, find(it, most_characters=10_000), model=model)
    assert found is not None
    return found


def given(content: str, thinking: str = "") -> Given:
    return given_of(asked(), content, thinking, most_characters=10_000)


# What is asked.


def chosen(it: InteractionRecorded = IT, *, overall: float = 0.5, knowledge: Knowledge | None = None, share: float = 1.0) -> bool:
    verdict = assess(it, POLICY)
    verdict = verdict.model_copy(update={"overall": verdict.overall.model_copy(update={"value": overall})})
    return is_chosen(it, verdict, knowledge or Knowledge(), share=share, doubt=(0.2, 0.8), enough=4)


def test_it_is_asked_where_the_verdict_is_in_doubt_and_nothing_can_decide_it() -> None:
    assert chosen()
    assert not chosen(overall=0.1)
    assert not chosen(overall=0.9)
    assert not chosen(knowledge=Knowledge(comparison=Comparison("right", "words")))
    assert not chosen(knowledge=Knowledge(outcome="failed"))
    assert not chosen(IT.model_copy(update={"reference_answer": "many"}))
    assert not chosen(IT.model_copy(update={"answer_check": AnswerCheck(kind="json_schema", content="{}")}))


def test_it_is_asked_only_while_the_log_has_too_few_answers() -> None:
    assert chosen(knowledge=Knowledge(agreement=Agreement(2, 1)))
    assert not chosen(knowledge=Knowledge(agreement=Agreement(2, 2)))


def test_a_share_is_drawn_by_id() -> None:
    ids = [uuid5(UUID(int=1), str(number)) for number in range(2_000)]
    share = sum(chosen(IT.model_copy(update={"recorded_id": each}), share=0.25) for each in ids) / len(ids)
    assert share == pytest.approx(0.25, abs=0.03)


def test_an_image_or_a_tool_keeps_a_question_from_being_asked_as_it_was() -> None:
    image = ImageReference(sha256="0" * 64, media_type="image/png", size_bytes=1)
    tool = Message(role="tool", content="4", tool_name="count")
    for messages in (
        (Message(role="user", content=QUESTION, images=(image,)),),
        (Message(role="user", content=QUESTION), tool, Message(role="user", content="Well?")),
        (Message(role="user", content=QUESTION), Message(role="assistant", content="Hm.")),
    ):
        other = IT.model_copy(update={"messages": messages})
        assert asked_of(other, find(other, most_characters=10_000), model=MODEL) is None


def test_a_model_is_not_asked_to_repeat_its_own_few_words() -> None:
    direct = interaction(QUESTION, None, "7")
    found = find(direct, most_characters=10_000)
    assert asked_of(direct, found, model=direct.target_model) is None
    assert asked_of(direct, found, model=MODEL) is not None
    assert asked(model=IT.target_model)  # its thinking tells a copy from an answer


# What counts.


def test_answers_are_compared_as_those_in_the_log_are() -> None:
    answers = [given("The answer is 7.", "a"), given("\\boxed{7}", "b"), given("It is 8.", "c"), given("So, 7", "d")]
    assert counted(asked(), answers, model=MODEL) == Agreement(3, 1)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "I'm sorry, I can't help with that 1.",
        "7\x00\x00",
        "It depends on a great many things. " * 9,
        "Many apples.",
        '{"n": 7}',
    ],
)
def test_what_is_no_answer_of_that_kind_neither_agrees_nor_disagrees(content: str) -> None:
    assert counted(asked(), [given(content, "hm")], model=MODEL) == Agreement(0, 0)


def test_a_wording_counts_once_and_the_answers_own_not_at_all() -> None:
    thinking = IT.response.thinking or ""
    assert counted(asked(), [given("8", "a"), given("8", "a"), given("8", "b")], model=MODEL) == Agreement(0, 2)
    assert counted(asked(), [given("7", thinking), given(" 7 ", f"{thinking}\n")], model=MODEL) == Agreement(0, 0)
    direct = asked(interaction(QUESTION, None, "7"))
    assert counted(direct, [given("7"), given("7")], model=MODEL) == Agreement(1, 0)  # another model's same few words
    own = asked(interaction(QUESTION, None, "I have counted all of them twice, and there are exactly 7 apples."), model="qwen3")
    again = Given(own.said, wording_of(own.interaction.response.content, None))
    assert counted(own, [again], model="qwen3") == Agreement(0, 0)


@pytest.mark.parametrize(
    ("said", "logged", "answers", "enough"),
    [
        ("", (0, 0), 4, False),
        ("7", (0, 0), 4, False),
        ("77", (0, 0), 4, False),
        ("777", (0, 0), 4, True),
        ("888", (0, 0), 4, True),
        ("778", (0, 0), 4, False),
        ("7788", (0, 0), 4, True),
        ("", (3, 0), 4, True),
        ("7", (1, 0), 4, False),
        ("7", (2, 0), 4, True),
        ("777", (0, 0), 8, False),
        ("77777", (0, 0), 8, True),
    ],
)
def test_it_has_said_enough_when_the_rest_cannot_alter_which_side_has_more(
    said: str, logged: tuple[int, int], answers: int, enough: bool
) -> None:
    question = asked()
    question = Asked(question.interaction, question.said, Agreement(*logged))
    told = [given(answer, f"way {number}") for number, answer in enumerate(said)]
    assert has_said_enough(question, told, model=MODEL, answers=answers) is enough


def test_two_fruitless_answers_or_the_same_text_twice_are_enough() -> None:
    assert has_said_enough(asked(), [given("Who knows?", "a"), given("Nobody.", "b")], model=MODEL, answers=8)
    assert has_said_enough(asked(), [given("8", "a"), given("8", "a")], model=MODEL, answers=8)


# How it adds up.


def said(agreeing: int, disagreeing: int, *, model: str | None = None) -> EvidenceRecorded:
    return EvidenceRecorded(
        recorded_id=IT.recorded_id,
        conversation_id="c-1",
        kind="agreement",
        said_by="panel" if model else "/ruminate/assessor-answers",
        said_at=IT.occurred_at,
        agreeing=agreeing,
        disagreeing=disagreeing,
        model=model,
    )


def agreement(*evidence: EvidenceRecorded) -> Agreement | None:
    return knowledge_of(find(IT, most_characters=10_000), IT, evidence=evidence).agreement


def test_logged_and_asked_answers_add_up_and_of_each_source_the_latest_counts() -> None:
    assert agreement() is None
    assert agreement(said(1, 0), said(3, 1)) == Agreement(3, 1)
    assert agreement(said(2, 0, model="a"), said(1, 0)) == Agreement(3, 0)
    assert agreement(said(1, 0), said(2, 0, model="a"), said(1, 1), said(4, 0, model="a")) == Agreement(5, 1)
    assert agreement(said(2, 0, model="a"), said(0, 2, model="b")) == Agreement(2, 2)


def test_it_is_no_knowledge_that_teaches() -> None:
    knowledge = knowledge_of(find(IT, most_characters=10_000), IT, evidence=[said(0, 9, model="a")])
    assert (knowledge.turned_out, knowledge.logit()) == (None, 0.0)


# Settings.


def test_it_is_off_unless_a_model_is_named_and_asks_the_critics_node_unless_it_has_one() -> None:
    assert AssessorSettings().panel is None
    assert AssessorSettings(critic_url="http://a", critic_model="judge:1b").panel is None
    shared = AssessorSettings(critic_url="http://a", critic_model="judge:1b", panel_model="b").panel
    own = AssessorSettings(panel_url="http://b", panel_model="b", panel_answers=2).panel
    assert shared is not None
    assert own is not None
    assert (shared.url, own.url, own.answers) == ("http://a", "http://b", 2)


@pytest.mark.parametrize(
    "settings",
    [{"panel_url": "http://a"}, {"panel_model": "judge:1b"}, {"panel_doubt_from": 0.9, "panel_doubt_to": 0.1}],
)
def test_half_of_it_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="panel_"):
        AssessorSettings(**settings)
