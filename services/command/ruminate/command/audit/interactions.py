"""Interactions from completed to assessed: who owes what, and who has it. Pure.

    completed  -- collector -->  recorded  -- assessor -->  assessed  -- accumulator -->  a batch's manifest

A row of integers an interaction, named by its recorded id: 250 bytes, so that ten million fit into 3 GB. The columns are
arrays, a place in the log is one integer, -1 is absent. The first record of an id counts; what comes under it again is
compared by its digest.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from ruminate.command.audit import facts
from ruminate.command.audit.debts import OWED, PENDING, TOO_OLD, Debts, judge_unreadable
from ruminate.command.audit.findings import Findings
from ruminate.command.audit.letters import Input
from ruminate.command.audit.snapshot import Snapshot
from ruminate.schemas.envelope import moment
from ruminate.schemas.flow import INTERACTION_COMPLETED, INTERACTION_RECORDED, REASONING_ASSESSED
from ruminate.schemas.topic import Topic
from ruminate.shared.record import Position, Record

ABSENT: Final = -1
GIVEN_UP: Final = 0
"""In place of a digest: its reader made a dead letter of it, so it is there and states no fact. A later record may."""

# Bits of a row. The first two triples are what the collector and the assessor owe.
RECORD_SHIFT, VERDICT_SHIFT = 0, 3
_SHIFTS: Final = {INTERACTION_COMPLETED.name: RECORD_SHIFT, INTERACTION_RECORDED.name: VERDICT_SHIFT}
ALLOWED, ODD_RECORDED, ODD_ASSESSED, ERASED, SENT_BACK, PASSED_ON, STANDS = 64, 128, 256, 512, 1024, 2048, 4096
FORBIDDEN, DECIDED = 8192, 16384

_PARTITION_SHIFT = 48
_OFFSET_MASK = (1 << _PARTITION_SHIFT) - 1


def packed(partition: int, offset: int) -> int:
    """A place in a topic as one integer."""
    return partition << _PARTITION_SHIFT | offset


def unpacked(topic: str, place: int) -> Position:
    """And back."""
    return Position(topic, place >> _PARTITION_SHIFT, place & _OFFSET_MASK)


@dataclass(frozen=True, slots=True)
class Judged:
    """One record of the assessed log, as far as a dataset's row speaks of it."""

    row: int
    revision: int
    line: int
    allowed: bool


@dataclass(slots=True)
class ChainLog:
    """Where the records of one tenant and target stand in their partition."""

    partition: int
    offsets: array[int] = field(default_factory=lambda: array("q"))

    def between(self, after: int, to: int) -> array[int]:
        """The offsets in (after, to]."""
        return self.offsets[bisect_right(self.offsets, after) : bisect_right(self.offsets, to)]

    def holds(self, offset: int) -> bool:
        """Whether a record of this chain stands there."""
        at = bisect_right(self.offsets, offset)
        return at > 0 and self.offsets[at - 1] == offset


@dataclass(frozen=True, slots=True)
class _SentBack:
    """A record on a retry topic, and the row of the interaction that it speaks of."""

    topic: Topic[Any]
    given: Input
    at_ms: int
    row: int | None


class Interactions:
    """All of them. Take the topics in the order of the flow, then `judge`."""

    def __init__(self, snapshot: Snapshot, debts: Debts, findings: Findings) -> None:
        self._snapshot = snapshot
        self._debts = debts
        self._findings = findings
        self.erasures = facts.Erased()
        self.chains: dict[tuple[str, str], ChainLog] = {}
        self._rows: dict[bytes, int] = {}
        self._flags = array("H")
        self._completed = array("q")
        self._completed_digest = array("Q")
        self._recorded = array("q")
        self._recorded_digest = array("Q")
        self._born_ms = array("q")
        self._assessed = array("q")
        self._assessed_digest = array("Q")
        self._line = array("Q")
        self._rules = array("H")
        self._tenant = array("I")
        self.fresh_in = array("i")
        self._known_rules: dict[tuple[str, str], int] = {}
        self._tenants: dict[str, int] = {}
        self._later: dict[int, Judged] = {}  # by place: records of the assessed log that are not the first of their row
        self._revision: dict[int, int] = {}  # of the first record of a row, where it is not 0
        self._odd_ids: dict[tuple[str, int], bytes] = {}
        self._sent_back: list[_SentBack] = []
        self._owed_on_retry: dict[tuple[int, int], Position] = {}  # by row and shift
        self._otherwise: defaultdict[int, list[tuple[Position, int | None]]] = defaultdict(list)
        """By row: where an interaction was completed once more in other bytes, and what those say."""
        self._erased: defaultdict[str, set[bytes]] = defaultdict(set)

    # Rows.

    def find(self, recorded_id: bytes) -> int | None:
        """The row of an interaction."""
        return self._rows.get(recorded_id)

    def row(self, recorded_id: bytes) -> int:
        """The row of an interaction, made where there is none."""
        row = self._rows.get(recorded_id)
        if row is None:
            row = self._rows[recorded_id] = len(self._rows)
            for places in (self._completed, self._recorded, self._assessed, self.fresh_in):
                places.append(ABSENT)
            for zeros in (self._flags, self._completed_digest, self._recorded_digest, self._born_ms, self._assessed_digest):
                zeros.append(0)
            self._line.append(facts.NO_ROW)
            self._rules.append(0)
            self._tenant.append(0)
        return row

    # Taking records in.

    def take_completed(self, record: Record) -> None:
        """An interaction was completed: the collector owes a record."""
        topic = INTERACTION_COMPLETED
        given = Input("collector", topic.name, record.partition, record.offset)
        debt = self._debts.of(topic, given, record.timestamp)
        fact = facts.completed(record, self.erasures)
        if fact is None:
            judge_unreadable(self._findings, given, debt)
            return
        row = self.row(fact.recorded_id)
        self._flags[row] |= debt << RECORD_SHIFT | (ERASED if fact.erased else 0)
        given_up = self._debts.given_up(given)
        if self._completed_digest[row] == GIVEN_UP:
            self._completed[row] = packed(record.partition, record.offset)
            self._completed_digest[row] = GIVEN_UP if given_up else fact.digest
        elif self._completed_digest[row] != fact.digest and debt == OWED:
            self._otherwise[row].append((given.position, facts.content(record.value)))
        elif not given_up:
            self._findings.topics[topic.name].repeats += 1

    def take_recorded(self, record: Record) -> None:
        """An interaction was recorded: the assessor owes a verdict."""
        topic = INTERACTION_RECORDED
        if self._is_tombstone(topic.name, record):
            return
        given = Input("assessor", topic.name, record.partition, record.offset)
        debt = self._debts.of(topic, given, record.timestamp)
        fact = facts.recorded(record)
        if fact is None:
            judge_unreadable(self._findings, given, debt)
            return
        row, odd = self.find(fact.event_id), False
        if row is None or not self._has_cause(row):
            row, odd = self.row(fact.derived_id), fact.derived_id != fact.event_id
        self._flags[row] |= debt << VERDICT_SHIFT
        position = Position(topic.name, record.partition, record.offset)
        given_up = self._debts.given_up(given)
        if not fact.placed and not given_up:
            self._findings.accuse("wrong_partition", position, _text(fact.event_id), "its conversation is in another partition")
        if self._recorded_digest[row] == GIVEN_UP:
            self._recorded[row] = packed(record.partition, record.offset)
            self._recorded_digest[row] = GIVEN_UP if given_up else fact.digest
            self._born_ms[row] = fact.born_ms
            self._flags[row] = self._flags[row] & ~FORBIDDEN | (0 if fact.allowed else FORBIDDEN)
            self._tenant[row] = self._tenants.setdefault(fact.tenant, len(self._tenants))
            if odd and not given_up:
                self._flags[row] |= ODD_RECORDED
                self._odd_ids[topic.name, row] = fact.event_id
            if row in self._otherwise:
                self._compare_completed(row, fact.event_id, facts.content(record.value))
        elif not given_up and self._same_id(topic.name, row, fact.event_id, odd=odd, first_odd=ODD_RECORDED, position=position):
            self._compare(topic.name, position, fact.event_id, same=self._recorded_digest[row] == fact.digest)

    def take_assessed(self, record: Record) -> None:
        """An interaction was judged: the accumulator owes it a place in a manifest."""
        topic = REASONING_ASSESSED
        if self._is_tombstone(topic.name, record):
            return
        given = Input("accumulator", topic.name, record.partition, record.offset)
        fact = facts.assessed(record)
        if fact is None:
            judge_unreadable(self._findings, given, self._debts.of(topic, given, record.timestamp))
            return
        row = self.row(fact.recorded_id)
        position = Position(topic.name, record.partition, record.offset)
        given_up = self._debts.given_up(given)
        if fact.placed:
            if not given_up:
                chain = self.chains.setdefault((fact.tenant, fact.target), ChainLog(record.partition))
                chain.offsets.append(record.offset)
                self._flags[row] |= STANDS
        elif not given_up:
            self._findings.accuse(
                "wrong_partition", position, _text(fact.event_id), "its tenant and target are in another partition"
            )
        allowed = fact.allowed and not self._flags[row] & FORBIDDEN
        rules = self._known_rules.setdefault(fact.rules, len(self._known_rules))
        if self._assessed_digest[row] == GIVEN_UP:
            self._assessed[row] = packed(record.partition, record.offset)
            self._assessed_digest[row] = GIVEN_UP if given_up else fact.digest
            self._line[row] = fact.row
            self._rules[row] = rules
            if self._recorded[row] == ABSENT:
                self._born_ms[row] = record.timestamp
            self._flags[row] = self._flags[row] & ~ALLOWED | (ALLOWED if allowed else 0)
            self._revision.pop(row, None)
            if fact.revision:
                self._revision[row] = fact.revision
            if not fact.derived and not given_up:
                self._flags[row] |= ODD_ASSESSED
                self._odd_ids[topic.name, row] = fact.event_id
            return
        self._later[packed(record.partition, record.offset)] = Judged(row, fact.revision, fact.row, allowed)
        if given_up or fact.revision != self._revision.get(row, 0):
            return
        odd = not fact.derived
        if self._same_id(topic.name, row, fact.event_id, odd=odd, first_odd=ODD_ASSESSED, position=position):
            # Other rules judge otherwise: that is a choice of ours, made between two deliveries of one record.
            self._compare(
                topic.name,
                position,
                fact.event_id,
                same=self._assessed_digest[row] == fact.digest,
                superseded=self._rules[row] != rules,
            )

    def take_sent_back(self, topic: Topic[Any], given: Input, record: Record) -> None:
        """A dead letter was sent back: what its reader owes for it is owed from there on."""
        row: int | None = None
        if topic.name == INTERACTION_COMPLETED.name:
            if (completed := facts.completed(record, self.erasures)) is not None:
                row = self.row(completed.recorded_id)
                self._flags[row] |= SENT_BACK
        elif topic.name == INTERACTION_RECORDED.name:
            if (recorded := facts.recorded(record)) is not None:
                row = self.row(recorded.event_id)
        elif (assessed := facts.assessed(record)) is not None:
            row = self.row(assessed.recorded_id)
        self._sent_back.append(_SentBack(topic, given, record.timestamp, row))

    def _owe_what_was_sent_back(self) -> None:
        # Only now: what was sent back and is dead again may have been sent back once more, by a record behind it.
        for each in self._sent_back:
            debt = self._debts.of(each.topic, each.given, each.at_ms)
            if each.row is None:
                judge_unreadable(self._findings, each.given, debt)
                continue
            shift = _SHIFTS.get(each.topic.name)
            if shift is not None:
                self._flags[each.row] |= debt << shift
            elif debt == OWED:
                # The place in the log matters to the accumulator, so it puts the event on the topic once more.
                self._flags[each.row] |= PASSED_ON
            if debt == OWED:
                self._owed_on_retry[each.row, PASSED_ON if shift is None else shift] = each.given.position

    def _is_tombstone(self, topic: str, record: Record) -> bool:
        if record.value is not None or record.key is None:
            return False
        event_id = record.key.decode(errors="replace")
        self._erased[topic].add(facts.id_bytes(event_id))
        self._findings.set_apart("erased", f"{topic} {record.partition}:{record.offset} {event_id}")
        return True

    def _same_id(self, topic: str, row: int, event_id: bytes, *, odd: bool, first_odd: int, position: Position) -> bool:
        """Whether this event has the id of the first of its subject; two ids are a fault."""
        first = self._odd_ids.get((topic, row)) if self._flags[row] & first_odd else None
        if first == event_id or (first is None and not odd):
            return True
        self._flags[row] &= ~first_odd  # said by this fault
        self._findings.accuse("two_ids", position, _text(event_id), "the same interaction stands under another id before it")
        return False

    def _compare(self, topic: str, position: Position, event_id: bytes, *, same: bool, superseded: bool = False) -> None:
        counts = self._findings.topics[topic]
        if same:
            counts.repeats += 1
        elif superseded:
            counts.superseded += 1
        else:
            self._findings.accuse("two_contents", position, _text(event_id), "an earlier record of this id has other bytes")

    def _compare_completed(self, row: int, recorded_id: bytes, recorded: int | None) -> None:
        """Said again, what is recorded is a repeat, however it is spelled; anything else owes a dead letter."""
        for position, said in self._otherwise.pop(row):
            if said is not None and said == recorded:
                self._findings.topics[position.topic].repeats += 1
            elif not self._flags[row] & ERASED:
                detail = "collector has acknowledged it with other content than was recorded, and made no dead letter of it"
                self._findings.accuse("missing_effect", position, _text(recorded_id), detail)

    # Judging.

    def judge(self) -> None:
        """Say for every interaction what is missing, and what has no cause."""
        self._owe_what_was_sent_back()
        for recorded_id, row in self._rows.items():
            flags = self._flags[row]
            if flags & ERASED or recorded_id in self._erased[INTERACTION_RECORDED.name]:
                if flags & ERASED:
                    self._findings.set_apart("erased", f"{INTERACTION_RECORDED.name} {_text(recorded_id)}")
                continue
            if self._recorded[row] == ABSENT:
                self._judge_debt(row, recorded_id, flags >> RECORD_SHIFT, "collector", RECORD_SHIFT)
                if self._assessed_digest[row] != GIVEN_UP:
                    self._judge_cause(REASONING_ASSESSED, self._assessed[row], row, recorded_id, INTERACTION_RECORDED)
                continue
            self._judge_recorded(row, recorded_id, flags)
            if self._assessed[row] == ABSENT:
                if not self._verdict_erased(row, recorded_id):
                    self._judge_debt(row, recorded_id, flags >> VERDICT_SHIFT, "assessor", VERDICT_SHIFT)
            elif flags & ODD_ASSESSED:
                self._accuse_id(REASONING_ASSESSED.name, row, self._assessed[row])
            if flags & PASSED_ON and not flags & STANDS:
                detail = f"accumulator has acknowledged it and did not put it on {REASONING_ASSESSED.name} once more"
                self._findings.accuse("missing_effect", self._owed_on_retry[row, PASSED_ON], _text(recorded_id), detail)

    def _judge_debt(self, row: int, recorded_id: bytes, debt: int, reader: str, shift: int) -> None:
        if shift == RECORD_SHIFT:
            name, effect, place = INTERACTION_COMPLETED.name, INTERACTION_RECORDED.name, self._completed[row]
        else:
            name, effect, place = INTERACTION_RECORDED.name, REASONING_ASSESSED.name, self._recorded[row]
        if debt & OWED:
            position = self._owed_on_retry.get((row, shift)) or unpacked(name, place)
            detail = f"{reader} has acknowledged it; {effect} has nothing of it, and no dead letter explains that"
            self._findings.accuse("missing_effect", position, _text(recorded_id), detail)
        elif debt & TOO_OLD:
            position = unpacked(name, place)
            says = f"{name} {position.partition}:{position.offset} has no effect, and its dead letter may have expired"
            self._findings.set_apart("older", says)
        elif debt & PENDING:
            self._findings.pending[reader] += 1

    def _judge_recorded(self, row: int, recorded_id: bytes, flags: int) -> None:
        if self._has_cause(row):
            if flags & ODD_RECORDED:
                self._accuse_id(INTERACTION_RECORDED.name, row, self._recorded[row])
        elif self._recorded_digest[row] != GIVEN_UP:
            self._judge_cause(INTERACTION_RECORDED, self._recorded[row], row, recorded_id, INTERACTION_COMPLETED)

    def _judge_cause(self, topic: Topic[Any], place: int, row: int, recorded_id: bytes, cause: Topic[Any]) -> None:
        """There is none: it was forgotten, or it never was."""
        if self._snapshot.may_have_lost(cause.name, self._born_ms[row]):
            born = moment(self._born_ms[row]).isoformat(timespec="seconds")
            self._findings.set_apart("older", f"{topic.name} {_text(recorded_id)} of {born}")
        else:
            detail = f"{cause.name} holds no cause of it"
            self._findings.accuse("unknown_cause", unpacked(topic.name, place), _text(recorded_id), detail)

    def _accuse_id(self, topic: str, row: int, place: int) -> None:
        event_id = _text(self._odd_ids[topic, row])
        self._findings.accuse("id_not_derived", unpacked(topic, place), event_id, "its cause gives another id")

    def _has_cause(self, row: int) -> bool:
        return self._completed[row] != ABSENT or bool(self._flags[row] & SENT_BACK)

    def _verdict_erased(self, row: int, recorded_id: bytes) -> bool:
        erased = self._erased[REASONING_ASSESSED.name]
        if not erased:
            return False
        tenant = list(self._tenants)[self._tenant[row]]
        return facts.assessed_id(tenant, UUID(bytes=recorded_id), 0) in erased

    # What datasets say of them.

    def at(self, place: int, row: int) -> Judged | None:
        """The assessment of this interaction that stands at a place of the assessed log."""
        if self._assessed[row] == place:
            allowed = bool(self._flags[row] & ALLOWED)
            return Judged(row, self._revision.get(row, 0), self._line[row], allowed)
        later = self._later.get(place)
        return later if later is not None and later.row == row else None

    def anywhere(self, row: int, revision: int | None = None) -> Judged | None:
        """The assessment of this revision, or any, wherever it stands: compaction leaves the last of equal records."""
        if self._assessed[row] != ABSENT and revision in (None, self._revision.get(row, 0)):
            return self.at(self._assessed[row], row)
        return next((each for each in self._later.values() if each.row == row and revision in (None, each.revision)), None)

    def assessed_id(self, row: int, tenant: str, recorded_id: UUID, revision: int) -> bytes:
        """The id under which that assessment stands in the log."""
        odd = self._odd_ids.get((REASONING_ASSESSED.name, row))
        return odd if odd is not None else facts.assessed_id(tenant, recorded_id, revision)

    def decide(self, row: int) -> None:
        """A manifest says what became of this interaction."""
        self._flags[row] |= DECIDED

    def is_decided(self, row: int) -> bool:
        """Whether any manifest has said it."""
        return bool(self._flags[row] & DECIDED)

    def is_taken(self, partition: int, offset: int) -> bool:
        """Whether any record stands at this place of the assessed log."""
        return any(chain.partition == partition and chain.holds(offset) for chain in self.chains.values())


def _text(event_id: bytes) -> str:
    return str(UUID(bytes=event_id))
