"""By which snapshot each interaction was judged, and what people said of it: what a replay needs beside the interactions."""

from __future__ import annotations

import re
from collections import defaultdict
from contextlib import aclosing
from typing import Final
from uuid import UUID

from ruminate.assessor.judging.combiner import UNTAUGHT, Combiner
from ruminate.assessor.learning.classroom import snapshot_of
from ruminate.assessor.policy import Weights
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import EVIDENCE_RECORDED, REASONING_ASSESSED, SCORER_TAUGHT
from ruminate.shared.bus import Bus

_NAMED: Final = re.compile(rb'"combiner":"([^"]{1,200})"')
_INTERACTION: Final = b',"interaction":'


class KnownScorers:
    """The combiner by which each interaction was judged first, by its recorded id; the untaught one where the log does not say."""

    def __init__(self, weights: Weights) -> None:
        self._untaught = Combiner(weights)
        self._weights = weights
        self._taught: dict[tuple[str, str], Combiner] = {}
        self._numbers: dict[str, int] = {}
        self._named: dict[bytes, str] = {}

    async def read(self, bus: Bus) -> None:
        """Read the snapshots, and what each first verdict names. Raises BrokerUnavailable."""
        async with aclosing(bus.read(SCORER_TAUGHT)) as snapshots:
            async for snapshot in snapshots:
                taught = snapshot.payload
                if taught.number == self._numbers.get(taught.tenant, 0) + 1:
                    self._numbers[taught.tenant] = taught.number
                    self._taught[taught.tenant, taught.combiner] = Combiner(self._weights, snapshot_of(taught))
        if not self._taught:
            return  # everything was judged untaught
        async with aclosing(bus.records(REASONING_ASSESSED)) as records:
            async for record in records:
                # The verdict comes before the interaction, which may hold anything.
                named = _NAMED.search((record.value or b"").partition(_INTERACTION)[0])
                cause = dict(record.headers).get("ce_causationid", b"").decode(errors="replace")
                if named is not None and named[1] != UNTAUGHT.version.encode() and _is_id(cause):
                    self._named.setdefault(UUID(cause).bytes, named[1].decode(errors="replace"))

    def combiner_of(self, tenant: str, recorded_id: UUID) -> Combiner:
        """By what this interaction was judged first."""
        return self._taught.get((tenant, self._named.get(recorded_id.bytes, "")), self._untaught)


async def read_feedback(bus: Bus) -> dict[UUID, tuple[EvidenceRecorded, ...]]:
    """What people said of each interaction, and what was thought for it afterwards, by recorded id, in the order of (said_at,
    event id), each said once.

    What other answers say is left out: how many there were when depends on the order of arrival. Raises BrokerUnavailable.
    """
    found: defaultdict[UUID, dict[str, EvidenceRecorded]] = defaultdict(dict)
    async with aclosing(bus.read(EVIDENCE_RECORDED)) as deliveries:
        async for delivery in deliveries:
            if delivery.payload.kind in ("feedback", "thinking"):
                found[delivery.payload.recorded_id].setdefault(delivery.envelope.id, delivery.payload)
    return {
        recorded_id: tuple(each for _, each in sorted(said.items(), key=lambda entry: (entry[1].said_at, entry[0])))
        for recorded_id, said in found.items()
    }


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
