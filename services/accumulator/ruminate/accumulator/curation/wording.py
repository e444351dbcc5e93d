"""Wording: the form in which texts are compared, as words, and the digest of that form. Pure.

What differs only in spelling is one wording: letter case, compatibility forms (full-width digits, ligatures), white space,
apostrophes, other punctuation, and the comma of thousands. What makes two questions of the same words different questions
is kept: numbers, and the operators and brackets of formulas, each a word of its own (`3-5` is no `3+5`). A hyphen, an
asterisk and a slash are operators beside a number or a bracket, brackets beside an operator; elsewhere, and where a hyphen
ties a number to a word, they are punctuation.

Scripts that put no spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) give one word a character.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from ruminate.accumulator.curation.digests import DIGEST_BYTES

_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Han
)
"""As the inside of a character class."""
_OPERATORS: Final = r"+<=>^%\u00b1\u2200-\u2211\u2213\u2214\u2216-\u22ff"
_LAST_WITH_MARKS: Final = 0xABFF
"""Scripts whose letters carry marks that are no letters (Mn, Mc) stand below; above are Hangul syllables and forms of others."""


def _marks() -> str:
    """The marks within words, as the inside of a character class; `\\w` knows letters and digits alone."""
    unspaced = re.compile(f"[{_UNSPACED}]")
    marks = (chr(each) for each in range(0x300, _LAST_WITH_MARKS + 1) if unicodedata.category(chr(each)) in ("Mn", "Mc"))
    return "".join(mark for mark in marks if not unspaced.match(mark))


_SPELT_ANEW: Final = str.maketrans({"\u2212": "-", "\u2044": "/", "\u2215": "/", "\u00d7": "*", "\u00f7": "/", "\u2019": None})
_CONTROLS: Final = "".join(map(chr, (*range(32), 127)))
_ASCII_PUNCTUATION: Final[dict[int, str]] = str.maketrans(dict.fromkeys('!"#$&,:;?@[\\]`{|}~' + _CONTROLS, " "))
_ASCII_PUNCTUATION_AND_OPERATORS: Final[dict[int, str]] = _ASCII_PUNCTUATION | str.maketrans(dict.fromkeys("-*/()+<=>^%", " "))
_PUNCTUATION: Final = re.compile(rf"[^\w\s{_marks()}{_UNSPACED}.()*/{_OPERATORS}-]+")
_ONE_UNSPACED: Final = re.compile(f"([{_UNSPACED}])")
_THOUSANDS: Final = re.compile(r",(?<=\d,)(?=\d{3}(?!\d))")
_FULL_STOP: Final = re.compile(r"\.(?:(?!\d)|(?<=[^\W\d]\.)|(?<=\.\.))")
_FORMULA: Final = re.compile(rf"[-*/(){_OPERATORS}]")
_NO_OPERATOR: Final = re.compile(
    r"[-*/](?<![\d)].)(?<![\d)] .)(?! ?\.?[\d(])"
    r"|-(?<=\d-)(?=[^\W\d]{2})|-(?<=[^\W\d]{2}-)"  # `3-year-old`, `covid-19`; but `5-x`, `x-1`
)
_NO_BRACKET: Final = re.compile(rf"\((?<![-*/{_OPERATORS}].)(?<![-*/{_OPERATORS}] .)|\)(?! ?[-*/{_OPERATORS}])")
_OPERATOR: Final = re.compile(rf"([{_OPERATORS}]+|[-*/()])")
_DIGIT: Final = re.compile(r"\d")


def words_of(text: str) -> list[str]:
    """The words of a text, in their order; none where it has neither a letter nor a number.

    The words of `" ".join(words_of(text))` are the same again.
    """
    words = _plain(text, _ASCII_PUNCTUATION).split()
    joined = " ".join(words)
    if _FORMULA.search(joined) is None:
        return words
    return _OPERATOR.sub(r" \1 ", _NO_BRACKET.sub(" ", _NO_OPERATOR.sub(" ", joined))).split()


def spoken_words_of(text: str) -> list[str]:
    """The words of `words_of` without operators and brackets."""
    plain = _plain(text, _ASCII_PUNCTUATION_AND_OPERATORS)
    return (plain if plain.isascii() else _FORMULA.sub(" ", plain)).split()


def _plain(text: str, ascii_punctuation: dict[int, str]) -> str:
    """Folded, and white space for what separates words; of formulas, what the table leaves."""
    if text.isascii():
        plain = text.lower().replace("'", "")
        plain = (_THOUSANDS.sub("", plain) if "," in plain else plain).translate(ascii_punctuation)
    else:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        plain = _THOUSANDS.sub("", folded.translate(_SPELT_ANEW).replace("'", ""))
        plain = _ONE_UNSPACED.sub(r" \1 ", _PUNCTUATION.sub(" ", plain)).translate(ascii_punctuation)
    return _FULL_STOP.sub(" ", plain) if "." in plain else plain


def normalised(text: str) -> str:
    """The words of a text, one space between two. Normalising it again changes nothing."""
    return " ".join(words_of(text))


def is_operator(word: str) -> bool:
    """Whether a word of `words_of` is an operator or a bracket of a formula."""
    return _FORMULA.match(word) is not None


def is_number(word: str) -> bool:
    """Whether a word of `words_of` has a digit."""
    return _DIGIT.search(word) is not None


def is_unspaced(word: str) -> bool:
    """Whether a word of `words_of` is a character of a script without spaces."""
    return _ONE_UNSPACED.match(word) is not None


def figures_of(words: Sequence[str]) -> list[str]:
    """The numbers and operators among the words, in their order: what makes exercises of the same words different."""
    return [word for word in words if not word.isalpha() and (is_number(word) or is_operator(word))]


def digest_of_normalised(*texts: str) -> bytes:
    """16 bytes of BLAKE2b that stand for these texts, which are `normalised`: equal for equal ones, and no others."""
    whole = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        whole.update(len(encoded).to_bytes(8, "little"))
        whole.update(encoded)
    return whole.digest()
