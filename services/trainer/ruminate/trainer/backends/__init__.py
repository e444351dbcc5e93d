"""Backends: who loads a model, puts an adapter on it and makes it fast; everything else is the same for all of them.

    plan.backend, plan.method  ->  choose (pure)  ->  open_backend  ->  load, adapt, arguments, generating

Two of them: `transformers` (TRL and PEFT as they are, any device) and `unsloth` (CUDA; patches both while it is imported).
Whichever it is, what comes out is a PEFT adapter in a folder, with the same names of tensors.

Nothing here imports trl, transformers or peft before a backend is opened: Unsloth has to be imported first.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Protocol

from ruminate.trainer.backends.choose import Name
from ruminate.trainer.plan import Hyperparameters, Method

# Every linear layer: attention alone learns new facts badly.
TARGET_MODULES: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Backend(Protocol):
    """What a stage needs of whoever trains. Models are what transformers and PEFT call models, and are not typed there either."""

    @property
    def name(self) -> Name:
        """Who it is."""
        ...

    @property
    def method(self) -> Method:
        """What the base is held in: as it was released (`lora`), or in 4 bits (`qlora`)."""
        ...

    @property
    def checkpointing(self) -> bool:
        """Whether layers are computed again in the backward pass, rather than kept: a third more time, far less memory."""
        ...

    def with_checkpointing(self, checkpointing: bool) -> Backend:
        """The same, so. To be asked for before `load`."""
        ...

    @property
    def precision(self) -> str:
        """What is multiplied: `bfloat16` or `float32`."""
        ...

    @property
    def patches_transformers(self) -> bool:
        """Whether models that others load in this process are not what they were: they belong into one of their own."""
        ...

    def load(self, base: Path, *, context_tokens: int) -> Any:
        """The base in this folder, on its device. No row, prompt and answer together, is longer than `context_tokens`."""
        ...

    def adapt(self, model: Any, parent: Path | None, chosen: Hyperparameters) -> Any:
        """The base under a fresh adapter, or under the parent's, which goes on learning.

        Raises JobFailed where the parent's has another shape.
        """
        ...

    def arguments(self, model: Any) -> dict[str, Any]:
        """What TRL's configs (SFT, DPO, GRPO) have to be told for this device; everything else is the stage's own choice."""
        ...

    def generating(self, model: Any) -> AbstractContextManager[Any]:
        """The model ready to generate, between stages or in one; afterwards it trains on as before."""
        ...
