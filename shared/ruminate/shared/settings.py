"""What every service can be told from outside; each service adds its own fields in its `settings.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from ruminate.shared.kafka_settings import KafkaSettings


class WrongSettings(Exception):
    """A file that the settings name cannot be used; the message says which, and why. It ends a service with exit 78."""


class ServiceSettings(KafkaSettings):
    """Read once from `RUMINATE_*` in the environment, then passed down. Frozen."""

    kafka_replication: int = Field(default=1, ge=1, le=9, description="Replication factor of the topics that are created.")
    kafka_transactions: bool = Field(
        default=False,
        description="Write what a record leads to and its offset in one transaction, so that readers of committed records see "
        "each once. Costs latency and throughput; without it, readers keep the first record of an id.",
    )
    replica: str = Field(
        default="0", pattern=r"^[a-zA-Z0-9_-]{1,40}$", description="Name of this replica: its static place in the group."
    )
    store_uri: str = Field(
        default="file://./.ruminate/store", description="Where datasets, adapters and GGUF files lie (`file://`)."
    )
    state_dir: Path = Field(default=Path(".ruminate"), description="Folder for what this service keeps on disk (spool, jobs).")
    operations_host: str = Field(default="127.0.0.1", description="Interface of `/livez`, `/readyz` and `/metrics`.")
    operations_port: int = Field(
        default=0, ge=0, le=65535, description="Port of `/livez`, `/readyz` and `/metrics`; 0 takes a free one."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level that is logged.")
    grace_seconds: float = Field(default=10.0, ge=0, le=600, description="How long SIGTERM waits for handlers to finish.")
    dead_letter_limit: int = Field(
        default=100, ge=1, description="Dead letters in a row after which the service ends with exit 78: then the fault is ours."
    )


def problems_of(error: ValidationError) -> Iterator[str]:
    """What is wrong with settings, a sentence each, without any value: it might be a secret."""
    for problem in error.errors(include_input=False, include_url=False):
        name = "_".join(str(part) for part in problem["loc"]).upper()
        yield f"RUMINATE_{name}: {problem['msg']}" if name else problem["msg"]
