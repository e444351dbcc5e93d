"""Tests that came with a question are run with the code of its answer, confined, and decide; nothing blocks meanwhile."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from functools import partial

import pytest

from ruminate.assessor.handle import Scorer, assess_one
from ruminate.assessor.judging.decide import untaught
from ruminate.assessor.policy import Policy
from ruminate.grading.checking.checker import Checker
from ruminate.grading.checking.checks import checked_by
from ruminate.grading.grade import Grader
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.flow import INTERACTION_RECORDED, LESSON_NOTED, REASONING_ASSESSED
from ruminate.schemas.interaction import AnswerCheck
from ruminate.schemas.scoring import LessonNoted
from ruminate.shared.confined import run_confined
from ruminate.shared.memory import MemoryBroker, MemoryBus
from tests.solutions import interaction

POLICY = Policy(run_code=True, run_code_seconds=1)
TESTS = "from answer import double\n\nassert double(2) == 4\n\ndef test_negative():\n    assert double(-1) == -2\n"
pytestmark = pytest.mark.skipif(
    sys.platform != "linux"
    or run_confined("", seconds=1, memory_bytes=1 << 28, output_bytes=100, namespaces="required").ended == "refused",
    reason="this system gives no user namespaces to us",
)


@pytest.fixture(scope="module")
def checker() -> Iterator[Checker]:
    with Checker(POLICY.code_limits) as somebody:
        yield somebody


def block(code: str) -> str:
    return f"Like this:\n```python\n{code}\n```\n"


@pytest.mark.parametrize(
    ("code", "tests", "result", "how"),
    [
        ("def double(n): return 2 * n", TESTS, "right", "1 of 1 hold"),
        ("def double(n): return n + 2", TESTS, "wrong", "1 of 1 do not hold (AssertionError)"),
        ("def double(n): return n", TESTS, "wrong", "AssertionError"),
        ("def triple(n): return n", TESTS, "wrong", "ImportError"),
        ("def double(n) return n", TESTS, "wrong", "SyntaxError"),
        ("raise KeyError", TESTS, "wrong", "KeyError"),
        ("import sys; sys.exit(0)", TESTS, "wrong", "SystemExit"),
        ("import os; os._exit(0)", TESTS, "wrong", "started"),
        ("print('done 2 0')\nimport os; os._exit(0)", TESTS, "wrong", "started"),
        ("import numpy\ndef double(n): return 2 * n", TESTS, "undecided", "not there"),
        ("while True: pass", TESTS, "wrong", "compute without end"),
        ("import time; time.sleep(600)", TESTS, "undecided", "waited"),
        ("import os\nwhile True: os.write(1, b'x' * 4096)", TESTS, "wrong", "write without end"),
        ("while True: print('x' * 4096)", TESTS, "wrong", "compute without end"),
        ("x = 'x' * (1 << 31)", TESTS, "wrong", "MemoryError"),
        ("def double(n): return 2 * n\nif __name__ == '__main__': raise SystemExit", TESTS, "right", "hold"),
        ("def double(n): return 2 * n", "assert double(2) == 4", "right", "hold"),
        ("def double(n): return 2 * n", "def check(f):\n    assert f(1) == 2\ncheck(double)", "right", "hold"),
        (
            "def double(n): return 2 * n",
            "import unittest\nclass T(unittest.TestCase):\n  def test_a(self): self.assertEqual(double(1), 2)\n"
            "  def test_b(self): self.assertEqual(double(1), 3)\n",
            "wrong",
            "1 of 2 do not hold",
        ),
        ("def double(n): return 2 * n", "def test_a(tmp_path):\n    assert double(1) == 2", "undecided", "arguments"),
        ("def double(n): return 2 * n", "import pytest\nassert double(1) == 2", "undecided", "not there"),
        ("def double(n): return 2 * n", "print(double(2))", "undecided", "test nothing"),
        ("def double(n): return 2 * n", "assert double(", "undecided", "do not parse"),
        ("def test_mine(): raise KeyError\ndef double(n): return 2 * n", TESTS, "right", "1 of 1"),
    ],
)
def test_what_tests_decide(checker: Checker, code: str, tests: str, result: str, how: str) -> None:
    found = checker(AnswerCheck(kind="python_tests", content=tests), block(code))
    assert (found.result, found.by) == (result, "check"), found
    assert how in found.how


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (block("def double(n): return 2 * n"), "right"),
        (block("def double(n): return n + 2"), "wrong"),
        (block("import numpy\ndef double(n): return 2 * n"), "undecided"),
        ("I would multiply by two.", "wrong"),
    ],
)
def test_a_grader_says_the_same_as_the_assessor_says_of_the_interaction(checker: Checker, answer: str, result: str) -> None:
    check = AnswerCheck(kind="python_tests", content=TESTS)
    it = interaction("Write double(n).", None, answer).model_copy(update={"answer_check": check})
    with Grader(POLICY.code_limits) as grader:
        comparison = grader.grade("python_tests", TESTS, question="Write double(n).", answer=answer)
    assert comparison == checked_by(checker, it)
    assert comparison.result == result


def test_the_answer_without_code_fails_them(checker: Checker) -> None:
    assert checker(AnswerCheck(kind="python_tests", content=TESTS), "I would multiply by two.").result == "wrong"


def test_what_was_found_is_remembered(checker: Checker) -> None:
    check, answer = AnswerCheck(kind="python_tests", content="import random\nassert random.random() < 2"), block("x = 1")
    assert checker(check, answer) is checker(check, answer)


def test_others_are_judged_while_tests_run_and_the_verdict_says_what_they_came_to(checker: Checker) -> None:
    scorer = Scorer(POLICY, "p", lambda *_: untaught(POLICY), checks=checker)
    slow = AnswerCheck(kind="python_tests", content="import time\ntime.sleep(1)\nassert double(1) == 2\n")
    first = interaction("Write double(n).", None, block("def double(n): return 2 * n"))
    first = first.model_copy(update={"answer_check": slow, "interaction_id": "slow"})
    second = interaction("What is 1 + 1?", None, "2").model_copy(update={"interaction_id": "quick", "conversation_id": "c-2"})

    async def scenario() -> tuple[list[ReasoningAssessed], list[LessonNoted]]:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="assessor") as bus:
            for each in (first, second):
                envelope = bus.begin(INTERACTION_RECORDED, each, event_id=each.interaction_id, source="/ruminate/collector")
                await bus.publish(INTERACTION_RECORDED, each, envelope)
            serving = asyncio.create_task(bus.serve(INTERACTION_RECORDED, partial(assess_one, scorer=scorer), concurrency=4))
            async with asyncio.timeout(30):
                while len(broker.records(REASONING_ASSESSED.name)) < 2:
                    await asyncio.sleep(0.02)
                await bus.stop()
                await serving
        assessed = [ReasoningAssessed.model_validate_json(each.value or b"") for each in broker.records(REASONING_ASSESSED.name)]
        return assessed, [LessonNoted.model_validate_json(each.value or b"") for each in broker.records(LESSON_NOTED.name)]

    (quick, tested), (lesson,) = asyncio.run(scenario())
    assert [each.interaction.interaction_id for each in (quick, tested)] == ["quick", "slow"]
    assert tested.verdict.answer_quality.value == 1.0
    assert tested.verdict.answer_quality.evidence == ("right by the tests: 1 of 1 hold",)
    assert tested.interaction == first
    assert (lesson.good, lesson.weight, lesson.by_reference) == (True, 1.0, True)
