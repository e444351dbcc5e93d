"""What the accumulator can be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from ruminate.accumulator.decide import Policy
from ruminate.accumulator.rows import INDICATORS
from ruminate.shared.settings import ServiceSettings


class AccumulatorSettings(ServiceSettings):
    """When a batch is worth training, and what goes into it."""

    seal_at_rows: int = Field(default=500, ge=1, le=1_000_000, description="Rows to train on at which a batch is sealed.")
    min_reasoning_ratio: float = Field(
        default=0.75, ge=0.01, le=1, description="Least share of rows with thinking in a batch; it waits rather than fall below."
    )
    seal_after_seconds: float = Field(
        default=86_400.0, ge=0, le=31_536_000, description="Age of its oldest row at which a smaller batch is sealed."
    )
    seal_after_min_rows: int = Field(default=64, ge=1, le=1_000_000, description="Fewest rows of a batch that is sealed by age.")
    seal_check_seconds: float = Field(default=1.0, gt=0, le=3600, description="How often ages are looked at.")
    seal_retry_seconds: float = Field(
        default=60.0, gt=0, le=3600, description="How long a batch that failed its validation waits before it is tried again."
    )
    holdout_ratio: float = Field(
        default=0.05, ge=0, le=0.5, description="Share of conversations that is held out of training, by hash of the conversation."
    )
    shuffle_seed: int = Field(
        default=0, ge=0, description="Seed of the order of rows and of the choice among direct rows over the ratio."
    )
    row_max_bytes: int = Field(default=1_048_576, ge=1_024, le=16_777_216, description="Longest row; longer ones are left out.")
    indicator_weights: dict[str, float] = Field(
        default_factory=lambda: dict.fromkeys(INDICATORS, 1.0),
        description=f"JSON object, the weight of each sign that thinking was called for: {', '.join(INDICATORS)}.",
    )
    thinking_called_for_at: float = Field(
        default=1.0, gt=0, le=100, description="Sum of indicator weights from which thinking counts as called for."
    )

    @field_validator("indicator_weights")
    @classmethod
    def _known(cls, weights: dict[str, float]) -> dict[str, float]:
        if unknown := weights.keys() - INDICATORS.keys():
            raise ValueError(f"no indicator is named {', '.join(sorted(unknown))}; there are {', '.join(INDICATORS)}")
        return weights

    @classmethod
    def written_down(cls, values: Mapping[str, Any]) -> AccumulatorSettings:
        """These values, as a manifest or a file has them, and defaults: the environment has no say."""
        return _WrittenDown(**values)

    @property
    def policy(self) -> Policy:
        """What the decisions look at."""
        return Policy(
            seal_at_rows=self.seal_at_rows,
            min_reasoning_ratio=self.min_reasoning_ratio,
            seal_after_seconds=self.seal_after_seconds,
            seal_after_min_rows=self.seal_after_min_rows,
        )


class _WrittenDown(AccumulatorSettings):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)
