"""How much of the labelled set is found, and how much of what is found is right.

    python -m tests.data.privacy.scores [held_out|fresh]

A label is found where a finding covers it, whatever its kind. A finding is right where it covers a label and nothing else of
the text; it is *named* right where the kinds agree, too.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tests.data.privacy.labelled import Label, Part, Snippet, snippets


class Span(NamedTuple):
    """Where something was found, and as what."""

    start: int
    end: int
    kind: str


GROUPS: Final = {
    "contact": ("email", "phone", "ip", "mac"),
    "account": ("iban", "card"),
    "assigned": ("password", "secret", "aws_secret", "azure_key", "azure_sas"),
}
_SAME: Final = ({"secret", "aws_secret", "password"},)


def group_of(kind: str) -> str:
    """Contacts, accounts, national numbers, what is assigned, and tokens that show by themselves."""
    for group, kinds in GROUPS.items():
        if kind in kinds:
            return group
    return "national" if kind[2] == "_" and kind[:2] in _COUNTRIES else "token"


_COUNTRIES: Final = frozenset((
    "at", "au", "be", "br", "ca", "ch", "de", "dk", "es", "fi", "fr", "in", "it", "jp", "kr", "nl", "no", "pl", "se", "uk",
    "us",
))  # fmt: skip


@dataclass(slots=True)
class Score:
    """Of one group of kinds."""

    labels: int = 0
    found: int = 0
    named: int = 0
    findings: int = 0
    right: int = 0
    misses: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    @property
    def recall(self) -> float:
        """Share of the labels that are found."""
        return self.found / self.labels if self.labels else 1.0

    @property
    def precision(self) -> float:
        """Share of the findings that are right."""
        return self.right / self.findings if self.findings else 1.0


def scores(find: Callable[[str], Iterable[Span]], part: Part | None) -> dict[str, Score]:
    """By group, and of `all`."""
    table: defaultdict[str, Score] = defaultdict(Score)
    for snippet in snippets():
        if part in (None, snippet.part):
            _count(snippet, list(find(snippet.text)), table)
    return dict(sorted(table.items()))


def _count(snippet: Snippet, spans: Sequence[Span], table: defaultdict[str, Score]) -> None:
    for label in snippet.labels:
        covering = [span for span in spans if span.start <= label.start and _end(label) <= span.end]
        for score in (table[group_of(label.kind)], table["all"]):
            score.labels += 1
            score.found += bool(covering)
            score.named += any(_agree(span.kind, label.kind) for span in covering)
            if not covering:
                score.misses.append(f"{label.kind} {label.value!r} in {snippet.text!r}")
    for span in spans:
        right = any(span.start == label.start and span.end == _end(label) for label in snippet.labels)
        for score in (table[group_of(span.kind)], table["all"]):
            score.findings += 1
            score.right += right
            if not right:
                score.mistakes.append(f"{span.kind} {snippet.text[span.start : span.end]!r} in {snippet.text!r}")


def _end(label: Label) -> int:
    return label.start + len(label.value)


def _agree(one: str, other: str) -> bool:
    return one == other or any(one in same and other in same for same in _SAME)


def report(table: dict[str, Score]) -> str:
    """A Markdown table."""
    lines = ["| group | values | recall | named right | findings | precision |", "|---|---|---|---|---|---|"]
    for group, score in table.items():
        lines.append(
            f"| {group} | {score.labels} | {score.recall:.3f} | {score.named / (score.labels or 1):.3f} "
            f"| {score.findings} | {score.precision:.3f} |"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Print the scores of our recognisers, and on the tuned part what is missed and mistaken."""
    from ruminate.collector.privacy.policy import PrivacyPolicy
    from ruminate.collector.privacy.scan import Scanner
    from ruminate.collector.privacy.text import Look

    scanner = Scanner(PrivacyPolicy())

    def find(text: str) -> list[Span]:
        return [Span(*found) for found in scanner.find(Look.at(text), scanner.recognisers_for(text))]

    part: Part = "held_out" if "held_out" in arguments else "fresh" if "fresh" in arguments else "tuned"
    table = scores(find, part)
    print(report(table))
    for line in () if part != "tuned" else (*table["all"].misses, "", *table["all"].mistakes):
        print(line)


if __name__ == "__main__":
    main(sys.argv[1:])
