"""TRL and PEFT as they are: on CUDA in bfloat16 where the GPU computes in it, in float32 anywhere else; 4 bits by bitsandbytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from ruminate.trainer.backends import TARGET_MODULES
from ruminate.trainer.backends.adapter import require_shape
from ruminate.trainer.plan import Hyperparameters, Method


@dataclass(frozen=True)
class OnTransformers:
    """Any device."""

    method: Method
    checkpointing: bool = True
    """On a GPU; a CPU has memory enough."""
    name: Literal["transformers"] = "transformers"
    patches_transformers: Literal[False] = False

    @property
    def precision(self) -> str:
        """What is multiplied: `bfloat16` or `float32`."""
        on_gpu = torch.cuda.is_available()
        return "bfloat16" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"

    def with_checkpointing(self, checkpointing: bool) -> OnTransformers:
        """The same, so."""
        return replace(self, checkpointing=checkpointing)

    def load(self, base: Path, *, context_tokens: int) -> Any:
        """The base on the best device; its positions reach as far as its config says, whatever `context_tokens` is."""
        dtype = getattr(torch, self.precision)
        if self.method == "qlora":
            four_bits = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
            )
            return AutoModelForCausalLM.from_pretrained(base, dtype=dtype, quantization_config=four_bits, device_map={"": 0})
        model, found = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, output_loading_info=True)
        if missing := sorted(found["missing_keys"]):
            # transformers would draw them, and say so in a warning.
            raise ValueError(f"it lacks {len(missing)} tensors, {missing[0]} among them")
        return model.to("cuda") if torch.cuda.is_available() else model

    def adapt(self, model: Any, parent: Path | None, chosen: Hyperparameters) -> Any:
        """The base under a fresh adapter, or under the parent's, which goes on learning."""
        if parent is not None:
            require_shape(parent, chosen)
            adapted = PeftModel.from_pretrained(model, parent, is_trainable=True)
            leave_casts_to_autocast(adapted)
            return adapted
        config = LoraConfig(
            r=chosen.lora_rank,
            lora_alpha=chosen.lora_alpha,
            lora_dropout=0.0,
            target_modules=list(TARGET_MODULES),
            task_type="CAUSAL_LM",
        )
        adapted = get_peft_model(model, config)
        leave_casts_to_autocast(adapted)
        return adapted

    def arguments(self, model: Any) -> dict[str, Any]:
        """What TRL's configs have to be told for this device."""
        on_gpu = torch.cuda.is_available()  # then `load` has put it there
        return {
            "bf16": on_gpu and self.precision == "bfloat16",
            "use_cpu": not on_gpu,
            "gradient_checkpointing": on_gpu and self.checkpointing,
            "dataloader_pin_memory": on_gpu,
        }

    @contextmanager
    def generating(self, model: Any) -> Iterator[Any]:
        """In evaluation mode, in which layers keep no checkpoints; afterwards as it was."""
        trained = model.training
        model.eval()
        try:
            # Not inference mode: tensors made in it that a model keeps (positions) cannot take part in training.
            with torch.no_grad():
                yield model
        finally:
            model.train(trained)


def leave_casts_to_autocast(model: Any) -> None:
    """Under autocast, give adapters the inputs of their layers as they are; everywhere else PEFT goes on casting them.

    PEFT casts each input to the adapter's float32, and autocast at once casts it back: bfloat16 loses nothing on the way, so the
    products are the same. Without the detour a step of 8B takes a tenth less time, and layers that share an input keep one copy of
    it for the backward pass, not one each (docs/experiments.md).
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]

    def before(decoder: Any, *_: Any) -> None:
        casts = not torch.is_autocast_enabled(decoder.device.type)
        for layer in layers:
            layer.cast_input_dtype_enabled = casts

    # The decoder's: generation and the losses of exams go past what wraps it.
    model.get_base_model().get_decoder().register_forward_pre_hook(before)
