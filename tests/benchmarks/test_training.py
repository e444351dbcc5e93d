"""The benchmark of training runs at a toy shape, keeps what it measures line by line, and reads cards, shapes and files aright."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from ruminate.trainer.backends.choose import Machine, Name
from ruminate.trainer.backends.on_transformers import OnTransformers
from ruminate.trainer.plan import Method
from tests.benchmarks import trainer_overhead, training
from tests.benchmarks.checkpoints import TOY, write_checkpoint
from tests.benchmarks.training_run import Course, Specification, drawn_rows, longest, named_gpu, reset_adapter

BOTH: tuple[tuple[Name, Method], ...] = (("transformers", "lora"), ("unsloth", "lora"))
PLAN = Specification(
    does="measure",
    backend="transformers",
    method="lora",
    model="",
    folder="",
    shape=TOY,
    sequences=(2048, 8192),
    tokens_a_step=8192,
    seconds=8,
)


def test_a_checkpoint_has_the_parameters_of_its_shape_and_loads(tmp_path: Path) -> None:
    for shape in (TOY, replace(TOY, tied=False)):
        folder = tmp_path / str(shape.tied)
        assert write_checkpoint(folder, shape) == shape.parameters
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters
        assert (model.config.rope_parameters["rope_theta"], model.config.tie_word_embeddings) == (1_000_000, shape.tied)
        drawn = model.model.layers[0].mlp.gate_proj.weight
        assert drawn.float().std().item() == pytest.approx(0.02, rel=0.1)
        assert not torch.equal(drawn, model.model.layers[1].mlp.gate_proj.weight)


def test_experts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give a dense shape"):
        write_checkpoint(tmp_path, replace(TOY, experts=4, active_experts=2, expert_intermediate=32))


def test_a_run_on_the_cpu_gives_a_line_for_every_measurement_and_tables(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    asked = ["--model", "toy", "--tokens", "32", "--tokens-a-step", "64", "--rank", "4", "--seconds", "0.01", "--rounds", "1"]
    done = CliRunner().invoke(
        training.app, [*asked, "--longest-seconds", "0", "--out", str(out), "--folder", str(tmp_path), "--backend", "transformers"]
    )
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["does"] for line in lines] == ["begin", "write", *["measure"] * 2]
    measured = lines[3]
    assert (measured["tokens_a_row"], measured["rows_a_step"]) == (32, 2)
    assert measured["tokens_a_second"] > 0
    assert len(measured["losses"]) == 10
    assert measured["planned_bytes"] > measured["planned_tensors_bytes"] > 0
    assert "| toy | 32 x 2 | lora | transformers |" in done.output
    again = CliRunner().invoke(training.app, ["--read", str(out)])
    assert again.output.strip() in done.output


def test_the_longest_row_is_doubled_for_as_long_as_it_fits(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "base", TOY)
    asked = replace(PLAN, does="longest", folder=str(tmp_path / "base"), rank=4, seconds=60, least_tokens=32, most_tokens=64)
    backend = OnTransformers("lora")
    model = backend.adapt(backend.load(tmp_path / "base", context_tokens=64), None, asked.chosen)
    told: list[dict[str, Any]] = []
    longest(Course(asked, backend, model, tmp_path), told.append)
    assert [(line["tokens_a_row"], line["fits"]) for line in told[:-1]] == [(32, True), (64, True)]
    assert told[-1] == {"card_bytes": None, "longest_tokens": 64, "first_too_long": None, "found": True}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which nothing may fail")
def test_a_process_that_fails_is_a_line_with_its_last_words(tmp_path: Path) -> None:
    training.run(replace(PLAN, backend="unsloth"), tmp_path / "out.jsonl", timeout_seconds=300)
    (line,) = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert (line["does"], line["what"], line["how"]) == ("fail", "measure", "exit code 1")
    assert "torch finds no GPU" in line["stderr"]


def test_a_process_that_takes_too_long_is_cut_off(tmp_path: Path) -> None:
    training.run(replace(PLAN, folder=str(tmp_path)), tmp_path / "out.jsonl", timeout_seconds=0.05)
    (line,) = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert line["how"] == "cut off by the budget"


def test_all_of_the_largest_model_comes_before_the_other_rounds_and_one_of_every_other() -> None:
    order = list(training.todo(PLAN, training.MODELS, BOTH, rounds=2, longest_seconds=60, card_bytes=24 * 10**9))
    assert [wanted.backend for wanted in order] == ["transformers", "unsloth"] * 8
    seen = [(wanted.round, wanted.model, wanted.does, wanted.checkpointing, wanted.card_bytes) for wanted in order[::2]]
    assert seen == [
        (1, "qwen3:8b", "measure", True, None),
        (1, "qwen3:8b", "measure", False, None),
        (1, "qwen3:8b", "longest", True, 24 * 10**9),
        (1, "qwen3:4b", "measure", True, None),
        (1, "qwen3:0.6b", "measure", True, None),
        (2, "qwen3:8b", "measure", True, None),
        (2, "qwen3:4b", "measure", True, None),
        (2, "qwen3:0.6b", "measure", True, None),
    ]
    assert order[0].shape.parameters == 8_190_735_360


def test_a_specification_survives_the_command_line() -> None:
    assert Specification.parse(json.dumps(asdict(PLAN))) == PLAN


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA L4", "l4"),
        ("Tesla T4", "t4"),
        ("", None),
    ],
)
def test_a_card_is_known_by_what_cuda_calls_it(device: str, name: str | None) -> None:
    found = named_gpu(device)
    assert (found.name if found else None) == name


def test_a_backend_that_does_not_work_here_is_left_out_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    found = list(training.able(("transformers", "unsloth"), ("lora", "qlora"), Machine()))
    assert found == [("transformers", "lora")]
    assert capsys.readouterr().out.count("left out: ") == 3


def test_rows_and_adapters_begin_the_same_for_every_backend() -> None:
    assert drawn_rows(16, count=3, vocabulary=512, seed=1) == drawn_rows(16, count=3, vocabulary=512, seed=1)
    assert drawn_rows(16, count=3, vocabulary=512, seed=1) != drawn_rows(16, count=3, vocabulary=512, seed=2)

    def adapter() -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict({"lora_A": torch.nn.Linear(8, 4, bias=False), "lora_B": torch.nn.Linear(4, 8, bias=False)})

    one, other = adapter(), adapter()
    for each in (one, other):
        reset_adapter(each, seed=3)
    assert torch.equal(one["lora_A"].weight, other["lora_A"].weight)  # type: ignore[arg-type]
    assert one["lora_A"].weight.abs().max() <= 8**-0.5  # type: ignore[operator]
    assert one["lora_B"].weight.abs().max() == 0  # type: ignore[operator]


def gpu_line(backend: str, *, tokens_a_second: float, device_gb: float, number: int = 1) -> dict[str, Any]:
    """A measurement as it looks on a GPU."""
    return {
        "does": "measure", "model": "qwen3:8b", "backend": backend, "method": "lora", "checkpointing": True,
        "round": number, "tokens_a_row": 2048,
        "rows_a_step": 4, "tokens_a_second": tokens_a_second, "mfu": 0.4, "hfu": 0.55, "losses": [11.9, 11.1],
        "peak_allocated_bytes": 20e9, "peak_reserved_bytes": 21e9, "peak_device_bytes": device_gb * 1e9,
        "planned_bytes": int(22e9), "planned_tensors_bytes": int(20e9),
    }  # fmt: skip


def test_tables_say_how_much_faster_and_whether_the_plan_was_right() -> None:
    begin = {"does": "begin", "device": "NVIDIA H100 80GB HBM3", "versions": {"torch": "2.13.0", "xformers": "-"}, "missing": []}
    lines = [
        begin,
        gpu_line("transformers", tokens_a_second=9000, device_gb=22),
        gpu_line("transformers", tokens_a_second=11000, device_gb=22, number=2),
        gpu_line("unsloth", tokens_a_second=20000, device_gb=12),
        {"does": "measure", "model": "qwen3:8b", "backend": "unsloth", "method": "lora", "checkpointing": True, "round": 1,
         "tokens_a_row": 8192,
         "rows_a_step": 1, "out_of_memory": True},
        {"does": "longest", "model": "qwen3:8b", "backend": "unsloth", "method": "lora", "round": 1,
         "card_bytes": 24 * 10**9, "longest_tokens": 65536,
         "first_too_long": None, "found": False},
    ]  # fmt: skip
    text = training.tables(lines)
    assert "| 10,000 (9,000–11,000) | 40.0%, 55.0% | 20.00, 21.00 | 2 |" in text
    assert "unsloth is 2.00 times as fast as transformers" in text
    assert "| 22.00, 22.00, 1.00 | 20.00, 20.00, 1.00 | yes |" in text
    assert "| 12.00, 22.00, 1.83 | 20.00, 20.00, 1.00 | no |" in text
    assert "| qwen3:8b | 8,192 x 1 | lora | unsloth | out of memory | | | 1 |" in text
    assert "| 24 GB | 65,536 at least | none tried |" in text


def test_overhead_is_held_against_both_bars() -> None:
    cost = trainer_overhead.Cost(seconds=60, cpu_seconds=59, peak_megabytes=1000, loss=0.1)
    within = trainer_overhead.table({"ruminate": [replace(cost, seconds=62)], "trl": [cost]})
    assert "time ≤ 1.05 times: **met** (1.033; CPU 1.000)" in within
    assert "memory ≤ 100 MB more: **met** (+0 MB)" in within
    beyond = trainer_overhead.table({"ruminate": [replace(cost, seconds=66, peak_megabytes=1101)], "trl": [cost]})
    assert beyond.count("**not met**") == 2
