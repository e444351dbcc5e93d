"""What batches made of an interaction: a row, a rehearsal, a pair, a question, an omission, or a salted hash. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ruminate.accumulator.making.manifest import PairOrigin, Rehearsed, Was
from ruminate.accumulator.sealing.chain import digest_of
from ruminate.command.datasets.files import PAIRS
from ruminate.command.why.became import in_short, learned, taught
from ruminate.command.why.facts import Heard, Interaction, Omitted, RowPlace, omission_of, row_of
from ruminate.command.why.tree import Node
from ruminate.command.why.words import check_said, line_facts, line_said
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.flow import REASONING_ASSESSED


def fate_of(interaction: Interaction, heard: Heard[ReasoningAssessed]) -> Node:
    """What a batch made of this record."""
    chain = interaction.chain
    if (place := row_of(interaction, heard)) is not None:
        return _row(place, interaction)
    if (left := omission_of(interaction, heard)) is not None:
        return _left(left)
    offset, batches = heard.position.offset, chain.batches if chain else ()
    batch = next((batch for batch in batches if batch.after_offset < offset <= batch.to_offset), None)
    if batch is None:
        says = "in no batch yet: it lies after the last cut of its chain and waits"
        if interaction.rows:
            says += f"; the next batch leaves it out as sealed_before, for {interaction.rows[0].name} is of the same interaction"
        return Node("waiting", says)
    if chain is not None and batch.batch_id in chain.unreadable:
        return Node("not_known", f"in the interval of {batch.batch_id}, whose manifest cannot be read", gone=True)
    says = f"in the interval of {batch.batch_id} and in no account: its reader gave it up as a dead letter (ruminate dlq list)"
    return Node("unaccounted", says, {"batch_id": batch.batch_id})


def _row(place: RowPlace, interaction: Interaction) -> Node:
    row, batch, chain = place.row, place.batch, interaction.chain
    facts = {
        "row": place.name,
        "batch_id": batch.batch_id,
        "number": batch.number,
        "split": place.split,
        "line": place.line,
        "sha256": row.sha256,
        "origin": row.origin,
        "reasoning": row.reasoning,
        "generated_thinking": row.generated_thinking,
        "domain": row.domain,
        "difficulty": row.difficulty,
        "event_id": row.event_id,
        "place": f"{REASONING_ASSESSED.name} {row.partition}:{row.offset}",
    }
    kind = "reasoning" if row.reasoning else "direct"
    if row.generated_thinking:
        kind += ", its thinking written afterwards"
    if place.split == "holdout":
        says = f"held out in {batch.batch_id}: line {place.line} of holdout.jsonl, {kind}; measured on, never trained"
        return Node("row", says, facts)
    says = f"in {batch.batch_id}: line {place.line} of train.jsonl, {kind}, {row.origin}, sha256 {row.sha256[:12]}"
    return Node("row", says, facts, [*([taught(chain, batch)] if chain else ()), *rehearsed(interaction, place)])


def _left(left: Omitted) -> Node:
    detail = {} if left.detail is None else {"detail": left.detail}
    return Node(
        "left_out",
        f"left out of {left.batch.batch_id}: {left.reason}{f' ({left.detail})' if left.detail else ''}",
        {"batch_id": left.batch.batch_id, "number": left.batch.number, "reason": left.reason, "offset": left.offset} | detail,
    )


def rehearsed(interaction: Interaction, fresh: RowPlace | None) -> Iterator[Node]:
    """The later batches that train this row once more; without one, of rows whose fresh place is not known."""
    # An interaction is fresh in one batch of a chain at most.
    known = {place.batch.batch_id: place for place in interaction.rows if place.split == "train"}
    for place in interaction.rehearsed:
        origin = place.origin
        if isinstance(origin, Rehearsed) and known.get(origin.named) == fresh:
            says = f"rehearsed in {line_said(place)}{'' if fresh else f', fresh as {origin.named}:{origin.line + 1}'}"
            version, became = in_short(interaction.chain, place.batch)
            yield Node("rehearsed", f"{says}; {became}", line_facts(place) | {"version": version})


def gave(interaction: Interaction, event: str) -> Iterator[Node]:
    """The pairs and questions that come from a record, by the digest of its event."""
    for place in interaction.given:
        mine = [number for number, named in enumerate(place.records) if digest_of(named.event_id).hex() == event]
        if not mine:
            continue
        origin = place.origin
        version, became = in_short(interaction.chain, place.batch)
        if isinstance(origin, PairOrigin):
            part = "chosen" if origin.chosen is not None and mine[0] == 0 else "rejected"
            says = f"gave a pair, {line_said(place)}, its answer {part}: {PAIRS[origin.kind]}; {became}"
        elif place.file == "verifiable-holdout":
            version, says = None, f"gave a question, {line_said(place)}, {check_said(origin)}; measured on, never practised"
        else:
            says = f"gave a question, {line_said(place)}, {check_said(origin)}; {became}"
        yield Node("gave", says, line_facts(place) | {"version": version})


def unheard(interaction: Interaction) -> Iterator[Node]:
    """What batches account for although the log no longer has the record."""
    heard = {each.event_id for each in interaction.assessed}
    for place in interaction.rows:
        if place.row.event_id not in heard:
            says = f"assessed: event {place.row.event_id} is no longer in {REASONING_ASSESSED.name}{why_gone(interaction)}"
            yield Node(
                "assessed",
                says,
                {"event_id": place.row.event_id},
                [_row(place, interaction), *gave(interaction, digest_of(place.row.event_id).hex())],
                gone=True,
            )
    told = {(left.batch.batch_id, left.offset) for each in interaction.assessed if (left := omission_of(interaction, each))}
    events = {digest_of(event_id).hex() for event_id in heard}
    for left in interaction.omitted:
        if (left.batch.batch_id, left.offset) in told:
            continue
        if left.event in events:
            yield Node(
                "repeated", f"a record at offset {left.offset} repeated one of these", {"offset": left.offset}, [_left(left)]
            )
        else:
            says = f"assessed: the record at offset {left.offset} is no longer in {REASONING_ASSESSED.name}{why_gone(interaction)}"
            yield Node("assessed", says, {"offset": left.offset}, [_left(left), *gave(interaction, left.event)], gone=True)


_WAS: Final[Mapping[Was, str]] = {
    "train": "a row to train on",
    "holdout": "a row that was held out, measured on and never trained",
    "replay": "a rehearsed row",
    "aside": "a record that gave pairs or questions without a row",
}


def erased_rows(interaction: Interaction) -> Iterator[Node]:
    """The lines that it had in datasets until they were erased, and who had learned them by then."""
    chain = interaction.chain
    for batch, erased in interaction.erased:
        facts = {
            "batch_id": batch.batch_id,
            "number": batch.number,
            "was": erased.was,
            "offset": erased.offset,
            "erasure_id": erased.erasure_id,
            "salted_sha256": erased.salted_sha256,
        }
        says = (
            f"was in {batch.batch_id}, {_WAS[erased.was]}: erased from its dataset for {erased.erasure_id}; a salted hash is left"
        )
        yield Node("erased_row", says, facts, learned(chain, batch, erased.erasure_id) if chain else (), gone=True)


def why_gone(interaction: Interaction) -> str:
    """What is known of why a record is no longer there, to go behind the sentence that says so."""
    if interaction.tombstones or asked_to_forget(interaction):
        return ", for it was erased"
    return " (erased, or the log begins later)"


def asked_to_forget(interaction: Interaction) -> bool:
    """Whether anybody asked for all of it to be erased."""
    return any(request.payload.what == "everything" for request in interaction.erasures)
