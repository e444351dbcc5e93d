"""What the assessor can be told from outside."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from ruminate.assessor.casebook import CasebookWindow
from ruminate.assessor.policy import Policy
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

    @property
    def evidence_window(self) -> CasebookWindow:
        """What of the log is at hand for evidence."""
        return CasebookWindow(self.evidence_window_interactions, self.evidence_window_bytes, self.evidence_window_records)
