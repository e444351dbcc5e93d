"""The files of a dataset that hold lines, and what a manifest says of each line. Pure.

An export has a file of the same name for each, and for `datasets.load_dataset` each is a split of a config.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from ruminate.accumulator.making.beside import PairKind
from ruminate.accumulator.making.manifest import (
    HOLDOUT,
    PREFERENCES,
    REPLAY,
    TRAIN,
    VERIFIABLE,
    VERIFIABLE_HOLDOUT,
    Manifest,
    PairOrigin,
    QuestionOrigin,
    Rehearsed,
    RowOrigin,
)
from ruminate.accumulator.records.facts import CheckKind

FileName = Literal["train", "replay", "holdout", "preferences", "verifiable", "verifiable-holdout"]
Config = Literal["default", "preferences", "verifiable"]
Split = Literal["train", "replay", "holdout"]
Origin = RowOrigin | Rehearsed | PairOrigin | QuestionOrigin
"""What a manifest says of one line."""


class DataFile(NamedTuple):
    """One file: its name in a dataset, the config and the split that it is in an export, and where a manifest speaks of it."""

    name: FileName
    path: str
    config: Config
    split: Split
    told_in: Literal["rows", "rehearsed", "pairs", "questions"]

    def tells(self, origin: Origin) -> bool:
        """Whether what is said there is said of a line of this file, and not of another that is told of in the same place."""
        return getattr(origin, "split", self.split) == self.split


DATA_FILES: Final = {
    file.name: file
    for file in (
        DataFile("train", TRAIN, "default", "train", "rows"),
        DataFile("replay", REPLAY, "default", "replay", "rehearsed"),
        DataFile("holdout", HOLDOUT, "default", "holdout", "rows"),
        DataFile("preferences", PREFERENCES, "preferences", "train", "pairs"),
        DataFile("verifiable", VERIFIABLE, "verifiable", "train", "questions"),
        DataFile("verifiable-holdout", VERIFIABLE_HOLDOUT, "verifiable", "holdout", "questions"),
    )
}
"""In the order in which they are told of."""
CONFIGS: Final[tuple[Config, ...]] = ("default", "preferences", "verifiable")

ROWS_ALONE: Final = frozenset({"batch-1", "batch-2"})
"""Policy versions of releases whose datasets held train.jsonl and holdout.jsonl alone, and no report."""

PAIRS: Final[dict[PairKind, str]] = {
    "correction": "a correction, and what it corrects",
    "thumbs": "an answer with thumbs up, and one with thumbs down",
}
CHECKS: Final[dict[CheckKind, str]] = {
    "reference": "a reference answer",
    "exact": "an exact answer",
    "json_schema": "a JSON schema",
    "python_tests": "tests in Python",
}


def files_of(manifest: Manifest) -> tuple[DataFile, ...]:
    """The files that a dataset has by the release that wrote it, empty ones among them."""
    names: tuple[FileName, ...] = ("train", "holdout") if manifest.policy_version in ROWS_ALONE else tuple(DATA_FILES)
    return tuple(DATA_FILES[name] for name in names)


def has_report(manifest: Manifest) -> bool:
    """Whether it lies beside a report: the first releases made none, and what an erasure has left is not validated anew."""
    return manifest.policy_version not in ROWS_ALONE and not manifest.revision


def origins(manifest: Manifest, file: DataFile) -> Iterator[Origin]:
    """What the manifest says of each line of a file, in their order."""
    told: tuple[Origin, ...] = getattr(manifest, file.told_in)
    return (origin for origin in told if file.tells(origin))
