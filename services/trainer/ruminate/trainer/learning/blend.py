"""Adapters as numbers: how far apart two are, and what lies between them, as an adapter of the same rank.

A LoRA layer adds s·B·A to a weight (s = alpha / rank, or alpha / sqrt(rank)). Between a parent and its candidate lies

    s·[(1-f)·B_p, f·B_c]·[A_p; A_c]        exact, of twice the rank

and is cut back to the rank by singular values (QR of both sides, then the SVD of a matrix of twice the rank), which is the
nearest of that rank (Eckart and Young, 1936). A fresh adapter's parent is nothing: then f·B_c is exact as it is.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"
_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Adapter:
    """A PEFT LoRA adapter, read from its folder."""

    folder: Path
    tensors: dict[str, torch.Tensor]
    scale: float

    def layers(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Name, A (rank, in) and B (out, rank) of each layer, in float32."""
        for name in sorted(self.tensors):
            if name.endswith(_A):
                layer = name.removesuffix(_A)
                yield layer, self.tensors[name].float(), self.tensors[layer + _B].float()


def read_adapter(folder: Path) -> Adapter:
    """The adapter in a PEFT folder."""
    config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_bytes())
    rank, alpha = float(config["r"]), float(config["lora_alpha"])
    return Adapter(folder, load_file(folder / WEIGHTS_FILE), alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def norm(adapter: Adapter, parent: Adapter | None = None) -> float:
    """The Frobenius norm of what the adapter adds to all weights, beyond what `parent` adds."""
    before = {} if parent is None else {layer: (a, b) for layer, a, b in parent.layers()}
    squares = 0.0
    for layer, a, b in adapter.layers():
        if layer in before:
            a_parent, b_parent = before[layer]
            squares += _square(torch.cat([a, a_parent]), torch.cat([b, -b_parent], dim=1))
        else:
            squares += _square(a, b)
    return adapter.scale * math.sqrt(max(0.0, squares))


def scaled(candidate: Adapter, parent: Adapter | None, factor: float, out: Path) -> float:
    """Write what lies `factor` of the way from parent to candidate. Returns what was lost in cutting, relative to the change."""
    made: dict[str, torch.Tensor] = {}
    lost = change = 0.0
    before = {} if parent is None else {layer: (a, b) for layer, a, b in parent.layers()}
    for layer, a, b in candidate.layers():
        if layer not in before:
            made[layer + _A], made[layer + _B] = a, factor * b
            continue
        a_parent, b_parent = before[layer]
        wide, tall = torch.cat([a_parent, a]), torch.cat([(1 - factor) * b_parent, factor * b], dim=1)
        made[layer + _A], made[layer + _B], cut = _nearest(wide, tall, rank=a.shape[0])
        lost += cut
        change += _square(torch.cat([a, a_parent]), torch.cat([b, -b_parent], dim=1))
    out.mkdir(parents=True, exist_ok=True)
    types = {name: tensor.dtype for name, tensor in candidate.tensors.items()}
    save_file({name: tensor.to(types[name]).contiguous() for name, tensor in made.items()}, out / WEIGHTS_FILE)
    shutil.copy(candidate.folder / CONFIG_FILE, out / CONFIG_FILE)
    return math.sqrt(lost / change) if change > 0 else 0.0


def _square(a: torch.Tensor, b: torch.Tensor) -> float:
    """|BA|² = tr(AᵀBᵀBA): of the rank's size, whatever the layer's."""
    return float(((b.T @ b).double() * (a @ a.T).double()).sum())


def _nearest(a: torch.Tensor, b: torch.Tensor, *, rank: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A and B of the rank whose product is nearest to b·a; and the square of what is lost."""
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    left, values, right = torch.linalg.svd(r_b @ r_a.T)
    root = values[:rank].sqrt()
    # Both halves get the root of each value, so that training goes on from halves of like size.
    return (root[:, None] * right[:rank]) @ q_a.T, q_b @ (left[:, :rank] * root), float((values[rank:] ** 2).sum())
