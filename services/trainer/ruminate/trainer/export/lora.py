"""A PEFT adapter as we train it: LoRA on linear layers, and on the experts of a mixture.

What a layer adds to its weights is `scale · B @ A`. PEFT keeps the experts of a layer in one pair (E experts of rank R,
`in` and `out` as they are applied):

    down        A (E·R, in)    B (out, R·E), an expert's columns E apart
    gate, up    the same pair for both, of twice the rank; B's first half of rows is gate's, the second up's
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from ruminate.trainer.export.architecture import Config, experts_of
from ruminate.trainer.export.encodings import ExportError
from ruminate.trainer.export.weights import Weights, read_whole

LINEAR_LAYERS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_WAYS_OUT: Final = f"train plain LoRA on {', '.join(LINEAR_LAYERS)}"
_FUSED: Final = r".*\.gate_up_proj"
"""What PEFT writes for a mixture's gate and up, to which it gives twice the rank and alpha."""

_REFUSED: Final = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "velora_config",
    "arrow_config",
    "alora_invocation_tokens",
    "lora_bias",
    "fan_in_fan_out",
    "layer_replication",
    "modules_to_save",
    "trainable_token_indices",
)
_EXPERTS: Final = re.compile(r"(.*\.mlp\.experts)(\.base_layer)*$")


@dataclass(frozen=True)
class Layer:
    """What is added to one linear layer: `b` and `a` name its factors; `experts` of them share a pair, or none do."""

    a: str
    b: str
    scale: float
    experts: int = 0
    start_row: int = 0
    stop_row: int | None = None
    """Rows of B that belong to this layer: a half of them where gate and up share it."""


@dataclass(frozen=True)
class _Held:
    """The factors that were asked for last: the experts of a layer are asked for one after the other."""

    layer: Layer
    a: torch.Tensor
    b: torch.Tensor


class Lora:
    """The adapter of a folder, for a base with this config. Raises ExportError for one that GGUF cannot say.

    layers: what is added, by the name of the layer (`model.layers.0.self_attn.q_proj`, `model.layers.0.mlp.experts.up_proj`).
    """

    def __init__(self, folder: Path, config: Config) -> None:
        self._folder, self._config = folder, config
        chosen = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        self._require_plain(chosen)
        self._rank, self._alpha = int(chosen["r"]), float(chosen["lora_alpha"])
        self._stabilised = bool(chosen.get("use_rslora"))
        self._tensors = Weights(folder, "adapter_model.safetensors")
        self.layers: dict[str, Layer] = {}
        for name, keys in self._pairs().items():
            self.layers |= self._experts_layers(name, keys) if _EXPERTS.match(name) else self._linear_layer(name, keys)
        self._held: _Held | None = None

    @property
    def alpha(self) -> float:
        """The one alpha of the file: llama.cpp scales by alpha / rank, rank-stabilised LoRA by alpha / sqrt(rank)."""
        return self._alpha * (self._rank**0.5 if self._stabilised else 1.0)

    def factors(self, layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
        """A (rank, in) and B (out, rank) in float32; of experts A (E, rank, in) and B (E, out, rank)."""
        if self._held is None or self._held.layer != layer:
            self._held = None  # first: the factors of two layers of experts would be twice the memory
            self._held = _Held(layer, *self._read(layer))
        return self._held.a, self._held.b

    def shape(self, layer: Layer) -> tuple[int, int]:
        """Shape (out, in) of what is added."""
        rows = range(self._tensors.shape(layer.b)[0])[layer.start_row : layer.stop_row]
        return len(rows), self._tensors.shape(layer.a)[1]

    def shapes(self, layer: Layer) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of `factors`."""
        (inner, columns), (rows, _) = self._tensors.shape(layer.a), self.shape(layer)
        if not layer.experts:
            return (inner, columns), (rows, inner)
        rank = inner // layer.experts
        return (layer.experts, rank, columns), (layer.experts, rows, rank)

    def _read(self, layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
        a = read_whole(self._tensors, layer.a).to(torch.float32)
        b = read_whole(self._tensors, layer.b).to(torch.float32)[layer.start_row : layer.stop_row]
        if not layer.experts:
            return a, b
        return a.reshape(layer.experts, -1, a.shape[1]), b.reshape(b.shape[0], -1, layer.experts).permute(2, 0, 1).contiguous()

    def _require_plain(self, chosen: dict[str, Any]) -> None:
        wrong = [name for name in _REFUSED if chosen.get(name)]
        if chosen.get("peft_type") != "LORA":
            wrong.append(f"peft_type {chosen.get('peft_type')}")
        if chosen.get("bias", "none") != "none":
            wrong.append(f"bias {chosen['bias']}")
        for pattern, whole in (("rank_pattern", chosen["r"]), ("alpha_pattern", chosen["lora_alpha"])):
            if chosen.get(pattern) and chosen[pattern] != {_FUSED: 2 * whole}:
                wrong.append(pattern)
        if wrong:
            raise ExportError(f"the adapter in {self._folder} has {', '.join(wrong)}, which cannot be exported; {_WAYS_OUT}")

    def _pairs(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for key in self._tensors.names():
            layer, _, half = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
            if half not in ("A", "B") or not (layer.rpartition(".")[2] in LINEAR_LAYERS or _EXPERTS.match(layer)):
                raise ExportError(f"the adapter in {self._folder} holds {key}, which has no place in GGUF; {_WAYS_OUT}")
            found.setdefault(layer, {})[half] = key
        for layer, keys in found.items():
            if keys.keys() != {"A", "B"}:
                raise ExportError(f"the adapter in {self._folder} has half a pair for {layer}: {keys}; train it again")
        return found

    def _scale(self, times: int = 1) -> float:
        rank, alpha = self._rank * times, self._alpha * times
        return alpha / (math.sqrt(rank) if self._stabilised else rank)

    def _linear_layer(self, name: str, keys: dict[str, str]) -> dict[str, Layer]:
        self._require_shapes(name, keys, self._rank)
        return {name: Layer(keys["A"], keys["B"], self._scale())}

    def _experts_layers(self, name: str, keys: dict[str, str]) -> dict[str, Layer]:
        # The wrapper of one parameter wraps that of the other, in no fixed order; their shapes tell which is which.
        experts, hidden, inner = experts_of(self._config), self._config["hidden_size"], self._config["moe_intermediate_size"]
        a, b = self._tensors.shape(keys["A"]), self._tensors.shape(keys["B"])
        place = name.partition(".experts")[0] + ".experts"
        if (a[1], b[0]) == (inner, hidden):
            self._require_shapes(name, keys, self._rank * experts)
            return {f"{place}.down_proj": Layer(keys["A"], keys["B"], self._scale(), experts)}
        if (a[1], b[0]) == (hidden, 2 * inner):
            self._require_shapes(name, keys, 2 * self._rank * experts)
            return {
                f"{place}.gate_proj": Layer(keys["A"], keys["B"], self._scale(2), experts, stop_row=inner),
                f"{place}.up_proj": Layer(keys["A"], keys["B"], self._scale(2), experts, start_row=inner),
            }
        raise ExportError(f"the adapter in {self._folder} has {name} of {a} and {b}, which are no experts of its base; {_WAYS_OUT}")

    def _require_shapes(self, name: str, keys: dict[str, str], inner: int) -> None:
        a, b = self._tensors.shape(keys["A"]), self._tensors.shape(keys["B"])
        if a[0] != inner or b[1] != inner:
            raise ExportError(
                f"the adapter in {self._folder} has {name} of {a} and {b}, where its adapter_config.json says rank {inner}; "
                "take both from one training"
            )
