"""`ruminate why`: parses what it was given, has it gathered, and prints the tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from ruminate.command.datasets.session import StoreUri, Target, Tenant, open_parts, run_verb
from ruminate.command.terminal import DEFAULT_STATE, AsJson, Kafka, State, complaints, console, line, write_json
from ruminate.command.why.backward import batch_tree, version_tree
from ruminate.command.why.facts import Interaction, OneLine, Version
from ruminate.command.why.forward import interaction_tree, line_tree
from ruminate.command.why.gather import Found, OfBatch, gather
from ruminate.command.why.subject import Subject
from ruminate.command.why.tree import Node

_TOLD_EVERY_RECORDS = 500


def why(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT",
            help="A row (BATCH:LINE, BATCH:FILE:LINE, FILE being holdout, replay, preferences, verifiable or verifiable-holdout, "
            "or 8 digits or more of its SHA-256), an interaction (recorded id, or interaction id with --source), an event id, a "
            "batch id, a version (v4) or the name of a model.",
        ),
    ],
    source: Annotated[
        str | None, typer.Option("--source", metavar="URI", help="CloudEvents source of the interaction; SUBJECT is its id there.")
    ] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Of a version or a batch: list every row and its interaction.")] = False,
    contents: Annotated[
        bool, typer.Option("--contents", help="Also print what was asked, thought, answered and said of it.")
    ] = False,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    store_uri: StoreUri = None,
    tenant: Tenant = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Walk a lineage: what came of an interaction, or what made a model. From topics and store alone.

    Forward, from an interaction: its judgements and who spoke for or against it, its batch and line
    or why it was left out, the pairs and questions that it gave, the batches that rehearse it, the
    versions that were trained on it, where they serve.
    Backward, from a version: its batch, dataset, rows, what it rehearsed, and parents.
    What the log or the store no longer has is said. Examples:

    `ruminate why qwen3_8b-000004:17`      what is line 17 of that batch, and what came of it?

    `ruminate why 4:replay:2`      where was the second rehearsed row fresh?

    `ruminate why chat-42 --source /agents/helper`      what became of what my agent reported?

    `ruminate why v4 --target qwen3:8b --rows`      which interactions taught this version?
    """

    async def work() -> int:
        async with open_parts(state, kafka, store_uri) as (bus, store):
            with _progress() as told:
                found = await gather(bus, store, Subject(subject, source), tenant=tenant, target=target, told=told)
        tree = tree_of(found, rows=rows, contents=contents)
        if as_json:
            write_json(tree.as_json())
        else:
            for text, gone in tree.lines():
                line(console, text, style="yellow" if gone else None)
        return 0

    raise typer.Exit(run_verb(work()))


def tree_of(found: Found, *, rows: bool = False, contents: bool = False) -> Node:
    """The lineage of what was found."""
    match found:
        case Interaction():
            return interaction_tree(found, contents=contents)
        case OneLine():
            return line_tree(found, contents=contents)
        case Version():
            return version_tree(found, rows=rows)
        case OfBatch(version, batch):
            return batch_tree(version, batch, rows=rows)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """How many records of each topic were looked at, on a terminal, and nothing where there is none."""
    columns = (TextColumn("{task.description}: {task.completed:,.0f} looked at"), TimeElapsedColumn())
    with Progress(*columns, console=complaints, transient=True, disable=not complaints.is_terminal) as bars:
        tasks = {}
        counts: dict[str, int] = {}

        def told(what: str) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=None)
            counts[what] = counts.get(what, 0) + 1
            if counts[what] % _TOLD_EVERY_RECORDS == 1:
                bars.update(tasks[what], completed=counts[what])

        yield told
