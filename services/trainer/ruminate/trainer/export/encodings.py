"""Rows of weights as GGUF stores them: f32, f16, bf16 or q8_0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import gguf
import torch
from numpy.typing import NDArray

from ruminate.trainer.plan import Encoding

FILE_TYPES: Final = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
_TYPES: Final = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
_PLAIN: Final = {
    gguf.GGMLQuantizationType.F32: torch.float32,
    gguf.GGMLQuantizationType.F16: torch.float16,
    gguf.GGMLQuantizationType.BF16: torch.bfloat16,
}
_LARGEST_F16: Final = 65504.0


class ExportError(ValueError):
    """This folder cannot be written as GGUF; the message names what stands in the way."""


def type_for(name: str, shape: Sequence[int], encoding: Encoding) -> gguf.GGMLQuantizationType:
    """Vectors and the router stay f32, as llama.cpp expects them; rows that do not fill q8_0's blocks of 32 become f16."""
    if len(shape) == 1 or "ffn_gate_inp" in name:
        return gguf.GGMLQuantizationType.F32
    block, _ = gguf.GGML_QUANT_SIZES[_TYPES[encoding]]
    return _TYPES[encoding] if shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16


def encode(rows: torch.Tensor, kind: gguf.GGMLQuantizationType, name: str) -> NDArray[Any]:
    """The bytes of some rows of the tensor `name`. Raises ExportError for what f16 cannot hold."""
    if kind is gguf.GGMLQuantizationType.F16:
        require_f16(rows, name)
    if kind in _PLAIN:
        plain: NDArray[Any] = rows.to(_PLAIN[kind]).contiguous().view(torch.uint8).numpy()
        return plain
    blocks: NDArray[Any] = gguf.quants.quantize(rows.to(torch.float32).numpy(), kind)
    return blocks


def require_f16(rows: torch.Tensor, name: str) -> None:
    """Raises ExportError where a value is larger than f16 can hold, or is no number."""
    largest = float(rows.abs().max()) if rows.numel() else 0.0
    if not largest <= _LARGEST_F16:
        raise ExportError(f"{name} holds {largest}, f16 ends at 65504; export bf16 or f32 instead")
