"""Folders that somebody else writes to while a test looks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(*folders: Path) -> Iterator[Path]:
    """Every file below; what goes meanwhile may be among them. `Path.rglob` does not get over a folder that goes."""
    return (Path(place) / name for folder in folders for place, _, names in os.walk(folder) for name in names)
