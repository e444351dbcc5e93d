"""By which names a record can be known, read out of its bytes, whether or not they are a valid event. Pure.

A dead letter may be invalid, and still somebody's: so every name stands for itself, and one that is not there is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson

from ruminate.schemas.envelope import derive_event_id_text, moment
from ruminate.schemas.erasure import Names
from ruminate.schemas.flow import (
    ANSWER_NOTED,
    EVIDENCE_RECORDED,
    FEEDBACK_GIVEN,
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    LESSON_NOTED,
    REASONING_ASSESSED,
)

_DERIVED: Final = frozenset({EVIDENCE_RECORDED.name, ANSWER_NOTED.name, LESSON_NOTED.name})


@dataclass(frozen=True, slots=True)
class Glimpse:
    """Whose a record is."""

    names: Names
    said_of_it: bool = False
    """Whether it is about the interaction of these ids, and not the interaction itself."""


def glimpse(topic: str, value: bytes, headers: Iterable[tuple[str, bytes]], *, timestamp_ms: int) -> Glimpse | None:
    """What a record of this topic of the flow says; None where it is no JSON object, so that nobody can say whose it is."""
    try:
        said = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    if topic == REASONING_ASSESSED.name and isinstance(said, dict):
        said = said.get("interaction")
    if not isinstance(said, dict):
        return None
    at = moment(timestamp_ms)
    if topic in _DERIVED:
        return _derived(said, at)
    if topic == FEEDBACK_GIVEN.name:
        return _feedback(said, at)
    return _interaction(said, at, source=_source(headers) if topic == INTERACTION_COMPLETED.name else _text(said, "source"))


def _interaction(said: Mapping[str, Any], at: datetime, *, source: str | None) -> Glimpse:
    tenant, interaction_id = _tenant(said), _text(said, "interaction_id")
    recorded_id = _id(said, "recorded_id") or _recorded_id(tenant, source, interaction_id)
    target = _text(said, "target_model")
    names = Names(
        tenant=tenant,
        occurred_at=min(at, _time(said, "occurred_at") or at),
        target=None if target is None else target.removesuffix(":latest") or target,
        recorded_id=recorded_id,
        interaction_id=interaction_id,
        source=source,
        conversation_id=_text(said, "conversation_id"),
        agent=_text(said, "agent"),
        continues_interaction=_text(said, "continues_interaction"),
    )
    return Glimpse(names)


def _feedback(said: Mapping[str, Any], at: datetime) -> Glimpse:
    tenant, interaction_id, source = _tenant(said), _text(said, "interaction_id"), _text(said, "interaction_source")
    names = Names(
        tenant=tenant,
        occurred_at=min(at, _time(said, "given_at") or at),
        recorded_id=_recorded_id(tenant, source, interaction_id),
        interaction_id=interaction_id,
        source=source,
        conversation_id=_text(said, "conversation_id"),
    )
    return Glimpse(names, said_of_it=True)


def _derived(said: Mapping[str, Any], at: datetime) -> Glimpse:
    names = Names(
        tenant=_tenant(said),
        occurred_at=min(at, _time(said, "said_at") or _time(said, "occurred_at") or at),
        recorded_id=_id(said, "recorded_id"),
        conversation_id=_text(said, "conversation_id"),
    )
    return Glimpse(names, said_of_it=True)


def _recorded_id(tenant: str, source: str | None, interaction_id: str | None) -> str | None:
    if source is None or interaction_id is None:
        return None
    return derive_event_id_text(tenant=tenant, cause_source=source, cause_id=interaction_id, topic=INTERACTION_RECORDED.name)


def _source(headers: Iterable[tuple[str, bytes]]) -> str | None:
    found = next((raw for name, raw in headers if name.lower() == "ce_source" and raw), None)
    return None if found is None else found.decode(errors="replace")


def _tenant(said: Mapping[str, Any]) -> str:
    return _text(said, "tenant") or "default"


def _text(said: Mapping[str, Any], name: str) -> str | None:
    found = said.get(name)
    return found if isinstance(found, str) else None


def _id(said: Mapping[str, Any], name: str) -> str | None:
    try:
        return str(UUID(_text(said, name) or ""))
    except ValueError:
        return None


def _time(said: Mapping[str, Any], name: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(_text(said, name) or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
