"""The end of a job: the base and the adapter become files, and the files are proven.

folder/adapter/   what was trained
folder/gguf/      the merged model in each encoding, and the adapter
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ruminate.schemas.training import TokenEquality
from ruminate.trainer.export.adapter import export_adapter
from ruminate.trainer.export.architecture import architecture_of, read_config, stretched
from ruminate.trainer.export.equality import CheckUnavailable, check_equality, passed
from ruminate.trainer.export.model import export_model
from ruminate.trainer.export.tokenizer import read_chat_template
from ruminate.trainer.outcome import ADAPTER_FOLDER, Exported, Failure, JobFailed
from ruminate.trainer.plan import JobPlan
from ruminate.trainer.rows import Row


def require_exportable(plan: JobPlan, base: Path) -> None:
    """Say before hours of training rather than after them that this base cannot be exported as planned. Raises ExportError."""
    architecture_of(stretched(read_config(base), plan.export_context_tokens))
    read_chat_template(base)


def export_all(plan: JobPlan, base: Path, folder: Path) -> tuple[Exported, ...]:
    """The merged model in each encoding asked for, in one pass over the base, and the adapter."""
    models = {encoding: f"gguf/model-{encoding}.gguf" for encoding in plan.encodings}
    export_model(
        base,
        {encoding: folder / path for encoding, path in models.items()},
        name=f"{plan.target_model} {plan.version}",
        adapter=folder / ADAPTER_FOLDER,
        merged_dtype=getattr(torch, plan.merged_dtype),
        context_tokens=plan.export_context_tokens,
    )
    adapter = f"gguf/adapter-{plan.adapter_encoding}.gguf"
    export_adapter(folder / ADAPTER_FOLDER, base, folder / adapter, plan.adapter_encoding)
    exported = [Exported(encoding=encoding, holds="model", path=path) for encoding, path in models.items()]
    return (*exported, Exported(encoding=plan.adapter_encoding, holds="adapter", path=adapter))


def check_all(
    plan: JobPlan, base: Path, folder: Path, exported: Sequence[Exported], rows: Sequence[Row]
) -> tuple[tuple[TokenEquality, ...], dict[str, Any]]:
    """Token equality of each exported model, on fixed prompts and the batch's; and, where it was left out, the reason."""
    if plan.equality_probes == 0:
        return (), {"equality_left_out": "RUMINATE_EQUALITY_PROBES is 0"}
    found: list[TokenEquality] = []
    for file in exported:
        if file.holds != "model":
            continue
        try:
            compared = check_equality(
                base, folder / file.path, file.encoding, rows, plan.equality_probes, context_tokens=plan.export_context_tokens
            )
        except CheckUnavailable as unavailable:
            return (), {"equality_left_out": str(unavailable)}
        if not passed(compared):
            raise JobFailed(_not_equal(compared))
        found.extend(compared)
    return tuple(found), {}


def _not_equal(compared: Sequence[TokenEquality]) -> Failure:
    last = compared[-1]
    return Failure(
        phase="checking",
        reason="not_equal",
        explanation=(
            f"llama.cpp and transformers agree on {last.equal} of {last.probes} probes with the same {last.encoding} weights; "
            "all are needed. The export is not what was trained: keep the versions that are pinned"
        ),
        evidence={"equality": [entry.model_dump(mode="json") for entry in compared]},
    )
