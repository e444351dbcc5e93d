"""`ruminate datasets list|show|verify|rebuild|…`: parses what it was given, calls the module that does the work, prints."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import orjson
import typer
from rich.table import Table
from rich.text import Text

from ruminate.accumulator.curation.protect import NotProtected, read_protected
from ruminate.accumulator.making.anchors import NotAnchored, read_anchors
from ruminate.accumulator.making.dataset import load_manifest
from ruminate.accumulator.making.manifest import Manifest
from ruminate.accumulator.making.report import Report
from ruminate.accumulator.rebuilding.rebuild import Rebuilt, rebuild_chain
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.command.connection import read_settings
from ruminate.command.datasets.look import Listed, chains_of, described, find, last_revision, listed, load_report, verify
from ruminate.command.datasets.policy import read_policy
from ruminate.command.datasets.replay import replay
from ruminate.command.datasets.seal import seal_command
from ruminate.command.datasets.sentences import figures_of, shown, strata_of
from ruminate.command.datasets.session import StoreUri, Target, Tenant, open_parts, run_verb, say, telling
from ruminate.command.datasets.versions import card_command, diff_command, export_command
from ruminate.command.terminal import DEFAULT_STATE, AsJson, Kafka, State, console, printable, refuse, write_json
from ruminate.schemas.batch import DatasetRevised

SOMETHING_DIFFERS: Final = 1

_NONE_YET: Final = "no batch is sealed yet"
_SHOWN: Final = 20
_RANGE: Final = re.compile(r"(\d+)(?:\.\.(\d+))?")

app = typer.Typer(
    help="The batches of each chain: list, show, verify, rebuild; compare two, hand one on, say what is in it; ask for one.",
    epilog="Begin with:  ruminate datasets list   (docs/runbooks/datasets.md says what each answer means, and what to do)",
    no_args_is_help=True,
    rich_markup_mode=None,
)


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
        async with open_parts(state, kafka, store_uri) as (bus, store):
            chains = await chains_of(bus, tenant=tenant, target=target)
            found = [[each async for each in listed(store, chain)] for chain in chains]
        every = [each for batches in found for each in batches]
        if as_json:
            write_json([each.as_json() for each in every])
        else:
            for chain, batches in zip(chains, found, strict=True):
                say(f"{chain.target} of {chain.tenant}")
                console.print(_table(batches))
                for each in batches:
                    if each.revised is not None:
                        say(f"{each.batch.batch_id}: {_revised(each.revised)}")
            if not every:
                say(_NONE_YET)
        return SOMETHING_DIFFERS if any(each.artifact != "whole" for each in every) else 0

    raise typer.Exit(run_verb(work()))


@app.command("show")
def show_command(
    batch_id: Annotated[str, typer.Argument(metavar="BATCH", help="Its id, as `ruminate datasets list` says it.")],
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    store_uri: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """One batch: counts, what is rehearsed, what was left out and why, strata, the report on it, policy, lineage."""

    async def work() -> int:
        async with open_parts(state, kafka, store_uri) as (bus, store):
            batch = find(await chains_of(bus), batch_id)
            manifest = await load_manifest(store, batch.dataset)
            report = await load_report(store, batch.dataset, manifest)
        found = described(batch, manifest, report)
        if as_json:
            write_json(found)
        else:
            for sentence in shown(found):
                say(sentence)
            _say_strata(manifest)
            _say_report(report, manifest)
        return 0

    raise typer.Exit(run_verb(work()))


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
        revised: dict[str, str] = {}
        async with open_parts(state, kafka, store_uri) as (bus, store):
            for chain in await chains_of(bus, tenant=tenant, target=target):
                async for batch, problems in verify(store, chain):
                    found[batch.batch_id] = problems
                    revised[batch.batch_id] = _revised(last_revision(chain, batch))
        if as_json:
            write_json(found)
        else:
            for batch_id, problems in found.items():
                says = f"{len(problems)} problem{'s' * (len(problems) != 1)}" if problems else "sound"
                after = f", {revised[batch_id]}" if revised[batch_id] else ""
                say(f"{batch_id}: {says}{after}", bad=bool(problems))
                _say_some(problems)
            if not found:
                say(_NONE_YET)
        return SOMETHING_DIFFERS if any(found.values()) else 0

    raise typer.Exit(run_verb(work()))


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
        raise typer.Exit(run_verb(_replay(state, kafka, store_uri, tenant, target, policy, policy_name, as_json=as_json)))
    if policy_name is not None:
        refuse("--policy-name names a replay: it needs --policy FILE")
    numbers = _numbers(batch)

    async def work() -> int:
        settings = read_settings(AccumulatorSettings)
        try:
            protected, anchors = read_protected(settings.protected_sets), read_anchors(settings.anchor_rows)
        except NotProtected as error:
            refuse(f"{error} (RUMINATE_PROTECTED_SETS)")
        except NotAnchored as error:
            refuse(f"{error} (RUMINATE_ANCHOR_ROWS)")
        found: list[Rebuilt] = []
        async with open_parts(state, kafka, store_uri) as (bus, store), telling() as told:
            for chain in await chains_of(bus, tenant=tenant, target=target):
                rebuilding = rebuild_chain(
                    bus,
                    store,
                    chain,
                    settings=settings,
                    protected=protected,
                    anchors=anchors,
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
            say("no such batch is sealed", bad=True)
        return 0 if found and all(each.outcome == "identical" and each.whole_now for each in found) else SOMETHING_DIFFERS

    raise typer.Exit(run_verb(work()))


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
    async with open_parts(state, kafka, store_uri) as (bus, store), telling() as told:
        made = await replay(bus, store, policy, tenant=tenant, target=target, told=told)
    if as_json:
        summary = orjson.loads(await store.read_file(made.summary, "replay.json"))
        datasets = [reference.model_dump(mode="json") for references in made.datasets.values() for reference in references]
        write_json(summary | {"summary": made.summary.model_dump(mode="json"), "datasets": datasets})
    else:
        say(made.report)
        for references in made.datasets.values():
            for reference in references:
                say(f"dataset  {reference.uri}")
        say(f"summary  {made.summary.uri}")
    return 0


def _say_strata(manifest: Manifest) -> None:
    strata = strata_of(manifest.strata)
    if not strata:
        return
    say("strata: domain/difficulty/mode of the rows that stood ready")
    table = Table("stratum", "trained", "held out", "left out", "why", box=None, header_style="dim")
    for each in strata[:_SHOWN]:
        table.add_row(
            Text(printable(each.name), overflow="fold"), str(each.train), str(each.holdout), str(each.left_out), each.reasons
        )
    console.print(table)
    if len(strata) > _SHOWN:
        say(f"    and {len(strata) - _SHOWN} more; --json has all of them")


def _say_report(report: Report | None, manifest: Manifest) -> None:
    if report is None:
        why = "what an erasure has left of it is not validated anew" if manifest.revision else "its release made none"
        say(f"report: none; {why}")
        return
    failed = [check.name for check in report.checks if not check.passed]
    says = f"{len(failed)} of {len(report.checks)} checks did not pass: {', '.join(failed)}" if failed else "every check passed"
    say(f"report: {says}", bad=bool(failed))
    for check in report.checks:
        figures = figures_of(check)
        say(
            f"    {check.name}: {'passed' if check.passed else 'did not pass'}{f'  {figures}' if figures else ''}",
            bad=not check.passed,
        )
        _say_some(check.problems)


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


def _revised(revised: DatasetRevised | None) -> str:
    """What erasures have made of a dataset, in words."""
    if revised is None:
        return ""
    count = revised.erased_interactions
    return f"revision {revised.revision}, {count} interaction{'s' * (count != 1)} erased from it"


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
    say("  ".join(part for part in parts if part), bad=rebuilt.outcome != "identical" or not rebuilt.whole_now)
    _say_some(rebuilt.differences)
    _say_some(
        [
            f"gone from the log: {'taught' if v.taught else 'left out'} of offset {v.offset}, event {v.event}"
            for v in rebuilt.vanished
        ]
    )
    if rebuilt.unaccounted:
        say(f"    {rebuilt.unaccounted} records of the interval are in no account: their reader gave them up as dead letters")


def _say_some(sentences: Collection[str]) -> None:
    for sentence in list(sentences)[:_SHOWN]:
        say(f"    {sentence}")
    if len(sentences) > _SHOWN:
        say(f"    and {len(sentences) - _SHOWN} more; --json has all of them")


def _numbers(text: str) -> Collection[int] | None:
    if text == "all":
        return None
    match = _RANGE.fullmatch(text)
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        refuse(f"--batch {text!r}: a number, two as 3..5, or all")
    return range(int(match[1]), int(match[2] or match[1]) + 1)


app.command("diff")(diff_command)
app.command("export")(export_command)
app.command("card")(card_command)
app.command("seal")(seal_command)
