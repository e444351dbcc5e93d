"""Batches: a chain of cuts through the log of assessed interactions, one chain a tenant and target."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from ruminate.schemas.payload import ArtifactReference, Count, Name, Payload, Ratio, Target, Text, Timestamp

SealReason = Literal["count", "ratio", "age", "operator", "tokens", "drift", "quality", "records"]


class BatchRequested(Payload):
    """An operator's word: seal what waits, though no other reason is there. It counts once, by the first batch that names it."""

    target_model: Target
    requested_by: Name
    requested_at: Timestamp
    reason: Text = ""


class TrainingBatchSealed(Payload):
    """Batch `number` of a target: what was assessed in (`after_offset`, `to_offset`] of one partition.

    The first record in the log that extends the chain is the batch; every other is ignored by everyone.
    """

    batch_id: Name = Field(description="Names the batch in files, versions and messages.")
    target_model: Target
    number: Count = Field(description="1, 2, 3, … along the chain.")
    previous_batch_id: Name | None = None
    assessed_partition: Count
    after_offset: int = Field(ge=-1, description="End of the previous batch, exclusive; -1 before the first.")
    to_offset: Count = Field(description="Last offset that belongs to this batch.")
    sealed_at: Timestamp
    reason: SealReason
    explanation: Text = Field(description="The numbers behind `reason`, for people.")
    dataset: ArtifactReference = Field(description="The dataset's manifest.")
    rows: Count
    reasoning_rows: Count
    direct_rows: Count
    reasoning_ratio: Ratio
    holdout_rows: Count = 0
    replay_rows: Count = Field(default=0, description="Rows of earlier batches, and anchors, to be trained with it.")
    generated_rows: Count = Field(default=0, description="Rows whose thinking was written and verified afterwards.")
    replay_generated_rows: Count = Field(
        default=0,
        description="Those of `replay_rows` whose thinking was written afterwards; 0 if an earlier release sealed it.",
    )
    preference_pairs: Count = 0
    verifiable_questions: Count = Field(default=0, description="Questions for practice, whose answers can be checked.")
    rejected_interactions: Count = Field(default=0, description="Assessed in the interval and not taken, for whatever reason.")
    requests: tuple[Name, ...] = Field(
        default=(), description="Event ids of the operators' words that this batch answers, whatever its reason."
    )


class DatasetRevised(Payload):
    """An erasure has taken lines out of a batch's dataset. The first record that follows the last revision is the next one.

    The batch stays what it is in its chain. Versions that were trained on what the dataset was before keep what they learned.
    """

    batch_id: Name
    target_model: Target
    number: Count = Field(description="Of the batch.")
    revision: Count = Field(description="1, 2, 3, …; 0 is what was sealed.")
    replaces: ArtifactReference = Field(description="What the dataset was until now. It is no longer in the store.")
    dataset: ArtifactReference
    revised_at: Timestamp
    erasure_ids: tuple[Name, ...] = Field(
        description="Ids of the requests for which something has left it, in this revision or before."
    )
    erased_interactions: Count = Field(description="Interactions that have left it, in this revision or before.")
    rows: Count
    reasoning_rows: Count
    direct_rows: Count
    holdout_rows: Count = 0
    replay_rows: Count = 0
    generated_rows: Count = 0
    replay_generated_rows: Count = 0
    preference_pairs: Count = 0
    verifiable_questions: Count = 0


def follows(revised: DatasetRevised, current: ArtifactReference | None, revision: int) -> bool:
    """Whether this is the next revision of a dataset."""
    return current is not None and revised.revision == revision + 1 and revised.replaces.sha256 == current.sha256


def as_revised(batch: TrainingBatchSealed, revised: DatasetRevised) -> TrainingBatchSealed:
    """A batch with the dataset that it has by now."""
    rows = revised.rows
    return batch.model_copy(
        update={
            "dataset": revised.dataset,
            "rows": rows,
            "reasoning_rows": revised.reasoning_rows,
            "direct_rows": revised.direct_rows,
            "reasoning_ratio": revised.reasoning_rows / rows if rows else 1.0,
            "holdout_rows": revised.holdout_rows,
            "replay_rows": revised.replay_rows,
            "generated_rows": revised.generated_rows,
            "replay_generated_rows": revised.replay_generated_rows,
            "preference_pairs": revised.preference_pairs,
            "verifiable_questions": revised.verifiable_questions,
        }
    )


def as_it_is(batch: TrainingBatchSealed, revisions: Iterable[DatasetRevised]) -> TrainingBatchSealed:
    """A batch with the dataset that it has after these revisions, in the order of the log; those of others change nothing."""
    revision = 0
    for revised in revisions:
        if revised.batch_id == batch.batch_id and follows(revised, batch.dataset, revision):
            batch, revision = as_revised(batch, revised), revised.revision
    return batch
