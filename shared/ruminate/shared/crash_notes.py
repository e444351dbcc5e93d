"""Commit metadata kept in a file, for a broker that forgets it: crash attempts must outlive the process that crashed.

Notes of another address are another broker's, and are dropped: the embedded broker starts empty, at an address of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ruminate.shared.ledger import Commit


class CrashNotes:
    """The metadata of one reader's commits on one topic at one broker."""

    def __init__(self, path: Path, *, bootstrap: str, topic: str) -> None:
        self._path = path
        self._place = f"{bootstrap}/{topic}"
        self._notes: dict[int, str] = self._load()

    def recall(self, partition: int, commit: Commit) -> Commit:
        """The commit with the metadata that was noted for its partition."""
        return replace(commit, metadata=self._notes.get(partition, ""))

    def note(self, commits: Mapping[int, Commit]) -> None:
        """Remember the metadata of these commits; the file changes only where it does."""
        notes = {**self._notes, **{partition: commit.metadata for partition, commit in commits.items()}}
        notes = {partition: metadata for partition, metadata in notes.items() if metadata}
        if notes == self._notes:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps({self._place: notes}))
        os.replace(fresh, self._path)  # noqa: PTH105 - whole or not at all
        self._notes = notes

    def _load(self) -> dict[int, str]:
        if not self._path.exists():
            return {}
        found = json.loads(self._path.read_text()).get(self._place, {})
        return {int(partition): str(metadata) for partition, metadata in found.items()}
