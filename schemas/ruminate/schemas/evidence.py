"""Evidence: what speaks for or against an answer, beside what can be read in it."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from ruminate.schemas.interaction import Outcome
from ruminate.schemas.payload import Count, Name, Payload, Ratio, Text, Timestamp

EvidenceKind = Literal["feedback", "asked_again", "agreement"]


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
    normalised: tuple[Name, ...] = Field(default=(), description="What was changed: `nfc`, `redacted:<kind>`.")
