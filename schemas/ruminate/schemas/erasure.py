"""Erasure: what has to be forgotten, by everyone who stores, and what became of it.

An erasure is of what *occurred* at or before it was requested; what comes later under the same name is new. A withdrawal of consent
is asked for in the same words and erases nothing: no future batch learns from what it names.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, insort
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple
from uuid import UUID

from pydantic import Field

from ruminate.schemas.interaction import InteractionCompleted
from ruminate.schemas.payload import Count, Name, Payload, Target, Text, Timestamp

Scope = Literal["interaction", "conversation", "agent", "tenant"]
What = Literal["everything", "training"]

ANY_TARGET: Final = "*"


class ErasureRequested(Payload):
    """Somebody has the right to be forgotten: everything that `scope` names is erased."""

    target_model: Target = Field(default=ANY_TARGET, description="`*` for every target.")
    scope: Scope
    subject: Name = Field(description="The id or name within the scope; of a tenant, the tenant's own name once more.")
    requested_by: Name
    requested_at: Timestamp = Field(description="What occurred at or before then is meant.")
    reason: Text = ""
    interaction_source: Name | None = Field(
        default=None, description="For scope `interaction`: ids are unique within their source. Absent: those of every source."
    )
    what: What = Field(
        default="everything",
        description="`everything` is erased; `training`: nothing is erased, and no future batch learns from it.",
    )


class RecordsErased(Payload):
    """A pass over the log has erased what it found of one erasure. `finished`: nothing was left, and compaction may begin."""

    target_model: Target
    erasure_id: Name = Field(description="Id of the event that asked for it.")
    stage: Literal["tombstoned", "finished"]
    pass_number: Count = Field(description="1 for the first pass.")
    erased: dict[Name, Count] = Field(description="Records that got a tombstone in this pass, by topic.")
    touched: dict[Name, tuple[Count, ...]] = Field(
        description="Partitions, by topic, in which the bytes of such records wait for compaction."
    )
    ends_by: dict[Name, Timestamp | None] = Field(
        description="By topic: until when its retention has taken away what no tombstone can; null where it never does."
    )
    unreadable: dict[Name, Count] = Field(
        default_factory=dict, description="Records, by topic, of which nobody can say whose they are; they end by retention."
    )
    gone_by: Timestamp | None = Field(
        default=None,
        description="Of `finished`: until when compaction has taken the bytes of all that was touched; null where nobody can say.",
    )
    erased_at: Timestamp = Field(description="When the pass was over.")


class Names(NamedTuple):
    """By which names something is known; what is not known is left out. `occurred_at`: what it is about was there by then."""

    tenant: str
    occurred_at: datetime
    target: str | None = None
    recorded_id: str | None = None
    interaction_id: str | None = None
    source: str | None = None
    conversation_id: str | None = None
    agent: str | None = None
    continues_interaction: str | None = None


def names_of(interaction: InteractionCompleted, *, source: str | None, recorded_id: UUID, seen_at: datetime) -> Names:
    """The names of an interaction. `seen_at`: when it was there for certain, for its own clock may be ahead."""
    return Names(
        interaction.tenant,
        min(interaction.occurred_at, seen_at),
        interaction.target_model,
        str(recorded_id),
        interaction.interaction_id,
        source,
        interaction.conversation_id,
        interaction.agent,
        interaction.continues_interaction,
    )


class Erasures:
    """Everything that was asked to be forgotten, or never to be learned from. Taking a request twice changes nothing.

    Looking something up takes the same time however many requests there are: a look by each of its names. Where several requests
    cover it, the one is named that was made first.
    """

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._erased: dict[str, _Asked] = {}
        self._withdrawn: dict[str, _Asked] = {}

    def take(self, event_id: str, request: ErasureRequested) -> bool:
        """Take a request in, in whatever order they come; False where its id was taken before: the first of an id counts."""
        if event_id in self._ids:
            return False
        self._ids.add(event_id)
        by_tenant = self._erased if request.what == "everything" else self._withdrawn
        by_tenant.setdefault(request.tenant, _Asked()).add(event_id, request)
        return True

    def covers(self, names: Names) -> str | None:
        """The id of the erasure that covers what has these names; None where none does.

        Without a target, only requests for every target count. What continues an interaction that is erased repeats it in its
        messages, so it is covered, too, as far as it occurred by then.
        """
        asked = self._erased.get(names.tenant)
        first = asked and asked.first(names)
        return first[1] if first else None

    def withdrawn(self, names: Names) -> str | None:
        """The id of the request, of either kind, for which no future batch may hold what has these names."""
        every = (by_tenant.get(names.tenant) for by_tenant in (self._erased, self._withdrawn))
        found = [first for asked in every if asked is not None and (first := asked.first(names)) is not None]
        return min(found)[1] if found else None

    def covers_said(self, names: Names) -> str | None:
        """The id of the erasure that covers what somebody says, then, of the interaction of these ids and this conversation.

        One that names that very interaction does so whenever it is said: nobody has anything to say of it any more.
        """
        asked = self._erased.get(names.tenant)
        if asked is None:
            return None
        said = Names(names.tenant, names.occurred_at, conversation_id=names.conversation_id)
        first = asked.of_interaction(names) or asked.first(said)
        return first[1] if first else None

    def concern(self, tenant: str) -> bool:
        """Whether anything of this tenant is erased: where nothing is, nobody need look further."""
        return tenant in self._erased


_EVER: Final = datetime.min.replace(tzinfo=UTC)

_When = tuple[datetime, str]
"""When something was asked for, and by which request."""
_Subjects = dict[tuple[str, str, str | None], list[_When]]
"""By target, subject and source: the moments in order."""


class _Asked:
    """The requests of one tenant and kind, by what they name."""

    def __init__(self) -> None:
        self._by_scope: dict[Scope, _Subjects] = {}

    def add(self, event_id: str, request: ErasureRequested) -> None:
        source = request.interaction_source if request.scope == "interaction" else None
        key = (request.target_model, _nfc(request.subject), source and _nfc(source))
        insort(self._by_scope.setdefault(request.scope, {}).setdefault(key, []), (request.requested_at, event_id))

    def first(self, names: Names) -> _When | None:
        """The earliest request that covers it."""
        found = [
            first
            for scope, subjects in self._by_scope.items()
            for subject, source in _subjects_of(scope, names)
            if (first := _first(subjects, names.target, subject, source, names.occurred_at)) is not None
        ]
        return min(found) if found else None

    def of_interaction(self, names: Names) -> _When | None:
        """The earliest request for this very interaction."""
        subjects = self._by_scope.get("interaction", {})
        every = (_first(subjects, names.target, subject, source, _EVER) for subject, source in _ids_of(names))
        return min((first for first in every if first is not None), default=None)


def _subjects_of(scope: Scope, names: Names) -> Iterator[tuple[str, str | None]]:
    match scope:
        case "interaction":
            yield from _ids_of(names)
            if names.continues_interaction is not None:
                yield names.continues_interaction, None
                if names.source is not None:
                    yield names.continues_interaction, names.source
        case "conversation":
            if names.conversation_id is not None:
                yield names.conversation_id, None
        case "agent":
            if names.agent is not None:
                yield names.agent, None
        case "tenant":
            yield names.tenant, None


def _ids_of(names: Names) -> Iterator[tuple[str, str | None]]:
    if names.recorded_id is not None:
        yield names.recorded_id, None
    if names.interaction_id is not None:
        yield names.interaction_id, None
        if names.source is not None:
            yield names.interaction_id, names.source


def _first(subjects: _Subjects, target: str | None, subject: str, source: str | None, at: datetime) -> _When | None:
    subject, source = _nfc(subject), source and _nfc(source)
    found: _When | None = None
    for each in (ANY_TARGET,) if target is None else (ANY_TARGET, target):
        asked = subjects.get((each, subject, source), ())
        place = bisect_left(asked, (at, ""))
        if place < len(asked) and (found is None or asked[place] < found):
            found = asked[place]
    return found


def _nfc(name: str) -> str:
    """As names are recorded, whoever wrote them."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)
