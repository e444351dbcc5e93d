"""The planner's counts of parameters are those of transformers and PEFT, which build every model without any memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

from ruminate.planner.catalogue import APRIL, JULY, MODELS, Model
from ruminate.planner.folder import NotAModel, read_folder
from ruminate.planner.shape import AdapterOn, Shape, adapter_parameters
from ruminate.trainer.backends import TARGET_MODULES

COUNTS = {
    "qwen3:0.6b": 596_049_920,
    "qwen3:1.7b": 1_720_574_976,
    "qwen3:4b": 4_022_468_096,
    "qwen3:8b": 8_190_735_360,
    "qwen3:14b": 14_768_307_200,
    "qwen3:32b": 32_762_123_264,
    "qwen3:30b-a3b": 30_532_122_624,
    "qwen3:235b-a22b": 235_093_634_560,
}
SMALL_EXPERTS = Shape(
    hidden=256,
    intermediate=640,
    layers=2,
    heads=6,
    kv_heads=2,
    head_dim=64,
    vocabulary=512,
    tied=False,
    experts=8,
    active_experts=2,
    expert_intermediate=96,
)


def config_of(shape: Shape) -> Any:
    widths = {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
    }
    if not shape.experts:
        return Qwen3Config(**widths)
    return Qwen3MoeConfig(
        **widths,
        num_experts=shape.experts,
        num_experts_per_tok=shape.active_experts,
        moe_intermediate_size=shape.expert_intermediate,
    )


def built(shape: Shape) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config_of(shape))


@pytest.mark.parametrize("model", APRIL, ids=lambda model: model.name)
def test_every_model_has_exactly_the_parameters_that_transformers_gives_it(model: Model) -> None:
    assert sum(parameter.numel() for parameter in built(model.shape).parameters()) == model.shape.parameters == COUNTS[model.name]


def test_the_models_of_july_have_the_shapes_of_april_and_read_further() -> None:
    shapes = {model.shape for model in APRIL}
    assert {model.shape for model in JULY} <= shapes
    assert {model.native_context for model in JULY} == {262_144}
    assert sorted(model.thinks for model in JULY) == ["always"] * 3 + ["never"] * 3
    assert len({model.name for model in MODELS}) == len({model.hub for model in MODELS}) == len(MODELS) == 14


def test_what_one_token_meets_is_what_the_names_say() -> None:
    active = {model.name: model.shape.active_parameters for model in APRIL}
    assert round(active["qwen3:30b-a3b"] / 1e9, 1) == 3.4
    assert round(active["qwen3:235b-a22b"] / 1e9) == 22
    assert active["qwen3:8b"] == COUNTS["qwen3:8b"]


@pytest.mark.parametrize(
    ("shape", "rank", "on"),
    [
        (APRIL[0].shape, 64, "all"),
        (APRIL[0].shape, 5, "attention"),
        (APRIL[1].shape, 8, "all"),
        (APRIL[3].shape, 64, "all"),
        (SMALL_EXPERTS, 8, "all"),
        (SMALL_EXPERTS, 3, "attention"),
    ],
)
# PEFT doubts its own pattern of ranks for experts, which it then follows.
@pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore:The following (rank|alpha)_pattern:RuntimeWarning")
def test_an_adapter_has_exactly_the_parameters_that_peft_gives_it(shape: Shape, rank: int, on: AdapterOn) -> None:
    modules = list(TARGET_MODULES if on == "all" else TARGET_MODULES[:4])
    with torch.device("meta"):
        adapted = get_peft_model(built(shape), LoraConfig(r=rank, target_modules=modules, task_type="CAUSAL_LM"))
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert trained == adapter_parameters(shape, rank, on)


@pytest.mark.parametrize("shape", [APRIL[2].shape, APRIL[6].shape, SMALL_EXPERTS])
def test_a_folder_is_read_as_transformers_wrote_it(shape: Shape, tmp_path: Path) -> None:
    config_of(shape).save_pretrained(tmp_path)
    model = read_folder(tmp_path)
    assert model.shape == shape
    assert model.longest_context == config_of(shape).max_position_embeddings


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, "has no config.json"),
        ("{", "describes no Qwen3"),
        ({"model_type": "llama"}, "model_type"),
        ({"model_type": "qwen3"}, "vocab_size"),
    ],
)
def test_a_folder_of_something_else_is_refused_with_the_reason(config: Any, says: str, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(NotAModel, match=says):
        read_folder(tmp_path)
