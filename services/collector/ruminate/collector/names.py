"""Names of people, where spaCy and a model of it are installed: the one recogniser that no pattern replaces.

It reads every text with a neural network, which costs milliseconds where the patterns cost microseconds; so it is off unless
a policy asks for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Final

from pydantic_core import PydanticCustomError

from ruminate.collector.privacy.policy import PrivacySettings
from ruminate.collector.privacy.scan import FindNames

MODEL: Final = "xx_ent_wiki_sm"
"""A model for names in many languages."""
_LABELS: Final = frozenset(("PER", "PERSON"))
_MOST_CHARACTERS: Final = 100_000


def check_names(settings: PrivacySettings) -> PrivacySettings:
    """The settings. Raises where they ask for names and what finds them is missing: nothing is recorded unredacted instead."""
    missing = [package for package in ("spacy", MODEL) if find_spec(package) is None]
    if settings.asks_for_names and missing:
        problem = (
            f"names is true, and this is not installed: {', '.join(missing)}. Install ruminate-collector[names] "
            f"and type: python -m spacy download {MODEL}; or leave names out"
        )
        raise PydanticCustomError("names", "{problem}", {"problem": problem})
    return settings


def load_names(settings: PrivacySettings) -> FindNames | None:
    """What finds names; None where no policy asks for them. Takes seconds, and some 50 MB."""
    return _SpacyNames(importlib.import_module("spacy").load(MODEL)) if settings.asks_for_names else None


class _SpacyNames:
    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, text: str, /) -> Iterator[tuple[int, int]]:
        for start in range(0, len(text), _MOST_CHARACTERS):
            for entity in self._model(text[start : start + _MOST_CHARACTERS]).ents:
                if entity.label_ in _LABELS:
                    yield start + entity.start_char, start + entity.end_char
