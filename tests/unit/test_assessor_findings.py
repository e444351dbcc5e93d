"""What is found in a text: where numbers come from and go, how the thinking is built, what stands in it to be checked."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruminate.assessor.finding.blocks import check_blocks, json_is_valid
from ruminate.assessor.finding.findings import Findings, find
from tests.solutions import interaction

BOOKS = "Mira has 14 books. She buys twice as many new ones, and gives 5 away. How many books does she have?"
THINKING = (
    "Mira buys 14 * 2 = 28 new books.\nTogether she has 14 + 28 = 42 books.\nAfter giving some away she has 42 - 5 = 37 books."
)


def found(thinking: str = THINKING, answer: str = "37", question: str = BOOKS) -> Findings:
    return find(interaction(question, thinking, answer), most_characters=10_000)


# The trail of the numbers.


def test_a_whole_solution_uses_all_that_is_given_and_ends_in_its_last_result() -> None:
    trail = found().trail
    assert (trail.given, trail.unused_given, trail.unfounded, trail.unused_results, trail.wrong) == (3, 0, 0, 0, 0)
    assert (trail.results, trail.reused, trail.longest, trail.differences) == (3, 1, 2, 1)
    assert trail.conclusion == "last result"


def test_a_step_that_is_missing_leaves_an_operand_from_nowhere() -> None:
    trail = found("Together she has 14 + 28 = 42 books.\nAfter giving some away she has 42 - 5 = 37 books.").trail
    assert trail.unfounded == 1
    assert trail.unused_given == 1  # "twice"


def test_a_step_that_leads_nowhere_leaves_a_result_that_nobody_uses() -> None:
    assert found("There are 14 * 5 = 70 pages.\n" + THINKING).trail.unused_results == 1


@pytest.mark.parametrize(
    ("thinking", "answer", "conclusion"),
    [
        (THINKING, "38", "nowhere"),
        (THINKING, "28", "earlier result"),
        (THINKING, "5", "in an earlier step"),
        ("She ends with 37 books.", "37", "last number"),
        (THINKING, "Many.", "unknown"),
    ],
)
def test_where_the_answer_comes_from(thinking: str, answer: str, conclusion: str) -> None:
    assert found(thinking, answer).trail.conclusion == conclusion


def test_an_answer_that_looks_unlike_the_question() -> None:
    assert found(answer="-3").trail.odd_form
    assert found(answer="3.7").trail.odd_form
    assert not found(answer="37").trail.odd_form
    assert not found(question="A rope of 2.5 m is cut in 2. How long is a piece?", answer="1.25").trail.odd_form
    assert found(answer="14", thinking="She has some books.").trail.echoes


# How it is built.


@pytest.mark.parametrize(
    "said",
    [
        "But it is not 42, it must be 50.",
        "She has 30 books after the party.\nShe has 31 books after the party.",
        "The box can hold all books.\nThe box cannot hold all books.",
    ],
)
def test_a_contradiction_is_seen(said: str) -> None:
    assert found(f"{THINKING}\n{said}").structure.contradictions == 1


@pytest.mark.parametrize(
    "said",
    [
        "On day 1 she reads 5 pages.\nOn day 2 she reads 7 pages.",
        "She does not have 50 books.",
        "She has 14 books.\nShe has 14 books.",
        "It is 3.\nIt is 4.",
    ],
)
def test_what_only_looks_like_a_contradiction_is_none(said: str) -> None:
    assert found(f"{THINKING}\n{said}").structure.contradictions == 0


def test_numbers_from_nowhere_repetition_hedging_and_an_open_end_are_counted() -> None:
    structure = found("Maybe she has 99 books, I think.\nShe reads.\nShe reads.\nSo she has 14 and").structure
    assert (structure.unfounded_numbers, structure.said_again, structure.hedges, structure.unfinished) == (1, 1, 2, True)


def test_what_was_asked_has_to_come_back() -> None:
    question = "Tom walks. How many miles does Tom walk?"
    assert found("He walks and walks.", "Tom walks 3 miles.", question).structure.asked == 1.0
    assert found("He eats.", "3 cakes.", question).structure.asked == 0.0
    assert found("He eats.", "3 cakes.", "Tom walks.").structure.asked is None


@pytest.mark.parametrize(
    ("question", "thinking", "foreign"),
    [
        (BOOKS, THINKING, False),
        (BOOKS, "她有十四本书，然后买了二十八本。", True),
        ("她有多少本书？", "她有十四本书。", False),
        ("她有多少本书？", "She has fourteen books and buys many more of them.", True),
        ("Wie viele Bücher hat Zoë?", "Zoë hat vierzehn Bücher.", False),
        ("Сколько книг?", "Пять книг в Python.", False),
    ],
)
def test_thinking_in_another_script_than_the_question_is_seen(question: str, thinking: str, foreign: bool) -> None:
    assert (found(thinking, "37", question).structure.foreign_ratio > 0.3) is foreign


# What stands in it to be checked.


def blocks_of(answer: str, thinking: str = "", context: str = "") -> tuple[int, int, int, int]:
    seen = check_blocks(thinking, answer, lambda: context)
    return seen.checked, len(seen.broken), seen.quoted, seen.misquoted


@pytest.mark.parametrize(
    ("answer", "checked", "broken"),
    [
        ("```python\ndef f(x):\n    return x + 1\n```", 1, 0),
        ("```python\ndef f(x)\n    return x + 1\n```", 1, 1),
        ("```py\n    indented = True\n    more = 2\n```", 1, 0),
        ("```python\n>>> f(1)\n2\n```", 1, 0),
        ("```python\ndef f():\n    ...\n```", 0, 0),
        ('```json\n{"a": [1, 2]}\n```', 1, 0),
        ('```json\n{"a": [1, 2}\n```', 1, 1),
        ('```toml\na = "b"\n```', 1, 0),
        ("```rust\nfn main( {\n```", 0, 0),
        ("```\nwhatever {\n```", 0, 0),
        ("```python\nx = 1\n``` and ```json\n{}\n```", 1, 0),
        ("```python\nunclosed = (1,\n", 1, 1),
        ("no code", 0, 0),
    ],
)
def test_code_of_the_answer_has_to_parse(answer: str, checked: int, broken: int) -> None:
    assert blocks_of(answer)[:2] == (checked, broken)


def test_the_complaint_names_the_line_and_holds_no_contents() -> None:
    seen = check_blocks("", "```python\nsecret = 1\nsecret ! 2\n```", str)
    assert seen.broken == ("python: line 2, invalid syntax",)


def test_drafts_in_the_thinking_are_not_checked() -> None:
    assert blocks_of("Done.", thinking="```python\ndef (\n```")[:2] == (0, 0)


def test_quotations_have_to_stand_in_the_context() -> None:
    context = "The contract says: The tenant shall pay on the first day of each month."
    assert blocks_of('It says "the tenant shall pay on the first day".', context=context)[2:] == (1, 0)
    assert blocks_of("It says “the tenant shall never have to pay”.", context=context)[2:] == (1, 1)
    assert blocks_of('A "short one" is no quotation.', context=context)[2:] == (0, 0)


@pytest.mark.parametrize(
    ("text", "valid"),
    [('{"a": 1}', True), ("[1, 2]", True), ('{"a": 1,}', False), ("[1] as shown in [2]", None), ("plain", None), ("", None)],
)
def test_an_answer_that_is_json_has_to_be_valid(text: str, valid: bool | None) -> None:
    assert json_is_valid(text) is valid


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="`python\n (){}:=1\"“”'", max_size=300))
def test_no_text_makes_it_fail(text: str) -> None:
    checked, broken, quoted, misquoted = blocks_of(text, text, text)
    assert broken <= checked
    assert misquoted <= quoted
