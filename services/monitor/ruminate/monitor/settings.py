"""What the monitor can be told from outside."""

from __future__ import annotations

from pydantic import Field

from ruminate.shared.settings import ServiceSettings


class MonitorSettings(ServiceSettings):
    """`RUMINATE_*`, read once."""

    metrics_window_seconds: float = Field(
        default=10.0, ge=1.0, le=3600.0, description="Length of a window of `pipeline-metrics-v1`, in seconds."
    )
