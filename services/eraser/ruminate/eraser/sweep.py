"""One pass over the log: everything that holds texts is read from its beginning to its end as it is, and what is found erased.

interaction-recorded  ──▶  which interactions, by their ids
reasoning-assessed, evidence-recorded, dead letters  ──▶  tombstones
retries, raw topics, digests  ──▶  until when they stay
interaction-recorded  ──▶  tombstones, last
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

from ruminate.eraser.decide import MARKER_KEY, Search, tombstone_header
from ruminate.eraser.lives import TEXT_BOXES
from ruminate.eraser.metrics import ERASED
from ruminate.schemas.erasure import ErasureRequested, RecordsErased
from ruminate.schemas.flow import DEAD_LETTER_SETTLED, DERIVED, ERASABLE, INTERACTION_RECORDED, RAW
from ruminate.schemas.topic import SideTopic, Topic
from ruminate.shared.letters import Box, Letters, drop
from ruminate.shared.member import Member
from ruminate.shared.shares import Outgoing

_AT_ONCE: Final = 500


async def sweep(bus: Member, wanted: Mapping[str, ErasureRequested]) -> Search:
    """Find all that these requests cover, and erase it. Raises BrokerUnavailable."""
    search = Search(wanted)
    await _look(bus, search, INTERACTION_RECORDED)
    # What was judged before what was said of it: it carries whole interactions, so that more ids are known then.
    for topic in reversed([topic for topic in ERASABLE if topic is not INTERACTION_RECORDED]):
        await _look(bus, search, topic)
        await _erase(bus, search, topic.name, wanted)
    for box in TEXT_BOXES:
        await _settle(bus, search, box)
        await _look_at_lasting(bus, search, box.topic, within=box.retries)
    for topic in (*RAW, *DERIVED):
        await _look_at_lasting(bus, search, topic)
    # Last: as long as it is there, a pass that is begun again finds by it all that a crash has left.
    search.count()
    await _erase(bus, search, INTERACTION_RECORDED.name, wanted)
    return search


async def mark(bus: Member, events: Sequence[tuple[str, RecordsErased]]) -> None:
    """A record for each partition that these erasures touched: it begins a new segment, and the one before can be compacted."""
    marked: dict[tuple[str, int], Outgoing] = {}
    for erasure_id, event in events:
        for name, partitions in event.touched.items():
            for number in partitions:
                headers = tombstone_header(erasure_id, event.tenant)
                marked.setdefault((name, number), Outgoing(name, number, MARKER_KEY, None, headers))
    await _write(bus, list(marked.values()))


async def _look(bus: Member, search: Search, topic: Topic[Any]) -> None:
    async with aclosing(bus.records(topic)) as records:
        async for record in records:
            search.take(topic, record)


async def _look_at_lasting(bus: Member, search: Search, topic: Topic[Any], *, within: SideTopic | None = None) -> None:
    async with aclosing(bus.records(within or topic)) as records:
        async for record in records:
            search.take_lasting(topic, record, within=within)


async def _erase(bus: Member, search: Search, name: str, wanted: Mapping[str, ErasureRequested]) -> None:
    tombstones = [
        Outgoing(name, partition, key, None, tombstone_header(erasure_id, wanted[erasure_id].tenant))
        for (partition, key), erasure_id in search.live(name).items()
    ]
    await _write(bus, tombstones)
    ERASED.labels(name).inc(len(tombstones))


async def _settle(bus: Member, search: Search, box: Box) -> None:
    """Dead letters are dropped as people drop them: the word about each comes before its tombstone."""
    letters = Letters()
    async with aclosing(bus.records(box.letters)) as records:
        async for record in records:
            letters.take(box, record)
            search.take(box.topic, record, within=box.letters)
    live = search.live(box.letters.name)
    if not live:
        return
    async with aclosing(bus.read(DEAD_LETTER_SETTLED)) as deliveries:
        async for delivery in deliveries:
            letters.take_word(delivery.envelope.id, delivery.payload)
    for erasure_id in dict.fromkeys(live.values()):
        chosen = [
            letter
            for letter in letters.standing()
            if letter.key is not None and live.get((letter.partition, letter.key)) == erasure_id
        ]
        for start in range(0, len(chosen), _AT_ONCE):
            await drop(bus, letters, chosen[start : start + _AT_ONCE], by="eraser", why=f"erasure {erasure_id}")
        ERASED.labels(box.letters.name).inc(len(chosen))


async def _write(bus: Member, records: Sequence[Outgoing]) -> None:
    for start in range(0, len(records), _AT_ONCE):
        await bus.write(records[start : start + _AT_ONCE])
