"""What the assessor can be told from outside."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from ruminate.assessor.asking.critic import CriticPlan
from ruminate.assessor.asking.panel import PanelPlan
from ruminate.assessor.asking.proofreading import Standards
from ruminate.assessor.asking.writer import WriterPlan
from ruminate.assessor.evidence.casebook import CasebookWindow
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

    panel_url: Uri | None = Field(
        default=None,
        description="Ollama node of a model that answers questions in doubt again, if it is not the critic's; texts go there.",
    )
    panel_model: Name | None = Field(default=None, description="That model's name on the node; no panel is asked without it.")
    panel_answers: int = Field(
        default=4, ge=1, le=16, description="Other answers to a question that are wanted, those in the log among them."
    )
    panel_share: Share = Field(default=1.0, description="Share of the interactions in doubt that it is asked about, by their id.")
    panel_doubt_from: Share = Field(default=0.2, description="Least overall score that is in doubt.")
    panel_doubt_to: Share = Field(default=0.8, description="Largest overall score that is in doubt.")
    panel_after_seconds: float = Field(
        default=5.0, ge=0, le=3_600, description="How long a question waits for answers from the log before it is asked."
    )
    panel_calls_a_day: int = Field(default=1_000, ge=1, le=10_000_000, description="Answers of it a day, tenant and replica.")
    panel_seconds_a_day: float = Field(
        default=3_600.0, gt=0, le=86_400, description="Seconds of its time a day, tenant and replica."
    )
    panel_timeout_seconds: float = Field(
        default=120.0, gt=0, le=3_600, description="Seconds until an answer of it is waited for no more."
    )
    panel_waiting: int = Field(default=100, ge=1, le=10_000, description="Questions that wait for it; more are passed over.")
    panel_remembered: int = Field(
        default=10_000, ge=1, le=1_000_000, description="Questions whose answers are remembered, by their digests."
    )

    writer_url: Uri | None = Field(
        default=None,
        description="Ollama node of a model that writes missing thinking, if it is not the critic's; texts go there.",
    )
    writer_model: Name | None = Field(default=None, description="That model's name on the node; nothing is written without it.")
    writer_share: Share = Field(
        default=1.0,
        description="Share of the right answers without the thinking they call for that it is asked about, by their id.",
    )
    writer_least_words: int = Field(default=12, ge=1, le=10_000, description="Fewest words of thinking that are taken.")
    writer_most_words: int = Field(default=2_000, ge=1, le=100_000, description="Most words of thinking that are taken.")
    writer_quality_at_least: Share = Field(
        default=0.65, description="Least overall score of an answer with the thinking that was written, by itself."
    )
    writer_calls_a_day: int = Field(
        default=1_000, ge=1, le=10_000_000, description="Questions to it a day, tenant and replica; two for each thinking."
    )
    writer_seconds_a_day: float = Field(
        default=3_600.0, gt=0, le=86_400, description="Seconds of its time a day, tenant and replica."
    )
    writer_timeout_seconds: float = Field(
        default=120.0, gt=0, le=3_600, description="Seconds until its answer is waited for no more."
    )
    writer_thinks: bool = Field(default=False, description="Whether it thinks before it writes; that thinking is thrown away.")
    writer_waiting: int = Field(default=100, ge=1, le=10_000, description="Answers that wait for it; more are passed over.")
    writer_remembered: int = Field(
        default=10_000, ge=1, le=1_000_000, description="Answers of which is remembered what came of writing, by their digests."
    )

    @model_validator(mode="after")
    def _critic_is_whole(self) -> Self:
        if (self.critic_url is None) != (self.critic_model is None):
            raise ValueError("critic_url and critic_model belong together; set both, or neither")
        if self.critic_doubt_from > self.critic_doubt_to:
            raise ValueError("critic_doubt_from is larger than critic_doubt_to; nothing would be in doubt")
        return self

    @model_validator(mode="after")
    def _panel_and_writer_are_whole(self) -> Self:
        for name, url, model in (
            ("panel", self.panel_url, self.panel_model),
            ("writer", self.writer_url, self.writer_model),
        ):
            if url is not None and model is None:
                raise ValueError(f"{name}_url names a node and {name}_model no model of it; set both, or neither")
            if model is not None and url is None and self.critic_url is None:
                raise ValueError(f"{name}_model names a model and nobody its node; set {name}_url, or critic_url for all")
        if self.panel_doubt_from > self.panel_doubt_to:
            raise ValueError("panel_doubt_from is larger than panel_doubt_to; nothing would be in doubt")
        if self.writer_least_words > self.writer_most_words:
            raise ValueError("writer_least_words is larger than writer_most_words; nothing would be taken")
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
    def panel(self) -> PanelPlan | None:
        """Whom to ask for further answers, and how many; None where nobody is asked."""
        url = self.panel_url or self.critic_url
        if url is None or self.panel_model is None:
            return None
        return PanelPlan(
            url=url,
            model=self.panel_model,
            answers=self.panel_answers,
            share=self.panel_share,
            doubt=(self.panel_doubt_from, self.panel_doubt_to),
            after_seconds=self.panel_after_seconds,
            most_characters=self.assessment.most_characters,
            calls_a_day=self.panel_calls_a_day,
            seconds_a_day=self.panel_seconds_a_day,
            timeout_seconds=self.panel_timeout_seconds,
            waiting=self.panel_waiting,
            remembered=self.panel_remembered,
        )

    @property
    def writer(self) -> WriterPlan | None:
        """Whom to ask for thinking that is missing, and how good it has to be; None where nobody is asked."""
        url = self.writer_url or self.critic_url
        if url is None or self.writer_model is None:
            return None
        return WriterPlan(
            url=url,
            model=self.writer_model,
            share=self.writer_share,
            standards=Standards(
                least_words=self.writer_least_words,
                most_words=self.writer_most_words,
                quality_at_least=self.writer_quality_at_least,
            ),
            calls_a_day=self.writer_calls_a_day,
            seconds_a_day=self.writer_seconds_a_day,
            timeout_seconds=self.writer_timeout_seconds,
            thinks=self.writer_thinks,
            waiting=self.writer_waiting,
            remembered=self.writer_remembered,
        )

    @property
    def evidence_window(self) -> CasebookWindow:
        """What of the log is at hand for evidence."""
        return CasebookWindow(self.evidence_window_interactions, self.evidence_window_bytes, self.evidence_window_records)
