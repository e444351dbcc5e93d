"""A Qwen3 folder becomes GGUF files, with an adapter added in if there is one, in several encodings at once.

The same tensors that llama.cpp's own converter writes. The base is read once, some rows at a time, and nothing as large
as a tensor is held.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import gguf
import torch

from ruminate.trainer.export.architecture import describe_architecture, layout, read_config, stretched
from ruminate.trainer.export.gguf_file import gguf_file
from ruminate.trainer.export.lora import Lora
from ruminate.trainer.export.merge import Merged
from ruminate.trainer.export.tokenizer import describe_tokenizer
from ruminate.trainer.export.weights import Tensors, Weights, blocks_of
from ruminate.trainer.plan import Encoding


def export_model(
    base: Path,
    files: Mapping[Encoding, Path],
    *,
    name: str,
    adapter: Path | None = None,
    merged_dtype: torch.dtype = torch.float32,
    context_tokens: int | None = None,
) -> None:
    """Write the model in `base` (config.json, tokenizer.json, chat template, safetensors) to one file an encoding.

    adapter: folder of a PEFT LoRA that is added to the weights, which are then of `merged_dtype`.
    context_tokens: stretch the context to so many by YaRN.

    Raises ExportError for an architecture other than Qwen3, a tensor without a place, an adapter that is no plain LoRA
    of this base, or a value that f16 cannot hold.
    """
    config = stretched(read_config(base), context_tokens)
    weights: Tensors = Weights(base)
    if adapter is not None:
        weights = Merged(Weights(base), Lora(adapter, config), merged_dtype)
    tensors = layout(weights, config)
    with ExitStack() as opened:
        outs = [opened.enter_context(gguf_file(out, config, kind="model", encoding=encoding)) for encoding, out in files.items()]
        for out in outs:
            out.writer.add_name(name)
            describe_architecture(out.writer, config)
            describe_tokenizer(out.writer, base, int(config["vocab_size"]))
            out.announce([(tensor.name, tensor.shape) for tensor in tensors])
        for tensor in tensors:
            for source in tensor.sources:
                for start, stop in blocks_of(weights.shape(source)):
                    rows = weights.rows(source, start, stop)
                    for out in outs:
                        out.write(tensor.name, rows)
            for out in outs:
                out.end_tensor()


def read_back(base: Path, file: Path) -> dict[str, torch.Tensor]:
    """The weights that `file`, exported from `base`, holds: rounded by its encoding, in f32, by their names in `base`."""
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    state: dict[str, torch.Tensor] = {}
    for placed in layout(Weights(base), read_config(base)):
        tensor = found[placed.name]
        values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()).reshape(placed.shape)
        state.update(zip(placed.sources, values if placed.stacked else (values,), strict=True))
    return state
