"""`ruminate audit`: one screen for people, JSON for programs, and an exit code that says which of three it is."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import orjson
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ruminate.command.audit.findings import ADVICE, FAULT_KINDS, ApartKind, Listed, Report, moment_of
from ruminate.command.audit.gather import Progress as Tell
from ruminate.command.audit.gather import audit as run_audit
from ruminate.command.audit.snapshot import READING_ORDER, CouldNotJudge
from ruminate.command.connection import NothingRuns, find_settings
from ruminate.shared.bus import BusError

CLEAN: Final = 0
FAULT: Final = 1
NOT_JUDGED: Final = 2

_SHOWN: Final = 5
"""So many of each kind fit on a screen; `--json` has more."""

_APART: Final[dict[ApartKind, str]] = {
    "older": "older than the horizon, so not judged",
    "erased": "erased",
    "standing": "dead letters that wait for you (ruminate dlq list)",
    "dropped": "dead letters that somebody dropped",
    "replayed": "dead letters that somebody sent back",
    "rivals": "batches that came second to another of their number, ignored by everyone",
}

console = Console()
complaints = Console(stderr=True)


def audit(
    state: Annotated[Path, typer.Option("--state", help="State folder of what `up` runs.", file_okay=False)] = Path(".ruminate"),
    kafka: Annotated[
        str | None, typer.Option("--kafka", metavar="HOST:PORT", help="Your Kafka; else the one in --state, else RUMINATE_*.")
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="URI", help="Where artifacts lie; else as for --kafka, or RUMINATE_STORE_URI.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for programs.")] = False,
) -> None:
    """Prove from topics and store that nothing was lost or doubled. Exit 0: clean, 1: a fault, 2: could not judge, and why."""
    try:
        settings = find_settings(state.resolve(), kafka, store)
        with _progress() as tell:
            report = asyncio.run(run_audit(settings, progress=tell))
    except (CouldNotJudge, NothingRuns, BusError, ValidationError) as error:
        if as_json:
            _write({"clean": None, "could_not_judge": str(error)})
        complaints.print(f"ruminate: could not judge: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
        raise typer.Exit(NOT_JUDGED) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        _write(report.as_json())
    else:
        show(report, console)
    raise typer.Exit(CLEAN if report.clean else FAULT)


def show(report: Report, out: Console) -> None:
    """The report on one screen."""
    whole = "every topic has its beginning" if report.horizon is None else f"judged from {report.horizon:%Y-%m-%d %H:%M:%S} UTC on"
    out.print(f"audit of {moment_of(report.taken_at_ms):%Y-%m-%d %H:%M:%S} UTC; {whole}", highlight=False)
    for topic, since in report.whole_since_ms.items():
        out.print(f"  {topic} is whole since {moment_of(since):%Y-%m-%d %H:%M:%S} UTC", style="dim", highlight=False)
    table = Table("topic", box=None, header_style="dim")
    for name in ("records", "repeats", "superseded"):
        table.add_column(name, justify="right")
    for topic in READING_ORDER:
        counts = report.topics.get(topic)
        if counts is not None and counts.records:
            table.add_row(topic, f"{counts.records:,}", f"{counts.repeats:,}", f"{counts.superseded:,}")
    out.print(table)
    out.print(f"{report.batches:,} batches, {report.rows:,} rows, {report.artifacts:,} artifacts in the store", highlight=False)
    for reader, count in report.pending.items():
        out.print(f"pending at {reader}: {count:,}", highlight=False)
    if report.absent_topics:
        out.print(f"topics that do not exist: {', '.join(report.absent_topics)}", style="dim", highlight=False)
    for kind, says in _APART.items():
        listed = report.apart.get(kind)
        if listed is not None:
            _show_listed(f"{says}: {listed.count:,}", listed, out)
    _show_faults(report, out)


def _show_listed(title: str, listed: Listed, out: Console) -> None:
    out.print(title, highlight=False)
    for line in listed.first[:_SHOWN]:
        out.print(f"  {line}", style="dim", highlight=False, markup=False, soft_wrap=True)
    if listed.count > _SHOWN:
        out.print(f"  and {listed.count - _SHOWN:,} more (--json)", style="dim", highlight=False)


def _show_faults(report: Report, out: Console) -> None:
    if report.clean:
        out.print("no fault: nothing was lost, nothing doubled", style="green", highlight=False)
        return
    for kind in FAULT_KINDS:
        count = report.fault_counts.get(kind, 0)
        if not count:
            continue
        out.print(f"{kind}: {count:,}", style="red", highlight=False)
        out.print(f"  {ADVICE[kind].means}", highlight=False, soft_wrap=True)
        out.print(f"  {ADVICE[kind].do}", highlight=False, soft_wrap=True)
        for fault in [each for each in report.faults if each.kind == kind][:_SHOWN]:
            place = f"{fault.topic} {fault.partition}:{fault.offset}"
            out.print(f"    {place} {fault.event_id}: {fault.detail}", highlight=False, markup=False, soft_wrap=True)
        if count > _SHOWN:
            out.print(f"    and {count - _SHOWN:,} more (--json)", highlight=False)
    out.print("what each fault means and what to do: docs/runbooks/audit.md", style="red", highlight=False)


@contextmanager
def _progress() -> Iterator[Tell]:
    """A bar on the terminal, and nothing where there is none."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=complaints, transient=True, disable=not complaints.is_terminal) as bars:
        tasks = {}

        def tell(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=of)
            bars.update(tasks[what], completed=done, total=max(of, done))

        yield tell


def _write(values: object) -> None:
    sys.stdout.buffer.write(orjson.dumps(values, option=orjson.OPT_INDENT_2) + b"\n")
