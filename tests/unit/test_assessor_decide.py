"""Verdicts: each part knows, or abstains, and says why; what is broken or wrong is rejected in words."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruminate.assessor.finding.reading import repeats_itself
from ruminate.assessor.judging.decide import assess
from ruminate.assessor.policy import Policy, Weights
from ruminate.grading.finding.wording import numbers
from ruminate.schemas.assessment import Score, Verdict
from ruminate.schemas.interaction import ContextFacts, InteractionRecorded, Message, Response, Thinking, ToolCall, Usage

POLICY = Policy()
BOOKS = "Mira has 14 books. She buys twice as many new ones, and gives 5 away. How many books does she have?"
BOOKS_THINKING = (
    "Mira buys 14 * 2 = 28 new books.\nTogether she has 14 + 28 = 42 books.\nAfter giving some away she has 42 - 5 = 37 books."
)
CAPITAL = "What is the capital of Zarvex?"
CAPITAL_THINKING = "I recall Zarvex. Its capital is Amber Bay."
CAPITAL_ANSWER = "The capital of Zarvex is Amber Bay."


def interaction(
    question: str = BOOKS, thinking: str | None = BOOKS_THINKING, answer: str = "37", **more: Any
) -> InteractionRecorded:
    calls = more.pop("tool_calls", ())
    fields: dict[str, Any] = {
        "interaction_id": "i-1",
        "conversation_id": "c-1",
        "agent": "tester",
        "target_model": "qwen3",
        "occurred_at": datetime(2026, 1, 1, tzinfo=UTC),
        "messages": (Message(role="user", content=question),),
        "response": Response(content=answer, thinking=thinking, tool_calls=calls),
        "thinking": more.pop("thinking_facts", Thinking(mode_used="thinking" if thinking else "direct")),
        "outcome": "succeeded",
        "source": "/tests",
        "recorded_id": UUID(int=1),
    } | more
    return InteractionRecorded(**fields)


def verdict(question: str = BOOKS, thinking: str | None = BOOKS_THINKING, answer: str = "37", **more: Any) -> Verdict:
    return assess(interaction(question, thinking, answer, **more), POLICY)


def scores(found: Verdict) -> dict[str, Score]:
    return {
        "answer_quality": found.answer_quality,
        **dict(found.reasoning_quality),
        "mode_appropriateness": found.mode_appropriateness,
        "overall": found.overall,
    }


def reasons(found: Verdict) -> set[str]:
    return {reason.partition(":")[0] for reason in found.reasons}


# What is good is kept.


def test_a_worked_solution_with_the_right_answer_is_kept_on_all_the_evidence() -> None:
    found = verdict(reference_answer="37")
    assert found.decision == "keep"
    assert found.evidence_ratio == 1.0
    assert all(score.value is not None and score.value >= 0.9 for score in scores(found).values())
    assert found.reasoning_steps == 3
    assert found.thinking_words == 24


@pytest.mark.parametrize("reference", [CAPITAL_ANSWER, "Amber Bay", "amber bay."])
@pytest.mark.parametrize("thinking", [CAPITAL_THINKING, None])
def test_a_simple_fact_is_kept_with_brief_thinking_and_without(reference: str, thinking: str | None) -> None:
    found = verdict(CAPITAL, thinking, CAPITAL_ANSWER, reference_answer=reference)
    assert found.decision == "keep"
    assert found.answer_quality.value == 1.0


def test_calculator_marks_in_the_thinking_are_read_as_arithmetic() -> None:
    found = verdict(thinking="She buys 14*2 = <<14*2=28>>28.\nNow 14+28-5 = <<14+28-5=37>>37 remain.", reference_answer="#### 37")
    assert found.decision == "keep"
    assert "2 of 2 equations hold" in found.reasoning_quality.logical_coherence.evidence


# What is bad is rejected, and says why.


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"reference_answer": "38"}, "wrong_answer"),
        ({"outcome": "failed"}, "failed_outcome"),
        ({"answer": ""}, "empty_answer"),
        ({"answer": "  \n"}, "empty_answer"),
        ({"answer": "37\x00\x07"}, "control_characters"),
        ({"thinking": "Books \ufffd\ufffd books."}, "control_characters"),
        ({"answer": "the books " * 60}, "repeated_text"),
        ({"thinking": "a" * 500}, "repeated_text"),
        ({"answer": "%$#@!^&*()_+{}|:<>?~`-=[];',./" * 2}, "unreadable"),
        ({"usage": Usage(done_reason="length")}, "truncated"),
        ({"answer": "I'm sorry, but I can't help with that."}, "declined"),
        ({"thinking": "She buys 14 * 2 = 30 books.\nThen 14 + 30 = 42, and 42 - 5 = 37."}, "wrong_arithmetic"),
    ],
)
def test_what_must_not_be_learnt_is_rejected_with_its_reason(changed: dict[str, Any], reason: str) -> None:
    found = verdict(**changed)
    assert found.decision == "reject"
    assert reason in reasons(found)


def test_reasons_hold_no_contents() -> None:
    found = verdict(CAPITAL, "Its capital is Secret Harbour.", "Secret Harbour", reference_answer="Amber Bay", outcome="failed")
    spoken = " ".join([*found.reasons, *(text for score in scores(found).values() for text in score.evidence)])
    assert "Secret" not in spoken
    assert "Amber" not in spoken


def test_a_tool_call_without_text_is_an_answer_that_cannot_be_judged() -> None:
    found = verdict(answer="", tool_calls=(ToolCall(name="search"),))
    assert found.answer_quality.value is None
    assert "empty_answer" not in reasons(found)


def test_without_reference_and_outcome_a_direct_answer_has_too_little_evidence() -> None:
    found = verdict(CAPITAL, None, CAPITAL_ANSWER, outcome="unknown")
    assert found.answer_quality.value is None
    assert reasons(found) == {"little_evidence"}


def test_thresholds_are_the_policys() -> None:
    good = interaction(CAPITAL, None, CAPITAL_ANSWER)  # reported as succeeded, no reference
    assert assess(good, POLICY).decision == "keep"
    assert reasons(assess(good, Policy(keep_overall_at_least=0.99))) == {"low_score"}


# The answer against the reference.


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("37", "37", 1.0),
        ("She has 37 books.", "37", 1.0),
        ("14 + 23 = 37", "37", 1.0),
        ("$1,234.50", "1234.5", 1.0),
        ("\\boxed{37}", "37", 1.0),
        ("The answer is 37, of which 14 are old.", "37", 1.0),
        ("37 books, 14 of them old.", "37", 1.0),
        ("thirty", "30", 1.0),
        ("3.3333", "3.33", 1.0),
        ("1/2", "0.5", 1.0),
        ("-4", "-4", 1.0),
        ("37 - 5 = 32\nA: 32", "37", 0.0),
        ("37.5", "37", 0.0),
        ("1000001", "1000000", 0.0),
        ("She has 38 books.", "37", 0.0),
        ("Many.", "37", 0.0),
        ("Yes, she can.", "yes", 1.0),
        ("No, she cannot.", "Yes", 0.0),
        ("Amber Hill", "Amber Bay", 0.0),
        ("It is called Amber Bay.", "Amber Bay", 1.0),
    ],
)
def test_the_reference_decides_the_quality_of_the_answer(answer: str, reference: str, expected: float) -> None:
    assert verdict("What is it?", None, answer, reference_answer=reference).answer_quality.value == expected


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("It is not Amber Bay.", "Amber Bay"),
        ("Perhaps.", "yes"),
        ("14 old books, 37 in all, 23 new ones.", "37"),
        ("37 less 5 are 32, of which 14 are old and 18 new.", "37"),
        ("A short summary.", "one two alpha beta gamma delta epsilon zeta eta theta iota kappa lambda"),
        ("anything", "?!"),
    ],
)
def test_what_the_reference_cannot_decide_is_left_to_the_outcome(answer: str, reference: str) -> None:
    found = verdict("What is it?", None, answer, reference_answer=reference, outcome="unknown")
    assert found.answer_quality.value is None
    assert "wrong_answer" not in reasons(found)


# The five parts of reasoning.


def test_all_five_parts_abstain_without_thinking() -> None:
    assert all(score.value is None for _, score in verdict(thinking=None).reasoning_quality)


def test_coherence_abstains_without_arithmetic_and_thread_and_falls_with_each_wrong_equation() -> None:
    assert verdict(CAPITAL, CAPITAL_THINKING, CAPITAL_ANSWER).reasoning_quality.logical_coherence.value is None
    right = verdict().reasoning_quality.logical_coherence.value
    wrong = verdict(thinking=BOOKS_THINKING.replace("28 new", "29 new")).reasoning_quality.logical_coherence.value
    assert right == 1.0
    assert wrong is not None
    assert wrong < 0.7


def test_decomposition_abstains_for_one_fact_and_wants_a_step_for_each_further_number() -> None:
    assert verdict(CAPITAL, CAPITAL_THINKING, CAPITAL_ANSWER).reasoning_quality.problem_decomposition.value is None
    one_step = verdict(thinking="It is 37.").reasoning_quality.problem_decomposition.value
    all_steps = verdict().reasoning_quality.problem_decomposition.value
    assert one_step is not None
    assert all_steps is not None
    assert one_step <= 0.5 < all_steps


def test_evidence_usage_sees_given_numbers_and_operands_from_nowhere() -> None:
    assert verdict("And then?", "Well, so be it.", "So.").reasoning_quality.evidence_usage.value is None
    founded = verdict().reasoning_quality.evidence_usage.value
    invented = verdict(thinking="Say 913 * 77 = 70301 books.\nThen 70301 - 70264 = 37.").reasoning_quality.evidence_usage.value
    assert founded == 1.0
    assert invented is not None
    assert invented < 0.4


def test_the_conclusion_has_to_stand_in_the_last_steps() -> None:
    def value(thinking: str, answer: str, **more: Any) -> float | None:
        return verdict(thinking=thinking, answer=answer, **more).reasoning_quality.conclusion_validity.value

    assert value(BOOKS_THINKING, "37") == 1.0
    assert value(BOOKS_THINKING + "\nThat is it.", "28") == 0.6
    assert value(BOOKS_THINKING, "99") == 0.1
    assert value(BOOKS_THINKING, "28", reference_answer="37") == 0.0  # the thinking knew better
    assert value(BOOKS_THINKING, "37", outcome="failed") == 0.3
    assert value(BOOKS_THINKING, "!!!") is None


def test_clarity_falls_with_repeated_endless_and_unfinished_steps() -> None:
    def value(thinking: str) -> float:
        found = verdict(thinking=thinking).reasoning_quality.step_by_step_clarity.value
        assert found is not None
        return found

    assert value(BOOKS_THINKING) == 1.0
    assert value("Let us see the books.\n" * 3 + "There are 37.") <= 0.5
    assert value(" ".join(f"word{number}" for number in range(200))) == 0.0
    assert value("There are 14 books. Then she buys 28 and") == 0.6


# The mode.


def test_thinking_missing_and_thinking_wasted_are_different_faults_and_neither_rejects_by_default() -> None:
    missing = verdict(BOOKS, None, "37")
    musing = " ".join(f"{sha256(bytes([number])).hexdigest()[: number % 7 + 3]} may matter" for number in range(90))
    wasted = verdict(CAPITAL, musing + ". So Zarvex has Amber Bay.", CAPITAL_ANSWER)
    assert "missing" in missing.mode_appropriateness.evidence[0]
    assert "wasted" in wasted.mode_appropriateness.evidence[0]
    assert missing.decision == wasted.decision == "keep"
    strict = Policy(reject_missing_thinking=True, reject_wasted_thinking=True)
    assert reasons(assess(interaction(BOOKS, None, "37"), strict)) == {"thinking_missing"}


def test_what_was_right_without_thinking_needed_none_and_what_was_wrong_without_it_did() -> None:
    assert verdict(BOOKS, None, "37", reference_answer="37").mode_appropriateness.value == 0.6
    assert verdict(BOOKS, None, "36", reference_answer="37").mode_appropriateness.value == 0.1
    wrong = verdict(CAPITAL, None, "Amber Hill", reference_answer="Amber Bay").mode_appropriateness
    assert wrong.value == 0.3
    assert "missing" in wrong.evidence[0]


def test_effort_and_waiting_make_thinking_about_a_simple_question_a_waste() -> None:
    def value(**more: Any) -> float | None:
        used = Thinking(mode_used="thinking", effort_used=more.pop("effort", None))
        return verdict(CAPITAL, CAPITAL_THINKING, CAPITAL_ANSWER, thinking_facts=used, **more).mode_appropriateness.value

    assert value() == 0.9
    assert value(effort="max") == 0.7
    assert value(effort="high", usage=Usage(total_seconds=90.0)) == 0.56
    low = Thinking(mode_used="thinking", effort_used="low")
    assert verdict(thinking_facts=low, reference_answer="38").mode_appropriateness.value == 0.4


@pytest.mark.parametrize(
    ("question", "more", "expected"),
    [
        (CAPITAL, {}, 1.0),
        (CAPITAL, {"complexity": "expert"}, 0.3),
        (CAPITAL, {"context": ContextFacts(codebase_lines=20_000)}, 0.3),
        ("Explain tides.", {}, 0.3),
        ("word " * 60, {}, 0.3),
        ("word " * 30, {}, None),
        ("word " * 30, {"complexity": "simple"}, 1.0),
    ],
)
def test_how_much_thinking_a_question_calls_for_is_read_off_its_surface_and_facts(
    question: str, more: dict[str, Any], expected: float | None
) -> None:
    assert verdict(question, None, "An answer.", **more).mode_appropriateness.value == expected


# What holds for every text.

TEXTS = st.one_of(
    st.text(max_size=400),
    st.text(alphabet="0123456789 .,=+-*/x%()$^#\\boxed{}ab:\n\x00", max_size=400),
    st.builds(lambda piece, times: piece * times, st.text(max_size=5), st.integers(0, 2000)),
)


@settings(max_examples=150, deadline=None)
@given(
    question=TEXTS,
    thinking=st.none() | TEXTS,
    answer=TEXTS,
    reference=st.none() | TEXTS,
    outcome=st.sampled_from(["succeeded", "failed", "unknown"]),
)
def test_every_text_gets_a_verdict_with_scores_between_0_and_1(
    question: str, thinking: str | None, answer: str, reference: str | None, outcome: str
) -> None:
    found = verdict(question, thinking, answer, reference_answer=reference, outcome=outcome)
    assert all(score.value is None or 0.0 <= score.value <= 1.0 for score in scores(found).values())
    assert all(score.evidence for score in scores(found).values())
    assert 0.0 <= found.evidence_ratio <= 1.0
    assert found.reasons
    assert found == verdict(question, thinking, answer, reference_answer=reference, outcome=outcome)


@pytest.mark.parametrize(
    "piece",
    ["a", "\x00", " ", "\n", "=", "1", "1,", "1=", "(1=", ".", ". ", "#### ", "####\n", "answer ", "answer\n", "A: ", "-", "1-",
     "Aa ", ", A", "é", "\\boxed{", "9 aa aa = ", "$", "1/1", "。", "no ", "sorry "],
)  # fmt: skip
def test_a_hundred_kilobytes_of_anything_take_no_more_than_linear_time(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    began = time.process_time()
    verdict("x" + text, "x" + text, "x" + text, reference_answer="x" + text)
    # A tenth of a second here; backtracking over such a run takes minutes.
    assert time.process_time() - began < 3.0


def test_of_a_text_over_the_bound_both_ends_are_read_and_the_verdict_says_so() -> None:
    short = Policy(most_characters=1000)
    filler = " ".join(f"filler{number}" for number in range(2000))
    long_thinking = f"{BOOKS_THINKING}\n{filler}\nSo 42 - 5 = 37."
    found = assess(interaction(thinking=long_thinking), short)
    assert found.reasoning_quality.conclusion_validity.value == 1.0
    assert any("of the text was read" in text for text in found.overall.evidence)


# Small print.


def test_equal_policies_have_one_version_and_every_change_another() -> None:
    assert Policy().version == Policy().version
    assert Policy(keep_overall_at_least=0.7).version != Policy().version
    assert Policy(weights=Weights(answer_quality=1.0)).version != Policy().version


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,200.50 and 3", (1200.5, 3)),
        ("-3, 7-4", (-3, 7, 4)),
        (".5", (0.5,)),
        ("v1 a2", ()),
        ("24>>24", (24, 24)),
        ("", ()),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, expected: tuple[float, ...]) -> None:
    assert numbers(text) == expected


def test_rules_and_lists_are_no_repetition_and_loops_are() -> None:
    assert not repeats_itself("Heading\n" + "-" * 20 + "\nsome text that goes on")
    assert not repeats_itself(BOOKS_THINKING)
    assert not repeats_itself("7, 7, 7")
    assert repeats_itself("I will stop now. " * 50)
    assert repeats_itself(BOOKS_THINKING * 3 + " wait, " * 400)
