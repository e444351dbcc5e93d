"""A backend is chosen by what the machine has, or refused with words."""

from __future__ import annotations

import pytest

from ruminate.trainer.backends.choose import Impossible, Machine, choose
from ruminate.trainer.plan import BackendWish, Method

EVERYTHING = frozenset({"unsloth", "unsloth_zoo", "bitsandbytes"})
CPU = Machine()
CPU_WITH_PACKAGES = Machine(installed=EVERYTHING)
H100 = Machine(gpu="NVIDIA H100 80GB HBM3", has_bfloat16=True, installed=EVERYTHING)
BARE_H100 = Machine(gpu="NVIDIA H100 80GB HBM3", has_bfloat16=True)
H100_WITH_FOUR_BITS = Machine(gpu="NVIDIA H100 80GB HBM3", has_bfloat16=True, installed=frozenset({"bitsandbytes"}))
T4 = Machine(gpu="Tesla T4", installed=EVERYTHING)


@pytest.mark.parametrize(
    ("wish", "method", "machine", "name"),
    [
        ("auto", "lora", CPU, "transformers"),
        ("auto", "lora", CPU_WITH_PACKAGES, "transformers"),
        ("auto", "lora", BARE_H100, "transformers"),
        ("auto", "lora", T4, "transformers"),
        ("auto", "lora", H100, "unsloth"),
        ("auto", "qlora", H100, "unsloth"),
        ("auto", "qlora", H100_WITH_FOUR_BITS, "transformers"),
        ("transformers", "lora", H100, "transformers"),
        ("transformers", "qlora", H100, "transformers"),
        ("unsloth", "lora", H100, "unsloth"),
    ],
)
def test_the_fastest_backend_that_works_here_is_taken_unless_one_is_named(
    wish: BackendWish, method: Method, machine: Machine, name: str
) -> None:
    assert choose(wish, method, machine) == name


@pytest.mark.parametrize(
    ("wish", "method", "machine", "says"),
    [
        ("unsloth", "lora", CPU, "torch finds no GPU, or set it to auto or transformers"),
        (
            "unsloth",
            "lora",
            BARE_H100,
            r"unsloth and unsloth_zoo and bitsandbytes cannot be imported; install ruminate-trainer\[gpu\]",
        ),
        ("unsloth", "lora", H100_WITH_FOUR_BITS, "unsloth and unsloth_zoo cannot be imported"),
        ("unsloth", "lora", T4, "Tesla T4 does not compute in bfloat16"),
        ("auto", "qlora", CPU, "RUMINATE_TRAINING_METHOD is qlora, which does not work here: .* no GPU, or set it to lora"),
        ("auto", "qlora", BARE_H100, "bitsandbytes cannot be imported"),
        ("transformers", "qlora", CPU_WITH_PACKAGES, "no GPU"),
        ("transformers", "qlora", T4, "Tesla T4 does not compute in bfloat16"),
    ],
)
def test_a_backend_that_cannot_work_here_is_refused_with_the_way_out(
    wish: BackendWish, method: Method, machine: Machine, says: str
) -> None:
    with pytest.raises(Impossible, match=says):
        choose(wish, method, machine)
