"""Sample: how the interactions of an interval were, in a few hundred numbers, so that later ones can be compared with them. Pure.

    score    the overall score of the verdict, in hundredths
    topic    one of 32 buckets: of the domain and the tags; of one word of the question where it has neither

A conversation is one observation, its first interaction: what follows it in a conversation is like it, and tests count
observations that know nothing of each other. A rejected interaction counts as any other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

from ruminate.accumulator.records.rows import question_of
from ruminate.schemas.assessment import Score
from ruminate.schemas.interaction import InteractionRecorded
from ruminate.schemas.payload import Count, Name, Part

SCORES: Final = 100
TOPICS: Final = 32
SAMPLED_AS: Final = "sample-1"
"""Changes with whatever puts an interaction into another place: samples of two kinds are not compared."""

_LOOKED_AT: Final = 192
"""Characters of a question: a record is folded in microseconds, and a question says early what it is about."""
_LEAST_BYTES: Final = 4
"""Shorter words are in every question. What has no spaces between its words is one word, and tells nothing apart."""
_LETTERS: Final = bytes(
    byte if byte >= 0x80 or chr(byte).islower() else byte + 32 if chr(byte).isupper() else 0x20 for byte in range(256)
)
"""Lower case, and a space in place of whatever is no letter."""


class Counted(Part):
    """A sample as a manifest holds it."""

    sampled_as: Name
    scores: tuple[Count, ...]
    unscored: Count
    topics: tuple[Count, ...]

    @property
    def interactions(self) -> int:
        """How many conversations were counted."""
        return sum(self.topics)


@dataclass(slots=True)
class Sample:
    """A sample as it grows. Whatever it is told takes a constant amount of work."""

    interactions: int = 0
    scores: list[int] = field(default_factory=lambda: [0] * SCORES)
    topics: list[int] = field(default_factory=lambda: [0] * TOPICS)
    unscored: int = 0
    _conversations: set[bytes] = field(default_factory=set)
    _uncounted: set[bytes] = field(default_factory=set)
    """Interactions that stand for no conversation."""

    def enter(self, conversation: bytes, recorded: bytes, *, first: bool, score: int | None, topic: int) -> None:
        """Take an interaction in. Only what is judged for the first time counts: else it is of an earlier interval."""
        if not first or conversation in self._conversations:
            self._uncounted.add(recorded)
            return
        self._conversations.add(conversation)
        self.interactions += 1
        self.topics[topic] += 1
        self._count(score, +1)

    def revise(self, recorded: bytes, *, was: int | None, score: int | None) -> None:
        """An interaction that was taken in was judged again."""
        if was != score and recorded not in self._uncounted:
            self._count(was, -1)
            self._count(score, +1)

    def counted(self) -> Counted:
        """As it is now."""
        return Counted(sampled_as=SAMPLED_AS, scores=tuple(self.scores), unscored=self.unscored, topics=tuple(self.topics))

    def _count(self, score: int | None, by: int) -> None:
        if score is None:
            self.unscored += by
        else:
            self.scores[score] += by


def score_of(overall: Score) -> int | None:
    """The hundredth that a score lies in; None where the assessor could not know."""
    return None if overall.value is None else min(SCORES - 1, int(overall.value * SCORES))


def topic_of(interaction: InteractionRecorded) -> int:
    """The bucket of what an interaction is about.

    Of the words of a question the one counts whose hash is least: like questions mostly share it, and over many questions it
    is a fair draw of what they speak of. That sees gross changes alone (docs/experiments.md): who tells more, names a domain.
    """
    named = sorted(interaction.tags)
    if interaction.domain is not None:
        named.insert(0, interaction.domain)
    if named:
        return crc32("\n".join(named).encode()) % TOPICS
    words = question_of(interaction)[:_LOOKED_AT].encode().translate(_LETTERS).split()
    return min([crc32(word) for word in words if len(word) >= _LEAST_BYTES], default=0) % TOPICS
