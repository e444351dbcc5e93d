"""What one pass over the log finds of what has to be forgotten, and what follows from that. Pure.

A pass reads every topic that holds texts, the recorded interactions first: whoever knows their ids finds the rest by them. Their
tombstones are written last, and bear the erasure's id, so that a pass that was cut short at any record is simply begun again.

    nothing told yet          tombstones, then `tombstoned`
    something was left        the same once more: it was in flight during the last pass
    nothing was left          a marker for each partition that holds such bytes, then `finished`
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from ruminate.eraser.glimpse import Glimpse, glimpse
from ruminate.schemas.envelope import moment
from ruminate.schemas.erasure import ErasureRequested, Erasures, Names, RecordsErased
from ruminate.schemas.flow import INTERACTION_RECORDED, REASONING_ASSESSED
from ruminate.schemas.topic import SideTopic, Topic
from ruminate.shared.record import Record
from ruminate.shared.topic_plan import CLEANUP, LONGEST_LAG, SEGMENT, retention_of

ERASURE_HEADER: Final = "ruminate_erasure"
TENANT_HEADER: Final = "ruminate_tenant"
"""Headers of a tombstone of ours: the id of the erasure, and whose it is."""
MARKER_KEY: Final = b"erasure-marker"
"""Key of the record without a value that makes an idle partition close its segment: no event has it."""

_ROUNDING: Final = timedelta(milliseconds=10)
"""Timestamps in the log are whole milliseconds."""
_CLOCKS_APART: Final = timedelta(hours=1)
"""By so much Kafka lets a writer's clock be ahead."""
_CLEANING: Final = timedelta(hours=1)
"""What we give the cleaner to come, once it has to, and to be through."""
_FILE_DELAY: Final = "file.delete.delay.ms"
_UNLIMITED_MS: Final = 2**62

Place = tuple[int, bytes]
"""A key in a partition."""


# How long things stay.


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """How long a topic keeps what lies in it. `segment`: how long one that takes records holds back compaction and retention."""

    segment: timedelta
    retention: timedelta | None
    """None: for ever."""
    compaction: timedelta | None
    """How long what was tombstoned may lie in a closed segment; None where nothing bounds it."""
    files: timedelta = timedelta()
    """How long a file that is deleted stays on the disk under another name."""


FOR_EVER: Final = Life(segment=timedelta(), retention=None, compaction=None)
"""On a broker that neither compacts nor deletes."""


def life_of(settings: Mapping[str, str]) -> Life:
    """A topic's life by its settings at the broker."""
    retention_ms, lag_ms = retention_of(settings), int(settings.get(LONGEST_LAG, _UNLIMITED_MS))
    compacts = "compact" in settings.get(CLEANUP, "") and lag_ms < _UNLIMITED_MS
    return Life(
        segment=_milliseconds(settings.get(SEGMENT, "604800000")),
        retention=None if retention_ms is None else timedelta(milliseconds=retention_ms),
        compaction=timedelta(milliseconds=lag_ms) if compacts else None,
        files=_milliseconds(settings.get(_FILE_DELAY, "60000")),
    )


def _milliseconds(written: str) -> timedelta:
    return timedelta(milliseconds=min(int(written), 86_400_000 * 36_500))


def settles_in(lives: Iterable[Life], *, at_least: timedelta) -> timedelta:
    """How long a pass waits for the last one: so long that whatever comes then closes every segment of what it touched."""
    return max([at_least, *(life.segment + _ROUNDING for life in lives)])


# What is found.


@dataclass(slots=True)
class Found:
    """What a pass has found of one erasure."""

    live: Counter[str] = field(default_factory=Counter)
    """Records by topic that have no tombstone yet."""
    touched: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    newest_ms: int = 0
    """The newest timestamp up to the last such record or its tombstone, in any partition: a segment's age is told by those."""
    lasting_ms: dict[str, int] = field(default_factory=dict)
    """The newest record by topic that only retention takes away."""


@dataclass(slots=True)
class _Copy:
    erasure_id: str
    live: bool


class Search:
    """One pass: takes in the log topic by topic, the recorded interactions first, and knows what has to get a tombstone."""

    def __init__(self, wanted: Mapping[str, ErasureRequested]) -> None:
        self._register = Erasures()
        self._requests = wanted
        for erasure_id, request in wanted.items():
            self._register.take(erasure_id, request)
        self._by_tenant = {request.tenant: erasure_id for erasure_id, request in wanted.items()}
        self._erased_ids: dict[str, str] = {}
        """Of interactions that are erased, the erasure; of an earlier one, too, so that what is said of them goes with them."""
        self._continued: dict[tuple[str, str | None, str], str] = {}
        self._copies: defaultdict[str, dict[Place, _Copy]] = defaultdict(dict)
        self._newest_ms: dict[tuple[str, int], int] = {}
        self._unreadable: defaultdict[str, dict[tuple[int, bytes | int], int]] = defaultdict(dict)
        self.found: dict[str, Found] = {erasure_id: Found() for erasure_id in wanted}

    def take(self, topic: Topic[Any], record: Record, *, within: SideTopic | None = None) -> None:
        """Take in a record of a compacted topic, or of the dead letters `within` which records of this topic lie."""
        name = topic.name if within is None else within.name
        place = (name, record.partition)
        self._newest_ms[place] = newest_ms = max(record.timestamp, self._newest_ms.get(place, 0))
        if record.key is None:
            if record.value is not None:  # nothing can take its place
                self._unreadable[name][record.partition, record.offset] = record.timestamp
            return
        copies, key = self._copies[name], (record.partition, record.key)
        self._unreadable[name].pop(key, None)
        if record.value is None:
            if (copy := copies.get(key)) is not None:
                copy.live = False
                self._note(name, record.partition, copy.erasure_id, newest_ms)
            elif topic.name == INTERACTION_RECORDED.name and within is None:
                self._take_tombstone(record)
            return
        seen = glimpse(topic.name, record.value, record.headers, timestamp_ms=record.timestamp)
        if seen is None:
            self._unreadable[name][key] = record.timestamp
            return
        known = copies.get(key)
        erasure_id = self._covering(seen) if known is None else known.erasure_id  # a key is one event, however often it comes
        if erasure_id is None:
            return
        if within is None and topic.name in (INTERACTION_RECORDED.name, REASONING_ASSESSED.name):
            self._remember(seen.names, erasure_id)
        copies[key] = _Copy(erasure_id, live=True)
        self._note(name, record.partition, erasure_id, newest_ms)

    def take_lasting(self, topic: Topic[Any], record: Record, *, within: SideTopic | None = None) -> None:
        """Take in a record of a topic in which nothing can be erased."""
        if record.value is None:
            return
        seen = glimpse(topic.name, record.value, record.headers, timestamp_ms=record.timestamp)
        erasure_id = None if seen is None else self._covering(seen)
        if erasure_id is not None:
            lasting, name = self.found[erasure_id].lasting_ms, topic.name if within is None else within.name
            lasting[name] = max(record.timestamp, lasting.get(name, 0))

    def live(self, name: str) -> dict[Place, str]:
        """What has to get a tombstone in this topic, with the erasure for which."""
        return {key: copy.erasure_id for key, copy in self._copies[name].items() if copy.live}

    def count(self) -> None:
        """Everything is taken in: count what is live."""
        for name, copies in self._copies.items():
            for copy in copies.values():
                self.found[copy.erasure_id].live[name] += copy.live

    def _covering(self, seen: Glimpse) -> str | None:
        names = seen.names
        if names.recorded_id is not None and (known := self._erased_ids.get(names.recorded_id)) is not None:
            return known
        if seen.said_of_it:
            return self._register.covers_said(names)
        covered = self._register.covers(names)
        if covered is None and names.continues_interaction is not None:
            # What continues what continues an erased one repeats its words, too.
            before = self._continued.get((names.tenant, names.source, names.continues_interaction))
            if before is not None and names.occurred_at <= self._requests[before].requested_at:
                return before
        return covered

    def _remember(self, names: Names, erasure_id: str) -> None:
        if names.recorded_id is not None:
            self._erased_ids[names.recorded_id] = erasure_id
        if names.interaction_id is not None and self._requests[erasure_id].scope == "interaction":
            self._continued[names.tenant, names.source, names.interaction_id] = erasure_id

    def _take_tombstone(self, record: Record) -> None:
        """An interaction whose record is gone: its tombstone says for which erasure."""
        said = {name: raw.decode(errors="replace") for name, raw in record.headers if name in (ERASURE_HEADER, TENANT_HEADER)}
        if said.keys() != {ERASURE_HEADER, TENANT_HEADER}:
            return  # somebody else's: the interaction may stand elsewhere
        erasure_id = said[ERASURE_HEADER]
        ours = erasure_id if erasure_id in self.found else self._by_tenant.get(said[TENANT_HEADER])
        try:
            recorded_id = str(UUID((record.key or b"").decode()))
        except ValueError:
            return  # a marker
        if ours is not None:
            self._erased_ids.setdefault(recorded_id, ours)

    def _note(self, name: str, partition: int, erasure_id: str, newest_ms: int) -> None:
        found = self.found[erasure_id]
        found.touched[name].add(partition)
        found.newest_ms = max(found.newest_ms, newest_ms)

    def unreadable(self) -> dict[str, int]:
        """How many records by topic are nobody's, as far as anybody can say."""
        return {name: len(records) for name, records in sorted(self._unreadable.items()) if records}

    def unreadable_ms(self) -> dict[str, int]:
        """The newest of them."""
        return {name: max(records.values()) for name, records in self._unreadable.items() if records}


def tombstone_header(erasure_id: str, tenant: str) -> list[tuple[str, bytes]]:
    """What a tombstone of ours says of itself."""
    return [(ERASURE_HEADER, erasure_id.encode()), (TENANT_HEADER, tenant.encode())]


# What follows.


@dataclass(frozen=True, slots=True)
class Told:
    """What records-erased-v1 says of an erasure by now."""

    passes: int
    at: datetime
    finished: bool


def told_by(earlier: Told | None, event: RecordsErased) -> Told:
    """With one more event, in whatever order they come."""
    now = Told(event.pass_number, event.erased_at, event.stage == "finished")
    if earlier is None:
        return now
    return Told(max(earlier.passes, now.passes), max(earlier.at, now.at), earlier.finished or now.finished)


def due_at(request: ErasureRequested, told: Told | None, settle: timedelta) -> datetime:
    """When the next pass is worth its while."""
    return datetime.min.replace(tzinfo=UTC) if told is None else max(told.at, request.requested_at) + settle


def next_stage(
    request: ErasureRequested, told: Told | None, found: Found, *, began_at: datetime, settle: timedelta
) -> Literal["tombstoned", "finished"] | datetime:
    """What to tell after a pass, or when the next one is due: what is seen may be the work of a pass that was cut short."""
    if told is None or found.live.total():
        return "tombstoned"
    # A writer's clock may be ahead of ours; one that is far ahead is wrong, and nobody waits for it.
    newest = min(moment(found.newest_ms), told.at + _CLOCKS_APART)
    settled_at = max(told.at, request.requested_at, newest) + settle
    return "finished" if began_at >= settled_at else settled_at


def account(
    erasure_id: str,
    request: ErasureRequested,
    told: Told | None,
    *,
    stage: Literal["tombstoned", "finished"],
    search: Search,
    lives: Mapping[str, Life],
    at: datetime,
) -> RecordsErased:
    """What is told of a pass."""
    found = search.found[erasure_id]
    ends = {name: _ends_by(newest_ms, lives[name]) for name, newest_ms in {**search.unreadable_ms(), **found.lasting_ms}.items()}
    return RecordsErased(
        tenant=request.tenant,
        target_model=request.target_model,
        erasure_id=erasure_id,
        stage=stage,
        pass_number=(told.passes if told else 0) + 1,
        erased={name: count for name, count in sorted(found.live.items()) if count},
        touched={name: tuple(sorted(partitions)) for name, partitions in sorted(found.touched.items())},
        ends_by=dict(sorted(ends.items())),
        unreadable=search.unreadable(),
        gone_by=_gone_by(found.touched, lives, at) if stage == "finished" else None,
        erased_at=at,
    )


def _ends_by(newest_ms: int, life: Life) -> datetime | None:
    # The segment's last record has to be too old: it may be so much younger than this one.
    return None if life.retention is None else moment(newest_ms) + life.retention + life.segment + life.files


def _gone_by(touched: Iterable[str], lives: Mapping[str, Life], at: datetime) -> datetime | None:
    # Also where nothing is seen any more, a file may stay under another name for a minute.
    latest = at + _CLEANING
    for name in touched:
        life = lives[name]
        if life.compaction is None:
            return None
        latest = max(latest, at + life.compaction + life.files + _CLEANING)
    return latest
