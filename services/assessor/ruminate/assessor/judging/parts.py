"""The parts of a verdict: each a function of what was found, 0-1, or None where it cannot know; each says what it rests on.

These are surface signals: they find what is broken or unfounded, and they see that an answer follows from its thinking.
They do not understand. What none of them can see is left out of `overall`, and `evidence_ratio` says so.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from ruminate.assessor.finding.blocks import Blocks
from ruminate.assessor.finding.reading import Reading
from ruminate.assessor.finding.structure import Structure
from ruminate.assessor.finding.trail import Trail
from ruminate.assessor.judging.knowledge import Knowledge
from ruminate.assessor.policy import Policy
from ruminate.grading.finding.marks import final_number
from ruminate.grading.finding.wording import FUNCTION_WORDS, content_words
from ruminate.schemas.assessment import Score
from ruminate.schemas.interaction import InteractionRecorded

Demand = Literal["simple", "demanding", "unclear"]

_DECLINED = re.compile(
    r"\W{0,5}(?:i['’]?m sorry|i am sorry|sorry|i can(?:not|['’]t)|i(?:['’]m| am) (?:unable|not able)|as an ai\b|i don['’]?t know"
    r"|unable to)",
    re.IGNORECASE,
)
_THINK = """analyze analyse explain why prove derive compare debug design architecture calculate compute optimize optimise plan
evaluate refactor"""
_CALLS_FOR_THINKING = frozenset(_THINK.split())

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


def answer_quality(reading: Reading, knowledge: Knowledge, blocks: Blocks, interaction: InteractionRecorded) -> Score:
    """Was the answer right? The reference decides, else what was reported; faults of the surface only ever lower it."""
    if not reading.answer:
        return _cannot_know("the answer is a tool call") if interaction.response.tool_calls else _score(0.0, "the answer is empty")
    value, evidence = _rightness(knowledge)
    right = knowledge.sure == "right"
    for fault, most, said in (
        (reading.answer_repeats, 0.1, "the answer repeats itself"),
        (truncated(interaction), 0.3, "the answer was cut off"),
        (declines(reading.answer) and not right, 0.2, "the answer declines"),
        (bool(blocks.broken), 0.3, f"{len(blocks.broken)} of {blocks.checked} code blocks do not parse"),
    ):
        if fault:
            value = most if value is None else min(value, most)
            evidence = (*evidence, said)
    return Score(value=value, evidence=evidence)


def _rightness(knowledge: Knowledge) -> tuple[float | None, tuple[str, ...]]:
    comparison = knowledge.comparison
    if comparison is not None and knowledge.sure != "undecided":
        return float(comparison.result == "right"), (f"{comparison.result} by {comparison.how}",)
    if comparison is not None and knowledge.decided and len(knowledge.said()) == 1:
        return None, (f"{comparison.result} by {comparison.how}, which is no evidence of what is in it",)
    unknown = "no reference is known" if comparison is None else f"the {comparison.by} does not decide: {comparison.how}"
    said = knowledge.said()
    if not said:
        return None, (unknown, "no outcome was reported")
    logit = knowledge.logit()
    return (0.8 if logit > 0 else 0.0 if logit <= _FAILED else 0.3), (unknown, *said)


_FAILED = -2.5
"""Log-odds from which an answer counts as failed: one clear complaint."""


def logical_coherence(reading: Reading, trail: Trail, structure: Structure) -> Score:
    """Does the thinking hold together? Recomputed arithmetic, steps that go on from what was said before, no contradiction.

    One wrong equation spoils what follows it, so the share of right ones counts squared. Without arithmetic it takes
    three steps to see a thread.
    """
    if not reading.steps:
        return NO_THINKING
    if reading.thinking_repeats:
        return _score(0.1, "the thinking repeats itself")
    linked, linkable = _linked_steps(reading)
    evidence: list[str] = []
    value: float | None = None
    if trail.results:
        value = ((trail.results - trail.wrong) / trail.results) ** 2
        evidence.append(f"{trail.results - trail.wrong} of {trail.results} equations hold")
    if linkable >= 2 or (linkable and value is not None):
        thread = linked / linkable
        value = thread if value is None else 0.7 * value + 0.3 * thread
        evidence.append(f"{linked} of {linkable} steps go on from something said before")
    if structure.contradictions:
        value = (1.0 if value is None else value) * 0.5**structure.contradictions
        evidence.append(f"{structure.contradictions} statements contradict another one")
    if value is None:
        return _cannot_know("no arithmetic to recompute, and too few steps to see a thread")
    return _score(value, *evidence)


def problem_decomposition(reading: Reading, trail: Trail) -> Score:
    """Was the problem taken apart? Steps against the facts that the question gives, and results that later steps use."""
    if not reading.steps:
        return NO_THINKING
    needed = min(8, trail.given - 1)
    if needed < 1:
        return _cannot_know("the question gives too few facts to tell how many steps it needs")
    taken = max(trail.results, len(reading.steps))
    enough = min(1.0, taken / needed)
    evidence = f"{taken} steps for {needed + 1} given numbers"
    if trail.results < 2:
        return _score(enough, evidence)
    results = trail.results - 1
    used = results - trail.unused_results
    return _score(0.6 * enough + 0.4 * used / results, evidence, f"{used} of {results} results are used later")


def evidence_usage(reading: Reading, trail: Trail, blocks: Blocks) -> Score:
    """Does the thinking rest on what was given? Facts that are used, operands that come from somewhere, words that were said."""
    if not reading.steps:
        return NO_THINKING
    values: list[float] = []
    evidence: list[str] = []
    if trail.given:
        used = trail.given - trail.unused_given
        values.append(min(1.0, used / trail.given * 1.25))  # one in five may be beside the point
        evidence.append(f"{used} of {trail.given} given numbers are used")
    names = reading.question_names or reading.question_content
    if names and not trail.given:
        used = len(names & reading.said_words)
        values.append(used / len(names))
        evidence.append(f"{used} of {len(names)} {'names' if reading.question_names else 'words'} of the question are used")
    if trail.operands and trail.given:
        values.append(trail.founded / trail.operands)
        evidence.append(f"{trail.founded} of {trail.operands} operands come from the question or an earlier result")
    if blocks.quoted:
        values.append(1 - blocks.misquoted / blocks.quoted)
        evidence.append(f"{blocks.quoted - blocks.misquoted} of {blocks.quoted} quotations stand in the context")
    if not values:
        return _cannot_know("the question gives neither numbers nor names")
    return _score(sum(values) / len(values), *evidence)


def conclusion_validity(reading: Reading, knowledge: Knowledge) -> Score:
    """Does the answer follow from the thinking, whose last steps hold its number or its words, and is it not known to be wrong?"""
    if not reading.steps:
        return NO_THINKING
    if not reading.answer:
        return _cannot_know("there is no answer to follow from the thinking")
    value, evidence = _follows(reading)
    if value is None:
        return _cannot_know(evidence)
    comparison = knowledge.comparison
    if comparison is not None and comparison.result == "wrong":
        reached = comparison.expected is not None and comparison.expected in reading.step_numbers[-1]
        return _score(0.0 if reached else min(value, 0.3), evidence, "the reference contradicts the conclusion")
    if not knowledge.decided and knowledge.logit() <= _FAILED:
        return _score(min(value, 0.3), evidence, *knowledge.said())
    return _score(value, evidence)


def step_by_step_clarity(reading: Reading, structure: Structure) -> Score:
    """Can the steps be followed? Steps of readable length, none said twice, the last one finished, in the question's language."""
    if not reading.steps:
        return NO_THINKING
    total = len(reading.steps)
    readable = sum(2 <= len(found) <= 60 for found in reading.step_words)
    again = structure.said_again
    value = readable / total * (1 - again / total) * (0.6 if structure.unfinished else 1.0) * (1 - structure.foreign_ratio)
    evidence = [f"{readable} of {total} steps have 2 to 60 words"]
    if again:
        evidence.append(f"{again} steps are said again")
    if structure.unfinished:
        evidence.append("the last step is unfinished")
    if structure.foreign_ratio:
        evidence.append(f"{structure.foreign_ratio:.0%} of the letters are of another script than the question's")
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


class ModeFit(NamedTuple):
    """Whether thinking fitted the question, and which of the two faults it is where it did not."""

    score: Score
    fault: Literal["wasted", "missing"] | None = None


def mode_appropriateness(
    reading: Reading, asked: Demand, knowledge: Knowledge, interaction: InteractionRecorded, policy: Policy
) -> ModeFit:
    """Did thinking fit the question? Thinking wasted and thinking missing are different faults; brief thinking is neither.

    Where the answer is known, it tells more than the surface: what was right without thinking needed none, and what was wrong
    without it, or with little effort, needed more.
    """
    result = knowledge.sure
    if not reading.steps:
        return _without_thinking(asked, result)
    if asked == "unclear":
        return ModeFit(_cannot_know("it is unclear how much thinking the question calls for"))
    effort = interaction.thinking.effort_used
    if asked == "demanding":
        if result == "wrong" and effort == "low":
            return ModeFit(_score(0.4, "thinking with low effort about a demanding question, and wrong"), "missing")
        return ModeFit(_score(1.0, "thinking about a demanding question"))
    return _about_a_simple_question(reading, effort, interaction.usage.total_seconds or 0.0, policy)


def _without_thinking(asked: Demand, result: str) -> ModeFit:
    if asked == "demanding" and result == "right":
        return ModeFit(_score(0.6, "a demanding question was answered directly, and right"))
    if asked == "demanding":
        value = 0.1 if result == "wrong" else 0.3
        return ModeFit(_score(value, "thinking is missing: the question is demanding"), "missing")
    if result == "wrong":
        return ModeFit(_score(0.3, "thinking is missing: the direct answer is wrong"), "missing")
    if asked == "unclear":
        return ModeFit(_cannot_know("it is unclear how much thinking the question calls for"))
    return ModeFit(_score(1.0, "a direct answer to a simple question"))


def _about_a_simple_question(reading: Reading, effort: str | None, seconds: float, policy: Policy) -> ModeFit:
    strained = effort in ("high", "max")
    if reading.thinking_words <= policy.brief_thinking_words and not strained:
        return ModeFit(_score(0.9, "brief thinking about a simple question"))
    value = min(0.9, 0.9 * policy.brief_thinking_words / reading.thinking_words) if reading.thinking_words else 0.9
    evidence = f"thinking is wasted: {reading.thinking_words} words about a simple question"
    if strained:
        value, evidence = min(value, 0.7), f"{evidence}, with {effort} effort"
    if seconds > policy.patience_seconds:
        value, evidence = value * 0.8, f"{evidence}, in {seconds:.0f} s"
    return ModeFit(_score(max(0.2, value), evidence), "wasted" if value < _WASTED_BELOW else None)


_WASTED_BELOW = 0.5


def _linked_steps(reading: Reading) -> tuple[int, int]:
    """Of the steps after the first, those that share a content word or a number with the question or an earlier step."""
    said, said_numbers = set(reading.question_words), set(reading.question_numbers)
    said -= FUNCTION_WORDS
    linked = 0
    for at, (found, numbers) in enumerate(zip(reading.step_words, reading.step_numbers, strict=True)):
        linked += at > 0 and not (numbers.isdisjoint(said_numbers) and said.isdisjoint(found))
        said.update(content_words(found))
        said_numbers |= numbers
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
        if number in reading.said_numbers:
            return 0.6, "the number of the answer stands in an earlier step"
        return 0.1, "the number of the answer is not in the thinking"
    said = content_words(reading.answer_words)
    key = said - set(reading.question_words) or said
    if not key:
        return None, "the answer has no words to look for"
    at_end = _share(key, frozenset[str]().union(*reading.step_words[-2:]))
    anywhere = _share(key, reading.said_words)
    # A long answer says more than its thinking ended with: half of its words are enough.
    scale = 1.0 if len(key) <= 8 else 2.0
    value = max(min(1.0, at_end * scale), min(0.6, anywhere * scale * 0.6), 0.1)
    return value, f"{at_end:.0%} of the answer's own words stand in the last {len(last)} steps, {anywhere:.0%} anywhere"


def _share(key: frozenset[str], said: frozenset[str]) -> float:
    return len(key & said) / len(key)
