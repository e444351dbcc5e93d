"""The base of a job: where it is, whether it is the one that the target is pinned to, and whether this machine can train it.

A target's first version pins its base by digest: every later adapter goes on from one on these very weights, and on others, of
the same name, it would mean nothing.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from ruminate.planner.catalogue import MODELS
from ruminate.planner.fit import DoesNotFit, fits
from ruminate.planner.folder import NotAModel, read_folder
from ruminate.planner.placing import Devices
from ruminate.planner.shape import Shape, adapter_parameters
from ruminate.planner.training_setup import TrainingSetup
from ruminate.shared.store import hash_file
from ruminate.trainer.backends.choose import Name as BackendName
from ruminate.trainer.course import failed
from ruminate.trainer.outcome import JobFailed
from ruminate.trainer.plan import JobPlan

BASE_FILES: Final = ("*.json", "*.safetensors", "*.jinja", "*.txt")
PINNED_FILES: Final = ("*.safetensors", "config.json", "tokenizer.json")
"""What an adapter stands on. A template or a sampling default may be mended without making it another base."""
BYTES_OF_A_WEIGHT: Final = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}
_IN_TRAINING: Final = 12
"""In float32, as adapters: two checkpoints with Adam's moments and one that is being written; two of the best; one being made."""
_OF_AN_ATTEMPT: Final = 3
"""The one that was trained, the largest that passes of those made of it, and the next of them."""
_ON_THE_WAY: Final = 3
_CPU_BYTES_A_WEIGHT: Final = 4
_CPU_BYTES_A_TRAINED_WEIGHT: Final = 16
"""The weight, its gradient, and Adam's two moments, all in float32."""


def find_base(name: str) -> Path:
    """The folder of the base: `name` itself, or its copy in the hub's cache, downloaded where it is missing. Raises JobFailed."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith("."):
        raise failed("preparing", "base_missing", f"there is no folder {name}; set RUMINATE_BASES to one that exists")
    try:
        return Path(snapshot_download(name, allow_patterns=list(BASE_FILES)))
    except (RepositoryNotFoundError, HFValidationError):
        raise failed(
            "preparing",
            "base_missing",
            f"the hub has no model {name} for us; correct RUMINATE_BASES, or set HF_TOKEN for a private one",
        ) from None
    except (LocalEntryNotFoundError, EntryNotFoundError) as error:
        raise failed(
            "preparing", "base_unreachable", f"{name} is not on this machine and the hub does not answer; the job is tried again"
        ) from error


@contextmanager
def loading(base: Path) -> Iterator[None]:
    """What goes wrong while the base is read is the base's fault, whatever a library calls it. Raises JobFailed."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, JobFailed):
        raise
    except Exception as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise failed(
            "preparing",
            "base_missing",
            f"the base in {base} cannot be loaded: {text}; fetch it again, or give a whole model folder",
        ) from error


def require_numbers(model: Any, base: Path) -> None:
    """Refuse a base that holds what is no number: nothing that it says would be one."""
    wrong = next((name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())), None)
    if wrong is not None:
        raise failed("preparing", "base_missing", f"{wrong} of the base in {base} holds values that are no numbers; fetch it again")


def digest_of(folder: Path) -> str:
    """The SHA-256 of a base: of the names and hashes of its PINNED_FILES."""
    paths = {path for pattern in PINNED_FILES for path in folder.glob(pattern)}
    lines = [f"{hash_file(path)[0]}  {path.name}\n" for path in sorted(paths, key=lambda path: path.name)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def require_same_base(plan: JobPlan, digest: str) -> None:
    """Refuse a base that is not the one that the target's versions stand on."""
    if plan.base_sha256 is not None and plan.base_sha256 != digest:
        raise failed(
            "preparing",
            "base_changed",
            f"versions of {plan.target_model} stand on a base of digest {plan.base_sha256}, {plan.base_model} has {digest}; put "
            "the old one back, or train under a new target: an adapter means nothing on other weights",
            {"pinned_sha256": plan.base_sha256, "found_sha256": digest},
        )


def shape_by_name(name: str) -> Shape | None:
    """The shape of a base that is known without its files."""
    return next((model.shape for model in MODELS if name in (model.hub, model.name)), None)


def shape_in(folder: Path) -> Shape:
    """The shape of the base in a folder. Raises JobFailed for what is no Qwen3."""
    try:
        return read_folder(folder).shape
    except (NotAModel, OSError) as error:
        raise failed("preparing", "base_missing", f"the base cannot be used: {error}") from error


def device_bytes() -> int | None:
    """What the GPU that this process sees has, None where there is none."""
    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)


def require_memory(plan: JobPlan, shape: Shape, backend: BackendName) -> None:
    """Refuse before anything is loaded what cannot fit; the message says what would. Raises JobFailed."""
    chosen = plan.hyperparameters
    if not torch.cuda.is_available():
        trained = adapter_parameters(shape, chosen.lora_rank)
        needed = _CPU_BYTES_A_WEIGHT * shape.parameters + _CPU_BYTES_A_TRAINED_WEIGHT * trained
        memory = psutil.virtual_memory().total
        if needed > memory:
            raise failed(
                "preparing",
                "does_not_fit",
                f"{plan.base_model} and its adapter need {needed / 1e9:.1f} GB on a CPU, which has {memory / 1e9:.1f} GB, before "
                "the first row; train it on a GPU (`ruminate plan` says on which), or name a smaller base",
                {"needed_bytes": needed, "memory_bytes": memory},
            )
        return
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    memory_bytes = int(device.total_memory)
    # With one row at a time: where more do not fit, fewer are tried as the job goes.
    setup = TrainingSetup(
        method=chosen.method, context_tokens=chosen.max_row_tokens, micro_batch_rows=1, rank=chosen.lora_rank, backend=backend
    )
    answer = fits(shape, setup, memory=Devices(memory_bytes=memory_bytes))
    if isinstance(answer, DoesNotFit):
        ways = [advice.says for advice in answer.advice if advice.fits]
        raise failed(
            "preparing",
            "does_not_fit",
            f"{answer.explanation}. What would fit: {'; '.join(ways)}",
            {"needed_bytes": answer.estimate.total_bytes, "memory_bytes": memory_bytes, "device": device.name},
        )


def most_adapters(plan: JobPlan) -> int:
    """How many adapters' room a job's folder takes at most for learning: what `learning/` writes, and removes as soon as it may.

    The one at the start, one of each stage that is over (and of the two that a search runs once more), and those of a stage:
    while it is trained, once more gently, too, or while what came of it is made smaller.
    """
    stages = len(plan.stages.wanted) + 2
    return 1 + stages + _ON_THE_WAY + max(_IN_TRAINING, _OF_AN_ATTEMPT)


def require_room(folder: Path, plan: JobPlan, *, weights: int, trained: int) -> None:
    """Fail before hours of training rather than after them, when the disk cannot hold what will be written."""
    exported = sum(BYTES_OF_A_WEIGHT[kind] for kind in plan.encodings)
    needed = int(weights * exported) + most_adapters(plan) * 4 * trained
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise failed(
            "preparing",
            "no_room",
            f"{folder} has {free} bytes free, training and exporting need about {needed}; make room, or move RUMINATE_STATE_DIR",
            {"free_bytes": free, "needed_bytes": needed},
        )
