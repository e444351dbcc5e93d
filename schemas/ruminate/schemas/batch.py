"""Batches: a chain of cuts through the log of assessed interactions, one chain a tenant and target."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ruminate.schemas.payload import ArtifactReference, Count, Name, Payload, Ratio, Target, Text, Timestamp

SealReason = Literal["count", "ratio", "age", "operator"]


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
    rejected_interactions: Count = Field(default=0, description="Assessed in the interval and not taken, for whatever reason.")
