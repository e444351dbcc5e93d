"""Scoring: what the assessor learns from, and what it has learned. No text, and no name of a person, is in either."""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from ruminate.schemas.payload import Count, Name, Payload, Ratio, Timestamp


class LessonNoted(Payload):
    """The worth of an answer became known. Its signals teach the combiner of its tenant."""

    recorded_id: UUID = Field(description="The interaction that was judged.")
    revision: Count = 0
    scorer_version: Name
    signals: dict[Name, float] = Field(description="What was found, by the name of the signal; what is not named is 0.")
    good: bool = Field(description="Whether the answer turned out good.")
    weight: Ratio = Field(description="How sure that is.")
    source: Name = Field(description="A digest of who says so: nobody teaches much alone.")
    by_reference: bool = Field(description="Whether a reference says so, and not an opinion.")


class ScorerTaught(Payload):
    """What a tenant's combiner has learned by now. The first record of a number that extends the chain is that snapshot."""

    number: Count = Field(description="1 for the first snapshot of the tenant.")
    combiner: Name = Field(description="The snapshot's name in verdicts: its number and a digest.")
    lessons: Count
    to_offset: Count = Field(description="The last lesson that is in it, by its offset in the tenant's partition of the lessons.")
    effective_at: Timestamp = Field(
        description="What occurred from then on is judged by it, whenever it is judged: never before the chain's last snapshot."
    )
    bias: float
    corrections: dict[Name, float] = Field(description="Added to the weights of the signals, by name.")
    names: tuple[Name, ...] = Field(description="The signals in the order of `exact` and `covariance`; the bias comes after them.")
    exact: tuple[float, ...] = Field(description="The corrections unrounded, from which learning goes on.")
    covariance: str = Field(description="What is doubted of them: the upper triangle, as base64 of little-endian 32-bit floats.")
    taught: dict[Name, float] = Field(description="Weight of the lessons by source.")
    reliability_lessons: Count = Field(description="Lessons over which the two next figures are measured.")
    brier: Ratio = Field(description="Brier score of the predictions before each lesson.")
    calibration_error: Ratio = Field(description="Expected calibration error of them, over ten bins.")
