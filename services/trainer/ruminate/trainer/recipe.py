"""One job, in the order in which things happen: load, render, train, merge, export, check, and the result last.

plan.json  dataset/  [parent/]   what the service put into the job folder
checkpoints/                     where a killed job goes on
adapter/  gguf/                  what is kept
merged/                          what the GGUF is made of; removed at the end
result.json                      written last: all of it is there
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import ENOSPC
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch
from datasets import Dataset
from huggingface_hub import snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from ruminate.schemas.training import JobPhase, TokenEquality
from ruminate.shared.store import whole_file
from ruminate.trainer.decide import Hyperparameters, JobPlan
from ruminate.trainer.equality import CheckUnavailable, check_equality, passed, probes_from
from ruminate.trainer.gguf_export import ExportError, chat_template_sha256, export_adapter, export_model
from ruminate.trainer.outcome import (
    ADAPTER_FOLDER,
    DATASET_FOLDER,
    PARENT_FOLDER,
    PLAN_FILE,
    RESULT_FILE,
    Exported,
    Failure,
    JobFailed,
    JobResult,
    Progress,
    Report,
)
from ruminate.trainer.rows import BadDataset, Row, Tokens, read_rows, render

Tell = Callable[[Report], None]

# Every linear layer: attention alone learns new facts badly.
TARGET_MODULES: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BASE_FILES: Final = ("*.json", "*.safetensors", "*.jinja", "*.txt")
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json", "merges.txt")
BYTES_OF_A_WEIGHT: Final = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
COMPLETE_FILE: Final = "complete"
"""Marks a checkpoint that was written to its end."""


@dataclass
class Course:
    """Where the job is, for whoever waits, and how long each phase took."""

    tell: Tell
    phase: JobPhase = "preparing"
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def during(self, phase: JobPhase) -> Iterator[None]:
        """Announce a phase; what goes wrong in it for a known reason becomes a JobFailed that says what to do."""
        self.phase = phase
        self.tell(Report(progress=Progress(phase=phase)))
        began = time.monotonic()
        try:
            yield
        except (BadDataset, ExportError, OSError, SafetensorError, torch.OutOfMemoryError) as error:
            failure = explain(error, phase)
            if failure is None:
                raise
            raise JobFailed(failure) from error
        finally:
            self.seconds[phase] = round(time.monotonic() - began, 2)


def run(folder: Path, tell: Tell) -> JobResult:
    """Make what `plan.json` asks for. Raises JobFailed where trying again would not help."""
    began = time.monotonic()
    plan = JobPlan.model_validate_json((folder / PLAN_FILE).read_bytes())
    chosen = plan.hyperparameters
    course = Course(tell)
    with course.during("preparing"):
        set_seed(chosen.seed)
        base = find_base(plan.base_model)
        rows = read_rows(folder / DATASET_FOLDER / "train.jsonl")
        revived = read_rows(folder / DATASET_FOLDER / "replay.jsonl", may_be_missing=True)
        tokenizer = AutoTokenizer.from_pretrained(base)
        # The sampler mixes them: what is rehearsed a while after the new would not hold it together.
        rendered, left_out = render_all([*rows, *revived], tokenizer, chosen.max_row_tokens)
        model = with_adapter(load_base(base), folder / PARENT_FOLDER if plan.parent_adapter else None, chosen)
        require_room(folder, plan, weights=sum(p.numel() for p in model.parameters()))
    with course.during("training"):
        trained = train(model, tokenizer, rendered, plan, folder=folder, tell=tell)
        del model
    with course.during("merging"):
        merged = merge(base, folder / ADAPTER_FOLDER, folder / "merged", plan)
    with course.during("exporting"):
        exported = export_all(plan, merged, base, folder)
    with course.during("checking"):
        equality, check = check_all(plan, merged, folder, exported, rows)
    metrics = {
        **trained,
        "rows": len(rendered),
        "replay_rows": len(revived),
        "rows_left_out": left_out,
        "seconds": dict(course.seconds),
        **check,
    }
    result = JobResult(
        exported=exported,
        metrics=metrics,
        equality=equality,
        chat_template_sha256=chat_template_sha256(merged),
        duration_seconds=round(time.monotonic() - began, 2),
    )
    with whole_file(folder / RESULT_FILE) as out:
        out.write(result.model_dump_json(indent=2).encode())
    # The rows are in the store; a finished job holds no text that an erasure would not find.
    for passing in ("merged", "checkpoints", DATASET_FOLDER):
        shutil.rmtree(folder / passing)
    return result


def find_base(name: str) -> Path:
    """The folder of the base: `name` itself, or its copy in the hub's cache, downloaded where it is missing."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith("."):
        raise _failed("preparing", "base_missing", f"there is no folder {name}; set RUMINATE_BASES to one that exists")
    try:
        return Path(snapshot_download(name, allow_patterns=list(BASE_FILES)))
    except (RepositoryNotFoundError, HFValidationError):
        raise _failed(
            "preparing",
            "base_missing",
            f"the hub has no model {name} for us; correct RUMINATE_BASES, or set HF_TOKEN for a private one",
        ) from None
    except (LocalEntryNotFoundError, EntryNotFoundError) as error:
        raise _failed(
            "preparing", "base_unreachable", f"{name} is not on this machine and the hub does not answer; the job is tried again"
        ) from error


def load_base(folder: Path) -> Any:
    """The base on the best device: bfloat16 where the GPU computes in it, float32 anywhere else."""
    if torch.cuda.is_available():
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to("cuda")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def with_adapter(model: Any, parent: Path | None, chosen: Hyperparameters) -> Any:
    """The base under a fresh adapter, or under the parent's, which goes on learning."""
    if parent is None:
        config = LoraConfig(
            r=chosen.lora_rank,
            lora_alpha=chosen.lora_alpha,
            lora_dropout=0.0,
            target_modules=list(TARGET_MODULES),
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, config)
    continued = PeftModel.from_pretrained(model, parent, is_trainable=True)
    found = continued.peft_config["default"]
    if (found.r, found.lora_alpha) != (chosen.lora_rank, chosen.lora_alpha):
        raise _failed(
            "preparing",
            "parent_differs",
            f"the parent's adapter has rank {found.r} and alpha {found.lora_alpha}, the settings say {chosen.lora_rank} and "
            f"{chosen.lora_alpha}; set RUMINATE_LORA_RANK and RUMINATE_LORA_ALPHA back, an adapter cannot change its shape",
        )
    return continued


def render_all(rows: Sequence[Row], tokenizer: Any, max_tokens: int) -> tuple[list[Tokens], int]:
    """The rows as tokens, and how many were left out because they are longer than `max_tokens`."""
    rendered = [render(row, tokenizer) for row in rows]
    fitting = [tokens for tokens in rendered if len(tokens.input_ids) <= max_tokens]
    if not fitting:
        raise BadDataset(
            f"none of {len(rows)} rows fits into {max_tokens} tokens; raise RUMINATE_MAX_ROW_TOKENS or look at the batch"
        )
    return fitting, len(rendered) - len(fitting)


def require_room(folder: Path, plan: JobPlan, *, weights: int) -> None:
    """Fail before hours of training rather than after them, when the disk cannot hold what will be written."""
    needed = int(weights * sum(BYTES_OF_A_WEIGHT[kind] for kind in (plan.merged_dtype, *plan.encodings)))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise _failed(
            "preparing",
            "no_room",
            f"{folder} has {free} bytes free, merging and exporting need about {needed}; make room, or move RUMINATE_STATE_DIR",
            {"free_bytes": free, "needed_bytes": needed},
        )


def train(model: Any, tokenizer: Any, rendered: Sequence[Tokens], plan: JobPlan, *, folder: Path, tell: Tell) -> dict[str, Any]:
    """Run the stages of the plan, from the last whole checkpoint if there is one, and save the adapter."""
    checkpoints = folder / "checkpoints"
    resumed = last_checkpoint(checkpoints)
    trainer = STAGE_TRAINERS[plan.stages[0]](model, tokenizer, rendered, plan, checkpoints)
    watcher = _Watcher(plan, tell)
    trainer.add_callback(watcher)
    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    trainer.model.save_pretrained(folder / ADAPTER_FOLDER)
    return {
        # transformers divides what was lost since the checkpoint by all steps
        "train_loss": fmean(entry["loss"] for entry in trainer.state.log_history if "loss" in entry),
        "last_loss": watcher.loss,
        "steps": trainer.state.global_step,
        "resumed_from_step": int(resumed.name.removeprefix("checkpoint-")) if resumed else 0,
        "tokens": watcher.tokens,
        "device": str(trainer.args.device),
    }


def thinking_fusion(model: Any, tokenizer: Any, rendered: Sequence[Tokens], plan: JobPlan, checkpoints: Path) -> SFTTrainer:
    """Supervised: rows that think and rows that do not, side by side, the loss on the answers alone."""
    chosen = plan.hyperparameters
    on_gpu = model.device.type == "cuda"
    return SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(
            {"input_ids": [tokens.input_ids for tokens in rendered], "labels": [tokens.labels for tokens in rendered]}
        ),
        args=SFTConfig(
            output_dir=str(checkpoints),
            max_steps=plan.steps,
            per_device_train_batch_size=chosen.micro_batch_rows,
            gradient_accumulation_steps=chosen.batch_rows // chosen.micro_batch_rows,
            learning_rate=chosen.learning_rate,
            lr_scheduler_type=chosen.schedule,
            warmup_steps=math.ceil(plan.steps * chosen.warmup_ratio),
            weight_decay=0.0,
            seed=chosen.seed,
            bf16=on_gpu and torch.cuda.is_bf16_supported(),
            use_cpu=not on_gpu,
            gradient_checkpointing=on_gpu,  # trades time for memory, which a CPU has enough of
            save_strategy="steps",
            save_steps=plan.checkpoint_steps,
            save_total_limit=2,
            logging_steps=1,
            logging_nan_inf_filter=False,  # it would hide exactly what ends a job
            disable_tqdm=True,
            report_to="none",
            dataloader_pin_memory=on_gpu,
            dataset_kwargs={"skip_prepare_dataset": True},  # rows are rendered and measured by us: TRL would cut long ones
            max_length=None,
        ),
    )


STAGE_TRAINERS: Final = {"thinking_fusion": thinking_fusion}
"""How each stage trains; a plan names only stages that are here."""


class _Watcher(TrainerCallback):  # type: ignore[misc]
    """Reports every step, marks whole checkpoints, and ends a job whose loss is no number any more."""

    def __init__(self, plan: JobPlan, tell: Tell) -> None:
        self._plan, self._tell = plan, tell
        self._began: tuple[int, float, float] | None = None
        self.loss: float | None = None
        self.tokens = self._tokens_before = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        steps = [entry for entry in state.log_history if "num_tokens" in entry]
        self.tokens = self._tokens_before = float(steps[-1]["num_tokens"]) if steps else 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._began is None:
            self._began = (state.global_step, self.tokens, time.monotonic())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs or self._began is None:
            return
        self.loss, self.tokens = float(logs["loss"]), self._tokens_before + float(logs["num_tokens"])
        state.log_history[-1]["num_tokens"] = self.tokens  # TRL counts anew where a job goes on; the next checkpoint does not
        if not math.isfinite(self.loss):
            raise _failed(
                "training",
                "diverged",
                f"the loss is {self.loss} at step {state.global_step} of {self._plan.steps}; lower RUMINATE_LEARNING_RATE "
                f"(it is {self._plan.hyperparameters.learning_rate})",
                {"step": state.global_step, "learning_rate": self._plan.hyperparameters.learning_rate},
            )
        first_step, first_tokens, began = self._began
        seconds = time.monotonic() - began
        progress = Progress(
            phase="training",
            stage=self._plan.stages[0],
            step=state.global_step,
            steps=self._plan.steps,
            loss=self.loss,
            eta_seconds=round(seconds / (state.global_step - first_step) * (self._plan.steps - state.global_step), 1),
            tokens_per_second=round((self.tokens - first_tokens) / seconds, 1),
        )
        self._tell(Report(progress=progress))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= self._plan.steps:
            return  # whoever goes on from the end trains a step more
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE_FILE).touch()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; half-written ones are removed."""
    whole = []
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / COMPLETE_FILE).exists():
            whole.append(checkpoint)
        else:
            shutil.rmtree(checkpoint)
    return max(whole, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)


def merge(base: Path, adapter: Path, out: Path, plan: JobPlan) -> Path:
    """The base with the adapter added into its weights, and the base's tokenizer, unchanged, beside them."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, plan.merged_dtype))
    # where the base is: peft would take the adapter to a GPU first, which may be full
    PeftModel.from_pretrained(model, adapter, torch_device="cpu").merge_and_unload().save_pretrained(out)
    for name in TOKENIZER_FILES:
        if (base / name).exists():
            shutil.copy(base / name, out / name)
    return out


def export_all(plan: JobPlan, merged: Path, base: Path, folder: Path) -> tuple[Exported, ...]:
    """The merged model in each encoding asked for, and the adapter."""
    exported = []
    for encoding in plan.encodings:
        path = f"gguf/model-{encoding}.gguf"
        export_model(merged, folder / path, encoding, name=f"{plan.target_model} {plan.version}")
        exported.append(Exported(encoding=encoding, holds="model", path=path))
    path = f"gguf/adapter-{plan.adapter_encoding}.gguf"
    export_adapter(folder / ADAPTER_FOLDER, base, folder / path, plan.adapter_encoding)
    return (*exported, Exported(encoding=plan.adapter_encoding, holds="adapter", path=path))


def check_all(
    plan: JobPlan, merged: Path, folder: Path, exported: Sequence[Exported], rows: Sequence[Row]
) -> tuple[tuple[TokenEquality, ...], dict[str, Any]]:
    """Token equality of each exported model, on prompts of the batch; and, where it was left out, the reason."""
    probes = probes_from(rows, plan.equality_probes)
    if not probes:
        return (), {"equality_left_out": "RUMINATE_EQUALITY_PROBES is below 2"}
    found: list[TokenEquality] = []
    for file in exported:
        if file.holds != "model":
            continue
        try:
            compared = check_equality(merged, folder / file.path, file.encoding, probes)
        except CheckUnavailable as unavailable:
            return (), {"equality_left_out": str(unavailable)}
        if not passed(compared):
            last = compared[-1]
            raise _failed(
                "checking",
                "not_equal",
                f"llama.cpp and transformers agree on {last.equal} of {last.probes} probes with the same {file.encoding} weights; "
                "all are needed. The export is not what was trained: keep the versions that are pinned",
                {"equality": [entry.model_dump(mode="json") for entry in compared]},
            )
        found.extend(compared)
    return tuple(found), {}


def explain(error: Exception, phase: JobPhase) -> Failure | None:
    """What a known error means to an operator; None for what we do not know."""
    if isinstance(error, BadDataset):
        return Failure(phase=phase, reason="bad_dataset", explanation=str(error))
    if isinstance(error, ExportError):
        return Failure(phase=phase, reason="not_exportable", explanation=str(error))
    if isinstance(error, torch.OutOfMemoryError):
        return Failure(
            phase=phase,
            reason="out_of_memory",
            explanation="the GPU's memory is full; halve RUMINATE_MICRO_BATCH_ROWS or RUMINATE_MAX_ROW_TOKENS",
            evidence={"allocated_bytes": torch.cuda.max_memory_allocated(), "device": torch.cuda.get_device_name()},
        )
    if getattr(error, "errno", None) == ENOSPC or "No space left" in str(error):
        return Failure(phase=phase, reason="no_room", explanation="the disk of RUMINATE_STATE_DIR is full; make room, or move it")
    if phase == "preparing" and isinstance(error, (OSError, SafetensorError)):
        return Failure(
            phase=phase, reason="base_missing", explanation=f"the base cannot be loaded: {error}; give a whole model folder"
        )
    return None


def _failed(phase: JobPhase, reason: str, explanation: str, evidence: dict[str, Any] | None = None) -> JobFailed:
    return JobFailed(Failure(phase=phase, reason=reason, explanation=explanation, evidence=evidence or {}))
