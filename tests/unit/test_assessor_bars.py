"""How far verdicts can be trusted, on real solutions of four models to 1,319 problems, and on faults planted into right ones.

The answering model's name is no input, and no weight was fitted to these texts.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import cache

import pytest

from ruminate.assessor.finding.findings import find
from ruminate.assessor.judging.decide import assess, knowledge_of, untaught, weigh
from ruminate.assessor.judging.knowledge import Agreement, Knowledge
from ruminate.assessor.judging.signals import Signals
from ruminate.assessor.learning.teacher import Lesson, Teacher, reliability
from ruminate.assessor.policy import Policy
from ruminate.grading.finding.marks import final_number
from tests.planted_faults import KINDS, Solution, plant
from tests.solutions import Solved, area_under_curve, interaction, solutions

POLICY = Policy()
PAIRS = 500


def overall(solved: Solved, knowledge: Knowledge | None = None, *, reference: bool = False) -> tuple[float, Signals]:
    it = solved.interaction(reference=reference)
    found = find(it, most_characters=POLICY.most_characters)
    verdict, shown = weigh(it, found, knowledge or knowledge_of(found, it), POLICY, untaught(POLICY))
    assert verdict.overall.value is not None
    return verdict.overall.value, shown


@cache
def scored() -> tuple[tuple[Solved, float, Signals], ...]:
    """Every solution by what can be read in it alone."""
    return tuple((solved, *overall(solved)) for solved in solutions())


def test_without_reference_right_solutions_score_above_wrong_ones() -> None:
    assert area_under_curve([(score, solved.right) for solved, score, _ in scored()]) >= 0.70


def test_with_the_answers_of_the_others_they_do_so_far_more_often() -> None:
    ranked: list[tuple[float, bool]] = []
    for first in range(0, len(solutions()), 4):
        four = solutions()[first : first + 4]
        finals = [final_number(find(solved.interaction(), most_characters=100_000).reading) for solved in four]
        times = Counter(finals)
        for solved, final in zip(four, finals, strict=True):
            known = Knowledge(agreement=Agreement(times[final] - 1, 4 - times[final]))
            ranked.append((overall(solved, known)[0], solved.right))
    assert area_under_curve(ranked) >= 0.88


def test_with_the_reference_right_and_wrong_are_told_apart() -> None:
    assert area_under_curve([(overall(solved, reference=True)[0], solved.right) for solved in solutions()]) >= 0.99


@pytest.mark.parametrize("half", ["first", "second", "even", "random"])
def test_taught_on_one_half_of_the_problems_it_knows_more_of_the_other_and_how_sure_it_is(half: str) -> None:
    problems = list(range(1319))
    if half == "random":
        random.Random(5).shuffle(problems)
    taught = set({"first": problems[:660], "second": problems[659:], "even": problems[::2], "random": problems[:660]}[half])
    lessons = [(solved, shown) for solved, _, shown in scored() if solved.problem in taught]
    random.Random(1).shuffle(lessons)
    teacher = Teacher(POLICY.weights)
    for solved, shown in lessons:
        teacher.learn(Lesson(shown, solved.right, 1.0, "tester", by_reference=True))
    predicted = [(teacher.predict(shown), solved.right) for solved, _, shown in scored() if solved.problem not in taught]
    assert area_under_curve(predicted) >= 0.76
    assert reliability(predicted).calibration_error <= 0.05


@cache
def right_ones() -> tuple[Solution, ...]:
    return tuple(Solution(solved.question, solved.thinking, solved.answer) for solved in solutions() if solved.right)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_planted_fault_ranks_a_solution_below_its_original(kind: str) -> None:
    lower = 0
    for right, faulty in plant(list(right_ones()), kind, count=PAIRS, seed=7):
        before, after = (
            assess(interaction(each.question, each.thinking, each.answer), POLICY).overall.value for each in (right, faulty)
        )
        assert before is not None
        assert after is not None
        lower += after < before
    assert lower / PAIRS >= 0.85


def test_slips_of_arithmetic_are_found_and_right_solutions_are_left_alone() -> None:
    found = accused = 0
    for right, faulty in plant(list(right_ones()), "slip", count=PAIRS, seed=11):
        wrong = [
            find(interaction(each.question, each.thinking, each.answer), most_characters=100_000).trail.wrong
            for each in (right, faulty)
        ]
        accused += wrong[0] > 0
        found += wrong[1] > wrong[0]
    assert found / PAIRS >= 0.90
    assert found / (found + accused) >= 0.97
