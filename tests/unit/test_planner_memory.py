"""What the planner says of memory and time: known figures, what must grow with what, and a way out where nothing fits."""

from __future__ import annotations

import doctest
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruminate.planner import estimate, fit, gpus, naming
from ruminate.planner.catalogue import MODELS, Model
from ruminate.planner.elsewhere import ways_to_serve
from ruminate.planner.estimate import GB
from ruminate.planner.fit import DoesNotFit, Fit, fits
from ruminate.planner.gpus import GIB, GPUS, Gpu, find_gpu
from ruminate.planner.hours import Run, cost, flops_a_token, work
from ruminate.planner.placing import Devices, longest_context, place
from ruminate.planner.serving import (
    KV_BYTES,
    ServingSetup,
    gguf_bytes,
    kv_cache_bytes,
    longest_served,
    most_parallel,
    serving_memory,
)
from ruminate.planner.setups import SET_UPS, abilities
from ruminate.planner.shape import Shape, adapter_parameters
from ruminate.planner.training import host_bytes, trained_parameters, training_memory
from ruminate.planner.training_setup import TrainingSetup

BY_NAME = {model.name: model for model in MODELS}
CARD = find_gpu("24GB")


def shape(name: str) -> Shape:
    return BY_NAME[f"qwen3:{name}"].shape


def part(of: estimate.Estimate, name: str) -> int:
    return next(part.size_bytes for part in of.parts if part.name == name)


# Known figures.


@pytest.mark.parametrize("module", [estimate, fit, gpus, naming], ids=lambda module: module.__name__)
def test_examples_in_docstrings_are_true(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


def test_a_million_tokens_of_kv_cache_are_92_gib_and_139_gib() -> None:
    assert round(kv_cache_bytes(shape("30b-a3b"), 1_010_000) / GIB) == 92
    assert round(kv_cache_bytes(shape("4b"), 1_010_000) / GIB) == 139


def test_quantised_caches_are_as_small_as_their_blocks_say() -> None:
    plain = kv_cache_bytes(shape("8b"), 32_768)
    assert plain == 2 * 36 * 8 * 128 * 32_768 * 2
    assert kv_cache_bytes(shape("8b"), 32_768, "q8_0") == plain * 34 // 64
    assert kv_cache_bytes(shape("8b"), 32_768, "q4_0") == plain * 18 // 64


def test_14b_takes_29_5_gb_in_bf16_and_236_gb_to_train_all_of_it() -> None:
    parts = training_memory(shape("14b"), TrainingSetup(method="full"))
    assert part(parts, "weights, bf16") / GB == pytest.approx(29.5, abs=0.05)
    states = sum(part(parts, name) for name in ("weights, bf16", "master weights", "gradients", "optimizer"))
    assert states == 16 * shape("14b").parameters
    assert states / GB == pytest.approx(236, abs=0.5)


@pytest.mark.parametrize(("name", "megabytes"), [("0.6b", 81), ("4b", 264), ("8b", 349), ("32b", 1074)])
def test_adapters_of_rank_64_are_as_large_as_their_files(name: str, megabytes: int) -> None:
    assert round(adapter_parameters(shape(name), 64) * 2 / 1e6) == megabytes


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [("0.6b", 0.39), ("4b", 2.49), ("8b", 5.02), ("14b", 9.00), ("32b", 19.76), ("30b-a3b", 18.55), ("235b-a22b", 142.1)],
)
def test_q4_k_m_is_as_large_as_the_published_files(name: str, gigabytes: float) -> None:
    assert gguf_bytes(shape(name), "q4_K_M") / GB == pytest.approx(gigabytes, rel=0.005)


def test_four_bit_weights_take_4_127_bits_each_and_what_is_no_linear_layer_16() -> None:
    parts = training_memory(shape("8b"), TrainingSetup(method="qlora"))
    linear = 36 * (2 * 4096 * (4096 + 1024) + 3 * 4096 * 12_288)
    assert part(parts, "weights, 4-bit") == pytest.approx(linear * 4.127 / 8, rel=1e-4)
    assert part(parts, "weights, bf16") == 2 * (shape("8b").parameters - linear)


def test_experts_stay_in_bf16_where_transformers_trains_and_not_where_unsloth_does() -> None:
    ours, theirs = (
        training_memory(shape("30b-a3b"), TrainingSetup(method="qlora", backend=backend)) for backend in ("transformers", "unsloth")
    )
    assert part(ours, "weights, bf16") > 59 * GB
    # Unsloth says 17.5 GB for all of it, of which weights are the most.
    assert 16 * GB < part(theirs, "weights, 4-bit") + part(theirs, "weights, bf16") < 17.5 * GB


def test_8_bit_moments_are_a_fourth_of_32_bit_ones() -> None:
    plain, small = (
        part(training_memory(shape("4b"), TrainingSetup(optimizer=each)), "optimizer") for each in ("adamw", "adamw-8bit")
    )
    assert small / plain == pytest.approx(0.25, rel=0.02)


def test_a_logit_costs_a_chunk_or_all_of_them() -> None:
    setup = TrainingSetup(context_tokens=32_768)
    chunked, whole = (training_memory(shape("0.6b"), replace(setup, loss=loss)) for loss in ("chunked", "whole"))
    assert part(whole, "widest moment") >= 14 * 151_936 * 32_768
    assert part(chunked, "widest moment") < part(whole, "widest moment") / 10


def test_under_unsloth_inputs_of_layers_wait_in_the_machines_own_memory() -> None:
    setup = TrainingSetup(backend="unsloth", context_tokens=32_768)
    assert host_bytes(shape("8b"), setup) == 36 * 2 * 4096 * 32_768
    assert host_bytes(shape("8b"), TrainingSetup()) == 0
    assert longest_context(shape("8b"), setup, Devices.of(CARD)) > 2 * longest_context(
        shape("8b"), TrainingSetup(), Devices.of(CARD)
    )


def test_what_unsloth_is_known_to_do_is_planned_so() -> None:
    """A free T4 holds 14B, and 17.5 GB hold 30B-A3B, say Qwen's documents; rank and optimizer are those of the notebooks."""
    setup = TrainingSetup(method="qlora", backend="unsloth", rank=32, context_tokens=2048, optimizer="adamw-8bit")
    assert isinstance(fits(shape("14b"), setup, memory=Devices.of(find_gpu("t4"))), Fit)
    experts = training_memory(shape("30b-a3b"), replace(setup, adapter_on="attention"))
    assert experts.total_bytes / GB == pytest.approx(17.5, rel=0.15)


# Several GPUs.


def test_what_fits_on_one_gpu_is_copied_and_what_does_not_is_sharded() -> None:
    small, large = TrainingSetup(), TrainingSetup(method="full")
    assert place(shape("8b"), small, Devices.of(CARD, 1)).placement == "one GPU"
    assert place(shape("8b"), small, Devices.of(CARD, 4)).placement == "replicas"
    assert place(shape("8b"), large, Devices.of(CARD, 4)).placement == "sharded"


def test_shards_add_up_to_the_whole() -> None:
    setup = TrainingSetup(method="full")
    one, four = training_memory(shape("8b"), setup), training_memory(shape("8b"), setup, gpus=4, placement="sharded")
    for name in ("weights, bf16", "master weights", "gradients", "optimizer"):
        assert part(four, name) == pytest.approx(part(one, name) / 4, abs=1)
    assert part(four, "layer inputs") == part(one, "layer inputs")
    assert part(four, "gathered weights") > 2 * shape("8b").ends


def test_ever_more_gpus_need_ever_less_of_each() -> None:
    setup = TrainingSetup(method="full")
    needed = [training_memory(shape("32b"), setup, gpus=count, placement="sharded").total_bytes for count in (2, 4, 8, 16, 64)]
    assert needed == sorted(needed, reverse=True)


# What must grow with what.

TRAININGS = st.builds(
    TrainingSetup,
    method=st.sampled_from(["lora", "qlora", "full"]),
    context_tokens=st.integers(1, 1_010_000),
    micro_batch_rows=st.integers(1, 1024),
    rank=st.sampled_from([1, 8, 16, 64, 256]),
    adapter_on=st.sampled_from(["all", "attention"]),
    optimizer=st.sampled_from(["adamw", "adamw-8bit"]),
    checkpointing=st.booleans(),
    backend=st.sampled_from(["transformers", "unsloth"]),
    loss=st.sampled_from(["chunked", "whole"]),
)
CARDS = st.sampled_from(GPUS) | st.floats(0.1, 1000).map(gpus.of_size)


@given(st.sampled_from(MODELS), TRAININGS)
def test_more_of_anything_takes_more_memory(model: Model, setup: TrainingSetup) -> None:
    needed = training_memory(model.shape, setup).total_bytes
    assert training_memory(model.shape, replace(setup, context_tokens=setup.context_tokens + 512)).total_bytes > needed
    assert training_memory(model.shape, replace(setup, micro_batch_rows=2 * setup.micro_batch_rows)).total_bytes > needed
    assert training_memory(model.shape, replace(setup, rank=2 * setup.rank)).total_bytes >= needed
    assert training_memory(model.shape, replace(setup, checkpointing=True)).total_bytes <= training_memory(
        model.shape, replace(setup, checkpointing=False)
    ).total_bytes * (1 if setup.tokens > 2048 else 1.1)


@given(st.sampled_from(MODELS), TRAININGS)
def test_every_part_has_a_size_and_a_formula(model: Model, setup: TrainingSetup) -> None:
    parts = training_memory(model.shape, setup).parts
    assert all(part.size_bytes > 0 and part.formula for part in parts)
    assert len({part.name for part in parts}) == len(parts)


@given(st.sampled_from(MODELS), TRAININGS, CARDS, st.sampled_from([1, 2, 8]))
def test_the_longest_context_fits_and_one_token_more_does_not(model: Model, setup: TrainingSetup, gpu: Gpu, count: int) -> None:
    devices = Devices.of(gpu, count)
    longest = longest_context(model.shape, setup, devices, most=model.longest_context)
    if longest:
        assert place(model.shape, replace(setup, context_tokens=longest), devices).fits
    if longest < model.longest_context:
        assert not place(model.shape, replace(setup, context_tokens=longest + 1), devices).fits


# A way out for everything.


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MODELS), TRAININGS, CARDS, st.sampled_from([1, 2, 4, 8, 64]))
def test_every_refusal_names_something_that_fits(model: Model, setup: TrainingSetup, gpu: Gpu, count: int) -> None:
    answer = fits(model.shape, setup, memory=Devices.of(gpu, count))
    if isinstance(answer, Fit):
        assert answer.free_bytes >= 0
        assert answer.estimate.total_bytes + answer.free_bytes == gpu.memory_bytes
        return
    assert answer.short_bytes > 0
    assert any(way.fits for way in answer.advice)
    for way in answer.advice:
        placed = place(way.shape, way.setup, way.devices)
        assert (placed.fits, placed.estimate.total_bytes) == (way.fits, way.needed_bytes)
        assert (way.needed_bytes <= way.devices.memory_bytes) == way.fits
        assert way.says
        if way.shape != model.shape:
            assert way.setup.context_tokens <= max(each.longest_context for each in MODELS if each.shape == way.shape)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_on_every_gpu_in_every_method_it_fits_or_something_else_does(model: Model, method: str) -> None:
    for gpu in GPUS:
        for tokens in (1, 4096, model.native_context, model.longest_context):
            setup = TrainingSetup(method=method, context_tokens=tokens)  # type: ignore[arg-type]
            answer = fits(model.shape, setup, memory=Devices.of(gpu))
            assert isinstance(answer, Fit) or any(way.fits for way in answer.advice)


def test_what_costs_least_is_named_first() -> None:
    answer = fits(shape("8b"), TrainingSetup(micro_batch_rows=16, loss="whole", checkpointing=False), memory=Devices.of(CARD))
    assert isinstance(answer, DoesNotFit)
    order = [
        "micro batch",
        "chunked loss",
        "checkpointing",
        "shorter rows",
        "8-bit optimizer",
        "method",
        "smaller rank",
        "together",
        "smaller model",
        "larger GPU",
        "more GPUs",
    ]
    assert [way.change for way in answer.advice] == order
    together = next(way for way in answer.advice if way.change == "together")
    assert together.says.startswith("1 row at once instead of 16, the loss in chunks, gradient checkpointing")
    assert together.fits


def test_a_change_is_no_stronger_than_it_has_to_be() -> None:
    answer = fits(shape("8b"), TrainingSetup(micro_batch_rows=16), memory=Devices.of(find_gpu("l40s")))
    assert isinstance(answer, DoesNotFit)
    chosen = next(way for way in answer.advice if way.change == "micro batch")
    rows = chosen.setup.micro_batch_rows
    assert chosen.fits
    assert 1 < rows < 16
    assert not place(shape("8b"), replace(chosen.setup, micro_batch_rows=2 * rows), Devices.of(find_gpu("l40s"))).fits


def test_a_smaller_model_is_given_no_longer_rows_than_it_reads() -> None:
    answer = fits(shape("4b"), TrainingSetup(context_tokens=131_072), memory=Devices.of(CARD))
    assert isinstance(answer, DoesNotFit)
    smaller = next(way for way in answer.advice if way.change == "smaller model")
    assert smaller.shape == shape("1.7b")
    assert smaller.setup.context_tokens <= 32_768
    assert smaller.says.startswith("qwen3:1.7b, rows of 32,768 tokens at most")


def test_numbers_that_cannot_be_are_refused() -> None:
    for wrong in ({"context_tokens": 0}, {"micro_batch_rows": 0}, {"rank": 0}):
        with pytest.raises(ValueError, match="1 at least"):
            TrainingSetup(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 at least"):
        Devices(memory_bytes=0)
    with pytest.raises(ValueError, match="1 at least"):
        ServingSetup(parallel=0)


# Serving.


@given(
    st.sampled_from(MODELS),
    st.builds(
        ServingSetup,
        encoding=st.sampled_from(["f16", "q8_0", "q4_K_M"]),
        context_tokens=st.integers(1, 1_010_000),
        kv_encoding=st.sampled_from(list(KV_BYTES)),
        parallel=st.integers(1, 1024),
    ),
    CARDS,
    st.sampled_from([1, 8]),
)
def test_what_is_not_served_is_served_elsewhere(model: Model, setup: ServingSetup, gpu: Gpu, count: int) -> None:
    ways = ways_to_serve(model, setup, gpu, count)
    assert ways
    for way in ways:
        assert way.fits
        needed = serving_memory(way.model.shape, way.setup, gpus=way.count).total_bytes
        assert needed == way.needed_bytes <= way.count * way.gpu.memory_bytes


def test_the_longest_context_and_the_most_requests_are_the_last_that_fit() -> None:
    setup = ServingSetup(encoding="q8_0")
    longest = longest_served(shape("14b"), setup, CARD.memory_bytes, most=131_072)
    most = most_parallel(shape("14b"), setup, CARD.memory_bytes)
    for more in (replace(setup, context_tokens=longest + 1), replace(setup, parallel=most + 1)):
        assert serving_memory(shape("14b"), more).total_bytes > CARD.memory_bytes
    for still in (replace(setup, context_tokens=longest), replace(setup, parallel=most)):
        assert serving_memory(shape("14b"), still).total_bytes <= CARD.memory_bytes


def test_more_gpus_serve_what_one_does_not() -> None:
    setup = ServingSetup(encoding="f16")
    assert longest_served(shape("32b"), setup, CARD.memory_bytes, most=131_072) == 0
    assert longest_served(shape("32b"), setup, CARD.memory_bytes, most=131_072, gpus=4) > 4096


# Set-ups.


def test_larger_set_ups_do_no_less() -> None:
    for model in MODELS:
        able = [abilities(model, each.gpu, each.count, TrainingSetup(), ServingSetup()) for each in SET_UPS]
        for smaller, larger in pairwise(able):
            for before, after in zip(smaller.trains, larger.trains, strict=True):
                assert after.fits or not before.fits
            for one, other in zip(smaller.serves, larger.serves, strict=True):
                assert other.longest_context >= one.longest_context


def test_the_five_set_ups_are_what_people_have() -> None:
    assert [(each.name, each.count, round(each.gpu.memory_bytes / GIB)) for each in SET_UPS] == [
        ("development", 1, 24),
        ("team", 1, 45),
        ("production", 1, 80),
        ("large", 1, 140),
        ("enterprise", 8, 80),
    ]


# Hours.


def test_full_training_costs_six_flops_a_parameter_and_an_adapter_four() -> None:
    plain = TrainingSetup(checkpointing=False)
    n = shape("8b").matmul_parameters
    attention = 6 * 4096 * 1024 * 36
    assert flops_a_token(shape("8b"), replace(plain, method="full"), 1024)[0] == 6 * n + attention
    adapter = 6 * trained_parameters(shape("8b"), plain)
    assert flops_a_token(shape("8b"), plain, 1024)[0] == 4 * n + adapter + attention


def test_checkpointing_costs_one_forward_pass_more() -> None:
    with_, without = (flops_a_token(shape("4b"), TrainingSetup(method="full", checkpointing=on), 1024)[0] for on in (True, False))
    assert with_ / without == pytest.approx(8 / 6)


def test_of_experts_those_count_that_a_token_meets() -> None:
    setup = TrainingSetup(adapter_on="attention")
    assert flops_a_token(shape("30b-a3b"), setup, 1024)[0] < flops_a_token(shape("8b"), setup, 1024)[0]


def test_long_rows_cost_more_a_token() -> None:
    short, long = (flops_a_token(shape("4b"), TrainingSetup(), tokens)[0] for tokens in (1024, 131_072))
    assert long > 3 * short


def test_hours_and_cost_are_what_one_would_reckon_by_hand() -> None:
    gpu = replace(find_gpu("h100"), peak_tflops=1000.0)
    run = Run(rows=1000, tokens_a_row=1000, epochs=2)
    done = work(shape("8b"), TrainingSetup(), run, gpu, gpus=2, mfu=0.5)
    assert done.tokens == 2_000_000
    assert done.hours == pytest.approx(done.flops / (1000e12 * 0.5 * 2) / 3600)
    assert cost(done.hours, price=3, gpus=2) == pytest.approx(6 * done.hours)
    assert work(shape("8b"), TrainingSetup(), run, gpu, gpus=2, mfu=0.25).hours == pytest.approx(2 * done.hours)
