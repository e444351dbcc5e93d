"""`ruminate erase`, `erase list`, `erase show`: asks first, says what will be and by when, and how far it is."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Final
from uuid import uuid4

import typer

from ruminate.command.connection import find_settings, open_bus, open_bus_at
from ruminate.command.erase.account import Account, accounts_of, details, forecast, reach_of, summary
from ruminate.command.terminal import (
    DEFAULT_STATE,
    FAILED,
    AsJson,
    Kafka,
    State,
    checked,
    complaints,
    console,
    fail,
    line,
    refuse,
    run,
    who,
    write_json,
)
from ruminate.schemas.erasure import ANY_TARGET, ErasureRequested, Scope
from ruminate.schemas.flow import ADAPTER_TRAINED, DATASET_REVISED, ERASURE_REQUESTED, RECORDS_ERASED
from ruminate.schemas.payload import Name, Text
from ruminate.shared.bus import Bus
from ruminate.shared.decoding import now
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.profiles import PROFILES
from ruminate.shared.settings import ServiceSettings

_LOOK_SECONDS: Final = 0.5

app = typer.Typer(
    help="Ask that an interaction, a conversation, an agent or a tenant is forgotten; see what was asked for and how far it is.",
    epilog="Begin with:  ruminate erase --conversation ID   (docs/runbooks/erasure.md says what goes when, and how to prove it)",
    invoke_without_command=True,
    rich_markup_mode=None,
)


Interaction = Annotated[str | None, typer.Option("--interaction", metavar="ID", help="An interaction, and what repeats it.")]


@app.callback()
def erase(
    context: typer.Context,
    tenant: Annotated[str, typer.Option("--tenant", help="Whose it is.")] = "default",
    interaction: Annotated[
        str | None, typer.Option("--interaction", metavar="ID", help="An interaction and what repeats it.")
    ] = None,
    source: Annotated[str | None, typer.Option("--source", help="Source of the interaction: ids are unique within it.")] = None,
    conversation: Annotated[str | None, typer.Option("--conversation", metavar="ID", help="All of a conversation.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", metavar="NAME", help="All that this agent asked.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="All of the tenant.")] = False,
    target: Annotated[str, typer.Option("--target", metavar="MODEL", help="Only what was asked of this model.")] = ANY_TARGET,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Erase nothing: no future batch learns from it.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="For whoever asks later.")] = "",
    by: Annotated[str | None, typer.Option("--by", help="Who asks; else you, at this machine.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until nothing is left, which takes hours; say each pass.")] = False,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    as_json: AsJson = False,
) -> None:
    """Ask that something is forgotten. Say what with --interaction, --conversation, --agent or --everything."""
    subjects: dict[Scope, str | None] = {
        "interaction": interaction,
        "conversation": conversation,
        "agent": agent,
        "tenant": tenant if everything else None,
    }
    named = {scope: subject for scope, subject in subjects.items() if subject is not None}
    if context.invoked_subcommand is not None:
        if named:
            refuse(f"{context.invoked_subcommand} erases nothing; leave out what is to be erased")
        return
    if len(named) != 1:
        refuse("say what is to be forgotten, and one thing: --interaction ID, --conversation ID, --agent NAME or --everything")
    ((scope, subject),) = named.items()
    if source is not None and scope != "interaction":
        refuse("--source goes with --interaction")
    request = ErasureRequested(
        tenant=checked(Name, tenant, "--tenant"),
        target_model=checked(Name, target, "--target"),
        scope=scope,
        subject=checked(Name, subject, f"--{scope}"),
        interaction_source=None if source is None else checked(Name, source, "--source"),
        requested_by=who(by),
        requested_at=now(),
        reason=checked(Text, reason, "--reason"),
        what="training" if withdraw else "everything",
    )
    settings = run(_find(state, kafka))
    out = complaints if as_json else console
    for each in forecast(request, forgets=PROFILES[settings.kafka_profile].takes_topic_configuration):
        line(out, each)
    if not yes and not _agreed(request):
        line(out, "nothing was asked for")
        raise typer.Exit(FAILED)
    raise typer.Exit(run(_ask(settings, request, wait=wait and not withdraw, as_json=as_json)))


@app.command("list")
def list_command(state: State = DEFAULT_STATE, kafka: Kafka = None, as_json: AsJson = False) -> None:
    """What was asked for, and how far each is; what was asked for last comes last."""

    async def work() -> None:
        async with open_bus(state.resolve(), kafka) as bus:
            accounts = (await _accounts(bus)).values()
        if as_json:
            write_json([account.as_json() for account in accounts])
        elif not accounts:
            line(console, "nobody has asked for anything to be forgotten")
        for account in () if as_json else accounts:
            line(console, summary(account))

    run(work())


@app.command("show")
def show_command(
    erasure_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning of it.")],
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    as_json: AsJson = False,
) -> None:
    """One erasure: what each pass has found, until when the rest is gone, which datasets it has revised, who had learned it."""

    async def work() -> None:
        async with open_bus(state.resolve(), kafka) as bus:
            accounts = await _accounts(bus)
            revised = [each.payload async for each in bus.read(DATASET_REVISED)]
            trained = [each.payload async for each in bus.read(ADAPTER_TRAINED)]
        found = [account for known, account in accounts.items() if known.startswith(erasure_id)]
        if len(found) != 1:
            fail(f"{len(found) or 'no'} erasures begin with {erasure_id}.  See:  ruminate erase list")
        reach = reach_of(found[0].id, revised, trained)
        if as_json:
            write_json(found[0].as_json() | reach.as_json())
        else:
            for each in details(found[0], now=now(), reach=reach):
                line(console, each)

    run(work())


async def _find(state: Path, kafka: str | None) -> ServiceSettings:
    return find_settings(state.resolve(), kafka)


async def _ask(settings: ServiceSettings, request: ErasureRequested, *, wait: bool, as_json: bool) -> int:
    async with open_bus_at(settings) as bus:
        erasure_id = str(uuid4())
        await bus.publish(ERASURE_REQUESTED, request, bus.begin(ERASURE_REQUESTED, request, event_id=erasure_id))
        if not as_json:
            line(console, f"asked for; see how far it is:  ruminate erase show {erasure_id}")
        account = await _until_finished(bus, erasure_id, as_json=as_json) if wait else Account(erasure_id, request)
    if as_json:
        write_json(account.as_json())
    elif wait:
        for each in details(account, now=now()):
            line(console, each)
    return 0


async def _until_finished(bus: KafkaBus, erasure_id: str, *, as_json: bool) -> Account:
    said = 0
    while True:
        account = (await _accounts(bus))[erasure_id]
        for event in account.told[said:]:
            if not as_json:
                line(console, f"pass {event.pass_number}: {sum(event.erased.values()):,} erased, {event.stage}", style="dim")
        said = len(account.told)
        if account.state == "finished":
            return account
        await asyncio.sleep(_LOOK_SECONDS)


async def _accounts(bus: Bus) -> dict[str, Account]:
    async with aclosing(bus.read(ERASURE_REQUESTED)) as asked:
        requests = [(each.envelope.id, each.payload) async for each in asked]
    async with aclosing(bus.read(RECORDS_ERASED)) as told:
        events = [(each.envelope.id, each.payload) async for each in told]
    return accounts_of(requests, events)


def _agreed(request: ErasureRequested) -> bool:
    question = "withdraw consent" if request.what == "training" else "erase it"
    try:
        return typer.confirm(f"{question}?", err=True)
    except typer.Abort:
        fail("nobody answered, so nothing was asked for; say --yes where nobody can be asked")
