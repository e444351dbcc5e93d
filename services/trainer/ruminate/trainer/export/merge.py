"""Rows of the base with the adapter added in: bit for bit what PEFT's `merge_and_unload` makes of the whole model.

The base is rounded to the merged precision, `scale · B @ A` is added in float32, and the sum is rounded again. Of experts
PEFT rounds the product, too, before it adds.
"""

from __future__ import annotations

import re
from typing import Final

import torch

from ruminate.trainer.export.encodings import ExportError, require_f16
from ruminate.trainer.export.lora import Lora
from ruminate.trainer.export.weights import Weights

_EXPERT: Final = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(\w+)$")


class Merged:
    """The tensors of `base` in precision `dtype`, with `lora` in them. Raises ExportError where it does not fit the base."""

    def __init__(self, base: Weights, lora: Lora, dtype: torch.dtype) -> None:
        self._base, self._lora, self._dtype = base, lora, dtype
        self._of: dict[str, tuple[str, int]] = {}
        for name in base.names():
            layer, number = _layer_of(name)
            if layer in lora.layers:
                self._of[name] = layer, number
        self._require_fit()

    def names(self) -> list[str]:
        return self._base.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._base.shape(name)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        rows = self._base.rows(name, start, stop).to(self._dtype)
        if name in self._of:
            of, number = self._of[name]
            layer = self._lora.layers[of]
            a, b = self._lora.factors(layer)
            if layer.experts:
                a, b = a[number], b[number]
            added = (b[start:stop] @ a).mul_(layer.scale)
            rows += added.to(self._dtype) if layer.experts else added
        if self._dtype is torch.float16:
            require_f16(rows, name)
        return rows

    def _require_fit(self) -> None:
        if missing := self._lora.layers.keys() - {layer for layer, _ in self._of.values()}:
            raise ExportError(f"the adapter changes {min(missing)}, which the base does not have; it belongs to another base")
        for name, (of, _) in self._of.items():
            changed = self._lora.shape(self._lora.layers[of])
            if changed != self.shape(name):
                raise ExportError(
                    f"the adapter changes {name} as if it were {changed}, and in the base it is {self.shape(name)}; "
                    "it belongs to another base"
                )


def _layer_of(name: str) -> tuple[str, int]:
    """The layer that a tensor belongs to, and which of its experts it is."""
    layer = name.removesuffix(".weight")
    expert = _EXPERT.match(layer)
    return (f"{expert[1]}.{expert[3]}", int(expert[2])) if expert else (layer, 0)
