"""What people call a Qwen3 model, and the one they mean: exact, nearest with a sentence why, or refused with the list. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from ruminate.planner.catalogue import APRIL, JULY, MODELS, Model

# Families of their own, with shapes of their own: no model here stands for them.
_OTHER_FAMILIES: Final = ("vl", "coder", "embedding", "reranker", "next", "omni", "max", "asr", "tts", "guard")
_FAMILY: Final = re.compile(r"(?:[\w.-]+/)*qwen[-_ ]?3(?![.\d])(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_SIZE: Final = re.compile(r"(?<![\w.])(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[bm])(?![a-z0-9])")
_ACTIVE: Final = re.compile(r"(?<![a-z])a(?P<number>\d+(?:\.\d+)?)b")
_MOVED_TAGS: Final = {"qwen3:4b", "qwen3:30b-a3b", "qwen3:235b-a22b"}
_LONGEST_NAME: Final = 200


class NoSuchModel(ValueError):
    """The text names no Qwen3 model; the message lists those that exist."""


@dataclass(frozen=True, slots=True)
class Found:
    """The model, and what whoever named it should know: empty where they said it exactly."""

    model: Model
    note: str = ""


def find_model(text: str) -> Found:
    """The model of this name, or the nearest. Raises NoSuchModel where it is no Qwen3.

    >>> find_model("qwen3:7b").model.name
    'qwen3:8b'
    >>> find_model("Qwen/Qwen3-14B").note
    ''
    """
    asked = text.strip()
    exact = {word.lower(): model for model in MODELS for word in (model.name, model.hub, model.ollama, model.label)}
    if asked.lower() in exact:
        model = exact[asked.lower()]
        return Found(model, _pin(model) if asked.lower() == model.ollama else "")
    family = _FAMILY.fullmatch(asked) if len(asked) <= _LONGEST_NAME else None
    rest = family["rest"].lower().replace("_", "-") if family else ""
    words = _words(rest)
    if family is None or words & set(_OTHER_FAMILIES):
        raise NoSuchModel(f"{asked[:_LONGEST_NAME]!r} is no Qwen3 that can be planned for; there are {listed()}")
    size = _SIZE.search(rest)
    if size is None:
        if words <= {"", "latest"}:
            return Found(_named("qwen3:8b"), "qwen3 without a size is qwen3:8b in Ollama's library")
        raise NoSuchModel(f"{asked!r} names no size; there are {listed()}")
    return _nearest(asked, float(size["number"]) / (1000 if size["unit"] == "m" else 1), rest, words)


def listed() -> str:
    """All names, for a message."""
    return ", ".join(model.name for model in MODELS)


def _nearest(asked: str, billions: float, rest: str, words: set[str]) -> Found:
    if billions <= 0:
        raise NoSuchModel(f"{asked!r} names no size; there are {listed()}")
    active = _ACTIVE.search(rest)
    among = [model for model in APRIL if model.shape.experts] if active else list(APRIL)
    april = min(among, key=lambda model: abs(math.log(_billions(model) / billions)))
    is_size = math.isclose(_billions(april), billions) and (active is None or f"a{active['number']}b" in april.name)
    why = "" if is_size else f"no Qwen3 is called {asked!r}: the nearest is {april.label}"
    if is_size and (other := words - {"", "2507", "instruct", "thinking", *_words(april.name)}):
        why = f"{april.label}, whose shape it has ({' '.join(sorted(other))})"
    july = {model.thinks: model for model in JULY if model.name.startswith(f"{april.name}-")}
    if not words & {"2507", "instruct", "thinking"}:
        return Found(april, why or _pin(april))
    if not july:
        only = f"2507 exists as 4B, 30B-A3B and 235B-A22B alone, so this is {april.label} of April 2025, which thinks on request"
        return Found(april, f"{why}; {only}" if why else only)
    model = july["always" if "thinking" in words else "never"]
    if not words & {"instruct", "thinking"}:
        why = f"{why}; " if why else ""
        why += f"2507 is two models of one shape: this is {model.label}, which never thinks; the other is {july['always'].label}"
    return Found(model, why)


def _words(text: str) -> set[str]:
    return set(re.split(r"[^a-z0-9.]+", text))


def _named(name: str) -> Model:
    return next(model for model in MODELS if model.name == name)


def _billions(model: Model) -> float:
    """The size in its name."""
    found = _SIZE.search(model.name.removeprefix("qwen3:").replace("-a", " a"))
    return float(found["number"]) if found else math.nan


def _pin(model: Model) -> str:
    if model.name not in _MOVED_TAGS:
        return ""
    return f"Ollama's {model.ollama} may be the 2507 that always thinks: pull {model.ollama}-q4_K_M for this one"
