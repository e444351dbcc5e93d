"""Unsloth beside plain TRL and PEFT on this machine: speed, memory, loss, the longest row, and what the planner says of it.

    python -m tests.benchmarks.training --minutes 12 --out training.jsonl       8B, then 4B, then 0.6B, while time lasts
    python -m tests.benchmarks.training --model qwen3:0.6b --rounds 1
    python -m tests.benchmarks.training --model toy --seconds 0.2               seconds, on a CPU
    python -m tests.benchmarks.training --read training.jsonl                   the tables of a run, killed or not

Random weights in the true shapes, made here: nothing is downloaded, and nobody is called. Each backend and model has a process of
its own; the first round of all comes before the second, so that a budget that runs out leaves whole comparisons. Every measurement
is a line in the file as soon as it is made. A backend that is not installed is named with what it lacks, and left out.

On a machine without network, put what is missing beside it (`python -m tests.benchmarks.unsloth_bundle FOLDER`) and name that
folder in PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final, get_args

import torch
import typer

from ruminate.planner.naming import find_model
from ruminate.trainer.apart import apart
from ruminate.trainer.backends.choose import Impossible, Machine, Name, choose
from ruminate.trainer.backends.opening import look
from ruminate.trainer.plan import Method
from tests.benchmarks.checkpoints import TOY, write_checkpoint
from tests.benchmarks.training_run import Specification, named_gpu

MODELS: Final = ("qwen3:8b", "qwen3:4b", "qwen3:0.6b")
LARGEST: Final = MODELS[0]
TOY_NAME: Final = "toy"
PLAN_WITHIN: Final = 0.15
PACKAGES: Final = (
    "torch",
    "triton",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "unsloth",
    "unsloth_zoo",
    "bitsandbytes",
    "xformers",
    "flash_attn",
)
"""What decides about speed, for the record; xformers and flash_attn are used by Unsloth where they are."""
UNSLOTH_IMPORTS: Final = ("unsloth", "unsloth_zoo", "bitsandbytes", "torchao", "torchvision", "PIL", "sentencepiece", "triton")
"""What `import unsloth` fails without (tried one by one)."""
LEAST_SECONDS: Final = 20.0
"""A process that has less than this left is not started."""
app = typer.Typer(name="python -m tests.benchmarks.training", add_completion=False, pretty_exceptions_enable=False)

Result = dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """Until when."""

    ends: float

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()


@app.command(help=__doc__)
def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="For everything, checkpoints included.")] = 12,
    out: Annotated[Path, typer.Option(help="Lines of JSON, appended.")] = Path("training.jsonl"),
    model: Annotated[
        list[str] | None, typer.Option(help=f"Instead of {', '.join(MODELS)}; or {TOY_NAME}. May be given again.")
    ] = None,
    backend: Annotated[list[str] | None, typer.Option(help="Only these; may be given again.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="lora, qlora; may be given again.")] = None,
    tokens: Annotated[list[int] | None, typer.Option(help="Lengths of rows; may be given again.")] = None,
    tokens_a_step: Annotated[int, typer.Option(min=1, help="Rows a step are as many as these hold, one at least.")] = 8192,
    seconds: Annotated[float, typer.Option(min=0, help="Timed steps of each measurement take so long.")] = 8,
    longest_seconds: Annotated[float, typer.Option(min=0, help="For the longest row of each backend; 0 leaves it out.")] = 60,
    card: Annotated[float, typer.Option(min=0, help="The longest row on a card of so many GB; 0 for the one that is here.")] = 24,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    rank: Annotated[int, typer.Option(min=1)] = 64,
    folder: Annotated[Path | None, typer.Option(help="Where checkpoints are made and kept; else a temporary one.")] = None,
    read: Annotated[Path | None, typer.Option(help="Measure nothing; tables of this file.")] = None,
) -> None:
    """Measure what the machine allows within the budget, and print tables."""
    if read is not None:
        print(tables(load(read)))
        return
    budget = Budget(time.monotonic() + 60 * minutes)
    names = model or list(MODELS)
    lengths = tuple(tokens or ((64, 128) if names == [TOY_NAME] else (2048, 8192)))
    here = apart(look)  # asking takes half a GB of the GPU until whoever asked is gone
    contestants = list(able(backend or get_args(Name), method or ["lora"], here))
    record(out, {"does": "begin", **machine(here), "contestants": ["/".join(each) for each in contestants], "missing": missing()})
    if not contestants:
        raise typer.BadParameter("no backend that was asked for works here: see above")
    with tempfile.TemporaryDirectory(prefix="training-") as temporary:
        bases = Bases(folder or Path(temporary), out)
        plan = Specification(
            does="measure", backend="transformers", method="lora", model="", folder="", shape=TOY, sequences=lengths,
            tokens_a_step=tokens_a_step, seconds=seconds, rank=rank,
        )  # fmt: skip
        card_bytes = round(card * 1e9) if card and here.gpu else None
        for wanted in todo(plan, names, contestants, rounds=rounds, longest_seconds=longest_seconds, card_bytes=card_bytes):
            if budget.left < LEAST_SECONDS and names != [TOY_NAME]:
                record(out, {"does": "stop", "because": f"{budget.left:.0f} seconds are left"})
                break
            run(bases.ready(wanted), out, timeout_seconds=max(1.0, budget.left))
    print(tables(load(out)))


def able(backends: Iterable[str], methods: Iterable[str], here: Machine) -> Iterator[tuple[Name, Method]]:
    """Which of these work here; for the others, why not."""
    for method, name in product(methods, backends):
        try:
            choose(name, method, here)  # type: ignore[arg-type]
        except Impossible as impossible:
            print(f"left out: {impossible}", flush=True)
        else:
            yield name, method  # type: ignore[misc]


def missing() -> list[str]:
    """What Unsloth would need and this machine has not."""
    return [name for name in UNSLOTH_IMPORTS if find_spec(name) is None]


def todo(
    plan: Specification,
    names: Sequence[str],
    contestants: Sequence[tuple[Name, Method]],
    *,
    rounds: int,
    longest_seconds: float,
    card_bytes: int | None = None,
) -> Iterator[Specification]:
    """What to measure, the most telling first.

    The first model once, with checkpoints and without, and its longest row; a round of the others; the other rounds of the
    first; the other rounds of the others.
    """

    def of(name: str) -> Specification:
        return replace(plan, model=name, shape=TOY if name == TOY_NAME else find_model(name).model.shape)

    def measured(names: Iterable[str], number: int, *, checkpointing: bool = True) -> Iterator[Specification]:
        for name, (backend, method) in product(names, contestants):
            yield replace(of(name), backend=backend, method=method, round=number, checkpointing=checkpointing)

    first, *others = names
    yield from measured([first], 1)
    if first != TOY_NAME:
        yield from measured([first], 1, checkpointing=False)
    if longest_seconds:
        most = 512 if first == TOY_NAME else plan.most_tokens
        for backend, method in contestants:
            yield replace(
                of(first), does="longest", backend=backend, method=method, most_tokens=most, seconds=longest_seconds,
                card_bytes=card_bytes,
            )  # fmt: skip
    yield from measured(others, 1)
    for number in range(2, rounds + 1):
        yield from measured([first], number)
    for number in range(2, rounds + 1):
        yield from measured(others, number)


@dataclass
class Bases:
    """Checkpoints, made when they are first needed."""

    folder: Path
    out: Path

    def ready(self, wanted: Specification) -> Specification:
        """The same, with a checkpoint to load."""
        where = self.folder / wanted.model.replace(":", "-")
        if not (where / "complete").exists():
            began = time.monotonic()
            parameters = write_checkpoint(where, wanted.shape)
            (where / "complete").touch()
            record(
                self.out,
                {"does": "write", "model": wanted.model, "parameters": parameters, "seconds": round(time.monotonic() - began, 1)},
            )
        return replace(wanted, folder=str(where))


def run(wanted: Specification, out: Path, *, timeout_seconds: float) -> None:
    """One process; its lines are kept as they come, and how it ended where that was not well."""
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.benchmarks.training_run", json.dumps(asdict(wanted))]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "UNSLOTH_DISABLE_STATISTICS": "1"}
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        watch = Watch(process, timeout_seconds)
        with watch:
            for line in process.stdout:
                record(out, json.loads(line))
        code = process.wait()
        if code:
            said.seek(0)
            about = {name: getattr(wanted, name) for name in ("model", "backend", "method", "round")}
            how = "cut off by the budget" if watch.cut else f"exit code {code}"
            record(out, {"does": "fail", **about, "what": wanted.does, "how": how, "stderr": said.read()[-1500:]})
    print(f"  {wanted.does} {wanted.model} {wanted.backend}/{wanted.method}: {time.monotonic() - began:.0f} s", flush=True)


class Watch:
    """Ends a process when its time is over."""

    def __init__(self, process: subprocess.Popen[str], seconds: float) -> None:
        from threading import Timer

        self.cut = False
        self._process = process
        self._timer = Timer(seconds, self._end)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        self.cut = True
        self._process.kill()


def record(out: Path, found: Result) -> None:
    """Keep and show one line."""
    line = json.dumps(found)
    with out.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line, flush=True)


def load(out: Path) -> list[Result]:
    """The lines of the last run in the file."""
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    begins = [at for at, line in enumerate(lines) if line["does"] == "begin"]
    return lines[begins[-1] :]


def machine(here: Machine) -> Result:
    """The device and the versions."""
    gpu = named_gpu(here.gpu)
    found: Result = {"device": here.gpu or "CPU", "cuda": torch.version.cuda, "card": gpu.title if gpu else None}
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "-"
    return {**found, "versions": versions}


def tables(lines: Sequence[Result]) -> str:
    """Markdown: speed, loss, the longest row, plan and measurement."""
    begin = lines[0]
    about = f"{begin['device']}; {', '.join(f'{name} {number}' for name, number in begin['versions'].items() if number != '-')}"
    parts = [about, _speeds(lines), _curves(lines), _longest(lines), _plans(lines)]
    if begin["missing"]:
        parts.insert(1, f"Unsloth: {', '.join(begin['missing'])} not installed here.")
    return "\n\n".join(part for part in parts if part)


def _groups(lines: Iterable[Result]) -> dict[tuple[str, int, str, str], list[Result]]:
    """Whole measurements by model, length, method (and whether layers were kept) and backend, one a round."""
    found: dict[tuple[str, int, str, str], list[Result]] = {}
    for line in lines:
        if line["does"] == "measure" and "tokens_a_row" in line:
            method = line["method"] if line["checkpointing"] else f"{line['method']}, layers kept"
            found.setdefault((line["model"], line["tokens_a_row"], method, line["backend"]), []).append(line)
    return found


def _speeds(lines: Sequence[Result]) -> str:
    rows = [
        "| model | tokens a row x rows | method | backend | tokens/s (least–most) | MFU, HFU | GB allocated, reserved | rounds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups = _groups(lines)
    for (model, tokens, method, backend), found in groups.items():
        whole = [line for line in found if not line.get("out_of_memory")]
        head = f"| {model} | {tokens:,} x {found[0]['rows_a_step']} | {method} | {backend} |"
        if not whole:
            rows.append(f"{head} out of memory | | | {len(found)} |")
            continue
        speeds = [line["tokens_a_second"] for line in whole]
        share = ", ".join(f"{median(line[name] for line in whole):.1%}" for name in ("mfu", "hfu") if name in whole[0])
        rows.append(
            f"{head} {median(speeds):,.0f} ({min(speeds):,.0f}–{max(speeds):,.0f}) | {share} | {_memory(whole)} | {len(whole)} |"
        )
    beside = []
    for (model, tokens, method, backend), found in groups.items():
        other = groups.get((model, tokens, method, "transformers"))
        if backend == "transformers" or other is None:
            continue
        pair = [[line["tokens_a_second"] for line in each if "tokens_a_second" in line] for each in (found, other)]
        if all(pair):
            times = median(pair[0]) / median(pair[1])
            beside.append(f"- {model}, {tokens:,} tokens, {method}: {backend} is {times:.2f} times as fast as transformers")
    return "\n".join((*rows, *([""] if beside else []), *beside)) if groups else ""


def _memory(found: Sequence[Result]) -> str:
    names = [name for name in ("peak_allocated_bytes", "peak_reserved_bytes", "peak_resident_bytes") if name in found[0]]
    return ", ".join(f"{median(line[name] for line in found) / 1e9:.2f}" for name in names)


def _curves(lines: Sequence[Result]) -> str:
    rows = ["| model | tokens a row | method | backend | loss, step by step (first round) |", "|---|---|---|---|---|"]
    found = [
        f"| {model} | {tokens:,} | {method} | {backend} | {' '.join(f'{loss:.3f}' for loss in first['losses'])} |"
        for (model, tokens, method, backend), (first, *_) in _groups(lines).items()
        if "losses" in first
    ]
    return "\n".join((*rows, *found)) if found else ""


def _longest(lines: Sequence[Result]) -> str:
    rows = ["| model | method | backend | card | longest row that fits | first that does not |", "|---|---|---|---|---|---|"]
    found = [
        f"| {line['model']} | {line['method']} | {line['backend']} "
        f"| {format(line['card_bytes'] / 1e9, '.0f') + ' GB' if line['card_bytes'] else 'this'} | {line['longest_tokens']:,}"
        f"{'' if line['found'] else ' at least'} | {line['first_too_long'] or 'none tried'} |"
        for line in lines
        if "longest_tokens" in line
    ]
    return "\n".join((*rows, *found)) if found else ""


def _plans(lines: Sequence[Result]) -> str:
    """Planned over measured: the whole against what the device held, its tensors against what was allocated."""
    rows = [
        "| model | tokens a row x rows | method | backend | GB on the device, planned, ratio | GB allocated, planned, ratio "
        f"| within {PLAN_WITHIN:.0%} |",
        "|---|---|---|---|---|---|---|",
    ]
    found = []
    for (model, tokens, method, backend), measured in _groups(lines).items():
        whole = [line for line in measured if "peak_device_bytes" in line and not line.get("out_of_memory")]
        if not whole:
            continue
        device, allocated = (median(line[name] for line in whole) for name in ("peak_device_bytes", "peak_allocated_bytes"))
        in_all, tensors = whole[0]["planned_bytes"], whole[0]["planned_tensors_bytes"]
        within = abs(in_all / device - 1) <= PLAN_WITHIN
        found.append(
            f"| {model} | {tokens:,} x {whole[0]['rows_a_step']} | {method} | {backend} "
            f"| {device / 1e9:.2f}, {in_all / 1e9:.2f}, {in_all / device:.2f} "
            f"| {allocated / 1e9:.2f}, {tensors / 1e9:.2f}, {tensors / allocated:.2f} | {'yes' if within else 'no'} |"
        )
    return "\n".join((*rows, *found)) if found else ""


if __name__ == "__main__":
    app()
