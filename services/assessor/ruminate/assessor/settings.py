"""What the assessor can be told from outside."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from ruminate.assessor.policy import Policy
from ruminate.shared.settings import ServiceSettings


class AssessorSettings(ServiceSettings):
    """The service's settings and the policy: `RUMINATE_ASSESSMENT__KEEP_OVERALL_AT_LEAST=0.7` sets one value of it."""

    model_config = SettingsConfigDict(**{**ServiceSettings.model_config, "env_nested_delimiter": "__"})

    assessment: Policy = Field(default=Policy(), description="Weights and thresholds; as JSON, or one value by `__` and its name.")
