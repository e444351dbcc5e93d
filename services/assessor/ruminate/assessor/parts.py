"""The parts of a verdict: each a function of what was read, 0-1, or None where it cannot know; each says what it rests on.

These are surface signals: they find what is broken or unfounded, and they see that an answer follows from its thinking.
They do not understand. What none of them can see is left out of `overall`, and `evidence_ratio` says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from ruminate.assessor.answers import Comparison, final_number
from ruminate.assessor.policy import Policy
from ruminate.assessor.reading import Reading, content_words
from ruminate.schemas.assessment import Score
from ruminate.schemas.interaction import InteractionRecorded, Outcome

Demand = Literal["simple", "demanding", "unclear"]

# Numbers that a computation may bring along without the question having given them: units, calendars, percentages.
_COMMON_NUMBERS = frozenset(
    {0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 7.0, 10.0, 12.0, 24.0, 30.0, 31.0, 52.0, 60.0, 100.0, 365.0, 1000.0, 3600.0}
)
_DECLINED = re.compile(
    r"\W{0,5}(?:i['’]?m sorry|i am sorry|sorry|i can(?:not|['’]t)|i(?:['’]m| am) (?:unable|not able)|as an ai\b|i don['’]?t know"
    r"|unable to)",
    re.IGNORECASE,
)
_THINK = """analyze analyse explain why prove derive compare debug design architecture calculate compute optimize optimise plan
evaluate refactor"""
_CALLS_FOR_THINKING = frozenset(_THINK.split())
_OPEN_ENDED = "and or but so because the a an of to in with for is are that which if then therefore thus"
_DANGLING = frozenset(_OPEN_ENDED.split())

NO_THINKING = Score(value=None, evidence=("there is no thinking",))


def _score(value: float, *evidence: str) -> Score:
    return Score(value=round(min(1.0, max(0.0, value)), 4), evidence=evidence)


def _cannot_know(why: str) -> Score:
    return Score(value=None, evidence=(why,))


def declines(answer: str) -> bool:
    """Whether the answer begins by declining, and does little else."""
    return len(answer) <= 400 and _DECLINED.match(answer) is not None


def truncated(interaction: InteractionRecorded) -> bool:
    """Whether the node cut the answer off at its token limit."""
    return interaction.usage.done_reason == "length"


def answer_quality(reading: Reading, comparison: Comparison | None, interaction: InteractionRecorded) -> Score:
    """Was the answer right? The reference decides, else the reported outcome; faults of the surface only ever lower it."""
    if not reading.answer:
        return _cannot_know("the answer is a tool call") if interaction.response.tool_calls else _score(0.0, "the answer is empty")
    value, evidence = _rightness(comparison, interaction.outcome)
    right = comparison is not None and comparison.result == "right"
    for fault, most, said in (
        (reading.answer_repeats, 0.1, "the answer repeats itself"),
        (truncated(interaction), 0.3, "the answer was cut off"),
        (declines(reading.answer) and not right, 0.2, "the answer declines"),
    ):
        if fault:
            value = most if value is None else min(value, most)
            evidence = (*evidence, said)
    return Score(value=value, evidence=evidence)


def _rightness(comparison: Comparison | None, outcome: Outcome) -> tuple[float | None, tuple[str, ...]]:
    if comparison is not None and comparison.result != "undecided":
        return float(comparison.result == "right"), (f"{comparison.result} by {comparison.how}",)
    unknown = "no reference is known" if comparison is None else f"the reference does not decide: {comparison.how}"
    if outcome == "unknown":
        return None, (unknown, "no outcome was reported")
    return (0.8 if outcome == "succeeded" else 0.0), (unknown, f"the outcome was reported as {outcome}")


def logical_coherence(reading: Reading) -> Score:
    """Does the thinking hold together? Recomputed arithmetic, and steps that go on from what was said before.

    One wrong equation spoils what follows it, so the share of right ones counts squared. Without arithmetic it takes
    three steps to see a thread.
    """
    if not reading.steps:
        return NO_THINKING
    if reading.thinking_repeats:
        return _score(0.1, "the thinking repeats itself")
    linked, linkable = _linked_steps(reading)
    thread = f"{linked} of {linkable} steps go on from something said before"
    total = len(reading.equations)
    if total:
        right = sum(equation.holds for equation in reading.equations)
        arithmetic = (right / total) ** 2
        evidence = f"{right} of {total} equations hold"
        if not linkable:
            return _score(arithmetic, evidence)
        return _score(0.7 * arithmetic + 0.3 * linked / linkable, evidence, thread)
    if linkable >= 2:
        return _score(linked / linkable, thread)
    return _cannot_know("no arithmetic to recompute, and too few steps to see a thread")


def problem_decomposition(reading: Reading) -> Score:
    """Was the problem taken apart? Steps against the facts that the question gives, and results that later steps use."""
    if not reading.steps:
        return NO_THINKING
    needed = min(8, len(reading.given) - 1)
    if needed < 1:
        return _cannot_know("the question gives too few facts to tell how many steps it needs")
    taken = max(len(reading.equations), len(reading.steps))
    enough = min(1.0, taken / needed)
    evidence = f"{taken} steps for {needed + 1} given numbers"
    if len(reading.equations) < 2:
        return _score(enough, evidence)
    results = [equation.stated for equation in reading.equations[:-1]]
    used = sum(
        any(result in later.operands or result == later.stated for later in reading.equations[at + 1 :][:20])
        for at, result in enumerate(results)
    )
    return _score(0.6 * enough + 0.4 * used / len(results), evidence, f"{used} of {len(results)} results are used later")


def evidence_usage(reading: Reading) -> Score:
    """Does the thinking rest on what was given? Facts of the question that are used, and operands that come from somewhere."""
    if not reading.steps:
        return NO_THINKING
    said_numbers = frozenset[float]().union(*reading.step_numbers).union(*(equation.operands for equation in reading.equations))
    said_words = frozenset[str]().union(*reading.step_words)
    given = reading.given
    values: list[float] = []
    evidence: list[str] = []
    if given:
        used = sum(word in said_words or any(value in said_numbers for value in forms) for word, forms in given.items())
        values.append(min(1.0, used / len(given) * 1.25))  # one in five may be beside the point
        evidence.append(f"{used} of {len(given)} given numbers are used")
    names = reading.question_names or reading.question_content
    if names and not given:
        used = len(names & said_words)
        values.append(used / len(names))
        evidence.append(f"{used} of {len(names)} {'names' if reading.question_names else 'words'} of the question are used")
    if reading.equations and given:
        founded, operands = _founded_operands(reading)
        values.append(founded / operands)
        evidence.append(f"{founded} of {operands} operands come from the question or an earlier result")
    if not values:
        return _cannot_know("the question gives neither numbers nor names")
    return _score(sum(values) / len(values), *evidence)


def conclusion_validity(reading: Reading, comparison: Comparison | None, outcome: Outcome) -> Score:
    """Does the answer follow from the thinking, whose last steps hold its number or its words, and is it not known to be wrong?"""
    if not reading.steps:
        return NO_THINKING
    if not reading.answer:
        return _cannot_know("there is no answer to follow from the thinking")
    value, evidence = _follows(reading)
    if value is None:
        return _cannot_know(evidence)
    if comparison is not None and comparison.result == "wrong":
        reached = comparison.expected is not None and comparison.expected in reading.step_numbers[-1]
        return _score(0.0 if reached else min(value, 0.3), evidence, "the reference contradicts the conclusion")
    if outcome == "failed":
        return _score(min(value, 0.3), evidence, "the outcome was reported as failed")
    return _score(value, evidence)


def step_by_step_clarity(reading: Reading) -> Score:
    """Can the steps be followed? Steps of readable length, none said twice, the last one finished."""
    if not reading.steps:
        return NO_THINKING
    total = len(reading.steps)
    readable = sum(2 <= len(found) <= 60 for found in reading.step_words)
    again = total - len(set(reading.steps))
    last = reading.step_words[-1]
    unfinished = (last and last[-1] in _DANGLING) or reading.thinking.endswith((",", "=", "+", "-", "*", "/", "("))
    value = readable / total * (1 - again / total) * (0.6 if unfinished else 1.0)
    evidence = [f"{readable} of {total} steps have 2 to 60 words"]
    if again:
        evidence.append(f"{again} steps are said again")
    if unfinished:
        evidence.append("the last step is unfinished")
    return _score(value, *evidence)


def demand(reading: Reading, interaction: InteractionRecorded, policy: Policy) -> Demand:
    """How much thinking the question calls for, as far as its surface and its facts tell."""
    if (
        interaction.complexity in ("complex", "expert")
        or (interaction.context.codebase_lines or 0) > policy.demanding_codebase_lines
    ):
        return "demanding"
    length = len(reading.question_words)
    signs = len(reading.given) >= 2 or not _CALLS_FOR_THINKING.isdisjoint(reading.question_words)
    if signs or length > policy.demanding_question_words:
        return "demanding"
    if interaction.complexity == "simple" or (interaction.complexity is None and 0 < length <= policy.simple_question_words):
        return "simple"
    return "unclear"


def mode_appropriateness(reading: Reading, asked: Demand, policy: Policy) -> Score:
    """Did thinking fit the question? Thinking wasted and thinking missing are different faults; brief thinking is neither."""
    if asked == "unclear":
        return _cannot_know("it is unclear how much thinking the question calls for")
    if not reading.steps:
        if asked == "demanding":
            return _score(0.3, "thinking is missing: the question is demanding")
        return _score(1.0, "a direct answer to a simple question")
    if asked == "demanding":
        return _score(1.0, "thinking about a demanding question")
    if reading.thinking_words <= policy.brief_thinking_words:
        return _score(0.9, "brief thinking about a simple question")
    value = max(0.2, 0.9 * policy.brief_thinking_words / reading.thinking_words)
    return _score(value, f"thinking is wasted: {reading.thinking_words} words about a simple question")


def _founded_operands(reading: Reading) -> tuple[int, int]:
    """Of the operands in the thinking's equations, those that the question or an earlier equation gave; and all."""
    founded = operands = 0
    seen = set(_COMMON_NUMBERS.union(*reading.given.values()))
    for equation in reading.equations:
        operands += len(equation.operands)
        founded += sum(operand in seen for operand in equation.operands)
        seen.add(equation.stated)
    return founded, operands


def _linked_steps(reading: Reading) -> tuple[int, int]:
    """Of the steps after the first, those that share a content word or a number with the question or an earlier step."""
    said: set[str | float] = set(reading.question_content)
    said.update(reading.question_numbers)
    linked = 0
    for at, (found, numbers) in enumerate(zip(reading.step_words, reading.step_numbers, strict=True)):
        holds: frozenset[str | float] = frozenset(content_words(found)) | numbers
        linked += at > 0 and not holds.isdisjoint(said)
        said |= holds
    return linked, len(reading.steps) - 1


def _follows(reading: Reading) -> tuple[float | None, str]:
    """How far the answer is found in the thinking, and where."""
    last = reading.steps[-2:]
    number = final_number(reading)
    if number is not None and len(reading.answer_words) <= 40:
        if any(number in found for found in reading.step_numbers[-2:]) or (
            reading.equations and reading.equations[-1].stated == number
        ):
            return 1.0, f"the number of the answer stands in the last {len(last)} steps"
        if any(number in found for found in reading.step_numbers):
            return 0.6, "the number of the answer stands in an earlier step"
        return 0.1, "the number of the answer is not in the thinking"
    said = content_words(reading.answer_words)
    key = said - set(reading.question_words) or said
    if not key:
        return None, "the answer has no words to look for"
    at_end = _share(key, reading.step_words[-2:])
    anywhere = _share(key, reading.step_words)
    # A long answer says more than its thinking ended with: half of its words are enough.
    scale = 1.0 if len(key) <= 8 else 2.0
    value = max(min(1.0, at_end * scale), min(0.6, anywhere * scale * 0.6), 0.1)
    return value, f"{at_end:.0%} of the answer's own words stand in the last {len(last)} steps, {anywhere:.0%} anywhere"


def _share(key: frozenset[str], steps: Iterable[tuple[str, ...]]) -> float:
    return len(key.intersection(frozenset[str]().union(*steps))) / len(key)
