"""Written thinking before the proofreader: each fault is refused by its name, and how many sound and faulty ones pass."""

from __future__ import annotations

import pytest

from ruminate.assessor.asking.proofreading import Standards, draft_of, faults_of
from ruminate.assessor.policy import Policy
from tests.planted_faults import Solution
from tests.solutions import interaction
from tests.written_thinking import FAULTS, by_models, by_people, faulty, tacked_on

POLICY = Policy()
QUESTION = "Mira has 14 books. She buys twice as many new ones, and gives 5 away. How many books does she have?"
SOUND = (
    "Mira buys 14 * 2 = 28 new books.\nTogether she has 14 + 28 = 42 books.\nAfter giving some of them away, 42 - 5 = 37 are left."
)
CAPITAL = "Why is it that the boats of Zarvex wait for the evening before they leave the harbour, and what do they wait for?"
TIDE = "The tide comes in."
BECAUSE = (
    "Boats need water under their keels. By day the harbour of Zarvex falls dry, since its water is low until dusk. "
    "Only later the harbour has depth enough to float them. So they wait until the tide comes."
)


def faults(
    thinking: str,
    *,
    question: str = QUESTION,
    answer: str = "37",
    cut_off: bool = False,
    quality_at_least: float = Standards().quality_at_least,
) -> set[str]:
    draft = draft_of(interaction(question, None, answer), thinking, POLICY)
    found = faults_of(draft, Standards(quality_at_least=quality_at_least), cut_off=cut_off)
    return {fault.partition(":")[0] for fault in found}


def test_sound_thinking_has_no_fault() -> None:
    assert faults(SOUND) == set()
    assert faults(BECAUSE, question=CAPITAL, answer=TIDE) == set()


@pytest.mark.parametrize(
    ("fault", "thinking"),
    [
        ("too_short", "14 + 28 - 5 = 37."),
        ("too_short", "Mira has fourteen of them and buys some more and gives some away so that it is 37"),
        ("too_long", SOUND * 200),
        ("truncated", SOUND.removesuffix("are left.") + "left of the books that she bought from"),
        ("wrong_arithmetic", SOUND.replace("14 * 2 = 28", "14 * 3 = 28")),
        ("contradiction", f"{SOUND}\nBut that is not so: it is not 37 but 42 - 5 = 37."),
        ("loop", SOUND.replace("\n", "\nMira counts her books.\n")),
        (
            "another_language",
            "Сначала она покупает новые книги: 14 * 2 = 28. Потом вместе 14 + 28 = 42. Остаётся 42 - 5 = 37 книг.",
        ),
        (
            "another_language",
            "Mira kauft neue Bücher und zwar 14 * 2 = 28. Zusammen besitzt sie dann 14 + 28 = 42 Bücher. "
            "Anschließend verschenkt sie einige Bücher, deshalb bleiben ihr noch 42 - 5 = 37 Bücher übrig.",
        ),
        ("markup", f"{SOUND}</think>"),
        ("made_up_address", f"Mira asks mira@books.example about it.\n{SOUND}"),
        ("unfounded", SOUND.replace("14 * 2 = 28", "56 / 2 = 28")),
        ("unfounded", SOUND.replace("Together", "All 96 readers know that together")),
        ("led_nowhere", SOUND.replace("Together", "Each shelf holds 14 - 5 = 9 books.\nTogether")),
        ("given_unused", "We know that many readers like to have seven shelves of books.\nSo with 30 + 7 = 37 she has enough."),
        ("does_not_follow", SOUND.replace("42 - 5 = 37 are left", "she has 42 + 5 = 47 books")),
        ("does_not_follow", f"{SOUND}\nSo Mira has 42 books."),
        ("does_not_follow", SOUND.replace("42 - 5 = 37", "42 - 5 - 5 = 32") + "\nSo Mira has 37 books."),
        ("known_beforehand", f"We have to come to 37 books somehow.\n{SOUND}"),
        ("speaks_of_the_answer", f"The given answer can be reached.\n{SOUND}"),
        ("speaks_of_the_answer", f"Die gegebene Antwort lässt sich erreichen.\n{SOUND}"),
        ("speaks_of_the_answer", f"我们看到了给定的答案。\n{SOUND}"),
        ("copied_question", f"{QUESTION} {QUESTION.removesuffix('?')}, and 14 * 2 + 14 - 5 = 37."),
    ],
)
def test_each_fault_is_refused_by_its_name(fault: str, thinking: str) -> None:
    assert fault in faults(thinking)


def test_the_answers_own_text_is_no_thinking() -> None:
    answer = "Mira buys 14 * 2 = 28 books, so that she has 14 + 28 = 42 books. She gives 5 away, and 42 - 5 = 37 are left."
    assert "copied_answer" in faults(answer, answer=answer)
    assert "copied_answer" in faults(f"Okay, let me think about it. {answer}", answer=answer)
    assert not faults(SOUND, answer="She has 37 books.")


def test_words_that_the_thinking_does_not_come_to_or_begins_with_are_refused() -> None:
    assert "does_not_follow" in faults(BECAUSE.replace("tide", "captain"), question=CAPITAL, answer=TIDE)
    first = f"The tide comes. {BECAUSE}"
    assert "known_beforehand" in faults(first, question=CAPITAL, answer=TIDE)


def test_what_the_node_cut_off_is_refused_however_it_ends() -> None:
    assert faults(SOUND, cut_off=True) == {"truncated"}


def test_a_number_that_the_question_gives_may_stand_before_it_is_found() -> None:
    question = QUESTION.replace("gives 5 away", "gives 28 away")
    thinking = SOUND.replace("42 - 5 = 37 are", "42 - 28 = 14 are")
    assert faults(thinking, question=question, answer="14") == set()


def test_low_quality_is_refused() -> None:
    assert "low_quality" in faults(SOUND, quality_at_least=0.99)


def test_in_a_script_without_spaces_characters_are_counted_as_words() -> None:
    thinking = "小明原来有3个苹果，妈妈又给他买来一些。\n所以他现在一共有 3 + 4 = 7 个苹果。"
    question = "小明有3个苹果，他又买了4个苹果，请问他现在有几个苹果？"
    assert "too_short" not in faults(thinking, question=question, answer="7")


# How many pass. All thresholds were chosen on other problems.


def passing(written: list[Solution]) -> float:
    passed = [
        not faults_of(draft_of(interaction(each.question, None, each.answer), each.thinking, POLICY), Standards())
        for each in written
    ]
    return sum(passed) / len(passed)


@pytest.mark.parametrize("kind", sorted(FAULTS))
def test_hardly_any_faulty_thinking_passes(kind: str) -> None:
    assert passing(faulty(kind)[::2]) <= 0.03


def test_an_answer_that_is_tacked_on_to_wrong_thinking_does_not_make_it_pass() -> None:
    assert passing(list(tacked_on()[::4])) <= 0.01


def test_most_sound_thinking_passes() -> None:
    assert passing(list(by_people()[::2])) >= 0.80
    assert passing(list(by_models()[::4])) >= 0.80
