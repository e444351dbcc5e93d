"""Soundness: is a dataset what its manifest says, and does it keep to what its chain has settled? Pure.

    take (every dataset of a chain, in the order of the chain)  ->  what is wrong with it

*Bytes.* Each line of each file has the hash that the manifest names, and is what the manifest counts it for.
*Rehearsal.* A line of replay.jsonl is a line of an earlier batch's train.jsonl, and that one's origin is its origin.
*Hold-out.* What the chain holds out, by interaction, by conversation or by question, it teaches nowhere, before or after.
*Ratio, report.* Enough rows reason, with those of replay.jsonl, too; every check before the batch was sealed has passed.

Of a dataset that is not to be had nothing is said, and nothing of what later ones have from it. Releases that did not name the
question of a row are judged by interaction and conversation. Whether a line asks what its manifest says can be told of datasets of
this release's rules alone: others may have normalised questions otherwise.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal, NamedTuple

from pydantic import ValidationError

from ruminate.accumulator.curation.asked import digests_in
from ruminate.accumulator.curation.digests import DIGEST_BYTES, Sides
from ruminate.accumulator.curation.wording import digest_of_normalised, normalised
from ruminate.accumulator.making.beside import asked_in_prompt
from ruminate.accumulator.making.manifest import (
    MANIFEST,
    POLICY_VERSION,
    REPLAY,
    REPORT,
    AsideOrigin,
    Manifest,
    PairOrigin,
    Rehearsed,
    RowOrigin,
)
from ruminate.accumulator.making.report import Report
from ruminate.accumulator.sealing.chain import digest_of
from ruminate.command.datasets.erased import Remembered
from ruminate.command.datasets.files import DATA_FILES, ROWS_ALONE, DataFile, FileName, origins
from ruminate.schemas.batch import TrainingBatchSealed

ProblemKind = Literal["dataset_differs", "replay_differs", "leaked", "below_ratio", "not_validated"]

_SHOWN: Final = 5
_NOT_SAID: Final = bytes(DIGEST_BYTES)
# Within a text the closing quotation mark of this name would be escaped, so that it is found where it is meant alone.
_THINKS: Final = re.compile(rb'"enable_thinking"\s*:\s*true')


class Problem(NamedTuple):
    """One thing that is wrong, and where. It never quotes a text."""

    kind: ProblemKind
    says: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset as it lies in the store: its manifest, its lines by file, and its report as it was written."""

    manifest: Manifest
    contents: Mapping[FileName, bytes]
    report: bytes | None = None

    def lines(self, name: FileName) -> list[bytes]:
        """The lines of a file."""
        return self.contents.get(name, b"").splitlines(keepends=True)


class _Told(NamedTuple):
    """A record that a manifest names, by what ties it to others."""

    recorded: bytes
    conversation: bytes
    question: bytes


@dataclass(slots=True)
class _Trained:
    """The lines of a train.jsonl: 64 bits of each hash, in their order, and 64 bits of what the manifest says of it.

    By its bytes a line is found wherever it stands: where it stood when it was drawn, an erasure may have changed since.
    """

    batch_id: str
    hashes: array[int]
    origins: array[int]
    generated: frozenset[int]
    """Of the hashes, those of lines whose thinking was written afterwards."""
    erased: Remembered

    @classmethod
    def of(cls, manifest: Manifest, trained: Sequence[RowOrigin]) -> _Trained:
        """Those of these rows."""
        ordered = sorted((_short(row.sha256), _origin_of(row)) for row in trained)
        hashes, origins = array("Q", (hashed for hashed, _ in ordered)), array("Q", (origin for _, origin in ordered))
        generated = frozenset(_short(row.sha256) for row in trained if row.generated_thinking)
        return cls(manifest.batch_id, hashes, origins, generated, Remembered(manifest))

    def holds(self, each: Rehearsed) -> bool:
        """Whether such a line was trained here."""
        hashed = _short(each.sha256)
        return bisect_left(self.hashes, hashed) < bisect_right(self.hashes, hashed)

    def denies(self, each: Rehearsed) -> str | None:
        """Why it is not the line that was trained here; None where it is."""
        if self.batch_id != each.named:
            return f"that is batch {each.number}, and batch {each.number} is {self.batch_id}"
        hashed = _short(each.sha256)
        first, end = bisect_left(self.hashes, hashed), bisect_right(self.hashes, hashed)
        if first == end:
            # An erasure goes from batch to batch: it was trained there, and is to leave this one, too.
            erased = each.recorded_id is not None and self.erased.of(each.recorded_id)
            return None if erased else "no such line was trained there"
        if _origin_of(each) not in self.origins[first:end]:
            return "it has another origin there"
        # What an earlier release has rehearsed is not said to be written, whatever it was.
        return "its thinking was not written afterwards there" if each.generated_thinking and hashed not in self.generated else None


class ChainSoundness:
    """One chain. Take its datasets in their order; one that cannot be had is left out."""

    def __init__(self) -> None:
        self._trained: dict[int, _Trained] = {}
        self._sides = {name: Sides() for name in _Told._fields}

    def take(self, dataset: Dataset) -> list[Problem]:
        """Everything that is wrong with the next dataset."""
        manifest = dataset.manifest
        lines = {name: dataset.lines(name) for name in DATA_FILES}
        trained = [row for row in manifest.rows if row.split == "train"]
        problems = [
            *_bytes(manifest, lines),
            *_counts(manifest),
            *_unnamed(manifest, trained),
            *self._rehearsal(manifest),
            *self._hold_out(manifest, lines),
            # What an erasure has left of it was not chosen, and is not validated anew.
            *(() if manifest.revision else (*_ratio(manifest, trained), *_report(dataset))),
        ]
        self._trained[manifest.number] = _Trained.of(manifest, trained)
        return problems

    def _rehearsal(self, manifest: Manifest) -> Iterator[Problem]:
        seen: set[tuple[str, int]] = set()
        for number, each in enumerate(manifest.rehearsed, start=1):
            why = self._not_as_it_was(each, manifest)
            if (each.named, each.line) in seen:
                why = "it is there already"
            seen.add((each.named, each.line))
            if why is not None:
                yield Problem("replay_differs", f"line {number} of {REPLAY}, line {each.line + 1} of {each.named}: {why}")

    def _not_as_it_was(self, each: Rehearsed, manifest: Manifest) -> str | None:
        if each.origin == "anchor":
            anchors = manifest.policy.get("anchor_rows")
            return None if isinstance(anchors, dict) and each.named in anchors else "no anchor rows of this name are in the policy"
        if each.number is None or not 0 < each.number < manifest.number:
            return f"batch {each.number} is not before batch {manifest.number}"
        batch = self._trained.get(each.number)
        return None if batch is None else batch.denies(each)

    def _proven(self, each: Rehearsed) -> bool:
        """Whether it is a line that was taken in when it was fresh, whatever else is said of it."""
        batch = self._trained.get(each.number or 0)
        return batch is not None and batch.holds(each)

    def _hold_out(self, manifest: Manifest, lines: Mapping[FileName, list[bytes]]) -> Iterator[Problem]:
        for row in manifest.rows:
            if row.split == "holdout" and (ties := self._settle(_told(row), held_out=True)):
                yield Problem("leaked", f"row of {row.recorded_id}: it is held out, and is taught in this chain, by its {ties}")
        for row in manifest.rows:
            if row.split == "train" and (ties := self._settle(_told(row), held_out=False)):
                yield Problem("leaked", f"row of {row.recorded_id}: it is trained, and is held out in this chain, by its {ties}")
        for aside in manifest.aside:
            if ties := self._settle(_told(aside), held_out=False):
                yield Problem(
                    "leaked", f"{aside.recorded_id} teaches beside the rows, and is held out in this chain, by its {ties}"
                )
        for number, (each, line) in enumerate(zip(manifest.rehearsed, lines["replay"], strict=False), start=1):
            if each.origin == "replay" and self._proven(each):
                continue  # its row was looked at when it was fresh
            ties = self._settle(_rehearsed(each, line), held_out=False)
            if ties:
                yield Problem("leaked", f"line {number} of {REPLAY}: it is held out in this chain, by its {ties}")
        if manifest.policy_version == POLICY_VERSION:
            yield from self._asked_beside(manifest, lines)

    def _asked_beside(self, manifest: Manifest, lines: Mapping[FileName, list[bytes]]) -> Iterator[Problem]:
        """Pairs and questions ask what the records ask that they name."""
        asked = {row.offset: row.question for row in manifest.rows} | {aside.offset: aside.question for aside in manifest.aside}
        for name in ("preferences", "verifiable", "verifiable-holdout"):
            file = DATA_FILES[name]
            for number, (origin, line) in enumerate(zip(origins(manifest, file), lines[name], strict=False), start=1):
                question = _question_of(line)
                if question is None:
                    yield Problem("dataset_differs", f"line {number} of {file.path} asks nothing")
                    continue
                offset = origin.rejected if isinstance(origin, PairOrigin) else getattr(origin, "offset", -1)
                named = asked.get(offset)
                if named == question.hex():
                    continue  # looked at where it is a row, or stands aside
                if named not in (None, _NOT_SAID.hex()):
                    yield Problem("dataset_differs", f"line {number} of {file.path} is not what offset {offset} asks")
                if file.split == "train" and self._sides["question"].get(question):
                    yield Problem("leaked", f"line {number} of {file.path}: its question is held out in this chain")

    def _settle(self, told: _Told, *, held_out: bool) -> str:
        """Put a record on its side, and say by what it is tied to the other."""
        ties = []
        for name, sides in self._sides.items():
            digest: bytes = getattr(told, name)
            if digest == _NOT_SAID:
                continue
            if sides.get(digest) is (not held_out):
                ties.append(name if name != "recorded" else "interaction")
            sides.settle(digest, held_out=held_out)
        return " and ".join(ties)


def announced_counts(batch: TrainingBatchSealed, manifest: Manifest) -> Iterator[tuple[str, int, int]]:
    """What a sealed record counts, by its name there: as the record has it, and as the manifest has."""
    counts = manifest.counts
    yield "rows", batch.rows, counts.get("train", -1)
    yield "reasoning_rows", batch.reasoning_rows, counts.get("reasoning", -1)
    yield "direct_rows", batch.direct_rows, counts.get("direct", -1)
    yield "holdout_rows", batch.holdout_rows, counts.get("holdout", -1)
    yield "replay_rows", batch.replay_rows, counts.get("replay", 0) + counts.get("anchors", 0)
    yield "generated_rows", batch.generated_rows, counts.get("generated", 0)
    yield "replay_generated_rows", batch.replay_generated_rows, counts.get("replay_generated", 0)
    yield "preference_pairs", batch.preference_pairs, counts.get("preferences", 0)
    yield "verifiable_questions", batch.verifiable_questions, counts.get("verifiable", 0)


def _bytes(manifest: Manifest, lines: Mapping[FileName, list[bytes]]) -> Iterator[Problem]:
    for file in DATA_FILES.values():
        found, named = lines[file.name], list(origins(manifest, file))
        if len(found) != len(named):
            yield Problem("dataset_differs", f"{file.path} has {len(found)} lines, {MANIFEST} names {len(named)}")
        other, otherwise, asks = [], [], []
        for number, (line, origin) in enumerate(zip(found, named, strict=False), start=1):
            if hashlib.sha256(line).hexdigest() != origin.sha256:
                other.append(number)
            elif isinstance(origin, RowOrigin | Rehearsed) and (_THINKS.search(line) is not None) != origin.reasoning:
                otherwise.append(number)
            elif isinstance(origin, RowOrigin) and _asks_otherwise(manifest, line, origin):
                asks.append(number)
        if other:
            yield Problem("dataset_differs", f"{_listed(other)} of {file.path}: not what {MANIFEST} names by its SHA-256")
        if otherwise:
            yield Problem("dataset_differs", f"{_listed(otherwise)} of {file.path}: {MANIFEST} is wrong about its thinking")
        if asks:
            yield Problem("dataset_differs", f"{_listed(asks)} of {file.path}: {MANIFEST} is wrong about its question")


def _asks_otherwise(manifest: Manifest, line: bytes, row: RowOrigin) -> bool:
    question = _question_of(line) if manifest.policy_version == POLICY_VERSION else None
    return question is not None and question.hex() != row.question


def _counts(manifest: Manifest) -> Iterator[Problem]:
    """Those that a release has not written are not missed."""
    train = [row for row in manifest.rows if row.split == "train"]
    rehearsed = Counter(each.origin for each in manifest.rehearsed)
    found = {
        "train": len(train),
        "reasoning": sum(row.reasoning for row in train),
        "direct": sum(not row.reasoning for row in train),
        "generated": sum(row.generated_thinking for row in train),
        "holdout": len(manifest.rows) - len(train),
        "replay": rehearsed["replay"],
        "replay_generated": sum(each.generated_thinking for each in manifest.rehearsed),
        "anchors": rehearsed["anchor"],
        "preferences": len(manifest.pairs),
        "verifiable": sum(asked.split == "train" for asked in manifest.questions),
    }
    for name, count in found.items():
        if manifest.counts.get(name, count) != count:
            yield Problem("dataset_differs", f"{MANIFEST} counts {manifest.counts[name]} for {name}, and names {count}")


def _unnamed(manifest: Manifest, trained: list[RowOrigin]) -> Iterator[Problem]:
    """Pairs and questions come from records that teach, and questions to measure on from rows that are held out."""
    teaches = {row.offset for row in trained} | {aside.offset for aside in manifest.aside}
    held_out = {row.offset for row in manifest.rows if row.split == "holdout"}
    numbers: Counter[str] = Counter()
    for told_of, offsets, allowed in (
        *((DATA_FILES["preferences"], (pair.chosen, pair.rejected), teaches) for pair in manifest.pairs),
        *(
            (_file_of(asked.split), (asked.offset,), held_out if asked.split == "holdout" else teaches)
            for asked in manifest.questions
        ),
    ):
        numbers[told_of.name] += 1
        for offset in offsets:
            if offset is None or offset in allowed:
                continue
            where = f"line {numbers[told_of.name]} of {told_of.path}"
            if offset in held_out:
                yield Problem("leaked", f"{where}: it comes from offset {offset}, which is held out")
            else:
                yield Problem("dataset_differs", f"{where}: it comes from offset {offset}, and {MANIFEST} lets nothing there teach")


def _file_of(split: Literal["train", "holdout"]) -> DataFile:
    return DATA_FILES["verifiable-holdout" if split == "holdout" else "verifiable"]


def _ratio(manifest: Manifest, trained: list[RowOrigin]) -> Iterator[Problem]:
    wanted = manifest.policy.get("min_reasoning_ratio")
    if not isinstance(wanted, int | float):
        return
    share = Fraction(wanted).limit_denominator(10_000)
    fresh, rehearsed = sum(row.reasoning for row in trained), sum(each.reasoning for each in manifest.rehearsed)
    for what, reasoning, rows in (
        ("rows", fresh, len(trained)),
        ("rows with those of replay.jsonl", fresh + rehearsed, len(trained) + len(manifest.rehearsed)),
    ):
        if reasoning < share * rows:
            yield Problem("below_ratio", f"{reasoning} of {rows} {what} reason; by its policy at least {float(share):.0%} must")
            return


def _report(dataset: Dataset) -> Iterator[Problem]:
    if dataset.report is None:
        if dataset.manifest.policy_version not in ROWS_ALONE:
            yield Problem("not_validated", f"it has no {REPORT}, so nobody knows that it was validated")
        return
    try:
        report = Report.model_validate_json(dataset.report)
    except ValidationError as error:
        yield Problem("not_validated", f"{REPORT} cannot be read ({type(error).__name__})")
        return
    if not report.checks:
        yield Problem("not_validated", f"{REPORT} names no check")
    for check in report.checks:
        if not check.passed or check.problems:
            first = f": {check.problems[0]}" if check.problems else ""
            yield Problem("not_validated", f"{REPORT}: the check {check.name} did not pass{first}")


def _told(row: RowOrigin | AsideOrigin) -> _Told:
    return _Told(row.recorded_id.bytes, digest_of(row.conversation), bytes.fromhex(row.question))


def _rehearsed(each: Rehearsed, line: bytes) -> _Told:
    try:
        question = digests_in(line)[0]
    except (ValueError, KeyError, TypeError):
        question = _NOT_SAID
    return _Told(
        _NOT_SAID if each.recorded_id is None else each.recorded_id.bytes,
        _NOT_SAID if each.conversation is None else digest_of(each.conversation),
        question,
    )


def _question_of(line: bytes) -> bytes | None:
    try:
        return digest_of_normalised(normalised(asked_in_prompt(line)))
    except (ValueError, KeyError, TypeError):
        return None


def _origin_of(row: RowOrigin | Rehearsed) -> int:
    said = (
        *(row.event_id, row.recorded_id, row.conversation, row.partition, row.offset),
        *(row.reasoning, row.score, row.domain, row.difficulty),
    )
    return int.from_bytes(hashlib.blake2b(repr(said).encode(), digest_size=8).digest())


def _short(sha256: str) -> int:
    return int(sha256[:16], 16)


def _listed(numbers: list[int]) -> str:
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"line{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers[:_SHOWN]))}{more}"
