"""Agreement: which questions are the same, which answers say the same, and which questions are asked again. Pure.

Answers that were found independently and agree are mostly right, because there are many ways to be wrong. Only answers that have
one short form are compared: a number, a yes or no, a few words, JSON. Of others nothing is known.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

import orjson

from ruminate.assessor.finding.findings import Findings
from ruminate.assessor.judging.knowledge import Agreement
from ruminate.grading.finding.marks import marked_answer
from ruminate.grading.finding.wording import FUNCTION_WORDS, content_words, words
from ruminate.schemas.interaction import InteractionRecorded, Message

_LONGEST_ANSWER: Final = 12
"""Words of an answer that are compared as words."""
YES_NO: Final = frozenset({"yes", "no"})


def question_key(interaction: InteractionRecorded) -> bytes:
    """16 bytes that are the same for the same question after the same turns, whatever its white space, case and system prompt."""
    said = "\x1f".join(
        f"{message.role}\x1e{' '.join(unicodedata.normalize('NFKC', message.content).casefold().split())}"
        for message in interaction.messages
        if message.role != "system"
    )
    return hashlib.blake2b(said.encode(), digest_size=16).digest()


def answer_key(found: Findings) -> str | None:
    """What the answer says, in a form that is the same for the same answer; None where it has no short form."""
    reading = found.reading
    text = reading.answer
    if not text:
        return None
    if text[0] in "{[":
        try:
            return f"j{_digest(orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS))}"
        except orjson.JSONDecodeError:
            pass
    said = reading.answer_words
    if said and said[0] in YES_NO:
        return said[0]
    if says_a_number(found):
        return f"{found.final:.9g}"
    marked = marked_answer(text)
    if marked is not None:
        said = words(marked)
    if not 0 < len(said) <= _LONGEST_ANSWER:
        return None
    content = [word for word in said if word not in FUNCTION_WORDS and word not in reading.question_words]
    return f"w{_digest(' '.join(sorted(content or said)).encode())}"


def says_a_number(found: Findings) -> bool:
    """Whether the number that the answer ends in is what it says: it is marked, or the answer is short."""
    answer = found.reading.answer
    return found.final is not None and (len(found.reading.answer_words) <= _LONGEST_ANSWER * 4 or marked_answer(answer) is not None)


def agreement_of(own: str | None, others: Iterable[str | None]) -> Agreement | None:
    """How many of the other answers that have a short form agree; None where there is nothing to compare."""
    if own is None:
        return None
    known = [other for other in others if other is not None]
    agreeing = sum(other == own for other in known)
    return Agreement(agreeing, len(known) - agreeing) if known else None


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=12).hexdigest()


_COMPLAINS: Final = re.compile(
    r"\W{0,3}(?:no[,.! ]|wrong\b|incorrect\b|that(?:['’]s| is) (?:wrong|not (?:right|correct|what i))|try again|are you sure"
    r"|you (?:are|were) wrong|not (?:quite|correct|right)\b)",
    re.IGNORECASE,
)
_SAME_WORDS: Final = 0.6
"""Jaccard index of the content words of two questions from which the later one is the earlier one again."""
_LEAST_WORDS: Final = 3


def asks_again(messages: Sequence[Message]) -> bool:
    """Whether the last question asks once more what was asked before it, in other words, or begins with a complaint.

    So the answer in between was not good enough.
    """
    asked = [message.content for message in messages if message.role == "user"]
    if len(asked) < 2 or messages[-1].role != "user":
        return False
    if _COMPLAINS.match(asked[-1]):
        return True
    before, now = content_words(words(asked[-2])), content_words(words(asked[-1]))
    if min(len(before), len(now)) < _LEAST_WORDS:
        return False
    return len(before & now) / len(before | now) >= _SAME_WORDS
