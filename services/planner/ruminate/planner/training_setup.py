"""How a model is trained: what decides over how much memory and time that takes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ruminate.planner.shape import AdapterOn

Method = Literal["lora", "qlora", "full"]
Backend = Literal["transformers", "unsloth"]
Optimizer = Literal["adamw", "adamw-8bit"]
Loss = Literal["chunked", "whole"]
Placement = Literal["one GPU", "replicas", "sharded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetup:
    """How it is trained. A step holds `micro_batch_rows` rows on each GPU at once, the longest of `context_tokens`.

    The defaults are what our trainer does: transformers with PEFT and TRL, whose loss is computed in chunks.
    """

    method: Method = "lora"
    context_tokens: int = 4096
    micro_batch_rows: int = 1
    rank: int = 64
    adapter_on: AdapterOn = "all"
    optimizer: Optimizer = "adamw"
    checkpointing: bool = True
    backend: Backend = "transformers"
    loss: Loss = "chunked"

    def __post_init__(self) -> None:
        """Raises ValueError where a number cannot be."""
        for name in ("context_tokens", "micro_batch_rows", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is 1 at least")

    @property
    def tokens(self) -> int:
        """Tokens on a GPU at once: rows are padded to the longest."""
        return self.micro_batch_rows * self.context_tokens

    @property
    def trains_adapter(self) -> bool:
        """Whether the model's own weights stand still."""
        return self.method != "full"
