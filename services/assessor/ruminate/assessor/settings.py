"""What the assessor can be told from outside."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from ruminate.assessor.casebook import CasebookWindow
from ruminate.assessor.critic import CriticPlan
from ruminate.assessor.policy import Policy, Share
from ruminate.schemas.payload import Name, Uri
from ruminate.schemas.topic import MEBIBYTE
from ruminate.shared.settings import ServiceSettings


class AssessorSettings(ServiceSettings):
    """The service's settings and the policy: `RUMINATE_ASSESSMENT__KEEP_OVERALL_AT_LEAST=0.7` sets one value of it."""

    model_config = SettingsConfigDict(**{**ServiceSettings.model_config, "env_nested_delimiter": "__"})

    assessment: Policy = Field(default=Policy(), description="Weights and thresholds; as JSON, or one value by `__` and its name.")
    scorer_snapshot_every: int = Field(
        default=200, ge=20, le=1_000_000, description="Lessons after which what was learned becomes a numbered snapshot."
    )
    scorer_effective_after_seconds: int = Field(
        default=300,
        ge=20,
        le=86_400,
        description="How long after it is told a snapshot is judged by: time for every replica to know of it.",
    )
    scorer_pins: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict,
        description="The snapshot that a tenant is judged by, as JSON of numbers; 0 is untaught; else the newest in effect.",
    )
    compare_answers: bool = Field(
        default=True, description="Whether answers to the same question count as evidence; it costs an event for each interaction."
    )
    compared_answers: int = Field(
        default=200_000, ge=1_000, le=100_000_000, description="Latest answers that are compared with each other, 200 bytes each."
    )
    evidence_window_interactions: int = Field(
        default=200_000,
        ge=1_000,
        le=100_000_000,
        description="Latest interactions whose place in the log is known, about 150 bytes each; older ones are looked for.",
    )
    evidence_window_bytes: int = Field(
        default=64 * MEBIBYTE, ge=0, le=16 * 1024 * MEBIBYTE, description="Texts of the latest interactions that are kept at hand."
    )
    evidence_window_records: int = Field(
        default=200_000,
        ge=100,
        le=100_000_000,
        description="Latest pieces of evidence whose place in the log is known.",
    )

    critic_url: Uri | None = Field(
        default=None,
        description="Ollama node of a model that is asked for its opinion where the verdict is in doubt; texts go there.",
    )
    critic_model: Name | None = Field(default=None, description="That model's name on the node.")
    critic_share: Share = Field(default=1.0, description="Share of the interactions in doubt that it is asked about, by their id.")
    critic_doubt_from: Share = Field(default=0.2, description="Least overall score that is in doubt.")
    critic_doubt_to: Share = Field(default=0.8, description="Largest overall score that is in doubt.")
    critic_known_share: Share = Field(
        default=0.01, description="Share of the interactions whose worth is known that it is asked about, to measure its errors."
    )
    critic_calls_a_day: int = Field(default=1_000, ge=1, le=10_000_000, description="Questions to it a day, tenant and replica.")
    critic_seconds_a_day: float = Field(
        default=3_600.0, gt=0, le=86_400, description="Seconds of its time a day, tenant and replica."
    )
    critic_timeout_seconds: float = Field(
        default=60.0, gt=0, le=3_600, description="Seconds until its answer is waited for no more."
    )
    critic_thinks: bool = Field(default=False, description="Whether it thinks before it answers.")
    critic_waiting: int = Field(default=100, ge=1, le=10_000, description="Interactions that wait for it; more are passed over.")
    critic_remembered: int = Field(default=10_000, ge=1, le=1_000_000, description="Opinions that are remembered by their digest.")

    @model_validator(mode="after")
    def _critic_is_whole(self) -> Self:
        if (self.critic_url is None) != (self.critic_model is None):
            raise ValueError("critic_url and critic_model belong together; set both, or neither")
        if self.critic_doubt_from > self.critic_doubt_to:
            raise ValueError("critic_doubt_from is larger than critic_doubt_to; nothing would be in doubt")
        return self

    @property
    def critic(self) -> CriticPlan | None:
        """Whom to ask, and how much; None where nobody is asked."""
        if self.critic_url is None or self.critic_model is None:
            return None
        return CriticPlan(
            url=self.critic_url,
            model=self.critic_model,
            share=self.critic_share,
            doubt=(self.critic_doubt_from, self.critic_doubt_to),
            known_share=self.critic_known_share,
            calls_a_day=self.critic_calls_a_day,
            seconds_a_day=self.critic_seconds_a_day,
            timeout_seconds=self.critic_timeout_seconds,
            thinks=self.critic_thinks,
            waiting=self.critic_waiting,
            remembered=self.critic_remembered,
        )

    @property
    def evidence_window(self) -> CasebookWindow:
        """What of the log is at hand for evidence."""
        return CasebookWindow(self.evidence_window_interactions, self.evidence_window_bytes, self.evidence_window_records)
