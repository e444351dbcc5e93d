"""`ruminate audit`: one screen for people, JSON for programs, and an exit code that says which of three it is."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ruminate.command.audit.findings import ADVICE, FAULT_KINDS, ApartKind, Listed, Report
from ruminate.command.audit.gather import Progress as Tell
from ruminate.command.audit.gather import audit as run_audit
from ruminate.command.audit.snapshot import READING_ORDER, CouldNotJudge
from ruminate.command.connection import NothingRuns, find_settings
from ruminate.command.terminal import DEFAULT_STATE, INTERRUPTED, AsJson, Kafka, State, complaints, console, line, write_json
from ruminate.schemas.envelope import moment
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
    "rivals": "batches and revisions that came second to another of their number, ignored by everyone",
    "unrevised": "to be forgotten, and still in the store: asked for, or replaced, less than an hour ago",
}


def audit(
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store", metavar="URI", help="Where artifacts lie; else that of the loop in --state, else RUMINATE_STORE_URI."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prove from topics and store that nothing was lost or doubled. Exit 0: clean, 1: a fault, 2: could not judge, and why."""
    report = _judge(state, kafka, store, as_json=as_json)
    if as_json:
        write_json(report.as_json())
    else:
        show(report, console)
    raise typer.Exit(CLEAN if report.clean else FAULT)


def _judge(state: Path, kafka: str | None, store: str | None, *, as_json: bool) -> Report:
    try:
        settings = find_settings(state.resolve(), kafka, store)
        with _progress() as tell:
            return asyncio.run(run_audit(settings, progress=tell))
    except (CouldNotJudge, NothingRuns, BusError) as error:
        _end_unjudged(str(error), as_json=as_json)
    except Exception as error:
        # Python would end with 1, and that says that something was lost or doubled.
        traceback.print_exc()
        _end_unjudged(f"the audit itself failed with {type(error).__name__}; the trace above says where", as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _end_unjudged(why: str, *, as_json: bool) -> NoReturn:
    if as_json:
        write_json({"clean": None, "could_not_judge": why})
    line(complaints, f"ruminate: could not judge: {why}", style="red")
    raise typer.Exit(NOT_JUDGED)


def show(report: Report, out: Console) -> None:
    """The report on one screen."""
    whole = "every topic has its beginning" if report.horizon is None else f"judged from {report.horizon:%Y-%m-%d %H:%M:%S} UTC on"
    line(out, f"audit of {moment(report.taken_at_ms):%Y-%m-%d %H:%M:%S} UTC; {whole}")
    for topic, since in report.whole_since_ms.items():
        line(out, f"  {topic} is whole since {moment(since):%Y-%m-%d %H:%M:%S} UTC", style="dim")
    table = Table("topic", box=None, header_style="dim")
    for name in ("records", "repeats", "superseded"):
        table.add_column(name, justify="right")
    for topic in READING_ORDER:
        counts = report.topics.get(topic)
        if counts is not None and counts.records:
            table.add_row(topic, f"{counts.records:,}", f"{counts.repeats:,}", f"{counts.superseded:,}")
    out.print(table)
    revised = f", {report.revisions:,} revisions for erasures" if report.revisions else ""
    line(out, f"{report.batches:,} batches{revised}, {report.rows:,} rows, {report.artifacts:,} artifacts in the store")
    for reader, count in report.pending.items():
        line(out, f"pending at {reader}: {count:,}")
    if report.absent_topics:
        line(out, f"topics that do not exist: {', '.join(report.absent_topics)}", style="dim")
    for kind, says in _APART.items():
        listed = report.apart.get(kind)
        if listed is not None:
            _show_listed(f"{says}: {listed.count:,}", listed, out)
    _show_faults(report, out)


def _show_listed(title: str, listed: Listed, out: Console) -> None:
    line(out, title)
    for says in listed.first[:_SHOWN]:
        line(out, f"  {says}", style="dim")
    if listed.count > _SHOWN:
        line(out, f"  and {listed.count - _SHOWN:,} more (--json)", style="dim")


def _show_faults(report: Report, out: Console) -> None:
    if report.clean:
        line(out, "no fault: nothing was lost, nothing doubled", style="green")
        return
    for kind in FAULT_KINDS:
        count = report.fault_counts.get(kind, 0)
        if not count:
            continue
        line(out, f"{kind}: {count:,}", style="red")
        line(out, f"  {ADVICE[kind].means}")
        line(out, f"  {ADVICE[kind].do}")
        for fault in [each for each in report.faults if each.kind == kind][:_SHOWN]:
            place = f"{fault.topic} {fault.partition}:{fault.offset}"
            line(out, f"    {place} {fault.event_id}: {fault.detail}")
        if count > _SHOWN:
            line(out, f"    and {count - _SHOWN:,} more (--json)")
    line(out, "what each fault means and what to do: docs/runbooks/audit.md", style="red")


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
