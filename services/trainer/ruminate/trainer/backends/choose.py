"""Which backend trains: asked for by name, or what this machine is best at. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ruminate.trainer.plan import BackendWish, Method

Name = Literal["transformers", "unsloth"]

UNSLOTH_NEEDS: Final = ("unsloth", "unsloth_zoo", "bitsandbytes")
"""Unsloth has bitsandbytes among its needs. Without it, it loads no 4 bits, says so in passing and goes on in 16."""
QLORA_NEEDS: Final = ("bitsandbytes",)


class Impossible(ValueError):
    """No backend can do that here; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What training finds: the GPU by its name, none where CUDA has none, and which of the packages above are installed."""

    gpu: str = ""
    has_bfloat16: bool = False
    installed: frozenset[str] = frozenset()


def choose(wish: BackendWish, method: Method, machine: Machine) -> Name:
    """The backend that does what is asked for. Raises Impossible.

    >>> choose("auto", "lora", Machine())
    'transformers'
    """
    if wish == "unsloth":
        _require(_against_unsloth(machine), "RUMINATE_TRAINING_BACKEND is unsloth", "set it to auto or transformers")
        return "unsloth"
    if wish == "auto" and not _against_unsloth(machine):
        return "unsloth"
    if method == "qlora":
        _require(_against_qlora(machine), "RUMINATE_TRAINING_METHOD is qlora", "set it to lora")
    return "transformers"


def _against_unsloth(machine: Machine) -> str:
    if not machine.gpu:
        return "Unsloth trains on CUDA, and torch finds no GPU"
    if not machine.has_bfloat16:
        return f"{machine.gpu} does not compute in bfloat16, and in float16, which Unsloth would take, we have trained nothing"
    return _missing(UNSLOTH_NEEDS, machine)


def _against_qlora(machine: Machine) -> str:
    if not machine.gpu:
        return "4 bits are unpacked on CUDA, and torch finds no GPU"
    if not machine.has_bfloat16:
        return f"{machine.gpu} does not compute in bfloat16, which 4 bits are unpacked to"
    return _missing(QLORA_NEEDS, machine)


def _missing(needed: tuple[str, ...], machine: Machine) -> str:
    absent = [name for name in needed if name not in machine.installed]
    return f"{' and '.join(absent)} cannot be imported; install ruminate-trainer[gpu]" if absent else ""


def _require(obstacle: str, asked: str, way_out: str) -> None:
    if obstacle:
        raise Impossible(f"{asked}, which does not work here: {obstacle}, or {way_out}")
