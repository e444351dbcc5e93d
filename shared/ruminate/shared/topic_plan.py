"""What would have to change at a broker for its topics to be what the flow says. Pure.

    wanted (the flow)  +  found (the broker)  ->  create, change, refuse, leave alone

A setting that the flow does not name is left to whoever set it. What costs records or breaks an order is refused and says the
way out: fewer partitions, more of them on a topic whose order is by key, a shorter life, smaller records, another replication.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final

from ruminate.schemas.flow import CHANGELOGS, DERIVED, FLOW, MONITOR_APP, SERVICES
from ruminate.schemas.topic import COMPACTION_LAG, MEBIBYTE, SEGMENT_SPAN, TOMBSTONES_STAY, SideTopic, Topic

AnyTopic = Topic[Any] | SideTopic

CLEANUP: Final = "cleanup.policy"
RETENTION: Final = "retention.ms"
RETENTION_BYTES: Final = "retention.bytes"
MESSAGE_BYTES: Final = "max.message.bytes"
IN_SYNC: Final = "min.insync.replicas"
SEGMENT: Final = "segment.ms"
LONGEST_LAG: Final = "max.compaction.lag.ms"
TOMBSTONES: Final = "delete.retention.ms"
LIFE: Final = frozenset({CLEANUP, RETENTION, RETENTION_BYTES})
"""Settings that mean something only together: all of them are changed, or none."""

_FOREVER: Final = "-1"
_NO_LIMIT_MS: Final = 2**62
"""Kafka's own default is the largest number of 64 bits."""
_REPLICAS_FOR_TWO_IN_SYNC: Final = 3

_STEMS: Final = "|".join(sorted(re.escape(re.sub(r"-v\d+$", "", topic.name)) for topic in FLOW))
_OURS: Final = re.compile(
    rf"(?:{_STEMS})-v\d+(?:-.+)?|.+-v\d+-(?:{'|'.join(SERVICES)})(?:-[a-z]+)?-(?:dlq|retry)|{re.escape(MONITOR_APP)}-.+-changelog"
)
"""Names that look as if we had given them: another version of a topic, a side topic of one, a changelog."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A topic as it is at the broker."""

    partitions: int
    replication: int
    """Of the partition that has the fewest replicas."""
    settings: Mapping[str, str]
    """Every setting in force, wherever it comes from; empty where the broker has no settings to show."""
    set_by_hand: frozenset[str] = frozenset()
    """Settings of the topic itself, among them our own."""
    offsets: int = 0
    """Offsets ever given in it; 0 means that it was never written to."""
    records: int = 0
    """Offsets that are still in the log."""
    older_records: int = 0
    """Of these, how many are older than the retention that the flow asks for."""


@dataclass(frozen=True, kw_only=True)
class Creation:
    """A topic that is missing."""

    name: str
    partitions: int
    replication: int
    settings: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference that costs nothing. `what` is a setting, or `partitions`."""

    name: str
    what: str
    old: str
    new: str


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One difference that would cost records or an order: why, and the way out."""

    name: str
    what: str
    old: str
    new: str
    why: str
    instead: str


@dataclass(frozen=True, kw_only=True)
class Left:
    """A setting, or a replication, that is not what the flow would choose and is left to whoever chose it."""

    name: str
    what: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that differs."""

    creations: tuple[Creation, ...] = ()
    changes: tuple[Change, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    left: tuple[Left, ...] = ()
    unowned: tuple[str, ...] = ()
    """Topics with names like ours that nothing reads or writes any more."""

    @property
    def to_do(self) -> int:
        """Topics to create or to change."""
        return len(self.creations) + len({change.name for change in self.changes})

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def settings_of(topic: AnyTopic, *, replication: int) -> dict[str, str]:
    """What the flow says about a topic, in the broker's words."""
    settings = {MESSAGE_BYTES: str(topic.max_message_bytes)}
    if isinstance(topic, SideTopic):
        settings[CLEANUP] = topic.cleanup
        if "delete" in topic.cleanup:
            settings[RETENTION] = _milliseconds(topic.retention)
    elif topic.cleanup == "compact":
        settings[CLEANUP] = "compact"
    elif topic.retention is not None:
        settings |= {CLEANUP: "delete", RETENTION: _milliseconds(topic.retention)}
    else:
        # Also where the broker's own default is a limit in bytes.
        settings |= {CLEANUP: "delete", RETENTION: _FOREVER, RETENTION_BYTES: _FOREVER}
    if topic.holds_texts or topic in DERIVED:
        # What has to be erased must not wait for a segment that takes a week to fill, nor for a log that is half garbage.
        settings[SEGMENT] = _milliseconds(SEGMENT_SPAN)
        if "compact" in topic.cleanup:
            settings |= {LONGEST_LAG: _milliseconds(COMPACTION_LAG), TOMBSTONES: _milliseconds(TOMBSTONES_STAY)}
    if replication >= _REPLICAS_FOR_TWO_IN_SYNC:
        settings[IN_SYNC] = "2"
    return settings


def retention_of(settings: Mapping[str, str]) -> int | None:
    """For how many milliseconds a record stays for certain; None for ever (by time; its key may still be written again)."""
    if "delete" not in settings.get(CLEANUP, "delete"):
        return None
    milliseconds = int(settings.get(RETENTION, _FOREVER))
    return milliseconds if milliseconds >= 0 else None


def plan_topics(
    wanted: Iterable[AnyTopic],
    found: Mapping[str, Found],
    *,
    replication: int,
    changeable: bool = True,
    allow_loss: Collection[str] = (),
) -> Plan:
    """Compare. `changeable` is False where a topic stays as it was created; topics in `allow_loss` may lose records."""
    creations: list[Creation] = []
    differences: list[Change | Refusal | Left] = []
    names = set()
    for topic in wanted:
        names.add(topic.name)
        there = found.get(topic.name)
        if there is None:
            settings = settings_of(topic, replication=replication) if changeable else {}
            creations.append(Creation(name=topic.name, partitions=topic.partitions, replication=replication, settings=settings))
            continue
        differences += _partitions(topic, there, changeable=changeable)
        if changeable:
            differences += _replication(topic, there, replication)
            differences += _settings(topic, there, allow_loss=topic.name in allow_loss)
    return Plan(
        creations=tuple(creations),
        changes=tuple(each for each in differences if isinstance(each, Change)),
        refusals=tuple(each for each in differences if isinstance(each, Refusal)),
        left=tuple(each for each in differences if isinstance(each, Left)),
        unowned=tuple(sorted(name for name in found.keys() - names if _OURS.fullmatch(name))),
    )


def _partitions(topic: AnyTopic, there: Found, *, changeable: bool) -> Iterator[Change | Refusal]:
    if there.partitions == topic.partitions:
        return
    old, new = str(there.partitions), str(topic.partitions)
    more = there.partitions < topic.partitions
    if not changeable:
        why, instead = "the embedded broker changes no topic", "Start it anew: it lives in memory."
    elif more and (there.offsets == 0 or (isinstance(topic, SideTopic) and topic.may_grow)):
        yield Change(name=topic.name, what="partitions", old=old, new=new)
        return
    elif more:
        why = "records that belong together would lie in two partitions, and be read in any order"
        instead = _made_anew(topic) if isinstance(topic, SideTopic) else _second_version(topic)
    else:
        why = "no broker takes partitions away, and what lies in the others would be looked for in the wrong place"
        instead = (
            _made_anew(topic)
            if isinstance(topic, SideTopic)
            else f"If it is empty, delete it and apply again. {_second_version(topic)}"
        )
    yield Refusal(name=topic.name, what="partitions", old=old, new=new, why=why, instead=instead)


def _made_anew(topic: SideTopic) -> str:
    """A side topic needs no successor: what is in it is counted, settled or read, and then it is made anew."""
    name = topic.name
    if topic in CHANGELOGS:
        return f"Stop the monitor, delete {name}, apply again, and start the monitor: what it had counted there begins anew."
    if topic.may_grow:
        return (
            f"Stop the service that fills it, settle what stands there (`ruminate dlq list`), delete {name}, apply again, and "
            "start the service."
        )
    return (
        f"Let its reader empty it (`ruminate status` shows its lag), stop that service, delete {name}, apply again, and start the "
        "service."
    )


def _second_version(topic: Topic[Any]) -> str:
    stem, _, version = topic.name.rpartition("-v")
    successor = f"{stem}-v{int(version) + 1}"
    return (
        f"The way is a new topic: add {successor} to the flow with the partitions that you want, and have both written "
        f"(by: {', '.join(topic.written_by)}). When {topic.name} is read to its end (`ruminate status`), have {successor} read in "
        f"its place (by: {', '.join(topic.read_by) or 'nobody'}). When {topic.name} has no reader, have it written no longer and "
        "delete it."
    )


def _replication(topic: AnyTopic, there: Found, replication: int) -> Iterator[Refusal | Left]:
    if there.replication > replication:
        yield Left(name=topic.name, what="replication", value=str(there.replication))
    elif there.replication < replication:
        yield Refusal(
            name=topic.name,
            what="replication",
            old=str(there.replication),
            new=str(replication),
            why="replicas are moved by Kafka's own reassignment, which copies the whole log and wants a throttle",
            instead=f"Name {replication} brokers for each partition in a file and run kafka-reassign-partitions.sh "
            "--reassignment-json-file FILE --execute, then --verify; then apply again, which sets min.insync.replicas.",
        )


def _settings(topic: AnyTopic, there: Found, *, allow_loss: bool) -> Iterator[Change | Refusal | Left]:
    # By the replicas that it has: two in sync of one could never be written.
    wanted = settings_of(topic, replication=there.replication)
    differing = {name for name, value in wanted.items() if not is_kept(name, there.settings.get(name), value)}
    why_not = {} if allow_loss else _losses(topic, there, wanted, differing)
    for name in sorted(differing):
        old, new = there.settings.get(name, ""), wanted[name]
        if name in why_not:
            yield Refusal(
                name=topic.name,
                what=name,
                old=old,
                new=new,
                why=why_not[name],
                instead=f"Raise what the flow says, or accept it:  ruminate topics apply --allow-loss {topic.name}",
            )
        else:
            yield Change(name=topic.name, what=name, old=old, new=new)
    for name in sorted(there.set_by_hand - wanted.keys()):
        yield Left(name=topic.name, what=name, value=there.settings[name])


def _losses(topic: AnyTopic, there: Found, wanted: Mapping[str, str], differing: set[str]) -> dict[str, str]:
    """By setting: what its change would cost."""
    losses: dict[str, str] = {}
    before, after = retention_of(there.settings), retention_of(wanted)
    if differing & LIFE and after is not None and (before is None or after < before) and there.older_records:
        why = f"{there.older_records} of its {there.records} records are older than {_duration(after)} and would vanish"
        losses |= dict.fromkeys(differing & LIFE, why)
    if MESSAGE_BYTES in differing and there.records and int(there.settings.get(MESSAGE_BYTES, 0)) > topic.max_message_bytes:
        losses[MESSAGE_BYTES] = f"it holds {there.records} records that may be larger, and could not be written again"
    return losses


def is_kept(name: str, old: str | None, new: str) -> bool:
    """Whether a setting keeps what the flow promises: mostly, whether it is the same."""
    if old is None:
        return False
    if name in (SEGMENT, LONGEST_LAG):
        return int(old) <= int(new)  # who wants texts gone sooner keeps our promise, too
    if name == TOMBSTONES:
        return int(old) >= int(new)
    return set(old.split(",")) == set(new.split(",")) if name == CLEANUP else old == new


def _milliseconds(duration: timedelta) -> str:
    return str(duration // timedelta(milliseconds=1))


def plan_lines(plan: Plan) -> Iterator[str]:
    """The plan for people: a sign, what it is about, and each difference under it.

    + is created   ~ is changed   ! is refused   . is left as it is   ? belongs to nothing
    """
    for topic in plan.creations:
        shape = f"{_count(topic.partitions, 'partition')}, replication {topic.replication}"
        yield f"+ {topic.name}  ({shape})"
        for name, value in sorted(topic.settings.items()):
            yield f"      {name} = {spelled(name, value)}"
    for sign, differences in (("~", plan.changes), ("!", plan.refusals)):
        for name, group in _by_name(differences):
            yield f"{sign} {name}"
            for each in group:
                yield f"      {each.what}: {spelled(each.what, each.old)} -> {spelled(each.what, each.new)}"
                if isinstance(each, Refusal):
                    yield f"        refused: {each.why}."
                    yield f"        {each.instead}"
    for left in plan.left:
        yield f". {left.name}  {left.what} = {spelled(left.what, left.value)} is not ours and stays"
    for unowned in plan.unowned:
        yield f"? {unowned}  nothing reads or writes it; when you need it no longer, delete it"
    yield _summary(plan)


def _summary(plan: Plan) -> str:
    if not (plan.to_do or plan.refusals):
        return "Every topic is what the flow says."
    parts = [
        f"{len(plan.creations)} to create",
        f"{plan.to_do - len(plan.creations)} to change",
        f"{len({refusal.name for refusal in plan.refusals})} refused",
    ]
    return f"Topics: {', '.join(parts)}."


def _by_name(differences: Sequence[Change | Refusal]) -> Iterator[tuple[str, list[Change | Refusal]]]:
    for name in dict.fromkeys(each.name for each in differences):
        yield name, [each for each in differences if each.name == name]


def spelled(name: str, value: str) -> str:
    """A value with its unit."""
    if not value:
        return "unset"
    if name in (SEGMENT, LONGEST_LAG, TOMBSTONES):
        return _duration(int(value)) if int(value) < _NO_LIMIT_MS else "no limit"
    if name == RETENTION:
        return _duration(int(value)) if int(value) >= 0 else "for ever"
    if name == RETENTION_BYTES and int(value) < 0:
        return "no limit"
    if name in (MESSAGE_BYTES, RETENTION_BYTES):
        size = int(value)
        return f"{size // MEBIBYTE} MiB" if size % MEBIBYTE == 0 else f"{size} bytes"
    return value


def _duration(milliseconds: int) -> str:
    for unit, length in (("day", 86_400_000), ("hour", 3_600_000), ("second", 1000)):
        if milliseconds >= length and milliseconds % length == 0:
            return _count(milliseconds // length, unit)
    return f"{milliseconds} ms"


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'s' * (number != 1)}"
