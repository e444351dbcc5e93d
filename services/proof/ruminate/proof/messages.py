"""Turns of a conversation and the tools that are offered in it, as datasets and exams have them. Pure."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, field_validator

from ruminate.schemas.payload import Part

Tools = list[dict[str, JsonValue]] | None

_DEFINITIONS: Final[TypeAdapter[list[dict[str, JsonValue]]]] = TypeAdapter(list[dict[str, JsonValue]])


class Message(Part):
    """One turn, as a chat template takes it; further fields (tool calls, names) pass through."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    images: JsonValue = Field(default=None, exclude=True)

    @field_validator("images")
    @classmethod
    def _shows_nothing(cls, images: JsonValue) -> JsonValue:
        if images not in (None, "[]"):
            raise ValueError(
                "a turn has images, and only text is taught here: an answer to what is not seen would be learned as an invention; "
                "leave them out (RUMINATE_KEEP_IMAGES=false), or train a model that sees from an export"
            )
        return images


def definitions(tools: str | None) -> list[dict[str, JsonValue]] | None:
    """Tools as a chat template takes them, from the text that a row has. Raises ValidationError."""
    return None if tools is None else _DEFINITIONS.validate_json(tools) or None
