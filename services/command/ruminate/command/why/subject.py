"""What was typed after `why`: a line of a dataset, the beginning of a SHA-256, an id, or a name. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from ruminate.command.datasets.files import DATA_FILES, FileName

_FILES: Final = "|".join(DATA_FILES)
_LINE: Final = re.compile(rf"(?P<batch>.+?):(?:(?P<file>{_FILES}):)?(?P<line>[1-9][0-9]*)")
_SHA256: Final = re.compile(r"[0-9a-f]{8,64}")

FORMS: Final = (
    "a row (BATCH:LINE, BATCH:FILE:LINE, FILE being holdout, replay, preferences, verifiable or verifiable-holdout, or 8 digits "
    "or more of its SHA-256), an interaction (its recorded id, or its interaction id with --source), an event id, a batch id, a "
    "version (v4) or the name of a model"
)


@dataclass(frozen=True, slots=True)
class LineAsked:
    """A line of a file, by batch id or number."""

    batch: str
    file: FileName
    line: int


@dataclass(frozen=True, slots=True)
class Subject:
    """What a text may mean. Which of it it is, decides what there is."""

    text: str
    source: str | None = None
    """CloudEvents source of the completed interaction: with it, the text is an interaction id and nothing else."""

    @property
    def line(self) -> LineAsked | None:
        """As a line of a dataset."""
        match = None if self.source else _LINE.fullmatch(self.text)
        if match is None:
            return None
        return LineAsked(match["batch"], next((name for name in DATA_FILES if name == match["file"]), "train"), int(match["line"]))

    @property
    def sha256(self) -> str | None:
        """As the beginning of a line's SHA-256."""
        lowered = self.text.lower()
        return lowered if not self.source and _SHA256.fullmatch(lowered) else None

    @property
    def uuid(self) -> UUID | None:
        """As the id of an event or of a recorded interaction."""
        try:
            return None if self.source or len(self.text) != 36 else UUID(self.text)
        except ValueError:
            return None
