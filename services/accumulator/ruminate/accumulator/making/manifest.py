"""Manifests: where each line of a dataset comes from, what was left out and why, and every value that shaped the result.

No clock and no random id takes part: the same records, settings and chain give the same bytes.
"""

from __future__ import annotations

import operator
from typing import Annotated, Final, Literal
from uuid import UUID

import orjson
from pydantic import Field, StringConstraints

from ruminate.accumulator.curation.digests import DIGEST_BYTES
from ruminate.accumulator.making.beside import PairKind
from ruminate.accumulator.records.facts import UNSTATED, CheckKind
from ruminate.accumulator.records.rows import REPEATS, LeftOut
from ruminate.accumulator.sealing.sample import Counted
from ruminate.schemas.payload import Count, FiniteJson, Name, Part, Ratio, Sha256, Timestamp

POLICY_VERSION: Final = "batch-4"
"""Changes whenever the same records and settings would give other bytes than before."""

KIND: Final = "datasets"
MANIFEST: Final = "manifest.json"
TRAIN: Final = "train.jsonl"
REPLAY: Final = "replay.jsonl"
HOLDOUT: Final = "holdout.jsonl"
PREFERENCES: Final = "preferences.jsonl"
VERIFIABLE: Final = "verifiable.jsonl"
VERIFIABLE_HOLDOUT: Final = "verifiable-holdout.jsonl"
SIGNATURES: Final = "signatures.bin"
REPORT: Final = "report.json"

OTHER: Final = "other"
"""The domains of which a dataset has no row, taken together: a domain is a word of somebody's own, who may have it erased."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
_UNKNOWN: Final = "0" * 2 * DIGEST_BYTES

Was = Literal["train", "holdout", "replay", "aside"]
"""As what a record is in a dataset."""


class RowOrigin(Part):
    """Where one line comes from. The rows stand in the order of the lines: all of train.jsonl, then all of holdout.jsonl.

    An interaction is *fresh* in one batch of a chain at most. Fields with a default were not written by the first releases.
    """

    split: Literal["train", "holdout"]
    origin: Literal["fresh"] = "fresh"
    partition: Count
    offset: Count
    event_id: Name
    recorded_id: UUID
    revision: Count
    conversation: Name
    sha256: Sha256
    reasoning: bool
    generated_thinking: bool = False
    score: Ratio = 0.0
    domain: Name = UNSTATED
    difficulty: Name = UNSTATED
    cluster: Digest = _UNKNOWN
    question: Digest = _UNKNOWN
    content: Digest = _UNKNOWN
    thing: Digest | None = None
    indicators: tuple[Name, ...]
    thinking_chance: Ratio | None = None
    thinking_called_for: bool
    names: tuple[Name, ...] = ()
    occurred_at: Timestamp | None = None


class Rehearsed(Part):
    """Where one line of replay.jsonl comes from: a line of an earlier batch's train.jsonl, or of a file of anchors.

    `named` is the batch in which the row was fresh, or the anchors' name among the settings; `line`, from 0, is where it stood
    there when it was drawn: an erasure may have taken earlier lines away since, so a row is found again by its interaction.
    `generated_thinking` is written down where it is true alone: earlier releases did not know the word.
    """

    origin: Literal["replay", "anchor"]
    named: Name
    number: Count | None
    line: Count
    sha256: Sha256
    reasoning: bool
    generated_thinking: bool = Field(default=False, exclude_if=operator.not_)
    event_id: Name | None
    recorded_id: UUID | None
    conversation: Name | None
    partition: Count | None
    offset: Count | None
    score: Ratio | None
    domain: Name | None
    difficulty: Name | None
    names: tuple[Name, ...] = ()
    occurred_at: Timestamp | None


class AsideOrigin(Part):
    """A record that has no row in this batch, and gives a pair or a question all the same."""

    offset: Count
    event_id: Name
    recorded_id: UUID
    conversation: Name
    reasoning: bool
    cluster: Digest
    question: Digest
    content: Digest
    names: tuple[Name, ...] = ()
    occurred_at: Timestamp


class PairOrigin(Part):
    """Where one line of preferences.jsonl comes from, by offsets of rows or of what stands aside; a correction chose itself."""

    kind: PairKind
    chosen: Count | None
    rejected: Count
    sha256: Sha256


class QuestionOrigin(Part):
    """Where a line of verifiable.jsonl or, of what is held out, of verifiable-holdout.jsonl comes from."""

    split: Literal["train", "holdout"]
    offset: Count
    kind: CheckKind
    sha256: Sha256


class Omission(Part):
    """A record of the interval that has no row. `detail` says what a contaminated row gives away: `<set>/<how>`."""

    offset: Count
    event: Name
    recorded_id: UUID
    reason: LeftOut
    detail: Name | None = None


class Erased(Part):
    """A line that an erasure has taken out of a dataset, and nothing that says whose it was: a salted hash, and where it stood."""

    was: Was
    offset: Count | None
    salted_sha256: Sha256
    erasure_id: Name


class Manifest(Part):
    """What a dataset is made of. Digests are 16 bytes of BLAKE2b, which give nothing away; a cluster is named by a recorded id.

    `strata` says of each `domain/difficulty/mode` what became of the rows that stood ready; domains without a row are OTHER.
    `predictor` is what the chain has
    counted by now of which questions call for thinking. `names` are digests of all by which an erasure may name an interaction.

    A *revision* is what an erasure has left of a dataset: its rows and lines as they were, without those that it names in `erased`.
    """

    batch_id: Name
    number: Count
    previous: Name | None
    tenant: Name
    target_model: Name
    partition: Count
    after_offset: int
    to_offset: Count
    policy_version: Name
    policy: dict[str, FiniteJson]
    seed: Name
    scorer_versions: tuple[Name, ...]
    assessor_policy_versions: tuple[Name, ...]
    counts: dict[str, Count]
    left_out_counts: dict[str, Count]
    strata: dict[str, dict[str, Count]] = Field(default_factory=dict)
    predictor: dict[str, tuple[Count, Count]] = Field(default_factory=dict)
    sample: Counted | None = None
    rows: tuple[RowOrigin, ...]
    rehearsed: tuple[Rehearsed, ...] = ()
    pairs: tuple[PairOrigin, ...] = ()
    questions: tuple[QuestionOrigin, ...] = ()
    aside: tuple[AsideOrigin, ...] = ()
    left_out: tuple[Omission, ...]
    revision: Count = 0
    erased: tuple[Erased, ...] = ()

    @property
    def rejected_interactions(self) -> int:
        """Interactions of the interval without a row; a record that repeats another speaks of none of its own."""
        return sum(count for reason, count in self.left_out_counts.items() if reason not in REPEATS)


def as_bytes(part: Part) -> bytes:
    """As it lies in a file."""
    return orjson.dumps(part.model_dump(mode="json"), option=orjson.OPT_INDENT_2)


def name_of(manifest: Manifest) -> str:
    """The dataset's name in the store."""
    return f"{manifest.tenant}/{manifest.target_model}/{manifest.number}"
