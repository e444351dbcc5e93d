"""Erasure: what has to be forgotten, by everyone who stores."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ruminate.schemas.payload import Name, Payload, Target, Text, Timestamp


class ErasureRequested(Payload):
    """Somebody has the right to be forgotten: everything that `scope` names is erased."""

    target_model: Target = Field(default="*", description="`*` for every target.")
    scope: Literal["interaction", "conversation", "agent", "tenant"]
    subject: Name = Field(description="The id or name within the scope.")
    requested_by: Name
    requested_at: Timestamp
    reason: Text = ""
