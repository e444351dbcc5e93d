"""Notation: signs, words and LaTeX of arithmetic, in the one spelling that arithmetic.py reads.

    \\frac{3}{4} \\times 8   ->  ((3)/(4)) * 8        half of 48 is 24    ->  1/2 ⊗ 48 =ʷ 24
    20 percent of 50        ->  20% * 50             12 plus 7 equals 19 ->  12 ⊕ 7 =ˢ 19
    2³ ≈ 8, 1½ · 2          ->  2^3 =ᵃ 8, (1+1/2)*2  $1.2 million        ->  $1.2⁶

What was said in words keeps a mark (⊕ ⊖ ⊗ ⊘), because words leave open what goes first; `=ʷ` is an *is* and `=ᵃ` an *about*:
both can be right, and accuse only where nothing else can be meant. Text without such notation comes back as it was.
"""

from __future__ import annotations

import re
from typing import Final

WEAK: Final = "ʷ"
"""After an equals sign: it was an `is`."""
SAID: Final = "ˢ"
"""After an equals sign: it was an `equals`, or another word that says no less."""
ABOUT: Final = "ᵃ"
"""After an equals sign: it was an `about`."""
SCALES: Final = {"³": 1e3, "⁶": 1e6, "⁹": 1e9}
"""After a number: thousand, million, billion. (A cube is spelled `^3` by then.)"""
AND: Final = "⁺"
"""Between a whole number and a fraction: `3⁺1/2` is three and a half."""
WORD_OPERATORS: Final = {"⊕": "+", "⊖": "-", "⊗": "*", "⊘": "/"}
"""Operators that were words."""

_FRACTION = re.compile(r"\\[dtc]?frac\s{0,3}\{([^{}]{1,80})\}\s{0,3}\{([^{}]{1,80})\}")
_SHORT_FRACTION = re.compile(r"\\[dtc]?frac\s{0,3}(\d)\s{0,3}(\d)")
_ROOT = re.compile(r"\\sqrt\s{0,3}\{([^{}]{1,80})\}")
_EXPONENT = re.compile(r"\^\{([^{}]{1,20})\}")
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed|operatorname)\s{0,3}\{([^{}]{0,200})\}")
_LATEX = (
    ("\\left", ""), ("\\right", ""), ("\\times", "*"), ("\\cdot", "*"), ("\\div", "/"), ("\\approx", "≈"), ("\\$", "$"),
    ("\\%", "%"), ("{,}", ","), ("\\,", ""), ("\\;", " "), ("\\!", ""), ("\\ ", " "), ("\\(", " "), ("\\)", " "),
    ("\\[", " "), ("\\]", " "),
)  # fmt: skip
_MOST_NESTED = 4

_SIGNS: Final = str.maketrans(
    {
        "·": "*", "∙": "*", "⋅": "*", "∗": "*", "∕": "/", "⁄": "/", "²": "^2", "³": "^3", "½": "1/2", "¼": "1/4", "¾": "3/4",
        "⅓": "1/3", "⅔": "2/3", "⅕": "1/5", "⅛": "1/8", "≃": "≈", "≅": "≈", "＝": "=", "＋": "+", "∶": ":",
        # Ours: whoever writes one of them means nothing by it.
        **dict.fromkeys((WEAK, SAID, ABOUT, "⁶", "⁹", *WORD_OPERATORS), " "),
    }
)  # fmt: skip
_MIXED_SIGN = re.compile(r"(\d) ?(?=[½¼¾⅓⅔⅕⅛])")
_THIN_SPACE = re.compile("(?<=\\d)[\u00a0\u2009\u202f](?=\\d{3}(?!\\d))")
# A dash in prose becomes a minus that stands before a sum, where nothing is certain.
_DASH = re.compile(r" ?[–—] ?(?=[$€£(]?\d)")

# Begins with a set of characters, so that the engine skips all that is no number; what follows is looked at afterwards.
_AFTER_NUMBER = re.compile(
    r"([\d)%]) (per ?cent of|per ?cent|thousand|million|billion|of|plus|minus|times|multiplied by|divided by|equals|is equal to"
    r"|gives|makes|comes to|leaves|is|are)(?![\w’'-])"
)
_NUMBER_FOLLOWS = re.compile(r" (?:about |roughly )?[$€£(-]{0,2}\d")
_QUALIFIED = re.compile(r" \S{1,20} (?:more|less|fewer|times|of|out|percent|years?|or|and a|to|x)\b| \S{0,20}[%-]")
_FRACTION_BEFORE = re.compile(r"(?<![\d./])\d{1,3}/\d{1,3}\Z")
_MIXED = re.compile(r" (?=\d{1,2}/\d{1,2}(?![\d/.,]))")
_WHOLE_BEFORE = re.compile(r"(?<![\d./^,])\d{1,4}\Z")
_COUNTED = re.compile(r"\b([Tt]wo|[Tt]hree|[Ff]our)[ -](third|quarter|fourth|fifth|tenth)s(?![\w-])")

_PARTS: Final = {
    "alf": "1/2", "hird": "1/3", "uarter": "1/4", "ourth": "1/4", "ifth": "1/5", "enth": "1/10", "wice": "2", "ouble": "2",
    "riple": "3", "hrice": "3",
}  # fmt: skip
# A pattern a word, each with a prefix that the engine can search for, and only for the words that are there.
_PART_PATTERNS: Final = {
    word: re.compile(rf"\w?{word}{' of' if part.startswith('1/') and word != 'alf' else '(?: of| the)?'} (?=[$€£]?\d)")
    for word, part in _PARTS.items()
}
_COUNTS: Final = {"two": "2", "three": "3", "four": "4"}
_AFTER_ANY_NUMBER: Final = {
    "percent": "%", "per cent": "%", "percent of": "% *", "per cent of": "% *", "thousand": "³", "million": "⁶", "billion": "⁹",
}  # fmt: skip
_BETWEEN_NUMBERS: Final = {
    "plus": " ⊕", "minus": " ⊖", "times": " ⊗", "multiplied by": " ⊗", "divided by": " ⊘",
    **dict.fromkeys(("equals", "is equal to", "gives", "makes", "comes to"), f" ={SAID}"),
}  # fmt: skip


def plain(text: str) -> str:
    """The text with its arithmetic in plain notation."""
    if "\\" in text:
        text = _from_latex(text)
    if not text.isascii():
        text = _from_signs(text)
    if "**" in text:
        text = text.replace("**", "^")
    return _from_words(text)


def _from_latex(text: str) -> str:
    for command, sign in _LATEX:
        text = text.replace(command, sign)
    text = _SHORT_FRACTION.sub(r"((\1)/(\2))", text)
    for _ in range(_MOST_NESTED):  # from the inside to the outside
        before = text
        text = _WRAPPER.sub(r"\1", text)
        text = _FRACTION.sub(r"((\1)/(\2))", text)
        text = _ROOT.sub(r"((\1)^0.5)", text)
        text = _EXPONENT.sub(r"^(\1)", text)
        if text == before:
            break
    return text.replace("  ", " ")


def _from_signs(text: str) -> str:
    mixed = _MIXED_SIGN.sub(rf"\1{AND}", text) if AND not in text else text
    text = _DASH.sub(" - ", _THIN_SPACE.sub("", mixed.translate(_SIGNS)))
    return text.replace("≈", f"={ABOUT}")


def _from_words(text: str) -> str:
    for word, pattern in _PART_PATTERNS.items():
        if word in text:
            if f"{word}s" in text:
                text = _COUNTED.sub(_counted, text)
            text = pattern.sub(_part, text)
    if "/" in text:
        text = _MIXED.sub(_mixed, text)
    return _AFTER_NUMBER.sub(_after_number, text)


def _counted(found: re.Match[str]) -> str:
    return f"{_COUNTS[found[1].lower()]}{_PARTS[found[2].lstrip('tqf')][1:]}"


def _part(found: re.Match[str]) -> str:
    text, start = found.string, found.start()
    word = found[0].split(" ", 1)[0]
    if start and (text[start - 1].isalnum() or text[start - 1] == "-"):
        return found[0]
    return f"{_PARTS[word if word in _PARTS else word[1:]]} ⊗ "


def _mixed(found: re.Match[str]) -> str:
    start = found.start()
    return AND if _WHOLE_BEFORE.search(found.string, max(0, start - 6), start) else " "


def _after_number(found: re.Match[str]) -> str:
    last, word = found[1], found[2]
    if sign := _AFTER_ANY_NUMBER.get(word):
        return last + sign
    if not _NUMBER_FOLLOWS.match(found.string, found.end()):
        return found[0]
    if sign := _BETWEEN_NUMBERS.get(word):
        return last + sign
    return last + (_of(found) if word == "of" else _is(found))


def _of(found: re.Match[str]) -> str:
    if found[1] == "%":
        return " *"
    fraction = _FRACTION_BEFORE.search(found.string, max(0, found.end(1) - 8), found.end(1))
    return " ⊗" if fraction else " of"


def _is(found: re.Match[str]) -> str:
    # "half of 48 is 24 more than …" says something else.
    return f" {found[2]}" if _QUALIFIED.match(found.string, found.end()) else f" ={WEAK}"
