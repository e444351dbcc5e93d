"""What is to be done with a sealed batch: nothing, a refusal, or a job.

Only the first record in the log that extends a target's chain is its batch; only the first result of a batch counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Final, Literal

from pydantic import Field, JsonValue, model_validator

from ruminate.schemas.batch import DatasetRevised, TrainingBatchSealed
from ruminate.schemas.model import ModelRegistered, ModelRolledBack
from ruminate.schemas.payload import ArtifactReference, Count, Name, Part
from ruminate.schemas.training import AdapterTrained, Stage, TrainingFailed

Encoding = Literal["f32", "f16", "bf16", "q8_0"]
Dtype = Literal["float32", "bfloat16", "float16"]
Schedule = Literal["cosine", "linear", "constant_with_warmup"]

STAGES: Final[tuple[Stage, ...]] = ("thinking_fusion",)
"""What a sealed batch supports: supervised rows that think and rows that do not, in one stage."""


class Hyperparameters(Part):
    """Everything that changes what is learned; recorded with the version as its `settings`."""

    lora_rank: int = Field(default=64, ge=1, le=512)
    lora_alpha: int = Field(default=128, ge=1, le=1024)
    learning_rate: float = Field(default=1e-5, gt=0, le=1e-2)
    schedule: Schedule = "cosine"
    warmup_ratio: float = Field(default=0.03, ge=0, le=0.5)
    epochs: float = Field(default=2.0, gt=0, le=100)
    batch_rows: int = Field(default=16, ge=1, le=1024)
    micro_batch_rows: int = Field(default=16, ge=1, le=1024)
    max_row_tokens: int = Field(default=4096, ge=16, le=262_144)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)

    @model_validator(mode="after")
    def _micro_batches_fill_a_batch(self) -> Hyperparameters:
        if self.batch_rows % self.micro_batch_rows:
            raise ValueError(
                f"batch_rows is {self.batch_rows} and micro_batch_rows {self.micro_batch_rows}; "
                "the first must be a multiple of the second"
            )
        return self


class JobPlan(Part):
    """One version to be made, in full: the child needs nothing else but the files."""

    tenant: Name
    batch_id: Name
    target_model: Name
    number: Count
    version: Name
    parent_version: Name | None
    parent_adapter: ArtifactReference | None
    base_model: Name
    dataset: ArtifactReference
    rows: Count
    stages: tuple[Stage, ...]
    hyperparameters: Hyperparameters
    steps: Count
    checkpoint_steps: Count
    merged_dtype: Dtype
    encodings: tuple[Encoding, ...]
    adapter_encoding: Encoding
    equality_probes: Count


@dataclass(frozen=True)
class Skip:
    """Nothing is to be told: the log has the answer already, or this record is no batch."""

    reason: Literal["has_result", "repeated"]


@dataclass(frozen=True)
class Wait:
    """Not yet: what this batch continues from is not known."""

    what: str


@dataclass(frozen=True)
class Refuse:
    """The batch gives no version, and why: the words of `training-failed-v1`."""

    reason: str
    explanation: str
    evidence: dict[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Policy:
    """What the operator chose."""

    bases: dict[str, str]
    hyperparameters: Hyperparameters
    checkpoint_steps: int
    merged_dtype: Dtype
    encodings: tuple[Encoding, ...]
    adapter_encoding: Encoding
    equality_probes: int


@dataclass(frozen=True)
class History:
    """What the log says about one tenant and target, each in the order of the log; batches with their offsets."""

    sealed: tuple[tuple[int, TrainingBatchSealed], ...]
    trained: tuple[AdapterTrained, ...] = ()
    failed: tuple[TrainingFailed, ...] = ()
    registered: tuple[ModelRegistered, ...] = ()
    rolled_back: tuple[ModelRolledBack, ...] = ()
    revised: tuple[DatasetRevised, ...] = ()

    @property
    def undecided(self) -> AdapterTrained | None:
        """The newest version that is trained and neither serves nor was rolled back."""
        decided = {record.version for record in self.registered} | {record.version for record in self.rolled_back}
        open_ones = [record for record in self.trained if record.version not in decided]
        return max(open_ones, key=lambda record: record.number, default=None)

    @property
    def settled(self) -> frozenset[str]:
        """Ids of the batches that have their result."""
        return frozenset((*(result.batch_id for result in self.trained), *(result.batch_id for result in self.failed)))


def decide(batch: TrainingBatchSealed, offset: int, history: History, policy: Policy) -> Skip | Refuse | Wait | JobPlan:
    """Answer the batch that stands at `offset`, which `history.sealed` reaches at least up to."""
    if batch.batch_id in history.settled:
        return Skip("has_result")
    accepted = chain(history.sealed)
    first = next((at for at, link in accepted if link.batch_id == batch.batch_id), None)
    if first is None:
        return _not_in_chain(batch, tuple(link for _, link in accepted))
    if first != offset:
        # The same batch, written twice: a refusal here would pass for the batch's own result.
        return Skip("repeated")
    if (refusal := _unusable(batch, policy)) is not None:
        return refusal
    if history.undecided is not None:
        # Trained now, it would not continue from that version, and would lose what that one has learned.
        return Wait(f"{history.undecided.version} of {batch.target_model} is trained and neither registered nor rolled back yet")
    parent = parent_of(batch.number, history.registered)
    chosen = policy.hyperparameters
    return JobPlan(
        tenant=batch.tenant,
        batch_id=batch.batch_id,
        target_model=batch.target_model,
        number=batch.number,
        version=f"v{batch.number}",
        parent_version=parent.version if parent else None,
        parent_adapter=parent.adapter if parent else None,
        base_model=policy.bases[batch.target_model],
        dataset=batch.dataset,
        rows=batch.rows,
        stages=STAGES,
        hyperparameters=chosen,
        steps=max(1, ceil((batch.rows + batch.replay_rows) * chosen.epochs / chosen.batch_rows)),
        checkpoint_steps=policy.checkpoint_steps,
        merged_dtype=policy.merged_dtype,
        encodings=policy.encodings,
        adapter_encoding=policy.adapter_encoding,
        equality_probes=policy.equality_probes,
    )


def _unusable(batch: TrainingBatchSealed, policy: Policy) -> Refuse | None:
    if batch.rows == 0:
        explanation = (
            f"batch {batch.batch_id} has no rows to train on: its interval gave none, or they were erased. Nothing is to be done."
        )
        return Refuse("no_rows", explanation)
    if batch.target_model not in policy.bases:
        return Refuse(
            "base_missing",
            f"no base is known for target {batch.target_model}; known are {', '.join(sorted(policy.bases)) or 'none'}. "
            "Name a hub model or a local folder for it in RUMINATE_BASES.",
            {"target_model": batch.target_model},
        )
    return None


def chain(sealed: tuple[tuple[int, TrainingBatchSealed], ...]) -> tuple[tuple[int, TrainingBatchSealed], ...]:
    """The accepted batches: each is the first in the log that follows on the one before it."""
    accepted: list[tuple[int, TrainingBatchSealed]] = []
    for offset, batch in sealed:
        last = accepted[-1][1] if accepted else None
        if _extends(batch, last):
            accepted.append((offset, batch))
    return tuple(accepted)


def _extends(batch: TrainingBatchSealed, last: TrainingBatchSealed | None) -> bool:
    number, batch_id, to_offset = (last.number, last.batch_id, last.to_offset) if last else (0, None, -1)
    return (
        batch.number == number + 1
        and batch.previous_batch_id == batch_id
        and batch.after_offset == to_offset < batch.to_offset
        and (last is None or batch.assessed_partition == last.assessed_partition)
    )


def _not_in_chain(batch: TrainingBatchSealed, accepted: tuple[TrainingBatchSealed, ...]) -> Refuse:
    holder = next((link for link in accepted if link.number == batch.number), None)
    last = accepted[-1] if accepted else None
    why = (
        f"batch {batch.number} of {batch.target_model} is {holder.batch_id}, which stands before it in the log"
        if holder
        else f"the chain of {batch.target_model} ends with {f'batch {last.number}, {last.batch_id}' if last else 'no batch yet'}"
    )
    return Refuse(
        "not_in_chain",
        f"batch {batch.batch_id} (number {batch.number}) does not extend the chain: {why}. "
        "Nothing is to be done; its rows are in the chain.",
        {
            "number": batch.number,
            "previous_batch_id": batch.previous_batch_id,
            "after_offset": batch.after_offset,
            "accepted_batch_id": holder.batch_id if holder else None,
            "chain_ends_with_number": last.number if last else 0,
            "chain_ends_at_offset": last.to_offset if last else -1,
        },
    )


def parent_of(number: int, registered: tuple[ModelRegistered, ...]) -> ModelRegistered | None:
    """The newest version before `number` that serves; the first registration of a version is the one that counts."""
    first: dict[str, ModelRegistered] = {}
    for record in registered:
        first.setdefault(record.version, record)
    return max((record for record in first.values() if record.number < number), key=lambda record: record.number, default=None)
