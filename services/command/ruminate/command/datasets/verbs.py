"""`ruminate datasets list|show|verify|rebuild`: parses what it was given, calls the module that does the work, prints."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Final

import orjson
import typer
from rich.table import Table
from rich.text import Text

from ruminate.accumulator.dataset import load_manifest
from ruminate.accumulator.rebuild import Rebuilt, rebuild_chain
from ruminate.accumulator.replay import Unsound
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.command.connection import find_settings, open_bus_at, read_settings
from ruminate.command.datasets.look import Listed, NotFound, chains_of, described, find, listed, verify
from ruminate.command.datasets.policy import PolicyError, read_policy
from ruminate.command.datasets.replay import replay
from ruminate.command.terminal import (
    DEFAULT_STATE,
    AsJson,
    Kafka,
    State,
    complaints,
    console,
    line,
    printable,
    refuse,
    run,
    write_json,
)
from ruminate.shared.bus import Bus
from ruminate.shared.store import Store, StoreError, open_store

SOMETHING_DIFFERS: Final = 1

_NONE_YET: Final = "no batch is sealed yet"
_SHOWN: Final = 20
_TOLD_EVERY_SECONDS: Final = 5.0
_RANGE: Final = re.compile(r"(\d+)(?:\.\.(\d+))?")

app = typer.Typer(
    help="The batches of each chain: list, show, verify and rebuild them.",
    epilog="Begin with:  ruminate datasets list   (docs/runbooks/datasets.md says what each answer means, and what to do)",
    no_args_is_help=True,
    rich_markup_mode=None,
)

StoreUri = Annotated[
    str | None,
    typer.Option("--store", metavar="URI", help="Where datasets lie; else that of the loop in --state, else RUMINATE_STORE_URI."),
]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Only chains of this tenant.")]
Target = Annotated[str | None, typer.Option("--target", help="Only chains of this target.")]


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
            chains = await chains_of(bus, tenant=tenant, target=target)
            found = [[each async for each in listed(store, chain)] for chain in chains]
        every = [each for batches in found for each in batches]
        if as_json:
            write_json([each.as_json() for each in every])
        else:
            for chain, batches in zip(chains, found, strict=True):
                _say(f"{chain.target} of {chain.tenant}")
                console.print(_table(batches))
            if not every:
                _say(_NONE_YET)
        return SOMETHING_DIFFERS if any(each.artifact != "whole" for each in every) else 0

    raise typer.Exit(_run(work()))


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
            batch = find(await chains_of(bus), batch_id)
            shown = described(batch, await load_manifest(store, batch.dataset))
        if as_json:
            write_json(shown)
        else:
            for name, value in shown.items():
                says = ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else value
                _say(f"{name}: {says}")
        return 0

    raise typer.Exit(_run(work()))


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
            for chain in await chains_of(bus, tenant=tenant, target=target):
                async for batch, problems in verify(store, chain):
                    found[batch.batch_id] = problems
        if as_json:
            write_json(found)
        else:
            for batch_id, problems in found.items():
                says = f"{len(problems)} problem{'s' * (len(problems) != 1)}" if problems else "sound"
                _say(f"{batch_id}: {says}", bad=bool(problems))
                _say_some(problems)
            if not found:
                _say(_NONE_YET)
        return SOMETHING_DIFFERS if any(found.values()) else 0

    raise typer.Exit(_run(work()))


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

    With --policy: what another policy would have taught, under replays/ in the store. It trains nothing. The file says what
    is other than the default, such as `assessment.keep_overall_at_least = 0.7` and, on the next line, `batch.seal_at_rows = 200`.
    """
    if policy is not None:
        if batch != "all" or without_manifests:
            refuse("--policy cuts anew, so it knows neither --batch nor --without-manifests")
        raise typer.Exit(_run(_replay(state, kafka, store_uri, tenant, target, policy, policy_name, as_json=as_json)))
    if policy_name is not None:
        refuse("--policy-name names a replay: it needs --policy FILE")
    numbers = _numbers(batch)

    async def work() -> int:
        settings = read_settings(AccumulatorSettings)
        found: list[Rebuilt] = []
        async with _open(state, kafka, store_uri) as (bus, store), _telling() as told:
            for chain in await chains_of(bus, tenant=tenant, target=target):
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
            write_json([asdict(each) | {"batch": each.batch.model_dump(mode="json")} for each in found])
        elif not found:
            _say("no such batch is sealed", bad=True)
        return 0 if found and all(each.outcome == "identical" and each.whole_now for each in found) else SOMETHING_DIFFERS

    raise typer.Exit(_run(work()))


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
        write_json(summary | {"summary": made.summary.model_dump(mode="json"), "datasets": datasets})
    else:
        _say(made.report)
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
            Text(printable(batch.batch_id), overflow="fold"),
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
    line(console, text, style="red" if bad else None)


def _numbers(text: str) -> Collection[int] | None:
    if text == "all":
        return None
    match = _RANGE.fullmatch(text)
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        refuse(f"--batch {text!r}: a number, two as 3..5, or all")
    return range(int(match[1]), int(match[2] or match[1]) + 1)


@asynccontextmanager
async def _open(state: Path, kafka: str | None, store_uri: str | None) -> AsyncIterator[tuple[Bus, Store]]:
    """Log and store of what runs in `state`, or of what the caller names."""
    settings = find_settings(state.resolve(), kafka, store_uri)
    async with open_bus_at(settings) as bus:
        yield bus, open_store(settings.store_uri)


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
            line(complaints, f"{so_far} in {now - began:.0f} s", style="dim")

    yield told


def _run(work: Coroutine[Any, Any, int]) -> int:
    return run(work, failures=(StoreError, Unsound), mistakes=(PolicyError, NotFound))
