"""`topics plan` and `topics apply`: what differs between a broker and the flow, and mending what costs nothing."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Final

import typer

from ruminate.command.connection import find_settings
from ruminate.command.terminal import DEFAULT_STATE, FAILED, AsJson, Kafka, State, console, fail, line, run, write_json
from ruminate.shared.topic_plan import Plan, plan_lines
from ruminate.shared.topics import EVERY_TOPIC, open_admin

NOTHING_TO_DO: Final = 0
SOMETHING_TO_DO: Final = 2

_COLOURS: Final = {"+": "green", "~": "yellow", "!": "red", ".": "dim", "?": "dim"}

app = typer.Typer(
    help="Show what differs between the broker's topics and the flow, and apply it.",
    epilog="Begin with:  ruminate topics plan   (docs/runbooks/topics.md says what is refused, and the way out)",
    no_args_is_help=True,
    rich_markup_mode=None,
)

AllowLoss = Annotated[
    list[str] | None,
    typer.Option("--allow-loss", metavar="TOPIC", help="Change this topic also where records vanish; may be given again."),
]


@app.command("plan")
def plan_command(state: State = DEFAULT_STATE, kafka: Kafka = None, as_json: AsJson = False, allow_loss: AllowLoss = None) -> None:
    """Say what would be created, changed and refused. Exit 0: nothing to do, 2: something to do, 1: refused or failed."""
    plan = run(_plan(state, kafka, allow_loss or (), apply=False))
    _print(plan, as_json=as_json)
    raise typer.Exit(FAILED if plan.refusals else SOMETHING_TO_DO if plan.to_do else NOTHING_TO_DO)


@app.command("apply")
def apply_command(state: State = DEFAULT_STATE, kafka: Kafka = None, as_json: AsJson = False, allow_loss: AllowLoss = None) -> None:
    """Create and change what costs nothing, and say so. Exit 1 when something was refused or failed."""
    plan = run(_plan(state, kafka, allow_loss or (), apply=True))
    _print(plan, as_json=as_json)
    raise typer.Exit(FAILED if plan.refusals else NOTHING_TO_DO)


async def _plan(state: Path, kafka: str | None, allow_loss: Collection[str], *, apply: bool) -> Plan:
    if unknown := set(allow_loss) - {topic.name for topic in EVERY_TOPIC}:
        fail(f"no topic of the flow is named {', '.join(sorted(unknown))} (--allow-loss)")
    async with open_admin(find_settings(state.resolve(), kafka)) as admin:
        return await (admin.apply if apply else admin.plan)(allow_loss=allow_loss)


def _print(plan: Plan, *, as_json: bool) -> None:
    if as_json:
        write_json(plan.as_json())
        return
    for each in plan_lines(plan):
        line(console, each, style=_COLOURS.get(each[0]))
