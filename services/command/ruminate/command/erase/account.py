"""How far erasures are, folded from what was asked and what was told of it; and the words for it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from ruminate.schemas.batch import DatasetRevised
from ruminate.schemas.erasure import ErasureRequested, RecordsErased
from ruminate.schemas.flow import DERIVED, ERASABLE, RAW
from ruminate.schemas.marking import Chain, Mark, Step, marks_by_chain, steps
from ruminate.schemas.topic import COMPACTION_LAG, SEGMENT_SPAN
from ruminate.schemas.training import AdapterTrained


@dataclass(frozen=True, slots=True)
class Reach:
    """What an erasure has reached beyond the log: datasets that lost lines for it, and versions that learned from those before."""

    revised: tuple[Step, ...] = ()
    marked: tuple[tuple[Chain, Mark], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "datasets": [
                step.revised.model_dump(
                    mode="json", include={"tenant", "target_model", "batch_id", "number", "revision", "revised_at"}
                )
                | {"erasure_ids": step.erasure_ids, "erased_interactions": step.erased_interactions}
                for step in self.revised
            ],
            "versions": [{"tenant": tenant, "target_model": target, **mark._asdict()} for (tenant, target), mark in self.marked],
        }


def reach_of(erasure_id: str, revised: Sequence[DatasetRevised], trained: Sequence[AdapterTrained]) -> Reach:
    """Where this erasure has taken something out of datasets, and who had learned it; both in the order of the log."""
    chains = sorted({(each.tenant, each.target_model) for each in revised})
    of_chains = [steps(each for each in revised if (each.tenant, each.target_model) == chain) for chain in chains]
    made = [step for by_batch in of_chains for of_batch in by_batch.values() for step in of_batch if erasure_id in step.erasure_ids]
    found = marks_by_chain(trained, revised)
    return Reach(
        tuple(sorted(made, key=lambda step: (step.revised.tenant, step.revised.target_model, step.revised.number))),
        tuple((chain, mark) for chain, marks in sorted(found.items()) for mark in marks if erasure_id in mark.erasure_ids),
    )


State = Literal["asked", "tombstoned", "finished", "withdrawn"]

_CLEANING: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Account:
    """One erasure, or withdrawal of consent."""

    id: str
    request: ErasureRequested
    told: tuple[RecordsErased, ...] = ()

    @property
    def state(self) -> State:
        """How far it is."""
        if self.request.what == "training":
            return "withdrawn"
        if not self.told:
            return "asked"
        return "finished" if any(each.stage == "finished" for each in self.told) else "tombstoned"

    @property
    def erased(self) -> Counter[str]:
        """Records that got a tombstone, by topic."""
        return sum((Counter(each.erased) for each in self.told), Counter())

    @property
    def gone_by(self) -> datetime | None:
        """Until when the bytes of all that could be erased are gone; None where nobody can say yet, or ever."""
        return next((each.gone_by for each in reversed(self.told) if each.stage == "finished"), None)

    @property
    def ends_by(self) -> dict[str, datetime | None]:
        """Until when retention has taken what no tombstone can, by topic, as the last pass has seen it."""
        return dict(self.told[-1].ends_by) if self.told else {}

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "id": self.id,
            "state": self.state,
            "request": self.request.model_dump(mode="json"),
            "erased": dict(sorted(self.erased.items())),
            "ends_by": self.ends_by,
            "gone_by": self.gone_by,
            "unreadable": dict(self.told[-1].unreadable) if self.told else {},
            "passes": [each.model_dump(mode="json", exclude={"tenant", "target_model", "erasure_id"}) for each in self.told],
        }


def accounts_of(asked: Iterable[tuple[str, ErasureRequested]], told: Iterable[tuple[str, RecordsErased]]) -> dict[str, Account]:
    """By id, in the order in which they were asked for: the first record of an id counts, of both kinds."""
    requests: dict[str, ErasureRequested] = {}
    for erasure_id, request in asked:
        requests.setdefault(erasure_id, request)
    events: dict[str, RecordsErased] = {}
    for event_id, event in told:
        events.setdefault(event_id, event)
    by_erasure: dict[str, list[RecordsErased]] = {}
    for event in sorted(events.values(), key=lambda event: (event.pass_number, event.erased_at)):
        by_erasure.setdefault(event.erasure_id, []).append(event)
    ordered = sorted(requests.items(), key=lambda item: (item[1].requested_at, item[0]))
    return {erasure_id: Account(erasure_id, request, tuple(by_erasure.get(erasure_id, ()))) for erasure_id, request in ordered}


def meant(request: ErasureRequested) -> str:
    """What a request is about, in words."""
    target = "" if request.target_model == "*" else f", asked of {request.target_model}"
    source = f" of source {request.interaction_source}" if request.interaction_source else ""
    if request.scope == "tenant":
        return f"everything of tenant {request.tenant}{target}"
    return f"{request.scope} {request.subject}{source} of tenant {request.tenant}{target}"


def forecast(request: ErasureRequested, *, forgets: bool = True) -> Iterator[str]:
    """What will become of it, a line each, before anybody has agreed. `forgets`: whether its broker ever compacts and deletes."""
    asked_at = request.requested_at
    if request.what == "training":
        yield f"No batch from now on learns from {meant(request)}, as far as it occurred until {written(asked_at)}."
        yield "Nothing is erased. For that, ask without --withdraw."
        return
    yield f"Erases {meant(request)}, as far as it occurred until {written(asked_at)}. This cannot be taken back."
    yield f"  tombstones   in {', '.join(topic.name for topic in ERASABLE)} and in the dead letters about them"
    if forgets:
        yield f"  their bytes  gone by about {written(asked_at + 2 * SEGMENT_SPAN + COMPACTION_LAG + _CLEANING)}"
        for topics, what in ((RAW, "as it was sent"), (DERIVED, "digests and figures, no text")):
            for topic in topics:
                ends = asked_at + (topic.retention or timedelta()) + SEGMENT_SPAN
                yield f"  no tombstone in {topic.name} ({what}): gone by {written(ends)} at the latest"
    else:
        yield "  bytes        an embedded broker keeps all in memory, and nothing on a disk: they are gone when it stops"
    if request.scope == "interaction":
        yield "  Later turns that continue it repeat it, and go with it. To be certain, name the conversation."
    yield "  What comes later under the same name is new, and stays."


def summary(account: Account) -> str:
    """One line of a list."""
    request, count = account.request, account.erased.total()
    says = {
        "asked": "asked for, not begun",
        "tombstoned": f"{_records(count)} erased, looked for again after a while",
        "finished": f"{_records(count)} erased, nothing left",
        "withdrawn": "no batch learns from it",
    }[account.state]
    return f"{account.id}  {written(request.requested_at)}  {meant(request)}: {says}"


def details(account: Account, *, now: datetime, reach: Reach = Reach()) -> Iterator[str]:
    """Everything that is known of it, a line each."""
    request = account.request
    yield f"{account.id}  {account.state}"
    yield f"  of            {meant(request)}"
    yield f"  until         {written(request.requested_at)}"
    yield f"  asked by      {request.requested_by}{f': {request.reason}' if request.reason else ''}"
    for event in account.told:
        found = ", ".join(f"{name} {count}" for name, count in event.erased.items()) or "nothing left"
        yield f"  pass {event.pass_number:<8} {written(event.erased_at)}  {found}"
    if account.state == "finished":
        if account.gone_by is None:
            yield "  bytes         nobody can say until when: its broker compacts nothing, or not by a limit of time"
        else:
            past = account.gone_by <= now
            yield f"  bytes         {'gone since' if past else 'gone by'} {written(account.gone_by)}"
    for name, ends in account.ends_by.items():
        if ends is None:
            yield f"  stays         {name}: its retention has no end there; an embedded broker forgets all when it stops"
        elif ends > now:
            yield f"  stays         {name}: until its retention takes it, by {written(ends)}"
    for name, count in (account.told[-1].unreadable if account.told else {}).items():
        yield f"  unreadable    {name}: {_records(count)} of which nobody can say whose they are; they end by retention"
    yield from _reached(reach)


def _reached(reach: Reach) -> Iterator[str]:
    for step in reach.revised:
        revised, count, others = step.revised, step.erased_interactions, len(step.erasure_ids) - 1
        beside = f", for this and {others} other request{'s' * (others != 1)}" if others else ""
        yield (
            f"  dataset       {revised.batch_id} of {revised.tenant}, revision {revised.revision}, {written(revised.revised_at)}: "
            f"{count} interaction{'s' * (count != 1)} left it{beside}"
        )
    for (tenant, target), mark in reach.marked:
        how = f"by {mark.inherited_from}, which was" if mark.inherited_from else "for it was"
        yield (
            f"  version       {mark.version} of {target} ({tenant}) has learned from it, {how} trained on {mark.batch_id} "
            f"before its revision {mark.revision}"
        )


def _records(count: int) -> str:
    return f"{count:,} record{'s' * (count != 1)}"


def written(moment: datetime) -> str:
    """A moment for people."""
    return f"{moment:%Y-%m-%d %H:%M %Z}"
