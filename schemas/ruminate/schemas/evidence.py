"""Evidence: what speaks for or against an answer, beside what can be read in it."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from ruminate.schemas.interaction import Outcome
from ruminate.schemas.payload import Count, Name, Payload, Ratio, Text, Timestamp

EvidenceKind = Literal["feedback", "asked_again", "agreement", "judged", "thinking"]


class EvidenceRecorded(Payload):
    """Something that speaks for or against a recorded interaction. Compacted, so that a tombstone can erase it.

    Each field that is present speaks; absent ones say nothing. The interaction is judged again with all of its evidence.
    """

    recorded_id: UUID = Field(description="The recorded interaction that it is about.")
    conversation_id: Name
    kind: EvidenceKind
    said_by: Name = Field(description="Who says so: a person or an agent, or the service that noticed it.")
    said_at: Timestamp
    thumb: Literal["up", "down"] | None = None
    score: Ratio | None = None
    outcome: Outcome | None = None
    correction: Text | None = Field(default=None, description="The answer that should have been given.")
    comment: Text | None = None
    agreeing: Count | None = Field(default=None, description="Other answers to the same question that say the same.")
    disagreeing: Count | None = Field(default=None, description="Other answers to the same question that say something else.")
    judged: dict[Name, Ratio] | None = Field(default=None, description="What a model gives each part of the verdict, by its name.")
    preferred: bool | None = Field(
        default=None, description="Whether a model prefers it to another answer to the same question, whichever it sees first."
    )
    thinking: Text | None = Field(
        default=None,
        description="Thinking that a model wrote for an answer which had none; verified. It says nothing of its worth.",
    )
    model: Name | None = Field(
        default=None, description="The model that says so: always for `judged` and `thinking`, for `agreement` where it was asked."
    )
    normalised: tuple[Name, ...] = Field(default=(), description="What was changed: `nfc`, `redacted:<kind>`.")


class AnswerNoted(Payload):
    """What a recorded interaction answered to which question, as digests: those who answered the same meet here."""

    question: Name = Field(description="Digest of the question and of the turns before it.")
    answer: Name | None = Field(
        default=None, description="Digest of the answer in a form that is the same for the same answer; absent where it has none."
    )
    wording: Name = Field(description="Digest of thinking and answer: a copy is no second opinion.")
    recorded_id: UUID
    conversation_id: Name
    began_at: Timestamp = Field(description="When the question was asked.")
    occurred_at: Timestamp = Field(description="When the answer was complete.")
