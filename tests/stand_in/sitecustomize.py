"""A CUDA device that is none: torch says that it is there, and computes on the CPU what is sent to it.

Python imports a module of this name at its start, from any folder that is in PYTHONPATH. So a process goes through Unsloth's own
code on any machine: its way of loading and of putting adapters on, the trainers that it writes, its gradient checkpoints, its way
of generating. What is not Unsloth's own there: three kernels (RMSNorm, RoPE, SwiGLU), which are the same formulas in torch's own
operations; what torch would compile, which it does not; CUDA; four bits.

    PYTHONPATH=tests/stand_in:FOLDER_OF_UNSLOTH python -m ...

RUMINATE_TEST_ROOM=256 makes the device full where more tokens than that are computed at once while it trains.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, Final

ROOM: Final = "RUMINATE_TEST_ROOM"
GIGABYTES: Final = 80
ENVIRONMENT: Final = {
    "TORCHDYNAMO_DISABLE": "1",
    "UNSLOTH_COMPILE_DISABLE": "1",
    "HF_DEACTIVATE_ASYNC_LOAD": "1",  # what reroutes to the CPU is there in one thread
}


def install() -> None:
    """See to it that modules are changed as soon as they have been imported."""
    os.environ.update(ENVIRONMENT)
    sys.meta_path.insert(0, _Afterwards())


class _Afterwards(importlib.abc.MetaPathFinder):
    """Finds what the others find, with a loader that calls us at its end."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        change = CHANGES.get(fullname)
        if change is None:
            return None
        for finder in sys.meta_path:
            if finder is self or (spec := finder.find_spec(fullname, path, target)) is None:
                continue
            _afterwards(spec.loader, change)
            return spec
        return None


def _afterwards(loader: Any, change: Callable[[ModuleType], None]) -> None:
    load = loader.exec_module

    def loaded(module: ModuleType) -> None:
        load(module)
        change(module)

    loader.exec_module = loaded


# --- torch ---------------------------------------------------------------------------------------------------------


def _torch(torch: Any) -> None:
    """The device, and every way to it."""
    _one_device(torch)
    _stay_where_they_are(torch)
    _autocast_on_the_cpu(torch)
    _data_loader_pins_nothing(torch)
    if room := int(os.environ.get(ROOM, "0")):
        _small(torch, room)


def _one_device(torch: Any) -> None:
    total = GIGABYTES << 30
    properties = SimpleNamespace(
        name="a stand-in", total_memory=total, major=9, minor=0, multi_processor_count=16, warp_size=32, gcnArchName="",
        max_threads_per_multi_processor=2048, regs_per_multiprocessor=65536, shared_memory_per_block_optin=232448,
    )  # fmt: skip
    state = torch.zeros(16, dtype=torch.uint8)
    answers: dict[str, Any] = {
        "is_available": True, "is_initialized": True, "is_bf16_supported": True, "is_current_stream_capturing": False,
        "device_count": 1, "current_device": 0, "current_device_index": 0, "get_device_capability": (9, 0),
        "get_device_name": properties.name,
        "get_device_properties": properties, "mem_get_info": (total, total), "memory_stats": {},
        "memory_allocated": 0, "max_memory_allocated": 0, "memory_reserved": 0, "max_memory_reserved": 0,
        "get_rng_state": state, "get_rng_state_all": [state],
    }  # fmt: skip
    nothing = (
        "set_device", "synchronize", "empty_cache", "reset_peak_memory_stats", "init", "_lazy_init", "ipc_collect",
        "set_rng_state", "set_rng_state_all", "manual_seed", "manual_seed_all",
    )  # fmt: skip
    for name, answer in {**answers, **dict.fromkeys(nothing)}.items():
        for module in (torch.cuda, torch.accelerator, torch.cuda.random, torch.cuda.memory, torch.cuda.graphs):
            if hasattr(module, name):
                setattr(module, name, _always(answer))

    class Device(contextlib.nullcontext[None]):
        idx = 0

        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__()

    class Stream:
        cuda_stream, device = 0, torch.device("cpu")

        def __init__(self, *_: Any, **__: Any) -> None:
            """Takes whatever is asked for."""

        def __getattr__(self, name: str) -> Any:
            return _always(None)

        def query(self) -> bool:
            """Everything has happened."""
            return True

    torch.cuda.device = torch.cuda.device_of = torch.cuda.stream = Device
    torch.cuda.Stream = torch.cuda.Event = Stream
    torch.cuda.current_stream = torch.cuda.default_stream = torch.accelerator.current_stream = _always(Stream())
    torch._C._cuda_getCurrentRawStream = _always(0)


def _stay_where_they_are(torch: Any) -> None:
    tensor = torch.Tensor

    def here(where: Any) -> Any:
        return type(where)("cpu") if isinstance(where, str | torch.device) and str(where).startswith("cuda") else where

    class Reroute(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, function: Any, _: Any, given: Any = (), named: Any = None) -> Any:
            named = dict(named or {})
            if function is torch.device:
                return function(*given, **named)
            if function in (tensor.cuda, tensor.pin_memory):
                return given[0]
            if function is tensor.record_stream:
                return None
            if function is tensor.to and len(given) > 1 and type(given[1]) is int:
                given = (given[0], "cpu", *given[2:])
            if "device" in named:
                named["device"] = "cpu" if type(named["device"]) is int else here(named["device"])
            named.pop("pin_memory", None)
            return function(*(here(each) for each in given), **named)

    Reroute().__enter__()


def _autocast_on_the_cpu(torch: Any) -> None:
    modes = torch.amp.autocast_mode
    begin, forward, backward = modes.autocast.__init__, modes.custom_fwd, modes.custom_bwd

    def autocast(self: Any, device_type: str = "cuda", *given: Any, **named: Any) -> None:
        begin(self, "cpu" if device_type == "cuda" else device_type, *given, **named)

    def custom_fwd(function: Any = None, *, device_type: str, **named: Any) -> Any:
        return forward(function, device_type="cpu", **named)

    def custom_bwd(function: Any = None, *, device_type: str) -> Any:
        return backward(function, device_type="cpu")

    modes.autocast.__init__ = autocast
    torch.amp.custom_fwd = modes.custom_fwd = custom_fwd
    torch.amp.custom_bwd = modes.custom_bwd = custom_bwd
    enabled, dtype = torch.is_autocast_enabled, torch.get_autocast_dtype
    torch.is_autocast_enabled = lambda *_: enabled("cpu")
    torch.get_autocast_dtype = lambda *_: dtype("cpu")


def _data_loader_pins_nothing(torch: Any) -> None:
    loader = torch.utils.data.DataLoader
    begin = loader.__init__

    def unpinned(self: Any, *given: Any, **named: Any) -> None:
        begin(self, *given, **{**named, "pin_memory": False})

    loader.__init__ = unpinned


def _small(torch: Any, room: int) -> None:
    embed = torch.nn.Embedding.forward

    def forward(self: Any, ids: Any) -> Any:
        if torch.is_grad_enabled() and ids.numel() > room:
            raise torch.OutOfMemoryError("CUDA out of memory: this device is a stand-in, and was told to be small")
        return embed(self, ids)

    torch.nn.Embedding.forward = forward


def _always(answer: Any) -> Callable[..., Any]:
    return lambda *_, **__: answer


# --- what finds CUDA, and what is compiled for it ---------------------------------------------------------------------


def _bitsandbytes(functional: Any) -> None:
    """It is looked at before Unsloth is imported; in 16 bits none of it is called."""
    library = functional.lib

    class Library:
        def __getattr__(self, name: str) -> Any:
            return SimpleNamespace(argtypes=[]) if name.startswith("c") else getattr(library, name)

    functional.lib = Library()


def _driver(driver: Any) -> None:
    driver.libcuda_dirs = _always([])


def _rms_layernorm(kernels: Any) -> None:
    torch = sys.modules["torch"]

    def fast_rms_layernorm(layernorm: Any, x: Any, **_: Any) -> Any:
        wide = x.to(torch.float32)
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + layernorm.variance_epsilon)
        return layernorm.weight * (wide * scale).to(x.dtype)

    kernels.fast_rms_layernorm = fast_rms_layernorm


def _rope_embedding(kernels: Any) -> None:
    torch = sys.modules["torch"]

    def fast_rope_embedding(q: Any, k: Any, cos: Any, sin: Any, positions: Any = None) -> Any:
        batch, _, length, _ = q.shape
        # Copied: some come out of inference mode, and are to be kept for the backward pass.
        cos, sin = cos.squeeze().clone(), sin.squeeze().clone()
        if positions is None:
            cos, sin = cos[:length][None, None], sin[:length][None, None]
        else:
            at = positions.reshape(-1).long()
            cos, sin = (table[at].view(batch, 1, length, -1) for table in (cos, sin))

        def turned(x: Any) -> Any:
            half = x.shape[-1] // 2
            return (x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin).to(x.dtype)

        return turned(q), turned(k)

    kernels.fast_rope_embedding = fast_rope_embedding


def _swiglu(kernels: Any) -> None:
    torch = sys.modules["torch"]

    def forward(e: Any, g: Any) -> Any:
        return torch.nn.functional.silu(e.float()).to(e.dtype) * g

    def backward(dw: Any, e: Any, g: Any) -> Any:
        """In place, as the kernel does it: the product, and the gradients of gate and up."""
        wide = e.float()
        sigmoid = torch.sigmoid(wide)
        silu = (sigmoid * wide).to(dw.dtype)
        product, for_up, for_silu = silu * g, dw * silu, dw * g
        for_gate = (for_silu.float() * sigmoid * (1.0 + wide * (1.0 - sigmoid))).to(dw.dtype)
        dw.copy_(product)
        e.copy_(for_up)
        g.copy_(for_gate)
        return dw, e, g

    kernels.swiglu_fg_kernel, kernels.swiglu_DWf_DW_dfg_kernel = forward, backward


CHANGES: Final[dict[str, Callable[[Any], None]]] = {
    "torch": _torch,
    "bitsandbytes.functional": _bitsandbytes,
    "triton.backends.nvidia.driver": _driver,
    "unsloth.kernels.rms_layernorm": _rms_layernorm,
    "unsloth.kernels.rope_embedding": _rope_embedding,
    "unsloth.kernels.swiglu": _swiglu,
}


install()
