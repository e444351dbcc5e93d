"""What an audit finds: faults, what is listed apart from them, and counts. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, get_args

from ruminate.schemas.envelope import moment
from ruminate.shared.record import Position

FaultKind = Literal[
    "missing_effect",
    "two_ids",
    "id_not_derived",
    "two_contents",
    "unknown_cause",
    "wrong_partition",
    "unreadable",
    "log_cut",
    "chain_broken",
    "revision_broken",
    "not_forgotten",
    "fresh_twice",
    "offset_unaccounted",
    "dataset_differs",
    "row_differs",
    "replay_differs",
    "leaked",
    "below_ratio",
    "not_validated",
    "no_consent",
    "artifact_missing",
    "artifact_damaged",
    "trained_twice",
    "registered_twice",
    "two_results",
    "contradicts_cause",
]
FAULT_KINDS: Final[tuple[FaultKind, ...]] = get_args(FaultKind)

ApartKind = Literal["older", "erased", "standing", "dropped", "replayed", "rivals", "unrevised"]

FAULTS_KEPT: Final = 1000
"""Of each kind so many are kept with their place; beyond, they are counted."""


@dataclass(frozen=True)
class Advice:
    """What a fault means and what to do, a sentence each; more is in docs/runbooks/audit.md."""

    means: str
    do: str


ADVICE: Final[Mapping[FaultKind, Advice]] = {
    "missing_effect": Advice(
        "Its reader has acknowledged the record, and neither what follows from it nor a dead letter is there.",
        "Send the original again under its id: what exists already is not doubled. Then ask who lost an acknowledged write.",
    ),
    "two_ids": Advice(
        "One subject has events under two ids, so readers count it twice.",
        "Find the writer of the later one by its ce_source; nothing but this project's services may write there.",
    ),
    "id_not_derived": Advice(
        "The event's id is not the one that its cause gives, so a redelivery would count as another event.",
        "Find the writer by its ce_source: it is foreign, or of a version that derives ids otherwise.",
    ),
    "two_contents": Advice(
        "One id has two contents where equal input must give equal bytes; readers keep the first, compaction the last.",
        "For interactions, give what was sent second an id of its own. For verdicts, look for replicas with unequal code.",
    ),
    "unknown_cause": Advice(
        "The event says that it follows from one that is not in the log, and the log still holds that time.",
        "Find the writer by its ce_source; if nobody forged it, the cause's topic has lost records.",
    ),
    "wrong_partition": Advice(
        "The event lies where its readers do not look for it, or out of order with its like.",
        "Find the writer: it partitions by something else than the ordering key by murmur2. Then erase the record.",
    ),
    "unreadable": Advice(
        "The record is no event of its topic and nobody makes dead letters there, or it is no dead letter of its reader.",
        "Find the writer and take its right to write to this topic away; readers pass the record over.",
    ),
    "log_cut": Advice(
        "A reader has acknowledged offsets that the log does not reach: records are gone from its end, whatever they were.",
        "Find what lost acknowledged writes: an unclean leader election, a disk, a copy older than the groups' offsets.",
    ),
    "chain_broken": Advice(
        "The batch extends no chain: its number, predecessor or interval does not follow, so nobody takes it for a batch.",
        "Stop the accumulator, look for a second writer of batches or for a log that was cut, and seal anew from the last batch.",
    ),
    "revision_broken": Advice(
        "The revision follows no dataset: its batch, its number or what it replaces is another, so everybody ignores it.",
        "Find the writer by its ce_source; nothing but the accumulator may write there. Then look whether the store holds more.",
    ),
    "not_forgotten": Advice(
        "The store holds something that somebody asked to forget, an hour after that or more, or though it is said to be gone.",
        "Ask the accumulator why (its /readyz names what is still there); what it finds at its next start, it removes.",
    ),
    "fresh_twice": Advice(
        "An interaction was taken as new into two batches of one target, so the model learned it twice as if it were two.",
        "Keep the later version from serving until it is retrained on a batch without these rows.",
    ),
    "offset_unaccounted": Advice(
        "The manifest does not say what became of a record of its interval, says what is not so, or speaks of another or twice.",
        "The record reached no decision: rebuild the dataset and compare. A manifest written by hand does this, too.",
    ),
    "dataset_differs": Advice(
        "The dataset in the store is not the one that its batch announces.",
        "Restore it from another copy, or rebuild it from its cut; versions trained on it are in doubt.",
    ),
    "row_differs": Advice(
        "A row names an offset, event or hash that is not the log's, so its lineage leads elsewhere.",
        "Rebuild the dataset from its cut and compare; versions trained on it are in doubt.",
    ),
    "replay_differs": Advice(
        "A rehearsed row is not the line that was trained in the batch that it names, so nobody knows where it comes from.",
        "Rebuild the dataset and compare; versions trained on it are in doubt.",
    ),
    "leaked": Advice(
        "Something is held out in a chain and taught in it, too, so what is measured on it means nothing.",
        "Do not trust the comparison of versions from there on; find out how it came in before the next batch is sealed.",
    ),
    "below_ratio": Advice(
        "Fewer rows reason than the batch's own policy demands, so the model may unlearn to think.",
        "Rebuild the dataset and compare; watch what the version that learned it says about thinking.",
    ),
    "not_validated": Advice(
        "The report on the dataset is missing or says that a check did not pass; such a batch is never sealed.",
        "Find out who sealed it, and keep the version that learned it from serving until the check passes.",
    ),
    "no_consent": Advice(
        "Something was taught although the interaction does not allow training.",
        "Take the versions that learned it out of service, and ask how the row came in.",
    ),
    "artifact_missing": Advice(
        "A batch or version names an artifact that is not in the store.",
        "Restore the file that is named; a dataset can also be rebuilt from its cut.",
    ),
    "artifact_damaged": Advice(
        "An artifact does not have the bytes that its hash names.",
        "Restore it from another copy, and look at the disk.",
    ),
    "trained_twice": Advice(
        "Two batches claim one version, so its lineage is not one.",
        "Look for a second trainer with other code; retrain the later batch under its own number.",
    ),
    "registered_twice": Advice(
        "A version is registered with two contents; readers keep the first, nodes may serve the second.",
        "Compare the nodes' digests with the first registration and deploy that one again.",
    ),
    "two_results": Advice(
        "One cause has two results that exclude each other.",
        "The first in time counts. Look for two owners of one partition: a frozen service that came back.",
    ),
    "contradicts_cause": Advice(
        "A result names another batch, dataset, version or file than what it follows from.",
        "The lineage of this version is broken: take it out of service and deploy from its own batch.",
    ),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that must not be."""

    kind: FaultKind
    topic: str
    partition: int
    offset: int
    event_id: str
    detail: str


@dataclass(slots=True)
class Listed:
    """How many, and the first of them for people."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, says: str) -> None:
        self.count += 1
        if len(self.first) < FAULTS_KEPT:
            self.first.append(says)


@dataclass(slots=True)
class TopicCounts:
    """What a topic holds: all records, those that repeat an earlier one, and those that an earlier one supersedes."""

    records: int = 0
    repeats: int = 0
    superseded: int = 0


class Findings:
    """Gathers while the log is read."""

    def __init__(self) -> None:
        self.topics: defaultdict[str, TopicCounts] = defaultdict(TopicCounts)
        self.pending: Counter[str] = Counter()
        self.listed: defaultdict[ApartKind, Listed] = defaultdict(Listed)
        self.fault_counts: Counter[FaultKind] = Counter()
        self.faults: list[Fault] = []

    def accuse(self, kind: FaultKind, position: Position, event_id: str, detail: str) -> None:
        """Note a fault."""
        self.fault_counts[kind] += 1
        if self.fault_counts[kind] <= FAULTS_KEPT:
            self.faults.append(Fault(kind, position.topic, position.partition, position.offset, event_id, detail))

    def set_apart(self, kind: ApartKind, says: str) -> None:
        """List what is no fault and still worth knowing."""
        self.listed[kind].add(says)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The outcome of an audit. `whole_since_ms`: topics without their beginning, and since when they are whole."""

    taken_at_ms: int
    whole_since_ms: Mapping[str, int]
    absent_topics: tuple[str, ...]
    topics: Mapping[str, TopicCounts]
    pending: Mapping[str, int]
    apart: Mapping[ApartKind, Listed]
    fault_counts: Mapping[FaultKind, int]
    faults: tuple[Fault, ...]
    batches: int
    rows: int
    artifacts: int
    revisions: int = 0
    """How often erasures have taken lines out of their datasets."""

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.fault_counts

    @property
    def horizon(self) -> datetime | None:
        """From when on every topic is whole; None where all of them still have their beginning."""
        return moment(max(self.whole_since_ms.values())) if self.whole_since_ms else None

    def kinds(self) -> set[str]:
        """The kinds of fault that were found."""
        return set(self.fault_counts)

    def as_json(self) -> dict[str, Any]:
        """The whole report as JSON values."""
        return {
            "clean": self.clean,
            "taken_at": moment(self.taken_at_ms).isoformat(),
            "horizon": self.horizon.isoformat() if self.horizon else None,
            "whole_since": {topic: moment(since).isoformat() for topic, since in self.whole_since_ms.items()},
            "absent_topics": list(self.absent_topics),
            "topics": {name: asdict(counts) for name, counts in self.topics.items()},
            "pending": dict(self.pending),
            "apart": {kind: asdict(listed) for kind, listed in self.apart.items()},
            "batches": self.batches,
            "rows": self.rows,
            "artifacts": self.artifacts,
            "revisions": self.revisions,
            "fault_counts": dict(self.fault_counts),
            "faults": [asdict(fault) | asdict(ADVICE[fault.kind]) for fault in self.faults],
        }
