"""Proofreading: what speaks against thinking that was written for an answer after the fact. Pure.

Whoever knows an answer can always write something that ends in it. So the thinking is put in its place and judged like any other,
by itself, without what is known of the answer; where the judging of captured thinking doubts, this refuses, because nobody needs
the row. Numbers have to come from the question or from a computation, the answer from the last one. It must say something of its
own, and it must not know the answer before it has found it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ruminate.assessor.evidence.agreement import says_a_number
from ruminate.assessor.finding.arithmetic import equations
from ruminate.assessor.finding.findings import Findings, find
from ruminate.assessor.finding.reading import Reading
from ruminate.assessor.finding.trail import COMMON_NUMBERS
from ruminate.assessor.judging.decide import untaught, weigh
from ruminate.assessor.judging.knowledge import Knowledge
from ruminate.assessor.policy import Policy
from ruminate.grading.finding.marks import marked_answer
from ruminate.grading.finding.wording import FUNCTION_WORDS, NUMBER_WORDS, content_words
from ruminate.schemas.assessment import Verdict
from ruminate.schemas.interaction import InteractionRecorded, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Standards:
    """What written thinking has to come up to."""

    least_words: int = 12
    most_words: int = 2_000
    quality_at_least: float = 0.65
    """The overall score of question, thinking and answer, from what can be read in them alone."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An interaction with thinking in the place where it had none, read and judged without what is known of its answer."""

    interaction: InteractionRecorded
    found: Findings
    verdict: Verdict

    @property
    def thinking(self) -> str:
        return self.found.reading.thinking


def draft_of(interaction: InteractionRecorded, thinking: str, policy: Policy) -> Draft:
    """The interaction as it would be if the model had thought this."""
    changed = {
        "response": interaction.response.model_copy(update={"thinking": unicodedata.normalize("NFC", thinking).strip()}),
        "thinking": interaction.thinking.model_copy(update={"mode_used": "thinking", "effort_used": None}),
        "usage": Usage(),
    }
    drafted = interaction.model_copy(update=changed)
    found = find(drafted, most_characters=policy.most_characters)
    verdict, _ = weigh(drafted, found, Knowledge(), policy, untaught(policy))
    return Draft(drafted, found, verdict)


def faults_of(draft: Draft, standards: Standards, *, cut_off: bool = False) -> tuple[str, ...]:
    """Why it is no thinking that leads to the answer; nothing where it is. A constant word, then a sentence without contents."""
    reading = draft.found.reading
    length, steps = len(_words(reading.thinking)), len(reading.steps)
    if reading.examined_ratio < 1 or length > standards.most_words:
        return (f"too_long: {length} words; at most {standards.most_words} are taken",)
    if length < standards.least_words or steps < _LEAST_STEPS:
        return (f"too_short: {length} words in {steps} steps; at least {standards.least_words} in {_LEAST_STEPS} are taken",)
    return (
        *_broken(draft, cut_off=cut_off),
        *_unfounded(draft.found),
        *_does_not_follow(draft),
        *_copied(draft.found),
        *_knows_beforehand(draft.found),
        *_falls_short(draft, standards),
    )


_LEAST_STEPS: Final = 2


def _words(text: str) -> list[str]:
    """The words of a text, in lower case; of scripts that put no spaces between them, the characters."""
    return _WORD.findall(text.lower())


_SPACELESS: Final = "\u3040-\u30ff\u3400-\u9fff"
_WORD: Final = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+")


def _broken(draft: Draft, *, cut_off: bool) -> Iterator[str]:
    """What any thinking is refused for, and markup that would end the thinking when it is taught."""
    found = draft.found
    reading, structure = found.reading, found.structure
    if cut_off or structure.unfinished or reading.step_words[-1][-1:] in _HANGING:
        yield "truncated: the thinking does not come to its end"
    if found.trail.wrong:
        yield f"wrong_arithmetic: {found.trail.wrong} of {found.trail.results} equations do not hold"
    if structure.contradictions:
        yield f"contradiction: {structure.contradictions} statements contradict another one"
    if structure.said_again or reading.thinking_repeats:
        yield f"loop: {structure.said_again} steps are said again"
    if structure.foreign_ratio > _MOST_FOREIGN or _another_language(found):
        yield "another_language: the thinking is not in the language of the question"
    if _MARKUP.search(reading.thinking):
        yield "markup: the thinking holds tags by which programs know where thinking ends"
    if _made_up_address(draft):
        yield "made_up_address: the thinking names an address that nobody gave"
    words_of_faults = {reason.partition(":")[0] for reason in draft.verdict.reasons} & _FAULTS
    yield from (f"{word}: a fault that rules out captured thinking, too" for word in sorted(words_of_faults))


_GOES_ON = "on at by from as than was were has have had be every each his her their our my your"
_HANGING: Final = frozenset((word,) for word in _GOES_ON.split())
"""Words after which a sentence goes on, beside those that structure.py knows."""


def _made_up_address(draft: Draft) -> bool:
    """Addresses of the question are placeholders, or were left as they are: others are made up, and may be somebody's."""
    named = [word for word in draft.thinking.split() if _ADDRESS.search(word)]
    said = "\n".join((*(message.content for message in draft.interaction.messages), draft.interaction.response.content))
    return any(word.strip(".,;:!?()[]<>\"'") not in said for word in named)


_MOST_FOREIGN: Final = 0.1
_FAULTS: Final = frozenset({"control_characters", "unreadable", "broken_code"})
"""Reasons for rejection that no other line here looks for."""
_MARKUP: Final = re.compile(r"</?think|<\|[a-z_]{2,20}\|>|</?tool_", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"[^\s@]@[^\s@]{1,60}\.[a-z]|://", re.IGNORECASE)


def _another_language(found: Findings) -> bool:
    """Whether one of question and thinking is full of English function words, and the other has next to none.

    Scripts are told apart elsewhere; of languages in one script this tells English from all others, no more.
    """
    reading = found.reading
    asked, thought = _english(reading.question_words), _english([word for step in reading.step_words for word in step])
    if asked is None or thought is None:
        return False
    return (asked >= _ENGLISH and thought <= _NOT_ENGLISH) or (thought >= _ENGLISH and asked <= _NOT_ENGLISH)


def _english(found: Sequence[str]) -> float | None:
    spelled = [word for word in found if word.isalpha()]
    if len(spelled) < _ENOUGH_WORDS:
        return None
    return sum(word in FUNCTION_WORDS for word in spelled) / len(spelled)


_ENGLISH, _NOT_ENGLISH = 0.25, 0.08
_ENOUGH_WORDS: Final = 12


def _unfounded(found: Findings) -> Iterator[str]:
    """Numbers from nowhere, results that lead nowhere: another question's thinking, or one that is bent towards its end."""
    trail = found.trail
    made_up = found.structure.unfounded_numbers + sum(1 for _ in _from_nowhere(found.reading))
    if made_up:
        yield f"unfounded: {made_up} numbers come neither from the question nor from a computation"
    if trail.unused_results:
        yield f"led_nowhere: {trail.unused_results} results are not used"
    if trail.unused_given > trail.given * _MOST_UNUSED:
        yield f"given_unused: {trail.unused_given} of {trail.given} numbers of the question are not used"


def _from_nowhere(reading: Reading) -> Iterator[float]:
    """Operands that nobody gave, no earlier equation found, and no calendar, coin or measure is."""
    seen = set(_KNOWN.union(*reading.given.values()))
    for equation in reading.equations:
        yield from (operand for operand in equation.operands if operand not in seen)
        seen.add(equation.stated)


_KNOWN: Final = COMMON_NUMBERS | {0.05, 0.1, 0.25, 5.0, 8.0, 16.0, 20.0, 25.0, 28.0, 36.0, 48.0}
"""Beside those of trail.py: coins, working days and hours, ounces, inches, February."""
_MOST_UNUSED: Final = 0.4


def _does_not_follow(draft: Draft) -> Iterator[str]:
    found, trail = draft.found, draft.found.trail
    if says_a_number(found):
        # What is computed has to be the answer: a number that is merely named behind another result is tacked on. And nothing
        # may be named after it: the last step with a number in it holds the answer.
        last = next((numbers for numbers in reversed(found.reading.step_numbers) if numbers), frozenset[float]())
        if trail.conclusion != ("last result" if trail.results else "last number") or found.final not in last:
            yield "does_not_follow: the number of the answer is not what the thinking comes to"
        return
    conclusion = draft.verdict.reasoning_quality.conclusion_validity.value
    if conclusion is None or conclusion < _LEAST_CONCLUSION:
        yield "does_not_follow: the words of the answer are not what the thinking comes to"


_LEAST_CONCLUSION: Final = 0.9


def _copied(found: Findings) -> Iterator[str]:
    """How much of the thinking are runs of words of the answer, and of the question: what is left is its own."""
    reading = found.reading
    runs = _runs(reading.thinking)
    if not runs:
        return
    in_answer, in_question = runs & _runs(reading.answer), runs & _runs(reading.question)
    if len(in_answer) > len(runs) * _MOST_OF_ANSWER:
        yield f"copied_answer: {len(in_answer) / len(runs):.0%} of the thinking are the answer's words"
    if len(in_question) > len(runs) * _MOST_OF_QUESTION:
        yield f"copied_question: {len(in_question) / len(runs):.0%} of the thinking are the question's words"
    elif len(in_answer | in_question) > len(runs) * _MOST_OF_BOTH:
        yield f"restates: {len(in_answer | in_question) / len(runs):.0%} of the thinking are words of the question and the answer"


_RUN: Final = 3
_MOST_OF_ANSWER, _MOST_OF_QUESTION, _MOST_OF_BOTH = 0.6, 0.5, 0.7


def _runs(text: str) -> set[tuple[str, ...]]:
    found = _words(text)
    return {tuple(found[at : at + _RUN]) for at in range(len(found) - _RUN + 1)}


def _knows_beforehand(found: Findings) -> Iterator[str]:
    """The answer stands there before anything has led to it, or is spoken of as given."""
    reading, final = found.reading, found.final
    if says_a_number(found) and final is not None:
        given = final in reading.question_numbers or any(final in NUMBER_WORDS.get(word, ()) for word in reading.question_words)
        derived = any(equation.stated == final for equation in reading.equations)
        first = next((at for at, numbers in enumerate(reading.step_numbers) if final in numbers), None)
        foretold = first is not None and not given and not _computes(reading.steps[first], final) and (derived or first == 0)
        if foretold or (first == 0 and marked_answer(reading.steps[0]) is not None):
            yield "known_beforehand: the answer is stated before it is computed"
    elif not says_a_number(found):
        key = content_words(reading.answer_words) - set(reading.question_words)
        if key and key <= set(reading.step_words[0]):
            yield "known_beforehand: the first step states the answer"
    if _GIVEN.search(reading.thinking) and not _GIVEN.search(reading.question):
        yield "speaks_of_the_answer: the thinking says that the answer was given to it"


def _computes(step: str, result: float) -> bool:
    return any(equation.stated == result for equation in equations(step))


_GIVEN: Final = re.compile(
    r"\b(?:given|provided|expected|known|reference) (?:final |correct )?(?:answer|solution)\b"
    r"|\b(?:answer|solution) (?:that )?(?:was |is |has been )?(?:already )?(?:given|provided|known|supplied)\b"
    r"|\b(?:vor)?(?:gegebene|bekannte|angegebene)[nrs]? (?:Antwort|Lösung)"
    r"|\bréponse (?:donnée|fournie|connue)\b|\brespuesta (?:dada|proporcionada|conocida)\b"
    r"|\brisposta (?:data|fornita|nota)\b|\bresposta (?:dada|fornecida|conhecida)\b"
    r"|(?:给定|提供|已知|给出)的?答案|答案(?:是)?(?:已知|给定)|与え?られた(?:答え|解答)"
    r"|(?:данн|известн|предоставленн)\w{1,4} ответ",
    re.IGNORECASE,
)
"""Thinking that tells of its task. What is not worded like this is found by where the answer stands."""


def _falls_short(draft: Draft, standards: Standards) -> Iterator[str]:
    overall = draft.verdict.overall.value
    if overall is None or overall < standards.quality_at_least:
        said = "nothing can be judged" if overall is None else f"overall {overall:.2f}"
        yield f"low_quality: {said}; at least {standards.quality_at_least:.2f} is taken"
