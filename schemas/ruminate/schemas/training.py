"""Training: progress, and the one accepted result of a batch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ruminate.schemas.payload import ArtifactReference, Count, FiniteJson, Name, Part, Payload, Seconds, Target, Text, Timestamp

Stage = Literal["cold_start", "reasoning_rl", "thinking_fusion", "general_rl"]
JobPhase = Literal["waiting", "preparing", "training", "merging", "exporting", "checking"]


class TrainingProgressed(Payload):
    """Where a job stands. Lost records hurt nobody."""

    job_id: Name = Field(description="The batch that is trained.")
    target_model: Target
    phase: JobPhase
    stage: Stage | None = None
    step: Count = 0
    steps: Count = 0
    loss: float | None = None
    eta_seconds: Seconds | None = None
    tokens_per_second: Seconds | None = None
    at: Timestamp


class TokenEquality(Part):
    """Whether llama.cpp and transformers, holding the same rounded weights, say the same."""

    encoding: Literal["f32", "f16", "bf16", "q8_0"]
    method: Literal["free-running", "teacher-forced"]
    probes: Count
    equal: Count
    margin_bound: float | None = Field(
        default=None, description="Teacher-forced: positions with a smaller logit margin do not count."
    )


class GgufFile(Part):
    """One exported file."""

    encoding: Literal["f32", "f16", "bf16", "q8_0"]
    holds: Literal["model", "adapter"]
    file: ArtifactReference


class AdapterTrained(Payload):
    """A batch became a version: the adapter, the merged model, and the evidence that both are what they should be."""

    job_id: Name
    batch_id: Name
    target_model: Target
    version: Name
    number: Count
    parent_version: Name | None = None
    base_model: Name = Field(description="Hub name or folder of the base.")
    adapter: ArtifactReference = Field(description="Manifest of the PEFT adapter's folder.")
    gguf: tuple[GgufFile, ...]
    dataset: ArtifactReference
    stages: tuple[Stage, ...]
    settings: dict[str, FiniteJson]
    metrics: dict[str, FiniteJson]
    equality: tuple[TokenEquality, ...] = ()
    chat_template_sha256: Name | None = None
    duration_seconds: Seconds
    trained_at: Timestamp


class TrainingFailed(Payload):
    """A batch gave no version, and why. Nothing is served from it."""

    job_id: Name
    batch_id: Name
    target_model: Target
    phase: JobPhase
    reason: Name = Field(
        description="A constant word: `bad_dataset`, `no_rows`, `base_missing`, `no_room`, `not_equal`, `crashed`, …"
    )
    explanation: Text = Field(description="What happened, which value, what is allowed, what to do.")
    evidence: dict[str, FiniteJson] = Field(default_factory=dict)
    failed_at: Timestamp
