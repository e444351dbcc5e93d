"""Protect: the texts of evaluations and anchors, read from files, that no batch may give away.

{"question": "…", "answer": "…", …}    one a line; `prompt` is taken for `question`, and what else is text is protected, too
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from ruminate.accumulator.curation.decontaminate import Protected
from ruminate.accumulator.curation.known import HELD_OUT
from ruminate.shared.settings import WrongSettings


class NotProtected(WrongSettings):
    """A file of a protected set cannot be read; the message says which, where and why."""


@dataclass(frozen=True, slots=True)
class ProtectedSets:
    """Named sets of texts, and the SHA-256 of the file of each."""

    rows: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)

    def only(self, names: Iterable[str]) -> Protected:
        """What is protected by these sets."""
        protected = Protected()
        for name in sorted(names):
            protected.add(name, self.rows[name])
        return protected


def read_protected(files: Mapping[str, Path]) -> ProtectedSets:
    """Read the sets. Raises NotProtected."""
    rows, hashes = {}, {}
    for name, path in files.items():
        if name == HELD_OUT:
            raise NotProtected(f"a protected set cannot be named {HELD_OUT!r}: that is what the chains hold out themselves")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise NotProtected(f"protected set {name!r}: {path} cannot be read: {error.strerror}") from error
        rows[name] = [_texts_of(line, f"{path}:{number}") for number, line in enumerate(data.splitlines(), 1) if line.strip()]
        hashes[name] = hashlib.sha256(data).hexdigest()
    return ProtectedSets(rows, hashes)


def _texts_of(line: bytes, where: str) -> list[str]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise NotProtected(f"{where} is no JSON: {error}") from None
    if not isinstance(row, dict):
        raise NotProtected(f"{where} is no JSON object")
    named = next((name for name in ("question", "prompt") if isinstance(row.get(name), str)), None)
    if named is None:
        raise NotProtected(f"{where} has no text under `question` or `prompt`; it has {', '.join(sorted(row)) or 'nothing'}")
    return [row[named], *(value for name, value in row.items() if name != named and isinstance(value, str) and value.strip())]
