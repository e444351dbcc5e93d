"""`ruminate datasets seal`: an operator's word that what waits is to be sealed now, and what became of it.

    batch-requested-v1  ->  the accumulator  ->  training-batch-sealed-v1, which names the word

It goes beyond quiet hours and budget. It does not make rows: one has to stand ready, and the reasoning ratio holds.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer
from pydantic import ValidationError

from ruminate.command.connection import Addresses, NothingRuns, read_addresses
from ruminate.command.datasets.session import open_parts, run_verb, say
from ruminate.command.status import Fill, read_fills
from ruminate.command.terminal import DEFAULT_STATE, AsJson, Kafka, State, complaints, line, refuse, whoever, write_json
from ruminate.schemas.batch import BatchRequested, TrainingBatchSealed
from ruminate.schemas.flow import BATCH_REQUESTED, TRAINING_BATCH_SEALED
from ruminate.shared.bus import Bus
from ruminate.shared.decoding import now

NOT_SEALED: Final = 1

_LOOK_SECONDS: Final = 0.5
_HEARD_LOOKS: Final = 6
"""So often the accumulator says the same before we take it for its last word: it looks at what is due once a second."""


def seal_command(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The name that agents ask for, and that learns.")],
    tenant: Annotated[str, typer.Option("--tenant", help="Whose chain.")] = "default",
    reason: Annotated[str, typer.Option("--reason", help="Why, for whoever reads the log.")] = "",
    by: Annotated[str | None, typer.Option("--by", help="Who asks; else who is logged in.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until a batch answers, or until it is clear why none does.")] = False,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    as_json: AsJson = False,
) -> None:
    """Have what waits for a target sealed now, though no other reason is there. With --wait, exit 1 when it cannot be.

    One row is enough, at the reasoning ratio; quiet hours and the budget of a day do not hold it back. A word that cannot be
    followed yet stands until a batch answers it.
    """
    try:
        asked = BatchRequested(tenant=tenant, target_model=target, requested_by=by or whoever(), requested_at=now(), reason=reason)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        refuse(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    async def work() -> int:
        async with open_parts(state, kafka, None) as (bus, _):
            envelope = bus.begin(BATCH_REQUESTED, asked)
            await bus.publish(BATCH_REQUESTED, asked, envelope)
            if not wait:
                outcome = Outcome(envelope.id, None, None)
            else:
                line(complaints, f"asked for a batch of {asked.target_model} ({asked.tenant}); waiting", style="dim")
                outcome = await follow(bus, asked, envelope.id, _loop_of(state))
        if as_json:
            write_json(outcome.as_json())
        else:
            say(outcome.sentence(asked, state), bad=outcome.why_not is not None)
        return NOT_SEALED if outcome.why_not is not None else 0

    raise typer.Exit(run_verb(work()))


@dataclass(frozen=True)
class Outcome:
    """What became of a word: the batch that answers it, or why there is none yet; neither where nobody has waited."""

    event_id: str
    batch: TrainingBatchSealed | None
    why_not: str | None

    def as_json(self) -> dict[str, object]:
        """For programs."""
        batch = None if self.batch is None else self.batch.model_dump(mode="json")
        return {"event_id": self.event_id, "batch": batch, "why_not": self.why_not}

    def sentence(self, asked: BatchRequested, state: Path) -> str:
        """For people."""
        if self.batch is not None:
            return f"{self.batch.batch_id}: {self.batch.rows} rows, sealed by {self.batch.reason}: {self.batch.explanation}"
        if self.why_not is not None:
            return f"{self.why_not}. The word stands: it is sealed as soon as that changes"
        where = "" if state == DEFAULT_STATE else f" --state {state}"
        return f"asked for a batch of {asked.target_model} ({asked.tenant}); see  ruminate status{where}   event {self.event_id}"


async def follow(bus: Bus, asked: BatchRequested, event_id: str, loop: Addresses | None) -> Outcome:
    """Wait for the batch that names this word, or for the accumulator of the loop to say again and again why there is none."""
    answering = asyncio.create_task(_answer(bus, asked, event_id), name="follow-sealed")
    try:
        said: list[str] = []
        while not answering.done():
            await asyncio.wait((answering,), timeout=_LOOK_SECONDS)
            why_not = None if loop is None or answering.done() else why_not_yet(await _fills(loop), asked)
            said = [*said, why_not] if why_not is not None and why_not in (said[-1:] or [why_not]) else []
            if len(said) >= _HEARD_LOOKS:
                return Outcome(event_id, None, said[-1])
        return Outcome(event_id, answering.result(), None)
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)


async def _answer(bus: Bus, asked: BatchRequested, event_id: str) -> TrainingBatchSealed:
    partition = bus.partition_of(TRAINING_BATCH_SEALED, BATCH_REQUESTED.order_of(asked))
    async with aclosing(bus.read(TRAINING_BATCH_SEALED, partitions={partition}, follow=True)) as batches:
        async for batch in batches:
            if event_id in batch.payload.requests:
                return batch.payload
    raise AssertionError("following never ends by itself")


async def _fills(loop: Addresses) -> list[Fill] | None:
    async with httpx.AsyncClient(timeout=_LOOK_SECONDS * 4) as client:
        return await read_fills(client, loop)


def why_not_yet(fills: list[Fill] | None, asked: BatchRequested) -> str | None:
    """Why nothing can be sealed, by what the accumulator shows; None where something can, or nobody knows."""
    if fills is None:
        return None
    fill = next((each for each in fills if (each.tenant, each.target) == (asked.tenant, asked.target_model)), None)
    if fill is None:
        others = ", ".join(f"{each.target} ({each.tenant})" for each in fills) or "nobody"
        return f"nothing that was assessed waits for {asked.target_model} ({asked.tenant}); there is something for {others}"
    if fill.blocked:
        return f"the batch of {fill.target} fails its validation: see the accumulator's reasons in  ruminate status"
    # Before it has heard of the word there are none; and where there are rows, it is at it.
    return None if not fill.requests or fill.rows else _no_row(fill)


def _no_row(fill: Fill) -> str:
    if fill.lost_rows:
        return f"{_rows(fill.lost_rows)} ready, and every one would be held out or left out"
    if fill.direct_rows:
        return f"{_rows(fill.direct_rows, 'direct ')} ready, and none with thinking to carry it (RUMINATE_MIN_REASONING_RATIO)"
    return f"no row stands ready for {fill.target}: what was assessed since the last batch was left out"


def _rows(count: int, kind: str = "") -> str:
    return f"{count} {kind}rows stand" if count > 1 else f"{count} {kind}row stands"


def _loop_of(state: Path) -> Addresses | None:
    try:
        return read_addresses(state.resolve())
    except NothingRuns:
        return None
