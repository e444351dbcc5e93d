"""The work: interactions of 2 KB as agents send them and what the services make of them, and notes of 1 KB for the pipe.

Everything follows from a number, so every contestant gets the same bytes. The texts are the demo's problems, with the worked
solution as the thinking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final
from uuid import UUID

from ruminate.assessor.judging.decide import SCORER_VERSION, assess
from ruminate.assessor.policy import Policy
from ruminate.collector.decide import normalise, record
from ruminate.command.demo.lesson import Exchange, problem_exchanges
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.envelope import Envelope, Headers, derive_event_id
from ruminate.schemas.flow import INTERACTION_COMPLETED, INTERACTION_RECORDED, REASONING_ASSESSED
from ruminate.schemas.interaction import InteractionCompleted, InteractionRecorded, Message, Response, Thinking, Usage
from ruminate.schemas.topic import Topic
from ruminate.shared.decoding import encode
from tests.benchmarks.notes import NOTES_IN, Note, Step

INTERACTION_BYTES: Final = 2048
NOTE_BYTES: Final = 1024
DIFFERENT: Final = 1000
"""So many texts differ; beyond them, only the ids do, and the number that each question begins with."""
TURNS_A_CONVERSATION: Final = 4
AGENT_SOURCE: Final = "/agents/tutor"
TARGET: Final = "qwen3:8b"
TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

_AT: Final = datetime(2026, 1, 31, 12, tzinfo=UTC)
_ID, _CONVERSATION, _NUMBER, _RECORDED_ID = "@interaction@", "@conversation@", "@number@", UUID(int=0xFACE)


@dataclass(frozen=True, slots=True)
class Written:
    """One record of an input topic; `order` decides the partition."""

    order: str
    key: bytes
    value: bytes
    headers: Headers


def completed(variant: int) -> InteractionCompleted:
    """The interaction whose texts are those of `variant`, with blanks for ids.

    Every other one continues a conversation about earlier problems; the others ask several problems at once, and think more.
    """
    problems = _problems()
    exchange = problems[variant % len(problems)]
    earlier: tuple[Message, ...] = ()
    interaction = _interaction(exchange, earlier)
    for more in range(1, len(problems)):
        if len(encode(interaction)) >= INTERACTION_BYTES - 100:
            break
        # Another stride for each, so that a thousand variants of two hundred problems differ.
        other = problems[(variant * (2 * more + 1) + variant // len(problems) + more) % len(problems)]
        if variant % 2:
            asked, said = Message(role="user", content=other.question), f"{other.thinking}\n{other.answer}"
            earlier = (asked, Message(role="assistant", content=said), *earlier)
        else:
            question, thinking = f"{other.question} {exchange.question}", f"{other.thinking}\n{exchange.thinking}"
            exchange = Exchange(question, thinking, exchange.answer, exchange.reference, "problems")
        interaction = _interaction(exchange, earlier)
    return interaction


def recorded(variant: int) -> InteractionRecorded:
    """What the collector makes of it."""
    written = record(normalise(completed(variant)), source=AGENT_SOURCE, recorded_id=_RECORDED_ID)
    return InteractionRecorded.model_validate_json(written)


def assessed(variant: int) -> ReasoningAssessed:
    """What the assessor makes of that."""
    interaction = recorded(variant)
    return ReasoningAssessed(
        target_model=TARGET,
        recorded_id=interaction.recorded_id,
        policy_version=Policy().version,
        scorer_version=SCORER_VERSION,
        verdict=assess(interaction, Policy()),
        interaction=interaction,
    )


def note(variant: int) -> Note:
    """The note whose texts are those of `variant`, with blanks for ids."""
    problems, steps = _problems(), list[Step]()
    while True:
        exchange = problems[(variant + 7 * len(steps)) % len(problems)]
        steps.append(Step(text=f"{exchange.question} {exchange.thinking}"[:300], weight=1 / (1 + len(steps))))
        written = Note(note_id=_ID, thread=_CONVERSATION, steps=tuple(steps), tags=("bench",))
        if len(encode(written)) >= NOTE_BYTES - 100:
            return written


def interaction_id(number: int) -> str:
    """The id of interaction (or note) `number`."""
    return f"bench-{number:09d}"


def recorded_id(number: int) -> str:
    """The id of what the collector records of it."""
    return str(_derived(AGENT_SOURCE, interaction_id(number), INTERACTION_RECORDED))


def assessed_id(number: int) -> str:
    """The id of the assessor's event about it."""
    return str(_derived("/ruminate/collector", recorded_id(number), REASONING_ASSESSED))


def notes(numbers: range) -> Iterator[Written]:
    """Records for the pipe."""
    return _written(NOTES_IN, numbers, note, "/bench", interaction_id)


def interactions(numbers: range) -> Iterator[Written]:
    """Records for the collector."""
    return _written(INTERACTION_COMPLETED, numbers, completed, AGENT_SOURCE, interaction_id)


def recordings(numbers: range) -> Iterator[Written]:
    """Records for the assessor, as the collector writes them."""
    return _written(INTERACTION_RECORDED, numbers, recorded, "/ruminate/collector", recorded_id)


def assessments(numbers: range) -> Iterator[Written]:
    """Records for the accumulator, as the assessor writes them."""
    return _written(REASONING_ASSESSED, numbers, assessed, "/ruminate/assessor", assessed_id)


RECORDS: Final = {"pipe": notes, "collector": interactions, "assessor": recordings, "accumulator": assessments}
"""What each job reads."""


def _written(
    topic: Topic[Any], numbers: range, build: Callable[[int], Any], source: str, event_id: Callable[[int], str]
) -> Iterator[Written]:
    templates: Sequence[bytes] = [encode(build(variant)) for variant in range(min(DIFFERENT, numbers.stop))]
    for number in numbers:
        conversation = f"conversation-{number // TURNS_A_CONVERSATION:08d}"
        value = templates[number % DIFFERENT].replace(_ID.encode(), interaction_id(number).encode())
        value = value.replace(_CONVERSATION.encode(), conversation.encode())
        # Rows that answer one question again and again would be left out, and no batch ever full.
        value = value.replace(_NUMBER.encode(), str(number).encode())
        if str(_RECORDED_ID).encode() in value:
            value = value.replace(str(_RECORDED_ID).encode(), recorded_id(number).encode())
        order = f"default/{TARGET}" if topic is REASONING_ASSESSED else conversation
        envelope = Envelope(
            id=event_id(number), source=source, type=topic.event_type, time=_AT, traceparent=TRACEPARENT, order=order,
            cause=None if topic is INTERACTION_COMPLETED else interaction_id(number),
        )  # fmt: skip
        yield Written(order, envelope.id.encode(), value, envelope.to_headers())


def _derived(source: str, cause: str, topic: Topic[Any]) -> UUID:
    return derive_event_id(tenant="default", cause_source=source, cause_id=cause, topic=topic.name)


@cache
def _problems() -> tuple[Exchange, ...]:
    return tuple(problem_exchanges())


def _interaction(exchange: Exchange, earlier: tuple[Message, ...]) -> InteractionCompleted:
    return InteractionCompleted(
        interaction_id=_ID,
        conversation_id=_CONVERSATION,
        agent="tutor",
        target_model=TARGET,
        answering_version="qwen3_8b-000003",
        node="node-1",
        occurred_at=_AT,
        messages=(*earlier, Message(role="user", content=f"No. {_NUMBER}. {exchange.question}")),
        response=Response(content=exchange.answer, thinking=exchange.thinking),
        thinking=Thinking(mode_asked="thinking", mode_used="thinking", reason="the agent asked for it"),
        usage=Usage(prompt_tokens=312, response_tokens=124, thinking_tokens=96, total_seconds=2.4, done_reason="stop"),
        tags=("tutoring",),
        domain="problems",
        reference_answer=exchange.reference,
        outcome="succeeded",
        training_allowed=True,
    )
