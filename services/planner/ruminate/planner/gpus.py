"""GPUs by name and by size: memory as the driver reports it, and how fast they multiply. Pure.

Memory: MiB of `nvidia-smi`. A card that is sold with 24 GB has up to 24 GiB (25.8 GB), less where ECC takes its part (L4, A10G,
L40S). Speed: the dense peak of the tensor cores with bfloat16 inputs and float32 sums, in TFLOPS, from the white paper or data
sheet that is named; a figure "with sparsity" is twice that and no model here reaches it. On Turing, without bfloat16, float16.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

MIB: Final = 2**20
GIB: Final = 2**30
_SIZE: Final = re.compile(r"(\d{1,5}(?:\.\d{1,3})?)\s*(?:g|gb|gib)", re.IGNORECASE)


class NoSuchGpu(ValueError):
    """The text is no GPU; the message lists the names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One card. `has_bfloat16`: whether it computes in what Qwen3 is released in."""

    name: str
    title: str
    memory_mib: int
    peak_tflops: float
    source: str
    has_bfloat16: bool = True
    note: str = ""

    @property
    def memory_bytes(self) -> int:
        """What can be allocated on it in all."""
        return self.memory_mib * MIB


def _gpu(name: str, title: str, memory_mib: int, peak_tflops: float, source: str, *, has_bfloat16: bool = True) -> Gpu:
    return Gpu(name=name, title=title, memory_mib=memory_mib, peak_tflops=peak_tflops, source=source, has_bfloat16=has_bfloat16)


GPUS: Final = (
    _gpu("rtx3060", "RTX 3060 12 GB", 12_288, 25.5, "GA102 white paper, twice float32"),
    _gpu("t4", "T4 16 GB", 15_360, 65, "T4 data sheet (float16)", has_bfloat16=False),
    _gpu("rtx4060ti", "RTX 4060 Ti 16 GB", 16_380, 44.1, "Ada white paper, twice float32"),
    _gpu("rtx4080", "RTX 4080 16 GB", 16_376, 97.5, "Ada white paper"),
    _gpu("l4", "L4 24 GB", 23_034, 121, "L4 data sheet, half of the sparse figure"),
    _gpu("a10g", "A10G 24 GB", 23_028, 70, "A10G data sheet of AWS"),
    _gpu("rtx3090", "RTX 3090 24 GB", 24_576, 71, "GA102 white paper"),
    _gpu("rtx4090", "RTX 4090 24 GB", 24_564, 165.2, "Ada white paper"),
    _gpu("rtx5090", "RTX 5090 32 GB", 32_607, 209.5, "Blackwell RTX white paper"),
    _gpu("a100-40", "A100 40 GB", 40_960, 312, "A100 data sheet"),
    _gpu("a40", "A40 48 GB", 46_068, 149.7, "A40 data sheet"),
    _gpu("l40s", "L40S 48 GB", 46_068, 362, "L40S data sheet"),
    _gpu("a6000", "RTX A6000 48 GB", 49_140, 154.8, "GA102 white paper"),
    _gpu("rtx6000ada", "RTX 6000 Ada 48 GB", 49_140, 364.2, "Ada white paper"),
    _gpu("h100", "H100 SXM 80 GB", 81_559, 989.4, "H100 data sheet, half of the sparse figure"),
    _gpu("h100-pcie", "H100 PCIe 80 GB", 81_559, 756, "H100 PCIe data sheet, half of the sparse figure"),
    _gpu("a100-80", "A100 80 GB", 81_920, 312, "A100 data sheet"),
    _gpu("rtxpro6000", "RTX PRO 6000 96 GB", 97_887, 503.8, "Blackwell RTX PRO white paper"),
    _gpu("h200", "H200 141 GB", 143_771, 989.4, "H200 data sheet, half of the sparse figure"),
    _gpu("b200", "B200 180 GB", 183_359, 2250, "HGX B200 data sheet, half of the sparse figure"),
)
"""Smallest memory first."""

_ALIASES: Final = {
    "3060": "rtx3060",
    "4060ti": "rtx4060ti",
    "4080": "rtx4080",
    "a10": "a10g",
    "3090": "rtx3090",
    "4090": "rtx4090",
    "5090": "rtx5090",
    "rtxa6000": "a6000",
    "6000ada": "rtx6000ada",
    "a100": "a100-80",
    "h100sxm": "h100",
    "pro6000": "rtxpro6000",
}
# Whose speed is taken for a card that is known by its size alone: what people mostly have of that size.
_TYPICAL: Final = ("rtx3060", "rtx4080", "rtx4090", "rtx5090", "a100-40", "l40s", "h100", "rtxpro6000", "h200", "b200")


def find_gpu(text: str) -> Gpu:
    """The GPU of this name, or one of this size. Raises NoSuchGpu.

    >>> find_gpu("RTX 4090").memory_mib, find_gpu("24GB").memory_mib
    (24564, 24576)
    """
    asked = text.strip()
    by_word = {_word(gpu.name): gpu for gpu in GPUS} | {_word(gpu.title): gpu for gpu in GPUS}
    word = _word(asked).removeprefix("nvidia").removeprefix("geforce")
    found = by_word.get(word) or by_word.get(_word(_ALIASES.get(word, "")))
    if found is not None:
        return found
    size = _SIZE.fullmatch(asked)
    if size is None or float(size[1]) == 0:
        raise NoSuchGpu(f"{asked!r} is no GPU that is known; there are {', '.join(gpu.name for gpu in GPUS)}, and sizes: 24GB")
    return of_size(float(size[1]))


def of_size(gib: float) -> Gpu:
    """A card that has this much, as fast as what people mostly have of about that size."""
    typical = min((gpu for gpu in GPUS if gpu.name in _TYPICAL), key=lambda gpu: abs(math.log(gpu.memory_bytes / (gib * GIB))))
    return Gpu(
        name=f"{gib:g}gb",
        title=f"{gib:g} GB",
        memory_mib=round(gib * 1024),
        peak_tflops=typical.peak_tflops,
        source=typical.source,
        note=f"with the speed of {typical.title}; name the card for its own",
    )


def _word(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
