"""`topics plan` and `topics apply`: what differs between a broker and the flow, and mending what costs nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Final, NoReturn

import orjson
import typer
from rich.console import Console

from ruminate.command.connection import NothingRuns, find_settings
from ruminate.shared.bus import BusError
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topic_plan import Plan, plan_lines
from ruminate.shared.topics import EVERY_TOPIC, open_admin

NOTHING_TO_DO: Final = 0
REFUSED: Final = 1
SOMETHING_TO_DO: Final = 2

_COLOURS: Final = {"+": "green", "~": "yellow", "!": "red", ".": "dim", "?": "dim"}

app = typer.Typer(
    help="Show what differs between the broker's topics and the flow, and apply it.", no_args_is_help=True, rich_markup_mode=None
)
console = Console()
complaints = Console(stderr=True)

State = Annotated[Path, typer.Option("--state", help="State folder of what `up` runs.", file_okay=False)]
Kafka = Annotated[
    str | None, typer.Option("--kafka", metavar="HOST:PORT", help="Your Kafka; else the one in --state, else RUMINATE_*.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]
AllowLoss = Annotated[
    list[str] | None,
    typer.Option("--allow-loss", metavar="TOPIC", help="Change this topic also where records vanish; may be given again."),
]


@app.command("plan")
def plan_command(
    state: State = Path(".ruminate"), kafka: Kafka = None, as_json: AsJson = False, allow_loss: AllowLoss = None
) -> None:
    """Say what would be created, changed and refused. Exit 0: nothing to do, 2: something to do, 1: refused or failed."""
    plan = _run(state, kafka, allow_loss or (), apply=False)
    _print(plan, as_json=as_json)
    raise typer.Exit(REFUSED if plan.refusals else SOMETHING_TO_DO if plan.to_do else NOTHING_TO_DO)


@app.command("apply")
def apply_command(
    state: State = Path(".ruminate"), kafka: Kafka = None, as_json: AsJson = False, allow_loss: AllowLoss = None
) -> None:
    """Create and change what costs nothing, and say so. Exit 1 when something was refused or failed."""
    plan = _run(state, kafka, allow_loss or (), apply=True)
    _print(plan, as_json=as_json)
    raise typer.Exit(REFUSED if plan.refusals else NOTHING_TO_DO)


def _run(state: Path, kafka: str | None, allow_loss: Collection[str], *, apply: bool) -> Plan:
    if unknown := set(allow_loss) - {topic.name for topic in EVERY_TOPIC}:
        _fail(f"no topic of the flow is named {', '.join(sorted(unknown))} (--allow-loss)")
    try:
        return asyncio.run(_plan(find_settings(state.resolve(), kafka), allow_loss, apply=apply))
    except (NothingRuns, BusError) as error:
        _fail(str(error))


async def _plan(settings: ServiceSettings, allow_loss: Collection[str], *, apply: bool) -> Plan:
    async with open_admin(settings) as admin:
        return await (admin.apply if apply else admin.plan)(allow_loss=allow_loss)


def _print(plan: Plan, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(plan.as_json(), option=orjson.OPT_INDENT_2) + b"\n")
        return
    for line in plan_lines(plan):
        console.print(line, style=_COLOURS.get(line[0]), highlight=False, soft_wrap=True, markup=False)


def _fail(message: str) -> NoReturn:
    complaints.print(f"ruminate: {message}", style="red", highlight=False, soft_wrap=True)
    raise typer.Exit(REFUSED)
