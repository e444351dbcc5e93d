"""What the collector can be told from outside."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from ruminate.collector.names import check_names
from ruminate.collector.privacy.policy import PrivacySettings
from ruminate.schemas.topic import MEBIBYTE
from ruminate.shared.settings import ServiceSettings


class CollectorSettings(ServiceSettings):
    """The service's settings, the limits of its HTTP port and of its window, and what it redacts."""

    model_config = SettingsConfigDict(**{**ServiceSettings.model_config, "env_nested_delimiter": "__"})

    collector_host: str = Field(default="127.0.0.1", description="Interface of `POST /v1/interactions`.")
    collector_port: int = Field(default=8086, ge=0, le=65535, description="Port of `POST /v1/interactions`; 0 takes a free one.")
    collector_interaction_bytes: int = Field(
        default=12 * MEBIBYTE, ge=1024, le=14 * MEBIBYTE, description="Largest interaction that HTTP takes; the topic takes 16 MiB."
    )
    collector_body_bytes: int = Field(
        default=16 * MEBIBYTE, ge=1024, le=256 * MEBIBYTE, description="Largest body of a request with many interactions."
    )
    collector_traces_bytes: int = Field(
        default=20 * MEBIBYTE, ge=1024, le=256 * MEBIBYTE, description="Largest body of `POST /v1/traces`, packed and unpacked."
    )
    collector_acknowledgement_seconds: float = Field(
        default=10.0, gt=0, le=300, description="How long a request waits for the broker before it answers 503."
    )
    collector_window_interactions: int = Field(
        default=200_000,
        ge=1,
        le=100_000_000,
        description="Interaction ids that are remembered to find repeats; about 300 bytes each.",
    )
    collector_read_back_records: int = Field(
        default=5_000,
        ge=0,
        le=10_000_000,
        description="Records of a partition that are read back into the window when it comes to us.",
    )
    collector_read_back_seconds: float = Field(
        default=5.0, gt=0, le=600, description="How long a partition may wait for its window to be read back."
    )
    privacy: Annotated[PrivacySettings, AfterValidator(check_names)] = Field(
        default=PrivacySettings(),
        description="What becomes a placeholder before it is recorded, as JSON: `default`, and under `tenants` what differs; "
        "each with `off`, `patterns`, `allowed`, `countries`, `private_addresses`, `names`.",
    )
