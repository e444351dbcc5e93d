"""The Qwen3 models that exist, as their `config.json` describes them. Pure.

Shapes: the configs of the Qwen organisation on the hub; a test holds the counts of parameters that follow against transformers.
Contexts: the model cards. The models of April 2025 were trained on 32,768 tokens; from 4B up YaRN reaches 131,072. Those of July
2025 (2507) read 262,144, and 30B-A3B and 235B-A22B up to 1,010,000 with dual chunk attention, which Ollama does not have.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from ruminate.planner.shape import Shape

Thinks = Literal["on request", "never", "always", "as its template says"]

_APRIL: Final = 32_768
_YARN: Final = 131_072
_JULY: Final = 262_144
_DUAL_CHUNK: Final = 1_010_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model: what to call it where, and what it can read. Contexts are tokens."""

    name: str
    hub: str
    ollama: str
    shape: Shape
    native_context: int
    longest_context: int
    beyond_native: str = ""
    thinks: Thinks = "on request"

    @property
    def label(self) -> str:
        """Its name without whose it is."""
        return self.hub.removeprefix("Qwen/")


def _dense(size: str, shape: Shape, *, longest: int = _YARN) -> Model:
    return Model(
        name=f"qwen3:{size.lower()}",
        hub=f"Qwen/Qwen3-{size}",
        ollama=f"qwen3:{size.lower()}",
        shape=shape,
        native_context=_APRIL,
        longest_context=longest,
        beyond_native="YaRN (factor 4)" if longest > _APRIL else "",
    )


def _july(april: Model, thinks: Literal["never", "always"]) -> Model:
    word = "Instruct" if thinks == "never" else "Thinking"
    name = f"{april.name}-{word.lower()}-2507"
    far = bool(april.shape.experts)
    return replace(
        april,
        name=name,
        hub=f"{april.hub}-{word}-2507",
        ollama=f"{name}-q4_K_M",
        native_context=_JULY,
        longest_context=_DUAL_CHUNK if far else _JULY,
        beyond_native="dual chunk attention (not in Ollama)" if far else "",
        thinks=thinks,
    )


_0_6B: Final = Shape(hidden=1024, intermediate=3072, layers=28, heads=16, kv_heads=8, tied=True)
_1_7B: Final = Shape(hidden=2048, intermediate=6144, layers=28, heads=16, kv_heads=8, tied=True)
_4B: Final = Shape(hidden=2560, intermediate=9728, layers=36, heads=32, kv_heads=8, tied=True)
_8B: Final = Shape(hidden=4096, intermediate=12288, layers=36, heads=32, kv_heads=8, tied=False)
_14B: Final = Shape(hidden=5120, intermediate=17408, layers=40, heads=40, kv_heads=8, tied=False)
_32B: Final = Shape(hidden=5120, intermediate=25600, layers=64, heads=64, kv_heads=8, tied=False)
# `intermediate` is in the configs of both, and no layer is that wide: each has experts.
_30B_A3B: Final = Shape(
    hidden=2048,
    intermediate=6144,
    layers=48,
    heads=32,
    kv_heads=4,
    tied=False,
    experts=128,
    active_experts=8,
    expert_intermediate=768,
)
_235B_A22B: Final = Shape(
    hidden=4096,
    intermediate=12288,
    layers=94,
    heads=64,
    kv_heads=4,
    tied=False,
    experts=128,
    active_experts=8,
    expert_intermediate=1536,
)

APRIL: Final = (
    _dense("0.6B", _0_6B, longest=_APRIL),
    _dense("1.7B", _1_7B, longest=_APRIL),
    _dense("4B", _4B),
    _dense("8B", _8B),
    _dense("14B", _14B),
    _dense("32B", _32B),
    _dense("30B-A3B", _30B_A3B),
    _dense("235B-A22B", _235B_A22B),
)
"""The eight shapes, smallest of their kind first; they think on request."""

JULY: Final = tuple(
    _july(april, thinks)
    for april in APRIL
    if april.name in {"qwen3:4b", "qwen3:30b-a3b", "qwen3:235b-a22b"}
    for thinks in ("never", "always")
)
"""What 2507 means: three of the shapes anew, twice."""

MODELS: Final = APRIL + JULY
