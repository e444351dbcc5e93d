"""What each service does with one record, without a bus: decode, the service's own `decide`, encode. The peers call these.

The same models validate, the same functions decide, the same ids are derived, and what leaves has the same key, headers and
ordering key as what our services write. Left out, in the peers' favour: dead letters, tombstones, metrics of each record,
JSON that only a strict parser refuses, reading back a window, holding records until a batch is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from ruminate.accumulator.sealing.chain import Fold, Sealed, item_of
from ruminate.accumulator.sealing.decide import Progress, reason_to_seal
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.assessor.judging.decide import around, judge
from ruminate.assessor.policy import Policy
from ruminate.collector.decide import Seen, check_id, check_source, judge_repeat, normalise, record, redact
from ruminate.collector.privacy.policy import PrivacySettings
from ruminate.collector.privacy.redaction import Privacy
from ruminate.schemas.envelope import Headers, derive_event_id
from ruminate.schemas.flow import INTERACTION_COMPLETED, INTERACTION_RECORDED, REASONING_ASSESSED
from ruminate.schemas.payload import Payload
from ruminate.schemas.topic import Topic
from tests.benchmarks.notes import NOTES_IN, NOTES_OUT, Note

RawHeaders = Iterable[tuple[str, bytes]]


@dataclass(slots=True)
class Output:
    """One record to write."""

    order: str
    key: bytes
    value: bytes
    headers: Headers


Step = Callable[[bytes, RawHeaders], Output | None]


class Collect:
    """Collector: validate, normalise, drop what was seen, redact, record."""

    def __init__(self) -> None:
        self._seen: dict[bytes, Seen] = {}
        self._privacy = Privacy(PrivacySettings())

    def __call__(self, value: bytes, headers: RawHeaders) -> Output | None:
        """The record of an interaction; None for a repeat."""
        cause = _cause(headers, INTERACTION_COMPLETED)
        payload = INTERACTION_COMPLETED.carries.model_validate_json(value)
        check_id(payload, cause["ce_id"].decode())
        source = cause["ce_source"].decode()
        check_source(source)
        completed = normalise(payload)
        recorded_id = _derived(cause, payload, INTERACTION_RECORDED)
        if judge_repeat(self._seen.get(recorded_id.bytes), completed.fingerprint, None) != "first":
            return None
        self._seen[recorded_id.bytes] = Seen(completed.fingerprint, 0, 0)
        recorded = record(redact(completed, self._privacy), source=source, recorded_id=recorded_id)
        return _output(INTERACTION_RECORDED, recorded, recorded_id, payload.conversation_id, cause, b"/ruminate/collector")


def assess(value: bytes, headers: RawHeaders, *, policy: Policy, policy_version: str) -> Output:
    """Assessor: an interaction with its verdict."""
    cause = _cause(headers, INTERACTION_RECORDED)
    interaction = INTERACTION_RECORDED.carries.model_validate_json(value)
    assessed = judge(interaction, policy, policy_version=policy_version)
    event_id = _derived(cause, assessed, REASONING_ASSESSED)
    order = REASONING_ASSESSED.order_of(assessed)
    return _output(REASONING_ASSESSED, around(value, assessed), event_id, order, cause, b"/ruminate/assessor")


class Accumulate:
    """Accumulator: fold, and ask whether a batch is due. It never is here: the cut is not what is measured."""

    def __init__(self) -> None:
        settings = AccumulatorSettings()
        self.fold = Fold(sealed=Sealed())
        self._policy = settings.policy
        self._limits = settings.row_limits

    def __call__(self, value: bytes, headers: RawHeaders) -> Output | None:
        """None: nothing leaves before a cut."""
        cause = _cause(headers, REASONING_ASSESSED)
        assessed = REASONING_ASSESSED.carries.model_validate_json(value)
        at = datetime.fromisoformat(cause["ce_time"].decode())
        fold = self.fold
        fold.add(
            item_of(
                assessed,
                event_id=cause["ce_id"].decode(),
                assessed_at=at,
                offset=len(fold.items),
                limits=self._limits,
            )
        )
        now = datetime.now(UTC)
        if reason_to_seal(Progress(fold.counts(), None, fold.waiting_since, at, now), self._policy, now=now) is not None:
            raise RuntimeError("a batch is due; set RUMINATE_SEAL_AT_ROWS above the number of records")
        return None


def pass_on(value: bytes, headers: RawHeaders) -> Output:
    """The pipe: validate and write what was read."""
    cause = _cause(headers, NOTES_IN)
    note = Note.model_validate_json(value)
    return _output(NOTES_OUT, _json(note), _derived(cause, note, NOTES_OUT), note.thread, cause, b"/ruminate/pipe")


def step_of(job: str) -> Step:
    """The step of a job: pipe, collector, assessor or accumulator."""
    match job:
        case "pipe":
            return pass_on
        case "collector":
            return Collect()
        case "assessor":
            return partial(assess, policy=Policy(), policy_version=Policy().version)
        case "accumulator":
            return Accumulate()
    raise ValueError(f"no job is named {job!r}; there are pipe, collector, assessor and accumulator")


def _cause(headers: RawHeaders, topic: Topic[Any]) -> dict[str, bytes]:
    found = dict(headers)
    if found["ce_type"].decode() != topic.event_type or found["ce_specversion"] != b"1.0":
        raise ValueError(f"ce_type is {found['ce_type']!r}; {topic.name} carries {topic.event_type!r}")
    return found


def _derived(cause: dict[str, bytes], payload: Payload, topic: Topic[Any]) -> UUID:
    return derive_event_id(
        tenant=payload.tenant, cause_source=cause["ce_source"].decode(), cause_id=cause["ce_id"].decode(), topic=topic.name
    )


def _json(payload: Payload) -> bytes:
    return payload.__pydantic_serializer__.to_json(payload)


def _output(topic: Topic[Any], value: bytes, event_id: UUID, order: str, cause: dict[str, bytes], source: bytes) -> Output:
    key = str(event_id).encode()
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", key),
        ("ce_source", source),
        ("ce_type", topic.event_type.encode()),
        ("ce_time", datetime.now(UTC).isoformat().encode()),
        ("content-type", b"application/json"),
        ("ce_partitionkey", order.encode()),
        ("ce_causationid", cause["ce_id"]),
        ("traceparent", cause["traceparent"]),
    ]
    return Output(order, key, value, headers)
