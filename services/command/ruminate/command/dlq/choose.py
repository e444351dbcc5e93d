"""Which dead letters are meant: by the beginning of an id, as in git, or by topic, reader, reason and time. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from ruminate.schemas.dead_letter import DeadLetterSettled
from ruminate.shared.letters import BOXES, Box, Letter, Letters

SHORTEST_PREFIX: Final = 4
_SHOWN_LENGTHS: Final = (8, 13, 18, 23, 36)
_SHOWN_MATCHES: Final = 5
_AGO: Final = re.compile(r"(\d{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class NotChosen(ValueError):
    """What was asked for names no dead letters; the message says what there is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """What letters have in common. None and no reasons: nothing in particular."""

    topic: str | None = None
    reader: str | None = None
    reasons: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None

    @property
    def says_something(self) -> bool:
        """Whether it leaves anything out."""
        return self != Filter()

    def boxes(self) -> tuple[Box, ...]:
        """Where such letters lie. Raises NotChosen where there is no such place."""
        found = tuple(box for box in BOXES if self.topic in (None, box.topic.name) and self.reader in (None, box.reader))
        if found:
            return found
        if self.reader is not None and self.reader not in (readers := _names(box.reader for box in BOXES)):
            raise NotChosen(f"no reader is named {self.reader!r}; there are {', '.join(readers)}")
        if self.topic not in (topics := _names(box.topic.name for box in BOXES)):
            raise NotChosen(f"nobody makes dead letters of {self.topic!r}; they are made of {', '.join(topics)}")
        read = ", ".join(box.topic.name for box in BOXES if box.reader == self.reader)
        raise NotChosen(f"{self.reader} does not read {self.topic}; it reads {read}")

    def letters(self, known: Letters) -> list[Letter]:
        """Those that stand, in the order in which they were given up."""
        boxes = self.boxes()
        return [letter for letter in known.standing() if letter.box in boxes and self._takes(letter.reason, letter.at)]

    def settled(self, known: Letters) -> list[DeadLetterSettled]:
        """The last words about those that do not stand, of this time."""
        boxes = self.boxes()
        return [word for word in known.settled() if box_of(word) in boxes and self._takes(word.reason, word.settled_at)]

    def _takes(self, reason: str, at: datetime) -> bool:
        return (
            (not self.reasons or reason in self.reasons)
            and (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
        )


def box_of(word: DeadLetterSettled) -> Box | None:
    """Where the letter of this word lay."""
    for box in BOXES:
        if box.reader == word.reader and word.topic in (box.topic.name, box.retries.name, box.letters.name):
            return box
    return None


def find(known: Letters, prefix: str) -> UUID:
    """The letter whose id begins so, standing or not. Raises NotChosen where there is none, or several."""
    wanted = prefix.strip().lower()
    if len(wanted) < SHORTEST_PREFIX:
        raise NotChosen(f"{prefix!r} is too short for an id: give {SHORTEST_PREFIX} characters of it, or more")
    found = sorted(str(letter_id) for letter_id in known.ids() if _begins(letter_id, wanted))
    if not found:
        raise NotChosen(
            f"no dead letter's id begins with {prefix!r}. Letters are forgotten 30 days after they were given up. "
            "Type:  ruminate dlq list --all"
        )
    if len(found) > 1:
        more = ", …" if len(found) > _SHOWN_MATCHES else ""
        raise NotChosen(f"{len(found)} dead letters begin with {prefix!r}: {', '.join(found[:_SHOWN_MATCHES])}{more}")
    return UUID(found[0])


def shown_length(ids: Collection[UUID]) -> int:
    """How much of an id is enough to tell all of these apart."""
    names = {str(letter_id) for letter_id in ids}
    return next(length for length in _SHOWN_LENGTHS if len({name[:length] for name in names}) == len(names))


def moment(text: str, *, now: datetime) -> datetime:
    """`2h` ago, or an RFC 3339 time; one that does not say its offset is in UTC. Raises NotChosen."""
    if ago := _AGO.fullmatch(text.strip()):
        try:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        except OverflowError:
            raise NotChosen(f"{text} ago there were no dead letters") from None
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise NotChosen(f"{text!r} is no time; say 30m, 2h, 7d, or 2026-01-31T12:00:00Z") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _begins(letter_id: UUID, wanted: str) -> bool:
    return str(letter_id).startswith(wanted) or letter_id.hex.startswith(wanted)


def _names(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
