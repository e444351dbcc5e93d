"""A model in a local folder: its shape as `config.json` there says it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ruminate.planner.catalogue import Model
from ruminate.planner.shape import Shape

Width = Annotated[int, Field(ge=1, le=2**31)]
_LARGEST_CONFIG_BYTES = 1_000_000


class NotAModel(ValueError):
    """The folder holds no Qwen3; the message says what is in the way."""


class _Config(BaseModel):
    """What we need of transformers' config; whatever else stands there concerns others."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model_type: Literal["qwen3", "qwen3_moe"]
    vocab_size: Width
    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Width
    num_attention_heads: Width
    num_key_value_heads: Width
    head_dim: Width = 128
    tie_word_embeddings: bool = False
    max_position_embeddings: Width
    attention_bias: Literal[False] = False
    num_experts: Width | None = None
    num_local_experts: Width | None = None
    num_experts_per_tok: Width = 8
    moe_intermediate_size: Width = 768
    decoder_sparse_step: Literal[1] = 1
    mlp_only_layers: tuple[()] | None = None


def read_folder(folder: Path) -> Model:
    """The model in this folder. Raises NotAModel where its `config.json` is none of a Qwen3, OSError where it cannot be read."""
    file = folder / "config.json"
    try:
        with file.open("rb") as source:
            config = _Config.model_validate_json(source.read(_LARGEST_CONFIG_BYTES))
    except FileNotFoundError:
        raise NotAModel(f"{folder} has no config.json; name a folder that transformers can load, or a model by name") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise NotAModel(f"{file} describes no Qwen3 that can be planned for: {where}: {first['msg']}") from None
    experts = (config.num_experts or config.num_local_experts or 128) if config.model_type == "qwen3_moe" else 0
    if config.num_experts_per_tok > experts > 0:
        raise NotAModel(f"{file} sends a token to {config.num_experts_per_tok} of {experts} experts")
    shape = Shape(
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocabulary=config.vocab_size,
        tied=config.tie_word_embeddings,
        experts=experts,
        active_experts=config.num_experts_per_tok if experts else 0,
        expert_intermediate=config.moe_intermediate_size if experts else 0,
    )
    return Model(
        name=str(folder),
        hub=str(folder),
        ollama="",
        shape=shape,
        native_context=config.max_position_embeddings,
        longest_context=config.max_position_embeddings,
        thinks="as its template says",
    )
