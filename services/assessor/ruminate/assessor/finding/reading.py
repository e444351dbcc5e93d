"""Reading: what a text holds, taken out once, before anything is judged.

Everything here is linear in the length of the text, and knows no question of right or wrong.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from ruminate.assessor.finding.arithmetic import Equation, equations
from ruminate.grading.finding.wording import (
    NUMBER_WORDS,
    both_ends,
    content_words,
    numbers,
    numbers_of_each,
    words,
    words_of_each,
)
from ruminate.schemas.interaction import InteractionRecorded

_STEP_ENDS = ("! ", "? ", "\n", "。", "！", "？")
_NAME_IN_SENTENCE = re.compile(r"[A-Z](?<=[\w,;:] [A-Z])[\w'’-]{1,40}")
_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]")


@dataclass(frozen=True, slots=True)
class Reading:
    """A question, its thinking and its answer, taken apart.

    `given` holds the distinct numbers of the question, in digits and in words, each with the values by which a
    computation may use it.
    """

    question: str
    thinking: str
    answer: str
    question_words: tuple[str, ...]
    question_numbers: tuple[float, ...]
    given: dict[str, tuple[float, ...]]
    question_names: frozenset[str]
    steps: tuple[str, ...]
    step_words: tuple[tuple[str, ...], ...]
    step_numbers: tuple[frozenset[float], ...]
    said_words: frozenset[str]
    """Of all steps."""
    said_numbers: frozenset[float]
    thinking_words: int
    thinking_repeats: bool
    equations: tuple[Equation, ...]
    answer_words: tuple[str, ...]
    answer_numbers: tuple[float, ...]
    answer_repeats: bool
    examined_ratio: float

    @property
    def question_content(self) -> frozenset[str]:
        """The words of the question that carry content."""
        return content_words(self.question_words)


def read(interaction: InteractionRecorded, *, most_characters: int) -> Reading:
    """Take an interaction apart. Of a text over `most_characters`, both ends are read; `examined_ratio` says how much."""
    asked = next((message.content for message in reversed(interaction.messages) if message.role == "user"), "")
    whole = (asked, (interaction.response.thinking or "").strip(), interaction.response.content.strip())
    question, thinking, answer = (both_ends(text, most_characters) for text in whole)
    length = sum(map(len, whole))
    steps = tuple(step for piece in _sentences(thinking) if (step := piece.strip()) and any(map(str.isalnum, step)))
    step_words, step_numbers = words_of_each(steps), numbers_of_each(steps)  # no step holds a line end
    question_words, question_numbers = words(question), numbers(question)
    return Reading(
        question=question,
        thinking=thinking,
        answer=answer,
        question_words=question_words,
        question_numbers=question_numbers,
        given={f"{number:g}": _forms(number) for number in question_numbers}
        | {word: NUMBER_WORDS[word] for word in question_words if word in NUMBER_WORDS and word not in ("one", "once")},
        question_names=frozenset(name.lower() for name in _NAME_IN_SENTENCE.findall(question)),
        steps=steps,
        step_words=step_words,
        step_numbers=step_numbers,
        said_words=frozenset[str]().union(*step_words),
        said_numbers=frozenset[float]().union(*step_numbers),
        thinking_words=sum(map(len, step_words)),
        thinking_repeats=repeats_itself(thinking),
        equations=equations(thinking),
        answer_words=words(answer),
        answer_numbers=numbers(answer),
        answer_repeats=repeats_itself(answer),
        examined_ratio=(len(question) + len(thinking) + len(answer)) / length if length else 1.0,
    )


def _forms(number: float) -> tuple[float, ...]:
    """A number; where it may be a percentage, the factor it stands for and what it leaves."""
    return (number, number / 100, 1 - number / 100, 100 - number) if 0 < number <= 100 else (number,)


def _sentences(text: str) -> list[str]:
    for end in _STEP_ENDS:
        text = text.replace(end, ". ")
    return text.split(". ")


def control_characters(text: str) -> int:
    """Characters that no readable text holds: control codes other than tab and line ends, and the replacement character."""
    return len(_NOT_TEXT.findall(text))


def repeats_itself(text: str) -> bool:
    """Whether the text, or the end of a long one, packs to under an eighth: prose packs to about a half."""
    return _packs(text) or (len(text) > 3_000 and _packs(text[-1_500:]))


def _packs(text: str) -> bool:
    encoded = text.encode()
    # An empty text packs to 8 bytes, which must not speak for a short one.
    return len(zlib.compress(encoded, 1)) < 12 + len(encoded) / 8 if len(encoded) >= 30 else False


def mostly_symbols(text: str, found: Iterable[str]) -> bool:
    """Whether the words found in a text, with its spaces, are less than a quarter of it."""
    return len(text) >= 20 and sum(map(len, found)) + text.count(" ") < len(text) / 4
