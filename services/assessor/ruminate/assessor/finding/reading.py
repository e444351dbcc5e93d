"""Reading: what a text holds, taken out once, before anything is judged.

Everything here is linear in the length of the text, and knows no question of right or wrong.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ruminate.assessor.finding.arithmetic import Equation, equations
from ruminate.schemas.interaction import InteractionRecorded

_WORD = re.compile(r"\w+")
# The same of ASCII: small letters, digits and underscores as they are, capitals small, and all else but line ends a space.
_ASCII_WORDS: Final = "".join(
    sign.lower() if sign == "\n" or _WORD.match(sign) else " " for sign in map(chr, range(128))
).ljust(256).encode()  # fmt: skip
# Patterns begin with what is rare in prose, so that the engine skips to it; none can backtrack over a long run.
_NUMBER = re.compile(r"\d(?<!\w\d)(?:\d{0,2}(?:,\d{3})+|\d{0,17})(?:\.\d{1,18})?(?!\d)")
_SIGNED_NUMBER = re.compile(r"[.\-−](?<![^\W_].)\d")
_STEP_ENDS = ("! ", "? ", "\n", "。", "！", "？")
_NAME_IN_SENTENCE = re.compile(r"[A-Z](?<=[\w,;:] [A-Z])[\w'’-]{1,40}")
_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]")

_TO_TWENTY = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty"""
NUMBER_WORDS: Final[dict[str, tuple[float, ...]]] = {word: (float(value),) for value, word in enumerate(_TO_TWENTY.split())} | {
    "thirty": (30.0,), "forty": (40.0,), "fifty": (50.0,), "sixty": (60.0,), "seventy": (70.0,), "eighty": (80.0,),
    "ninety": (90.0,), "hundred": (100.0,), "thousand": (1000.0,), "dozen": (12.0,), "once": (1.0,), "twice": (2.0,),
    "double": (2.0,), "thrice": (3.0,), "triple": (3.0,), "half": (0.5, 2.0), "third": (1 / 3, 3.0), "quarter": (0.25, 4.0),
}  # fmt: skip
"""Number words, with the numbers by which a computation may use them: half is a factor 0.5 or a divisor 2."""

_FUNCTION_WORDS = """a an the and or but if then so of to in on at by for from with as is are was were be been being do does did
has have had it its this that these those there here he she they we you i him her them his their our your my me us what which who
whom whose when where how why will would can could should shall may might must not no yes than too very just also into over under
about each every all any some much many more most other such only own same am s t ll re ve d m"""
FUNCTION_WORDS: Final = frozenset(_FUNCTION_WORDS.split())
"""Words that carry no content of their own."""


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
    question, thinking, answer = (_both_ends(text, most_characters) for text in whole)
    length = sum(map(len, whole))
    steps = tuple(step for piece in _sentences(thinking) if (step := piece.strip()) and any(map(str.isalnum, step)))
    step_words, step_numbers = _words_of_each(steps), _numbers_of_each(steps)
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
        said_numbers=_NO_NUMBERS.union(*step_numbers),
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


def _both_ends(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most // 2] + "\n" + text[-(most // 2) :]


def _sentences(text: str) -> list[str]:
    for end in _STEP_ENDS:
        text = text.replace(end, ". ")
    return text.split(". ")


def words(text: str) -> tuple[str, ...]:
    """The words of a text, in lower case."""
    if text.isascii():  # by table, at a fifth of the cost
        return tuple(text.encode().translate(_ASCII_WORDS).decode().split())
    return tuple(_WORD.findall(text.lower()))


def _words_of_each(steps: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    joined = "\n".join(steps)  # no step holds a line end
    if not steps or not joined.isascii():
        return tuple(map(words, steps))
    return tuple([tuple(line.split()) for line in joined.encode().translate(_ASCII_WORDS).decode().split("\n")])


def content_words(found: Iterable[str]) -> frozenset[str]:
    """Those words that carry content."""
    return frozenset(found) - FUNCTION_WORDS


def numbers(text: str) -> tuple[float, ...]:
    """The numbers written in digits, in order: `1,200.50` is one, `-3` is negative where it is no difference."""
    if _SIGNED_NUMBER.search(text) is None:
        return tuple([float(digits.replace(",", "")) for digits in _NUMBER.findall(text)])
    found: list[float] = []
    for match in _NUMBER.finditer(text):
        digits, start = match[0], match.start()
        value = float(digits.replace(",", ""))
        if start and (before := text[start - 1]) in ".-−":
            value = _signed(text, start, digits, value, before)
        found.append(value)
    return tuple(found)


_NO_NUMBERS: Final = frozenset[float]()


def _numbers_of_each(steps: tuple[str, ...]) -> tuple[frozenset[float], ...]:
    joined = "\n".join(steps)
    if _SIGNED_NUMBER.search(joined) is not None:
        return tuple([frozenset(numbers(step)) for step in steps])
    if "," in joined:
        return tuple([frozenset([float(digits.replace(",", "")) for digits in _NUMBER.findall(step)]) for step in steps])
    return tuple([frozenset(map(float, found)) if (found := _NUMBER.findall(step)) else _NO_NUMBERS for step in steps])


def _signed(text: str, start: int, digits: str, value: float, before: str) -> float:
    follows_word = start > 1 and text[start - 2].isalnum()
    if before == ".":  # .5
        return value if follows_word else value / 10 ** len(digits.partition(".")[0])
    return value if follows_word else -value


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
