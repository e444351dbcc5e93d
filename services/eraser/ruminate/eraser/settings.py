"""What the eraser can be told from outside."""

from __future__ import annotations

from pydantic import Field

from ruminate.shared.settings import ServiceSettings


class EraserSettings(ServiceSettings):
    """`RUMINATE_*`, read once."""

    erasure_settle_seconds: float = Field(
        default=300.0,
        ge=0,
        le=604_800,
        description="Least time between two passes of an erasure, in seconds: what was in flight during the first is in the log "
        "by then. Where `segment.ms` of a topic is longer, that counts.",
    )
