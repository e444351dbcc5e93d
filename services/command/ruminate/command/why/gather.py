"""Ask the log and the store what a subject is, and for everything that `tree` needs to tell its lineage.

    small topics, whole            batches, trainings, registrations, roll-backs, erasures, nodes: a few records a batch
    manifests, one at a time       which rows and which left-out records are the subject's
    large topics, one partition    its assessments, its record, its completion; looked through as bytes, and only what
                                   holds one of the subject's names is read as an event

No group, nothing written. A partition is only left unread where what was found says where the subject has to be.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

import orjson

from ruminate.accumulator.making.dataset import load_manifest
from ruminate.accumulator.making.manifest import Manifest
from ruminate.accumulator.rebuilding.rebuild import SealedChain, artifact_of, read_chains
from ruminate.accumulator.sealing.chain import digest_of
from ruminate.command.datasets.erased import Remembered
from ruminate.command.datasets.files import DATA_FILES
from ruminate.command.datasets.look import NotFound
from ruminate.command.why.facts import (
    Chain,
    ErasedPlace,
    Heard,
    Interaction,
    LinePlace,
    Omitted,
    OneLine,
    RowPlace,
    Tombstone,
    Version,
    asks_to_forget,
    chain_of,
    firsts,
    line_places,
    places,
)
from ruminate.command.why.subject import FORMS, LineAsked, Subject
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.envelope import derive_event_id
from ruminate.schemas.erasure import ErasureRequested
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    ERASURE_REQUESTED,
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    NODE_STATUS,
    REASONING_ASSESSED,
    TRAINING_BATCH_SEALED,
    TRAINING_FAILED,
)
from ruminate.schemas.interaction import InteractionCompleted, InteractionRecorded
from ruminate.schemas.model import ModelRegistered, ModelRolledBack, NodeStatus
from ruminate.schemas.payload import Payload
from ruminate.schemas.topic import Topic
from ruminate.schemas.training import AdapterTrained, TrainingFailed
from ruminate.shared.bus import Bus, Unprocessable
from ruminate.shared.decoding import decode
from ruminate.shared.record import Position, Record
from ruminate.shared.store import Store, StoreError

P = TypeVar("P", bound=Payload)
Told = Callable[[str], None]
"""Called for each record that was looked at, with its topic, and for each manifest."""

_SHOWN: Final = 10


class OfBatch(NamedTuple):
    """A batch that was asked for; the version's name is the batch's own."""

    version: Version
    batch: TrainingBatchSealed


Found = Interaction | OneLine | Version | OfBatch
"""What the subject is."""


@dataclass(slots=True)
class _Log:
    """The small topics."""

    chains: list[SealedChain]
    sealed: tuple[Heard[TrainingBatchSealed], ...]
    trained: tuple[Heard[AdapterTrained], ...]
    failed: tuple[Heard[TrainingFailed], ...]
    registered: tuple[Heard[ModelRegistered], ...]
    rolled_back: tuple[Heard[ModelRolledBack], ...]
    erasures: tuple[Heard[ErasureRequested], ...]
    nodes: list[NodeStatus]
    unreadable: dict[str, str] = field(default_factory=dict)

    def chain(self, tenant: str, target: str) -> Chain:
        """The facts of one tenant and target."""
        chains = [chain for chain in self.chains if (chain.tenant, chain.target) == (tenant, target)]
        batches = [batch for chain in chains for batch in chain.batches]
        return chain_of(
            tenant,
            target,
            batches=batches,
            trained=self.trained,
            failed=self.failed,
            registered=self.registered,
            rolled_back=self.rolled_back,
            nodes=self.nodes,
            revised=[revised for chain in chains for revisions in chain.revisions.values() for revised in revisions],
            unreadable={batch.batch_id: self.unreadable[batch.batch_id] for batch in batches if batch.batch_id in self.unreadable},
        )

    def targets(self) -> list[tuple[str, str]]:
        """Every tenant and target of which something was trained, registered or sealed."""
        found = {(chain.tenant, chain.target) for chain in self.chains}
        found |= {(each.payload.tenant, each.payload.target_model) for each in self.trained}
        return sorted(found | {(each.payload.tenant, each.payload.target_model) for each in self.registered})


async def gather(
    bus: Bus,
    store: Store,
    subject: Subject,
    *,
    tenant: str | None = None,
    target: str | None = None,
    told: Told = lambda _: None,
) -> Found:
    """Find what the subject names, and what there is to tell of it. Raises NotFound, StoreError, BrokerUnavailable."""
    gathering = _Gathering(bus, store, tenant, target, told)
    await gathering.begin()
    return await gathering.find(subject)


class _Gathering:
    def __init__(self, bus: Bus, store: Store, tenant: str | None, target: str | None, told: Told) -> None:
        self._bus = bus
        self._store = store
        self._tenant = tenant
        self._target = target
        self._told = told
        self._log: _Log

    async def begin(self) -> None:
        """Read the small topics."""
        self._log = _Log(
            [chain for chain in await read_chains(self._bus) if self._ours(chain.tenant, chain.target)],
            firsts([each async for each in self._hear(TRAINING_BATCH_SEALED)]),
            firsts([each async for each in self._hear(ADAPTER_TRAINED)]),
            firsts([each async for each in self._hear(TRAINING_FAILED)]),
            firsts([each async for each in self._hear(MODEL_REGISTERED)]),
            firsts([each async for each in self._hear(MODEL_ROLLED_BACK)]),
            firsts([each async for each in self._hear(ERASURE_REQUESTED)]),
            [each.payload async for each in self._hear(NODE_STATUS)],
        )

    def _ours(self, tenant: str, target: str) -> bool:
        return self._tenant in (None, tenant) and self._target in (None, target)

    async def find(self, subject: Subject) -> Found:
        """What is named, the cheapest way of looking first."""
        if subject.source is None:
            if (known := await self._named(subject.text)) is not None:
                return known
            if (line := subject.line) is not None and (batch := self._batch(line.batch)) is not None:
                found = await self._line(batch, line)
                return await self._of_row(found) if isinstance(found, RowPlace) else await self._of_line((found,))
            if (sha256 := subject.sha256) is not None and (known := await self._by_hash(sha256)) is not None:
                return known
        return await self._by_id(subject)

    # Versions and batches.

    async def _named(self, text: str) -> Found | None:
        """A version, the name of a model, a batch, or an event that speaks of one."""
        named = []
        for tenant, target in self._log.targets():
            if self._ours(tenant, target):
                chain = self._log.chain(tenant, target)
                models = {name: heard.payload.model_name for name, heard in chain.registered.items()}
                named += [(chain, version) for version in chain.versions() if text in (version, models.get(version))]
        if len(named) > 1:
            several = ", ".join(f"{version} of {chain.target} (tenant {chain.tenant})" for chain, version in named[:_SHOWN])
            raise NotFound(f"{text!r} is {len(named)} versions: {several}. Name the chain: --target, --tenant")
        if named:
            return await self._version(*named[0])
        if (batch := self._batch(text, numbers=False)) is not None:
            return await self._of_batch(batch)
        return await self._by_event(text)

    async def _by_event(self, event_id: str) -> Found | None:
        """A batch or a version by the id of an event that speaks of it."""
        for sealed in self._log.sealed:
            if sealed.event_id == event_id and (batch := self._batch(sealed.payload.batch_id, numbers=False)) is not None:
                return await self._of_batch(batch)
        said: list[tuple[str, AdapterTrained | ModelRegistered | ModelRolledBack]] = []
        said += ((trained.event_id, trained.payload) for trained in self._log.trained)
        said += ((registered.event_id, registered.payload) for registered in self._log.registered)
        said += ((back.event_id, back.payload) for back in self._log.rolled_back)
        for known_id, version in said:
            if known_id == event_id:
                return await self._version(self._log.chain(version.tenant, version.target_model), version.version)
        for failed in self._log.failed:
            if failed.event_id == event_id and (batch := self._batch(failed.payload.batch_id, numbers=False)) is not None:
                return await self._of_batch(batch)
        return None

    def _batch(self, text: str, *, numbers: bool = True) -> TrainingBatchSealed | None:
        """A batch by its id, or by its number where there is one chain. Raises NotFound where a number is of several."""
        batches = [batch for chain in self._log.chains for batch in chain.batches]
        found = [batch for batch in batches if batch.batch_id == text]
        if not found and numbers and text.isdecimal() and len(text) < 9:
            found = [batch for batch in batches if batch.number == int(text)]
        if len(found) > 1:
            several = ", ".join(batch.batch_id for batch in found[:_SHOWN])
            raise NotFound(
                f"batch {text} is of {len(found)} chains: {several}. Name it by its id, or the chain: --target, --tenant"
            )
        return found[0] if found else None

    async def _version(self, chain: Chain, name: str) -> Version:
        trained = chain.version(name)
        registered = chain.registered.get(name)
        batch_id = trained.payload.batch_id if trained else registered.payload.batch_id if registered else ""
        batch = chain.batch(batch_id)
        if batch is None:
            return Version(name=name, chain=chain)
        return await self._with_dataset(chain, name, batch)

    async def _of_batch(self, batch: TrainingBatchSealed) -> OfBatch:
        chain = self._log.chain(batch.tenant, batch.target_model)
        return OfBatch(await self._with_dataset(chain, batch.batch_id, batch), batch)

    async def _with_dataset(self, chain: Chain, name: str, batch: TrainingBatchSealed) -> Version:
        manifest = await self._manifest(batch)
        artifact = await artifact_of(self._store, batch.dataset)
        return Version(name=name, chain=self._log.chain(chain.tenant, chain.target), manifest=manifest, artifact=artifact)

    # Rows.

    async def _manifest(self, batch: TrainingBatchSealed) -> Manifest | None:
        """The manifest of a batch; where it cannot be read, why is remembered."""
        self._told("manifests")
        try:
            return await load_manifest(self._store, batch.dataset)
        except StoreError as error:
            self._log.unreadable[batch.batch_id] = str(error)
            return None

    async def _line(self, batch: TrainingBatchSealed, line: LineAsked) -> RowPlace | LinePlace:
        manifest = await self._manifest(batch)
        if manifest is None:
            raise StoreError(f"{self._log.unreadable[batch.batch_id]}. Type:  ruminate datasets rebuild --batch {batch.number}")
        lines: list[RowPlace | LinePlace] = [place for place in places(batch, manifest.rows) if place.split == line.file]
        lines += [place for place in line_places(batch, manifest) if place.file == line.file]
        if line.line > len(lines):
            path = DATA_FILES[line.file].path
            raise NotFound(f"{batch.batch_id} has {len(lines)} lines in {path}, and none of number {line.line}")
        return lines[line.line - 1]

    async def _by_hash(self, sha256: str) -> Interaction | OneLine | None:
        """A fresh row, before what has its bytes once more; else a line that is none."""
        rows: list[RowPlace] = []
        lines: list[LinePlace] = []
        for chain in self._log.chains:
            for batch in chain.batches:
                if (manifest := await self._manifest(batch)) is not None:
                    rows += [place for place in places(batch, manifest.rows) if place.row.sha256.startswith(sha256)]
                    lines += [place for place in line_places(batch, manifest) if place.origin.sha256.startswith(sha256)]
        found = {place.row.sha256: place.name for place in rows} | {place.origin.sha256: place.name for place in lines}
        if len(found) > 1 or len({place.row.recorded_id for place in rows}) > 1:
            named = [(place.name, place.row.sha256) for place in rows] + [(place.name, place.origin.sha256) for place in lines]
            several = ", ".join(f"{name} ({whole[:16]})" for name, whole in named[:_SHOWN])
            raise NotFound(f"{len(named)} rows have a SHA-256 that begins with {sha256}: {several}. Say more of it, or BATCH:LINE")
        if rows:
            return await self._of_row(rows[0])
        return await self._of_line(tuple(lines)) if lines else None

    async def _of_line(self, found: tuple[LinePlace, ...]) -> OneLine:
        batch, *_ = (place.batch for place in found)
        interactions = []
        for named in found[0].records:
            interaction = await self._interaction(
                _Names({named.recorded_id}),
                partitions={batch.assessed_partition},
                tenant=batch.tenant,
                target=batch.target_model,
            )
            if interaction is not None:
                interactions.append(interaction)
        return OneLine(places=found, chain=self._log.chain(batch.tenant, batch.target_model), interactions=tuple(interactions))

    async def _of_row(self, place: RowPlace) -> Interaction:
        batch, row = place.batch, place.row
        found = await self._interaction(
            _Names({row.recorded_id}), partitions={batch.assessed_partition}, tenant=batch.tenant, target=batch.target_model
        )
        if found is None:
            raise NotFound(f"nothing is known of the interaction {row.recorded_id} of {place.name}")
        return found

    # Interactions.

    async def _by_id(self, subject: Subject) -> Interaction:
        if subject.source is not None:
            tenants = {self._tenant} if self._tenant else {tenant for tenant, _ in self._log.targets()} | {"default"}
            names = _Names({
                derive_event_id(
                    tenant=tenant, cause_source=subject.source, cause_id=subject.text, topic=INTERACTION_RECORDED.name
                )
                for tenant in tenants
            })  # fmt: skip
        elif (uuid := subject.uuid) is not None:
            names = _Names({uuid}, subject.text)
        else:
            names = _Names(set(), subject.text)
        interaction = await self._interaction(names)
        if interaction is None or not interaction.spoken_of:
            of_source = f" of {subject.source}" if subject.source else ""
            raise NotFound(
                f"nothing in the log or the store is {subject.text!r}{of_source}: no such batch, version, interaction or event. "
                f"SUBJECT is {FORMS}"
            )
        return interaction

    async def _interaction(
        self,
        names: _Names,
        *,
        partitions: Collection[int] | None = None,
        tenant: str | None = None,
        target: str | None = None,
    ) -> Interaction | None:
        bus = self._bus
        if partitions is None:
            partitions = await self._learn_from_manifests(names) or None
        if partitions is None and self._target is not None:
            chains = {(self._tenant or "default", self._target), *self._log.targets()}
            partitions = {
                bus.partition_of(REASONING_ASSESSED, f"{owner}/{model}") for owner, model in chains if self._ours(owner, model)
            }
        tombstones: list[Tombstone] = []
        knew = set(names.ids)
        assessed = await self._assessed(partitions, names, tombstones)
        if assessed and names.ids != knew:
            # Found by the id of one event: those before it were passed by, for their interaction had no name yet.
            assessed = await self._assessed({heard.position.partition for heard in assessed}, names, [])
        conversations = {heard.payload.interaction.conversation_id for heard in assessed}
        recorded: list[Heard[InteractionRecorded]] = []
        where = {bus.partition_of(INTERACTION_RECORDED, each) for each in conversations} or None
        async for record in self._search(INTERACTION_RECORDED, where, names, tombstones):
            given = record.payload
            if names.mean(given.recorded_id, given.interaction_id, record.event_id) and self._ours(
                given.tenant, given.target_model
            ):
                names.learn(given.recorded_id, given.interaction_id)
                recorded.append(record)
        completed = await self._completed(names, {each.payload.conversation_id for each in recorded} | conversations, tombstones)
        recorded_id = names.only(recorded, assessed, completed)
        if recorded_id is None:
            return None
        mine = [each for each in firsts(assessed) if each.payload.recorded_id == recorded_id]
        first = next((each for each in recorded if each.payload.recorded_id == recorded_id), None)
        known: InteractionCompleted | None = first.payload if first else mine[-1].payload.interaction if mine else None
        origin = next((each for each in completed if _recorded_id(each) == recorded_id), None)
        known = known or (origin.payload if origin else None)
        tenant, target = (known.tenant, known.target_model) if known else (tenant, target)
        rows, omitted, lines, erased = await self._accounts(recorded_id, tenant, target)
        if tenant is None or target is None:
            batches = [place.batch for place in rows] + [left.batch for left in omitted] + [place.batch for place in lines]
            batches += [place.batch for place in erased]
            batch = next(iter(batches), None)
            tenant, target = (batch.tenant, batch.target_model) if batch else (None, None)
        event_ids = {str(recorded_id), *(place.row.event_id for place in rows), *(each.event_id for each in mine)}
        return Interaction(
            recorded_id=recorded_id,
            completed=origin,
            recorded=first,
            assessed=tuple(mine),
            rows=tuple(rows),
            omitted=tuple(omitted),
            rehearsed=tuple(place for place in lines if place.file == "replay"),
            given=tuple(place for place in lines if place.file != "replay"),
            erased=tuple(erased),
            erasures=tuple(each for each in self._log.erasures if asks_to_forget(each.payload, known, recorded_id)),
            tombstones=tuple(each for each in tombstones if each.event_id in event_ids),
            chain=self._log.chain(tenant, target) if tenant is not None and target is not None else None,
        )

    async def _assessed(
        self, partitions: Collection[int] | None, names: _Names, tombstones: list[Tombstone]
    ) -> list[Heard[ReasoningAssessed]]:
        found = []
        async for heard in self._search(REASONING_ASSESSED, partitions, names, tombstones):
            said = heard.payload
            meant = names.mean(said.recorded_id, said.interaction.interaction_id, heard.event_id)
            if meant and self._ours(said.tenant, said.target_model):
                names.learn(said.recorded_id, said.interaction.interaction_id)
                found.append(heard)
        return found

    async def _learn_from_manifests(self, names: _Names) -> set[int]:
        """What manifests know by these names, which the log may have lost, and the partitions where its assessments are."""
        event = digest_of(names.text or "").hex()
        partitions = set()
        for chain in self._log.chains:
            for batch in chain.batches:
                if (manifest := await self._manifest(batch)) is not None:
                    told = [(row.recorded_id, row.event_id) for row in manifest.rows]
                    told += [(each.recorded_id, each.event_id) for each in manifest.rehearsed if each.recorded_id and each.event_id]
                    found = {recorded_id for recorded_id, event_id in told if recorded_id in names.ids or event_id == names.text}
                    left_out = manifest.left_out
                    found |= {left.recorded_id for left in left_out if left.recorded_id in names.ids or left.event == event}
                    remembered = Remembered(manifest)
                    found |= {recorded_id for recorded_id in names.ids if remembered.of(recorded_id)}
                    if found:
                        names.account(found)
                        partitions.add(batch.assessed_partition)
        return partitions

    async def _accounts(
        self, recorded_id: UUID, tenant: str | None, target: str | None
    ) -> tuple[list[RowPlace], list[Omitted], list[LinePlace], list[ErasedPlace]]:
        rows: list[RowPlace] = []
        omitted: list[Omitted] = []
        lines: list[LinePlace] = []
        erased: list[ErasedPlace] = []
        for chain in self._log.chains:
            if tenant in (None, chain.tenant) and target in (None, chain.target):
                for batch in chain.batches:
                    if (manifest := await self._manifest(batch)) is not None:
                        rows += [place for place in places(batch, manifest.rows) if place.row.recorded_id == recorded_id]
                        omitted += [
                            Omitted(batch, left.offset, left.event, left.recorded_id, left.reason, left.detail)
                            for left in manifest.left_out
                            if left.recorded_id == recorded_id
                        ]
                        lines += [
                            place
                            for place in line_places(batch, manifest)
                            if any(named.recorded_id == recorded_id for named in place.records)
                        ]
                        erased += [ErasedPlace(batch, line) for line in Remembered(manifest).of(recorded_id)]
        return rows, omitted, lines, erased

    async def _completed(
        self, names: _Names, conversations: Collection[str], tombstones: list[Tombstone]
    ) -> list[Heard[InteractionCompleted]]:
        """The events that were recorded. Whoever wrote one may have put it anywhere, so that all partitions come second."""
        likely = {self._bus.partition_of(INTERACTION_COMPLETED, each) for each in conversations} or None
        found = [each async for each in self._search(INTERACTION_COMPLETED, likely, names, tombstones)]
        if not found and likely is not None:
            found = [each async for each in self._search(INTERACTION_COMPLETED, None, names, tombstones)]
        return [each for each in found if names.mean(_recorded_id(each), each.payload.interaction_id, each.event_id)]

    async def _search(
        self, topic: Topic[P], partitions: Collection[int] | None, names: _Names, tombstones: list[Tombstone]
    ) -> AsyncIterator[Heard[P]]:
        """The events of a topic that hold one of the names."""
        async with aclosing(self._bus.records(topic, partitions=partitions)) as records:
            async for record in records:
                self._told(topic.name)
                if record.value is None:
                    tombstones.append(Tombstone(_position(record), (record.key or b"").decode(errors="replace")))
                elif names.within(record) and (heard := _heard(topic, record)) is not None:
                    yield heard

    async def _hear(self, topic: Topic[P]) -> AsyncIterator[Heard[P]]:
        async with aclosing(self._bus.read(topic)) as deliveries:
            async for delivery in deliveries:
                self._told(topic.name)
                envelope = delivery.envelope
                yield Heard(delivery.position, envelope.id, envelope.source, envelope.time, delivery.payload)


class _Names:
    """By what an interaction is found: recorded ids, the text that was typed, and what records add to them."""

    def __init__(self, ids: Iterable[UUID], text: str | None = None) -> None:
        self.ids = set(ids)
        self.text = text
        self._accounted: set[UUID] = set()
        self._texts = {*map(str, self.ids), *(() if text is None else (text,))}
        self._sought = self._as_bytes()

    def _as_bytes(self) -> list[tuple[bytes, bytes]]:
        # Recorded and assessed events are the JSON of our own services, which spells a string in one way.
        return [(orjson.dumps(text), text.encode()) for text in sorted(self._texts)]

    def account(self, recorded_ids: Collection[UUID]) -> None:
        """Manifests account for these."""
        self._accounted |= set(recorded_ids)
        self.ids |= self._accounted
        self._texts |= {str(each) for each in recorded_ids}
        self._sought = self._as_bytes()

    def learn(self, recorded_id: UUID, interaction_id: str) -> None:
        """A record was found: what happened before it is found by this id of its interaction, too."""
        self.ids.add(recorded_id)
        if not {str(recorded_id), interaction_id} <= self._texts:
            self._texts |= {str(recorded_id), interaction_id}
            self._sought = self._as_bytes()

    def mean(self, recorded_id: UUID, interaction_id: str, event_id: str) -> bool:
        """Whether an event with these ids is of the interaction that is meant."""
        return recorded_id in self.ids or (self.text is not None and self.text in (interaction_id, event_id))

    def within(self, record: Record) -> bool:
        """Whether a record holds one of the names, in its JSON or as its event's id: cheap, and never too strict."""
        value = record.value or b""
        event_id = next((value for name, value in record.headers if name.lower() == "ce_id"), b"")
        return any(quoted in value or plain == event_id for quoted, plain in self._sought)

    def only(
        self,
        recorded: Sequence[Heard[InteractionRecorded]],
        assessed: Sequence[Heard[ReasoningAssessed]],
        completed: Sequence[Heard[InteractionCompleted]],
    ) -> UUID | None:
        """The one interaction that is meant, None where there is none. Raises NotFound where there are several."""
        there = {each.payload.recorded_id for each in recorded} | {each.payload.recorded_id for each in assessed}
        there |= {_recorded_id(each) for each in completed} | self._accounted
        there = there or (self.ids if len(self.ids) == 1 else set())
        if not there:
            return None
        if len(there) == 1:
            return there.pop()
        sources = {each.payload.recorded_id: each.payload.source for each in recorded}
        shown = sorted(there, key=str)[:_SHOWN]
        several = ", ".join(f"{each} (of {sources.get(each, 'a source that is not known')})" for each in shown)
        raise NotFound(f"{self.text!r} is {len(there)} interactions: {several}. Name the recorded id, or --source")


def _recorded_id(completed: Heard[InteractionCompleted]) -> UUID:
    """The name that the collector gives an interaction."""
    return derive_event_id(
        tenant=completed.payload.tenant,
        cause_source=completed.source,
        cause_id=completed.event_id,
        topic=INTERACTION_RECORDED.name,
    )


def _heard(topic: Topic[P], record: Record) -> Heard[P] | None:
    """The event in a record; None where it is none."""
    try:
        payload, envelope = decode(topic, record.value, record.headers, timestamp_ms=record.timestamp)
    except Unprocessable:
        return None
    return Heard(_position(record), envelope.id, envelope.source, envelope.time, payload)


def _position(record: Record) -> Position:
    return Position(record.topic, record.partition, record.offset)
