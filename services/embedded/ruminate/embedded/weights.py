"""What a GGUF file says of itself, without reading its weights; and the one quantisation that needs no llama.cpp: q8_0."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import gguf

Value = str | int | float | bool | None

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST_KEPT_STRING = 1 << 20
FILE_TYPES = {0: "F32", 1: "F16", 7: "Q8_0", 14: "Q4_K_S", 15: "Q4_K_M", 18: "Q6_K", 32: "BF16"}
QUANTIZATIONS = ("F32", "F16", "Q4_K_S", "Q4_K_M", "Q8_0")


class NotGguf(Exception):
    """These bytes are no GGUF; the message says what was found."""


class CannotQuantize(Exception):
    """This quantisation is unknown, not possible from this source, or not offered here."""


@dataclass(frozen=True, slots=True)
class Header:
    """Metadata of a GGUF; arrays (tokens, merges) are None."""

    metadata: dict[str, Value]
    parameters: int

    @property
    def architecture(self) -> str:
        """`qwen3`, `qwen3moe`, …"""
        return str(self.metadata.get("general.architecture", "unknown"))

    @property
    def kind(self) -> str:
        """`model` or `adapter`."""
        return str(self.metadata.get("general.type", "model"))

    @property
    def file_type(self) -> str:
        """How most tensors are stored: `F16`, `Q8_0`, …"""
        number = self.metadata.get("general.file_type")
        return FILE_TYPES.get(number, "unknown") if isinstance(number, int) else "unknown"

    @property
    def chat_template(self) -> str:
        """The Jinja template inside, empty if there is none."""
        return str(self.metadata.get("tokenizer.chat_template") or "")

    @property
    def context_tokens(self) -> int:
        """The context window that the model was trained with."""
        length = self.metadata.get(f"{self.architecture}.context_length")
        return int(length) if isinstance(length, int) else 0


def read_header(path: Path) -> Header:
    """Metadata and parameter count of the file; NotGguf if it is none."""
    with path.open("rb") as file:
        try:
            return _read_header(file)
        except (struct.error, UnicodeDecodeError, KeyError, OverflowError) as error:
            raise NotGguf(f"broken GGUF header at byte {file.tell()}: {error}") from error


def _read_header(file: BinaryIO) -> Header:
    if file.read(4) != b"GGUF":
        raise NotGguf("no GGUF magic at the beginning")
    version, tensors, fields = _unpack(file, "<IQQ")
    if version not in (2, 3):
        raise NotGguf(f"GGUF version {version}; 2 and 3 are known")
    metadata = {_string(file): _value(file, _unpack(file, "<I")[0]) for _ in range(fields)}
    parameters = 0
    for _ in range(tensors):
        _string(file)
        (dimensions,) = _unpack(file, "<I")
        parameters += prod(_unpack(file, f"<{dimensions}Q"))
        file.seek(struct.calcsize("<IQ"), 1)
    return Header(metadata, parameters)


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<Q")
    if length > _LONGEST_KEPT_STRING:
        raise NotGguf(f"a string of {length} bytes in the header; at most {_LONGEST_KEPT_STRING} are read")
    return file.read(length).decode()


def _value(file: BinaryIO, kind: int) -> Value:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return struct.unpack("<" + _SCALARS[kind], file.read(struct.calcsize("<" + _SCALARS[kind])))[0]  # type: ignore[no-any-return]
    item, count = _unpack(file, "<IQ")
    if item in _SCALARS:
        file.seek(count * struct.calcsize("<" + _SCALARS[item]), 1)
    else:
        for _ in range(count):
            _value(file, item)
    return None


def check_quantization(wanted: str, source: Header) -> bool:
    """Whether there is anything to do; CannotQuantize where it is unknown, impossible, or not offered by this node."""
    if wanted not in QUANTIZATIONS:
        raise CannotQuantize(f"unsupported quantization type {wanted} - supported types are {', '.join(QUANTIZATIONS)}")
    if source.file_type not in ("F16", "BF16", "F32"):
        raise CannotQuantize("quantization is only supported for F16, BF16 and F32 models")
    if wanted == source.file_type:
        return False
    if wanted != "Q8_0":
        raise CannotQuantize(f"unsupported quantization type {wanted} - supported types are Q8_0")
    return True


def quantize_q8_0(source: Path, target: Path, *, progress: Callable[[int, int], None]) -> None:
    """Write `source` with its matrices in q8_0; `progress` hears tensors done and tensors in all."""
    # Half of a node's start would go into importing what few nodes ever use.
    import gguf  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        item = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=item)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    q8_0, f32 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F32
    plan = [(tensor, q8_0 if _is_quantized(tensor) else f32) for tensor in reader.tensors]
    for tensor, kind in plan:
        shape = [int(size) for size in reversed(tensor.shape)]
        block, bytes_a_block = gguf.GGML_QUANT_SIZES[kind]
        packed = gguf.quant_shape_to_byte_shape(shape, kind) if kind == q8_0 else shape
        dtype = np.dtype(np.uint8 if kind == q8_0 else np.float32)
        writer.add_tensor_info(tensor.name, packed, dtype, prod(shape) // block * bytes_a_block, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, (tensor, kind) in enumerate(plan):
        progress(done, len(plan))
        shape = [int(size) for size in reversed(tensor.shape)]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
        writer.write_tensor_data(gguf.quants.quantize(values, kind))
    writer.close()


def _is_quantized(tensor: gguf.ReaderTensor) -> bool:
    # Vectors and routers stay exact, as llama.cpp keeps them; a row must hold whole blocks of 32.
    return len(tensor.shape) > 1 and tensor.shape[0] % 32 == 0 and "ffn_gate_inp" not in tensor.name
