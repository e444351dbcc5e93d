"""What our trainer costs beside plain TRL: the same rows, steps and checkpoints on the CPU with the tiny model.

    python -m tests.benchmarks.trainer_overhead                     five runs each in turn, a minute each
    python -m tests.benchmarks.trainer_overhead --seconds 5 --runs 1

Ours is the phase `training` of a whole job, with a report on every step; plain is transformers, PEFT and TRL as their guides show
them, with the same arguments. Either makes its trainer, trains, and saves the adapter. Memory is the most that was resident up to
then; CPU seconds tell a run that others disturbed. One thread each.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final, Literal

import typer

from ruminate.command.demo.lesson import corpus, fact_exchanges, problem_exchanges
from ruminate.schemas.payload import ArtifactReference
from ruminate.trainer.outcome import DATASET_FOLDER, PLAN_FILE, Report
from ruminate.trainer.plan import Hyperparameters, JobPlan, Proof

Who = Literal["ruminate", "trl"]

MOST_TIME_RATIO: Final = 1.05
MOST_MEGABYTES: Final = 100
CHOSEN: Final = Hyperparameters(learning_rate=2e-3, batch_rows=16, micro_batch_rows=16)
CHECKPOINT_STEPS: Final = 50
TRIAL_STEPS: Final = 10
app = typer.Typer(name="python -m tests.benchmarks.trainer_overhead", add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Cost:
    """What one run took; `loss` is that of its last step."""

    seconds: float
    cpu_seconds: float
    peak_megabytes: float
    loss: float


@app.command(help=__doc__)
def main(
    seconds: Annotated[float, typer.Option(min=0.1, help="How long a run of plain TRL is to train, about.")] = 60,
    runs: Annotated[int, typer.Option(min=1, help="Of each, in turn.")] = 5,
) -> None:
    """Measure and print a table with the bars, met or not."""
    with TemporaryDirectory(prefix="overhead-") as where:
        folder = Path(where)
        prepare(folder)
        trial = run("trl", folder, steps=TRIAL_STEPS)
        steps = max(TRIAL_STEPS, ceil(TRIAL_STEPS * seconds / trial.seconds))
        print(f"{steps} steps of {CHOSEN.batch_rows} rows", flush=True)
        costs: dict[Who, list[Cost]] = {"ruminate": [], "trl": []}
        for _ in range(runs):
            for who, found in costs.items():
                found.append(run(who, folder, steps=steps))
                print(json.dumps({"who": who, "steps": steps, **asdict(found[-1])}), flush=True)
    print(table(costs))


def prepare(folder: Path) -> None:
    """The tiny base and the rows of the demo, for both."""
    from ruminate.trainer.bases.tiny import make_tiny_base

    make_tiny_base(folder / "base", corpus(), seed=0)
    rows = [
        {
            "prompt": [{"role": "user", "content": exchange.question}],
            "completion": [{"role": "assistant", "content": exchange.answer, "reasoning_content": exchange.thinking or ""}],
            "chat_template_kwargs": {"enable_thinking": bool(exchange.thinking)},
        }
        for exchange in (*fact_exchanges(), *problem_exchanges())
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(who: Who, folder: Path, *, steps: int) -> Cost:
    """One run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"from tests.benchmarks.trainer_overhead import work; work({who!r}, {str(folder)!r}, {steps})"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{who} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def work(who: Who, folder: str, steps: int) -> None:
    """What the process does: train, and print what it cost."""
    with TemporaryDirectory(prefix=f"{who}-", dir=folder) as job:
        cost = (ours if who == "ruminate" else plain)(Path(folder), Path(job), steps)
    print(json.dumps(asdict(cost)))


class Clock:
    """From here to there."""

    def __init__(self) -> None:
        self._began, self._cpu_began = time.perf_counter(), time.process_time()

    def stop(self, loss: float) -> Cost:
        """What it took, and the most memory until now."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        a_megabyte = 2**20 if sys.platform == "darwin" else 2**10
        return Cost(time.perf_counter() - self._began, time.process_time() - self._cpu_began, peak / a_megabyte, loss)


class _Trained(Exception):
    """Not an error: what comes after training is not measured."""


def ours(folder: Path, job: Path, steps: int) -> Cost:
    """A job as the service starts it, up to the end of training."""
    from ruminate.trainer.backends.opening import open_backend

    backend = open_backend("transformers", "lora", compiled=job / "compiled")
    from ruminate.trainer.recipe import run as run_job

    nothing = ArtifactReference(uri="file:///nowhere", sha256="0" * 64, size_bytes=1)
    plan = JobPlan(
        tenant="default",
        batch_id="tiny-000001",
        target_model="tiny",
        number=1,
        version="v1",
        parent_version=None,
        parent_adapter=None,
        base_model=str(folder / "base"),
        dataset=nothing,
        rows=560,
        from_base=True,
        hyperparameters=CHOSEN.model_copy(update={"epochs": steps * CHOSEN.batch_rows / 560, "early_stop_looks": 0}),
        proof=Proof(enforcement="off"),
        checkpoint_steps=CHECKPOINT_STEPS,
        merged_dtype="float32",
        encodings=("f16",),
        adapter_encoding="f16",
        equality_probes=0,
    )
    (job / PLAN_FILE).write_text(plan.model_dump_json(), encoding="utf-8")
    (job / DATASET_FOLDER).mkdir()
    (job / DATASET_FOLDER / "train.jsonl").write_bytes((folder / "train.jsonl").read_bytes())
    clocks: list[Clock] = []
    losses: list[float] = []
    costs: list[Cost] = []

    def tell(report: Report) -> None:
        progress = report.progress
        if progress is None:
            return
        print(report.model_dump_json(exclude_none=True), file=sys.stderr)  # as the child does, into a pipe
        if progress.loss is not None:
            losses.append(progress.loss)
        elif progress.phase == "training":
            clocks.append(Clock())
        elif clocks:
            costs.append(clocks[0].stop(losses[-1]))
            raise _Trained

    try:
        run_job(job, tell, backend)
    except _Trained:
        return costs[0]
    raise RuntimeError("the job ended without a phase after training")


def plain(folder: Path, job: Path, steps: int) -> Cost:
    """TRL as its guide shows it, with the arguments that ours has."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    from ruminate.trainer.backends import TARGET_MODULES
    from ruminate.trainer.rows import read_rows, render

    set_seed(CHOSEN.seed)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    rows = [render(row, tokenizer) for row in read_rows(folder / "train.jsonl")]
    config = LoraConfig(
        r=CHOSEN.lora_rank,
        lora_alpha=CHOSEN.lora_alpha,
        lora_dropout=0.0,
        target_modules=list(TARGET_MODULES),
        task_type="CAUSAL_LM",
    )
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "base"), config)
    clock = Clock()
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}),
        args=SFTConfig(
            output_dir=str(job / "checkpoints"),
            max_steps=steps,
            per_device_train_batch_size=CHOSEN.micro_batch_rows,
            learning_rate=CHOSEN.learning_rate,
            lr_scheduler_type=CHOSEN.schedule,
            warmup_steps=ceil(steps * CHOSEN.warmup_ratio),
            weight_decay=0.0,
            seed=CHOSEN.seed,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            save_steps=CHECKPOINT_STEPS,
            save_total_limit=2,
            logging_steps=1,
            disable_tqdm=True,
            report_to="none",
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
        ),
    )
    trainer.train()
    model.save_pretrained(job / "adapter")
    return clock.stop(next(entry["loss"] for entry in reversed(trainer.state.log_history) if "loss" in entry))


def table(costs: dict[Who, list[Cost]]) -> str:
    """Medians, spread, and the bars."""
    rows = ["| | seconds (least–most) | CPU seconds | peak MB | last loss |", "|---|---|---|---|---|"]
    rows += [
        f"| {who} | {median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f}) | {_median(found, 'cpu_seconds'):.2f} "
        f"| {_median(found, 'peak_megabytes'):.0f} | {_median(found, 'loss'):.4f} |"
        for who, found in costs.items()
        if (seconds := [cost.seconds for cost in found])
    ]
    time_ratio, cpu_ratio = (_median(costs["ruminate"], name) / _median(costs["trl"], name) for name in ("seconds", "cpu_seconds"))
    more = _median(costs["ruminate"], "peak_megabytes") - _median(costs["trl"], "peak_megabytes")
    return "\n".join(
        (
            *rows,
            "",
            f"- time ≤ {MOST_TIME_RATIO:.2f} times: **{'met' if time_ratio <= MOST_TIME_RATIO else 'not met'}** "
            f"({time_ratio:.3f}; CPU {cpu_ratio:.3f})",
            f"- memory ≤ {MOST_MEGABYTES} MB more: **{'met' if more <= MOST_MEGABYTES else 'not met'}** ({more:+.0f} MB)",
        )
    )


def _median(found: Sequence[Cost], name: str) -> float:
    return float(median(getattr(cost, name) for cost in found))


if __name__ == "__main__":
    app()
