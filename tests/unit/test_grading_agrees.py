"""A grader who holds two texts says what the assessor says of the interaction, and is as quick as the check allows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from typing import Any, get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ruminate.accumulator.records import facts
from ruminate.assessor.finding.findings import find
from ruminate.assessor.judging.decide import assess, knowledge_of
from ruminate.assessor.policy import Policy
from ruminate.grading.checking.answers import Comparison
from ruminate.grading.checking.checker import Checker
from ruminate.grading.checking.checks import checked_by
from ruminate.grading.checking.mathematician import Mathematician
from ruminate.grading.checking.mathematics import is_mathematical
from ruminate.grading.finding.marks import answer_of
from ruminate.grading.grade import CHECK_KINDS, CheckKind, Grader
from ruminate.schemas.interaction import AnswerCheck, InteractionRecorded
from tests.solutions import interaction, solutions

POLICY = Policy()


class Assessor:
    """What the assessor compares, by a checker of its own, which remembers nothing of the grader's."""

    def __init__(self, equal: Mathematician, checks: Checker) -> None:
        self._equal, self._checks = equal, checks

    def says(self, it: InteractionRecorded, policy: Policy = POLICY) -> Comparison | None:
        found = find(it, most_characters=policy.most_characters)
        return knowledge_of(found, it, self._equal, checked_by(self._checks, it)).comparison


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as somebody:
        yield somebody


@pytest.fixture(scope="module")
def assessor(grader: Grader) -> Iterator[Assessor]:
    with Checker() as checks:
        yield Assessor(grader._mathematician, checks)


def graded(grader: Grader, it: InteractionRecorded) -> Comparison:
    """By the check that a dataset carries, the question, and the text of the answer alone."""
    check = facts.check_of(it)
    assert check is not None
    return grader.grade(check.kind, check.content, question=it.messages[-1].content, answer=it.response.content)


def with_check(question: str, answer: str, kind: Any, content: str) -> InteractionRecorded:
    return interaction(question, None, answer).model_copy(update={"answer_check": AnswerCheck(kind=kind, content=content)})


# References.

QUESTIONS = ("What is it?", "Is the capital of Norland Amber Bay, or is it 3/4 of x^2, or 18?")
NUMBERS = ("18", "$18.00", "1,800", "-3", "0.75", "3/4", "3.33", "He sells 3.\nSo 3 * 6 = 18.\n#### 18", "So it is \\boxed{18}.")
WORDS = ("Amber Bay", "yes", "No, it is not.", "The capital is Amber Bay.", "a long text " * 20, "!", "Größe")
EXPRESSIONS = ("\\frac{3}{4}", "x^2+2x+1", "\\sqrt{12}", "[0,1]", "9^9^9^9")
SAID = (
    "18", "The answer is 18.", "eighteen", "72 clips, 18 of them in May", "-3", "3/4", "0.75", "3.3333", "10 and 18 and 1,800",
    "Amber Bay", "It is not Amber Bay.", "Yes, Amber Bay.", "no", "Größe", "  \n18\n ", "I cannot say.", "!?",
    "\\boxed{\\frac{3}{4}}", "$(x+1)^2$", "2\\sqrt{3}", "[0,1)",
)  # fmt: skip


@pytest.mark.parametrize("question", QUESTIONS)
def test_of_every_reference_and_answer_both_say_the_same_to_the_word(grader: Grader, assessor: Assessor, question: str) -> None:
    said = {}
    for reference, answer in product((*NUMBERS, *WORDS, *EXPRESSIONS), SAID):
        it = interaction(question, "So I think, and 5 + 5 = 10.", answer, reference)
        said[reference, answer] = graded(grader, it)
        assert said[reference, answer] == assessor.says(it), (reference, answer)
    assert {each.result for each in said.values()} == {"right", "wrong", "undecided"}
    assert {"the final number", "mathematics", "the words of the reference", "yes or no"} <= {each.how for each in said.values()}


TEXTS = st.text(st.sampled_from("0123456789.,-/$% aeinotsyAB\n*#'é"), max_size=40) | st.text(max_size=40)


@given(question=TEXTS, reference=TEXTS, answer=TEXTS)
@settings(max_examples=300, deadline=None)
def test_of_any_texts_both_say_the_same(question: str, reference: str, answer: str) -> None:
    assume(reference.strip() and answer.strip() and not is_mathematical(answer_of(reference)))
    it = interaction(question, None, answer, reference)
    with Grader() as grader:
        assert graded(grader, it) == knowledge_of(find(it, most_characters=POLICY.most_characters), it).comparison


def test_of_real_solutions_the_grader_tells_the_right_ones_as_the_assessor_does(grader: Grader, assessor: Assessor) -> None:
    for number, solved in enumerate(solutions()):
        it = solved.interaction(reference=True)
        comparison = graded(grader, it)
        assert comparison.result == ("right" if solved.right else "wrong")
        if number % 16 == 0:
            assert comparison == assessor.says(it)


def test_of_texts_that_are_too_long_both_read_the_same_ends(assessor: Assessor) -> None:
    policy = Policy(most_characters=1_000)
    question = "Where is Amber Bay? " + "x " * 2_000 + "Where is it?"
    with Grader(most_characters=policy.most_characters) as grader:
        said = []
        for reference, answer in (
            ("18", "18 " + "9 " * 3_000),
            ("18", "9 " * 3_000 + "18"),
            ("It is in Norland", "x " * 300 + "in Norland " + "x " * 2_000),
            ("Amber Bay", "in Norland " + "x " * 2_000),
        ):
            it = interaction(question, None, answer, reference)
            said.append(graded(grader, it))
            assert said[-1] == assessor.says(it, policy)
    assert [each.result for each in said] == ["undecided", "right", "wrong", "wrong"]


# Checks.

PERSON = json.dumps({"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}})
TESTS = "from answer import double\n\nassert double(2) == 4\n"
CHECKS: dict[CheckKind, tuple[str, ...]] = {
    "exact": ("a b", "[EMAIL_1]", "18"),
    "json_schema": (PERSON, "true", "no JSON", '{"$ref": "https://example.com/person.json"}', '{"type": "person"}'),
    "python_tests": (TESTS, "print(double(2))", "assert double("),
}
ANSWERS = (
    "a b", "  a b\n", "[EMAIL_1]", "18", '{"name": "Ann"}', '```json\n{"name": 3}\n```', "It is Ann.", "[" * 50 + "]" * 50,
    "```python\ndef double(n): return 2 * n\n```", "def double(n): return n",
)  # fmt: skip


# No limits, no trials: tests/integration/test_grading_trials.py has both.
DECIDED = {"exact": {"right", "wrong"}, "json_schema": {"right", "wrong", "undecided"}, "python_tests": {"undecided"}}


@pytest.mark.parametrize("kind", CHECKS)
def test_of_every_check_and_answer_both_say_the_same_to_the_word(grader: Grader, assessor: Assessor, kind: CheckKind) -> None:
    said = set()
    for content, answer in product(CHECKS[kind], ANSWERS):
        it = with_check("What is it?", answer, kind, content)
        comparison = graded(grader, it)
        assert comparison == assessor.says(it), (content, answer)
        assert comparison.by == "check"
        said.add(comparison.result)
    assert said == DECIDED[kind]


@pytest.mark.parametrize("answer", ["", " \n"])
def test_an_answer_without_text_is_wrong_whatever_the_check_and_worth_nothing_to_the_assessor(grader: Grader, answer: str) -> None:
    asked = [with_check("What is it?", answer, kind, contents[0]) for kind, contents in CHECKS.items()]
    asked += [interaction("What is it?", None, answer, reference) for reference in ("18", "yes", "Amber Bay", "x^2")]
    for it in asked:
        comparison = graded(grader, it)
        assert (comparison.result, comparison.how, comparison.certainty) == ("wrong", "an empty answer", 1.0)
        verdict = assess(it, POLICY)
        assert verdict.answer_quality.value == 0.0
        assert verdict.decision == "reject"


@pytest.mark.parametrize("answer", ["\ud800", "```python\n\udfff = 1\n```", '{"name": "\ud800', "\x00", "\\boxed{\ud800}"])
def test_no_answer_is_too_strange_to_be_graded(grader: Grader, answer: str) -> None:
    asked: tuple[tuple[CheckKind, str], ...] = (
        ("reference", "18"),
        ("reference", "x^2"),
        *((kind, CHECKS[kind][0]) for kind in CHECKS),
    )
    for kind, content in asked:
        assert grader.grade(kind, content, question="What is it?", answer=answer).result != "right"


def test_the_kinds_are_those_that_datasets_carry_and_another_one_is_refused_by_name(grader: Grader) -> None:
    assert set(CHECK_KINDS) == set(get_args(facts.CheckKind))
    later: Any = "rust_tests"
    with pytest.raises(ValueError, match=r"'rust_tests'; there are reference, exact, json_schema, python_tests\. "):
        grader.grade(later, "1", question="?", answer="1")


# What it costs.


def test_nothing_is_started_for_what_numbers_words_and_texts_settle_and_what_was_started_ends_with_the_grader() -> None:
    with Grader() as grader:
        mathematician, validator = grader._mathematician, grader._checker._validator
        for reference, answer in (*product(NUMBERS, SAID), *product(WORDS, SAID)):
            grader.grade("reference", reference, question="What is it?", answer=answer)
        grader.grade("exact", "a", question="What is it?", answer="b")
        grader.grade("python_tests", TESTS, question="What is it?", answer="def double(n): return 2 * n")
        assert mathematician._process is None
        assert validator._process is None
        assert grader.grade("reference", "x+1", question="What is it?", answer="$1+x$").result == "right"
        assert grader.grade("json_schema", PERSON, question="Who is it?", answer='{"name": "Ann"}').certainty == 0.5
        started = [mathematician._process, validator._process]
    for process in started:
        assert process is not None
        assert process.poll() is not None
