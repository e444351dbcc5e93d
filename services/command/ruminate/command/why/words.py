"""How a lineage speaks of what it meets again and again: events, moments, counts, and lines that are no fresh rows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ruminate.accumulator.making.manifest import PairOrigin, QuestionOrigin, Rehearsed
from ruminate.command.datasets.files import CHECKS, DATA_FILES, PAIRS
from ruminate.command.why.facts import Heard, LinePlace
from ruminate.command.why.tree import Node
from ruminate.shared.record import Position


def event_node(kind: str, says: str, heard: Heard[Any], *, children: Sequence[Node] = (), **facts: Any) -> Node:
    """A step that an event tells, with where in the log it stands."""
    place = position_said(heard.position)
    where = {"event_id": heard.event_id, "source": heard.source, "place": place, "at": heard.at.isoformat()}
    return Node(kind, f"{says}  [{place}]", where | facts, children)


def position_said(position: Position) -> str:
    """Topic, partition and offset."""
    return f"{position.topic} {position.partition}:{position.offset}"


def time_said(moment: datetime) -> str:
    """To the second, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def in_detail(counts: Mapping[str, int]) -> str:
    """Counts by name, in brackets behind their sum; nothing where there are none."""
    listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f" ({listed})" if listed else ""


def line_said(place: LinePlace) -> str:
    """Which line of which batch it is."""
    return f"{place.batch.batch_id}: line {place.line} of {DATA_FILES[place.file].path}"


def origin_said(place: LinePlace) -> str:
    """What a line is that is no fresh row."""
    origin = place.origin
    match origin:
        case Rehearsed(origin="replay"):
            return f"rehearsed, fresh as {origin.named}:{origin.line + 1}, {'reasoning' if origin.reasoning else 'direct'}"
        case Rehearsed():
            return f"an anchor, row {origin.line + 1} of {origin.named}, {'reasoning' if origin.reasoning else 'direct'}"
        case PairOrigin():
            return f"a pair: {PAIRS[origin.kind]}"
        case _:
            held_out = place.file == "verifiable-holdout"
            return f"a question {'to measure on, never practised' if held_out else 'for practice'}, {check_said(origin)}"


def check_said(origin: object) -> str:
    """By what answers to a question are checked."""
    return f"checked by {CHECKS[origin.kind]}" if isinstance(origin, QuestionOrigin) else "checked"


def line_facts(place: LinePlace) -> dict[str, Any]:
    """A line that is no fresh row, for programs."""
    facts: dict[str, Any] = {
        "line_name": place.name,
        "batch_id": place.batch.batch_id,
        "number": place.batch.number,
        "file": DATA_FILES[place.file].path,
        "line": place.line,
        "sha256": place.origin.sha256,
        "recorded_ids": [str(named.recorded_id) for named in place.records],
    }
    if isinstance(place.origin, Rehearsed):
        return facts | {"origin": place.origin.origin, "fresh_in": place.origin.named, "fresh_line": place.origin.line + 1}
    return facts | {"kind": getattr(place.origin, "kind", None)}
