"""Structure: how the thinking is built, whatever it is about: said again, contradicted, left open, beside the question."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from ruminate.assessor.finding.reading import Reading
from ruminate.assessor.finding.trail import COMMON_NUMBERS
from ruminate.grading.finding.wording import FUNCTION_WORDS, content_words, words

_NEGATIONS: Final = frozenset({"not", "never", "cannot", "isn", "aren", "wasn", "weren", "doesn", "don", "didn", "no"})
_DENIED_NUMBER = re.compile(r"\bnot (?:the )?[$€£]?(\d[\d,]{0,14}(?:\.\d{1,9})?)(?![\d%])")
_HEDGES = re.compile(
    r"\b(?:maybe|perhaps|probably|possibly|i guess|i think|not sure|unclear|might be|i assume|let's assume)\b", re.IGNORECASE
)
_OPEN_ENDED = "and or but so because the a an of to in with for is are that which if then therefore thus"
_DANGLING: Final = frozenset(_OPEN_ENDED.split())
_HEDGING: Final = (
    "maybe", "perhaps", "probably", "possibly", "i guess", "i think", "not sure", "unclear", "might be", "assume",
)  # fmt: skip
"""One of these stands in whatever hedges: to look for them all costs a tenth of looking for words."""
_OTHER_CASES: Final = "ıİſK"
"""What counts as an i, s or k where case does not, and has no such letter in lower case."""
_LONGEST_QUESTION: Final = 400
_LETTER_OF_ANOTHER_ALPHABET = re.compile(r"[^\x00-\u024f\W\d_]")
_LEAST_WORDS = 2
"""Words of content that a statement needs before another one can contradict it."""


@dataclass(frozen=True, slots=True)
class Structure:
    """What can be seen of the thinking's shape; counts, and `asked` a share or None where nothing was asked in words."""

    said_again: int
    contradictions: int
    unfounded_numbers: int
    unfinished: bool
    hedges: int
    asked: float | None
    foreign_ratio: float
    """Share of the letters of thinking and answer in scripts that the question does not use."""


def look_at(reading: Reading) -> Structure:
    """Look at the shape of the thinking and of the answer."""
    last = reading.step_words[-1] if reading.steps else ()
    dangling = bool(last) and last[-1] in _DANGLING
    return Structure(
        said_again=len(reading.steps) - len(set(reading.steps)),
        contradictions=_contradictions(reading),
        unfounded_numbers=_unfounded_numbers(reading),
        unfinished=dangling or reading.thinking.endswith((",", "=", "+", "-", "*", "/", "(", ":")),
        hedges=_hedges(reading.thinking),
        asked=_asked(reading),
        foreign_ratio=_foreign_ratio(reading),
    )


def _hedges(text: str) -> int:
    may_hold = any(map(text.lower().__contains__, _HEDGING)) or any(map(text.__contains__, _OTHER_CASES))
    return len(_HEDGES.findall(text)) if may_hold else 0


def _contradictions(reading: Reading) -> int:
    """Statements that say the same of another number, that deny an earlier one, or that deny a number which was found."""
    found = 0
    stated: dict[tuple[frozenset[str], tuple[str, ...]], tuple[str, bool]] = {}
    results = {equation.stated for equation in reading.equations}
    for step, step_words in zip(reading.steps, reading.step_words, strict=True):
        if " not " in step and any(float(number.replace(",", "")) in results for number in _DENIED_NUMBER.findall(step)):
            found += 1
            continue
        if "=" in step:  # an equation is recomputed elsewhere
            continue
        digits = tuple(word for word in step_words if word.isdecimal())
        content = frozenset(word for word in step_words if not word.isdecimal()) - FUNCTION_WORDS - _NEGATIONS
        if len(content) < _LEAST_WORDS:
            continue
        denied = not _NEGATIONS.isdisjoint(step_words)
        last, before = (digits[-1], digits[:-1]) if digits else ("", ())
        known = stated.setdefault((content, before), (last, denied))
        if known != (last, denied) and (known[0] == last) != (known[1] == denied):
            found += 1
    return found


def _unfounded_numbers(reading: Reading) -> int:
    """Numbers that the steps state outside of equations, and that come neither from the question nor from a computation."""
    known = set(COMMON_NUMBERS.union(*reading.given.values()))
    for equation in reading.equations:
        known.add(equation.stated)
        known.update(equation.operands)
    # What counts the steps is no statement.
    return len([number for number in reading.said_numbers - known if not 0 <= number <= len(reading.steps)])


def _asked(reading: Reading) -> float | None:
    """How much of the words that were asked for comes back in the last steps or in the answer."""
    asked = _last_question(reading.question)
    if not asked or not (reading.steps or reading.answer):
        return None
    wanted = content_words(word for word in words(asked) if not word.isdecimal())
    if not wanted:
        return None
    said = set(reading.answer_words).union(*reading.step_words[-2:])
    return sum(_stem(word) in said or word in said or f"{word}s" in said for word in wanted) / len(wanted)


def _last_question(text: str) -> str:
    """The sentence that ends with the last question mark, or its end where it is long."""
    end = text.rfind("?")
    before = text[max(0, end - _LONGEST_QUESTION) : end] if end >= 0 else ""
    return before[max(map(before.rfind, ".?!\n")) + 1 :]


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def _foreign_ratio(reading: Reading) -> float:
    texts = (reading.question, reading.thinking, reading.answer)
    if not any(not text.isascii() and _LETTER_OF_ANOTHER_ALPHABET.search(text) for text in texts):
        return 0.0
    asked = _scripts(reading.question)
    if not asked:
        return 0.0
    said = _scripts(reading.thinking + reading.answer)
    letters = sum(said.values())
    # Latin words stand in any language: names, units, code.
    foreign = sum(count for script, count in said.items() if script not in asked and script != "LATIN")
    latin = said.get("LATIN", 0) if "LATIN" not in asked and said.get("LATIN", 0) > letters * 0.8 else 0
    return (foreign + latin) / letters if letters else 0.0


def _scripts(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for letter in filter(str.isalpha, text[:_MOST_LETTERS]):
        script = "LATIN" if letter <= "\u024f" else unicodedata.name(letter, "UNKNOWN").split(" ", 1)[0]
        found[script] = found.get(script, 0) + 1
    return found


_MOST_LETTERS = 4_000
"""Characters of a text whose scripts are looked at."""
