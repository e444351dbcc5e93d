"""Questions that can be put to a model again, in their own words. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from ruminate.schemas.interaction import InteractionRecorded


@dataclass(frozen=True, slots=True)
class OfInteraction:
    """What somebody is asked about one interaction."""

    interaction: InteractionRecorded

    @property
    def tenant(self) -> str:
        return self.interaction.tenant

    @property
    def recorded_id(self) -> UUID:
        return self.interaction.recorded_id

    @property
    def conversation_id(self) -> str:
        return self.interaction.conversation_id


def in_words(interaction: InteractionRecorded) -> bool:
    """Whether the question is all in words and ends with the user's: no tools, no images, and no call of a tool in the answer."""
    messages = interaction.messages
    beyond_words = any(message.role == "tool" or message.tool_calls or message.images for message in messages)
    return not (beyond_words or interaction.tools or interaction.response.tool_calls) and messages[-1].role == "user"
