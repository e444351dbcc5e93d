"""`diff`: the rows of one version of a dataset beside those of another. Pure; whoever calls has read the manifests.

A row is an interaction (`recorded_id`): one that stands in the second version alone was *added*, in the first alone has
*left*, and in both under another SHA-256, in another split or of another origin has *changed*. What stands beside the rows,
rehearsed rows, pairs and questions, is compared by its bytes alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain as joined
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from ruminate.accumulator.making.manifest import Manifest
from ruminate.accumulator.rebuilding.replay import ReplayManifest
from ruminate.command.datasets.erased import interactions_by_request
from ruminate.command.datasets.files import DATA_FILES, FileName

Kind = Literal["added", "left", "changed"]
KINDS: Final[tuple[Kind, ...]] = ("added", "left", "changed")

COUNTED: Final = ("split", "reasoning", "origin", "left_out", "erased")
BESIDE: Final[tuple[FileName, ...]] = ("replay", "preferences", "verifiable", "verifiable-holdout")
"""The files of what stands beside the rows."""


class Line(NamedTuple):
    """What is compared of a row; the SHA-256 as 32 bytes."""

    sha256: bytes
    split: str
    reasoning: bool
    origin: str


@dataclass(slots=True)
class Version:
    """One side of a comparison: a dataset, or all those of a chain or of a replay."""

    name: str
    lines: dict[UUID, Line] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    erased: Counter[str] = field(default_factory=Counter)
    """How many interactions have left its datasets, by the request for which they did."""
    values: dict[str, list[Any]] = field(default_factory=dict)
    """Policy, seed apart, and the versions of what judged and cut: each value that a dataset of this side has."""
    beside: dict[FileName, Counter[bytes]] = field(default_factory=dict)
    """By file of what stands beside the rows: how often each line is there, by its SHA-256."""

    def add(self, manifest: Manifest | ReplayManifest) -> None:
        """Take in a dataset."""
        if isinstance(manifest, Manifest):
            lines = {
                row.recorded_id: Line(bytes.fromhex(row.sha256), row.split, row.reasoning, row.origin) for row in manifest.rows
            }
            scorers, policies = list(manifest.scorer_versions), list(manifest.assessor_policy_versions)
        else:  # nothing is replayed in a replay: every row of it stands there for the first time
            lines = {row.recorded_id: Line(bytes.fromhex(row.sha256), row.split, row.reasoning, "fresh") for row in manifest.rows}
            scorers, policies = [manifest.scorer_version], [manifest.assessor_policy_version]
        self.lines |= lines
        self.left_out.update(manifest.left_out_counts)
        if isinstance(manifest, Manifest):
            self.erased.update(interactions_by_request(manifest))
        for file in BESIDE:
            self.beside.setdefault(file, Counter()).update(_hashes(manifest, file))
        said: dict[str, list[Any]] = {
            "policy_version": [manifest.policy_version],
            "scorer_versions": scorers,
            "assessor_policy_versions": policies,
        }
        said |= {f"policy.{name}": [value] for name, value in manifest.policy.items()}
        for name, values in said.items():
            known = self.values.setdefault(name, [])
            known += (value for value in values if value not in known)

    def counts(self) -> dict[str, dict[str, int]]:
        """How many rows there are by split, reasoning and origin, how many records were left out by reason, and how many
        interactions were erased by request."""
        found: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}
        for line in self.lines.values():
            found["split"][line.split] += 1
            found["reasoning"]["reasoning" if line.reasoning else "direct"] += 1
            found["origin"][line.origin] += 1
        found["left_out"], found["erased"] = self.left_out, self.erased
        return {name: dict(sorted(counts.items())) for name, counts in found.items()}


def _hashes(manifest: Manifest | ReplayManifest, name: FileName) -> Iterator[bytes]:
    """The lines of a file that stands beside the rows."""
    file = DATA_FILES[name]
    told = getattr(manifest, file.told_in)
    return (bytes.fromhex(each.sha256) for each in told if getattr(each, "split", file.split) == file.split)


class Moved(NamedTuple):
    """How many lines of a file are in both, and which are in one alone, by SHA-256."""

    same: int
    added: tuple[bytes, ...]
    left: tuple[bytes, ...]


class Difference(NamedTuple):
    """A row that the two sides do not share, with its SHA-256 on either; `changed` names what is another."""

    kind: Kind
    recorded_id: UUID
    first: Line | None
    second: Line | None
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diff:
    """Two versions, row by row."""

    first: Version
    second: Version
    differences: tuple[Difference, ...]
    same: int
    values: Mapping[str, tuple[list[Any], list[Any]]]
    beside: Mapping[FileName, Moved]

    @property
    def equal(self) -> bool:
        """Whether both hold the same rows, and the same beside them, whatever led to them."""
        return not self.differences and not any(moved.added or moved.left for moved in self.beside.values())

    def of_kind(self, kind: Kind) -> list[Difference]:
        """The rows that were added, have left or have changed."""
        return [difference for difference in self.differences if difference.kind == kind]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "first": self.first.name,
            "second": self.second.name,
            "equal": self.equal,
            "same_rows": self.same,
            **{kind: [_as_json(each) for each in self.of_kind(kind)] for kind in KINDS},
            "beside": {
                name: {
                    "same": moved.same,
                    "added": [each.hex() for each in moved.added],
                    "left": [each.hex() for each in moved.left],
                }
                for name, moved in self.beside.items()
            },
            "counts": {"first": self.first.counts(), "second": self.second.counts()},
            "values": {name: {"first": first, "second": second} for name, (first, second) in self.values.items()},
        }


def compare(first: Version, second: Version) -> Diff:
    """What the second has, lacks and has otherwise. In the order of the lines: those of the first, then what was added."""
    differences = tuple(_differences(first.lines, second.lines))
    same = len(first.lines) - sum(each.kind != "added" for each in differences)
    names = dict.fromkeys(joined(first.values, second.values))
    values = {name: (_sorted(first.values.get(name, [])), _sorted(second.values.get(name, []))) for name in names}
    changed = {name: both for name, both in values.items() if both[0] != both[1]}
    beside = {name: _moved_lines(first.beside.get(name, Counter()), second.beside.get(name, Counter())) for name in BESIDE}
    return Diff(first, second, differences, same, changed, beside)


def _moved_lines(first: Counter[bytes], second: Counter[bytes]) -> Moved:
    return Moved((first & second).total(), tuple((second - first).elements()), tuple((first - second).elements()))


def _sorted(values: Iterable[Any]) -> list[Any]:
    return sorted(values, key=str)


def _differences(first: Mapping[UUID, Line], second: Mapping[UUID, Line]) -> Iterator[Difference]:
    for recorded_id, line in first.items():
        other = second.get(recorded_id)
        if other is None:
            yield Difference("left", recorded_id, line, None)
        elif line != other:
            names = (name for name, one, two in zip(Line._fields, line, other, strict=True) if one != two)
            yield Difference("changed", recorded_id, line, other, tuple(names))
    for recorded_id, line in second.items():
        if recorded_id not in first:
            yield Difference("added", recorded_id, None, line)


def _as_json(difference: Difference) -> dict[str, Any]:
    sides = {"first": difference.first, "second": difference.second}
    said = {name: line._asdict() | {"sha256": line.sha256.hex()} if line is not None else None for name, line in sides.items()}
    return {"recorded_id": str(difference.recorded_id), **said, "changed": list(difference.changed)}


def sentences(diff: Diff, *, shown: int) -> Iterator[str]:
    """The same for people; `shown` rows of each kind are named."""
    sizes = {kind: len(diff.of_kind(kind)) for kind in KINDS}
    yield f"{diff.first.name}  ->  {diff.second.name}"
    yield f"  {diff.same} rows are the same, " + ", ".join(f"{count} {kind}" for kind, count in sizes.items())
    first, second = diff.first.counts(), diff.second.counts()
    for name in COUNTED:
        both = dict.fromkeys(joined(first[name], second[name]))
        says = ", ".join(f"{each} {_moved(first[name].get(each, 0), second[name].get(each, 0))}" for each in both)
        yield f"  by {name.replace('_', ' ')}: {says or 'nothing'}"
    for file, moved in diff.beside.items():
        if moved.same or moved.added or moved.left:
            yield f"  {DATA_FILES[file].path}: {moved.same} lines are the same, {len(moved.added)} added, {len(moved.left)} left"
    for name, (one, two) in diff.values.items():
        yield f"  {name}: {_listed(one)}  ->  {_listed(two)}"
    for kind in KINDS:
        of_kind = diff.of_kind(kind)
        if of_kind:
            yield f"{kind}: {len(of_kind)}"
        for each in of_kind[:shown]:
            yield f"  {each.recorded_id}  {_of_row(each)}"
        if len(of_kind) > shown:
            yield f"  and {len(of_kind) - shown} more; --json has all of them"


def _moved(one: int, two: int) -> str:
    return str(one) if one == two else f"{one} -> {two}"


def _listed(values: list[Any]) -> str:
    return ", ".join(str(value) for value in values) or "not said"


def _of_row(difference: Difference) -> str:
    sides = [line for line in (difference.first, difference.second) if line is not None]
    line = sides[-1]
    hashes = " -> ".join(dict.fromkeys(each.sha256.hex()[:12] for each in sides))
    what = f"  ({', '.join(difference.changed)})" if difference.changed else ""
    return f"{line.split}  {'reasoning' if line.reasoning else 'direct'}  {line.origin}  {hashes}{what}"
