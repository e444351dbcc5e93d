"""Does the loop learn, and what does it forget? On the small base that comes along (1 M parameters), on the CPU, from a seed.

    python -m tests.benchmarks.learning turns                       five turns, half of what is learned rehearsed, seed 1
    python -m tests.benchmarks.learning turns --replay 0.25 --proof report
    python -m tests.benchmarks.learning loop                        the same through every service, in one running loop
    python -m tests.benchmarks.learning practise --seed 2           few rows, then 400 steps of GRPO
    python -m tests.benchmarks.learning report                      tables, bars and plots of whatever has been run

Each turn is the trainer's own job in its own process: stages, exams before and after, gate, recoveries, the adapter gone on from,
the export. What is told is measured outside of it, on 1,000 questions of each task and mode that no row has. A run that is
interrupted goes on where it was: type the same again. A turn takes about two minutes of one core.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from ruminate.trainer.plan import Enforcement, Hyperparameters, Practice

RESULTS: Final = Path(".learning")
ROWS: Final = 2500
"""New ones of a turn. With 1,500 `mirrored` is learned to 97 % and drifts, with these to 100 % and stays (docs/experiments.md)."""
SUPERVISED: Final = Hyperparameters(
    learning_rate=7e-4, batch_rows=16, micro_batch_rows=16, epochs=1.0, warmup_ratio=0.05, early_stop_looks=0
)
PRACTICE: Final = Practice(
    learning_rate=2e-4,
    steps=400,
    questions_a_step=8,
    answers_a_question=8,
    answer_tokens=20,
    reasoning_ratio=1.0,
    length_weight=0.0,
)
app = typer.Typer(name="python -m tests.benchmarks.learning", add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Seed = Annotated[int, typer.Option(min=0, help="Of the rows that are drawn, of the adapter and of the order of training.")]
Out = Annotated[Path, typer.Option(help="Where job folders and results are kept, and taken up again.")]
Questions = Annotated[int | None, typer.Option(min=1, help="Of each task and mode, instead of all 1,000.")]
Choosing = Annotated[bool, typer.Option(help="Measure on the questions that choices are made by, not on those that are told.")]


@app.command()
def turns(
    seed: Seed = 1,
    replay: Annotated[float, typer.Option(min=0, max=0.9, help="Share of what is learned that is rehearsed.")] = 0.5,
    turns: Annotated[int, typer.Option(min=1, max=5, help="How many.")] = 5,
    rows: Annotated[int, typer.Option(min=32, help="New rows of a turn.")] = ROWS,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = SUPERVISED.learning_rate,
    proof: Annotated[str, typer.Option(help="enforce: a turn that the gate refuses is undone; report: it stands.")] = "enforce",
    ask_earlier: Annotated[bool, typer.Option(help="The gate asks what earlier turns have taught, too.")] = False,
    last: Annotated[str, typer.Option(help="Task of the fifth turn: any that the small base is not taught.")] = "larger",
    questions: Questions = None,
    choosing: Choosing = False,
    out: Out = RESULTS,
) -> None:
    """Turns of the loop, each with a new task."""
    from tests.benchmarks.learning import chain
    from tests.benchmarks.learning.matter import TASKS, ending_with

    _alone()
    tasks = ending_with(last)
    kind = (
        f"{round(100 * replay)}-{proof}{'-asked' if ask_earlier else ''}{'' if tasks == TASKS else '-' + last.replace(' ', '-')}"
        f"-{rows}-rows"
    )
    chain.run(
        out / f"{'choosing-' if choosing else ''}turns-{kind}-seed-{seed}",
        seed=seed,
        replay_ratio=replay,
        enforcement=_enforcement(proof),
        asks_earlier=ask_earlier,
        tasks=tasks,
        hyperparameters=SUPERVISED.model_copy(update={"learning_rate": rate}),
        rows=rows,
        turns=turns,
        portion="chosen on" if choosing else "measured",
        questions=questions,
        say=_say,
    )


@app.command()
def loop(
    seed: Seed = 1,
    turns: Annotated[int, typer.Option(min=1, max=5, help="How many.")] = 5,
    rows: Annotated[int, typer.Option(min=32, help="New rows of a turn.")] = ROWS,
    questions: Questions = None,
    out: Out = RESULTS,
) -> None:
    """The same turns through the running loop, from the interaction to the version that serves."""
    from tests.benchmarks.learning import looping

    _alone()
    looping.run(
        out / f"loop-{rows}-rows-seed-{seed}",
        seed=seed,
        hyperparameters=SUPERVISED,
        rows=rows,
        turns=turns,
        questions=questions,
        say=_say,
    )


@app.command()
def practise(
    seed: Seed = 1,
    steps: Annotated[int, typer.Option(min=1, help="Of GRPO: 8 questions, 8 answers to each.")] = PRACTICE.steps,
    rows: Annotated[int, typer.Option(min=32, help="That teach the task before.")] = 800,
    rate: Annotated[float, typer.Option(help="Learning rate of the practice.")] = PRACTICE.learning_rate,
    questions: Questions = None,
    choosing: Choosing = False,
    out: Out = RESULTS,
) -> None:
    """Practice by rewards on a task that few rows have taught in part."""
    from tests.benchmarks.learning import practising

    _alone()
    practising.run(
        out / f"{'choosing-' if choosing else ''}practice-seed-{seed}",
        seed=seed,
        supervised=SUPERVISED,
        practice=PRACTICE.model_copy(update={"steps": steps, "learning_rate": rate}),
        rows=rows,
        portion="chosen on" if choosing else "measured",
        questions=questions,
        say=_say,
    )


@app.command()
def report(
    out: Out = RESULTS,
    keep: Annotated[bool, typer.Option(help="Add the results to those in the tree, and draw its plots anew.")] = False,
) -> None:
    """Tables, bars and plots of what has been run; without any, of what is kept in the tree."""
    from tests.benchmarks.learning import telling

    print(telling.tell(out, keep=keep))


def _alone() -> None:
    """One thread, here and in the jobs; imported modules are kept, for every job is a new process."""
    import torch

    torch.set_num_threads(1)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["HF_HUB_OFFLINE"] = "1"


def _enforcement(proof: str) -> Enforcement:
    if proof == "enforce":
        return "enforce"
    if proof == "report":
        return "report"
    raise typer.BadParameter(f"--proof is {proof}; enforce or report are allowed")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    app()
