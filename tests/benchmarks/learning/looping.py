"""The same turns through the running loop: what an agent reports goes through every service, until the version serves.

Interactions are published, collected, judged, sealed with anchors and with rows of earlier batches, trained, proven, put on the
node, asked there as served, and registered: nothing of that is done here. Here it is only said when a batch is to be sealed; and
each registered version's adapter is fetched from the store and measured, as in `chain`.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ruminate.shared.store import open_store
from ruminate.trainer.bases.arithmetic import Task
from ruminate.trainer.bases.small import SHIPPED
from ruminate.trainer.learning.proving import PROOF_FILE
from ruminate.trainer.plan import Hyperparameters
from tests.benchmarks.learning.chain import CHAIN_FILE, HELD_OUT, Chain, Say, Turn, line, once
from tests.benchmarks.learning.matter import BASE_TASKS, TASKS, Portion, drawn
from tests.benchmarks.learning.measure import Ability, Gauge
from tests.benchmarks.learning.turn import Taken, accepted, refused
from tests.e2e.running_loop import RunningLoop, eventually, start_loop
from tests.e2e.teaching import SETTINGS, Turned, reported, turn, watched

REPLAY: Final = 0.5
ANCHORS: Final = 0.5
"""As many rows as are new are replayed from earlier batches, where there are any, and as many are anchors."""
WITHIN_SECONDS: Final = 1800.0


def settings(hyperparameters: Hyperparameters) -> dict[str, str]:
    """Of the loop's services."""
    return SETTINGS | {
        "RUMINATE_REPLAY_RATIO": str(REPLAY),
        "RUMINATE_ANCHOR_RATIO": str(ANCHORS),
        "RUMINATE_ANSWER_MOST_RATIO": "1",
        "RUMINATE_LEARNING_RATE": str(hyperparameters.learning_rate),
        "RUMINATE_TRAINING_EPOCHS": str(hyperparameters.epochs),
        "RUMINATE_WARMUP_RATIO": str(hyperparameters.warmup_ratio),
        "RUMINATE_EARLY_STOP_LOOKS": str(hyperparameters.early_stop_looks),
        "RUMINATE_BATCH_ROWS": str(hyperparameters.batch_rows),
        "RUMINATE_MICRO_BATCH_ROWS": str(hyperparameters.micro_batch_rows),
        "RUMINATE_TRAINING_SEED": str(hyperparameters.seed),
        "RUMINATE_TRAINING_STAGES": '["thinking_fusion"]',
    }


def run(
    folder: Path,
    *,
    seed: int,
    hyperparameters: Hyperparameters,
    rows: int,
    turns: int = len(TASKS),
    portion: Portion = "measured",
    questions: int | None = None,
    tasks: Sequence[Task] = TASKS,
    say: Say = print,
) -> Chain:
    """Run all turns in one loop, from its start to its end; what an earlier run has left in `folder` is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    chosen = hyperparameters.model_copy(update={"seed": seed})
    done: list[Turn] = []
    state = folder / "state"
    with Gauge(SHIPPED) as gauge, start_loop(["up"], state=state, environment=settings(chosen)) as loop:

        def measured(path: Path, adapter: Path | None, these: Sequence[Task]) -> tuple[Ability, ...]:
            return once(path, lambda: gauge.abilities(adapter, (*BASE_TASKS, *these), portion, most=questions))

        names = "-".join(task.name for task in tasks[:turns]).replace(" ", "-")
        base = folder.parent / f"base-{portion.replace(' ', '-')}-{questions or 'all'}-{names}.json"
        at_first = measured(base, None, tasks[:turns])
        eventually(lambda: "stop with Ctrl-C" in loop.said(), within_seconds=300, loop=loop)
        adapter: Path | None = None
        with watched(loop) as seen:
            for number, task in enumerate(tasks[:turns], start=1):
                fresh, aside = drawn(task, seed, rows, HELD_OUT)
                say(f"turn {number} of {turns}: {task.name}, {len(fresh) + len(aside)} interactions")
                interactions = [
                    reported(exercise, at, run=f"turn-{number}", thinks=thinks, checked=True)
                    for at, (exercise, thinks) in enumerate((*fresh, *aside))
                ]
                turned = turn(loop, seen, interactions, within_seconds=WITHIN_SECONDS)
                if turned.trained is not None:
                    adapter = _adapter(loop, turned, folder / str(number))
                taken = _taken(turned, adapter)
                abilities = measured(folder / str(number) / "measured.json", adapter, tasks[:number])
                done.append(Turn(number=number, task=task.name, taken=taken, abilities=abilities))
                say(line(done[-1]))
                chain = Chain(
                    seed=seed,
                    replay_ratio=REPLAY,
                    enforcement="enforce",
                    through="loop",
                    rows=rows,
                    questions=questions,
                    portion=portion,
                    hyperparameters=chosen,
                    at_first=at_first,
                    turns=tuple(done),
                )
                (folder / CHAIN_FILE).write_text(chain.model_dump_json(indent=2), encoding="utf-8")
    return chain


def _adapter(loop: RunningLoop, turned: Turned, to: Path) -> Path:
    assert turned.trained is not None
    store = open_store(loop.addresses["store"])
    return asyncio.run(store.fetch(turned.trained.adapter, to=to / "adapter"))


def _taken(turned: Turned, adapter: Path | None) -> Taken:
    if turned.failed is not None:
        taken = refused(turned.failed.reason, turned.failed.explanation, turned.failed.evidence)
        if taken is None:
            raise RuntimeError(f"the batch failed as {turned.failed.reason}: {turned.failed.explanation}")
        return taken
    assert turned.trained is not None
    assert adapter is not None
    return accepted(turned.trained.metrics, adapter / PROOF_FILE, turned.seconds)
