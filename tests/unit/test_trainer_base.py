"""A base is pinned by its digest, and what cannot fit is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from ruminate.planner.catalogue import APRIL
from ruminate.planner.fit import DoesNotFit, fits
from ruminate.planner.placing import Devices
from ruminate.planner.training_setup import TrainingSetup
from ruminate.trainer.base import digest_of, require_memory, require_same_base, shape_by_name, shape_in
from ruminate.trainer.bases.small import SHIPPED
from ruminate.trainer.outcome import JobFailed
from ruminate.trainer.plan import Hyperparameters, JobPlan
from tests.unit.test_trainer_decide import ARTIFACT


def plan(*, base: str = "Qwen/Qwen3-8B", pinned: str | None = None) -> JobPlan:
    """A job on this base."""
    return JobPlan(
        tenant="default",
        batch_id="b-1",
        target_model="qwen3:8b",
        number=1,
        version="v1",
        parent_version=None,
        parent_adapter=None,
        from_base=True,
        base_model=base,
        base_sha256=pinned,
        dataset=ARTIFACT,
        rows=1,
        hyperparameters=Hyperparameters(),
        checkpoint_steps=1,
        merged_dtype="bfloat16",
        encodings=("f16",),
        adapter_encoding="f16",
        equality_probes=0,
    )


def model_folder(folder: Path, *, weights: bytes = b"w", template: bytes = b"t") -> Path:
    """Files as a base has them."""
    folder.mkdir()
    for name, content in (("model.safetensors", weights), ("config.json", b"{}"), ("tokenizer.json", b"{}"), ("a.jinja", template)):
        (folder / name).write_bytes(content)
    return folder


def test_the_digest_is_that_of_what_an_adapter_stands_on(tmp_path: Path) -> None:
    base = digest_of(model_folder(tmp_path / "base"))
    assert base == digest_of(model_folder(tmp_path / "elsewhere"))
    assert base == digest_of(model_folder(tmp_path / "mended", template=b"another"))
    assert base != digest_of(model_folder(tmp_path / "other", weights=b"x"))


def test_a_target_stays_on_the_base_that_it_began_with() -> None:
    require_same_base(plan(), "a" * 64)
    require_same_base(plan(pinned="a" * 64), "a" * 64)
    with pytest.raises(JobFailed, match=r"base_changed while preparing: .* put the old one back, or train under a new target"):
        require_same_base(plan(pinned="a" * 64), "b" * 64)


def test_the_shape_is_known_by_name_before_anything_is_downloaded_and_by_folder_where_it_has_no_name() -> None:
    eight = next(model for model in APRIL if model.name == "qwen3:8b")
    assert shape_by_name("Qwen/Qwen3-8B") == eight.shape
    assert shape_by_name("/bases/ours") is None
    assert shape_in(SHIPPED).parameters < 2_000_000


def test_a_folder_that_is_no_qwen3_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match=r"base_missing while preparing: the base cannot be used: .*config.json describes no Qwen3"):
        shape_in(model_folder(tmp_path / "base"))


def test_what_cannot_fit_on_this_machine_is_refused_with_a_way_out() -> None:
    largest = next(model for model in APRIL if model.name == "qwen3:235b-a22b")
    assert psutil.virtual_memory().total < 4 * largest.shape.parameters
    with pytest.raises(JobFailed, match=r"does_not_fit while preparing: .* \(`ruminate plan` says on which\)") as caught:
        require_memory(plan(), largest.shape, "transformers")
    needed = caught.value.failure.evidence["needed_bytes"]
    assert isinstance(needed, int)
    assert needed > 4 * largest.shape.parameters
    require_memory(plan(), shape_in(SHIPPED), "transformers")


def test_what_a_gpu_refuses_comes_with_what_would_fit() -> None:
    eight = next(model for model in APRIL if model.name == "qwen3:8b")
    answer = fits(eight.shape, TrainingSetup(context_tokens=4096), memory=Devices(memory_bytes=12 * 2**30))
    assert isinstance(answer, DoesNotFit)
    assert any(advice.fits for advice in answer.advice)
