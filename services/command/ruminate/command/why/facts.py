"""What the log and the store say of one interaction, and of the versions of one target. Pure: facts that were gathered.

The rules by which a record counts are those of every reader: the first record of an id, the first record that extends a
chain, the first result of the last attempt at a batch, the first registration of a version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

from ruminate.accumulator.making.manifest import Erased, Manifest, PairOrigin, Rehearsed, RowOrigin
from ruminate.accumulator.records.rows import LeftOut
from ruminate.accumulator.sealing.chain import digest_of
from ruminate.command.datasets.files import DATA_FILES, FileName, Origin, origins
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.batch import DatasetRevised, TrainingBatchSealed
from ruminate.schemas.erasure import ErasureRequested, Erasures, names_of
from ruminate.schemas.interaction import InteractionCompleted, InteractionRecorded
from ruminate.schemas.marking import Mark, marks
from ruminate.schemas.model import ModelRegistered, ModelRolledBack, NodeStatus
from ruminate.schemas.payload import Payload
from ruminate.schemas.training import AdapterTrained, TrainingFailed
from ruminate.shared.record import Position

P = TypeVar("P", bound=Payload)

Split = Literal["train", "holdout"]


@dataclass(frozen=True, slots=True)
class Heard(Generic[P]):
    """An event, and where in the log it stands."""

    position: Position
    event_id: str
    source: str
    at: datetime
    payload: P


class Tombstone(NamedTuple):
    """Where something was erased from the log."""

    position: Position
    event_id: str


class RowPlace(NamedTuple):
    """A line of a dataset; `line` counts from 1 in the file of the split."""

    batch: TrainingBatchSealed
    split: Split
    line: int
    row: RowOrigin

    @property
    def name(self) -> str:
        """As `why` takes it."""
        split = "holdout:" if self.split == "holdout" else ""
        return f"{self.batch.batch_id}:{split}{self.line}"


class ErasedPlace(NamedTuple):
    """Where a line stood in a dataset until an erasure took it out: by a salted hash, and nothing else is left of it."""

    batch: TrainingBatchSealed
    erased: Erased


class Named(NamedTuple):
    """A record that a line comes from, by the names that its manifest has for it."""

    recorded_id: UUID
    event_id: str


class LinePlace(NamedTuple):
    """A line that is no fresh row; `line` counts from 1 in its file. `records` are those that it comes from, none of an anchor."""

    batch: TrainingBatchSealed
    file: FileName
    line: int
    origin: Origin
    records: tuple[Named, ...]

    @property
    def name(self) -> str:
        """As `why` takes it."""
        return f"{self.batch.batch_id}:{self.file}:{self.line}"


class Omitted(NamedTuple):
    """A record that a batch accounts for and has no row for. `event` is the digest of its id, in hexadecimal."""

    batch: TrainingBatchSealed
    offset: int
    event: str
    recorded_id: UUID
    reason: LeftOut
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One tenant and target: its batches, and what became of them."""

    tenant: str
    target: str
    batches: tuple[TrainingBatchSealed, ...] = ()
    trained: Mapping[str, Heard[AdapterTrained]]
    """By batch id."""
    failed: Mapping[str, Heard[TrainingFailed]]
    """By batch id, the last attempt; where it is trained, too, an attempt after that."""
    registered: Mapping[str, Heard[ModelRegistered]]
    """By version."""
    rolled_back: Mapping[str, tuple[Heard[ModelRolledBack], ...]]
    nodes: tuple[NodeStatus, ...] = ()
    marks: tuple[Mark, ...] = ()
    """Which versions have learned from what was erased since."""
    unreadable: Mapping[str, str]
    """Batches whose manifest could not be read, and why: what they hold is not known."""

    @property
    def serving(self) -> str | None:
        """The version that serves: the highest that was registered and not rolled back. None means the base."""
        good = [each.payload for version, each in self.registered.items() if version not in self.rolled_back]
        return max(good, key=lambda model: model.number).version if good else None

    def version(self, name: str) -> Heard[AdapterTrained] | None:
        """The training of a version."""
        return next((each for each in self.trained.values() if each.payload.version == name), None)

    def versions(self) -> list[str]:
        """Every version that was trained or registered, in the order of their numbers."""
        numbers = {each.payload.version: each.payload.number for each in self.trained.values()}
        numbers |= {name: each.payload.number for name, each in self.registered.items()}
        return sorted(numbers, key=lambda name: numbers[name])

    def parent(self, name: str) -> str | None:
        """The version from which this one went on."""
        trained, registered = self.version(name), self.registered.get(name)
        return trained.payload.parent_version if trained else registered.payload.parent_version if registered else None

    def ancestors(self, name: str) -> list[str]:
        """Parent, its parent, and on to the first; a parent that the log contradicts ends it."""
        found: list[str] = []
        parent = self.parent(name)
        while parent is not None and parent != name and parent not in found:
            found.append(parent)
            parent = self.parent(parent)
        return found

    def heirs(self, name: str) -> list[str]:
        """Versions that went on from this one, over however many steps."""
        return [version for version in self.versions() if name in self.ancestors(version)]

    def marks_of(self, name: str) -> list[Mark]:
        """What this version has learned, itself or by those it went on from, that was erased since."""
        return [mark for mark in self.marks if mark.version == name]

    def batch(self, batch_id: str) -> TrainingBatchSealed | None:
        """The batch of this id."""
        return next((batch for batch in self.batches if batch.batch_id == batch_id), None)

    def holding(self, node: NodeStatus, model_name: str) -> bool:
        """Whether a node had this model when it was last seen."""
        return any(held.removesuffix(":latest") == model_name.removesuffix(":latest") for held in node.models)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """What is known of one interaction. What is None or empty, the log did not say."""

    recorded_id: UUID
    completed: Heard[InteractionCompleted] | None = None
    recorded: Heard[InteractionRecorded] | None = None
    assessed: tuple[Heard[ReasoningAssessed], ...] = ()
    """The first record of each event id, in the order of the log."""
    rows: tuple[RowPlace, ...] = ()
    omitted: tuple[Omitted, ...] = ()
    rehearsed: tuple[LinePlace, ...] = ()
    """The lines of later batches that train it once more."""
    given: tuple[LinePlace, ...] = ()
    """The pairs and questions that come from it."""
    erased: tuple[ErasedPlace, ...] = ()
    """The lines that it had in datasets until they were erased."""
    erasures: tuple[Heard[ErasureRequested], ...] = ()
    tombstones: tuple[Tombstone, ...] = ()
    chain: Chain | None = None

    @property
    def known(self) -> InteractionCompleted | None:
        """The interaction itself, from whichever record still carries it."""
        for heard in (self.recorded, self.completed):
            if heard is not None:
                return heard.payload
        return self.assessed[-1].payload.interaction if self.assessed else None

    @property
    def spoken_of(self) -> bool:
        """Whether anything speaks of it: a record, the account of a batch, or the place where it was erased."""
        accounted = self.rows or self.omitted or self.rehearsed or self.erased
        return self.known is not None or bool(accounted or self.tombstones or self.erasures)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneLine:
    """A line that is no fresh row, wherever it is, and the interactions that it comes from."""

    places: tuple[LinePlace, ...]
    """The one that was asked for first, then those with the same bytes."""
    chain: Chain
    interactions: tuple[Interaction, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A model version, and its dataset as far as the store still has it."""

    name: str
    chain: Chain
    manifest: Manifest | None = None
    artifact: str = ""
    """`whole`, `missing` or `damaged`; empty where no batch is known."""


def chain_of(
    tenant: str,
    target: str,
    *,
    batches: Sequence[TrainingBatchSealed],
    trained: Iterable[Heard[AdapterTrained]],
    failed: Iterable[Heard[TrainingFailed]],
    registered: Iterable[Heard[ModelRegistered]],
    rolled_back: Iterable[Heard[ModelRolledBack]],
    nodes: Iterable[NodeStatus] = (),
    unreadable: Mapping[str, str] | None = None,
    revised: Iterable[DatasetRevised] = (),
) -> Chain:
    """What of these events counts for a tenant and target. Each sequence is in the order of the log; `revised` is of this chain."""
    by_batch: dict[str, Heard[AdapterTrained]] = {}
    for training in _ours(trained, tenant, target):
        by_batch.setdefault(training.payload.batch_id, training)
    failures: dict[str, Heard[TrainingFailed]] = {}
    for failure in _ours(failed, tenant, target):
        before = failures.get(failure.payload.batch_id)
        if before is None or failure.payload.attempt > before.payload.attempt:
            failures[failure.payload.batch_id] = failure
    versions: dict[str, Heard[ModelRegistered]] = {}
    for registration in _ours(registered, tenant, target):
        versions.setdefault(registration.payload.version, registration)
    back: dict[str, tuple[Heard[ModelRolledBack], ...]] = {}
    for each in _ours(rolled_back, tenant, target):
        earlier = back.get(each.payload.version, ())
        if all(each.event_id != other.event_id for other in earlier):
            back[each.payload.version] = (*earlier, each)
    last_seen = {node.node: node for node in nodes}
    return Chain(
        tenant=tenant,
        target=target,
        batches=tuple(batches),
        trained=by_batch,
        failed=failures,
        registered=versions,
        rolled_back=back,
        nodes=tuple(last_seen[name] for name in sorted(last_seen)),
        marks=tuple(marks((each.payload for each in by_batch.values()), revised)),
        unreadable=unreadable or {},
    )


def _ours(heard: Iterable[Heard[P]], tenant: str, target: str) -> Iterator[Heard[P]]:
    return (each for each in heard if (each.payload.tenant, getattr(each.payload, "target_model", None)) == (tenant, target))


def firsts(heard: Iterable[Heard[P]]) -> tuple[Heard[P], ...]:
    """The first record of each event id."""
    found: dict[str, Heard[P]] = {}
    for each in heard:
        found.setdefault(each.event_id, each)
    return tuple(found.values())


def asks_to_forget(request: ErasureRequested, interaction: InteractionCompleted | None, recorded_id: UUID) -> bool:
    """Whether this request, or withdrawal of consent, is of the interaction, by whichever of its names."""
    if interaction is None:
        return request.scope == "interaction" and request.subject == str(recorded_id)
    register = Erasures()
    register.take("asked", request)
    source = interaction.source if isinstance(interaction, InteractionRecorded) else None
    names = names_of(interaction, source=source, recorded_id=recorded_id, seen_at=interaction.occurred_at)
    return register.withdrawn(names) is not None


def places(batch: TrainingBatchSealed, rows: Iterable[RowOrigin]) -> Iterator[RowPlace]:
    """The rows of a manifest with the numbers of their lines."""
    numbers: Counter[str] = Counter()
    for row in rows:
        numbers[row.split] += 1
        yield RowPlace(batch, row.split, numbers[row.split], row)


def line_places(batch: TrainingBatchSealed, manifest: Manifest) -> Iterator[LinePlace]:
    """The lines of a dataset that are no fresh rows."""
    records = {row.offset: Named(row.recorded_id, row.event_id) for row in manifest.rows}
    records |= {aside.offset: Named(aside.recorded_id, aside.event_id) for aside in manifest.aside}
    for file in DATA_FILES.values():
        if file.told_in == "rows":
            continue
        for number, origin in enumerate(origins(manifest, file), start=1):
            yield LinePlace(batch, file.name, number, origin, tuple(_records(origin, records)))


def _records(origin: Origin, records: Mapping[int, Named]) -> Iterator[Named]:
    """Of a pair the chosen one first."""
    if isinstance(origin, Rehearsed):
        if origin.recorded_id is not None and origin.event_id is not None:
            yield Named(origin.recorded_id, origin.event_id)
        return
    offsets = (origin.chosen, origin.rejected) if isinstance(origin, PairOrigin) else (origin.offset,)
    yield from (records[offset] for offset in offsets if offset is not None and offset in records)


def row_of(interaction: Interaction, assessed: Heard[ReasoningAssessed]) -> RowPlace | None:
    """The line that this record became."""
    return next((place for place in interaction.rows if place.row.event_id == assessed.event_id), None)


def omission_of(interaction: Interaction, assessed: Heard[ReasoningAssessed]) -> Omitted | None:
    """The account that a batch gives of this record: of this place in the log, else of its event."""
    event = digest_of(assessed.event_id).hex()
    of_event = [each for each in interaction.omitted if each.event == event]
    here = [each for each in of_event if each.offset == assessed.position.offset]
    return next(iter(here or of_event), None)
