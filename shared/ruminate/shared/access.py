"""Who may do what at the broker: each service its own work and nothing else, as the flow says. Pure.

    written by it        Write                     read by it           Read
    its dead letters     Write                     its retries          Read
    its group            Read                      its transactions     Write, on ids that begin with ruminate-<service>-

The eraser reads what holds texts and writes tombstones there; the monitor reads everything.

Topics are created and changed by operators, never by a service. Read and Write imply Describe, and an idempotent producer
needs nothing beside Write (Kafka 3.0 and later).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from ruminate.schemas.flow import CHANGELOGS, DERIVED, ERASABLE, FLOW, GROUP_READERS, MONITOR_APP, SERVICES, SIDE_TOPICS, service_of

Resource = Literal["topic", "group", "transactional-id"]
Pattern = Literal["literal", "prefixed"]
Operation = Literal["Read", "Write", "Create", "Describe", "Alter", "DescribeConfigs", "AlterConfigs"]

PEOPLE: Final = ("operators", "agents")
"""Principals that are no service: who types `ruminate`, and who produces interactions."""

_EVERY_TOPIC: Final = (
    *(topic.name for topic in FLOW),
    *(side.name for side in SIDE_TOPICS),
    *(changelog.name for changelog in CHANGELOGS),
)
_ADMINISTRATION: Final[tuple[Operation, ...]] = ("Read", "Create", "Alter", "DescribeConfigs", "AlterConfigs")


@dataclass(frozen=True, order=True)
class Grant:
    """One principal may do some things with one resource, or with all whose names begin so."""

    principal: str
    resource: Resource
    name: str
    pattern: Pattern
    operations: tuple[Operation, ...]


def principal_of(actor: str) -> str:
    """Who a service, `operators` or `agents` is at the broker."""
    return f"User:ruminate-{actor}"


def transactional_ids_of(reader: str) -> str:
    """What the transactional ids of a reader begin with."""
    return f"ruminate-{reader}-"


def grants() -> tuple[Grant, ...]:
    """Everything that anybody may do, a service after the other."""
    return tuple(grant for actor in (*SERVICES, *PEOPLE) for grant in sorted(_merged(principal_of(actor), _wants(actor))))


_Want = tuple[Resource, str, Pattern, Operation]


def _wants(actor: str) -> Iterator[_Want]:
    for topic in FLOW:
        if actor in topic.written_by:
            yield "topic", topic.name, "literal", "Write"
        if actor in topic.read_by:
            yield "topic", topic.name, "literal", "Read"
    for reader, sources in GROUP_READERS.items():
        if service_of(reader) != actor:
            continue
        for source in sources:
            yield "topic", source.dead_letters(reader).name, "literal", "Write"
            yield "topic", source.retries(reader).name, "literal", "Read"
        yield "group", reader, "literal", "Read"
    if actor in GROUP_READERS:
        yield "transactional-id", transactional_ids_of(actor), "prefixed", "Write"  # those of its further groups begin so, too
    if actor == "monitor":
        yield from _monitor_wants()
    if actor == "eraser":
        yield from _eraser_wants()
    if actor == "operators":
        yield from _operator_wants()


def _monitor_wants() -> Iterator[_Want]:
    """It looks at everything, and asks how far behind the others are."""
    for name in _EVERY_TOPIC:
        yield "topic", name, "literal", "Read"
    for changelog in CHANGELOGS:
        yield "topic", changelog.name, "literal", "Write"
    yield "group", MONITOR_APP, "literal", "Read"
    for reader in GROUP_READERS:
        yield "group", reader, "literal", "Describe"


def _eraser_wants() -> Iterator[_Want]:
    """It looks for what is to be forgotten wherever texts lie, takes it away, and asks how long the rest stays."""
    for topic in FLOW:
        if topic.holds_texts or topic in DERIVED:
            yield from (("topic", topic.name, "literal", operation) for operation in ("Read", "DescribeConfigs"))
    for topic in ERASABLE:
        yield "topic", topic.name, "literal", "Write"
    for side in SIDE_TOPICS:
        if side.holds_texts:
            yield from (("topic", side.name, "literal", operation) for operation in ("Read", "DescribeConfigs"))
            if "compact" in side.cleanup:
                yield "topic", side.name, "literal", "Write"


def _operator_wants() -> Iterator[_Want]:
    """They create and change topics, look at everything, and settle dead letters: sent back, or a tombstone."""
    for name in _EVERY_TOPIC:
        for operation in _ADMINISTRATION:
            yield "topic", name, "literal", operation
    for side in SIDE_TOPICS:
        yield "topic", side.name, "literal", "Write"
    for group in (*GROUP_READERS, MONITOR_APP):
        yield "group", group, "literal", "Describe"


def _merged(principal: str, wants: Iterator[_Want]) -> Iterator[Grant]:
    operations: defaultdict[tuple[Resource, str, Pattern], set[Operation]] = defaultdict(set)
    for resource, name, pattern, operation in wants:
        operations[resource, name, pattern].add(operation)
    for (resource, name, pattern), granted in operations.items():
        yield Grant(principal, resource, name, pattern, tuple(sorted(granted)))
