"""What people call models and GPUs is understood, mended with a sentence why, or refused with the list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.planner.catalogue import MODELS, Model
from ruminate.planner.gpus import GIB, GPUS, Gpu, NoSuchGpu, find_gpu
from ruminate.planner.naming import NoSuchModel, find_model


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_name_of_a_model_is_that_model(model: Model) -> None:
    for name in (model.name, model.hub, model.ollama, model.label, model.hub.upper(), f" {model.name} "):
        assert find_model(name).model == model
    assert find_model(model.hub).note == ""


@pytest.mark.parametrize(
    ("asked", "name", "why"),
    [
        ("qwen3:7b", "qwen3:8b", "no Qwen3 is called 'qwen3:7b': the nearest is Qwen3-8B"),
        ("qwen3-1.8b", "qwen3:1.7b", "the nearest is Qwen3-1.7B"),
        ("Qwen3-600M", "qwen3:0.6b", "Qwen3-0.6B, whose shape it has"),
        ("qwen3:72b", "qwen3:32b", "the nearest is Qwen3-32B"),
        ("Qwen3-14B-2507", "qwen3:14b", "2507 exists as 4B, 30B-A3B and 235B-A22B alone"),
        ("qwen3:7b-instruct-2507", "qwen3:8b", "nearest is Qwen3-8B; 2507 exists as"),
        ("qwen3-4b-2507", "qwen3:4b-instruct-2507", "the other is Qwen3-4B-Thinking-2507"),
        ("qwen3:30b-thinking", "qwen3:30b-a3b-thinking-2507", ""),
        ("qwen3:30b", "qwen3:30b-a3b", "pull qwen3:30b-a3b-q4_K_M"),
        ("qwen3:4b", "qwen3:4b", "may be the 2507 that always thinks"),
        ("Qwen3-32B-A4B", "qwen3:30b-a3b", "the nearest is Qwen3-30B-A3B"),
        ("Qwen/Qwen3-8B-Base", "qwen3:8b", "whose shape it has (base)"),
        ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "qwen3:8b", "whose shape it has"),
        ("qwen3:8b-q4_K_M", "qwen3:8b", "whose shape it has"),
        ("QWEN3 8B", "qwen3:8b", ""),
        ("qwen3", "qwen3:8b", "qwen3 without a size is qwen3:8b"),
    ],
)
def test_names_of_older_plans_are_answered_with_the_nearest_model_and_why(asked: str, name: str, why: str) -> None:
    found = find_model(asked)
    assert found.model.name == name
    assert why in found.note
    assert bool(why) == bool(found.note)


@pytest.mark.parametrize(
    "asked",
    [
        "llama3:8b",
        "qwen2.5:7b",
        "qwen3.5:9b",
        "qwen3-coder:30b",
        "qwen3-vl:8b",
        "Qwen/Qwen3-Embedding-0.6B",
        "qwen3:0b",
        "qwen3:big",
        "",
    ],
)
def test_anything_else_is_refused_with_the_list(asked: str) -> None:
    with pytest.raises(NoSuchModel) as refused:
        find_model(asked)
    assert all(model.name in str(refused.value) for model in MODELS)


@given(st.text(max_size=300) | st.from_regex(r"qwen3[:-][0-9.]{1,9}[bm](-[a-z0-9]{1,9}){0,3}", fullmatch=True))
def test_no_name_does_anything_else(asked: str) -> None:
    try:
        assert find_model(asked).model in MODELS
    except NoSuchModel as refused:
        assert "qwen3:8b" in str(refused)


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_every_gpu_is_found_by_name_and_title(gpu: Gpu) -> None:
    for name in (gpu.name, gpu.title, gpu.name.upper(), f"NVIDIA {gpu.title}"):
        assert find_gpu(name) == gpu


def test_gpus_stand_in_order_of_their_memory() -> None:
    sizes = [gpu.memory_mib for gpu in GPUS if gpu.name not in {"rtx4060ti", "rtx4080", "l4", "a10g", "rtx3090", "rtx4090"}]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(("asked", "gib"), [("24GB", 24), ("80 gb", 80), ("11.5GiB", 11.5), ("48g", 48), ("1000GB", 1000)])
def test_a_size_is_a_card_with_that_many_gib(asked: str, gib: float) -> None:
    card = find_gpu(asked)
    assert card.memory_bytes == gib * GIB
    assert "name the card for its own" in card.note


def test_a_card_of_a_size_is_as_fast_as_what_people_have_of_it() -> None:
    assert find_gpu("24GB").peak_tflops == find_gpu("4090").peak_tflops == 165.2
    assert find_gpu("RTX 4090").memory_mib < find_gpu("24GB").memory_mib


@pytest.mark.parametrize("asked", ["", "0GB", "-1GB", "rtx9999", "24", "24MB", "1e9GB", "8x h100"])
def test_no_gpu_is_refused_with_the_list(asked: str) -> None:
    with pytest.raises(NoSuchGpu, match=r"rtx4090.*sizes: 24GB"):
        find_gpu(asked)
