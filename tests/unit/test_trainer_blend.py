"""What lies between two adapters, and how far apart they are, against plain matrices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ruminate.trainer.learning.blend import norm, read_adapter, scaled

RANK = 4
SCALE = 2.0  # alpha / rank
LAYERS = {"base_model.model.layers.0.q_proj": (24, 12), "base_model.model.layers.0.down_proj": (12, 36)}


def adapter(folder: Path, seed: int, *, near: Path | None = None, rslora: bool = False) -> Path:
    """A PEFT folder with random halves, or with those of another, a little changed."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    before = {} if near is None else load_file(near / "adapter_model.safetensors")
    for layer, (out, into) in LAYERS.items():
        for half, shape in (("lora_A", (RANK, into)), ("lora_B", (out, RANK))):
            name = f"{layer}.{half}.weight"
            drawn = torch.randn(shape, generator=random)
            tensors[name] = before[name] + 0.1 * drawn if before else drawn
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"r": RANK, "lora_alpha": SCALE * RANK, "use_rslora": rslora}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def added(folder: Path) -> dict[str, torch.Tensor]:
    """What the adapter adds to each weight, but for the scale."""
    return {layer: b @ a for layer, a, b in read_adapter(folder).layers()}


def test_the_norm_is_that_of_what_is_added_to_the_weights(tmp_path: Path) -> None:
    parent = adapter(tmp_path / "parent", 1)
    candidate = adapter(tmp_path / "candidate", 2, near=parent)
    whole = SCALE * sum(float(delta.norm() ** 2) for delta in added(candidate).values()) ** 0.5
    assert norm(read_adapter(candidate)) == pytest.approx(whole, rel=1e-4)
    before = added(parent)
    change = SCALE * sum(float((delta - before[layer]).norm() ** 2) for layer, delta in added(candidate).items()) ** 0.5
    assert norm(read_adapter(candidate), read_adapter(parent)) == pytest.approx(change, rel=1e-3)
    assert norm(read_adapter(parent), read_adapter(parent)) == pytest.approx(0.0, abs=1e-2)


def test_rank_stabilised_adapters_count_with_their_own_scale(tmp_path: Path) -> None:
    plain, stabilised = adapter(tmp_path / "plain", 1), adapter(tmp_path / "stabilised", 1, rslora=True)
    assert norm(read_adapter(stabilised)) == pytest.approx(RANK**0.5 * norm(read_adapter(plain)), rel=1e-5)


def test_a_fresh_adapter_is_scaled_exactly(tmp_path: Path) -> None:
    candidate = adapter(tmp_path / "candidate", 2)
    assert scaled(read_adapter(candidate), None, 0.25, tmp_path / "out") == 0.0
    for layer, delta in added(tmp_path / "out").items():
        torch.testing.assert_close(delta, 0.25 * added(candidate)[layer])


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.5, 1.0])
def test_between_a_parent_and_its_candidate_lies_what_the_factor_says_but_for_what_is_cut(tmp_path: Path, factor: float) -> None:
    parent = adapter(tmp_path / "parent", 1)
    candidate = adapter(tmp_path / "candidate", 2, near=parent)
    lost = scaled(read_adapter(candidate), read_adapter(parent), factor, tmp_path / "out")
    before, after, found = added(parent), added(candidate), added(tmp_path / "out")
    change = sum(float((after[layer] - before[layer]).norm() ** 2) for layer in LAYERS) ** 0.5
    off = sum(float((found[layer] - (1 - factor) * before[layer] - factor * after[layer]).norm() ** 2) for layer in LAYERS) ** 0.5
    assert off / change == pytest.approx(lost, abs=1e-4)
    assert lost < 0.05
    assert (lost < 1e-3) == (factor in (0.0, 1.0))  # at either end nothing has to be cut


def test_no_adapter_of_the_rank_is_nearer(tmp_path: Path) -> None:
    parent = adapter(tmp_path / "parent", 1)
    candidate = adapter(tmp_path / "candidate", 7)  # far away: much has to be cut
    scaled(read_adapter(candidate), read_adapter(parent), 0.5, tmp_path / "out")
    for layer, found in added(tmp_path / "out").items():
        wanted = 0.5 * added(parent)[layer] + 0.5 * added(candidate)[layer]
        values = torch.linalg.svdvals(wanted)
        nearest = float((values[RANK:] ** 2).sum() ** 0.5)  # Eckart and Young
        assert float((found - wanted).norm()) == pytest.approx(nearest, rel=1e-3)


def test_the_adapter_in_between_is_one_that_can_be_loaded_in_its_place(tmp_path: Path) -> None:
    parent = adapter(tmp_path / "parent", 1)
    candidate = adapter(tmp_path / "candidate", 2, near=parent)
    scaled(read_adapter(candidate), read_adapter(parent), 0.5, tmp_path / "out")
    assert (tmp_path / "out" / "adapter_config.json").read_bytes() == (candidate / "adapter_config.json").read_bytes()
    made, given = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "out", candidate))
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in made.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in given.items()
    }
