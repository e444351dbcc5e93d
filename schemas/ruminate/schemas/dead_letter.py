"""Dead letters, settled by people: who sent which one back to its reader or dropped it, and why."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from ruminate.schemas.payload import Count, Name, Payload, Text, Timestamp


class DeadLetterSettled(Payload):
    """One dead letter is settled: `replayed` to its reader, or `dropped` for good.

    `tenant` is that of the operator's setting, not of the record: what cannot be read has none.
    """

    letter_id: UUID = Field(description="Key of the dead letter.")
    action: Literal["replayed", "dropped"]
    reader: Name = Field(description="The consumer group that gave the record up.")
    topic: Name = Field(description="Where the record stood: a topic of the flow, or the reader's retry topic.")
    partition: Count
    offset: Count
    reason: Name = Field(description="Why the reader gave it up.")
    settled_by: Name = Field(description="Who decided.")
    why: Text = Field(description="For whoever asks later.")
    settled_at: Timestamp
