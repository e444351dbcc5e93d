"""What a job is told to do, in full: one version to be made, and everything that changes what comes of it. Pure.

The service writes it down, the training process needs nothing else but the files, and it is recorded with the version.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, model_validator

from ruminate.grading.checking.limits import Limits
from ruminate.proof.judge import Policy as ProofPolicy
from ruminate.schemas.payload import ArtifactReference, Count, Name, Part, Sha256
from ruminate.schemas.training import Stage

Encoding = Literal["f32", "f16", "bf16", "q8_0"]
Dtype = Literal["float32", "bfloat16", "float16"]
Schedule = Literal["cosine", "linear", "constant_with_warmup"]
Method = Literal["lora", "qlora"]
BackendWish = Literal["auto", "transformers", "unsloth"]
Checkpointing = Literal["auto", "on", "off"]

Enforcement = Literal["enforce", "report", "off"]

ORDER: Final[tuple[Stage, ...]] = ("cold_start", "reasoning_rl", "thinking_fusion", "general_rl")


class StageRules(Part):
    """What a stage needs, and which are wanted."""

    wanted: tuple[Stage, ...] = ORDER
    cold_start_thinking_tokens: int = Field(default=1024, ge=1)
    cold_start_least_rows: int = Field(default=64, ge=1)
    practice_least_questions: int = Field(default=64, ge=1)
    preference_least_pairs: int = Field(default=32, ge=1)


class Recovery(Part):
    """How much is tried when a stage has cost reasoning."""

    factor_tries: int = Field(default=3, ge=0, le=10)
    gentler_tries: int = Field(default=2, ge=0, le=10)
    gentler_rate_factor: float = Field(default=0.3, gt=0, lt=1)
    gentler_rehearsal_factor: int = Field(default=2, ge=1, le=16)


class Practice(Part):
    """How the model practises on questions whose answers can be checked."""

    learning_rate: float = Field(default=5e-6, gt=0, le=1e-2)
    warmup_ratio: float = Field(default=0.05, ge=0, le=0.5)
    steps: int = Field(default=200, ge=1, le=1_000_000)
    questions_a_step: int = Field(default=8, ge=1, le=1024)
    answers_a_question: int = Field(default=8, ge=2, le=256)
    answer_tokens: int = Field(default=2048, ge=8, le=131_072)
    temperature: float = Field(default=1.0, gt=0, le=2)
    reasoning_ratio: float = Field(default=0.75, ge=0, le=1)
    form_weight: float = Field(default=0.2, ge=0, le=10)
    length_weight: float = Field(default=0.1, ge=0, le=10)


class Preference(Part):
    """How the model learns which of two answers people prefer."""

    learning_rate: float = Field(default=5e-6, gt=0, le=1e-2)
    warmup_ratio: float = Field(default=0.1, ge=0, le=0.5)
    epochs: float = Field(default=1.0, gt=0, le=100)
    batch_rows: int = Field(default=16, ge=1, le=1024)
    beta: float = Field(default=0.1, gt=0, le=10)


class Hyperparameters(Part):
    """Everything that changes what is learned; recorded with the version as its `settings`. What has no stage in its name is
    that of the supervised ones."""

    method: Method = "lora"
    lora_rank: int = Field(default=64, ge=1, le=512)
    lora_alpha: int = Field(default=128, ge=1, le=1024)
    learning_rate: float = Field(default=1e-5, gt=0, le=1e-2)
    schedule: Schedule = "cosine"
    warmup_ratio: float = Field(default=0.03, ge=0, le=0.5)
    epochs: float = Field(default=2.0, gt=0, le=100)
    rehearsal_epochs: float | None = Field(default=None, gt=0, le=100)
    rehearsal_most_rows: int = Field(default=20_000, ge=1)
    batch_rows: int = Field(default=16, ge=1, le=1024)
    micro_batch_rows: int = Field(default=16, ge=1, le=1024)
    max_row_tokens: int = Field(default=4096, ge=16, le=262_144)
    early_stop_looks: int = Field(default=3, ge=0, le=100)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    practice: Practice = Practice()
    preference: Preference = Preference()

    @model_validator(mode="after")
    def _micro_batches_fill_a_batch(self) -> Hyperparameters:
        if self.batch_rows % self.micro_batch_rows:
            raise ValueError(
                f"batch_rows is {self.batch_rows} and micro_batch_rows {self.micro_batch_rows}; "
                "the first must be a multiple of the second"
            )
        return self


class Proof(Part):
    """How it is proven that a version has learned and still reasons."""

    enforcement: Enforcement = "enforce"
    policy: ProofPolicy = ProofPolicy()
    questions: int = Field(default=256, ge=1, le=100_000)
    answer_tokens: int = Field(default=4096, ge=8, le=131_072)
    batch_rows: int = Field(default=32, ge=1, le=4096)
    exams: dict[Name, Sha256] = Field(default_factory=dict)


class JobPlan(Part):
    """One version to be made, in full: the child needs nothing else but the files."""

    tenant: Name
    batch_id: Name
    target_model: Name
    number: Count
    version: Name
    parent_version: Name | None
    parent_adapter: ArtifactReference | None
    from_base: bool = False
    """Whether it does not go on from its parent's adapter, but is trained anew, on all that earlier batches taught."""
    earlier_datasets: tuple[ArtifactReference, ...] = ()
    """Where it is trained anew: those of the batches before it, in their order."""
    base_model: Name
    base_sha256: Sha256 | None = None
    """That of the parent's base; None where there is no parent, or it was trained by an earlier release."""
    dataset: ArtifactReference
    rows: Count
    stages: StageRules = StageRules()
    hyperparameters: Hyperparameters
    proof: Proof = Proof()
    recovery: Recovery = Recovery()
    code: Limits | None = None
    """How code of answers is run; None where it is not."""
    checkpoint_steps: Count
    merged_dtype: Dtype
    encodings: tuple[Encoding, ...]
    adapter_encoding: Encoding
    equality_probes: Count
    backend: BackendWish = "auto"
    gradient_checkpointing: Checkpointing = "auto"
    export_context_tokens: Count | None = None
