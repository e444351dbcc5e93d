"""What the trainer can be told from outside, with the reason for each default."""

from __future__ import annotations

from pydantic import Field, model_validator

from ruminate.schemas.payload import Target
from ruminate.shared.settings import ServiceSettings
from ruminate.trainer.decide import Dtype, Encoding, Hyperparameters, Policy, Schedule

_OFFICIAL_BASES = {
    "qwen3:0.6b": "Qwen/Qwen3-0.6B",
    "qwen3:1.7b": "Qwen/Qwen3-1.7B",
    "qwen3:4b": "Qwen/Qwen3-4B",
    "qwen3:8b": "Qwen/Qwen3-8B",
    "qwen3:14b": "Qwen/Qwen3-14B",
    "qwen3:32b": "Qwen/Qwen3-32B",
    "qwen3:30b-a3b": "Qwen/Qwen3-30B-A3B",
    "qwen3:235b-a22b": "Qwen/Qwen3-235B-A22B",
}


class TrainerSettings(ServiceSettings):
    """Read once from `RUMINATE_*`, then passed down."""

    grace_seconds: float = Field(
        default=0.0,
        ge=0,
        le=600,
        description="How long SIGTERM waits for a job. None: a job of hours goes on from its checkpoint at the next start.",
    )
    bases: dict[Target, str] = Field(
        default=_OFFICIAL_BASES,
        description="The base that each target is trained on, as JSON: hub names or local folders.",
    )
    lora_rank: int = Field(default=64, ge=1, le=512, description="Rank of the adapter: its room to learn.")
    lora_alpha: int = Field(default=128, ge=1, le=1024, description="Scale of the adapter; twice the rank is usual.")
    learning_rate: float = Field(
        default=1e-5, gt=0, le=1e-2, description="1e-5 is careful, for a model updated again and again; 2e-4 for a fresh adapter."
    )
    learning_rate_schedule: Schedule = Field(default="cosine", description="How the learning rate falls after the warm-up.")
    warmup_ratio: float = Field(default=0.03, ge=0, le=0.5, description="Share of the steps over which the learning rate rises.")
    training_epochs: float = Field(default=2.0, gt=0, le=100, description="How often each row is seen.")
    batch_rows: int = Field(default=16, ge=1, le=1024, description="Rows a step.")
    micro_batch_rows: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="Rows on the device at once, a divisor of the rows a step: less when memory runs out.",
    )
    max_row_tokens: int = Field(
        default=4096,
        ge=16,
        le=262_144,
        description="Longer rows are left out and counted: cut short, they would teach unfinished thoughts.",
    )
    training_seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Seed of shuffling and of fresh adapters.")
    training_threads: int = Field(default=0, ge=0, le=1024, description="CPU threads of the training process; 0 lets torch choose.")
    checkpoint_steps: int = Field(default=50, ge=1, description="Steps between checkpoints: what a crash can cost.")
    crash_restarts: int = Field(default=3, ge=0, le=100, description="How often a crashed job goes on from its checkpoint.")
    merged_dtype: Dtype = Field(
        default="bfloat16", description="Precision in which adapter and base are merged; bfloat16 is what Qwen3 is released in."
    )
    export_encodings: tuple[Encoding, ...] = Field(
        default=("f16",),
        min_length=1,
        description="GGUF encodings of the merged model, as JSON; nodes quantise further from f16 or f32.",
    )
    adapter_encoding: Encoding = Field(default="f16", description="GGUF encoding of the adapter.")
    equality_probes: int = Field(
        default=64, ge=0, le=1024, description="Prompts on which llama.cpp and transformers must agree; 0 leaves the check out."
    )

    @model_validator(mode="after")
    def _hyperparameters_are_possible(self) -> TrainerSettings:
        self.hyperparameters()
        return self

    def hyperparameters(self) -> Hyperparameters:
        """What changes what is learned."""
        return Hyperparameters(
            lora_rank=self.lora_rank,
            lora_alpha=self.lora_alpha,
            learning_rate=self.learning_rate,
            schedule=self.learning_rate_schedule,
            warmup_ratio=self.warmup_ratio,
            epochs=self.training_epochs,
            batch_rows=self.batch_rows,
            micro_batch_rows=self.micro_batch_rows,
            max_row_tokens=self.max_row_tokens,
            seed=self.training_seed,
        )

    def policy(self) -> Policy:
        """What `decide` needs to know."""
        return Policy(
            bases=self.bases,
            hyperparameters=self.hyperparameters(),
            checkpoint_steps=self.checkpoint_steps,
            merged_dtype=self.merged_dtype,
            encodings=self.export_encodings,
            adapter_encoding=self.adapter_encoding,
            equality_probes=self.equality_probes,
        )
