"""A marker that somebody left in every topic that holds texts, on any bus, and an eraser that can be cut short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from ruminate.assessor.judging.decide import judge
from ruminate.assessor.policy import Policy
from ruminate.eraser.decide import FOR_EVER, MARKER_KEY, Life
from ruminate.eraser.erase import Eraser
from ruminate.eraser.lives import COMPACTED, LASTING, TEXT_BOXES
from ruminate.schemas.envelope import Envelope, derive_event_id
from ruminate.schemas.erasure import ErasureRequested, RecordsErased
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.feedback import FeedbackGiven
from ruminate.schemas.flow import (
    ERASURE_REQUESTED,
    EVIDENCE_RECORDED,
    FEEDBACK_GIVEN,
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    REASONING_ASSESSED,
    RECORDS_ERASED,
    topic_named,
)
from ruminate.schemas.interaction import InteractionCompleted, InteractionRecorded, Message, Response, Thinking
from ruminate.schemas.topic import SideTopic, Topic
from ruminate.shared.dead_letters import DeadLetter
from ruminate.shared.decoding import encode
from ruminate.shared.member import Member
from ruminate.shared.record import Position, Record
from ruminate.shared.shares import Outgoing

MARKER = "Zanzibar-0417-marker"
OCCURRED = datetime(2026, 3, 14, 9, tzinfo=UTC)
ASKED = OCCURRED + timedelta(hours=3)
SETTLE_SECONDS = 0.05
POLICY = Policy()

BYSTANDERS = ("another conversation", "another tenant", "after the request")


def planted(name: str, text: str = MARKER, **changed: Any) -> InteractionRecorded:
    """Interaction `name` of the conversation that is to be forgotten, with the marker wherever somebody may write."""
    fields: dict[str, Any] = {
        "interaction_id": name,
        "conversation_id": "c-forget",
        "agent": "ledger",
        "target_model": "qwen3:8b",
        "occurred_at": OCCURRED,
        "messages": (Message(role="user", content=f"{text} asks"),),
        "response": Response(content=f"{text} answers", thinking=f"{text} thinks"),
        "thinking": Thinking(mode_used="thinking"),
        "source": "/agents/ledger",
        **changed,
    }
    recorded_id = derive_event_id(
        tenant=fields.get("tenant", "default"),
        cause_source=fields["source"],
        cause_id=name,
        topic=INTERACTION_RECORDED.name,
    )
    return InteractionRecorded(recorded_id=recorded_id, **fields)


def others() -> list[InteractionRecorded]:
    """What nobody asked to forget."""
    return [
        planted("o-1", BYSTANDERS[0], conversation_id="c-other"),
        planted("o-2", BYSTANDERS[1], tenant="another"),
        planted("o-3", BYSTANDERS[2], occurred_at=ASKED + timedelta(seconds=1)),
    ]


def request(**changed: Any) -> ErasureRequested:
    fields: dict[str, Any] = {"scope": "conversation", "subject": "c-forget", "requested_by": "ada", "requested_at": ASKED}
    return ErasureRequested(**(fields | changed))


async def tell(
    bus: Member, topic: Topic[Any], payload: Any, *, event_id: str | None = None, source: str = "/agents/ledger"
) -> None:
    await bus.publish(topic, payload, bus.begin(topic, payload, event_id=event_id, source=source))


async def lead_through(bus: Member, each: InteractionRecorded, text: str) -> None:
    """An interaction as it lies in every topic, with feedback about it."""
    completed = InteractionCompleted.model_validate(each.model_dump(exclude={"source", "recorded_id", "normalised"}))
    await tell(bus, INTERACTION_COMPLETED, completed, event_id=each.interaction_id, source=each.source)
    await tell(bus, INTERACTION_RECORDED, each, event_id=str(each.recorded_id), source="/ruminate/collector")
    said = EvidenceRecorded(
        tenant=each.tenant,
        recorded_id=each.recorded_id,
        conversation_id=each.conversation_id,
        kind="feedback",
        said_by="anna",
        said_at=each.occurred_at + timedelta(minutes=1),
        comment=f"{text} comments",
        correction=f"{text} corrects",
    )
    given = FeedbackGiven(
        tenant=each.tenant,
        interaction_id=each.interaction_id,
        interaction_source=each.source,
        conversation_id=each.conversation_id,
        given_by="anna",
        given_at=said.said_at,
        comment=said.comment,
    )
    await tell(bus, FEEDBACK_GIVEN, given)
    await tell(bus, EVIDENCE_RECORDED, said, event_id=str(uuid4()))
    for revision in (0, 1):
        assessed = judge(each, POLICY, policy_version="p1").model_copy(
            update={"revision": revision, "evidence": (said,) * revision}
        )
        await tell(bus, REASONING_ASSESSED, assessed, event_id=str(uuid4()))
    values: Mapping[str, bytes] = {
        INTERACTION_COMPLETED.name: encode(completed).replace(b'"occurred_at"', b'"unknown_at"', 1),  # an invalid one
        INTERACTION_RECORDED.name: encode(each),
        FEEDBACK_GIVEN.name: encode(given),
        EVIDENCE_RECORDED.name: encode(said),
        REASONING_ASSESSED.name: encode(judge(each, POLICY, policy_version="p1")),
    }
    for box in TEXT_BOXES:
        headers = Envelope(each.interaction_id, each.source, box.topic.event_type, OCCURRED).to_headers()
        place = Position(box.topic.name, bus.partition_of(box.topic, each.conversation_id), int(each.recorded_id) % 1_000_000)
        letter = DeadLetter(
            reason="crashed", explanation="", position=place, timestamp_ms=0, reader=box.reader, at=OCCURRED, key=b"k"
        )
        key, lies = str(letter.id("cluster")).encode(), letter.headers(headers)
        await bus.write([Outgoing(box.letters.name, place.partition, key, values[box.topic.name], lies)])
        await bus.write([Outgoing(box.retries.name, 0, b"k", values[box.topic.name], lies)])


async def plant(bus: Member) -> None:
    """Three of the conversation, of which the second continues the first, and three of which nobody asked."""
    for name, text in (("i-1", MARKER), ("i-2", MARKER), ("i-3", MARKER)):
        changed = {"continues_interaction": "i-1"} if name == "i-2" else {}
        await lead_through(bus, planted(name, text, **changed), text)
    for each, text in zip(others(), BYSTANDERS, strict=True):
        await lead_through(bus, each, text)


async def every_record(bus: Member) -> dict[str, list[Record]]:
    """All that lies in what can be erased, and in what cannot."""
    found: dict[str, list[Record]] = {}
    for topic in erasable_topics():
        found[topic.name] = [record async for record in bus.records(topic)]
    return found


def erasable_topics() -> list[Topic[Any] | SideTopic]:
    """Every topic whose records can get a tombstone, those of dead letters among them."""
    names = set(COMPACTED)
    return [*(topic_named(name) for name in names if not name.endswith("-dlq")), *(box.letters for box in TEXT_BOXES)]


def standing(records: Iterable[Record]) -> dict[tuple[int, bytes | None], bytes]:
    """What compaction leaves: the last value of each key."""
    last: dict[tuple[int, bytes | None], bytes | None] = {}
    for record in records:
        last[record.partition, record.key] = record.value
    return {key: value for key, value in last.items() if value is not None}


def holding(found: Mapping[str, Sequence[Record]], text: str) -> dict[str, int]:
    """In which topics a text still stands, and in how many records."""
    counts = {name: sum(text.encode() in value for value in standing(records).values()) for name, records in found.items()}
    return {name: count for name, count in counts.items() if count}


def unmarked(found: Mapping[str, list[Record]], text: str) -> set[tuple[str, int]]:
    """Partitions that hold a text in bytes and got no marker behind its tombstones: idle, they would hold it for ever."""
    missing: set[tuple[str, int]] = set()
    for name, records in found.items():
        for record in records:
            place = (name, record.partition)
            if record.value is not None and text.encode() in record.value:
                missing.add(place)
            elif record.value is None and record.key != MARKER_KEY and place in missing:
                continue
            elif record.key == MARKER_KEY:
                missing.discard(place)
    return missing


async def lives() -> Mapping[str, Life]:
    """What a broker says that deletes nothing."""
    return dict.fromkeys((*COMPACTED, *LASTING), FOR_EVER)


@asynccontextmanager
async def erasing(
    bus: Member, read_lives: Callable[[], Awaitable[Mapping[str, Life]]] = lives, *, settle_seconds: float = SETTLE_SECONDS
) -> AsyncIterator[asyncio.Task[None]]:
    """An eraser at work on this bus; the task ends where its work raises. Afterwards nothing of it goes on, as after a kill."""
    eraser = Eraser(bus, read_lives, settle_seconds=settle_seconds)
    serving = asyncio.create_task(
        bus.serve(ERASURE_REQUESTED, eraser.take, on_assigned=eraser.know, on_revoked=eraser.forget), name="serving"
    )
    working = asyncio.create_task(eraser.run(), name="working")
    try:
        yield working
    finally:
        for task in (working, serving):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def told(bus: Member) -> list[RecordsErased]:
    """What is said of erasures, the first of each event id."""
    events: dict[str, RecordsErased] = {}
    async for delivery in bus.read(RECORDS_ERASED):
        events.setdefault(delivery.envelope.id, delivery.payload)
    return list(events.values())


async def until_finished(bus: Member, *erasure_ids: str, seconds: float = 60.0) -> list[RecordsErased]:
    """Wait until all of them are."""
    async with asyncio.timeout(seconds):
        while True:
            events = await told(bus)
            if {each.erasure_id for each in events if each.stage == "finished"} >= set(erasure_ids):
                return events
            await asyncio.sleep(0.02)
