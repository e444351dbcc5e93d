"""`ruminate plan MODEL`: parses what it was given, asks the planner, prints."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ruminate.command.terminal import FAILED, AsJson, console, refuse, write_json

if TYPE_CHECKING:
    from ruminate.command.planning.answer import Detail, SideBySide
    from ruminate.planner.catalogue import Model
    from ruminate.planner.gpus import Gpu
    from ruminate.planner.naming import Found

_DEFAULT_CONTEXT: Final = 4096
_DEFAULT_ROW_TOKENS: Final = 1024


class Method(StrEnum):
    """How it is trained."""

    LORA = "lora"
    QLORA = "qlora"
    FULL = "full"


class Backend(StrEnum):
    """What trains it."""

    TRANSFORMERS = "transformers"
    UNSLOTH = "unsloth"


class Optimizer(StrEnum):
    """What moves the weights."""

    ADAMW = "adamw"
    ADAMW_8BIT = "adamw-8bit"


class AdapterOn(StrEnum):
    """Which linear layers have an adapter."""

    ALL = "all"
    ATTENTION = "attention"


class Loss(StrEnum):
    """How the loss is computed."""

    CHUNKED = "chunked"
    WHOLE = "whole"


class KvCache(StrEnum):
    """How the KV cache is kept."""

    F16 = "f16"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"


def plan(
    name: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="qwen3:8b, Qwen/Qwen3-8B, or a folder with the config.json of one.")
    ] = None,
    catalogue: Annotated[bool, typer.Option("--list", help="The models that exist, and the GPUs that are known by name.")] = False,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="NAME|SIZE", help="rtx4090, h100, 24GB; without it, five set-ups side by side.")
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, max=4096, help="How many of them, in one machine.")] = 1,
    context: Annotated[
        int | None, typer.Option("--context", min=1, help=f"Tokens of the longest row, and of a request; {_DEFAULT_CONTEXT}.")
    ] = None,
    method: Annotated[
        Method, typer.Option("--method", help="An adapter, as our trainer does, an adapter on a base in 4 bits, or every weight.")
    ] = Method.LORA,
    batch: Annotated[int, typer.Option("--batch", min=1, max=4096, help="Rows that a GPU trains on at once.")] = 1,
    rank: Annotated[int, typer.Option("--rank", min=1, max=4096, help="Rank of the adapter.")] = 64,
    adapter_on: Annotated[
        AdapterOn, typer.Option("--adapter-on", help="All linear layers, every expert's too, or those of attention.")
    ] = AdapterOn.ALL,
    optimizer: Annotated[Optimizer, typer.Option("--optimizer", help="AdamW's moments in 32 or in 8 bits.")] = Optimizer.ADAMW,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing/--no-checkpointing", help="Compute layers again rather than keep what they made.")
    ] = True,
    backend: Annotated[Backend, typer.Option("--backend", help="What trains: ours is transformers.")] = Backend.TRANSFORMERS,
    loss: Annotated[Loss, typer.Option("--loss", help="In chunks as TRL does for supervised stages, or all logits at once.")] = (
        Loss.CHUNKED
    ),
    kv_cache: Annotated[KvCache, typer.Option("--kv-cache", help="OLLAMA_KV_CACHE_TYPE of the node that serves.")] = KvCache.F16,
    parallel: Annotated[int, typer.Option("--parallel", min=1, max=1024, help="OLLAMA_NUM_PARALLEL of that node.")] = 1,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="Rows to learn from: how long will it take?")] = None,
    tokens_a_row: Annotated[
        int | None, typer.Option("--tokens-a-row", min=1, help=f"Their tokens on average; {_DEFAULT_ROW_TOKENS}.")
    ] = None,
    epochs: Annotated[float, typer.Option("--epochs", min=0.001, max=1000, help="How often each row is seen.")] = 2.0,
    mfu: Annotated[
        float | None,
        typer.Option("--mfu", min=0.001, max=1, help="Share of the GPU's peak that is reached; 0.3, with experts 0.1."),
    ] = None,
    price: Annotated[float | None, typer.Option("--price", min=0, help="Of one GPU for an hour, in your currency.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a Qwen3 needs to be trained and served on your GPU, and what to change where it does not fit.

    Every number comes with its formula. Exit 0: it fits. Exit 1: it cannot be trained or not be served as asked; the answer
    names what would fit. Exit 2: the question makes no sense. Nothing is loaded, downloaded or asked of a GPU.

        ruminate plan qwen3:8b                                          what five set-ups can do with it
        ruminate plan qwen3:14b --gpu 24GB --method qlora               will it fit, part by part
        ruminate plan qwen3:8b --gpu h100 --rows 5000 --price 2.50      hours and cost
    """
    if catalogue:
        if name is not None:
            refuse("--list lists every model: leave MODEL out")
        _list(as_json=as_json)
        return
    if name is None:
        refuse("name a model, such as qwen3:8b; `ruminate plan --list` shows all")
    about_a_gpu = {"--gpus": gpus > 1, "--rows": rows is not None, "--mfu": mfu is not None}
    if gpu is None and (given := [option for option, is_given in about_a_gpu.items() if is_given]):
        refuse(f"{', '.join(given)} says something of a GPU: name it with --gpu")
    if rows is None and (tokens_a_row is not None or price is not None):
        refuse("--tokens-a-row and --price are about a run: give --rows, too")
    # What a plan needs is of no use to any other verb, and every one of them would wait for it.
    from ruminate.command.planning.answer import detail, side_by_side  # noqa: PLC0415
    from ruminate.planner.hours import Run  # noqa: PLC0415
    from ruminate.planner.serving import ServingSetup  # noqa: PLC0415
    from ruminate.planner.training_setup import TrainingSetup  # noqa: PLC0415

    found = _find(name)
    tokens = _context(found.model, context, tokens_a_row)
    setup = TrainingSetup(
        method=method.value,
        context_tokens=tokens,
        micro_batch_rows=batch,
        rank=rank,
        adapter_on=adapter_on.value,
        optimizer=optimizer.value,
        checkpointing=checkpointing,
        backend=backend.value,
        loss=loss.value,
    )
    serving = ServingSetup(context_tokens=tokens, kv_encoding=kv_cache.value, parallel=parallel)
    if gpu is None:
        _print(side_by_side(found, setup, serving), as_json=as_json)
        return
    run = None if rows is None else Run(rows=rows, tokens_a_row=tokens_a_row or min(_DEFAULT_ROW_TOKENS, tokens), epochs=epochs)
    answer = detail(found, _gpu(gpu), gpus, setup, serving, run=run, mfu=mfu, price=price)
    _print(answer, as_json=as_json)
    raise typer.Exit(0 if answer.fits else FAILED)


def _list(*, as_json: bool) -> None:
    from ruminate.command.planning import answer, show  # noqa: PLC0415

    if as_json:
        write_json(answer.catalogue_as_json())
    else:
        show.show_catalogue(console)


def _print(answer: Detail | SideBySide, *, as_json: bool) -> None:
    from ruminate.command.planning import show  # noqa: PLC0415

    if as_json:
        write_json(answer.as_json())
    else:
        show.show(answer, console)


def _context(model: Model, asked: int | None, tokens_a_row: int | None) -> int:
    """Tokens of the longest row: what was asked for, where the model reads that far."""
    tokens = min(_DEFAULT_CONTEXT, model.longest_context) if asked is None else asked
    if tokens > model.longest_context:
        by = f" by {model.beyond_native}" if model.beyond_native else ""
        refuse(
            f"--context {tokens}: {model.label} reads {model.longest_context:,} tokens at most{by}; "
            "`ruminate plan --list` shows who reads more"
        )
    if tokens_a_row is not None and tokens_a_row > tokens:
        refuse(f"--tokens-a-row {tokens_a_row} is more than the longest row has (--context {tokens})")
    return tokens


def _gpu(text: str) -> Gpu:
    from ruminate.planner.gpus import NoSuchGpu, find_gpu  # noqa: PLC0415

    try:
        return find_gpu(text)
    except NoSuchGpu as error:
        refuse(f"--gpu {error}")


def _find(name: str) -> Found:
    from ruminate.planner.folder import NotAModel, read_folder  # noqa: PLC0415
    from ruminate.planner.naming import Found, NoSuchModel, find_model  # noqa: PLC0415

    folder = Path(name).expanduser()
    try:
        if folder.is_dir():
            return Found(read_folder(folder))
        return find_model(name)
    except (NoSuchModel, NotAModel, OSError) as error:
        refuse(str(error))
