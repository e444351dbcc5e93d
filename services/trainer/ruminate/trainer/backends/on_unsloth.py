"""Unsloth: fused kernels and checkpoints in the machine's memory, on one CUDA device. To be imported before what it patches.

Read in the sources of unsloth and unsloth_zoo 2026.10.7:

* It patches transformers, PEFT and TRL while it is imported: `trl.SFTTrainer`, `DPOTrainer`, `GRPOTrainer` and their configs are
  its own afterwards, with other defaults (an 8-bit optimizer, seed 3407, two micro batches a step, no logged `num_tokens`).
  `arguments` puts right what no stage sets.
* The trainers cut, or refuse, what is longer than the `max_seq_length` that the model was loaded with; more than the model's own
  positions would stretch them (linear RoPE scaling). So `load` is told the longest row and takes no more than the model has.
* By default it swaps a base for a copy of its own from the hub: `use_exact_model_name`.
* Without bitsandbytes it loads 16 bits where 4 are asked for, and where CUDA is not linked it runs `ldconfig` as root. Both
  are looked at before it is imported.
* Its `save_pretrained_gguf` runs a package manager: merging and exporting stay ours.
* Whether layers are computed again is what the model was adapted with; what the trainer's arguments say comes second to that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, Final, Literal

import torch

from ruminate.trainer.backends import TARGET_MODULES
from ruminate.trainer.backends.adapter import ADAPTER, require_shape
from ruminate.trainer.outcome import Failure, JobFailed
from ruminate.trainer.plan import Hyperparameters, Method

CHECKPOINTS: Final[Literal["unsloth"]] = "unsloth"
"""Its own gradient checkpoints: inputs of layers wait in the machine's memory."""
OPTIMIZER: Final = "adamw_torch_fused"
"""What transformers takes where nobody says; Unsloth's own choice is another."""
FUSED: Final = r".*\.gate_up_proj"
"""As PEFT names it in `rank_pattern`."""


class Unlinked(RuntimeError):
    """Unsloth is installed, and what it calls does not reach CUDA; nothing was patched. The message says what to do."""


class NotImportable(RuntimeError):
    """Importing Unsloth has failed halfway: this process is of no use any more. The message says what to do."""


class OnUnsloth:
    """One CUDA device that computes in bfloat16."""

    name: Literal["unsloth"] = "unsloth"
    precision: Literal["bfloat16"] = "bfloat16"
    patches_transformers: Literal[True] = True

    checkpointing: bool = True

    def __init__(self, method: Method) -> None:
        """Raises Unlinked and NotImportable."""
        self.method: Method = method
        require_links()
        try:
            from unsloth import FastLanguageModel  # noqa: PLC0415 - here and nowhere sooner
        except (ImportError, NotImplementedError, RuntimeError) as error:
            raise NotImportable(
                f"Unsloth cannot be imported ({error}); install ruminate-trainer[gpu] as pinned, or set "
                "RUMINATE_TRAINING_BACKEND=transformers"
            ) from error
        self._models = FastLanguageModel

    def with_checkpointing(self, checkpointing: bool) -> OnUnsloth:
        """The same, so."""
        other = copy(self)
        other.checkpointing = checkpointing
        return other

    def load(self, base: Path, *, context_tokens: int) -> Any:
        """The base on the GPU, in bfloat16 or 4 bits."""
        model, _ = self._models.from_pretrained(
            model_name=str(base),
            max_seq_length=min(context_tokens, positions(base)),
            dtype=torch.bfloat16,
            load_in_4bit=self.method == "qlora",
            load_in_16bit=self.method == "lora",
            use_gradient_checkpointing=self._checkpoints,
            use_exact_model_name=True,
            local_files_only=True,
            fix_tokenizer=False,  # rows are rendered by ours; what is mended on its own copy helps nobody
            device_map={"": 0},
            offload_embedding=False,
        )
        return model

    def adapt(self, model: Any, parent: Path | None, chosen: Hyperparameters) -> Any:
        """The base under a fresh adapter, into which the parent's weights are put where there is one."""
        if parent is not None:
            require_shape(parent, chosen)
        adapted = self._models.get_peft_model(
            model,
            r=chosen.lora_rank,
            lora_alpha=chosen.lora_alpha,
            lora_dropout=0.0,  # anything else keeps its fused kernels out
            bias="none",
            target_modules=list(TARGET_MODULES),
            use_gradient_checkpointing=self._checkpoints,
            random_state=chosen.seed,
            **patterns(model, chosen),
        )
        if parent is not None:
            continue_from(parent, adapted)
        return adapted

    def arguments(self, model: Any) -> dict[str, Any]:
        """What TRL's configs have to be told. Its SFT logs no `num_tokens`, so that the trainer counts them."""
        return {
            "bf16": True,
            "use_cpu": False,
            "gradient_checkpointing": self.checkpointing,  # which kind is remembered in the model
            "dataloader_pin_memory": True,
            "optim": OPTIMIZER,
            "include_num_input_tokens_seen": "non_padding",
        }

    @property
    def _checkpoints(self) -> Literal["unsloth", False]:
        return CHECKPOINTS if self.checkpointing else False

    @contextmanager
    def generating(self, model: Any) -> Iterator[Any]:
        """With its kernels for one token at a time; afterwards as it was."""
        trained = model.training
        self._models.for_inference(model)
        try:
            # Not inference mode: it keeps positions from one forward pass to the next.
            with torch.no_grad():
                yield model
        finally:
            if trained:
                self._models.for_training(model)  # and checkpoints, of the kind that the model was adapted with


def positions(base: Path) -> int:
    """How many tokens the model in this folder was made for."""
    return int(json.loads((base / "config.json").read_bytes())["max_position_embeddings"])


def patterns(model: Any, chosen: Hyperparameters) -> dict[str, Any]:
    """Gate and up of an expert are one matrix, for which PEFT doubles rank and alpha by itself, and Unsloth does not."""
    if not getattr(model.config, "num_experts", 0):
        return {}
    return {"rank_pattern": {FUSED: 2 * chosen.lora_rank}, "alpha_pattern": {FUSED: 2 * chosen.lora_alpha}}


def continue_from(parent: Path, model: Any) -> None:
    """Put the parent's weights into the adapter of the model. Raises JobFailed where they do not fit, name by name."""
    from peft import load_peft_weights, set_peft_model_state_dict  # noqa: PLC0415 - once Unsloth has been imported

    weights = load_peft_weights(str(parent), device="cpu")
    into = set_peft_model_state_dict(model, weights, adapter_name=ADAPTER)
    missing = [name for name in into.missing_keys if f".{ADAPTER}." in name or name.endswith(f".{ADAPTER}")]
    if missing or into.unexpected_keys:
        strange = [*missing, *into.unexpected_keys]
        raise JobFailed(
            Failure(
                phase="preparing",
                reason="parent_differs",
                explanation="the parent's adapter has other tensors than a fresh one for this base: "
                f"{len(strange)} differ, such as {strange[0]}; train it on with RUMINATE_TRAINING_BACKEND=transformers",
                evidence={"missing": len(missing), "unexpected": len(into.unexpected_keys)},
            )
        )


def require_links() -> None:
    """See that bitsandbytes and Triton find CUDA, which Unsloth would try to mend for the whole machine. Raises Unlinked."""
    try:
        import bitsandbytes.functional  # noqa: PLC0415 - imports torch, and none of what Unsloth patches

        # Where its library is missing, a stand-in answers with functions of Python, which take no types.
        if not hasattr(bitsandbytes.functional.lib.cdequantize_blockwise_fp32, "argtypes"):
            raise Unlinked("bitsandbytes has no library for this CUDA; `python -m bitsandbytes` says why")
    except (ImportError, AttributeError, OSError) as error:
        raise Unlinked(f"bitsandbytes does not reach CUDA ({error}); `python -m bitsandbytes` says why") from error
    try:
        from triton.backends.nvidia.driver import libcuda_dirs  # noqa: PLC0415

        libcuda_dirs()
    except (ImportError, AssertionError, OSError, RuntimeError) as error:
        raise Unlinked(f"Triton does not find the driver's libcuda ({error}); put its folder into LD_LIBRARY_PATH") from error
