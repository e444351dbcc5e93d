"""Commit metadata kept in a file, for a broker that forgets it: crash attempts must outlive the process that crashed.

Notes of another address are another broker's, and are dropped: the embedded broker starts empty, at an address of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ruminate.shared.dead_letters import Place
from ruminate.shared.ledger import Commit


class CrashNotes:
    """The metadata of one reader's commits at one broker."""

    def __init__(self, path: Path, *, bootstrap: str) -> None:
        self._path = path
        self._bootstrap = bootstrap
        self._notes: dict[str, str] = self._load()

    def recall(self, place: Place, commit: Commit) -> Commit:
        """The commit with the metadata that was noted for its partition."""
        return replace(commit, metadata=self._notes.get(_name(place), ""))

    def note(self, commits: Mapping[Place, Commit]) -> None:
        """Remember the metadata of these commits; the file changes only where it does."""
        notes = {**self._notes, **{_name(place): commit.metadata for place, commit in commits.items()}}
        notes = {name: metadata for name, metadata in notes.items() if metadata}
        if notes == self._notes:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps({self._bootstrap: notes}))
        os.replace(fresh, self._path)  # noqa: PTH105 - whole or not at all
        self._notes = notes

    def _load(self) -> dict[str, str]:
        if not self._path.exists():
            return {}
        found = json.loads(self._path.read_text()).get(self._bootstrap, {})
        return {str(name): str(metadata) for name, metadata in found.items()}


def _name(place: Place) -> str:
    return f"{place[0]}/{place[1]}"
