"""Datasets: a folder in the store whose manifest accounts for every record of its interval.

    train.jsonl               the rows to train on, in the order in which they are trained
    replay.jsonl              rows of earlier batches, and anchors, to be trained with them
    holdout.jsonl             the rows that are never trained, for measuring
    preferences.jsonl         answers of which people prefer one (`beside.py`)
    verifiable.jsonl          questions whose answers can be checked, for practice
    verifiable-holdout.jsonl  the same of the rows that are held out, for measuring
    signatures.bin            the MinHash signature of each question, as the manifest lists them: what later batches compare with
    report.json               what was validated before it was sealed, and what was found
    manifest.json             where each line comes from, what was left out and why, and every value that shaped the result

No clock and no random id takes part: the same records, settings and chain give the same bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import operator
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from uuid import UUID

import orjson
from pydantic import Field, StringConstraints, ValidationError

from ruminate.accumulator.curation.asked import Asked, asked_in, texts_in
from ruminate.accumulator.curation.digests import DIGEST_BYTES
from ruminate.accumulator.curation.known import Settled
from ruminate.accumulator.curation.near import SIGNATURE_BYTES
from ruminate.accumulator.curation.predictor import Lesson, Predictor
from ruminate.accumulator.curation.rehearsal import Rehearsable
from ruminate.accumulator.making.beside import Pair, PairKind, Question
from ruminate.accumulator.making.candidate import Candidate
from ruminate.accumulator.making.compose import Aside, Composed
from ruminate.accumulator.making.report import Report
from ruminate.accumulator.records.facts import UNSTATED, CheckKind
from ruminate.accumulator.records.rows import REPEATS, LeftOut
from ruminate.accumulator.sealing.chain import Link, Sealed, digest_of
from ruminate.accumulator.sealing.sample import Counted
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.schemas.payload import ArtifactReference, Count, FiniteJson, Name, Part, Ratio, Sha256, Timestamp
from ruminate.shared.scratch import scratch, sweep_scratch
from ruminate.shared.store import ArtifactDamaged, Store

POLICY_VERSION: Final = "batch-3"
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

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
_UNKNOWN: Final = "0" * 2 * DIGEST_BYTES

Was = Literal["train", "holdout", "replay", "aside"]
"""As what a record is in a dataset."""

T = TypeVar("T")


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

    `strata` says of each `domain/difficulty/mode` what became of the rows that stood ready. `predictor` is what the chain has
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


@dataclass(frozen=True, slots=True)
class Revived:
    """A row that is trained once more, and its line."""

    origin: Rehearsed
    line: bytes


@dataclass(frozen=True, slots=True)
class Made:
    """A dataset before it is written."""

    manifest: Manifest
    candidates: Sequence[Candidate]
    revived: Sequence[Revived]
    pairs: Sequence[Pair]
    questions: Sequence[Question]
    aside: Sequence[Candidate]
    report: Report | None
    """None for what an erasure has left of a dataset: that is what it was, less some."""

    def signatures(self) -> list[bytes]:
        """Those of the rows, in the order of their lines, then those of what stands aside."""
        return [_asked(candidate).signature for candidate in (*self.candidates, *self.aside)]

    def files(self) -> dict[str, Iterable[bytes]]:
        """The contents of every file."""
        return {
            TRAIN: (candidate.line for candidate in self.candidates if not candidate.held_out),
            REPLAY: (each.line for each in self.revived),
            HOLDOUT: (candidate.line for candidate in self.candidates if candidate.held_out),
            PREFERENCES: (pair.line for pair in self.pairs),
            VERIFIABLE: (question.line for question in self.questions if not question.held_out),
            VERIFIABLE_HOLDOUT: (question.line for question in self.questions if question.held_out),
            SIGNATURES: self.signatures(),
            **({} if self.report is None else {REPORT: (as_bytes(self.report),)}),
            MANIFEST: (as_bytes(self.manifest),),
        }

    @property
    def problems(self) -> tuple[str, ...]:
        """Why it must not be written."""
        return () if self.report is None else self.report.problems


def as_bytes(part: Part) -> bytes:
    """As it lies in a file."""
    return orjson.dumps(part.model_dump(mode="json"), option=orjson.OPT_INDENT_2)


@dataclass(frozen=True, slots=True)
class Cut:
    """Which batch of which chain an interval becomes."""

    batch_id: str
    seed: str
    tenant: str
    target: str
    partition: int
    link: Link
    to_offset: int


def describe(
    composed: Composed,
    revived: Sequence[Revived],
    cut: Cut,
    *,
    settings: AccumulatorSettings,
    predictor: Predictor,
    protected: Mapping[str, str],
    anchors: Mapping[str, str],
) -> Manifest:
    """The manifest of these rows. `predictor` is what the chain had counted before; the last two are hashes of files."""
    selection, candidates = composed.selection, composed.candidates
    rows = tuple(_origin_of(candidate, cut.partition, composed) for candidate in candidates)
    train = [row for row in rows if row.split == "train"]
    reasoning = sum(row.reasoning for row in train)
    taught = predictor.taught(
        Lesson(candidate.facts.signs, candidate.facts.needed_thinking) for candidate in candidates if not candidate.facts.generated
    )
    origins = Counter(each.origin.origin for each in revived)
    return Manifest(
        batch_id=cut.batch_id,
        number=cut.link.number + 1,
        previous=cut.link.batch_id,
        tenant=cut.tenant,
        target_model=cut.target,
        partition=cut.partition,
        after_offset=cut.link.to_offset,
        to_offset=cut.to_offset,
        policy_version=POLICY_VERSION,
        policy={
            **settings.shaping(),
            "protected_sets": dict(sorted(protected.items())),
            "anchor_rows": dict(sorted(anchors.items())),
        },
        seed=cut.seed,
        scorer_versions=tuple(sorted({candidate.scorer_version for candidate in candidates})),
        assessor_policy_versions=tuple(sorted({candidate.assessor_policy_version for candidate in candidates})),
        counts={
            "train": len(train),
            "reasoning": reasoning,
            "direct": len(train) - reasoning,
            "generated": sum(row.generated_thinking for row in train),
            "holdout": len(rows) - len(train),
            "replay": origins["replay"],
            "anchors": origins["anchor"],
            **replay_generated(each.origin for each in revived),
            "preferences": len(composed.pairs),
            "verifiable": sum(not question.held_out for question in composed.questions),
            "thinking_missing": sum(row.thinking_called_for and not row.reasoning for row in rows),
        },
        left_out_counts=dict(sorted(Counter(omitted.reason for omitted in selection.left_out).items())),
        strata=_strata(composed),
        predictor={"seen": taught.seen, **taught.signs},
        sample=selection.sample,
        rows=rows,
        rehearsed=tuple(each.origin for each in revived),
        pairs=tuple(
            PairOrigin(kind=pair.kind, chosen=pair.chosen, rejected=pair.rejected, sha256=hashlib.sha256(pair.line).hexdigest())
            for pair in composed.pairs
        ),
        questions=tuple(
            QuestionOrigin(
                split="holdout" if question.held_out else "train",
                offset=question.offset,
                kind=question.kind,
                sha256=hashlib.sha256(question.line).hexdigest(),
            )
            for question in composed.questions
        ),
        aside=tuple(_aside_of(each) for each in composed.aside),
        left_out=tuple(
            Omission(
                offset=item.offset, event=item.event.hex(), recorded_id=UUID(bytes=item.recorded), reason=reason, detail=detail
            )
            for item, reason, detail in selection.left_out
        ),
    )


def replay_generated(rehearsed: Iterable[Rehearsed]) -> dict[str, int]:
    """The count of rehearsed rows whose thinking was written afterwards; of none there is no word, as in earlier releases."""
    count = sum(each.generated_thinking for each in rehearsed)
    return {"replay_generated": count} if count else {}


def as_earlier_releases(made: Made) -> Made:
    """Without a word about the thinking of rehearsed rows."""
    silent = [replace(each, origin=each.origin.model_copy(update={"generated_thinking": False})) for each in made.revived]
    counts = {name: count for name, count in made.manifest.counts.items() if name != "replay_generated"}
    told = {"rehearsed": tuple(each.origin for each in silent), "counts": counts}
    return replace(made, manifest=made.manifest.model_copy(update=told), revived=silent)


def _strata(composed: Composed) -> dict[str, dict[str, int]]:
    """What became of the rows that stood ready, by stratum."""
    fates: dict[str, Counter[str]] = {}
    selection = composed.selection
    became = [
        *((item, "train") for item in selection.train),
        *((item, "holdout") for item in selection.holdout),
        *((omitted.item, omitted.reason) for omitted in selection.left_out if omitted.item.offset in composed.needs),
    ]
    for item, fate in became:
        domain, difficulty = composed.looked_at[item.offset].facts.stratum
        mode = "thinking" if item.reasoning else "direct"
        fates.setdefault(f"{domain}/{difficulty}/{mode}", Counter())[fate] += 1
    return {name: dict(sorted(counts.items())) for name, counts in sorted(fates.items())}


def _origin_of(candidate: Candidate, partition: int, composed: Composed) -> RowOrigin:
    item, asked, facts = candidate.item, _asked(candidate), candidate.facts
    need = composed.needs[item.offset]
    return RowOrigin(
        split="holdout" if candidate.held_out else "train",
        partition=partition,
        offset=item.offset,
        event_id=candidate.event_id,
        recorded_id=UUID(bytes=item.recorded),
        revision=item.revision,
        conversation=item.conversation.hex(),
        sha256=hashlib.sha256(candidate.line).hexdigest(),
        reasoning=item.reasoning,
        generated_thinking=facts.generated,
        score=candidate.score,
        domain=facts.stratum.domain,
        difficulty=facts.stratum.difficulty,
        cluster=composed.selection.clusters[item.offset].hex(),
        question=asked.question.hex(),
        content=asked.content.hex(),
        thing=None if asked.thing is None else asked.thing.hex(),
        indicators=candidate.indicators,
        thinking_chance=need.chance,
        thinking_called_for=need.called_for,
        names=candidate.names,
        occurred_at=candidate.occurred_at,
    )


def _aside_of(aside: Aside) -> AsideOrigin:
    candidate, asked = aside.candidate, _asked(aside.candidate)
    return AsideOrigin(
        offset=candidate.item.offset,
        event_id=candidate.event_id,
        recorded_id=UUID(bytes=candidate.item.recorded),
        conversation=candidate.item.conversation.hex(),
        reasoning=asked.lane == "thinking",
        cluster=aside.cluster.hex(),
        question=asked.question.hex(),
        content=asked.content.hex(),
        names=candidate.names,
        occurred_at=candidate.occurred_at,
    )


def _asked(candidate: Candidate) -> Asked:
    if candidate.asked is None:
        raise ValueError(f"the record at offset {candidate.item.offset} has no row")
    return candidate.asked


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a dataset holds that decides on later ones: its manifest, the signatures of its questions, what is held out."""

    manifest: Manifest
    signatures: bytes
    held_out: tuple[bytes, ...]

    @classmethod
    def of(cls, made: Made) -> Holdings:
        """Those of a dataset that was just made."""
        held_out = tuple(candidate.line for candidate in made.candidates if candidate.held_out)
        return cls(made.manifest, b"".join(made.signatures()), held_out)


def account(holdings: Holdings, sealed: Sealed) -> None:
    """Add to `sealed` what this batch holds, so that no later batch holds it again. Raises ValueError where it is not whole."""
    manifest, known = holdings.manifest, sealed.known
    for row in manifest.rows:
        sealed.events.add(digest_of(row.event_id))
        sealed.interactions.add(row.recorded_id.bytes)
    for omission in manifest.left_out:
        sealed.events.add(bytes.fromhex(omission.event))
        if omission.reason == "continued":
            sealed.interactions.add(omission.recorded_id.bytes)
    sealed.sample = manifest.sample
    known.settle(settled_by(holdings))
    known.settle_beside(_settled_beside(holdings))
    for pair in manifest.pairs:
        known.pairs.add(bytes.fromhex(pair.sha256)[:DIGEST_BYTES])
    for question in manifest.questions:
        known.questions.add(bytes.fromhex(question.sha256)[:DIGEST_BYTES])
    for row in manifest.rows:
        if row.split == "train":
            name, cluster = row.recorded_id.bytes, bytes.fromhex(row.cluster)
            known.buffer.add(Rehearsable(manifest.number, name, cluster, row.score, row.reasoning, row.domain, row.difficulty))
    if manifest.predictor:
        signs = dict(manifest.predictor)
        known.predictor = Predictor(signs.pop("seen"), signs)


def settled_by(holdings: Holdings) -> list[tuple[Settled, str | None]]:
    """The rows of a dataset in the order of the log, those that are held out with their questions. Raises ValueError."""
    rows, signatures = holdings.manifest.rows, holdings.signatures
    lines = iter(holdings.held_out)
    questions = len(rows) + len(holdings.manifest.aside)
    if len(signatures) != SIGNATURE_BYTES * questions or len(holdings.held_out) != sum(row.split == "holdout" for row in rows):
        raise ValueError(f"{holdings.manifest.batch_id}: {SIGNATURES} or {HOLDOUT} has not as many rows as the manifest")
    settled = []
    for number, row in enumerate(rows):
        question = texts_in(next(lines))[0] if row.split == "holdout" else None
        thing = None if row.thing is None else bytes.fromhex(row.thing)
        held_out = row.split == "holdout"
        settled.append((row.offset, (_settled(row, holdings, number, thing=thing, held_out=held_out), question)))
    return [each for _, each in sorted(settled, key=lambda entry: entry[0])]


def _settled_beside(holdings: Holdings) -> list[Settled]:
    rows = len(holdings.manifest.rows)
    return [
        _settled(aside, holdings, rows + number, thing=None, held_out=False) for number, aside in enumerate(holdings.manifest.aside)
    ]


def _settled(row: RowOrigin | AsideOrigin, holdings: Holdings, place: int, *, thing: bytes | None, held_out: bool) -> Settled:
    asked = Asked(
        question=bytes.fromhex(row.question),
        signature=holdings.signatures[place * SIGNATURE_BYTES : (place + 1) * SIGNATURE_BYTES],
        content=bytes.fromhex(row.content),
        thing=thing,
        lane="thinking" if row.reasoning else "direct",
    )
    return Settled(row.recorded_id.bytes, bytes.fromhex(row.conversation), asked, held_out)


async def keep_dataset(store: Store, made: Made) -> ArtifactReference:
    """Write the dataset into the store, its tree's manifest last."""

    async def keep(folder: Path) -> ArtifactReference:
        await asyncio.to_thread(write_files, folder, made.files())
        return await store.put_tree(folder, kind=KIND, name=name_of(made.manifest))

    return await in_a_folder(keep)


def name_of(manifest: Manifest) -> str:
    """The dataset's name in the store."""
    return f"{manifest.tenant}/{manifest.target_model}/{manifest.number}"


def write_files(folder: Path, files: Mapping[str, Iterable[bytes]]) -> None:
    """Write them into a folder."""
    for name, contents in files.items():
        with (folder / name).open("wb") as file:
            file.writelines(contents)


async def load_manifest(store: Store, dataset: ArtifactReference) -> Manifest:
    """The manifest of a dataset in the store. Raises ArtifactMissing, ArtifactDamaged."""
    data = await store.read_file(dataset, MANIFEST)
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ArtifactDamaged(f"{dataset.uri} holds no {MANIFEST} that can be read ({type(error).__name__})") from None


async def load_holdings(store: Store, dataset: ArtifactReference) -> Holdings:
    """What a dataset in the store holds. Raises ArtifactMissing, ArtifactDamaged."""
    manifest, held_out = await load_manifest(store, dataset), await store.read_file(dataset, HOLDOUT)
    lines = held_out.splitlines(keepends=True)
    try:
        if manifest.policy_version in _WITHOUT_SIGNATURES:
            trained = (await store.read_file(dataset, TRAIN)).splitlines(keepends=True)
            holdings = await asyncio.to_thread(_of_the_first_release, manifest, [*trained, *lines])
        else:
            holdings = Holdings(manifest, await store.read_file(dataset, SIGNATURES), tuple(lines))
        settled_by(holdings)
    except ValueError as error:
        raise ArtifactDamaged(f"{dataset.uri}: {error}") from None
    return holdings


_WITHOUT_SIGNATURES: Final = frozenset({"batch-1"})


def _of_the_first_release(manifest: Manifest, lines: Sequence[bytes]) -> Holdings:
    """The holdings of a dataset that knew nothing of clusters: of each row one of its own, joined to others by what comes later."""
    asked = [asked_in(line) for line in lines]
    rows = tuple(
        row.model_copy(
            update={
                "cluster": row.recorded_id.hex,
                "question": each.question.hex(),
                "content": each.content.hex(),
                "thing": None if each.thing is None else each.thing.hex(),
            }
        )
        for row, each in zip(manifest.rows, asked, strict=True)
    )
    held_out = tuple(line for row, line in zip(rows, lines, strict=True) if row.split == "holdout")
    return Holdings(manifest.model_copy(update={"rows": rows}), b"".join(each.signature for each in asked), held_out)


async def in_a_folder(work: Callable[[Path], Coroutine[Any, Any, T]]) -> T:
    """Let `work` have a folder of its own, and remove it when nothing is written there any more.

    A thread cannot be cancelled: a folder removed under one comes back with the texts in it, or the removal fails and its
    error takes the place of the cancellation. So a cancellation waits for `work`, and only a second one is passed on to it.
    """
    await asyncio.to_thread(sweep_scratch)
    with scratch("dataset") as folder:
        working = asyncio.create_task(work(folder))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            await asyncio.gather(working, return_exceptions=True)
            raise
