"""What an assessor keeps, over interactions that all differ: `python -m tests.benchmarks.memory [INTERACTIONS [WINDOW]]`.

    recorded ──▶ assess ──▶ answer noted ──▶ compare ──▶ evidence ──▶ reassess ──▶ lesson ──▶ learn ──▶ snapshot ──▶ scorers

Everything that the service holds, and its own handlers; only the log is a short one of this process: what is written is delivered
at once, and the latest records of each partition can be read back. Windows are those that the service has by default, or hold
WINDOW interactions. Of twenty interactions one brings its reference and an outcome, of one somebody says what it was worth, and
one asks what was asked before, in another conversation. Texts are the ends of the demo's problems, so that a million take minutes.
Prints what is resident at each twentieth of the way. Nothing here gates.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

import orjson

from ruminate.assessor.evidence.casebook import Casebook
from ruminate.assessor.evidence.comparing import Comparing
from ruminate.assessor.handle import Scorer, assess_one
from ruminate.assessor.learning.classroom import Classroom
from ruminate.assessor.learning.scorers import Scorers
from ruminate.assessor.reassess import reassess
from ruminate.assessor.settings import AssessorSettings
from ruminate.schemas.envelope import Envelope
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import ANSWER_NOTED, EVIDENCE_RECORDED, INTERACTION_RECORDED, LESSON_NOTED, SCORER_TAUGHT
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import Bus, Delivery
from ruminate.shared.decoding import decode, encode
from ruminate.shared.log import configure_logging
from ruminate.shared.memory import StoredRecord
from ruminate.shared.record import Position, Record
from tests.benchmarks import report, workload

INTERACTIONS: Final = 1_000_000
SAMPLES: Final = 20
KEPT_RECORDS: Final = 256
"""Of each partition: as far back as the evidence of an interaction reaches here."""
AGENTS: Final = 20_000
_SOURCE: Final = "/ruminate/assessor"
_MOST_CHARACTERS: Final = 150


class ShortLog:
    """The latest records of each partition: all that the assessor's windows ask of a bus."""

    source = _SOURCE

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], deque[Record]] = {}
        self._written: defaultdict[tuple[str, int], asyncio.Event] = defaultdict(asyncio.Event)

    def write(self, topic: Topic[Any], partition: int, envelope: Envelope, value: bytes) -> Delivery[Any]:
        """Append a record, and deliver it."""
        kept = self._of(topic, partition)
        offset = kept[-1].offset + 1 if kept else 0
        headers, moment = envelope.to_headers(), int(envelope.time.timestamp() * 1000)
        kept.append(StoredRecord(topic.name, partition, offset, moment, envelope.id.encode(), value, headers))
        self._written[topic.name, partition].set()
        return _delivered(topic, kept[-1])

    async def records(
        self, topic: Topic[Any], *, partitions: Collection[int], start: int | None = None, follow: bool = False
    ) -> AsyncGenerator[Record, None]:
        """From `start` on, as far as it is kept; `follow`: and on and on."""
        (partition,) = partitions
        kept, written = self._of(topic, partition), self._written[topic.name, partition]
        position = max(0, start or 0)
        while True:
            fresh = min(len(kept), kept[-1].offset + 1 - position) if kept else 0
            for record in tuple(islice(kept, len(kept) - fresh, None)):
                position = record.offset + 1
                yield record
            if not follow:
                return
            written.clear()
            await written.wait()

    def _of(self, topic: Topic[Any], partition: int) -> deque[Record]:
        # A snapshot names ten thousand sources in a quarter of a megabyte: hundreds of them would hide what the assessor keeps.
        most = 1 if topic is SCORER_TAUGHT else KEPT_RECORDS
        return self._kept.setdefault((topic.name, partition), deque(maxlen=most))

    async def read(
        self, topic: Topic[Any], *, partitions: Collection[int], start: int | None = None
    ) -> AsyncGenerator[Delivery[Any], None]:
        """The same, decoded."""
        async for record in self.records(topic, partitions=partitions, start=start):
            yield _delivered(topic, record)


def _delivered(topic: Topic[Any], record: Record) -> Delivery[Any]:
    payload, envelope = decode(topic, record.value, record.headers, timestamp_ms=record.timestamp)
    place = Position(topic.name, record.partition, record.offset)
    return Delivery(topic, payload, envelope, place, record.headers, record.value or b"", _SOURCE)


class Assessor:
    """The parts of the service, wired as `__main__` does, and what each tells handed on to the next."""

    def __init__(self, settings: AssessorSettings) -> None:
        self.log = ShortLog()
        bus, policy, at_once = cast(Bus, self.log), settings.assessment, timedelta()
        self.scorers = Scorers(bus, policy.weights, pins={}, effective_after=at_once)
        self.casebook = Casebook(bus, settings.evidence_window)
        comparing = Comparing(bus, most_answers=settings.compared_answers)
        every = settings.scorer_snapshot_every
        classroom = Classroom(bus, policy.weights, snapshot_every=every, effective_after=at_once)
        scorer = Scorer(policy, policy.version, self.scorers.combiner_of)
        self._handlers: dict[str, Callable[[Delivery[Any]], Awaitable[None]]] = {
            INTERACTION_RECORDED.name: partial(assess_one, scorer=scorer),
            ANSWER_NOTED.name: comparing.compare,
            EVIDENCE_RECORDED.name: partial(reassess, casebook=self.casebook, scorer=scorer),
            LESSON_NOTED.name: classroom.learn,
            SCORER_TAUGHT.name: self._take_snapshot,
        }
        self.handled = dict.fromkeys(self._handlers, 0)

    async def take(self, topic: Topic[Any], partition: int, envelope: Envelope, value: bytes) -> None:
        """One record, and all that follows from it."""
        pending = [self.log.write(topic, partition, envelope, value)]
        while pending:
            delivery = pending.pop()
            await asyncio.sleep(0)  # the casebook reads on
            self.scorers.caught_up(datetime.now(UTC))
            await self._handlers[delivery.topic.name](delivery)
            self.handled[delivery.topic.name] += 1
            for told in delivery.told:
                if told.topic.name in self._handlers:
                    written = told.payload if isinstance(told.payload, bytes) else encode(told.payload)
                    pending.append(self.log.write(told.topic, partition, told.envelope, written))

    async def _take_snapshot(self, delivery: Delivery[Any]) -> None:
        self.scorers.take(delivery.payload)


async def work_off(interactions: int, settings: AssessorSettings) -> None:
    """Judge so many interactions, and print what is resident meanwhile."""
    assessor = Assessor(settings)
    async with assessor.casebook:
        await assessor.casebook.open(frozenset(range(INTERACTION_RECORDED.partitions)))
        templates = [_short(orjson.loads(encode(workload.recorded(variant)))) for variant in range(workload.DIFFERENT)]
        print(f"{report.measured_on()}\n")
        print("| interactions | resident MB | CPU s | evidence weighed | lessons | snapshots |\n|---|---|---|---|---|---|")
        for number in range(interactions + 1):
            if number % max(1, interactions // SAMPLES) == 0:
                handled = [f"{assessor.handled[topic.name]:,}" for topic in (EVIDENCE_RECORDED, LESSON_NOTED, SCORER_TAUGHT)]
                print(
                    f"| {number:,} | {_resident_megabytes():.1f} | {time.process_time():.0f} | {' | '.join(handled)} |", flush=True
                )
            await _one(assessor, templates, number)


async def _one(assessor: Assessor, templates: list[dict[str, Any]], number: int) -> None:
    asked = number - 1 if number % 20 == 19 else number
    partition = asked % INTERACTION_RECORDED.partitions
    template, recorded_id, at = templates[asked % len(templates)], workload.recorded_id(number), datetime.now(UTC)
    (question,), answer = template["messages"], template["response"]
    unknown = {} if number % 20 == 0 else {"outcome": "unknown", "reference_answer": None}
    interaction = template | unknown | {
        "interaction_id": workload.interaction_id(number),
        "recorded_id": recorded_id,
        "conversation_id": f"conversation-{number:08d}",
        "occurred_at": at.isoformat(),
        "agent": f"tutor-{number % AGENTS}",
        "messages": [question | {"content": f"Exercise {asked}: {question['content']}"}],
        "response": answer | {"thinking": f"Exercise {number}. {answer['thinking']}"},
    }  # fmt: skip
    envelope = Envelope(recorded_id, "/ruminate/collector", INTERACTION_RECORDED.event_type, at)
    # An exact copy, as a broker's client gives it: orjson leaves a short text in the 8 KB that it was written into.
    await assessor.take(INTERACTION_RECORDED, partition, envelope, bytes(memoryview(orjson.dumps(interaction))))
    if number % 20 == 3:
        said = EvidenceRecorded(
            recorded_id=UUID(recorded_id),
            conversation_id=interaction["conversation_id"],
            kind="feedback",
            said_by=f"somebody-{number}",
            said_at=at,
            thumb="up" if number % 40 == 3 else "down",
        )
        envelope = Envelope(f"feedback-{number}", "/ruminate/collector", EVIDENCE_RECORDED.event_type, at)
        await assessor.take(EVIDENCE_RECORDED, partition, envelope, encode(said))


def _short(interaction: dict[str, Any]) -> dict[str, Any]:
    last, response = interaction["messages"][-1], interaction["response"]
    return interaction | {
        "messages": [last | {"content": last["content"][-_MOST_CHARACTERS:]}],
        "response": response | {"thinking": response["thinking"][-_MOST_CHARACTERS:]},
    }


def _resident_megabytes() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def holding(window: int) -> AssessorSettings:
    """Settings with windows for so many interactions."""
    return AssessorSettings(
        compared_answers=window,
        evidence_window_interactions=window,
        evidence_window_records=window,
        evidence_window_bytes=window * 1024,
    )


if __name__ == "__main__":
    configure_logging(service="assessor", level="warning")
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # as the service does
    numbers = [int(each) for each in sys.argv[1:]]
    asyncio.run(work_off(numbers[0] if numbers else INTERACTIONS, holding(numbers[1]) if numbers[1:] else AssessorSettings()))
