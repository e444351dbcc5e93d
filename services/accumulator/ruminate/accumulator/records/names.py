"""Names: by which an interaction may have to be forgotten, as digests: a manifest is looked through without a text. Pure."""

from __future__ import annotations

import hashlib
import unicodedata
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from ruminate.schemas.erasure import ANY_TARGET, ErasureRequested
from ruminate.schemas.interaction import InteractionRecorded

_NAME_BYTES: Final = 8
"""Enough that of a million rows and a thousand requests two names are one with a chance of a ten-billionth."""


def names_in(interaction: InteractionRecorded) -> tuple[str, ...]:
    """The digests of all its names: whatever an erasure may call it by. What continues an interaction repeats it."""
    ids = [interaction.interaction_id]
    if interaction.continues_interaction is not None:
        ids.append(interaction.continues_interaction)
    names = {
        _digest("tenant", interaction.tenant),
        _digest("conversation", interaction.conversation_id),
        _digest("agent", interaction.agent),
        _digest("interaction", str(interaction.recorded_id)),
        *(_digest("interaction", each) for each in ids),
        *(_digest("interaction", each, interaction.source) for each in ids),
    }
    return tuple(sorted(names))


def name_asked(request: ErasureRequested) -> str:
    """The digest of what a request names."""
    source = request.interaction_source if request.scope == "interaction" else None
    return _digest(request.scope, request.subject, *(() if source is None else (source,)))


class Forgotten:
    """What was asked to be forgotten, or never to be learned from, in one tenant's chain of one target.

    Taking a request twice changes nothing, nor does their order.
    """

    def __init__(self, tenant: str, target: str, requests: Iterable[tuple[str, ErasureRequested]] = ()) -> None:
        self._tenant = tenant
        self._target = target
        self._ids: set[str] = set()
        self._erased: dict[str, list[tuple[datetime, str]]] = {}
        self._withdrawn: dict[str, list[tuple[datetime, str]]] = {}
        for event_id, request in requests:
            self.take(event_id, request)

    def __len__(self) -> int:
        """How many requests concern this chain."""
        return len(self._ids)

    def take(self, event_id: str, request: ErasureRequested) -> None:
        """Take a request in, if it concerns this chain."""
        if request.tenant != self._tenant or request.target_model not in (ANY_TARGET, self._target) or event_id in self._ids:
            return
        self._ids.add(event_id)
        by_name = self._erased if request.what == "everything" else self._withdrawn
        insort(by_name.setdefault(name_asked(request), []), (request.requested_at, event_id))

    def erased(self, names: Iterable[str], occurred_at: datetime) -> str | None:
        """The request for which what has these names is erased; None where there is none. Of several, the first one made."""
        return _first(self._erased, names, occurred_at)

    def withdrawn(self, names: Iterable[str], occurred_at: datetime) -> str | None:
        """The request, of either kind, for which no future batch may hold it."""
        every = tuple(names)
        return _first(self._erased, every, occurred_at) or _first(self._withdrawn, every, occurred_at)


def _first(by_name: dict[str, list[tuple[datetime, str]]], names: Iterable[str], occurred_at: datetime) -> str | None:
    found = min(_asked(by_name, names, occurred_at), default=None)
    return None if found is None else found[1]


def _asked(
    by_name: dict[str, list[tuple[datetime, str]]], names: Iterable[str], occurred_at: datetime
) -> Iterator[tuple[datetime, str]]:
    for name in names:
        asked = by_name.get(name, ())
        place = bisect_left(asked, (occurred_at, ""))
        if place < len(asked):
            yield asked[place]


def _digest(scope: str, *parts: str) -> str:
    text = "".join(f"{len(part)}:{part}" for part in (scope, *(unicodedata.normalize("NFC", part) for part in parts)))
    return hashlib.blake2b(text.encode(), digest_size=_NAME_BYTES).hexdigest()
