"""The adapter alone becomes a GGUF file, for nodes that put it on the base themselves (Ollama since 0.30)."""

from __future__ import annotations

from pathlib import Path

import gguf
import torch

from ruminate.trainer.export.architecture import name_of, read_config
from ruminate.trainer.export.gguf_file import gguf_file
from ruminate.trainer.export.lora import Layer, Lora
from ruminate.trainer.plan import Encoding


def export_adapter(folder: Path, base: Path, out: Path, encoding: Encoding) -> None:
    """Write the PEFT LoRA adapter in `folder`, trained on the model in `base`, to `out`.

    Raises ExportError for anything but plain LoRA on the linear layers that the base has.
    """
    config = read_config(base)
    lora = Lora(folder, config)
    names = {layer: name_of(config, f"{layer}.weight") for layer in lora.layers}
    with gguf_file(out, config, kind="adapter", encoding=encoding) as file:
        file.writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        file.writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, lora.alpha)
        file.announce(
            [
                (f"{names[name]}.lora_{half}", shape)
                for name, layer in lora.layers.items()
                for half, shape in zip("ab", lora.shapes(layer), strict=True)
            ]
        )
        for name, layer in lora.layers.items():
            a, b = _scaled(lora, layer)
            for half, values in (("a", a), ("b", b)):
                file.write(f"{names[name]}.lora_{half}", values)
                file.end_tensor()


def _scaled(lora: Lora, layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B, such that llama.cpp's scale, the file's alpha by this layer's rank, gives what the layer adds."""
    a, b = lora.factors(layer)
    # Gate and up of experts have twice the rank: a factor of two, which no encoding rounds.
    times = layer.scale * a.shape[-2] / lora.alpha
    return a, b if abs(times - 1) < 1e-6 else b * times
