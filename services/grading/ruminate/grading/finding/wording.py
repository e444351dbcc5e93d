"""Wording: the words and the numbers of a text. Linear in its length, and pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MOST_CHARACTERS: Final = 100_000
"""Of a text that are read, where nobody says otherwise."""

_WORD = re.compile(r"\w+")
# The same of ASCII: small letters, digits and underscores as they are, capitals small, and all else but line ends a space.
_ASCII_WORDS: Final = "".join(
    sign.lower() if sign == "\n" or _WORD.match(sign) else " " for sign in map(chr, range(128))
).ljust(256).encode()  # fmt: skip
# Patterns begin with what is rare in prose, so that the engine skips to it; none can backtrack over a long run.
_NUMBER = re.compile(r"\d(?<!\w\d)(?:\d{0,2}(?:,\d{3})+|\d{0,17})(?:\.\d{1,18})?(?!\d)")
_SIGNED_NUMBER = re.compile(r"[.\-−](?<![^\W_].)\d")

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


def both_ends(text: str, most: int) -> str:
    """A text; of one over `most` characters, both ends."""
    return text if len(text) <= most else text[: most // 2] + "\n" + text[-(most // 2) :]


def words(text: str) -> tuple[str, ...]:
    """The words of a text, in lower case."""
    if text.isascii():  # by table, at a fifth of the cost
        return tuple(text.encode().translate(_ASCII_WORDS).decode().split())
    return tuple(_WORD.findall(text.lower()))


def words_of_each(lines: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """The words of each of these, none of which holds a line end: faster than one by one."""
    joined = "\n".join(lines)
    if not lines or not joined.isascii():
        return tuple(map(words, lines))
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


def numbers_of_each(lines: tuple[str, ...]) -> tuple[frozenset[float], ...]:
    """The distinct numbers of each of these, none of which holds a line end: faster than one by one."""
    joined = "\n".join(lines)
    if _SIGNED_NUMBER.search(joined) is not None:
        return tuple([frozenset(numbers(line)) for line in lines])
    if "," in joined:
        return tuple([frozenset([float(digits.replace(",", "")) for digits in _NUMBER.findall(line)]) for line in lines])
    return tuple([frozenset(map(float, found)) if (found := _NUMBER.findall(line)) else _NO_NUMBERS for line in lines])


def _signed(text: str, start: int, digits: str, value: float, before: str) -> float:
    follows_word = start > 1 and text[start - 2].isalnum()
    if before == ".":  # .5
        return value if follows_word else value / 10 ** len(digits.partition(".")[0])
    return value if follows_word else -value
