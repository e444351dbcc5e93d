"""Watches a stage: tells every step, marks whole checkpoints, keeps some adapters on the way, stops when nothing improves, and
ends a job whose loss is no number any more."""

from __future__ import annotations

import json
import math
import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import TrainerCallback

from ruminate.schemas.training import Stage
from ruminate.shared.store import whole_file
from ruminate.trainer.backends.adapter import leave_reference_out, save_adapter
from ruminate.trainer.outcome import Failure, JobFailed, Progress, Report

COMPLETE_FILE: Final = "complete"
"""Marks a checkpoint that was written to its end."""
SNAPSHOTS: Final = "snapshots"
BEST: Final = "best"
"""Adapters by the step of their look: the best one, and until the next checkpoint the one that was the best before it."""
WATCHED_FILE: Final = "watched.json"
_SNAPSHOTS_AT: Final = (0.25, 0.5, 0.75)
_LEAST_IMPROVEMENT: Final = 1e-4
_NAMES: Final = {"loss": "loss", "grad_norm": "norm of the gradient"}

Tell = Callable[[Report], None]


@dataclass(frozen=True)
class Watch:
    """What is looked at every so many steps: lower is better. After `patience` looks without a better one the stage ends."""

    look: Callable[[Any], float]
    every_steps: int
    patience: int


class Watcher(TrainerCallback):  # type: ignore[misc]
    """One a stage and run of it."""

    def __init__(
        self,
        stage: Stage,
        folder: Path,
        *,
        steps: int,
        learning_rate: float,
        tell: Tell,
        watch: Watch | None,
        keeps_snapshots: bool,
    ) -> None:
        self._stage, self._folder, self._steps, self._rate = stage, folder, steps, learning_rate
        self._tell, self._watch = tell, watch
        self._snapshots_at = {max(1, round(steps * at)) for at in _SNAPSHOTS_AT} if keeps_snapshots else set()
        self._began: tuple[int, float, float] | None = None
        self._model: Any = None
        self._looks: list[tuple[int, float]] = []
        self.stopped_early = False
        self.loss: float | None = None
        self.tokens = self._tokens_before = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Take up what the checkpoint knows."""
        self._model = given["model"]
        steps = [entry for entry in state.log_history if "num_tokens" in entry]
        self.tokens = self._tokens_before = float(steps[-1]["num_tokens"]) if steps else 0.0
        path = self._folder / WATCHED_FILE
        if path.exists():
            # Killed after a look and before its checkpoint, that look is made again.
            self._looks = [(step, value) for step, value in json.loads(path.read_bytes()) if step <= state.global_step]

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to count time."""
        if self._began is None:
            self._began = (state.global_step, self.tokens, time.monotonic())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep an adapter on the way, and look."""
        step = state.global_step
        if step in self._snapshots_at:
            self._keep(self._folder / SNAPSHOTS / str(step))
        if self._watch is not None and (step % self._watch.every_steps == 0 or step == self._steps):
            self._look(self._watch, step, control)

    def _look(self, watch: Watch, step: int, control: Any) -> None:
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):  # what is drawn in looking must not change what is drawn in training
            value = watch.look(self._model)
        if all(value < before - _LEAST_IMPROVEMENT for _, before in self._looks):
            self._keep(self._folder / BEST / str(step))
        self._looks.append((step, value))
        with whole_file(self._folder / WATCHED_FILE) as out:
            out.write(json.dumps(self._looks).encode())
        best = min(range(len(self._looks)), key=lambda number: self._looks[number][1])
        if len(self._looks) - 1 - best >= watch.patience and step < self._steps:
            self.stopped_early = control.should_training_stop = True

    @property
    def best_step(self) -> int | None:
        """The step of the best look; None where nothing was looked at."""
        return min(self._looks, key=lambda look: look[1])[0] if self._looks else None

    @property
    def looks(self) -> list[tuple[int, float]]:
        """Steps, and what was seen."""
        return list(self._looks)

    def _keep(self, folder: Path) -> None:
        making = folder.with_name(f".{folder.name}")
        shutil.rmtree(making, ignore_errors=True)
        save_adapter(self._model, making)
        shutil.rmtree(folder, ignore_errors=True)
        making.rename(folder)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Tell where it stands."""
        if "loss" not in logs or self._began is None:
            return
        self.loss = float(logs["loss"])
        if "num_tokens" in logs:
            # TRL counts anew where a job goes on, but for practice: that is counted in the state, which a checkpoint has. Asking
            # whether the state counts at all is not enough: under Unsloth transformers counts there, too, whatever TRL does.
            counted = float(logs["num_tokens"])
            self.tokens = counted if counted == state.num_input_tokens_seen else self._tokens_before + counted
        elif "num_input_tokens_seen" in logs:  # Unsloth's SFT counts none, but transformers does, checkpoints included
            self.tokens = float(logs["num_input_tokens_seen"])
        if "num_tokens" in logs or "num_input_tokens_seen" in logs:
            state.log_history[-1]["num_tokens"] = self.tokens
        # A step by a gradient that is no number leaves weights that are none, and the loss says so one step later, if at all.
        wrong = next((name for name in ("loss", "grad_norm") if not math.isfinite(float(logs.get(name, 0.0)))), None)
        if wrong is not None:
            explanation = (
                f"the {_NAMES[wrong]} is {float(logs[wrong])} at step {state.global_step} of {self._steps} in {self._stage}; "
                f"lower its learning rate "
                f"(it is {self._rate:g}; RUMINATE_LEARNING_RATE, RUMINATE_PRACTICE_RATE or RUMINATE_PREFERENCE_RATE)"
            )
            evidence = {"stage": self._stage, "step": state.global_step, "learning_rate": self._rate}
            raise JobFailed(Failure(phase="training", reason="diverged", explanation=explanation, evidence=evidence))
        first_step, first_tokens, began = self._began
        seconds = time.monotonic() - began
        done = max(1, state.global_step - first_step)
        progress = Progress(
            phase="training",
            stage=self._stage,
            step=state.global_step,
            steps=self._steps,
            loss=self.loss,
            eta_seconds=round(seconds / done * (self._steps - state.global_step), 1),
            tokens_per_second=round((self.tokens - first_tokens) / seconds, 1),
            reward=float(logs["reward"]) if "reward" in logs else None,
            memory_bytes=most_memory_bytes(),
        )
        self._tell(Report(progress=progress))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint as whole."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        leave_reference_out(checkpoint)
        if state.global_step >= self._steps or self.stopped_early:
            return  # whoever goes on from the end trains a step more
        (checkpoint / COMPLETE_FILE).touch()
        # Not before: whoever goes on from the checkpoint before this one needs what was the best then.
        for kept in (self._folder / BEST).glob("[0-9]*"):
            if kept.name != str(self.best_step):
                shutil.rmtree(kept)


def most_memory_bytes() -> int:
    """What was taken of the device at most; of this process, where the CPU is the device."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; half-written ones are removed."""
    whole = []
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / COMPLETE_FILE).exists():
            leave_reference_out(checkpoint)  # an earlier release left it in
            whole.append(checkpoint)
        else:
            shutil.rmtree(checkpoint)
    return max(whole, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)
