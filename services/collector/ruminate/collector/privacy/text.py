"""What every recogniser needs of a text: where a word begins, what stands near, and what is only a stand-in."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from dataclasses import dataclass
from typing import Final, NamedTuple

ASCII_WORD: Final = frozenset(string.ascii_letters + string.digits + "_")
"""Letters of other scripts are none: in `番号は090…` the number begins a word."""
_LETTERS_AND_DIGITS: Final = frozenset(string.ascii_letters + string.digits)
_SHAPE: Final = bytes.maketrans(
    (string.digits + string.ascii_uppercase + string.ascii_lowercase).encode(), b"0" * 10 + b"A" * 26 + b"a" * 26
)
_SEPARATORS: Final = b" .()/-?"
_MANY_DIGITS: Final = re.compile(r"[0-9](?:[ \u00a0.()/\u2010-\u2012-]{0,2}[0-9]){6}")
_FEWEST_DIFFERENT: Final = 5

_STAND_IN: Final = re.compile(
    r"[<\[{(]"  # <your key>, {password}, [PASSWORD_1]
    r"|\$[A-Za-z_{(]|%[(A-Za-z{]?[A-Za-z_]*[%)s]|@[A-Za-z_{]|!\w+$"  # ${VAR}, $VAR, %(name)s, %NAME%, !vault
    r"|.*(?:\*\*\*|\.\.\.|…|xxxx|____|•|\{\{|\$\{|</|/>)"
    r"|your[_ -]|(?:my|some|the|an?|insert|enter|replace|put)[_ -][a-z_ -]+$"
    r"|.*(?:example|change_?me|change-me|placeholder|redacted|dummy|_here$|-here$)"
    r"|(?:os|process|env|settings|config|secrets|self|this|req|request|args|options|params|vault|var|local|data)[.\[]",
    re.IGNORECASE,
)
_WORDS: Final = frozenset((
    "access", "admin", "any", "api_key", "apikey", "auth", "authorization", "basic", "bearer", "bool", "boolean", "bytes",
    "char", "client", "credential", "credentials", "default", "disabled", "empty", "enabled", "expired", "expires", "external",
    "false", "forgotten", "hidden", "incorrect", "input", "int", "integer", "invalid", "key", "login", "me", "missing", "name",
    "nil", "no", "none", "not", "null", "number", "object", "off", "on", "optional", "pass", "passphrase", "passwd", "password",
    "passwort", "pw", "pwd", "required", "reset", "root", "secret", "secretstr", "see", "str", "string", "test", "text",
    "token", "true", "type", "undefined", "unknown", "unset", "user", "username", "valid", "value", "varchar", "wrong", "yes",
))  # fmt: skip


class Finding(NamedTuple):
    """A value in a text, from `start` up to `end`."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True, slots=True)
class Look:
    """A text as the recognisers see it."""

    text: str
    key: str = ""
    """The key under which it stands in a JSON object: `{"ssn": "123…"}` names what it holds."""
    lower: str = ""
    """The text in lower case, character by character."""
    shape: bytes = b""
    """The text with `0` for digits, `A` and `a` for letters, and `?` for what is not ASCII: to look for `AA00` in it costs a
    twentieth of looking for two capitals and two digits."""

    @classmethod
    def at(cls, text: str, key: str = "") -> Look:
        """A look at `text`, where it stands under `key`."""
        return cls(text, key, in_lower_case(text), text.encode("ascii", "replace").translate(_SHAPE))

    def before(self, at: int, characters: int) -> str:
        """What stands before, in lower case; at the beginning of the text also its key."""
        slice_ = self.lower[max(0, at - characters) : at]
        return f"{self.key.lower()}: {slice_}" if self.key and at <= characters else slice_

    def around(self, start: int, end: int, *, before: int, after: int) -> str:
        """What stands on both sides, in lower case."""
        return f"{self.before(start, before)} {self.lower[end : end + after]}"


@dataclass(frozen=True, slots=True)
class Words:
    """Words that name what stands near them. Each has one of the stems in it: to look for those first costs a tenth."""

    pattern: re.Pattern[str]
    stems: tuple[str, ...]

    def stand_in(self, text: str) -> bool:
        """Whether one of them stands in this text, which is in lower case."""
        return any(map(text.__contains__, self.stems)) and self.pattern.search(text) is not None


def in_lower_case(text: str) -> str:
    """In lower case, each character at its old place."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    # A few capitals, such as the Turkish İ, become two characters.
    return "".join(small if len(small := character.lower()) == 1 else character for character in text)


def holds_many_digits(look: Look) -> bool:
    """Whether seven digits stand together, a separator or two between them aside: less is no number of anybody."""
    return b"0000000" in look.shape.translate(None, _SEPARATORS) and _MANY_DIGITS.search(look.text) is not None


def begins_word(text: str, at: int) -> bool:
    """Whether no ASCII letter, digit or underscore stands before; the `n` of a written-out `\\n` does not count."""
    if at == 0 or text[at - 1] not in ASCII_WORD:
        return True
    return text[at - 1] in "nrt" and at > 1 and text[at - 2] == "\\"


def ends_word(text: str, end: int) -> bool:
    """Whether no ASCII letter or digit follows."""
    return end >= len(text) or text[end] not in _LETTERS_AND_DIGITS


def is_stand_in(value: str) -> bool:
    """Whether it only stands where a value will be: `<your key>`, `***`, `${VAR}`, `os.environ[…]`, `str`."""
    return (
        len(set(value)) < min(_FEWEST_DIFFERENT, len(value)) // 2 + 1
        or value.lower() in _WORDS
        or _STAND_IN.match(value) is not None
    )


def is_varied(value: str) -> bool:
    """Whether it has as many different characters as what is drawn at random: `xxxxxxxx` and `EXAMPLE` keys have not."""
    return len(set(value)) >= min(8, len(value) // 3 + 2) and "example" not in value.lower()


def entropy_bits(value: str) -> float:
    """Shannon's entropy of its characters, in bits a character."""
    total = len(value)
    return -sum(count / total * math.log2(count / total) for count in Counter(value).values())
