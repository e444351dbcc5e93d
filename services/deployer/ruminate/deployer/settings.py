"""What the deployer can be told from outside."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, StringConstraints

from ruminate.deployer.decide import Encoding
from ruminate.schemas.payload import FiniteJson, Target
from ruminate.shared.settings import ServiceSettings

NodeName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$")]

# What Qwen3 was released with for thinking. A version is made of a bare GGUF, so without these a node's own defaults would rule.
_QWEN3_SAMPLING: dict[str, FiniteJson] = {
    "temperature": 0.6,
    "top_p": 0.95,
    "top_k": 20,
    "min_p": 0.0,
    "stop": ["<|im_start|>", "<|im_end|>"],
}


class TargetSettings(BaseModel):
    """How the versions of one target are made. Part of every digest: a change shows in the next version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str = Field(default="", description="System prompt where a request brings none.")
    parameters: dict[str, FiniteJson] = Field(
        default=_QWEN3_SAMPLING, description="Ollama's `PARAMETER`s where a request brings none; `num_ctx` belongs here."
    )
    required_capabilities: frozenset[str] = Field(
        default=frozenset({"completion", "tools", "thinking"}), description="What `/api/show` must list."
    )


class DeployerSettings(ServiceSettings):
    """Every field is `RUMINATE_` and its name in the environment; `nodes`, `targets` and `encodings` are JSON."""

    nodes: dict[NodeName, HttpUrl] = Field(
        default={"local": HttpUrl("http://127.0.0.1:11434")},
        min_length=1,
        description="Ollama nodes: JSON object, name to address.",
    )
    targets: dict[Target, TargetSettings] = Field(
        default={}, description="JSON object, target model to its settings; targets that are not named get the defaults."
    )
    encodings: tuple[Encoding, ...] = Field(
        default=("f16", "bf16", "f32", "q8_0"), min_length=1, description="Which GGUF a node gets, the most wanted first."
    )
    minimum_nodes_ratio: float = Field(
        default=1.0, gt=0, le=1, description="Share of the nodes that must answer and be in order before a version serves."
    )
    keep_previous_versions: int = Field(
        default=2, ge=1, le=100, description="Versions before the serving one that stay on every node, to go back to."
    )
    probe_question: str = Field(
        default="What is seven times eight? Answer with the number.", min_length=1, description="What a new version is asked."
    )
    probe_tokens: int = Field(
        default=256, ge=1, le=8192, description="Tokens that an answer to the question may have, thinking included."
    )
    probe_timeout_seconds: float = Field(
        default=600.0, gt=0, le=7200, description="How long a node may load a model and answer the question."
    )
    served_questions: int = Field(
        default=128,
        ge=0,
        le=10_000,
        description="Questions of each set and mode by which a version was proven that are asked once more where it is served, "
        "on one node of each engine version; 0 asks none.",
    )
    served_questions_at_once: int = Field(
        default=4, ge=1, le=256, description="Of them, questions that wait at one node together; OLLAMA_NUM_PARALLEL of them run."
    )
    node_timeout_seconds: float = Field(default=10.0, gt=0, le=600, description="How long a node may take to say what it holds.")
    transfer_timeout_seconds: float = Field(
        default=3600.0, gt=0, le=86400, description="How long a node may take to receive a GGUF or to make a model of it."
    )
    node_status_seconds: float = Field(default=5.0, gt=0, le=300, description="How often each node's status is told.")

    def target(self, name: str) -> TargetSettings:
        """The settings of a target; the defaults where it is not named."""
        return self.targets.get(name) or TargetSettings()
