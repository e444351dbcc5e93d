"""Training: progress, and the one accepted result of a batch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ruminate.schemas.payload import (
    ArtifactReference,
    Count,
    FiniteJson,
    Name,
    Part,
    Payload,
    Seconds,
    Sha256,
    Target,
    Text,
    Timestamp,
)

Stage = Literal["cold_start", "reasoning_rl", "thinking_fusion", "general_rl"]
JobPhase = Literal["waiting", "preparing", "measuring", "training", "merging", "exporting", "checking"]
Direction = Literal["cancel", "retry", "approve", "pause", "resume", "prioritise"]

Attempt = Annotated[int, Field(ge=1, le=10_000)]
"""Which try of a batch: the first is 1, and each retry of a failure is one more."""


class TrainingDirected(Payload):
    """An operator's word about what is trained. It counts from where it stands in the log, and for what it names alone.

    cancel       the named attempt of a batch ends without a version; what runs of it is stopped
    retry        a batch is tried once more: a word that names the attempt that failed; the first one counts
    approve      a batch may be trained whose target waits for that
    pause        nothing of the target starts; what runs goes on to its end
    resume       it does again
    prioritise   what waits of a batch, or of the whole target, goes before what has a lower priority
    """

    target_model: Target
    direction: Direction
    batch_id: Name | None = Field(default=None, description="Null for pause and resume, and where a whole target is prioritised.")
    attempt: Attempt | None = Field(
        default=None, description="Of the batch, for cancel and retry: the one to be ended, or the one whose failure is answered."
    )
    priority: int = Field(default=0, ge=-1000, le=1000, description="Higher ones first; what nobody speaks of has 0.")
    directed_by: Name
    directed_at: Timestamp
    reason: Text = ""

    @model_validator(mode="after")
    def _names_what_it_is_about(self) -> TrainingDirected:
        of_a_batch = self.direction in ("cancel", "retry", "approve")
        if of_a_batch and self.batch_id is None:
            raise ValueError(f"{self.direction} is of a batch; batch_id names it")
        if self.direction in ("pause", "resume") and self.batch_id is not None:
            raise ValueError(f"{self.direction} is of a target; batch_id must be null")
        if (self.attempt is not None) != (self.direction in ("cancel", "retry")):
            raise ValueError("cancel and retry name an attempt, and nothing else does")
        return self


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
    reward: float | None = Field(default=None, description="Mean reward of the step, where the model practises.")
    memory_bytes: Count | None = Field(
        default=None, description="Most memory so far: of the device, or of the process where the CPU is the device."
    )
    attempt: Attempt = 1
    waits_for: Text | None = Field(default=None, description="What a job that does not run waits for, and what to do about it.")
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
    mean_divergence_nats: float | None = Field(
        default=None,
        ge=0,
        description=(
            "Teacher-forced: Kullback-Leibler divergence of llama.cpp's distribution from transformers', a mean over the "
            "positions. llama.cpp's most likely tokens count one by one, all others as one."
        ),
    )
    compared_mass_ratio: float | None = Field(
        default=None, ge=0, le=1, description="Share of transformers' distribution that was compared token by token, as a mean."
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
    attempt: Attempt = Field(
        default=1, description="Which try of the batch it is: 1, and one more after each failure that is retried."
    )
    target_model: Target
    version: Name
    number: Count
    parent_version: Name | None = None
    continued_from: Name | None = Field(
        default=None,
        description="The version whose adapter it goes on from; null where it was trained from the base, and in records of earlier "
        "releases, which went on from their parent.",
    )
    base_model: Name = Field(description="Hub name or folder of the base.")
    base_sha256: Sha256 | None = Field(
        default=None, description="Digest of the base's weights, shape and vocabulary; a target stays on the one it began with."
    )
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
    """A batch gave no version, and why. Nothing is served from it. A result of a later attempt takes its place."""

    job_id: Name
    batch_id: Name
    attempt: Attempt = Field(
        default=1, description="Which try of the batch it is: 1, and one more after each failure that is retried."
    )
    target_model: Target
    phase: JobPhase
    reason: Name = Field(
        description="A constant word: `bad_dataset`, `no_rows`, `base_missing`, `no_room`, `not_equal`, `crashed`, `cancelled`, …"
    )
    explanation: Text = Field(description="What happened, which value, what is allowed, what to do.")
    evidence: dict[str, FiniteJson] = Field(default_factory=dict)
    failed_at: Timestamp
