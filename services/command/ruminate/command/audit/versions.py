"""Batches, versions and registrations: one chain a target, one accepted result each. Pure.

    sealed  -- trainer -->  trained or failed      trained  -- deployer -->  registered or rolled back
    failed, and a word that it be tried again  -- trainer -->  trained or failed, at the next attempt

The first record in the log that extends a chain is its next batch, the first that follows its last revision is a dataset's next
one, and the first result of an attempt at a batch counts. Clocks and nodes
are asked on the way, so the same id may come with other bytes: it is superseded by the first. A second batch of the same
number is a rival: two accumulators were at it, and everyone ignores the later one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from ruminate.accumulator.sealing.chain import BEGINNING, Link
from ruminate.command.audit import facts
from ruminate.command.audit.debts import OWED, PENDING, SETTLED, TOO_OLD, Debts, judge_unreadable
from ruminate.command.audit.facts import Told
from ruminate.command.audit.findings import Findings
from ruminate.command.audit.forgotten import Forgetting
from ruminate.command.audit.letters import Input
from ruminate.command.audit.snapshot import Snapshot
from ruminate.schemas.batch import DatasetRevised, TrainingBatchSealed, as_revised, follows
from ruminate.schemas.envelope import derive_event_id
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    DATASET_REVISED,
    ERASURE_REQUESTED,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    TRAINING_BATCH_SEALED,
    TRAINING_DIRECTED,
    TRAINING_FAILED,
)
from ruminate.schemas.model import ModelRegistered, ModelRolledBack
from ruminate.schemas.payload import ArtifactReference, Payload
from ruminate.schemas.topic import Topic
from ruminate.schemas.training import AdapterTrained, TrainingDirected, TrainingFailed
from ruminate.shared.record import Position, Record

P = TypeVar("P", bound=Payload)
Subject = tuple[str, ...]

ASSESSOR_SOURCE: Final = "/ruminate/assessor"
ACCUMULATOR_SOURCE: Final = "/ruminate/accumulator"

_SOURCES: Final = {TRAINING_BATCH_SEALED.name: ACCUMULATOR_SOURCE, ADAPTER_TRAINED.name: "/ruminate/trainer"}
_READERS: Final = {TRAINING_BATCH_SEALED.name: "trainer", ADAPTER_TRAINED.name: "deployer"}
_BEFORE_IT_SERVED: Final = frozenset({"upload", "create", "probe", "alias"})


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file or folder that an event names."""

    reference: ArtifactReference
    named_by: Position
    event_id: str
    what: str


@dataclass(frozen=True, slots=True)
class Held:
    """A batch with the dataset that it has by now, and the revisions that led to it. Who made the dataset is who is told of."""

    batch: Told[TrainingBatchSealed]
    artifact: Artifact
    revisions: tuple[Told[DatasetRevised], ...] = ()

    @property
    def revised(self) -> DatasetRevised | None:
        """The last revision."""
        return self.revisions[-1].payload if self.revisions else None


class Versions:
    """What a model went through, from the batch to the node. Take everything, then `judge`."""

    def __init__(self, snapshot: Snapshot, debts: Debts, forgetting: Forgetting, findings: Findings) -> None:
        self._snapshot = snapshot
        self._debts = debts
        self._forgetting = forgetting
        self._findings = findings
        self._owed: dict[tuple[str, str], int] = {}
        self._doubled: set[str] = set()
        self._sent_back: list[tuple[Topic[Any], Input, int, Told[Any] | None]] = []
        self._sealed: list[Told[TrainingBatchSealed]] = []
        self._revised: list[Told[DatasetRevised]] = []
        self._trained: list[Told[AdapterTrained]] = []
        self._failed: list[Told[TrainingFailed]] = []
        self._directed: list[Told[TrainingDirected]] = []
        self._registered: list[Told[ModelRegistered]] = []
        self._rolled_back: list[Told[ModelRolledBack]] = []
        self._lists: dict[str, list[Any]] = {
            TRAINING_BATCH_SEALED.name: self._sealed,
            DATASET_REVISED.name: self._revised,
            ADAPTER_TRAINED.name: self._trained,
            TRAINING_FAILED.name: self._failed,
            TRAINING_DIRECTED.name: self._directed,
            MODEL_REGISTERED.name: self._registered,
            MODEL_ROLLED_BACK.name: self._rolled_back,
        }
        self.links: dict[tuple[str, str], Link] = {}
        self.batches: list[Told[TrainingBatchSealed]] = []
        self.revisions: dict[Subject, list[Told[DatasetRevised]]] = {}
        """By batch, oldest first."""
        self.artifacts: list[Artifact] = []
        self.datasets: list[Held] = []

    def take(self, topic: Topic[Any], record: Record) -> None:
        """Take in a record of one of the seven topics."""
        position = Position(topic.name, record.partition, record.offset)
        told = facts.told(topic, record)
        reader = _READERS.get(topic.name)
        given_up = False
        if reader is not None:
            given = Input(reader, topic.name, record.partition, record.offset)
            given_up = self._debts.given_up(given)
            self._owe(topic, given, record.timestamp, told)
        elif told is None:
            self._findings.accuse("unreadable", position, "", "no event of this topic")
        if told is None:
            return
        if told.placed:
            self._lists[topic.name].append(told)
        elif not given_up:
            self._findings.accuse("wrong_partition", position, told.event_id, "its target is in another partition")

    def take_sent_back(self, topic: Topic[Any], given: Input, record: Record) -> None:
        """A dead letter was sent back: what its reader owes for it is owed from there on."""
        self._sent_back.append((topic, given, record.timestamp, facts.told(topic, record)))

    def _owe(self, topic: Topic[Any], given: Input, at_ms: int, told: Told[Any] | None) -> None:
        debt = self._debts.of(topic, given, at_ms)
        if told is not None:
            place = (topic.name, told.event_id)
            self._owed[place] = self._owed.get(place, SETTLED) | debt
        else:
            judge_unreadable(self._findings, given, debt)

    # Judging.

    def judge(self) -> None:
        """Follow every chain from its first batch to what serves."""
        for sent_back in self._sent_back:
            self._owe(*sent_back)
        sealed = self._follow_chains()
        self._follow_revisions()
        accepted = {_of_batch(batch) for batch in self.batches}
        trained, failed = self._firsts(self._trained, _of_batch), self._firsts(self._failed, _of_attempt)
        failures: dict[Subject, list[Told[TrainingFailed]]] = {}
        for failure in failed.values():
            failures.setdefault(_of_batch(failure), []).append(failure)
        self._check_attempts([*trained.values(), *failed.values()], failed)
        for batch in self.batches:
            # A batch may end with a repeat of the record that ended the one before it: its number tells the two apart.
            self._check_id(batch, ASSESSOR_SOURCE, ordinals=(0, batch.payload.number))
            self.datasets.append(self._held(batch))
            self._judge_batch(batch, trained.get(_of_batch(batch)), failures.get(_of_batch(batch), []))
        self._check_versions(trained)
        for subject, result in trained.items():
            cause = self._cause_of(result, sealed, TRAINING_BATCH_SEALED, ordinal=result.payload.attempt - 1)
            if cause is not None:
                self._check_trained(result, cause.payload, in_chain=subject in accepted)
        for failure in failed.values():
            cause = self._cause_of(failure, sealed, TRAINING_BATCH_SEALED, ordinal=failure.payload.attempt - 1)
            if cause is not None and failure.payload.batch_id != cause.payload.batch_id:
                self._contradicts(failure, f"batch {failure.payload.batch_id}, its cause {cause.payload.batch_id}")
        self._judge_deployments({result.event_id: result for subject, result in trained.items() if subject in accepted})

    def _follow_chains(self) -> dict[str, Told[TrainingBatchSealed]]:
        """Find the batches; give the first record of every id."""
        firsts: dict[str, Told[TrainingBatchSealed]] = {}
        for told in self._sealed:
            sealed = told.payload
            key = (sealed.tenant, sealed.target_model)
            link = self.links.get(key, BEGINNING)
            first = firsts.setdefault(told.event_id, told)
            if link.extended_by(sealed, partition=told.position.partition):
                self.links[key] = Link.end_of(sealed)
                self.batches.append(told)
                if first is not told:
                    detail = f"{first.payload.batch_id} has this id, too"
                    self._findings.accuse("two_contents", told.position, told.event_id, detail)
            elif first is not told:
                self._count_again(first, told)
            elif sealed.number <= link.number:
                place = f"{told.position.partition}:{told.position.offset}"
                self._findings.set_apart("rivals", f"{told.position.topic} {place} {sealed.batch_id}")
            else:
                ends = f"the chain ends with number {link.number} at offset {link.to_offset}"
                begins = f"this is number {sealed.number} after {sealed.previous_batch_id} and offset {sealed.after_offset}"
                self._findings.accuse("chain_broken", told.position, told.event_id, f"{ends}; {begins}")
        return firsts

    def _follow_revisions(self) -> None:
        """Find the revisions of each dataset. Whoever came second was ignored, as with batches."""
        batches = {_of_batch(batch): batch.payload for batch in self.batches}
        firsts: dict[str, Told[DatasetRevised]] = {}
        for told in self._revised:
            revised, key = told.payload, _of_batch(told)
            batch, known = batches.get(key), self.revisions.get(key, [])
            first = firsts.setdefault(told.event_id, told)
            current = known[-1].payload.dataset if known else batch.dataset if batch else None
            if batch is not None and revised.number == batch.number and follows(revised, current, len(known)):
                self.revisions.setdefault(key, []).append(told)
                self._check_revision(told)
            elif first is not told:
                self._count_again(first, told)
            elif revised.revision <= len(known):
                place = f"{told.position.partition}:{told.position.offset}"
                says = f"{told.position.topic} {place} {revised.batch_id}, revision {revised.revision}"
                self._findings.set_apart("rivals", says)
            else:
                has = "no batch has this id" if batch is None else f"batch {batch.number} has revision {len(known)}"
                has += "" if current is None else f", dataset {current.sha256[:12]}"
                detail = f"{has}; this is revision {revised.revision} of batch {revised.number} ({revised.batch_id}) in place of "
                detail += revised.replaces.sha256[:12]
                self._findings.accuse("revision_broken", told.position, told.event_id, detail)

    def _check_revision(self, told: Told[DatasetRevised]) -> None:
        revised = told.payload
        derived = derive_event_id(
            tenant=revised.tenant,
            cause_source=ACCUMULATOR_SOURCE,
            cause_id=f"{revised.batch_id}/{revised.revision}",
            topic=DATASET_REVISED.name,
        )
        if told.event_id != str(derived):
            detail = f"it is revision {revised.revision} of {revised.batch_id}, which gives another id"
            self._findings.accuse("id_not_derived", told.position, told.event_id, detail)
        for erasure_id in revised.erasure_ids:
            if self._forgetting.knows(erasure_id):
                continue
            if self._snapshot.may_have_lost(ERASURE_REQUESTED.name, told.at_ms):
                place = f"{told.position.partition}:{told.position.offset}"
                self._findings.set_apart("older", f"{told.position.topic} {place} follows from {erasure_id}")
            else:
                detail = f"nobody asked for {erasure_id}, for which lines have left the dataset of {revised.batch_id}"
                self._findings.accuse("unknown_cause", told.position, told.event_id, detail)

    def _held(self, batch: Told[TrainingBatchSealed]) -> Held:
        """The dataset that the batch has by now. The one it was sealed with is gone, and so is each revision but the last."""
        what = f"dataset of {batch.payload.batch_id}"
        revisions = tuple(self.revisions.get(_of_batch(batch), ()))
        if not revisions:
            return Held(batch, self._name_artifact(batch.payload.dataset, batch, what))
        last = revisions[-1]
        artifact = self._name_artifact(last.payload.dataset, last, f"{what}, revision {last.payload.revision}")
        payload = as_revised(batch.payload, last.payload)
        told = replace(batch, position=last.position, event_id=last.event_id, at_ms=last.at_ms, payload=payload)
        return Held(told, artifact, revisions)

    def _firsts(self, events: Iterable[Told[P]], subject_of: Callable[[Told[P]], Subject]) -> dict[Subject, Told[P]]:
        """The first event of each subject. What comes under its id later repeats it or is superseded; another id is a fault."""
        firsts: dict[Subject, Told[P]] = {}
        for told in events:
            first = firsts.setdefault(subject_of(told), told)
            if first is told:
                continue
            if first.event_id == told.event_id:
                self._count_again(first, told)
            else:
                self._doubled |= {first.event_id, told.event_id}
                self._findings.accuse("two_ids", told.position, told.event_id, f"{first.event_id} is of the same subject before it")
        return firsts

    def _count_again(self, first: Told[Any], again: Told[Any]) -> None:
        counts = self._findings.topics[again.position.topic]
        if first.digest == again.digest:
            counts.repeats += 1
        elif isinstance(again.payload, ModelRegistered) and _lineage(first.payload) != _lineage(again.payload):
            self._findings.accuse("registered_twice", again.position, again.event_id, "an earlier record names other contents")
        else:
            counts.superseded += 1

    def _check_attempts(
        self, results: Iterable[Told[AdapterTrained] | Told[TrainingFailed]], failed: Mapping[Subject, Told[TrainingFailed]]
    ) -> None:
        """A batch is tried again where its attempt before has failed, and an operator has said so."""
        said = {
            (told.payload.tenant, told.payload.target_model, told.payload.batch_id or "", str(told.payload.attempt))
            for told in self._directed
            if told.payload.direction == "retry"
        }
        for result in results:
            if result.payload.attempt == 1:
                continue
            answered = (*_of_batch(result), str(result.payload.attempt - 1))
            if answered in said and answered in failed:
                continue
            lost = any(self._snapshot.may_have_lost(topic.name, result.at_ms) for topic in (TRAINING_DIRECTED, TRAINING_FAILED))
            lacks = "nobody has asked for it" if answered in failed else f"attempt {result.payload.attempt - 1} has not failed"
            if lost:
                place = f"{result.position.partition}:{result.position.offset}"
                self._findings.set_apart("older", f"{result.position.topic} {place}: {lacks}")
            else:
                detail = f"attempt {result.payload.attempt} at {result.payload.batch_id}: {lacks}"
                self._findings.accuse("unknown_cause", result.position, result.event_id, detail)

    def _judge_batch(
        self, batch: Told[TrainingBatchSealed], trained: Told[AdapterTrained] | None, failures: Iterable[Told[TrainingFailed]]
    ) -> None:
        failed = list(failures)
        for failure in failed:
            # A failure that was retried has its version behind it.
            if trained is not None and failure.payload.attempt >= trained.payload.attempt:
                detail = f"{batch.payload.batch_id} failed and was trained, too"
                self._findings.accuse("two_results", failure.position, failure.event_id, detail)
        if trained is None and not failed:
            self._judge_debt(batch, f"{batch.payload.batch_id} was neither trained nor did it fail")

    def _judge_debt(self, told: Told[Any], says: str) -> None:
        debt, reader = self._owed.get((told.position.topic, told.event_id), 0), _READERS[told.position.topic]
        if debt & OWED:
            detail = f"{says}; {reader} has acknowledged it, and no dead letter explains that"
            self._findings.accuse("missing_effect", told.position, told.event_id, detail)
        elif debt & TOO_OLD:
            self._findings.set_apart("older", f"{says}, and its dead letter may have expired")
        elif debt & PENDING:
            self._findings.pending[reader] += 1

    def _check_versions(self, trained: Mapping[Subject, Told[AdapterTrained]]) -> None:
        batches: dict[Subject, Told[AdapterTrained]] = {}
        for result in trained.values():
            first = batches.setdefault(_of_version(result), result)
            if first is not result:
                detail = f"{result.payload.version} is of {first.payload.batch_id} already"
                self._findings.accuse("trained_twice", result.position, result.event_id, detail)

    def _check_trained(self, result: Told[AdapterTrained], batch: TrainingBatchSealed, *, in_chain: bool) -> None:
        trained = result.payload
        # A job that began before an erasure has learned from what the dataset was then.
        revisions = (told.payload.dataset for told in self.revisions.get((batch.tenant, batch.target_model, batch.batch_id), ()))
        datasets = {batch.dataset.sha256, *(dataset.sha256 for dataset in revisions)}
        if (trained.batch_id, trained.number) != (batch.batch_id, batch.number) or trained.dataset.sha256 not in datasets:
            said = f"batch {trained.batch_id}, number {trained.number}, dataset {trained.dataset.sha256[:12]}"
            cause = f"batch {batch.batch_id}, number {batch.number}, dataset {batch.dataset.sha256[:12]}"
            self._contradicts(result, f"{said}; its cause {cause}")
        elif not in_chain:
            self._contradicts(result, f"batch {trained.batch_id}, which is in no chain")
        self._name_artifact(trained.adapter, result, f"adapter of {trained.version}")
        for file in trained.gguf:
            self._name_artifact(file.file, result, f"{file.holds} of {trained.version} in {file.encoding}")

    def _judge_deployments(self, trained: Mapping[str, Told[AdapterTrained]]) -> None:
        """`trained` by event id: the accepted results."""
        registered = self._firsts(self._registered, _of_version)
        refused = self._firsts((told for told in self._rolled_back if told.payload.stage in _BEFORE_IT_SERVED), _of_version)
        for told in registered.values():
            version = self._cause_of(told, trained, ADAPTER_TRAINED)
            if version is not None and _lineage(told.payload) not in _lineages(version.payload):
                self._contradicts(told, "a batch, version or file that is not its cause's")
        for subject, rolled_back in refused.items():
            version = self._cause_of(rolled_back, trained, ADAPTER_TRAINED)
            if version is not None and version.payload.version != rolled_back.payload.version:
                self._contradicts(rolled_back, f"{rolled_back.payload.version}, its cause {version.payload.version}")
            if subject in registered:
                detail = f"{rolled_back.payload.version} was refused before it served, and registered, too"
                self._findings.accuse("two_results", rolled_back.position, rolled_back.event_id, detail)
        for version in trained.values():
            if _of_version(version) not in registered and _of_version(version) not in refused:
                self._judge_debt(version, f"{version.payload.version} was neither registered nor rolled back")

    def _cause_of(self, told: Told[Any], causes: Mapping[str, Told[P]], topic: Topic[P], *, ordinal: int = 0) -> Told[P] | None:
        """What an event follows from, of this topic. None where that is not known, and said."""
        if told.event_id in self._doubled or not self._check_id(told, _SOURCES[topic.name], ordinals=(ordinal,)):
            return None
        cause = causes.get(told.cause or "")
        if cause is None and self._snapshot.may_have_lost(topic.name, told.at_ms):
            place = f"{told.position.partition}:{told.position.offset}"
            self._findings.set_apart("older", f"{told.position.topic} {place} follows from {told.cause}")
        elif cause is None:
            self._findings.accuse("unknown_cause", told.position, told.event_id, f"no accepted event has the id {told.cause}")
        return cause

    def _check_id(self, told: Told[Any], cause_source: str, *, ordinals: tuple[int, ...] = (0,)) -> bool:
        tenant, cause, topic = told.payload.tenant, told.cause or "nothing", told.position.topic
        derived = {
            str(derive_event_id(tenant=tenant, cause_source=cause_source, cause_id=cause, topic=topic, ordinal=ordinal))
            for ordinal in ordinals
        }
        if told.cause is not None and told.event_id in derived:
            return True
        self._findings.accuse("id_not_derived", told.position, told.event_id, f"it follows from {cause}, which gives another id")
        return False

    def _contradicts(self, told: Told[Any], says: str) -> None:
        self._findings.accuse("contradicts_cause", told.position, told.event_id, f"it names {says}")

    def _name_artifact(self, reference: ArtifactReference, told: Told[Any], what: str) -> Artifact:
        artifact = Artifact(reference, told.position, told.event_id, what)
        self.artifacts.append(artifact)
        return artifact


def _of_batch(told: Told[Any]) -> Subject:
    return (told.payload.tenant, told.payload.target_model, told.payload.batch_id)


def _of_attempt(told: Told[TrainingFailed]) -> Subject:
    return (*_of_batch(told), str(told.payload.attempt))


def _of_version(told: Told[Any]) -> Subject:
    return (told.payload.tenant, told.payload.target_model, told.payload.version)


def _lineage(model: ModelRegistered) -> Subject:
    """What of a registration is no matter of clocks and nodes."""
    return (*_origin(model), model.weights.sha256)


def _lineages(trained: AdapterTrained) -> set[Subject]:
    """What a registration of this version may say, one for each of its files."""
    return {(*_origin(trained), file.file.sha256) for file in trained.gguf}


def _origin(model: AdapterTrained | ModelRegistered) -> Subject:
    parent = "" if model.parent_version is None else model.parent_version
    return (model.batch_id, model.version, str(model.number), parent, model.dataset.sha256, model.adapter.sha256)
