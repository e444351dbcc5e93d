"""Anchors: rows of an operator's own that are trained with every batch, so that what the base does well stays. Read from files.

    {"prompt": [message, …], "completion": [answer], "chat_template_kwargs": {"enable_thinking": bool}}    as in train.jsonl

Texts on which a model is measured are no anchors but protected sets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from ruminate.accumulator.curation.asked import asked_in
from ruminate.accumulator.curation.near import ClusterIndex
from ruminate.accumulator.records import template
from ruminate.accumulator.records.rows import Row
from ruminate.shared.settings import WrongSettings


class NotAnchored(WrongSettings):
    """A file of anchor rows cannot be read; the message says which, where and why."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """One row: its file's name among the settings, its place there, and its line as a dataset has it."""

    name: str
    place: int
    line: bytes
    reasoning: bool


@dataclass(frozen=True)
class AnchorSets:
    """Rows by the name of their file, and the SHA-256 of each file."""

    rows: Mapping[str, tuple[Anchor, ...]] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def questions(self) -> ClusterIndex | None:
        """What they ask, to be found in other words; None where there are none."""
        every = self.every()
        if not every:
            return None
        index = ClusterIndex(most_rows=len(every))
        for anchor in every:
            asked = asked_in(anchor.line)
            index.add(asked.question, asked.signature)
        return index

    def every(self) -> list[Anchor]:
        """All of them, in the order of names and places."""
        return [anchor for name in sorted(self.rows) for anchor in self.rows[name]]

    def as_named(self, sha256: Mapping[str, str]) -> AnchorSets | None:
        """Those with these hashes; None where one of them is not at hand."""
        if any(self.sha256.get(name) != digest for name, digest in sha256.items()):
            return None
        return AnchorSets({name: self.rows[name] for name in sha256}, dict(sha256))


def read_anchors(files: Mapping[str, Path]) -> AnchorSets:
    """Read the sets. Raises NotAnchored."""
    rows, hashes = {}, {}
    for name, path in files.items():
        try:
            data = path.read_bytes()
        except OSError as error:
            raise NotAnchored(f"anchor rows {name!r}: {path} cannot be read: {error.strerror}") from error
        lines = [(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
        rows[name] = tuple(_anchor_of(name, place, line, f"{path}:{number}") for place, (number, line) in enumerate(lines))
        hashes[name] = hashlib.sha256(data).hexdigest()
    return AnchorSets(rows, hashes)


def _anchor_of(name: str, place: int, line: bytes, where: str) -> Anchor:
    try:
        row = Row.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        raise NotAnchored(f"{where} is no row: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    (answer,) = row.completion
    thinks = bool((answer.reasoning_content or "").strip())
    if thinks != row.chat_template_kwargs.enable_thinking:
        raise NotAnchored(
            f"{where}: enable_thinking is {not thinks}, but its answer has {'' if thinks else 'no '}reasoning_content"
        )
    if not template.survives(row.model_dump()):
        raise NotAnchored(f"{where}: a text holds marks of the chat template, and would be read as something else")
    return Anchor(name, place, line.strip() + b"\n", thinks)
