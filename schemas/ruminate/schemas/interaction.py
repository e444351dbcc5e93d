"""Interactions: what an agent asked, what the model thought and answered."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from ruminate.schemas.payload import Count, FiniteJson, Name, Part, Payload, Seconds, Sha256, Target, Text, Timestamp

Role = Literal["system", "user", "assistant", "tool"]
Mode = Literal["thinking", "direct"]
Effort = Literal["low", "medium", "high", "max"]
Complexity = Literal["simple", "moderate", "complex", "expert"]
Outcome = Literal["succeeded", "failed", "unknown"]


class ImageReference(Part):
    """An image that was sent, by reference: the bytes lie in the store, never in an event."""

    sha256: Sha256
    media_type: Name
    size_bytes: Count
    uri: Name | None = Field(default=None, description="Where the bytes lie; absent when only the hash was kept.")


class ToolCall(Part):
    """A call of a tool, as the model asked for it."""

    name: Name
    arguments: dict[str, FiniteJson] = Field(default_factory=dict)
    id: Name | None = None


class ToolDefinition(Part):
    """A tool that the model could have called."""

    name: Name
    description: Text | None = None
    parameters: dict[str, FiniteJson] = Field(default_factory=dict, description="A JSON Schema of its arguments.")


class Message(Part):
    """One message of the conversation, before the answer."""

    role: Role
    content: Text = ""
    thinking: Text | None = Field(default=None, description="What the model thought, where the turn was its own.")
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: Name | None = Field(default=None, description="For role `tool`: whose result this is.")
    tool_call_id: Name | None = Field(default=None, description="For role `tool`: the call that this answers.")
    images: tuple[ImageReference, ...] = ()


class Response(Part):
    """What the model answered."""

    content: Text
    thinking: Text | None = Field(default=None, description="The thinking as captured; absent when the model did not think.")
    tool_calls: tuple[ToolCall, ...] = ()


class Thinking(Part):
    """Which mode and effort were asked for, which were used, and why."""

    mode_asked: Literal["thinking", "direct", "adaptive"] | None = None
    mode_used: Mode
    effort_asked: Effort | None = None
    effort_used: Effort | None = None
    reason: Text = Field(default="", description="Why the mode and effort that were used were chosen.")


class Usage(Part):
    """Tokens and times, as the node counted them; absent where it did not."""

    prompt_tokens: Count | None = None
    response_tokens: Count | None = Field(default=None, description="Thinking and answer together.")
    thinking_tokens: Count | None = None
    total_seconds: Seconds | None = None
    load_seconds: Seconds | None = None
    prompt_seconds: Seconds | None = None
    response_seconds: Seconds | None = None
    first_token_seconds: Seconds | None = None
    done_reason: Name | None = Field(default=None, description="`stop`, `length`, …: why the answer ended.")


class ContextFacts(Part):
    """What is known of the surroundings in which the question was asked."""

    codebase_lines: Count | None = Field(default=None, description="Lines of the code base at hand.")
    language: Name | None = Field(default=None, description="Natural or programming language, where known.")
    other: dict[str, FiniteJson] = Field(default_factory=dict)


class AnswerCheck(Part):
    """How to find out whether an answer is right, or at least has the form that was asked for."""

    kind: Literal["json_schema", "python_tests", "exact"]
    content: Text = Field(
        description="A JSON Schema; Python tests that import `answer` or use its names as they are; or the exact text, but for "
        "white space around it."
    )


class InteractionCompleted(Payload):
    """An agent's question was answered. Written by the gateway, by agents, or by the collector for its HTTP callers."""

    interaction_id: Name = Field(description="Given by whoever completed it; equal to the CloudEvents id.")
    conversation_id: Name = Field(description="From a header, else the hash chain of the messages.")
    continues_interaction: Name | None = Field(
        default=None, description="The interaction that this one extends; its training row replaces the earlier one's."
    )
    agent: Name = Field(description="Who asked.")
    target_model: Target = Field(description="The name that the agent asked for, and that learns.")
    answering_version: Name | None = Field(default=None, description="The model version that answered, where known.")
    node: Name | None = Field(default=None, description="The node that answered, where known.")
    occurred_at: Timestamp = Field(description="When the answer was complete.")
    messages: tuple[Message, ...] = Field(min_length=1)
    tools: tuple[ToolDefinition, ...] = Field(default=(), description="What was offered beside the messages, in its order.")
    response: Response
    thinking: Thinking
    usage: Usage = Usage()
    tags: tuple[Name, ...] = ()
    domain: Name | None = None
    complexity: Complexity | None = None
    context: ContextFacts = ContextFacts()
    reference_answer: Text | None = Field(default=None, description="The right answer, where somebody knows it.")
    answer_check: AnswerCheck | None = Field(default=None, description="How the answer can be checked, where it can.")
    outcome: Outcome = "unknown"
    training_allowed: bool = Field(default=False, description="Consent: true only where the tenant's policy grants it.")


class InteractionRecorded(InteractionCompleted):
    """An interaction, validated, normalised (NFC) and redacted, recorded once. Compacted, so that a tombstone can erase it."""

    source: Name = Field(description="CloudEvents source of the completed event; ids are unique within it.")
    recorded_id: UUID = Field(description="This event's own id: the interaction's name from here on, across tenants and sources.")
    normalised: tuple[Name, ...] = Field(
        default=(), description="What was changed: `nfc`, and `redacted:<kind>` for each kind of placeholder."
    )
