"""`ruminate datasets list|show|verify|rebuild`: parses what it was given, calls the module that does the work, prints."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Final, NoReturn, TypeVar

import orjson
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ruminate.accumulator.dataset import load_manifest
from ruminate.accumulator.rebuild import Rebuilt, read_chains, rebuild_chain
from ruminate.accumulator.replay import Unsound
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.command.connection import NothingRuns, open_bus, read_addresses
from ruminate.command.datasets.look import Listed, NoSuchBatch, described, find, listed, verify
from ruminate.command.datasets.policy import PolicyError, read_policy
from ruminate.command.datasets.replay import replay
from ruminate.shared.bus import Bus, BusError
from ruminate.shared.kafka_settings import WrongConnectionSettings
from ruminate.shared.settings import ServiceSettings, problems_of
from ruminate.shared.store import Store, StoreError, open_store

S = TypeVar("S", bound=ServiceSettings)

SOMETHING_DIFFERS: Final = 1
USAGE: Final = 2

_SHOWN: Final = 20
_TOLD_EVERY_SECONDS: Final = 5.0
_RANGE: Final = re.compile(r"(\d+)(?:\.\.(\d+))?")

app = typer.Typer(
    help="The batches of each chain: list, show, verify and rebuild them.", no_args_is_help=True, rich_markup_mode=None
)
console = Console()
complaints = Console(stderr=True)

State = Annotated[Path, typer.Option("--state", help="State folder of what `up` runs.", file_okay=False)]
Kafka = Annotated[str | None, typer.Option("--kafka", metavar="HOST:PORT", help="Your Kafka, in place of the one in --state.")]
StoreUri = Annotated[
    str | None,
    typer.Option("--store", metavar="URI", help="Where datasets lie; else as in --state, with --kafka RUMINATE_STORE_URI."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Only chains of this tenant.")]
Target = Annotated[str | None, typer.Option("--target", help="Only chains of this target.")]

DEFAULT_STATE: Final = Path(".ruminate")


@app.command("list")
def list_command(
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    store_uri: StoreUri = None,
    tenant: Tenant = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """The batches of each chain, and whether their datasets are whole. Exit 1 when one is not."""

    async def work() -> int:
        async with _open(state, kafka, store_uri) as (bus, store):
            chains = await read_chains(bus, tenant=tenant, target=target)
            found = [[each async for each in listed(store, chain)] for chain in chains]
        every = [each for batches in found for each in batches]
        if as_json:
            _print_json([each.as_json() for each in every])
        else:
            for chain, batches in zip(chains, found, strict=True):
                console.print(f"{chain.target} of {chain.tenant}", highlight=False, soft_wrap=True, markup=False)
                console.print(_table(batches))
            if not every:
                _say("no batch is sealed yet")
        return SOMETHING_DIFFERS if any(each.artifact != "whole" for each in every) else 0

    _run(work())


@app.command("show")
def show_command(
    batch_id: Annotated[str, typer.Argument(metavar="BATCH", help="Its id, as `ruminate datasets list` says it.")],
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    store_uri: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """One batch: counts, what was left out and why, policy, lineage."""

    async def work() -> int:
        async with _open(state, kafka, store_uri) as (bus, store):
            batch = find(await read_chains(bus), batch_id)
            shown = described(batch, await load_manifest(store, batch.dataset))
        if as_json:
            _print_json(shown)
        else:
            for name, value in shown.items():
                says = ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else value
                console.print(f"{name}: {says}", highlight=False, soft_wrap=True, markup=False)
        return 0

    _run(work())


@app.command("verify")
def verify_command(
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    store_uri: StoreUri = None,
    tenant: Tenant = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Read every dataset: its bytes, its manifest, the sealed record and the chain have to agree. Exit 1 when they do not."""

    async def work() -> int:
        found: dict[str, list[str]] = {}
        async with _open(state, kafka, store_uri) as (bus, store):
            for chain in await read_chains(bus, tenant=tenant, target=target):
                async for batch, problems in verify(store, chain):
                    found[batch.batch_id] = problems
        if as_json:
            _print_json(found)
        else:
            for batch_id, problems in found.items():
                _say(f"{batch_id}: sound" if not problems else f"{batch_id}: {len(problems)} problems", bad=bool(problems))
                _say_some(problems)
        return SOMETHING_DIFFERS if any(found.values()) else 0

    _run(work())


@app.command("rebuild")
def rebuild_command(
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    store_uri: StoreUri = None,
    tenant: Tenant = None,
    target: Target = None,
    batch: Annotated[str, typer.Option("--batch", metavar="N|N..M|all", help="Numbers of the batches.")] = "all",
    without_manifests: Annotated[
        bool, typer.Option("--without-manifests", help="By the log and the settings (RUMINATE_*) alone; the sealed hash tells.")
    ] = False,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy", metavar="FILE", help="Judge and cut anew by this TOML or JSON, beside the chains.", dir_okay=False
        ),
    ] = None,
    policy_name: Annotated[str | None, typer.Option("--policy-name", help="Name of the replay; else a hash of the policy.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make datasets again out of the log, byte for byte, and put back what the store has lost. Exit 1 when a byte differs.

    With --policy: what another policy would have taught, under replays/ in the store. It trains nothing.
    """
    if policy is not None:
        if batch != "all" or without_manifests:
            _refuse("--policy cuts anew, so it knows neither --batch nor --without-manifests")
        _run(_replay(state, kafka, store_uri, tenant, target, policy, policy_name, as_json=as_json))
    if policy_name is not None:
        _refuse("--policy-name names a replay: it needs --policy FILE")
    numbers, settings = _numbers(batch), _settings(AccumulatorSettings)

    async def work() -> int:
        found: list[Rebuilt] = []
        async with _open(state, kafka, store_uri) as (bus, store), _telling() as told:
            for chain in await read_chains(bus, tenant=tenant, target=target):
                rebuilding = rebuild_chain(
                    bus,
                    store,
                    chain,
                    settings=settings,
                    numbers=numbers,
                    without_manifests=without_manifests,
                    told=lambda: told("records"),
                )
                async with aclosing(rebuilding) as every:
                    async for rebuilt in every:
                        found.append(rebuilt)
                        if not as_json:
                            _say_rebuilt(rebuilt)
        if as_json:
            _print_json([asdict(each) | {"batch": each.batch.model_dump(mode="json")} for each in found])
        elif not found:
            _say("no such batch is sealed", bad=True)
        return 0 if found and all(each.outcome == "identical" and each.whole_now for each in found) else SOMETHING_DIFFERS

    _run(work())


async def _replay(
    state: Path,
    kafka: str | None,
    store_uri: str | None,
    tenant: str | None,
    target: str | None,
    file: Path,
    name: str | None,
    *,
    as_json: bool,
) -> int:
    policy = read_policy(file, name=name)
    async with _open(state, kafka, store_uri) as (bus, store), _telling() as told:
        made = await replay(bus, store, policy, tenant=tenant, target=target, told=told)
    if as_json:
        summary = orjson.loads(await store.read_file(made.summary, "replay.json"))
        datasets = [reference.model_dump(mode="json") for references in made.datasets.values() for reference in references]
        _print_json(summary | {"summary": made.summary.model_dump(mode="json"), "datasets": datasets})
    else:
        console.print(made.report, highlight=False, soft_wrap=True, markup=False)
        for references in made.datasets.values():
            for reference in references:
                _say(f"dataset  {reference.uri}")
        _say(f"summary  {made.summary.uri}")
    return 0


def _table(batches: Collection[Listed]) -> Table:
    table = Table("batch", "rows", "reasoning", "held out", "sealed by", "dataset", "is", box=None, header_style="dim")
    for each in batches:
        batch = each.batch
        table.add_row(
            Text(batch.batch_id, overflow="fold"),
            str(batch.rows),
            f"{batch.reasoning_ratio:.0%}",
            str(batch.holdout_rows),
            batch.reason,
            batch.dataset.sha256[:12],
            Text(each.artifact, style="" if each.artifact == "whole" else "red"),
        )
    return table


def _say_rebuilt(rebuilt: Rebuilt) -> None:
    batch = rebuilt.batch
    store = "put back into the store" if rebuilt.put_back else f"{rebuilt.artifact} in the store"
    how = {"anew": "decided anew", "by_manifest": "by its manifest", "without_manifest": "without a manifest", None: ""}
    parts = (
        batch.batch_id,
        rebuilt.outcome.replace("_", " "),
        how[rebuilt.decided],
        f"{batch.rows} rows",
        store,
        rebuilt.explanation,
    )
    _say("  ".join(part for part in parts if part), bad=rebuilt.outcome != "identical" or not rebuilt.whole_now)
    _say_some(rebuilt.differences)
    _say_some(
        [f"gone from the log: {'row' if v.had_row else 'left out'} of offset {v.offset}, event {v.event}" for v in rebuilt.vanished]
    )
    if rebuilt.unaccounted:
        _say(f"    {rebuilt.unaccounted} records of the interval are in no account: their reader gave them up as dead letters")


def _say_some(sentences: Collection[str]) -> None:
    for sentence in list(sentences)[:_SHOWN]:
        _say(f"    {sentence}")
    if len(sentences) > _SHOWN:
        _say(f"    and {len(sentences) - _SHOWN} more; --json has all of them")


def _say(text: str, *, bad: bool = False) -> None:
    console.print(text, style="red" if bad else None, highlight=False, soft_wrap=True, markup=False)


def _print_json(value: object) -> None:
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")


def _numbers(text: str) -> Collection[int] | None:
    if text == "all":
        return None
    match = _RANGE.fullmatch(text)
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        _refuse(f"--batch {text!r}: a number, two as 3..5, or all")
    return range(int(match[1]), int(match[2] or match[1]) + 1)


def _settings(kind: type[S]) -> S:
    try:
        return kind()
    except ValidationError as error:
        _refuse("; ".join(problems_of(error)))


def _refuse(message: str) -> NoReturn:
    complaints.print(f"ruminate: {message}", style="red", highlight=False, soft_wrap=True, markup=False)
    raise typer.Exit(USAGE)


@asynccontextmanager
async def _open(state: Path, kafka: str | None, store_uri: str | None) -> AsyncIterator[tuple[Bus, Store]]:
    """Log and store of what runs in `state`, or of what the caller names."""
    home = state.resolve()
    if store_uri is None:
        store_uri = read_addresses(home).store if kafka is None else _settings(ServiceSettings).store_uri
    async with open_bus(home, kafka) as bus:
        yield bus, open_store(store_uri)


@asynccontextmanager
async def _telling() -> AsyncIterator[Callable[[str], None]]:
    """Say on stderr how far long work is, every few seconds."""
    counts: dict[str, int] = {}
    began = told_at = monotonic()

    def told(what: str) -> None:
        nonlocal told_at
        counts[what] = counts.get(what, 0) + 1
        if (now := monotonic()) - told_at >= _TOLD_EVERY_SECONDS:
            told_at = now
            so_far = ", ".join(f"{count} {name}" for name, count in counts.items())
            complaints.print(f"{so_far} in {now - began:.0f} s", style="dim", highlight=False)

    yield told


def _run(work: Coroutine[Any, Any, int]) -> NoReturn:
    """Run to the end; what we foresaw becomes one line and an exit, what we did not keeps its traceback."""
    try:
        code = asyncio.run(work)
    except (PolicyError, NoSuchBatch, WrongConnectionSettings) as error:
        complaints.print(f"ruminate: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
        code = USAGE
    except (NothingRuns, BusError, StoreError, Unsound, OSError) as error:
        complaints.print(f"ruminate: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
        code = SOMETHING_DIFFERS
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)
