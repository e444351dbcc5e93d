"""One step of a lineage and what follows from it: drawn as a tree for people, nested JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Node:
    """One step of a lineage: a sentence for people, facts for programs. `gone`: the log or the store no longer has it."""

    kind: str
    says: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    children: Sequence[Node] = ()
    gone: bool = False

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "kind": self.kind,
            "says": self.says,
            "gone": self.gone,
            "facts": dict(self.facts),
            "children": [child.as_json() for child in self.children],
        }

    def lines(self) -> Iterator[tuple[str, bool]]:
        """For people, indented; and whether a line says that something is gone."""
        first, *rest = self.says.splitlines() or [""]
        yield first, self.gone
        yield from ((("│  " if self.children else "   ") + text, self.gone) for text in rest)
        for place, child in enumerate(self.children, start=1):
            last = place == len(self.children)
            for number, (text, gone) in enumerate(child.lines()):
                lead = ("└─ " if last else "├─ ") if number == 0 else ("   " if last else "│  ")
                yield lead + text, gone
