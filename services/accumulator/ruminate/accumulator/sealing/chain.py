"""Chains: one a tenant and target, each batch an interval of offsets, and the fold over what no batch holds yet. Pure.

The first record of `training-batch-sealed-v1` that extends a chain is its next batch; everyone ignores the others. What
comes after the last cut is folded in the order of the log. The fold keeps no texts, only what the decision to seal needs
of each record (about half a kilobyte); the texts are read again from the log at the cut. It is a fold: the same records
give the same state, whoever reads them and however often they are delivered.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from ruminate.accumulator.curation.digests import DIGEST_BYTES, DigestSet
from ruminate.accumulator.curation.known import Known
from ruminate.accumulator.records.facts import gives_something
from ruminate.accumulator.records.rows import NO_LIMITS, Built, LeftOut, RowLimits, build, shows_something
from ruminate.accumulator.sealing.sample import Counted, Sample, score_of, topic_of
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.batch import TrainingBatchSealed


@dataclass(frozen=True, slots=True)
class Link:
    """The end of a chain: the batch that the next one extends. Number 0 is the beginning, before any batch."""

    number: int = 0
    batch_id: str | None = None
    to_offset: int = -1

    @classmethod
    def end_of(cls, sealed: TrainingBatchSealed) -> Link:
        """The chain ends with this batch."""
        return cls(sealed.number, sealed.batch_id, sealed.to_offset)

    def extended_by(self, sealed: TrainingBatchSealed, *, partition: int) -> bool:
        """Whether this record, the first such in the log, is the next batch."""
        return (
            sealed.number == self.number + 1
            and sealed.previous_batch_id == self.batch_id
            and sealed.after_offset == self.to_offset
            and sealed.to_offset > self.to_offset
            and sealed.assessed_partition == partition
        )


BEGINNING: Final = Link()


def batch_id_of(tenant: str, target: str, number: int) -> str:
    """A name for files, versions and messages, one batch each: `qwen3_8b-000004`.

    A tenant, an upper-case letter or a character that files cannot carry is told apart by eight digits of a hash.
    """
    name = target if tenant == "default" else f"{tenant}-{target}"
    safe = re.sub(r"[^a-z0-9.-]", "_", name.lower())[:60]
    # `:` alone becomes `_`, which no plain name may hold, so that `qwen3:8b` reads well and still collides with nothing.
    plain = tenant == "default" and safe.replace("_", ":") == target and not re.search(r"-[0-9a-f]{8}$", safe) and safe[0] != "."
    if not plain:
        digest = hashlib.sha256(f"{len(tenant)}:{tenant}{target}".encode()).hexdigest()[:8]
        safe = f"{safe.strip('.')}-{digest}"
    return f"{safe}-{number:06d}"


def digest_of(*parts: str) -> bytes:
    """16 bytes that stand for these texts: small in memory, and no content in a manifest."""
    text = ""
    for part in parts:
        text += f"{len(part)}:{part}"
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


@dataclass(frozen=True, slots=True)
class Item:
    """What the fold keeps of one record. `why_not` is None where the record has a row, and only then has it `tokens`."""

    offset: int
    event: bytes
    recorded: bytes
    revision: int
    name: bytes
    continues: bytes | None
    conversation: bytes
    assessed_at: datetime
    reasoning: bool
    why_not: LeftOut | None
    gives: bool = False
    """Whether it may teach something even without a row."""
    tokens: int = 0
    score: int | None = None
    """The hundredth that the overall score lies in."""
    topic: int = 0
    shows: bool = False
    """Whether it has images."""


def contradicts_itself(assessed: ReasoningAssessed) -> bool:
    """Whether the assessment is of another interaction than the one within: such a record belongs to no chain."""
    interaction = assessed.interaction
    said = (assessed.tenant, assessed.target_model, assessed.recorded_id)
    return said != (interaction.tenant, interaction.target_model, interaction.recorded_id)


def item_of(
    assessed: ReasoningAssessed,
    *,
    event_id: str,
    assessed_at: datetime,
    offset: int,
    limits: RowLimits = NO_LIMITS,
) -> Item:
    """Boil one record down to what the fold keeps."""
    interaction = assessed.interaction
    built: Built | LeftOut = build(assessed, limits)
    earlier = interaction.continues_interaction
    return Item(
        offset=offset,
        event=digest_of(event_id),
        recorded=assessed.recorded_id.bytes,
        revision=assessed.revision,
        # Ids are unique within their source, and a conversation is continued by whoever began it.
        name=digest_of(interaction.source, interaction.interaction_id),
        continues=None if earlier in (None, interaction.interaction_id) else digest_of(interaction.source, str(earlier)),
        conversation=digest_of(assessed.tenant, assessed.target_model, interaction.conversation_id),
        assessed_at=assessed_at,
        reasoning=False if isinstance(built, str) else built.reasoning,
        why_not=built if isinstance(built, str) else None,
        gives=gives_something(assessed),
        tokens=0 if isinstance(built, str) else built.tokens,
        score=score_of(assessed.verdict.overall),
        topic=topic_of(interaction),
        shows=shows_something(interaction),
    )


@dataclass(slots=True)
class Sealed:
    """What the batches of a chain hold already, from their manifests."""

    events: DigestSet = field(default_factory=DigestSet)
    interactions: DigestSet = field(default_factory=DigestSet)
    known: Known = field(default_factory=Known)
    sample: Counted | None = None
    """How the interactions of the last batch's interval were."""


class Counts(NamedTuple):
    """Rows that stand ready in a fold; which of them are trained is decided at the cut."""

    reasoning: int = 0
    direct: int = 0

    @property
    def rows(self) -> int:
        """All of them."""
        return self.reasoning + self.direct


@dataclass(slots=True)
class Fold:
    """What was assessed after the last cut of a chain, record by record.

    Of a conversation only the latest kept interaction counts: one that a kept one continues, over however many steps, is
    *continued*. An interaction is *alive* when it has a row itself or when an alive one continues it; counting alive
    continuations makes each record a constant amount of work, whichever order they come in.
    """

    sealed: Sealed
    items: list[Item] = field(default_factory=list)
    waiting_since: datetime | None = None
    _events: set[bytes] = field(default_factory=set)
    _current: dict[bytes, Item] = field(default_factory=dict)
    _named: dict[bytes, Item] = field(default_factory=dict)
    _alive_continuations: dict[bytes, int] = field(default_factory=dict)
    sample: Sample = field(default_factory=Sample)
    _totals: dict[str, int] = field(default_factory=lambda: {"reasoning": 0, "direct": 0})
    _tokens: dict[str, int] = field(default_factory=lambda: {"reasoning": 0, "direct": 0})

    def add(self, item: Item) -> None:
        """Take in the next record of the log."""
        self.items.append(item)
        if item.event in self._events or item.event in self.sealed.events:
            return
        self._events.add(item.event)
        known = self._current.get(item.recorded)
        if known is not None:
            if item.revision <= known.revision:
                return
            self._leave(known)
            self.sample.revise(item.recorded, was=known.score, score=item.score)
        else:
            self.sample.enter(item.conversation, item.recorded, first=not item.revision, score=item.score, topic=item.topic)
        self._current[item.recorded] = item
        self._named[item.name] = item
        has_row = self._has_row(item)
        self._enter(item, has_row=has_row)
        if has_row and self.waiting_since is None:
            self.waiting_since = item.assessed_at

    def counts(self) -> Counts:
        """How many rows stand ready, by kind."""
        totals = self._totals
        return Counts(totals["reasoning"], totals["direct"])

    def tokens(self) -> Counts:
        """How many tokens these rows have, by kind."""
        tokens = self._tokens
        return Counts(tokens["reasoning"], tokens["direct"])

    def judged(self) -> Iterator[tuple[Item, LeftOut | None]]:
        """Every record with the reason why it is left out, or None for a row that stands ready."""
        seen: set[bytes] = set()
        for item in self.items:
            yield item, self._why_not(item, seen)
            seen.add(item.event)

    def after(self, to_offset: int, *, sealed: Sealed, without: Collection[int] = ()) -> Fold:
        """The fold that begins after `to_offset`, without the records at these offsets."""
        rest = Fold(sealed=sealed)
        for item in self.items:
            if item.offset > to_offset and item.offset not in without:
                rest.add(item)
        return rest

    def _why_not(self, item: Item, seen: set[bytes]) -> LeftOut | None:
        if item.event in seen or item.event in self.sealed.events:
            return "duplicate"
        if self._current[item.recorded] is not item:
            return "superseded"
        if item.why_not is not None:
            return item.why_not
        if item.recorded in self.sealed.interactions:
            return "sealed_before"
        return "continued" if self._continued(item.name) else None

    def _has_row(self, item: Item) -> bool:
        return item.why_not is None and item.recorded not in self.sealed.interactions

    def _continued(self, name: bytes) -> bool:
        return name in self._alive_continuations

    def _count(self, item: Item, by: int) -> None:
        kind = "reasoning" if item.reasoning else "direct"
        self._totals[kind] += by
        self._tokens[kind] += by * item.tokens

    def _enter(self, item: Item, *, has_row: bool) -> None:
        continued = self._continued(item.name)
        if has_row and not continued:
            self._count(item, +1)
        if has_row or continued:
            self._continue(item.continues, +1)

    def _leave(self, item: Item) -> None:
        has_row = self._has_row(item)
        if has_row or self._continued(item.name):
            self._continue(item.continues, -1)
        # In a circle it was continued by itself alone, and has only now become one that counts.
        if has_row and not self._continued(item.name):
            self._count(item, -1)

    def _continue(self, name: bytes | None, by: int) -> None:
        """An alive continuation of `name` came (+1) or went (-1): go up the conversation as far as that changes anything."""
        while name is not None:
            before = self._alive_continuations.pop(name, 0)
            if before + by:
                self._alive_continuations[name] = before + by
            if before and before + by:
                return
            item = self._named.get(name)
            if item is None:
                return
            if self._has_row(item):
                self._count(item, -by)
                return
            name = item.continues
