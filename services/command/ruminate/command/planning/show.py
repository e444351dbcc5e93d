"""The answers of `ruminate plan` as text."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ruminate.command.planning.answer import HELD_AGAINST, Detail, SideBySide
from ruminate.command.terminal import line, printable
from ruminate.planner.catalogue import MODELS, Model
from ruminate.planner.estimate import gb
from ruminate.planner.fit import DoesNotFit
from ruminate.planner.gpus import GIB, GPUS
from ruminate.planner.serving import ServingSetup
from ruminate.planner.setups import Abilities
from ruminate.planner.training_setup import TrainingSetup

_LETTERS = (
    "h hidden, q queries, k keys, f MLP of a token, r rank: widths, in bytes a token; services/planner/README.md derives them"
)


def show_catalogue(to: Console) -> None:
    """Models and GPUs."""
    table = _table("model", "on the hub", "parameters", "active", "layers", "reads", "beyond that", "thinks")
    for model in MODELS:
        shape = model.shape
        active = f"{shape.active_parameters / 1e9:.1f} B" if shape.experts else "all"
        longer = f"{model.longest_context:,} by {model.beyond_native}" if model.beyond_native else ""
        reads = f"{model.native_context:,}"
        table.add_row(model.name, model.hub, f"{shape.parameters:,}", active, str(shape.layers), reads, longer, model.thinks)
    to.print(table)
    to.print()
    table = _table("--gpu", "is", "memory", "bf16 dense peak", "by")
    for gpu in GPUS:
        memory = f"{gpu.memory_bytes / GIB:.1f} GiB"
        table.add_row(gpu.name, gpu.title, memory, f"{gpu.peak_tflops:,.0f} TFLOPS", gpu.source)
    to.print(table)
    line(to, "or a size: --gpu 24GB")


def show(answer: Detail | SideBySide, to: Console) -> None:
    """Whatever was answered."""
    if isinstance(answer, Detail):
        _show_detail(answer, to)
    else:
        _show_side_by_side(answer, to)


def _show_detail(found: Detail, to: Console) -> None:
    _show_model(found.model, found.note, to)
    gpu = found.gpu
    many = f"{found.count} x " if found.count > 1 else ""
    line(
        to,
        f"{many}{gpu.title}: {gb(gpu.memory_bytes)} ({gpu.memory_bytes / GIB:.1f} GiB) each, {gpu.peak_tflops:,.0f} TFLOPS "
        f"({gpu.note or gpu.source})",
    )
    if not gpu.has_bfloat16:
        line(to, "it has no bfloat16: float16 takes as much memory, float32 twice as much for the weights")
    _show_serving(found, to)
    _show_training(found, to)
    _show_time(found, to)
    line(to, f"\n{HELD_AGAINST}")


def _show_side_by_side(found: SideBySide, to: Console) -> None:
    _show_model(found.model, found.note, to)
    line(to, f"\nserves {_served(found.serving)}: how many at once, and the longest context of a single one")
    table = _table("set-up", "GPU", *(one.encoding for one in found.rows[0][1].serves))
    for each, able, _ in found.rows:
        cells = (f"{one.parallel} at once, {one.longest_context:,}" if one.longest_context else "no" for one in able.serves)
        table.add_row(each.name, each.title, *cells)
    to.print(table)
    line(to, f"\ntrains {_trained(found.setup, method=False)}: what a GPU holds, and the longest rows")
    methods = (one.method for one in found.rows[0][1].trains)
    table = _table("set-up", "GPU", *methods, f"a million tokens, {found.setup.method}")
    for each, able, million in found.rows:
        table.add_row(each.name, each.title, *_train_cells(able), _time(million.hours))
    to.print(table)
    line(to, f"\nIn detail:  ruminate plan {printable(found.model.name)} --gpu rtx4090\n{HELD_AGAINST}")


def _train_cells(able: Abilities) -> list[str]:
    cells = []
    for one in able.trains:
        how = "" if one.placement == "one GPU" else f", {one.placement}"
        if one.fits:
            cells.append(f"{gb(one.needed_bytes)}{how}, {one.longest_context:,}")
        elif one.longest_context:
            cells.append(f"no: {gb(one.needed_bytes)}; rows of {one.longest_context:,}")
        else:
            cells.append(f"no: {gb(one.needed_bytes)}")
    return cells


def _show_model(model: Model, note: str, to: Console) -> None:
    shape = model.shape
    active = f", {shape.active_parameters / 1e9:.1f} B of them for each token" if shape.experts else ""
    longer = f", {model.longest_context:,} by {model.beyond_native}" if model.beyond_native else ""
    reads = f"reads {model.native_context:,} tokens{longer}"
    line(to, f"{model.label}: {shape.parameters:,} parameters{active}; {reads}; thinks {model.thinks}")
    if note:
        line(to, note)


def _show_serving(found: Detail, to: Console) -> None:
    line(to, f"\nserving {_served(found.serving)}, KV cache in {found.serving.kv_encoding}")
    parts = [part.name.removeprefix("compute ") for part in found.served[0].estimate.parts]
    table = _table("encoding", *parts, "together", "fits", "longest", "at once")
    for each in found.served:
        sizes = (gb(part.size_bytes) for part in each.estimate.parts)
        total = gb(each.estimate.total_bytes)
        table.add_row(each.encoding, *sizes, total, _yes(fits=each.fits), f"{each.longest_context:,}", str(each.parallel))
    to.print(table)
    for part in found.served[-1].estimate.parts:
        line(to, f"  {part.name}: {part.formula}")
    if found.ways_to_serve:
        line(to, "what would fit")
        for way in found.ways_to_serve:
            line(to, f"  {way.says}: {gb(way.needed_bytes)} of {gb(way.count * way.gpu.memory_bytes)} ({way.setup.encoding})")


def _show_training(found: Detail, to: Console) -> None:
    training = found.training
    each = "" if found.count == 1 else f", on each of {found.count} GPUs ({training.placement})"
    line(to, f"\ntraining {_trained(found.setup)}{each}")
    table = _table("part", "size", "is")
    for part in training.estimate.parts:
        table.add_row(part.name, Text(gb(part.size_bytes), justify="right"), Text(part.formula, overflow="fold"))
    table.add_row("together", Text(gb(training.estimate.total_bytes), justify="right"), f"of {gb(found.gpu.memory_bytes)}")
    to.print(table)
    line(to, f"  {_LETTERS}")
    if found.host_bytes:
        line(to, f"  and {gb(found.host_bytes)} of the machine's own memory a GPU")
    if isinstance(training, DoesNotFit):
        line(to, f"does not fit: {training.explanation}", style="red")
        table = _table("what to change", "to", "a GPU holds", "of", "fits")
        for way in training.advice:
            table.add_row(
                way.change, Text(way.says, overflow="fold"), gb(way.needed_bytes), gb(way.devices.memory_bytes), _yes(fits=way.fits)
            )
        to.print(table)
    else:
        line(
            to,
            f"fits: {gb(training.free_bytes)} stay free; the longest rows that fit have {found.longest_rows:,} tokens",
            style="green",
        )
        if found.setup.method == "lora" and found.setup.backend == "transformers" and found.setup.adapter_on == "all":
            setup = found.setup
            line(
                to,
                f"as settings: RUMINATE_MAX_ROW_TOKENS={setup.context_tokens} RUMINATE_MICRO_BATCH_ROWS={setup.micro_batch_rows} "
                f"RUMINATE_LORA_RANK={setup.rank}",
            )


def _show_time(found: Detail, to: Console) -> None:
    done, run = found.work, found.run
    what = f"{done.tokens:,} tokens"
    if run is not None:
        what = f"{run.rows:,} rows x {run.tokens_a_row:,} tokens x {run.epochs:g} epochs = {what}"
    line(to, f"\ntime for {what}: {_time(done.hours)}")
    gpus = f" x {found.count} GPUs" if found.count > 1 else ""
    line(to, f"  {done.flops:.2e} FLOPs: {done.formula}, a token")
    line(to, f"  at {done.mfu:.0%} of {found.gpu.peak_tflops:,.0f} TFLOPS{gpus} (assumed; --mfu changes it)")
    if found.cost is not None:
        line(to, f"  cost {found.cost:,.2f} at {found.price:g} a GPU and hour")
    if run is None:
        line(to, "  --rows, --tokens-a-row and --epochs time a run of yours, --price says its cost")


def _trained(setup: TrainingSetup, *, method: bool = True) -> str:
    rows = f"{setup.micro_batch_rows} row{'s' * (setup.micro_batch_rows > 1)}"
    words = [f"rank {setup.rank} on {setup.adapter_on} layers" if setup.adapter_on == "all" else f"rank {setup.rank} on attention"]
    words += [f"{rows} of {setup.context_tokens:,} tokens at once", setup.optimizer]
    words += ["checkpointing" if setup.checkpointing else "no checkpointing", setup.backend]
    if method:
        words = [setup.method, *(words if setup.trains_adapter else words[1:])]
    return ", ".join(words)


def _served(serving: ServingSetup) -> str:
    many = f"{serving.parallel} requests" if serving.parallel > 1 else "a request"
    return f"{many} of {serving.context_tokens:,} tokens"


def _time(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:,.1f} h"


def _yes(*, fits: bool) -> Text:
    return Text("yes", style="green") if fits else Text("no", style="red")


def _table(*names: str) -> Table:
    return Table(*names, box=None, header_style="dim")
