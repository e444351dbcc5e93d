"""Asked: what curation looks at in a row: what was asked, what was answered, what the answer names. Pure."""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal, NamedTuple

import orjson

from ruminate.accumulator.curation.digests import DIGEST_BYTES
from ruminate.accumulator.curation.near import signature_of
from ruminate.accumulator.curation.wording import digest_of_normalised, is_number, normalised, words_of

_LONGEST_THING: Final = 8
"""Words of an answer that may name a thing."""
_SMALL: Final = "a an the of in on at to and or is are was were it its this that"
_SMALL_WORDS: Final = frozenset(_SMALL.split())
_NAMES_NOTHING: Final = frozenset({"yes", "no", "true", "false", "none"})

Lane = Literal["thinking", "direct"]
"""The mode of an answer. Rows of two lanes are never rivals."""


class Asked(NamedTuple):
    """A row in about 400 bytes, whatever its length: digests of 16 bytes, and the signature of its question."""

    question: bytes
    """Of all that the user has asked, normalised."""
    signature: bytes
    content: bytes
    """Of question, answer and lane."""
    thing: bytes | None
    """Of what the answer names; None where it names nothing."""
    lane: Lane


def asked_in(line: bytes) -> Asked:
    """What is asked and answered in a row, from its line. Raises ValueError where the line is none."""
    row = orjson.loads(line)
    (answer,) = row["completion"]
    question = _question(row)
    return Asked(
        question=digest_of_normalised(question),
        signature=signature_of(question),
        content=_content(question, answer),
        thing=None if answer.get("tool_calls") else _thing(question, answer["content"]),
        lane=_lane(answer),
    )


def digests_in(line: bytes) -> tuple[bytes, bytes]:
    """Of a row, the digests of its question and of its content, as in `Asked`. Raises ValueError where the line is none."""
    row = orjson.loads(line)
    (answer,) = row["completion"]
    question = _question(row)
    return digest_of_normalised(question), _content(question, answer)


def _content(question: str, answer: dict[str, Any]) -> bytes:
    content = digest_of_normalised(question, normalised(_said(answer)))
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES, person=_lane(answer).encode()).digest()


def texts_in(line: bytes) -> tuple[str, ...]:
    """The question as it was asked, the answer and, where there is some, the thinking. Raises ValueError where the line is none."""
    row = orjson.loads(line)
    (answer,) = row["completion"]
    texts = (_asked(row), _said(answer))
    return texts if _lane(answer) == "direct" else (*texts, answer["reasoning_content"])


def _question(row: dict[str, Any]) -> str:
    """The words of the question, by which it is told from others; with images, of another one each would ask another thing."""
    words = normalised(_asked(row))
    # By what they are, wherever they lie.
    shown = [image["sha256"] for turn in row["prompt"] if turn.get("images") for image in orjson.loads(turn["images"])]
    if not shown:
        return words
    image = hashlib.blake2b("".join(shown).encode(), digest_size=8).hexdigest()
    return " ".join(f"{image}{word}" for word in ("", *words.split()))


def _asked(row: dict[str, Any]) -> str:
    return "\n".join(turn["content"] for turn in row["prompt"] if turn["role"] == "user")


def _said(answer: dict[str, Any]) -> str:
    said: str = answer["content"]
    if calls := answer.get("tool_calls"):
        said = f"{said}\n{orjson.dumps(calls, option=orjson.OPT_SORT_KEYS).decode()}"
    return said


def _lane(answer: dict[str, Any]) -> Lane:
    return "direct" if answer.get("reasoning_content") is None else "thinking"


def _thing(question: str, answer: str) -> bytes | None:
    """What a short answer in words names: the words that it adds to the question."""
    words = words_of(answer)
    if not 0 < len(words) <= _LONGEST_THING or any(map(is_number, words)):
        return None
    named = sorted(set(words) - set(question.split()) - _SMALL_WORDS)
    if not named or not _NAMES_NOTHING.isdisjoint(named):
        return None
    return digest_of_normalised(" ".join(named))
