"""Assessments: was the thinking in this interaction good enough to learn from?"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.interaction import InteractionRecorded
from ruminate.schemas.payload import Count, Name, Part, Payload, Ratio, Target, Text


class Score(Part):
    """One judged quality. `value` is None where the assessor cannot know; `evidence` says what it rests on."""

    value: Ratio | None
    evidence: tuple[Text, ...] = ()


class ReasoningQuality(Part):
    """The thinking, in five parts. All are None for an answer without thinking."""

    logical_coherence: Score
    problem_decomposition: Score
    evidence_usage: Score
    conclusion_validity: Score
    step_by_step_clarity: Score


class Verdict(Part):
    """What the assessor found, part by part, and what follows."""

    answer_quality: Score
    reasoning_quality: ReasoningQuality
    mode_appropriateness: Score
    overall: Score
    evidence_ratio: Ratio = Field(description="How much of the possible evidence was at hand for `overall`.")
    decision: Literal["keep", "reject"]
    reasons: tuple[Text, ...] = Field(description="Why kept or rejected, for people.")
    thinking_words: Count = 0
    reasoning_steps: Count = 0
    context_words: Count = Field(default=0, description="Words of all messages before the answer.")
    combiner: Name = Field(default="0", description="The numbered snapshot of what the combiner had learned; `0` is untaught.")


class ReasoningAssessed(Payload):
    """An interaction with its verdict. Carries the interaction, so that a batch is a fold over this one log."""

    target_model: Target
    recorded_id: UUID = Field(description="The recorded interaction that was judged.")
    revision: Count = Field(default=0, description="Later evidence judges again: the highest revision before a cut counts.")
    policy_version: Name
    scorer_version: Name
    verdict: Verdict
    evidence: tuple[EvidenceRecorded, ...] = Field(
        default=(), description="What was known beside the interaction, oldest first: feedback, corrections, other answers."
    )
    interaction: InteractionRecorded
