"""One process of the training benchmark: one backend and one model; every measurement is a line of JSON as soon as it is made.

    python -m tests.benchmarks.training_run SPECIFICATION

`measure` trains rows of each length in turn: the first steps warm up (kernels are compiled), the losses of all are the curve, the
rest is timed. `longest` doubles the length of one row until memory is full, then halves the gap. Either starts each length from the
same adapter, drawn on the CPU, so that both backends have the same.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

import torch

from ruminate.planner.estimate import Estimate
from ruminate.planner.gpus import GPUS, Gpu
from ruminate.planner.hours import flops_a_token
from ruminate.planner.shape import Shape
from ruminate.planner.training import CUDA_CONTEXT_BYTES, training_memory
from ruminate.planner.training_setup import TrainingSetup
from ruminate.trainer.backends import Backend
from ruminate.trainer.backends.choose import Name
from ruminate.trainer.backends.opening import open_backend
from ruminate.trainer.plan import Hyperparameters, Method

Tell = Callable[[dict[str, Any]], None]

CURVE_STEPS: Final = 10
LEARNING_RATE: Final = 5e-5
"""Enough for a loss that moves within the curve; at ten times as much, random weights of 8B run away."""
LEAST_TIMED_STEPS: Final = 3
MOST_STEPS: Final = 400
STEP: Final = 256
"""Tokens: how exactly the longest row is found."""
WORDS: Final = 512
"""How many different ids rows are made of, so that there is something to learn in a few steps."""


@dataclass(frozen=True, kw_only=True)
class Specification:
    """What one process does. `seconds` is for the timed steps of each length, or for finding the longest."""

    does: Literal["measure", "longest"]
    backend: Name
    method: Method
    model: str
    folder: str
    shape: Shape
    sequences: tuple[int, ...]
    tokens_a_step: int
    seconds: float
    checkpointing: bool = True
    card_bytes: int | None = None
    """For the longest: as if the card had so much memory."""
    round: int = 1
    rank: int = 64
    warm_steps: int = 3
    seed: int = 0
    least_tokens: int = 2048
    most_tokens: int = 262_144

    @classmethod
    def parse(cls, text: str) -> Specification:
        """From the command line."""
        given = json.loads(text)
        return cls(**{**given, "shape": Shape(**given["shape"]), "sequences": tuple(given["sequences"])})

    @property
    def chosen(self) -> Hyperparameters:
        """What is learned, and how: the trainer's defaults but for the rate."""
        return Hyperparameters(
            method=self.method, lora_rank=self.rank, lora_alpha=2 * self.rank, learning_rate=LEARNING_RATE, seed=self.seed
        )

    def setup(self, tokens: int, rows: int) -> TrainingSetup:
        """The same in the planner's words."""
        return TrainingSetup(
            method=self.method, context_tokens=tokens, micro_batch_rows=rows, rank=self.rank, backend=self.backend,
            checkpointing=self.checkpointing and torch.cuda.is_available(),
        )  # fmt: skip


def main(specification: Specification) -> None:
    """Do what is asked for, and say it on what was stdout."""
    results = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def tell(found: dict[str, Any]) -> None:
        who = {name: getattr(specification, name) for name in ("does", "model", "backend", "method", "checkpointing", "round")}
        print(json.dumps({**who, **found}), file=results)

    with TemporaryDirectory(prefix="training-run-") as folder:
        began = time.perf_counter()
        backend = open_backend(specification.backend, specification.method, compiled=Path(folder) / "compiled")
        backend = backend.with_checkpointing(specification.checkpointing)
        if specification.card_bytes is not None:
            act_as_card(specification.card_bytes)
        opened = time.perf_counter()
        context = max(specification.sequences) if specification.does == "measure" else specification.most_tokens
        model = backend.load(Path(specification.folder), context_tokens=context)
        model = backend.adapt(model, None, specification.chosen)
        tell({"opened_seconds": round(opened - began, 1), "loaded_seconds": round(time.perf_counter() - opened, 1)})
        course = Course(specification, backend, model, Path(folder))
        (measure if specification.does == "measure" else longest)(course, tell)


def act_as_card(size_bytes: int) -> None:
    """Give torch no more than a card of this size has beside CUDA's own, and tell whoever asks that it is no larger."""
    _, total = torch.cuda.mem_get_info()
    ours = size_bytes - CUDA_CONTEXT_BYTES
    torch.cuda.set_per_process_memory_fraction(ours / total)

    def mem_get_info(device: Any = None) -> tuple[int, int]:
        return max(0, ours - torch.cuda.memory_reserved(device)), size_bytes

    torch.cuda.mem_get_info = mem_get_info


@dataclass(frozen=True)
class Course:
    """What every length is trained with."""

    specification: Specification
    backend: Backend
    model: Any
    folder: Path


def measure(course: Course, tell: Tell) -> None:
    """Each length in turn. One that does not fit is a result, too."""
    asked = course.specification
    for tokens in asked.sequences:
        rows = max(1, asked.tokens_a_step // tokens)
        about: dict[str, Any] = {"tokens_a_row": tokens, "rows_a_step": rows}
        reset_memory()
        try:
            steps = train(course, tokens, rows, seconds=asked.seconds)
        except torch.OutOfMemoryError:
            tell({**about, "out_of_memory": True, **memory(), **planned(asked, tokens, rows)})
            forget()
            continue
        tell({**about, **speed(asked, steps, tokens, rows), **memory(), **planned(asked, tokens, rows)})
        forget()


def longest(course: Course, tell: Tell) -> None:
    """The longest single row that two steps fit for, within the time that there is."""
    asked = course.specification
    until = time.monotonic() + asked.seconds
    fits, too_long = 0, asked.most_tokens + 1
    tokens = min(asked.least_tokens, asked.most_tokens)
    while time.monotonic() < until and tokens < too_long:
        reset_memory()
        try:
            train(course, tokens, 1, seconds=0, warm=1, least=1)
        except torch.OutOfMemoryError:
            too_long = tokens
        else:
            fits = tokens
        tell({"tokens_a_row": tokens, "fits": fits == tokens, **memory(), **planned(asked, tokens, 1)})
        forget()
        tokens = min(2 * fits, asked.most_tokens) if too_long > asked.most_tokens else (fits + too_long) // 2 // STEP * STEP
        if tokens <= fits:
            break
    done = too_long - fits <= 2 * STEP or fits == asked.most_tokens
    tell(
        {
            "card_bytes": asked.card_bytes,
            "longest_tokens": fits,
            "first_too_long": too_long if too_long <= asked.most_tokens else None,
            "found": done,
        }
    )


@dataclass
class Steps:
    """Seconds and loss of each step; the first so many warm up."""

    seconds: list[float]
    losses: list[float]
    warm: int

    @property
    def timed(self) -> list[float]:
        """What counts."""
        return self.seconds[self.warm :]


def train(
    course: Course, tokens: int, rows: int, *, seconds: float, warm: int | None = None, least: int = LEAST_TIMED_STEPS
) -> Steps:
    """Train on random rows of one length through TRL's SFT, with its loss at every step."""
    # Only now: the backend had to be imported first.
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    asked = course.specification
    reset_adapter(course.model, asked.seed)
    steps = Steps([], [], asked.warm_steps if warm is None else warm)

    class Watch(TrainerCallback):  # type: ignore[misc]
        began = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            synchronize()
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            synchronize()
            steps.seconds.append(time.perf_counter() - self.began)
            enough = len(steps.timed) >= least and sum(steps.timed) >= seconds
            control.should_training_stop = enough and (seconds == 0 or len(steps.seconds) >= CURVE_STEPS)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            if "loss" in logs:
                steps.losses.append(round(float(logs["loss"]), 4))

    ids = drawn_rows(tokens, count=max(rows, min(64 * rows, 2**19 // tokens)), vocabulary=asked.shape.vocabulary, seed=asked.seed)
    trainer = SFTTrainer(
        model=course.model,
        processing_class=tokenizer_of(asked.folder),
        train_dataset=Dataset.from_dict({"input_ids": ids, "labels": ids}),
        args=SFTConfig(
            output_dir=str(course.folder / "checkpoints"),
            max_steps=MOST_STEPS,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=1,  # Unsloth's own default is 2
            learning_rate=asked.chosen.learning_rate,
            lr_scheduler_type="constant",
            warmup_steps=0,
            weight_decay=0.0,
            seed=asked.seed,
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            report_to="none",
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            **course.backend.arguments(course.model),
        ),
    )
    trainer.add_callback(Watch())
    trainer.train()
    return steps


def tokenizer_of(folder: str) -> Any:
    """What pads; rows of one length need none of it, and trainers ask."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def drawn_rows(tokens: int, *, count: int, vocabulary: int, seed: int) -> list[list[int]]:
    """Rows of ids, the frequent ones first as in any text (Zipf): the same for every backend."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, vocabulary, (WORDS,), generator=generator)
    often = 1 / torch.arange(1, WORDS + 1)
    found: list[list[int]] = words[
        torch.multinomial(often.expand(count, -1), tokens, replacement=True, generator=generator)
    ].tolist()
    return found


def reset_adapter(model: Any, seed: int) -> None:
    """The adapter as it begins: A drawn (as PEFT does, uniform within 1/sqrt(in)), B nothing; by name, so that backends agree."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters(), key=lambda named: str(named[0])):
            if "lora_B" in name:
                weight.zero_()
            elif "lora_A" in name:
                bound = weight.shape[1] ** -0.5
                weight.copy_((torch.rand(weight.shape, generator=generator) * 2 - 1) * bound)


def speed(asked: Specification, steps: Steps, tokens: int, rows: int) -> dict[str, Any]:
    """Tokens a second, and the share of the GPU's peak.

    MFU counts what the model needs (PaLM, arXiv 2204.02311, appendix B; under an adapter 4 FLOPs a frozen parameter and token, see
    `ruminate.planner.hours`), HFU also what checkpoints compute again. Peaks: `ruminate.planner.gpus`.
    """
    seconds = sum(steps.timed) / len(steps.timed)
    tokens_a_second = tokens * rows / seconds
    setup = asked.setup(tokens, rows)
    found: dict[str, Any] = {
        "timed_steps": len(steps.timed),
        "warm_seconds": round(sum(steps.seconds[: steps.warm]), 2),
        "seconds_a_step": round(seconds, 4),
        "tokens_a_second": round(tokens_a_second, 1),
        "losses": steps.losses[:CURVE_STEPS],
    }
    gpu = gpu_here()
    if gpu is not None:
        for name, counted in (("mfu", replace(setup, checkpointing=False)), ("hfu", setup)):
            flops, _ = flops_a_token(asked.shape, counted, tokens)
            found[name] = round(flops * tokens_a_second / (gpu.peak_tflops * 1e12), 4)
        found["peak_tflops"] = gpu.peak_tflops
    return found


def gpu_here() -> Gpu | None:
    """The planner's card for what CUDA calls its device; None where it has no such card."""
    return named_gpu(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def named_gpu(device: str) -> Gpu | None:
    """H100, with PCIe or SXM, H200, A100 …; the NVL and the MIG variants are other cards.

    >>> found = named_gpu("NVIDIA H100 80GB HBM3")
    >>> found and found.name
    'h100'
    """
    words = device.lower().replace("-", " ").split()
    if "nvl" in words or "mig" in words:
        return None
    known = {gpu.name: gpu for gpu in GPUS}
    for name in ("h200", "h100", "b200", "l40s", "a40", "l4", "t4"):
        if name in words:
            return known["h100-pcie"] if name == "h100" and "pcie" in words else known[name]
    if "a100" in words:
        return known["a100-80" if "80gb" in words else "a100-40"]
    return next((gpu for gpu in GPUS if "".join(words).removeprefix("nvidia").removeprefix("geforce") == gpu.name), None)


def planned(asked: Specification, tokens: int, rows: int) -> dict[str, Any]:
    """What `ruminate plan` says that this takes: in all, and without what only the whole process has."""
    estimate = training_memory(asked.shape, asked.setup(tokens, rows))
    beside = ("CUDA", "fragmentation")
    tensors = Estimate(tuple(part for part in estimate.parts if part.name not in beside))
    return {"planned_bytes": estimate.total_bytes, "planned_tensors_bytes": tensors.total_bytes}


def memory() -> dict[str, Any]:
    """The most since `reset_memory`: in tensors, held by torch's allocator, and of the device in all. On a CPU, resident."""
    if not torch.cuda.is_available():
        return {"peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.max_memory_reserved()
    beside = total - free - torch.cuda.memory_reserved()  # the context, and whoever else is on the device
    return {
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
        "peak_reserved_bytes": reserved,
        "peak_device_bytes": reserved + beside,
        "device_bytes": total,
    }


def reset_memory() -> None:
    """Forget peaks."""
    forget()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def forget() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(Specification.parse(sys.argv[1]))
