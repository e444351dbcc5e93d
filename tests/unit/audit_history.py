"""A history of events as the services would have written it, made by their own decisions, for tests to audit and to damage."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import orjson

from ruminate.accumulator.accumulate import _announcement
from ruminate.accumulator.erasure import reviser
from ruminate.accumulator.erasure.revise import LINES, gone_from, named_in, revise
from ruminate.accumulator.making.choose import Selection, interval_of, seed_of
from ruminate.accumulator.making.dataset import in_a_folder, keep_dataset, load_manifest, write_files
from ruminate.accumulator.making.describe import Cut
from ruminate.accumulator.making.holdings import account, load_holdings
from ruminate.accumulator.making.make import Sets, make
from ruminate.accumulator.making.manifest import KIND, SIGNATURES, Manifest, name_of
from ruminate.accumulator.making.shelf import Shelf
from ruminate.accumulator.making.spool import Spool
from ruminate.accumulator.records.names import Forgotten
from ruminate.accumulator.sealing.chain import BEGINNING, Fold, Link, Sealed, batch_id_of, item_of
from ruminate.accumulator.sealing.decide import Seal
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.assessor.judging.decide import judge as judge_interaction
from ruminate.assessor.policy import Policy
from ruminate.collector.decide import CONFLICT, Seen, check_id, check_source, judge_repeat, normalise, record
from ruminate.command.audit.findings import Report
from ruminate.command.audit.gather import judge
from ruminate.command.audit.snapshot import READING_ORDER, Snapshot
from ruminate.deployer.decide import judge as judge_version
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.batch import TrainingBatchSealed, as_it_is
from ruminate.schemas.dead_letter import DeadLetterSettled
from ruminate.schemas.envelope import Envelope, Headers, derive_event_id, moment
from ruminate.schemas.erasure import ErasureRequested, Scope
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    DATASET_REVISED,
    DEAD_LETTER_SETTLED,
    ERASURE_REQUESTED,
    GROUP_READERS,
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    REASONING_ASSESSED,
    TRAINING_BATCH_SEALED,
    TRAINING_DIRECTED,
    TRAINING_FAILED,
)
from ruminate.schemas.interaction import InteractionCompleted, InteractionRecorded, Message, Response, Thinking
from ruminate.schemas.model import ModelRegistered, ModelRolledBack
from ruminate.schemas.payload import ArtifactReference, Payload
from ruminate.schemas.topic import Topic
from ruminate.schemas.training import AdapterTrained, GgufFile, TrainingDirected, TrainingFailed
from ruminate.shared.bus import Delivery, Unavailable, Unprocessable
from ruminate.shared.dead_letters import DeadLetter, origin_of
from ruminate.shared.decoding import decode
from ruminate.shared.memory import StoredRecord
from ruminate.shared.outgoing import to_record
from ruminate.shared.partitioning import partition_of
from ruminate.shared.record import Position
from ruminate.shared.shares import Outgoing
from ruminate.shared.store import FileStore
from ruminate.trainer.decide import History as TrainerHistory
from ruminate.trainer.decide import Policy as TrainerPolicy
from ruminate.trainer.decide import Wait, decide
from ruminate.trainer.plan import Hyperparameters, JobPlan
from tests.unit.making import question

P = TypeVar("P", bound=Payload)
Handle = Callable[[Delivery[Any]], None]

TARGET = "qwen3:8b"
START_MS = 1_790_000_000_000
CLUSTER = "cluster"
SETTINGS = AccumulatorSettings(seal_at_rows=1, holdout_ratio=0)
TRAINER_POLICY = TrainerPolicy(
    bases={TARGET: "/bases/tiny"},
    hyperparameters=Hyperparameters(),
    checkpoint_steps=50,
    merged_dtype="float32",
    encodings=("f16",),
    adapter_encoding="f16",
    equality_probes=0,
)


def exchange(name: str, **changed: Any) -> InteractionCompleted:
    """An answered question that every policy keeps."""
    fields: dict[str, Any] = {
        "interaction_id": name,
        "conversation_id": f"conversation-{name}",
        "agent": "tester",
        "target_model": TARGET,
        "occurred_at": moment(START_MS),
        "messages": (Message(role="user", content=f"What is 2 + 3, question {name}?"),),
        "response": Response(content="5", thinking="First, 2 + 3 = 5. Then I check: 3 + 2 = 5. Therefore the answer is 5."),
        "thinking": Thinking(mode_used="thinking"),
        "reference_answer": "5",
        "outcome": "succeeded",
        "training_allowed": True,
    }
    return InteractionCompleted(**fields | changed)


@dataclass
class History:
    """Topics, what their readers have committed, and a store."""

    folder: Path
    logs: defaultdict[tuple[str, int], list[StoredRecord]] = field(default_factory=lambda: defaultdict(list))
    ends: defaultdict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    begins: dict[tuple[str, int], int] = field(default_factory=dict)
    committed: defaultdict[tuple[str, str], dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    whole_since_ms: dict[str, int] = field(default_factory=dict)
    now_ms: int = START_MS
    seen: dict[bytes, Seen] = field(default_factory=dict)
    settings: AccumulatorSettings = SETTINGS
    corrections: dict[str, str] = field(default_factory=dict)
    """What people say should have been answered, by interaction id."""

    def __post_init__(self) -> None:
        self.store = FileStore(self.folder / "store")

    # What a broker does.

    def append(self, outgoing: Outgoing) -> Position:
        place = (outgoing.topic, outgoing.partition)
        self.now_ms += 1_000
        self.logs[place].append(
            StoredRecord(*place, self.ends[place], self.now_ms, outgoing.key, outgoing.value, list(outgoing.headers))
        )
        self.ends[place] += 1
        return Position(*place, self.ends[place] - 1)

    def again(self, topic: Topic[Any], index: int = 0, **changed: Any) -> Position:
        """Write a record of the topic once more, changed as told."""
        known = replace(self.records(topic.name)[index], **changed)
        return self.append(Outgoing(known.topic, known.partition, known.key, known.value, known.headers))

    def records(self, topic: str) -> list[StoredRecord]:
        return [each for (name, _), log in sorted(self.logs.items()) if name == topic for each in log]

    def at(self, place: Position) -> StoredRecord:
        return next(each for each in self.logs[place.topic, place.partition] if each.offset == place.offset)

    def remove(self, victim: StoredRecord) -> None:
        self.logs[victim.topic, victim.partition].remove(victim)

    def change(self, victim: StoredRecord, **changed: Any) -> None:
        log = self.logs[victim.topic, victim.partition]
        log[log.index(victim)] = replace(victim, **changed)

    def publish(self, topic: Topic[P], payload: P, *, source: str, event_id: str, cause: str | None = None) -> Position:
        envelope = Envelope(
            id=event_id,
            source=source,
            type=topic.event_type,
            time=moment(self.now_ms),
            order=topic.order_of(payload),
            cause=cause,
        )
        value = topic.carries.model_validate(payload.model_dump())
        key = event_id if topic.record_key == "event_id" else ""
        number = partition_of(topic.order_of(payload), topic.partitions)
        return self.append(Outgoing(topic.name, number, key.encode(), value.model_dump_json().encode(), envelope.to_headers()))

    def tombstone(self, record: StoredRecord) -> None:
        """Erase a record, as a broker shows it before compaction."""
        self.append(Outgoing(record.topic, record.partition, record.key, None, []))

    # What the services do.

    def serve(self, topic: Topic[P], reader: str, handle: Callable[[Delivery[P]], None]) -> None:
        """Hand every record that the reader has not committed to `handle`, what was sent back among it, and commit."""
        retries = topic.retries(reader)
        for name, number in [*((topic.name, number) for number in range(topic.partitions)), (retries.name, 0)]:
            committed = self.committed[reader, name]
            try:
                for each in list(self.logs[name, number]):
                    if each.offset >= committed.get(number, 0):
                        if each.value is not None:
                            self._deliver(topic, reader, handle, each)
                        committed[number] = each.offset + 1
            except Unavailable:
                continue  # the partition waits

    def _deliver(self, topic: Topic[P], reader: str, handle: Callable[[Delivery[P]], None], each: StoredRecord) -> None:
        try:
            payload, envelope = decode(topic, each.value, each.headers, timestamp_ms=each.timestamp)
            position = Position(each.topic, each.partition, each.offset)
            delivery = Delivery(
                topic=topic,
                payload=payload,
                envelope=envelope,
                position=(origin_of(each.headers, retries=each.topic) if each.topic != topic.name else None) or position,
                headers=each.headers,
                value=each.value or b"",
                source=f"/ruminate/{reader}",
            )
            handle(delivery)
        except Unprocessable as error:
            self.bury(topic, reader, each, error.reason)
            return
        for told in delivery.told:
            self.append(to_record(told))

    def bury(self, topic: Topic[Any], reader: str, each: StoredRecord, reason: str) -> None:
        """Make a dead letter of a record."""
        letter = DeadLetter(
            reason=reason,
            explanation="",
            position=Position(each.topic, each.partition, each.offset),
            timestamp_ms=each.timestamp,
            reader=reader,
            at=moment(self.now_ms),
            key=each.key,
        )
        letters, key = topic.dead_letters(reader).name, str(letter.id(CLUSTER)).encode()
        self.append(Outgoing(letters, each.partition, key, each.value or b"", letter.headers(each.headers)))

    def settle(self, topic: Topic[Any], reader: str, action: str, *, index: int = 0, why: str = "because") -> None:
        """Drop a dead letter, or send it back."""
        record = self.records(topic.dead_letters(reader).name)[index]
        letter = DeadLetter.from_headers(record.headers)
        if action == "replayed":
            self.append(Outgoing(topic.retries(reader).name, 0, b"", record.value or b"", list(record.headers)))
        settled = DeadLetterSettled(
            letter_id=letter.id(CLUSTER),
            action="replayed" if action == "replayed" else "dropped",
            reader=reader,
            topic=letter.position.topic,
            partition=letter.position.partition,
            offset=letter.position.offset,
            reason=letter.reason,
            settled_by="operator",
            why=why,
            settled_at=moment(self.now_ms),
        )
        self.publish(DEAD_LETTER_SETTLED, settled, source="/ruminate/command", event_id=str(letter.id(CLUSTER)))
        self.tombstone(record)

    def complete(self, *names: str, source: str = "/agents/tester", **changed: Any) -> None:
        for name in names:
            interaction = exchange(name, **changed)
            self.publish(INTERACTION_COMPLETED, interaction, source=source, event_id=interaction.interaction_id)

    def collect(self) -> None:
        self.serve(INTERACTION_COMPLETED, "collector", self._record)

    def _record(self, delivery: Delivery[InteractionCompleted]) -> None:
        check_id(delivery.payload, delivery.envelope.id)
        check_source(delivery.envelope.source)
        completed = normalise(delivery.payload)
        recorded_id = delivery.derived_id(INTERACTION_RECORDED)
        place = (delivery.position.partition, delivery.position.offset)
        outcome = judge_repeat(self.seen.get(recorded_id.bytes), completed.fingerprint, place)
        if outcome == "conflict":
            raise Unprocessable(CONFLICT)
        if outcome == "first":
            self.seen.setdefault(recorded_id.bytes, Seen(completed.fingerprint, *place))
            recorded = record(completed, source=delivery.envelope.source, recorded_id=recorded_id)
            delivery.tell_encoded(INTERACTION_RECORDED, recorded, order=completed.payload.conversation_id)

    def assess(self, policy: Policy = Policy(), *, policy_version: str = "p1") -> None:  # noqa: B008 - it is frozen
        def handle(delivery: Delivery[InteractionRecorded]) -> None:
            evidence = tuple(self.evidence_of(delivery.payload))
            judged = judge_interaction(delivery.payload, policy, policy_version=policy_version, evidence=evidence)
            delivery.tell(REASONING_ASSESSED, judged)

        self.serve(INTERACTION_RECORDED, "assessor", handle)

    def evidence_of(self, interaction: InteractionRecorded) -> Iterator[EvidenceRecorded]:
        """What people have said of an interaction."""
        if interaction.interaction_id in self.corrections:
            yield EvidenceRecorded(
                recorded_id=interaction.recorded_id,
                conversation_id=interaction.conversation_id,
                kind="feedback",
                said_by="reader",
                said_at=interaction.occurred_at,
                correction=self.corrections[interaction.interaction_id],
            )

    def told(self, topic: Topic[P]) -> list[Delivery[P]]:
        found: list[Delivery[P]] = []
        for each in self.records(topic.name):
            try:
                payload, envelope = decode(topic, each.value, each.headers, timestamp_ms=each.timestamp)
            except Unprocessable:
                continue
            position = Position(each.topic, each.partition, each.offset)
            found.append(Delivery(topic, payload, envelope, position, each.headers, each.value or b"", ""))
        return found

    def batches(self) -> list[TrainingBatchSealed]:
        link, chain = BEGINNING, []
        for each in self.told(TRAINING_BATCH_SEALED):
            if link.extended_by(each.payload, partition=each.position.partition):
                link = Link.end_of(each.payload)
                chain.append(each.payload)
        revisions = [each.payload for each in self.told(DATASET_REVISED)]
        return [as_it_is(batch, revisions) for batch in chain]

    def ask_to_forget(self, event_id: str = "erasure-1", *, scope: Scope = "conversation", subject: str) -> None:
        """Somebody asks that something is forgotten, by default a conversation."""
        asked = ErasureRequested(scope=scope, subject=subject, requested_by="somebody", requested_at=moment(self.now_ms))
        self.publish(ERASURE_REQUESTED, asked, source="/ruminate/command", event_id=event_id)

    def forgotten(self) -> Forgotten:
        """Everything of the target that was asked to be forgotten, or never to be learned from."""
        return Forgotten("default", TARGET, [(each.envelope.id, each.payload) for each in self.told(ERASURE_REQUESTED)])

    def revise(self, *, remove: bool = True, only: Collection[int] | None = None) -> None:
        """Take out of every dataset what was asked to be forgotten, as the accumulator does; or of `only` these batches."""
        for batch in self.batches():
            if only is not None and batch.number not in only:
                continue
            manifest = asyncio.run(load_manifest(self.store, batch.dataset))
            if gone := gone_from(named_in(manifest), self.forgotten()):
                files = {name: asyncio.run(self.store.read_file(batch.dataset, name)) for name in (*LINES, SIGNATURES)}
                self.announce_revision(batch, *revise(manifest, files, gone))
                if remove:
                    asyncio.run(self.store.remove_tree(batch.dataset))

    def announce_revision(self, batch: TrainingBatchSealed, manifest: Manifest, contents: dict[str, bytes]) -> None:
        """Keep what is left of a dataset, and say so."""

        async def keep(folder: Path) -> ArtifactReference:
            write_files(folder, {name: (data,) for name, data in contents.items()})
            return await self.store.put_tree(folder, kind=KIND, name=name_of(manifest))

        dataset = asyncio.run(in_a_folder(keep))
        revised = reviser._announcement(manifest, batch.dataset, dataset, moment(self.now_ms))
        cause = f"{revised.batch_id}/{revised.revision}"
        event_id = derive_event_id(tenant="default", cause_source=reviser.SOURCE, cause_id=cause, topic=DATASET_REVISED.name)
        self.publish(DATASET_REVISED, revised, source=reviser.SOURCE, event_id=str(event_id))

    def seal(self, *, forget_sealed: bool = False, commit: bool = True, mixing_in: str = TARGET) -> None:
        """Cut the next batch of the target, with everything that was assessed, where there is anything to train on.

        `mixing_in` names another target whose interactions are taken for the target's.
        """
        chain = self.batches()
        link = Link.end_of(chain[-1]) if chain else BEGINNING
        sealed = Sealed()
        for batch in chain:
            if not forget_sealed:
                account(asyncio.run(load_holdings(self.store, batch.dataset)), sealed)
        mine = [each for each in self.told(REASONING_ASSESSED) if each.payload.target_model in (TARGET, mixing_in)]
        fold = Fold(sealed=sealed)
        by_offset: dict[int, Delivery[ReasoningAssessed]] = {}
        for each in mine:
            if each.position.offset > link.to_offset and not self.is_given_up("accumulator", each.position):
                by_offset[each.position.offset] = each
                fold.add(
                    item_of(
                        each.payload,
                        event_id=each.envelope.id,
                        assessed_at=each.envelope.time,
                        offset=each.position.offset,
                        limits=self.settings.row_limits,
                    )
                )
        batch_id = batch_id_of("default", TARGET, link.number + 1)
        seed = seed_of(batch_id, 0)
        with Spool() as spool:
            entries = {
                offset: spool.add(each.payload, event_id=each.envelope.id, assessed_at=each.envelope.time, offset=offset)
                for offset, each in by_offset.items()
            }
            interval = interval_of(fold).without(
                {offset for offset, entry in entries.items() if self.forgotten().withdrawn(entry.row.names, entry.row.occurred_at)}
            )
            if not interval.standing:
                return
            last = by_offset[max(by_offset)]
            cut = Cut(batch_id, seed, "default", TARGET, last.position.partition, link, last.position.offset)
            made = asyncio.run(
                make(
                    interval,
                    entries,
                    spool,
                    cut=cut,
                    known=sealed.known,
                    shelf=Shelf(self.store, spool, {batch.number: batch.dataset for batch in chain}),
                    sets=Sets(),
                    settings=self.settings,
                    worth=lambda selection: bool(selection.train),
                )
            )
        if isinstance(made, Selection):
            return
        dataset = asyncio.run(keep_dataset(self.store, made))
        announced = _announcement(made.manifest, Seal("count", "enough"), dataset, moment(self.now_ms), requests=())
        last.source = "/ruminate/accumulator"
        last.tell(TRAINING_BATCH_SEALED, announced, ordinal=announced.number)
        self.append(to_record(last.told[0]))
        if commit:
            self.committed["accumulator", REASONING_ASSESSED.name][last.position.partition] = announced.to_offset + 1

    def is_given_up(self, reader: str, position: Position) -> bool:
        letters = (
            DeadLetter.from_headers(each.headers)
            for topic in GROUP_READERS[reader]
            for each in self.records(topic.dead_letters(reader).name)
            if each.value is not None
        )
        return any(letter.position == position for letter in letters)

    def train(self) -> None:
        def handle(delivery: Delivery[TrainingBatchSealed]) -> None:
            history = TrainerHistory(
                sealed=tuple((each.position.offset, each.payload) for each in self.told(TRAINING_BATCH_SEALED)),
                trained=tuple(each.payload for each in self.told(ADAPTER_TRAINED)),
                failed=tuple(each.payload for each in self.told(TRAINING_FAILED)),
                registered=tuple(each.payload for each in self.told(MODEL_REGISTERED)),
                rolled_back=tuple(each.payload for each in self.told(MODEL_ROLLED_BACK)),
                revised=tuple(each.payload for each in self.told(DATASET_REVISED)),
                directed=tuple(each.payload for each in self.told(TRAINING_DIRECTED)),
            )
            plan = decide(as_it_is(delivery.payload, history.revised), delivery.position.offset, history, TRAINER_POLICY)
            if isinstance(plan, Wait):
                raise Unavailable(plan.what)
            if isinstance(plan, JobPlan):
                delivery.tell(ADAPTER_TRAINED, self.adapter(plan))

        self.serve(TRAINING_BATCH_SEALED, "trainer", handle)

    def adapter(self, plan: JobPlan, *, seconds: float = 1.0) -> AdapterTrained:
        """What a job makes, in small."""
        folder = self.folder / "jobs" / plan.version
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter.safetensors").write_bytes(f"adapter of {plan.version}".encode())
        (self.folder / "model.gguf").write_bytes(f"weights of {plan.version}".encode())
        adapter = asyncio.run(self.store.put_tree(folder, kind="adapters", name=plan.version))
        file = asyncio.run(self.store.put_file(self.folder / "model.gguf", kind="gguf", name=plan.version))
        return AdapterTrained(
            tenant=plan.tenant,
            job_id=plan.batch_id,
            batch_id=plan.batch_id,
            target_model=plan.target_model,
            version=plan.version,
            number=plan.number,
            parent_version=plan.parent_version,
            base_model=plan.base_model,
            adapter=adapter,
            gguf=(GgufFile(encoding="f16", holds="model", file=file),),
            dataset=plan.dataset,
            stages=("thinking_fusion",),
            settings={},
            metrics={},
            duration_seconds=seconds,
            trained_at=moment(self.now_ms),
        )

    def fail(self, reason: str = "crashed") -> None:
        """The trainer gives the waiting batches up."""

        def handle(delivery: Delivery[TrainingBatchSealed]) -> None:
            settled = {each.payload.batch_id for each in self.told(ADAPTER_TRAINED)}
            settled |= {each.payload.batch_id for each in self.told(TRAINING_FAILED)}
            if delivery.payload.batch_id not in settled:
                delivery.tell(TRAINING_FAILED, failure(delivery.payload, reason))

        self.serve(TRAINING_BATCH_SEALED, "trainer", handle)

    def retry(self, batch_id: str, *, attempt: int = 1, said: bool = True) -> None:
        """The attempt has failed; an operator has it tried again, and it gives a version."""
        if said:
            word = TrainingDirected(
                target_model=TARGET,
                direction="retry",
                batch_id=batch_id,
                attempt=attempt,
                directed_by="ada",
                directed_at=moment(self.now_ms),
            )
            self.publish(TRAINING_DIRECTED, word, source="/ruminate/command", event_id=f"retry-{batch_id}-{attempt}")
        batch = next(each for each in self.told(TRAINING_BATCH_SEALED) if each.payload.batch_id == batch_id)
        history = TrainerHistory(
            sealed=tuple((each.position.offset, each.payload) for each in self.told(TRAINING_BATCH_SEALED)),
            registered=tuple(each.payload for each in self.told(MODEL_REGISTERED)),
        )
        plan = decide(batch.payload, batch.position.offset, history, TRAINER_POLICY)
        assert isinstance(plan, JobPlan)
        trained = self.adapter(plan).model_copy(update={"attempt": attempt + 1})
        batch.source = "/ruminate/trainer"
        batch.tell(ADAPTER_TRAINED, trained, ordinal=attempt)
        self.append(to_record(batch.told[0]))

    def deploy(self, *, refuse: bool = False) -> None:
        def handle(delivery: Delivery[AdapterTrained]) -> None:
            registered = [each.payload for each in self.told(MODEL_REGISTERED)]
            rolled_back = [each.payload for each in self.told(MODEL_ROLLED_BACK)]
            results = [each for each in self.told(ADAPTER_TRAINED) if each.payload.batch_id == delivery.payload.batch_id]
            accepted = results[0].envelope.id == delivery.envelope.id
            verdict = judge_version(delivery.payload, accepted=accepted, registered=registered, rolled_back=rolled_back)
            if verdict == "deploy" and refuse:
                delivery.tell(MODEL_ROLLED_BACK, refusal(delivery.payload))
            elif verdict == "deploy":
                delivery.tell(MODEL_REGISTERED, registration(delivery.payload))

        self.serve(ADAPTER_TRAINED, "deployer", handle)

    def run(self) -> None:
        """Everything that waits, to the end; a batch is sealed where something new was assessed."""
        self.collect()
        self.assess()
        self.seal()
        self.train()
        self.deploy()

    # What an audit sees.

    async def snapshot(self) -> Snapshot:
        topics: defaultdict[str, dict[int, int]] = defaultdict(dict)
        for name in READING_ORDER:
            topics[name][0] = self.ends[name, 0]
        for (name, number), end in list(self.ends.items()):
            topics[name][number] = end
        return Snapshot(
            cluster=CLUSTER,
            taken_at_ms=self.now_ms,
            begins={name: {number: self.begins.get((name, number), 0) for number in ends} for name, ends in topics.items()},
            ends=dict(topics),
            committed=dict(self.committed),
            whole_since_ms=self.whole_since_ms,
        )

    async def read(self, topic: str, snapshot: Snapshot) -> AsyncIterator[Sequence[StoredRecord]]:
        for number, end in snapshot.ends[topic].items():
            begin = snapshot.begins[topic][number]
            yield [each for each in self.logs[topic, number] if begin <= each.offset < end]

    async def has_grown(self, topic: str, snapshot: Snapshot) -> bool:
        return any(end > snapshot.ends[topic].get(number, 0) for (name, number), end in self.ends.items() if name == topic)

    def audit(self) -> Report:
        return asyncio.run(judge(self, self.store, store_uri=(self.folder / "store").as_uri()))


def failure(batch: TrainingBatchSealed, reason: str) -> TrainingFailed:
    return TrainingFailed(
        job_id=batch.batch_id,
        batch_id=batch.batch_id,
        target_model=batch.target_model,
        phase="training",
        reason=reason,
        explanation="it fell over",
        failed_at=datetime.now(UTC),
    )


def registration(trained: AdapterTrained, **changed: Any) -> ModelRegistered:
    fields: dict[str, Any] = {
        "target_model": trained.target_model,
        "version": trained.version,
        "number": trained.number,
        "model_name": f"{trained.target_model}-ruminate-{trained.version}",
        "alias": f"{trained.target_model}-ruminate",
        "parent_version": trained.parent_version,
        "base_model": trained.base_model,
        "batch_id": trained.batch_id,
        "dataset": trained.dataset,
        "adapter": trained.adapter,
        "weights": trained.gguf[0].file,
        "stages": trained.stages,
        "settings": {},
        "metrics": {},
        "nodes": (),
        "probes": (),
        "capabilities": (),
        "registered_at": datetime.now(UTC),
    }
    return ModelRegistered(**fields | changed)


def refusal(trained: AdapterTrained) -> ModelRolledBack:
    return ModelRolledBack(
        target_model=trained.target_model,
        version=trained.version,
        serving_version=None,
        stage="probe",
        reason="it does not think",
        rolled_back_at=datetime.now(UTC),
    )


def header(record: StoredRecord, name: str) -> str:
    return dict(record.headers)[name].decode()


def with_header(record: StoredRecord, **changed: str) -> Headers:
    """The record's headers, some of them changed."""
    return [(name, changed[name].encode() if name in changed else raw) for name, raw in record.headers]


def with_fields(record: StoredRecord, **changed: Any) -> bytes:
    """The record's value, some fields of it changed."""
    return orjson.dumps(orjson.loads(record.value or b"") | changed)


def sound(folder: Path, *, interactions: Iterable[str] = ("a", "b", "c", "d")) -> History:
    """Two batches: one serves, the other waits for the trainer."""
    history = History(folder)
    history.complete(*interactions)
    history.run()
    history.complete("e", "f")
    history.collect()
    history.assess()
    history.seal()
    return history


def curated(folder: Path) -> History:
    """Two batches with all that a dataset can hold: rows held out, rehearsed rows, pairs, questions, what teaches without a row.

    They lie in the store, and nothing was trained yet. Interactions have distinct questions; `w` was answered wrongly.
    """
    history = History(folder, settings=SETTINGS.model_copy(update={"holdout_ratio": 0.4}))
    for first in (0, 10):
        for number in range(first, first + 10):
            history.complete(f"i-{number}", messages=(Message(role="user", content=question(number)),))
        history.corrections |= {f"i-{number}": "four" for number in (first, first + 3)}
        wrong = Response(content="7", thinking="It must be 7.")
        history.complete(f"w-{first}", messages=(Message(role="user", content=question(first + 500)),), response=wrong)
        history.collect()
        history.assess()
        history.seal()
    return history
