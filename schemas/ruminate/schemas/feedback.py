"""Feedback: what somebody thought of an answer, soon or late."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ruminate.schemas.interaction import Outcome
from ruminate.schemas.payload import Name, Payload, Ratio, Text, Timestamp


class FeedbackGiven(Payload):
    """Somebody judged an interaction. Each field that is present speaks; absent ones say nothing."""

    interaction_id: Name
    interaction_source: Name
    conversation_id: Name
    given_by: Name
    given_at: Timestamp
    thumb: Literal["up", "down"] | None = None
    score: Ratio | None = None
    correction: Text | None = Field(default=None, description="The answer that should have been given.")
    outcome: Outcome | None = None
    comment: Text | None = None
