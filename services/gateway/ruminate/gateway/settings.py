"""What the gateway can be told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from ruminate.schemas.payload import Name
from ruminate.shared.settings import ServiceSettings

Url = Annotated[str, StringConstraints(pattern=r"^https?://[^/\s]+/?$")]


class GatewaySettings(ServiceSettings):
    """Nodes, limits and consent."""

    gateway_host: str = Field(default="127.0.0.1", description="Interface on which agents are answered.")
    gateway_port: int = Field(default=11435, ge=0, le=65535, description="Port on which agents are answered; 0 takes a free one.")
    nodes: dict[Name, Url] = Field(
        default={"local": "http://127.0.0.1:11434"},
        min_length=1,
        description='Ollama nodes as JSON, name to address: `{"a": "http://10.0.0.1:11434"}`.',
    )
    request_limit_bytes: int = Field(
        default=32 * 1024 * 1024, ge=1024, le=1024**3, description="Largest request body; beyond it the answer is 413."
    )
    connect_timeout_seconds: float = Field(default=2.0, gt=0, le=60, description="How long a node may take to accept a connection.")
    silence_timeout_seconds: float = Field(
        default=600.0, gt=0, le=86_400, description="How long a node may say nothing in the middle of an answer: loading counts."
    )
    health_interval_seconds: float = Field(default=2.0, gt=0, le=300, description="Time between two looks at each node.")
    health_timeout_seconds: float = Field(default=2.0, gt=0, le=60, description="How long a node may take to say that it is well.")
    down_after_failures: int = Field(
        default=2,
        ge=1,
        le=100,
        description="Failures in a row after which a node gets no more requests; a refused connection suffices.",
    )
    spool_limit_bytes: int = Field(
        default=1024**3,
        ge=1024 * 1024,
        description="Room for events that the broker does not have yet; when full, answers flow on and are not captured.",
    )
    spool_damaged_days: float = Field(
        default=7.0,
        gt=0,
        le=365,
        description="How long what could not be read back is kept for people. It may hold texts that were to be forgotten, and "
        "nobody can say whose: so it goes when raw topics do.",
    )
    spool_fsync: bool = Field(
        default=False,
        description="Wait for the disk before an answer ends. Without it a killed process loses nothing, a power cut may.",
    )
    remembered_answers: int = Field(
        default=20_000, ge=0, le=10_000_000, description="Latest answers whose continuation is recognised, about 300 bytes each."
    )
    training_tenants: frozenset[Name] = Field(
        default=frozenset(), description="Tenants whose policy grants training, as JSON list. Nobody else's interactions teach."
    )
