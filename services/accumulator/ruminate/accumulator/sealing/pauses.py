"""Pauses: when a batch that is due is not sealed: in quiet hours, and while the budget of a day is used up. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

BUDGET_SPAN: Final = timedelta(days=1)
"""A budget is of any 24 hours, not of a date: so midnight, wherever it is, is no time to seal twice as much."""

_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class QuietHours:
    """From `begin` until before `end` on the clocks of a place, every day; over midnight where `end` is earlier."""

    begin: time
    end: time
    zone: tzinfo

    def holds(self, moment: datetime) -> bool:
        """Whether clocks there show a quiet hour. One that the clocks show twice is quiet twice."""
        shown = moment.astimezone(self.zone).time()
        if self.begin < self.end:
            return self.begin <= shown < self.end
        return shown >= self.begin or shown < self.end

    def end_after(self, moment: datetime) -> datetime:
        """When the quiet hour that holds at this moment ends.

        Where clocks are put forward over `end`, that is up to an hour late, once a year: it is for people, and `holds` decides.
        """
        today = moment.astimezone(self.zone).date()
        ends = (
            datetime.combine(today + timedelta(days=days), self.end, self.zone).replace(fold=fold).astimezone(UTC)
            for days in (0, 1, 2)
            for fold in (0, 1)
        )
        return min(end for end in ends if end > moment and not self.holds(end))


@dataclass(frozen=True, slots=True)
class Pause:
    """Why nothing is sealed, and until when."""

    why: Literal["quiet_hours", "budget"]
    until: datetime


def pause_of(quiet: QuietHours | None, most_a_day: int | None, sealed_at: Sequence[datetime], *, now: datetime) -> Pause | None:
    """Why a batch that is due is not sealed now; None where it is. `sealed_at` has the last batches, at least so many, in order."""
    if most_a_day is not None and len(sealed_at) >= most_a_day and (until := sealed_at[-most_a_day] + BUDGET_SPAN) > now:
        return Pause("budget", until)
    if quiet is not None and quiet.holds(now):
        return Pause("quiet_hours", quiet.end_after(now))
    return None


def quiet_hours_of(text: str, zone: str) -> QuietHours | None:
    """`22:00-06:00`, or nothing for none. Raises ValueError, which says what is allowed."""
    place = zone_named(zone)
    if not text:
        return None
    match = _HOURS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} are no hours (RUMINATE_SEAL_QUIET_HOURS); write them as 22:00-06:00, or leave them out")
    begin, end = time(int(match[1]), int(match[2])), time(int(match[3]), int(match[4]))
    if begin == end:
        raise ValueError(
            f"{text!r} (RUMINATE_SEAL_QUIET_HOURS) is the whole day: nothing would be sealed; write two times that differ"
        )
    return QuietHours(begin, end, place)


@lru_cache(maxsize=64)
def zone_named(name: str) -> tzinfo:
    """The time zone of that name. Raises ValueError."""
    if name == "UTC":
        return UTC  # known also where the machine has no list of zones
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"no time zone is named {name!r} on this machine (RUMINATE_SEAL_TIME_ZONE); names are as in Europe/Berlin, and UTC is "
            "always known"
        ) from None
