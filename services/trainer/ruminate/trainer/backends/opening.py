"""Opens the backend of a job: look at the machine, choose, and import it before anything else imports what it patches."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import structlog
import torch

from ruminate.trainer.backends import Backend
from ruminate.trainer.backends.choose import UNSLOTH_NEEDS, Impossible, Machine, choose
from ruminate.trainer.backends.on_unsloth import NotImportable, OnUnsloth, Unlinked
from ruminate.trainer.outcome import Failure, JobFailed
from ruminate.trainer.plan import BackendWish, Method

log = structlog.get_logger()

QUIET: Final = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # the hub's libraries report every training
    "UNSLOTH_DISABLE_STATISTICS": "1",  # it would fetch files from the hub that are there to be counted
    "UNSLOTH_MEGA_CACHE": "0",  # it would keep compiled code in the home folder and run it at the next start
}
"""What Unsloth reads while it is imported, whatever else is set."""
COMPILED: Final = "UNSLOTH_COMPILE_LOCATION"
"""Where it writes the trainers that it has patched, and imports them from; its default is a folder where the process runs."""
ALLOCATOR: Final = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""Rows differ in length, and fixed segments come apart. Unsloth sets the same, which is too late once CUDA was asked anything."""


def open_backend(wish: BackendWish, method: Method, *, compiled: Path) -> Backend:
    """The backend that fits, ready to load; generated code goes to `compiled`. Raises JobFailed where there is none.

    To be called before trl, transformers or peft are imported, once a process.
    """
    may_be_unsloth = wish != "transformers" and torch.cuda.is_available() and not _absent()
    if may_be_unsloth:
        prepare_environment(compiled)
    here = look()
    try:
        name = choose(wish, method, here)
        if name == "unsloth":
            try:
                return OnUnsloth(method)
            except Unlinked as obstacle:
                # Nothing is patched yet, so that the other one can still be had, where it needs none of what is missing.
                if wish == "unsloth" or method == "qlora":
                    way_out = "RUMINATE_TRAINING_BACKEND to auto" if method == "lora" else "RUMINATE_TRAINING_METHOD to lora"
                    raise _refused(f"{obstacle}; or set {way_out}") from obstacle
                log.warning("unsloth_left_out", why=str(obstacle))
    except (Impossible, NotImportable) as obstacle:
        raise _refused(str(obstacle)) from obstacle
    from ruminate.trainer.backends.on_transformers import OnTransformers  # noqa: PLC0415 - so that Unsloth comes first

    return OnTransformers(method)


def look() -> Machine:
    """What is here."""
    installed = frozenset(UNSLOTH_NEEDS) - _absent()
    if not torch.cuda.is_available():
        return Machine(installed=installed)
    return Machine(
        gpu=torch.cuda.get_device_name(), has_bfloat16=torch.cuda.is_bf16_supported(including_emulation=False), installed=installed
    )


def prepare_environment(compiled: Path) -> None:
    """Have Unsloth call nobody and write nowhere but to `compiled`. What is set for the allocator stays."""
    os.environ.update(QUIET)
    os.environ[COMPILED] = str(compiled.absolute())
    if not any(name in os.environ for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")):
        os.environ.update(ALLOCATOR)


def _absent() -> frozenset[str]:
    # Found, not imported: importing is what has an order.
    return frozenset(name for name in UNSLOTH_NEEDS if find_spec(name) is None)


def _refused(explanation: str) -> JobFailed:
    return JobFailed(Failure(phase="preparing", reason="backend_impossible", explanation=explanation))
