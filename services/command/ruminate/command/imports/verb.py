"""`ruminate import`: parses what it was given, opens where it goes, shows how far it is, and reports what became of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Final, NoReturn

import orjson
import typer
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ruminate.command.connection import NothingRuns, find_settings, open_bus_at, read_addresses
from ruminate.command.imports.formats import Format, UnknownFormat
from ruminate.command.imports.progress import LISTED, CannotGoOn
from ruminate.command.imports.records import CannotRead
from ruminate.command.imports.sinks import DrySink, KafkaSink, NotAcknowledged, Sink, open_collector
from ruminate.command.imports.told import UNDATED, Options, time_of
from ruminate.command.imports.work import Import, Outcome, Tell, import_file
from ruminate.command.terminal import DEFAULT_STATE, INTERRUPTED, USAGE, Kafka, State, complaints, console, line, refuse
from ruminate.shared.bus import BusError

ALL_TAKEN: Final = 0
SOME_REFUSED: Final = 1
COULD_NOT_RUN: Final = USAGE

_SHOWN: Final = 5
_TOLD_EVERY_SECONDS: Final = 5.0


class Formats(StrEnum):
    """The formats, and auto."""

    AUTO = "auto"
    OPENAI = "openai"
    LANGFUSE = "langfuse"
    SHAREGPT = "sharegpt"


_FORMS: Final[dict[Formats, Format]] = {Formats.OPENAI: "openai", Formats.LANGFUSE: "langfuse", Formats.SHAREGPT: "sharegpt"}


class Modes(StrEnum):
    """Which turns of a conversation become interactions."""

    EVERY = "every"
    LAST = "last"


class Destinations(StrEnum):
    """Where interactions go."""

    KAFKA = "kafka"
    HTTP = "http"


def import_files(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="JSON lines, JSON or CSV.", exists=True, dir_okay=False)],
    form: Annotated[
        Formats,
        typer.Option(
            "--format",
            help="openai: request and response a line, batch output, fine-tuning files. langfuse: exports of observations or "
            "traces. sharegpt: conversations of from and value. auto looks, and says what it took and why.",
        ),
    ] = Formats.AUTO,
    target: Annotated[
        str | None, typer.Option(help="What learns from records whose model is none that does; without it they are refused.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="OLD=TARGET", help="What a model's name in the file is here; may be given again."),
    ] = None,
    tenant: Annotated[str, typer.Option(help="Whose these interactions are.")] = "default",
    agent: Annotated[str, typer.Option(help="Who asked.")] = "import",
    training_allowed: Annotated[
        bool,
        typer.Option(
            "--training-allowed/--no-training-allowed", help="Consent of the tenant: may a model learn from them? Without it, no."
        ),
    ] = False,
    mode: Annotated[
        Modes,
        typer.Option(help="Of a conversation: every turn that the model answered, each continuing the one before, or the last."),
    ] = Modes.EVERY,
    to: Annotated[Destinations, typer.Option(help="The topic, or a collector by HTTP.")] = Destinations.KAFKA,
    collector: Annotated[
        str | None, typer.Option(metavar="URL", help="The collector for --to http; else the one in --state.")
    ] = None,
    kafka: Kafka = None,
    state: State = DEFAULT_STATE,
    requests: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The input file of the batch whose output FILE is.", exists=True, dir_okay=False),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="CloudEvents source of the events, within which ids are unique; else /imports/FORMAT.")
    ] = None,
    occurred_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="The time of records that name none (ISO 8601); else 1970-01-01.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Read at most so many records; the next run goes on behind them.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, send nothing, keep nothing.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew, whatever an earlier run has noted.")] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report to this file, as JSON.")] = None,
) -> None:
    """Bring in what was answered elsewhere: logs of OpenAI's API, exports of Langfuse, ShareGPT.

    Importing a file twice changes nothing: ids come from the records, and an import that was killed goes on where it was.
    Nothing is learned from it unless you say --training-allowed. Look first, then import:

      ruminate import chats.jsonl --model gpt-4o=qwen3:8b --dry-run

      ruminate import chats.jsonl --model gpt-4o=qwen3:8b --training-allowed

    Exit 0: all taken, 1: some refused (the report says which lines, and why), 2: it could not run. docs/runbooks/ways-in.md
    """
    home = state.resolve()
    options = Options(
        tenant=tenant,
        agent=agent,
        target=target,
        targets=_targets(model or ()),
        learns=_learns(home),
        training_allowed=training_allowed,
        mode="last" if mode is Modes.LAST else "every",
        occurred_at=_time(occurred_at),
    )

    outcomes: list[Outcome] = []

    async def work() -> None:
        async with _open_sink(to, kafka=kafka, collector=collector, home=home, dry_run=dry_run) as (sink, destination):
            asked = Import(
                options=options,
                form=None if form is Formats.AUTO else _FORMS[form],
                destination=destination,
                source=source,
                requests=requests,
                limit=limit,
                state=None if dry_run else home,
                restart=restart,
            )
            with _showing() as tell:
                for file in files:
                    outcomes.append(await import_file(file, asked, sink, tell))  # noqa: PERF401 - what is done is told, whatever comes

    try:
        asyncio.run(work())
    except (CannotRead, UnknownFormat, CannotGoOn, NotAcknowledged, NothingRuns, BusError, OSError) as error:
        for outcome in outcomes:
            _show(outcome, dry_run=dry_run)
        _end(str(error))
    except KeyboardInterrupt:
        line(complaints, "stopped; the same command goes on where acknowledged records end")
        raise typer.Exit(INTERRUPTED) from None
    found = summary(outcomes, training_allowed=training_allowed, dry_run=dry_run)
    if report is not None:
        report.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    for outcome in outcomes:
        _show(outcome, dry_run=dry_run)
    may = "models may learn from them" if training_allowed else "no model learns from them (--training-allowed was not given)"
    line(console, f"training: {may}")
    raise typer.Exit(SOME_REFUSED if found["refused"] else ALL_TAKEN)


def summary(outcomes: Sequence[Outcome], *, training_allowed: bool, dry_run: bool) -> dict[str, Any]:
    """The report as JSON. `duplicates` is null where the topic was written to: the collector that reads it finds them."""
    told = [outcome.counts.duplicates for outcome in outcomes]
    refused: Counter[str] = Counter()
    for outcome in outcomes:
        refused.update(outcome.counts.refused)
    return {
        "dry_run": dry_run,
        "training_allowed": training_allowed,
        "taken": sum(outcome.counts.taken for outcome in outcomes),
        "duplicates": None if None in told else sum(count or 0 for count in told),
        "refused": dict(refused),
        "files": [
            {
                "file": str(outcome.file),
                "format": outcome.form,
                "format_because": outcome.why,
                "finished": outcome.finished,
                "resumed_at_record": outcome.resumed_at_record,
                **outcome.counts.as_json(),
            }
            for outcome in outcomes
        ],
    }


def _show(outcome: Outcome, *, dry_run: bool) -> None:
    counts = outcome.counts
    line(console, f"{outcome.file}: {outcome.form} ({outcome.why})")
    if outcome.resumed_at_record:
        line(console, f"  went on behind record {outcome.resumed_at_record:,}; the counts are those of all runs together")
    taken = "would be taken" if dry_run else "taken"
    found_later = "" if dry_run else "; repeats among them are found by the collector that reads the topic"
    repeats = found_later if counts.duplicates is None else f", {counts.duplicates:,} duplicates"
    line(console, f"  {counts.records:,} records: {counts.taken:,} interactions {taken}{repeats}", style="green")
    if counts.passed_over:
        what = ", ".join(f"{count:,} {name}" for name, count in counts.passed_over.most_common(_SHOWN))
        line(console, f"  passed over, no answers of a model: {what}", style="dim")
    if counts.undated:
        line(console, f"  {counts.undated:,} name no time; --occurred-at says which they get", style="dim")
    for reason, count in counts.refused.most_common():
        line(console, f"  refused, {reason}: {count:,}", style="red")
        for each in [listed for listed in counts.listed if listed["reason"] == reason][:_SHOWN]:
            place = f"record {each['record']}" if each["line"] is None else f"line {each['line']}"
            line(console, f"    {place}: {each['says']}")
    if counts.refused.total() > LISTED:
        line(console, f"  of {counts.refused.total():,} refused, the first {LISTED} are in --report FILE", style="dim")
    if not outcome.finished:
        line(console, "  not at its end: the same command goes on behind these records")


@asynccontextmanager
async def _open_sink(
    to: Destinations, *, kafka: str | None, collector: str | None, home: Path, dry_run: bool
) -> AsyncIterator[tuple[Sink, str]]:
    """Where to, and what that is called."""
    if dry_run:
        yield DrySink(), "nowhere"
    elif to is Destinations.HTTP:
        url = collector or read_addresses(home).collector
        async with open_collector(url) as sink:
            yield sink, url
    else:
        settings = find_settings(home, kafka)
        async with open_bus_at(settings) as bus:
            yield KafkaSink(bus), settings.kafka_bootstrap


def _targets(pairs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        old, sign, new = pair.rpartition("=")
        if not sign or not old or not new:
            refuse(f"--model {pair!r}: it is OLD=TARGET, such as gpt-4o=qwen3:8b")
        found[old] = new
    return found


def _learns(home: Path) -> frozenset[str]:
    """The target of the loop in this folder, where one runs: a record that names it needs no --target."""
    try:
        return frozenset({read_addresses(home).target.removesuffix(":latest")})
    except NothingRuns:
        return frozenset()


def _time(written: str | None) -> datetime:
    if written is None:
        return UNDATED
    found = time_of(written)
    if found is None:
        refuse(f"--occurred-at {written!r}: a time in ISO 8601, such as 2026-01-31T12:00:00Z")
    return found


@contextmanager
def _showing() -> Iterator[Tell]:
    """How far it is: a bar on a terminal, else a line on stderr every few seconds."""
    began: dict[str, tuple[float, int, int]] = {}
    told_at = monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=complaints, transient=True, disable=not complaints.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, of: int, records: int) -> None:
            nonlocal told_at
            now = monotonic()
            since, first, done_before = began.setdefault(what, (now, records, done))
            rate = (records - first) / (now - since) if now > since else 0.0
            says = f"{rate:,.0f} records/s" if records else ""
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=of, rate="")
            bars.update(tasks[what], completed=done, total=max(of, done), rate=says)
            if not complaints.is_terminal and now - told_at >= _TOLD_EVERY_SECONDS:
                told_at = now
                now_done = done - done_before
                left = f", {(of - done) * (now - since) / now_done:.0f} s left" if now_done else ""
                line(complaints, f"{what}: {records:,} records, {done / max(of, 1):.0%}, {says}{left}", style="dim")

        yield tell


def _end(why: str) -> NoReturn:
    line(complaints, f"ruminate: {why}", style="red")
    raise typer.Exit(COULD_NOT_RUN)
