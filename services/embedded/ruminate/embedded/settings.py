"""What the embedded node can be told from outside: `RUMINATE_NODE_*`, or the options of `python -m ruminate.embedded node`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class NodeSettings(BaseSettings):
    """Read once, then passed down. Frozen."""

    model_config = SettingsConfigDict(env_prefix="RUMINATE_NODE_", frozen=True, extra="ignore", protected_namespaces=())

    host: str = Field(default="127.0.0.1", description="Interface of Ollama's API.")
    port: int = Field(default=11434, ge=0, le=65535, description="Port of Ollama's API; 0 takes a free one.")
    models: Path = Field(default=Path(".ruminate/models"), description="Folder of blobs and manifests, laid out as Ollama's.")
    max_loaded_models: int = Field(default=3, ge=1, le=64, description="Models in memory at once; the longest idle one makes room.")
    keep_alive_seconds: float = Field(
        default=300.0, ge=0, description="How long a model stays in memory after its last answer, unless a request says otherwise."
    )
    context_tokens: int = Field(
        default=4096,
        ge=64,
        description="Context window where neither request nor model set `num_ctx`; never above the trained one.",
    )
    threads: int = Field(
        default=0, ge=0, le=512, description="Threads of one inference; 0 takes one for small models and every core for others."
    )
    max_queue: int = Field(default=512, ge=1, description="Requests that may wait for a model; more are refused with 503.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level that is logged.")
