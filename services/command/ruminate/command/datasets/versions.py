"""`ruminate datasets diff|export|card`: parses what it was given, calls the module that does the work, prints."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

import orjson
import typer

from ruminate.accumulator.making.dataset import load_manifest
from ruminate.accumulator.rebuilding.rebuild import SealedChain
from ruminate.accumulator.rebuilding.replay import KIND, ReplayManifest
from ruminate.command.datasets.card import CARD, PLOTS, Card, markdown
from ruminate.command.datasets.columns import NotARow
from ruminate.command.datasets.diff import Version, compare, sentences
from ruminate.command.datasets.export import Export, Format, Written, puzzling
from ruminate.command.datasets.fetched import ROWS, Fetched, fetched
from ruminate.command.datasets.files import DATA_FILES, DataFile, FileName
from ruminate.command.datasets.look import DIGITS, NotFound, chains_of, load_report, pick
from ruminate.command.datasets.measure import contents_of, judged, lengths_of
from ruminate.command.datasets.session import StoreUri, Target, Tenant, open_parts, run_verb, say, telling
from ruminate.command.terminal import DEFAULT_STATE, AsJson, Kafka, State, fail, refuse, write_json
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.bus import Bus
from ruminate.shared.store import ArtifactDamaged, Store, StoreError, whole_file

EQUAL: Final = 0
DIFFER: Final = 1
CANNOT: Final = 2

_SHOWN: Final = 20

FormatAsked = Literal["parquet", "jsonl", "both"]
SplitAsked = Literal["train", "replay", "holdout", "all"]
ConfigAsked = Literal["default", "preferences", "verifiable", "all"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

Batch = Annotated[
    str,
    typer.Argument(
        metavar="N", help="The batch: its number, its id, its dataset's address, or at least 8 digits of that one's SHA-256."
    ),
]
To = Annotated[
    Path, typer.Option("--to", metavar="FOLDER", help="Where the files go; it is made where it is not there.", file_okay=False)
]
Names = Annotated[bool, typer.Option("--names", help="Show the names of agents in the card; else only how many there are.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files of an export that lies there already.")]


class InTheWay(Exception):
    """Files lie where others would be written; the message names them and the ways out."""


def diff_command(
    first: Annotated[
        str | None, typer.Argument(metavar="A", help="A batch: its number, its id, its dataset's address or SHA-256.")
    ] = None,
    second: Annotated[str | None, typer.Argument(metavar="B", help="The batch that is compared with it.")] = None,
    replay: Annotated[
        str | None,
        typer.Option("--replay", metavar="NAME", help="In place of A and B: the chain, and the replay of this name beside it."),
    ] = None,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    store_uri: StoreUri = None,
    tenant: Tenant = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Which rows were added, have left or changed from A to B. Exit 0: equal, 1: they differ, 2: it could not be said.

    Rehearsed rows, pairs and questions are compared by their lines, and policies by their values.
    Two batches of one chain share no row, but what the later one rehearses; a batch and its replay under another policy
    (`rebuild --policy`) share most. Examples:

    `ruminate datasets diff 3 4 --target qwen3:8b`

    `ruminate datasets diff --replay stricter --target qwen3:8b`
    """
    if (replay is None) != (first is not None and second is not None) or (replay is not None and first is not None):
        refuse("diff compares two batches (diff 3 4), or the chain with a replay (diff --replay NAME)")

    async def work() -> int:
        async with open_parts(state, kafka, store_uri) as (bus, store):
            chains = await chains_of(bus, tenant=tenant, target=target)
            if replay is not None:
                chain = _only(chains)
                sides = await _chain(store, chain), await _replay(store, chain, replay)
            else:
                picked = [pick(chains, each) for each in (first, second) if each is not None]
                if len({chain for chain, _ in picked}) > 1:
                    raise NotFound("the two batches are of two chains, which never share a row; compare batches of one chain")
                one, two = [await _batch(store, batch) for _, batch in picked]
                sides = one, two
        diff = compare(*sides)
        if as_json:
            write_json(diff.as_json())
        else:
            for sentence in sentences(diff, shown=_SHOWN):
                say(sentence)
        return EQUAL if diff.equal else DIFFER

    try:
        code = run_verb(work())
    except typer.Exit as end:  # a broker or a store that is away says nothing of the two
        raise typer.Exit(CANNOT if end.exit_code == 1 else end.exit_code) from None
    raise typer.Exit(code)


def _only(chains: Sequence[SealedChain]) -> SealedChain:
    if len(chains) == 1:
        return chains[0]
    there = ", ".join(f"{chain.target} of {chain.tenant}" for chain in chains) or "none yet"
    raise NotFound(f"a replay is compared with one chain; there are {len(chains)}: {there}. Name it: --target, --tenant")


async def _batch(store: Store, batch: TrainingBatchSealed) -> Version:
    manifest = await load_manifest(store, batch.dataset)
    version = Version(f"{batch.batch_id}, revision {manifest.revision}" if manifest.revision else batch.batch_id)
    version.add(manifest)
    return version


async def _chain(store: Store, chain: SealedChain) -> Version:
    version = Version(f"the chain of {chain.target}, batches 1 to {len(chain.batches)}")
    for batch in chain.batches:
        version.add(await load_manifest(store, batch.dataset))
    return version


async def _replay(store: Store, chain: SealedChain, name: str) -> Version:
    """The datasets of a replay, as its latest summary names them. Raises NotFound, StoreError."""
    name, _, digits = name.partition("@")
    summaries = [each for each in await store.find_trees(kind=KIND, name=name) if each.sha256.startswith(digits)]
    if not summaries:
        raise NotFound(
            f"no replay is named {name!r}{f' with a SHA-256 that begins with {digits}' if digits else ''}; make one:  "
            f"ruminate datasets rebuild --policy FILE --policy-name {name}"
        )
    summary = summaries[-1]
    version = Version(f"replay {name}@{summary.sha256[:DIGITS]}")
    chains = await _replayed(store, summary)
    if (chain.tenant, chain.target) not in chains:
        raise NotFound(f"replay {name!r} has nothing for {chain.target} of {chain.tenant}; make it again without --target")
    for number, sha256 in enumerate(chains[chain.tenant, chain.target], start=1):
        kept = await store.find_trees(kind=KIND, name=f"{name}/{chain.tenant}/{chain.target}/{number}")
        dataset = next((each for each in kept if each.sha256 == sha256), None)
        if dataset is None:
            raise StoreError(f"batch {number} of replay {name} is not in the store ({sha256[:12]}); make the replay again")
        data = await store.read_file(dataset, "manifest.json")
        try:
            version.add(ReplayManifest.model_validate_json(data))
        except ValueError as error:
            raise ArtifactDamaged(f"{dataset.uri} holds no manifest of a replay ({type(error).__name__})") from None
    return version


async def _replayed(store: Store, summary: ArtifactReference) -> dict[tuple[str, str], list[str]]:
    """The SHA-256 of each replayed batch, by tenant and target."""
    data = await store.read_file(summary, "replay.json")
    try:
        said = orjson.loads(data)
        return {
            (chain["tenant"], chain["target"]): [batch["dataset_sha256"] for batch in chain["batches"]] for chain in said["chains"]
        }
    except (ValueError, LookupError, TypeError) as error:
        raise ArtifactDamaged(f"{summary.uri} holds no summary of a replay ({type(error).__name__})") from None


def export_command(
    batch: Batch,
    to: To,
    kind: Annotated[FormatAsked, typer.Option("--format", help="What to write.")] = "parquet",
    split: Annotated[
        SplitAsked,
        typer.Option("--split", help="What is to be trained, what is rehearsed with it, what is held out, or all of it."),
    ] = "all",
    config: Annotated[
        ConfigAsked, typer.Option("--config", help="Rows (default), pairs of answers, questions for practice, or all of them.")
    ] = "all",
    with_origin: Annotated[
        bool, typer.Option("--with-origin/--without-origin", help="A column that says where each row comes from.")
    ] = True,
    names: Names = False,
    overwrite: Overwrite = False,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    store_uri: StoreUri = None,
    tenant: Tenant = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Write a batch as files that `datasets.load_dataset` opens as they are, with a dataset card beside them.

    FOLDER then has train.parquet, replay.parquet and holdout.parquet, preferences.parquet, verifiable.parquet and
    verifiable-holdout.parquet (and, or, .jsonl), README.md and card/*.svg; what has no line has no file.
    `load_dataset("FOLDER")` gives the rows: prompt (messages), completion, chat_template_kwargs, origin;
    `load_dataset("FOLDER", "preferences")` prompt, chosen, rejected; `load_dataset("FOLDER", "verifiable")` prompt, check.
    Rows are written one by one: a large dataset needs no more memory than a small one.
    Ruminate never trains what is held out; keep it so elsewhere, or what is measured on it means nothing. Examples:

    `ruminate datasets export 4 --target qwen3:8b --to batch-4`

    `ruminate datasets export qwen3_8b-000004 --to batch-4 --format both --split train`
    """
    kinds = FORMATS if kind == "both" else (kind,)
    asked = [file for file in DATA_FILES.values() if split in (file.split, "all") and config in (file.config, "all")]
    if not asked:
        refuse(f"--config {config} has no split {split}; {_splits()}")
    raise typer.Exit(
        _write(
            state, kafka, store_uri, tenant, target, batch, to,
            kinds=kinds, asked=asked, with_origin=with_origin, names=names, overwrite=overwrite, as_json=as_json,
        )
    )  # fmt: skip


def _splits() -> str:
    splits: dict[str, list[str]] = {}
    for file in DATA_FILES.values():
        splits.setdefault(file.config, []).append(file.split)
    return ", ".join(f"{config} has {' and '.join(names)}" for config, names in splits.items())


def card_command(
    batch: Batch,
    to: To,
    names: Names = False,
    overwrite: Overwrite = False,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    store_uri: StoreUri = None,
    tenant: Tenant = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Write the dataset card of a batch alone: README.md as the Hugging Face hub reads it, and its plots.

    Lengths are measured on the rows; scores, domains, modes and the number of agents are looked up in the log, and the card
    says so where the log no longer has them. Example:

    `ruminate datasets card 4 --target qwen3:8b --to card-4`
    """
    raise typer.Exit(
        _write(
            state, kafka, store_uri, tenant, target, batch, to,
            kinds=(), asked=(), with_origin=True, names=names, overwrite=overwrite, as_json=as_json,
        )
    )  # fmt: skip


def _write(
    state: Path,
    kafka: str | None,
    store_uri: str | None,
    tenant: str | None,
    target: str | None,
    name: str,
    to: Path,
    *,
    kinds: Collection[Format],
    asked: Collection[DataFile],
    with_origin: bool,
    names: bool,
    overwrite: bool,
    as_json: bool,
) -> int:
    async def work() -> int:
        async with open_parts(state, kafka, store_uri) as (bus, store), telling() as told:
            chain, batch = pick(await chains_of(bus, tenant=tenant, target=target), name)
            _make_room(to, [CARD, *(f"{file.name}.{kind}" for file in asked for kind in kinds)], overwrite=overwrite)
            async with fetched(store, batch.dataset) as dataset:
                generated = await _generated(store, chain, dataset) if with_origin and kinds else {}
                export = Export(
                    dataset, batch_id=batch.batch_id, with_origin=with_origin, generated=generated, told=lambda: told("rows")
                )
                there = [file.name for file in asked if _is_written(file, dataset)]
                empty = [file.name for file in asked if file.name not in there] if kinds else []
                files = [await asyncio.to_thread(export.write, file, kind, to) for kind in kinds for file in there]
                for path in (to / f"{file}.{kind}" for kind in kinds for file in empty):
                    path.unlink(missing_ok=True)  # of an export that lay there before
                card = await _card(bus, store, batch, dataset, Asked(files, empty, with_origin, names), told)
            await asyncio.to_thread(write_card, card, to)
        if as_json:
            write_json({
                "batch_id": batch.batch_id,
                "dataset": batch.dataset.model_dump(mode="json"),
                "files": {file.name: {"rows": file.rows, "bytes": file.size_bytes, "sha256": file.sha256} for file in files},
                "left_out_without_lines": empty,
                "card": CARD,
                "plots": [f"{PLOTS}/{plot}" for plot in card.plots],
                "records_in_the_log": card.judged.rows,
                "records_gone_from_the_log": card.judged.missing,
            })  # fmt: skip
        else:
            _say_written(to, files, empty, card)
        return 0

    try:
        return run_verb(work())
    except InTheWay as error:
        refuse(str(error))
    except NotARow as error:
        fail(str(error))


def _make_room(folder: Path, names: Collection[str], *, overwrite: bool) -> None:
    there = sorted(name for name in names if (folder / name).exists())
    if there and not overwrite:
        raise InTheWay(f"{folder} has {', '.join(there)} already; name another folder, or say --overwrite")
    folder.mkdir(parents=True, exist_ok=True)


def _is_written(file: DataFile, dataset: Fetched) -> bool:
    """Whether it has a line; rows are written even where there are none, for their columns."""
    return file in ROWS or next(dataset.lines(file), None) is not None


async def _generated(store: Store, chain: SealedChain, dataset: Fetched) -> dict[int, frozenset[str]]:
    """Of the batches from which rows are rehearsed, the hashes of trained lines whose thinking was written afterwards; a batch that
    is gone is not among them."""
    numbers = await asyncio.to_thread(lambda: {each.number for each in dataset.rehearsed() if each.number is not None})
    found = {}
    for batch in chain.batches:
        if batch.number in numbers:
            try:
                manifest = await load_manifest(store, batch.dataset)
            except StoreError:
                continue  # then it is not known, and the export says so
            found[batch.number] = frozenset(row.sha256 for row in manifest.rows if row.split == "train" and row.generated_thinking)
    return found


@dataclass(frozen=True, slots=True)
class Asked:
    """What a card is to speak of: the files beside it, those that have no line, and whether the names of agents are shown."""

    files: Sequence[Written] = ()
    empty: Sequence[FileName] = ()
    with_origin: bool = True
    names: bool = False


async def _card(
    bus: Bus, store: Store, batch: TrainingBatchSealed, dataset: Fetched, asked: Asked, told: Callable[[str], None]
) -> Card:
    indicators: Counter[str] = Counter()

    def event_ids() -> Iterator[str]:
        for row in dataset.fresh():
            indicators.update(row.indicators)
            yield row.event_id

    found = await judged(bus, batch, event_ids(), told=lambda: told("records"))
    lengths = await asyncio.to_thread(lengths_of, dataset)
    manifest = await asyncio.to_thread(dataset.head)
    return Card(
        batch=batch,
        manifest=manifest,
        report=await load_report(store, batch.dataset, manifest),
        contents=await asyncio.to_thread(contents_of, dataset),
        indicators=indicators,
        lengths=lengths,
        judged=found,
        files=asked.files,
        empty=asked.empty,
        with_origin=asked.with_origin,
        names=asked.names,
    )


def write_card(card: Card, folder: Path) -> None:
    """Write README.md and its plots into a folder."""
    for name, plot in card.plots.items():
        with whole_file(folder / PLOTS / name) as out:
            out.write(plot.encode())
    with whole_file(folder / CARD) as out:
        out.write(markdown(card).encode())


def _say_written(to: Path, files: Sequence[Written], empty: Sequence[str], card: Card) -> None:
    for file in files:
        say(f"{to / file.name}  {file.rows} rows  {file.size_bytes} bytes  sha256 {file.sha256[:12]}")
        if not file.rows:
            say("    it has no row, and load_dataset opens no such split: it is not among the data files of the card")
    if empty:
        say(f"not written, for there is no line in it: {', '.join(empty)}")
    if column := puzzling(list(files)):
        say(f"    JSONL: {column} has tool calls in a later file and none in the first; README.md says how to open both")
    say(f"{to / CARD}  with {len(card.plots)} plots in {to / PLOTS}")
    if card.judged.missing:
        say(f"    the log no longer has the records of {card.judged.missing} rows; the card says so in place of their scores")
