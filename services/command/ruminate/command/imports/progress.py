"""How far an import has come, kept in a file, so that one that was killed goes on where acknowledged records end.

The file is replaced whole, after every batch that was acknowledged. What was sent and not yet noted is sent again, and is a
repeat.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from ruminate.command.imports.records import Place
from ruminate.command.imports.told import Refused

LISTED: Final = 500
"""So many refusals are listed one by one; all of them are counted."""


class CannotGoOn(Exception):
    """An import that was begun cannot go on as it was asked for now; the message names the ways out."""


@dataclass(slots=True)
class Counts:
    """What became of what was read. Records are the file's, everything else counts answers. `duplicates` None: nobody says."""

    records: int = 0
    taken: int = 0
    duplicates: int | None = None
    undated: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)
    listed: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """All of it, with plain objects for the counters."""
        return {
            "records": self.records,
            "taken": self.taken,
            "duplicates": self.duplicates,
            "undated": self.undated,
            "refused": dict(self.refused),
            "passed_over": dict(self.passed_over),
            "listed": self.listed,
        }

    def refuse(self, refused: Refused, *, record: int, line: int | None) -> None:
        """Count a refusal, and list it while there is room."""
        self.refused[refused.reason] += 1
        if len(self.listed) < LISTED:
            self.listed.append({"record": record, "line": line, "reason": refused.reason, "says": refused.says})


@dataclass(slots=True)
class Progress:
    """An import under way: what it was asked for, how far it is, and what became of it."""

    asked: dict[str, Any]
    place: Place
    counts: Counts

    def save(self, path: Path) -> None:
        """Replace the file. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"version": 1, "asked": self.asked, "place": asdict(self.place), "counts": self.counts.as_json()}
        fresh = path.with_suffix(".new")
        fresh.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2))
        fresh.replace(path)


def path_of(state: Path, file: Path, destination: str) -> Path:
    """Where the progress of this file to this destination is kept."""
    name = hashlib.sha256(f"{file.resolve()}\0{destination}".encode()).hexdigest()[:16]
    return state / "imports" / f"{name}.json"


def load(path: Path, asked: dict[str, Any]) -> Progress | None:
    """The progress of an import that was begun with the same file and options, or None. Raises CannotGoOn."""
    try:
        kept = orjson.loads(path.read_bytes())
        before: dict[str, Any] = kept["asked"]
        counts = Counts(**kept["counts"])
        place = Place(**kept["place"])
    except FileNotFoundError:
        return None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise CannotGoOn(f"{path} is no progress of an import; begin anew: --restart") from None
    file = asked["file"]
    if before["sha256"] != asked["sha256"]:
        raise CannotGoOn(
            f"{file} has changed since {place.records} of its records were imported; bring the file back, "
            "or begin anew: --restart (what was taken already is a repeat and changes nothing)"
        )
    differs = sorted(name for name in asked if name != "file" and before.get(name) != asked[name])
    if differs:
        was = ", ".join(f"{name} {before.get(name)!r}" for name in differs)
        raise CannotGoOn(f"the import of {file} was begun with {was}; go on with the same, or begin anew: --restart")
    counts.refused, counts.passed_over = Counter(counts.refused), Counter(counts.passed_over)
    return Progress(asked, place, counts)
