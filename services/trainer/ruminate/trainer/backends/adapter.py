"""What adapters have in common, whoever trains them: their shape, the parent's fit, the reference beside them, their folder.

**The reference of a preference or reinforcement stage is the parent**, the adapter as it was when the stage began. TRL 1.14 does
that by itself for a model that comes with its adapter: it adds a second adapter, `ref`, copies `default` into it and activates it
where reference log probabilities are computed (`trl.trainer.dpo_trainer`; in `grpo_trainer` where `beta` is not 0). So stages are
given the adapted model and neither `peft_config` nor `ref_model`: with a `peft_config` the base without any adapter would be the
reference. A stage that goes on from a checkpoint is given the model as it was when the stage began, for the same reason.
`ref` is in the model and in its checkpoints afterwards: `save_adapter` leaves it out, `drop_reference` takes it away, and
`leave_reference_out` takes it from a checkpoint: of one with two adapters transformers 5.17 loads the second alone
(`Trainer._load_from_checkpoint`), so that a stage would go on from where it began, with the moments of where it was.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

from ruminate.trainer.outcome import Failure, JobFailed
from ruminate.trainer.plan import Hyperparameters

ADAPTER: Final = "default"
REFERENCE: Final = "ref"
CONFIG_FILE: Final = "adapter_config.json"


def require_shape(parent: Path, chosen: Hyperparameters) -> None:
    """Fail where the parent's adapter cannot go on learning under the settings. Raises JobFailed."""
    found = json.loads((parent / CONFIG_FILE).read_bytes())
    rank, alpha = found.get("r"), found.get("lora_alpha")
    if (rank, alpha) != (chosen.lora_rank, chosen.lora_alpha):
        raise JobFailed(
            Failure(
                phase="preparing",
                reason="parent_differs",
                explanation=f"the parent's adapter has rank {rank} and alpha {alpha}, the settings say {chosen.lora_rank} and "
                f"{chosen.lora_alpha}; set RUMINATE_LORA_RANK and RUMINATE_LORA_ALPHA back, an adapter cannot change its shape",
            )
        )


def save_adapter(model: Any, folder: Path) -> None:
    """Write what was learned, and not what it was compared with. The same weights give the same files."""
    model.save_pretrained(folder, selected_adapters=[ADAPTER])
    (folder / "README.md").unlink(missing_ok=True)  # a form that nobody fills in; its tags say which stages this process has seen
    path = folder / CONFIG_FILE
    config = json.loads(path.read_bytes())
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # of a set, in an order that every process has of its own
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def leave_reference_out(checkpoint: Path) -> None:
    """Take the reference from a checkpoint; nothing to do where there is none."""
    shutil.rmtree(checkpoint / REFERENCE, ignore_errors=True)


def drop_reference(model: Any) -> None:
    """Make room for the next stage's own reference; nothing to do where there is none."""
    if REFERENCE in model.peft_config:
        model.delete_adapter(REFERENCE)
    model.set_adapter(ADAPTER)
