"""The `ruminate` command: each verb parses what it was given and calls the module that does the work."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console

from ruminate.command import acls, events, topics
from ruminate.command import doctor as doctor_
from ruminate.command.assess.verb import assess
from ruminate.command.audit.verb import audit
from ruminate.command.base import BaseError, asked_of_any_base, asked_of_small_base, small_base
from ruminate.command.connection import open_bus, read_addresses
from ruminate.command.datasets import verbs as datasets
from ruminate.command.demo.run import TARGET, run_demo
from ruminate.command.dlq import verbs as dlq
from ruminate.command.erase import verbs as erase
from ruminate.command.evaluation.verb import evaluate
from ruminate.command.imports.verb import import_files
from ruminate.command.plan import SERVICE_ORDER, Wishes
from ruminate.command.planning.verb import plan
from ruminate.command.status import gather_status, print_status
from ruminate.command.supervisor import PartState, SupervisorError, running_supervisor
from ruminate.command.terminal import DEFAULT_STATE, AsJson, Kafka, State, complaints, fail, line, refuse, run, write_json
from ruminate.command.training import verbs as training
from ruminate.command.up import bring_up, stop_running, target_of
from ruminate.command.why.verb import why
from ruminate.schemas.flow import FLOW, topic_named
from ruminate.shared.topics import TopicsDiffer

app = typer.Typer(
    name="ruminate",
    help="Keeps a Qwen3 model learning from the work it does on your own Ollama nodes.",
    epilog="Begin with:  ruminate demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def begin() -> None:
    """Before every verb: standard output is for what was asked for, whatever the bus has to say on the way."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


app.add_typer(acls.app, name="acls")
app.add_typer(datasets.app, name="datasets")
app.add_typer(dlq.app, name="dlq")
app.add_typer(erase.app, name="erase")
app.add_typer(topics.app, name="topics")
app.add_typer(training.app, name="train")
app.command("audit")(audit)
app.command("assess")(assess)
app.command("eval")(evaluate)
app.command("import")(import_files)
app.command("pause")(training.pause)
app.command("plan")(plan)
app.command("why")(why)
console = Console()

OwnState = Annotated[Path, typer.Option("--state", help="Folder for everything that a run keeps.", file_okay=False)]
OwnKafka = Annotated[str | None, typer.Option("--kafka", metavar="HOST:PORT", help="Your Kafka, in place of the embedded broker.")]
NODE_HELP = "Your Ollama node, or `ollama` for the one that is installed here, which is started; may be given again."


def _run(work: Coroutine[Any, Any, int | None]) -> None:
    code = run(work, failures=(SupervisorError, BaseError, TopicsDiffer, events.BadLine))
    raise typer.Exit(code or 0)


@app.command()
def demo(
    state: OwnState = DEFAULT_STATE / "demo",
    kafka: OwnKafka = None,
    node: Annotated[list[str] | None, typer.Option("--node", metavar="URL|ollama", help=NODE_HELP)] = None,
    report: Annotated[Path | None, typer.Option(help="Write everything that was measured to this file, as JSON.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running until Ctrl-C, to look around.")] = False,
) -> None:
    """Watch a model learn: the whole loop on real input, in a few minutes, with nothing but Python."""
    _run(run_demo(state.resolve(), report=report, keep=keep, console=console, kafka=kafka, nodes=tuple(node or ())))


@app.command()
def up(
    state: OwnState = DEFAULT_STATE,
    kafka: OwnKafka = None,
    node: Annotated[list[str] | None, typer.Option("--node", metavar="URL|ollama", help=NODE_HELP)] = None,
    base: Annotated[
        str,
        typer.Option("--base", metavar="MODEL", help="Hub name or folder of the base that learns; without it, the small one."),
    ] = "",
    target: Annotated[str, typer.Option(help="The Ollama name that agents ask for; follows from --base.")] = "",
    gateway_port: Annotated[int, typer.Option(min=0, max=65535, help="Port on which agents are answered; 0 takes a free one.")] = 0,
    collector_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of POST /v1/interactions; 0 takes a free one.")] = 0,
) -> None:
    """Run broker, node and services until Ctrl-C; whatever you do not name is embedded."""

    def on_change(name: str, state: PartState, exit_code: int | None) -> None:
        if state == "halted":
            says = f"{name} ended with exit {exit_code} and waits for you:  ruminate status   ruminate resume {name}"
            line(complaints, says, style="red")
        elif state == "backing-off":
            line(complaints, f"{name} ended with exit {exit_code} and is started again", style="yellow")

    async def work() -> None:
        home = state.resolve()
        # What the caller has set himself stays.
        asked = asked_of_any_base() if base else asked_of_small_base(home)
        wishes = Wishes(
            state=home,
            kafka=kafka,
            nodes=tuple(node or ()),
            base=base or str(small_base()),
            target=target or (target_of(base) if base else TARGET),
            gateway_port=gateway_port,
            collector_port=collector_port,
            settings={name: value for name, value in asked.items() if name not in os.environ},
        )
        async with bring_up(wishes, say=lambda text: console.print(text, style="dim"), on_change=on_change) as supervisor:
            gateway = read_addresses(home).gateway
            console.print(
                f"agents ask {wishes.target} at {gateway}; other addresses are in {home / 'addresses.json'}", highlight=False
            )
            console.print("stop with Ctrl-C", highlight=False)
            await supervisor.until_stopped()

    _run(work())


@app.command()
def down(state: State = DEFAULT_STATE) -> None:
    """Stop what `up` started in this state folder, and wait until it has stopped."""

    async def work() -> None:
        stopped = await stop_running(state.resolve())
        console.print("stopped" if stopped else f"nothing runs in {state}")

    _run(work())


@app.command()
def status(state: State = DEFAULT_STATE, as_json: AsJson = False) -> None:
    """What runs, lag by reader, batch fill, jobs and versions."""

    async def work() -> None:
        found = await gather_status(state.resolve())
        if as_json:
            write_json(found)
        else:
            print_status(found)

    _run(work())


@app.command()
def publish(
    file: Annotated[Path, typer.Argument(help="Interactions: one JSON object, a list, or one a line; - is standard input.")],
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    source: Annotated[
        str, typer.Option(help="CloudEvents source; the same file from the same source is the same events.")
    ] = "/ruminate/publish",
) -> None:
    """Put interactions on their topic. Sending a file twice changes nothing: ids are the interactions' own."""

    async def work() -> None:
        interactions = list(events.read_interactions(file))
        async with open_bus(state.resolve(), kafka) as bus:
            count = await events.publish(bus, interactions, source=source)
        console.print(f"{count} interactions are on interaction-completed-v1")

    _run(work())


@app.command()
def tail(
    topic: Annotated[str, typer.Argument(help="Name of a topic: " + ", ".join(t.name for t in FLOW))],
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    as_json: AsJson = False,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Also what is there already.")] = False,
    no_follow: Annotated[bool, typer.Option("--no-follow", help="End when everything that is there is printed.")] = False,
) -> None:
    """Print the events of a topic as they come."""
    try:
        found = topic_named(topic)
    except KeyError as error:
        refuse(error.args[0])

    async def work() -> None:
        async with open_bus(state.resolve(), kafka) as bus:
            await events.tail(
                bus, found, as_json=as_json, from_beginning=from_beginning or no_follow, follow=not no_follow, console=console
            )

    _run(work())


@app.command()
def resume(
    name: Annotated[
        str | None,
        typer.Argument(metavar="SERVICE|TARGET", help=f"A service ({', '.join(SERVICE_ORDER)}), else a target that is paused."),
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="A paused target that has the name of a service.")] = None,
    tenant: training.Tenant = None,
    reason: training.Reason = "",
    by: training.By = None,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    as_json: AsJson = False,
) -> None:
    """Start a service again that ended with exit 78, once you have mended the cause; or train a paused target again.

    The name of a service is a service. The trainer of a target that `ruminate pause` stopped goes on with what waits.
    """
    if (name is None) == (target is None):
        refuse("name one service or paused target:  ruminate resume SERVICE,  ruminate resume TARGET")
    if target is not None or name not in SERVICE_ORDER:
        training.resume_target(
            target or name or "",
            tenant=tenant,
            reason=reason,
            by=by,
            state=state,
            kafka=kafka,
            as_json=as_json,
            otherwise=f". Services are {', '.join(SERVICE_ORDER)}" if target is None else "",
        )
        return
    home = state.resolve()
    if running_supervisor(home) is None:
        fail(f"nothing runs in {state}. Type:  ruminate up --state {state}")
    (home / "resume" / name).touch()
    console.print(f"{name} is started again")


@app.command()
def doctor(
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    node: Annotated[
        list[str] | None, typer.Option("--node", metavar="URL", help="An Ollama node to look at; may be given again.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is installed, what is missing and what to type. Exit 1 when something is in the way."""
    findings = list(doctor_.examine(state=state, kafka=kafka, nodes=tuple(node or ())))
    if as_json:
        write_json(findings)
    else:
        signs = {"ok": "[green]ok[/green]     ", "note": "[yellow]note[/yellow]   ", "missing": "[red]missing[/red]"}
        for finding in findings:
            console.print(f"{signs[finding.health]}  {finding.name}: {finding.says}", highlight=False)
            if finding.do:
                console.print(f"           type:  {finding.do}", highlight=False)
    raise typer.Exit(1 if any(finding.health == "missing" for finding in findings) else 0)


def main() -> None:
    """Entry point."""
    # What the broker's client has to say, the verbs say in their own words.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    app()


if __name__ == "__main__":
    main()
