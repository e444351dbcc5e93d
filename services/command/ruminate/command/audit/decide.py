"""Records in, findings out: was anything lost or doubled between an answer and the version that it taught? Pure.

    take (every record, in READING_ORDER)  ->  link  ->  take_artifact, take_dataset, … (what the store says)  ->  report

It counts by event id, the first offset of an id wins. What comes under an id again is a *repeat* (the same bytes),
*superseded* (other bytes where the outside was asked: clocks, training, nodes, a choice of rules) or a *fault*. An input at
or beyond what its reader has committed is *pending*, and no fault. Everything else that is no fault and worth knowing is
listed apart: causes older than the horizon, what was erased or is about to be, dead letters and what became of them, rivals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ruminate.accumulator.erasure.revise import Named
from ruminate.command.audit import facts
from ruminate.command.audit.datasets import Datasets
from ruminate.command.audit.debts import Debts
from ruminate.command.audit.facts import Told
from ruminate.command.audit.findings import FaultKind, Findings, Report
from ruminate.command.audit.forgotten import Forgetting
from ruminate.command.audit.interactions import Interactions
from ruminate.command.audit.letters import DeadLetters, Input
from ruminate.command.audit.snapshot import Snapshot
from ruminate.command.audit.versions import Artifact, Held, Versions
from ruminate.command.datasets.soundness import Dataset
from ruminate.schemas.batch import DatasetRevised
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    DATASET_REVISED,
    DEAD_LETTER_SETTLED,
    ERASURE_REQUESTED,
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    REASONING_ASSESSED,
    TRAINING_BATCH_SEALED,
    TRAINING_DIRECTED,
    TRAINING_FAILED,
)
from ruminate.schemas.topic import Topic
from ruminate.shared.letters import BOXES, Box
from ruminate.shared.record import Position, Record

Take = Callable[[Record], None]


class Audit:
    """One cut through the log, judged."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._findings = Findings()
        self._letters = DeadLetters(snapshot)
        self._debts = Debts(snapshot, self._letters)
        self._interactions = Interactions(snapshot, self._debts, self._findings)
        self._forgetting = Forgetting(snapshot, self._findings)
        self._versions = Versions(snapshot, self._debts, self._forgetting, self._findings)
        self._datasets = Datasets(self._interactions, self._forgetting, self._findings)
        self._poison: dict[tuple[str, bytes | None], tuple[Position, str]] = {}
        """What nobody can read among the dead letters, where it stands and why, until it is dropped."""
        self.misses_something = False
        """Whether any dataset was not to be had: an erasure may have revised and removed it since the cut."""
        self._takers: dict[str, Take] = {
            **{box.letters.name: self._taker_of_letters(box) for box in BOXES},
            **{box.retries.name: self._taker_of_retries(box) for box in BOXES},
            **{
                topic.name: self._taker_of_versions(topic)
                for topic in (
                    TRAINING_BATCH_SEALED,
                    DATASET_REVISED,
                    ADAPTER_TRAINED,
                    TRAINING_FAILED,
                    TRAINING_DIRECTED,
                    MODEL_REGISTERED,
                    MODEL_ROLLED_BACK,
                )
            },
            DEAD_LETTER_SETTLED.name: self._take_settled,
            ERASURE_REQUESTED.name: self._take_erasure,
            INTERACTION_COMPLETED.name: self._interactions.take_completed,
            INTERACTION_RECORDED.name: self._interactions.take_recorded,
            REASONING_ASSESSED.name: self._interactions.take_assessed,
        }

    def take(self, topic: str, records: Iterable[Record]) -> None:
        """Take in records of one topic, each partition in its order, the topics in READING_ORDER."""
        take, count = self._takers[topic], 0
        for record in records:
            count += 1
            take(record)
        self._findings.topics[topic].records += count

    def link(self) -> None:
        """Everything is read: join effects to causes. Then the store is asked."""
        for position, why in self._poison.values():
            self._findings.accuse("unreadable", position, "", f"no dead letter: {why}")
        self._judge_ends()
        self._interactions.judge()
        self._versions.judge()
        self._judge_unsealed()
        self._list_letters()

    @property
    def artifacts(self) -> list[Artifact]:
        """What the store must hold, every byte of it; the datasets are among it."""
        return self._versions.artifacts

    @property
    def datasets(self) -> list[Held]:
        """What `take_dataset` wants, in the order of the chains."""
        return self._versions.datasets

    @property
    def replaced(self) -> list[Told[DatasetRevised]]:
        """Revisions, of which each has replaced a dataset that must not be in the store any more: `take_replaced` wants them."""
        return [told for held in self._versions.datasets for told in held.revisions]

    @property
    def forgets(self) -> bool:
        """Whether anybody asked to forget anything: then `take_stray` wants what no chain names."""
        return self._forgetting.last is not None

    def take_dataset(self, held: Held, dataset: Dataset) -> None:
        """A batch's dataset, as it is in the store."""
        self._datasets.take(held, dataset)

    def take_replaced(self, revised: Told[DatasetRevised], *, there: bool) -> None:
        """Whether anything is left where a dataset lay before it was revised."""
        self._forgetting.judge_replaced(revised, there=there)

    def take_stray(self, tenant: str, target: str, named: Iterable[Named], what: str) -> None:
        """What lies in the store and no chain names: replays, and what came second."""
        self._forgetting.judge(tenant, target, named, what)

    def take_unread(self, says: str) -> None:
        """Something lies there that cannot be looked through."""
        self.misses_something = True
        self._forgetting.judge_unread(says)

    def take_artifact(self, artifact: Artifact, fault: FaultKind | None, says: str) -> None:
        """What the store says of an artifact: whole, or what is wrong with it."""
        if fault is not None:
            self.misses_something |= any(held.artifact is artifact for held in self.datasets)
            self._findings.accuse(fault, artifact.named_by, artifact.event_id, f"{artifact.what}: {says}")

    def report(self) -> Report:
        """All that was found."""
        findings = self._findings
        return Report(
            taken_at_ms=self._snapshot.taken_at_ms,
            whole_since_ms=self._snapshot.whole_since_ms,
            absent_topics=self._snapshot.absent_topics,
            topics=dict(findings.topics),
            pending=dict(findings.pending),
            apart=dict(findings.listed),
            fault_counts=dict(findings.fault_counts),
            faults=tuple(findings.faults),
            batches=len(self._versions.batches),
            rows=self._datasets.rows,
            artifacts=len(self.artifacts),
            revisions=len(self.replaced),
        )

    def _taker_of_versions(self, topic: Topic[Any]) -> Take:
        return lambda record: self._versions.take(topic, record)

    def _taker_of_letters(self, box: Box) -> Take:
        topic = box.letters.name

        def take(record: Record) -> None:
            self._poison.pop((topic, record.key), None)  # what comes under its key takes its place
            try:
                self._letters.take_letter(box, record)
            except ValueError as error:
                self._poison[topic, record.key] = (Position(topic, record.partition, record.offset), str(error))

        return take

    def _taker_of_retries(self, box: Box) -> Take:
        topic = box.retries.name
        sent_back: Callable[[Topic[Any], Input, Record], None] = self._take_sent_back
        if box.topic in (TRAINING_BATCH_SEALED, ADAPTER_TRAINED):
            sent_back = self._versions.take_sent_back
        elif box.topic in (INTERACTION_COMPLETED, INTERACTION_RECORDED, REASONING_ASSESSED):
            sent_back = self._interactions.take_sent_back

        def take(record: Record) -> None:
            try:
                self._letters.take_retry(box, record)
            except ValueError as error:
                position = Position(topic, record.partition, record.offset)
                self._findings.accuse("unreadable", position, "", f"nothing that was sent back: {error}")
                return
            sent_back(box.topic, Input(box.reader, topic, record.partition, record.offset), record)

        return take

    def _take_sent_back(self, topic: Topic[Any], given: Input, record: Record) -> None:
        """What is said of answers, or asked to be forgotten, may rightly come to nothing: it is pending until it is read."""
        if not self._debts.read(given):
            self._findings.pending[given.reader] += 1

    def _take_settled(self, record: Record) -> None:
        told = facts.told(DEAD_LETTER_SETTLED, record)
        if told is None:
            self._unreadable(DEAD_LETTER_SETTLED.name, record)
        else:
            self._letters.take_settled(told.payload)

    def _take_erasure(self, record: Record) -> None:
        told = facts.told(ERASURE_REQUESTED, record)
        if told is None:
            self._unreadable(ERASURE_REQUESTED.name, record)
        else:
            self._interactions.erasures.add(told.event_id, told.payload)
            self._forgetting.take(told)

    def _unreadable(self, topic: str, record: Record) -> None:
        position = Position(topic, record.partition, record.offset)
        self._findings.accuse("unreadable", position, "", "no event of this topic")

    def _judge_ends(self) -> None:
        """No reader can have acknowledged what the log does not reach: what is committed was asked for before the ends."""
        for (reader, topic), offsets in self._snapshot.committed.items():
            for partition, offset in offsets.items():
                end = self._snapshot.ends.get(topic, {}).get(partition, 0)
                if offset > end:
                    detail = f"{reader} has acknowledged what lies before offset {offset}, and the partition ends at {end}"
                    self._findings.accuse("log_cut", Position(topic, partition, end), "", detail)

    def _judge_unsealed(self) -> None:
        """What stands behind the end of a chain waits for the next batch; the accumulator must not have acknowledged it."""
        topic, reader = REASONING_ASSESSED, "accumulator"
        for key, log in self._interactions.chains.items():
            link = self._versions.links.get(key)
            for offset in log.between(-1 if link is None else link.to_offset, 2**62):
                if self._debts.read(Input(reader, topic.name, log.partition, offset)):
                    detail = f"{reader} has acknowledged it, and no batch of {key[1]} reaches so far"
                    self._findings.accuse("missing_effect", Position(topic.name, log.partition, offset), "", detail)
                else:
                    self._findings.pending[reader] += 1

    def _list_letters(self) -> None:
        for place, reason in self._letters.standing():
            says = f"{place.reader}: {place.topic} {place.partition}:{place.offset} {reason}"
            self._findings.set_apart("standing", says)
        for place, word in self._letters.settled():
            self._findings.set_apart(word.action, f"{place.reader}: {place.topic} {place.partition}:{place.offset} {word.says}")
