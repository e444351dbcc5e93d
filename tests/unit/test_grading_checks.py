"""Checks that come with a question: what they decide, what they leave open, and what that is worth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import REGISTRY

from ruminate.assessor.judging.decide import assess
from ruminate.assessor.judging.knowledge import Knowledge
from ruminate.assessor.learning.teacher import lesson_of
from ruminate.assessor.metrics import count_check
from ruminate.assessor.policy import Policy
from ruminate.grading.checking.answers import Comparison
from ruminate.grading.checking.checker import Checker
from ruminate.grading.checking.checks import can_be_checked, checked_by, json_of, python_of, schema_of, surer, unchecked, undecided
from ruminate.grading.checking.limits import Limits
from ruminate.grading.checking.trial import outcome, program
from ruminate.schemas.assessment import Verdict
from ruminate.schemas.interaction import AnswerCheck, InteractionRecorded, ToolCall, ToolDefinition
from ruminate.shared.confined import ConfinedResult
from tests.solutions import interaction

PERSON = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
RIGHT, WRONG = Comparison("right", "the number"), Comparison("wrong", "the number")
FORM = Comparison("right", "the form", certainty=0.5, by="check")


@pytest.fixture(scope="module")
def checker() -> Iterator[Checker]:
    with Checker() as somebody:
        yield somebody


def schema(wanted: Any) -> AnswerCheck:
    return AnswerCheck(kind="json_schema", content=wanted if isinstance(wanted, str) else json.dumps(wanted))


def with_check(answer: str, check: AnswerCheck, reference: str | None = None) -> InteractionRecorded:
    return interaction("Who is it?", "It is Ann, I think.", answer, reference).model_copy(update={"answer_check": check})


def verdict(it: InteractionRecorded, checker: Checker) -> Verdict:
    return assess(it, Policy(), checks=checker)


# Exactly.


@pytest.mark.parametrize(("answer", "result"), [("  a b\n", "right"), ("a  b", "wrong"), ("A b", "wrong")])
def test_the_exact_text_is_compared_but_for_white_space_around_it(answer: str, result: str) -> None:
    assert unchecked(AnswerCheck(kind="exact", content="a b"), answer).result == result


def test_an_answer_without_text_has_nothing_to_check() -> None:
    assert checked_by(unchecked, with_check(" ", AnswerCheck(kind="exact", content="a"))) is None


# Calls of tools.


ADD = ToolDefinition(
    name="add",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "integer"}, "to": {"type": "string", "pattern": "@"}},
        "required": ["a"],
    },
)
NOW = ToolDefinition(name="now")


def calling(*calls: ToolCall, tools: tuple[ToolDefinition, ...] = (ADD, NOW), **changed: Any) -> InteractionRecorded:
    it = interaction("What is it?", "I ask the tool.", "", None)
    response = it.response.model_copy(update={"tool_calls": calls})
    return it.model_copy(update={"tools": tools, "response": response, **changed})


@pytest.mark.parametrize(
    ("calls", "result", "how"),
    [
        ((ToolCall(name="add", arguments={"a": 1}), ToolCall(name="now")), "right", "the form alone, of its tool calls"),
        ((ToolCall(name="now", arguments={"zone": "UTC"}),), "right", "the form alone, of its tool calls"),
        ((ToolCall(name="now"), ToolCall(name="subtract")), "wrong", "a call of a tool that was not offered"),
        (
            (ToolCall(name="now"), ToolCall(name="add", arguments={"a": "1"})),
            "wrong",
            "what the tool takes, the JSON Schema: 1 fault, the first by `type`",
        ),
        ((ToolCall(name="add"),), "wrong", "what the tool takes, the JSON Schema: 1 fault, the first by `required`"),
    ],
)
def test_a_call_has_to_be_one_that_was_offered(calls: tuple[ToolCall, ...], result: str, how: str, checker: Checker) -> None:
    comparison = checked_by(checker, calling(*calls))
    assert comparison is not None
    assert (comparison.result, comparison.how) == (result, how)
    said = [reason for reason in verdict(calling(*calls), checker).reasons if reason.startswith("wrong_answer")]
    assert said == ([f"wrong_answer: it fails the check that came with it, by {how}"] if result == "wrong" else [])


def test_of_calls_nothing_is_said_where_nobody_knows_what_was_offered(checker: Checker) -> None:
    assert checked_by(checker, calling(ToolCall(name="add"), tools=())) is None
    assert checked_by(checker, calling()) is None
    assert not can_be_checked(calling())
    assert can_be_checked(calling(ToolCall(name="now")))
    unknown = checked_by(unchecked, calling(ToolCall(name="add")))
    assert unknown is not None
    assert unknown.result == "undecided"


def test_a_wrong_call_counts_beside_the_text_that_came_with_it_and_a_fitting_one_does_not(checker: Checker) -> None:
    check = AnswerCheck(kind="exact", content="2")
    for call, result in ((ToolCall(name="add"), "wrong"), (ToolCall(name="now"), "right")):
        it = calling(call, answer_check=check)
        it = it.model_copy(update={"response": it.response.model_copy(update={"content": "2"})})
        comparison = checked_by(checker, it)
        assert comparison is not None
        assert (comparison.result, comparison.certainty) == (result, 1.0)


def test_what_a_placeholder_may_have_broken_decides_nothing_but_for_the_exact_text(checker: Checker) -> None:
    redacted: dict[str, Any] = {"normalised": ("redacted:email",)}
    whole: dict[str, Any] = {}
    mail = ToolCall(name="add", arguments={"a": 1, "to": "[EMAIL_1]"})
    for changed, result in ((whole, "wrong"), (redacted, "undecided")):
        assert getattr(checked_by(checker, calling(mail, **changed)), "result", None) == result
        form = with_check('{"name": 1}', schema(PERSON)).model_copy(update=changed)
        assert getattr(checked_by(checker, form), "result", None) == result
    exact = with_check("[EMAIL_1]", AnswerCheck(kind="exact", content="[EMAIL_2]")).model_copy(update=redacted)
    assert getattr(checked_by(checker, exact), "result", None) == "wrong"


# JSON Schema.


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ('{"name": "Ann"}', "right"),
        ('Here it is:\n```json\n{"name": "Ann", "age": 3}\n```\nGood luck!', "right"),
        ('~~~\n{"name": "Ann"}\n~~~', "right"),
        ('{"name": 3}', "wrong"),
        ("[]", "wrong"),
        ("null", "wrong"),
        ("It is Ann.", "wrong"),
        ('{"name": NaN}', "wrong"),
        ('```json\n{"name": "Ann"}\n```\n```json\n{"name": "Ann"}\n```', "wrong"),  # which one is it?
        ("[" * 50 + "]" * 50, "undecided"),
        ("[" * 100_000, "undecided"),
        ('{"name": "' + "x" * 300_000 + '"}', "undecided"),
    ],
)
def test_json_is_held_against_the_schema(checker: Checker, answer: str, result: str) -> None:
    found = checker(schema(PERSON), answer)
    assert found.result == result, found
    assert "Ann" not in found.how
    assert found.certainty == {"right": 0.5, "wrong": 1.0, "undecided": 0.0}[result]


@pytest.mark.parametrize(
    "wanted",
    [
        "no JSON",
        "[]",
        '"text"',
        {"type": "person"},
        {"$ref": "https://example.com/person.json"},
        {"properties": {"name": {"$ref": "file:///etc/passwd"}}},
        {"$ref": "#/$defs/nowhere"},
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"pattern": "^(a+)+$"},
        {"pattern": "("},
        {"$schema": "https://example.com/other", "type": 7},
        "[" * 100_000,
        '{"a":' * 50 + "{}" + "}" * 50,
        '{"a": "' + "x" * 70_000 + '"}',
        {"enum": list(range(20_000))},
    ],
)
def test_a_schema_that_is_none_or_leads_out_or_takes_for_ever_decides_nothing(checker: Checker, wanted: Any) -> None:
    found = checker(schema(wanted), '"' + "a" * 40 + '!"')
    assert (found.result, found.by) == ("undecided", "check"), found


def test_references_within_a_schema_are_followed(checker: Checker) -> None:
    tree = {"$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}, "$ref": "#/$defs/tree"}
    assert checker(schema(tree), "[[], [[]]]").result == "right"
    assert checker(schema(tree), "[[], [3]]").result == "wrong"


def test_what_is_no_json_is_told_from_what_is_too_much_of_it() -> None:
    assert json_of("null") is None
    with pytest.raises(ValueError, match="too deep"):
        json_of("[" * 41 + "1" + "]" * 41)
    assert schema_of("true") is True


# What is counted.


def test_every_check_that_is_made_is_told_once_and_the_assessor_counts_it() -> None:
    told: list[tuple[str, str]] = []

    def counted(check: AnswerCheck, comparison: Comparison) -> None:
        told.append((check.kind, comparison.result))
        count_check(check, comparison)

    def made() -> float:
        return REGISTRY.get_sample_value("ruminate_checks_made_total", {"kind": "json_schema", "result": "wrong"}) or 0.0

    before = made()
    with Checker(on_checked=counted) as checker:
        for answer in ("It is Ann.", "It is Ann.", "It is Bob."):
            checker(schema(PERSON), answer)
        checker(AnswerCheck(kind="exact", content="a"), "a")
        checker(AnswerCheck(kind="python_tests", content="assert f() == 1"), "def f(): return 1")
    assert told == [("json_schema", "wrong"), ("json_schema", "wrong"), ("python_tests", "undecided")]
    assert made() - before == 2


@pytest.mark.parametrize("without_namespaces", [False, True])
def test_the_policy_says_how_far_code_may_go_and_without_run_code_there_is_none(without_namespaces: bool) -> None:
    assert Policy().code_limits is None
    chosen: dict[str, Any] = {"run_code_seconds": 3, "run_code_memory_bytes": 1 << 30}
    policy = Policy(run_code=True, run_code_without_namespaces=without_namespaces, **chosen)
    assert policy.code_limits == Limits(seconds=3, memory_bytes=1 << 30, without_namespaces=without_namespaces)


# What it is worth.


def test_a_form_that_fits_is_better_than_nothing_and_far_from_right(checker: Checker) -> None:
    found = verdict(with_check('{"name": "Ann"}', schema(PERSON)), checker)
    assert found.answer_quality.value is None
    assert found.answer_quality.evidence == ("right by the form alone, a JSON Schema, which is no evidence of what is in it",)
    unknown = verdict(interaction("Who is it?", "It is Ann, I think.", '{"name": "Ann"}'), checker)
    assert unknown.overall.value is not None
    assert found.overall.value is not None
    assert unknown.overall.value < found.overall.value < 0.95
    assert found.evidence_ratio == unknown.evidence_ratio, "nobody has looked at what is in it"


def test_a_form_that_does_not_fit_is_wrong(checker: Checker) -> None:
    found = verdict(with_check('{"age": 3}', schema(PERSON)), checker)
    assert found.answer_quality.value == 0.0
    assert found.decision == "reject"
    assert found.reasons[0] == (
        "wrong_answer: it fails the check that came with it, by the JSON Schema: 1 fault, the first by `required`"
    )


def test_a_form_that_fits_teaches_nothing_but_what_does_not_fit_does() -> None:
    nothing = lesson_of(_signals(), Knowledge(comparison=FORM), source="a")
    assert nothing is None
    wrong = lesson_of(_signals(), Knowledge(comparison=Comparison("wrong", "the form", by="check")), source="a")
    assert wrong is not None
    assert (wrong.good, wrong.by_reference) == (False, True)
    said = lesson_of(_signals(), Knowledge(comparison=FORM, outcome="failed"), source="a")
    assert said is not None
    assert not said.good


def test_what_somebody_reports_outweighs_that_the_form_fits(checker: Checker) -> None:
    it = with_check('{"name": "Ann"}', schema(PERSON)).model_copy(update={"outcome": "failed"})
    assert verdict(it, checker).answer_quality.value == 0.0


@pytest.mark.parametrize(
    ("reference", "check", "result"),
    [
        (RIGHT, FORM, "right"),
        (WRONG, FORM, "wrong"),
        (None, FORM, "right"),
        (Comparison("undecided", "long"), FORM, "right"),
        (RIGHT, Comparison("wrong", "tests", by="check"), "wrong"),
        (WRONG, Comparison("right", "tests", by="check"), "right"),
        (WRONG, undecided("not run"), "wrong"),
        (None, undecided("not run"), "undecided"),
    ],
)
def test_the_surer_of_reference_and_check_counts(reference: Comparison | None, check: Comparison, result: str) -> None:
    found = surer(reference, check)
    assert found is not None
    assert found.result == result


def test_without_either_nothing_is_known() -> None:
    assert surer(None, None) is None
    assert surer(RIGHT, None) is RIGHT


# Python.


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("Take this:\n```python\nx = 1\n```\nand\n```py\ny = 2\n```\n", "x = 1\n\n\ny = 2\n"),
        ("```\ndef f(): pass\n```\n```json\n{}\n```", "def f(): pass\n"),
        ("def f(): pass", "def f(): pass"),
        ("hello", None),
        ("x", None),
        ("Use def f(): pass", None),
        ("```bash\nls\n```", None),
    ],
)
def test_the_code_of_an_answer_is_its_blocks_or_all_of_it(answer: str, code: str | None) -> None:
    assert python_of(answer) == code


def test_code_is_not_run_unless_the_policy_says_so(checker: Checker) -> None:
    check = AnswerCheck(kind="python_tests", content="assert f() == 1")
    found = checker(check, "def f(): return 1")
    assert found == undecided("tests, which are run only where the policy says so (`run_code`)")
    seen = verdict(with_check("def f(): return 1", check), checker)
    assert seen.answer_quality.evidence[0] == (
        "the check does not decide: tests, which are run only where the policy says so (`run_code`)"
    )


@pytest.mark.parametrize(
    ("ended", "said", "result"),
    [
        ("exited", "m started\nm done 3 0\n", "right"),
        ("exited", "m started\nm done 3 1 AssertionError\n", "wrong"),
        ("exited", "m started\nm broken SyntaxError\n", "wrong"),
        ("exited", "m started\nm missing numpy\n", "undecided"),
        ("exited", "m started\nm fixtures\n", "undecided"),
        ("exited", "m started\n", "wrong"),
        ("exited", "done 3 0\n", "undecided"),
        ("out_of_cpu", "m started\n", "wrong"),
        ("too_much_output", "m started\n", "wrong"),
        ("out_of_time", "m started\n", "undecided"),
        ("signalled", "m started\n", "wrong"),
        ("refused", "", "undecided"),
    ],
)
def test_what_a_trial_comes_to(ended: Any, said: str, result: str) -> None:
    trial = ConfinedResult(ended, 0, said.encode(), b"", 1.0, network_cut=True, files_hidden=True)
    assert outcome(trial, mark="m").result == result


def test_the_program_of_a_trial_holds_any_text() -> None:
    compile(program("'''\\\n{}\"\"\"\x00", "assert 1\n\u2028{tests!r}", mark="m"), "trial", "exec")


def _signals() -> Any:
    from ruminate.assessor.judging.signals import NAMES, Signals

    return Signals(*(0.0 for _ in NAMES))
