"""A GGUF file that is written some rows at a time, and is there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import BinaryIO, Final, Literal

import gguf
import numpy as np
import torch

from ruminate.trainer.export.architecture import Config, architecture_of
from ruminate.trainer.export.encodings import FILE_TYPES, encode, type_for
from ruminate.trainer.plan import Encoding

_ANY_BYTES: Final = np.dtype("uint8")


class GgufFile:
    """Described first (`writer`), then announced, then filled: tensor by tensor, from the first row to the last."""

    def __init__(self, writer: gguf.GGUFWriter, encoding: Encoding) -> None:
        self.writer, self._encoding = writer, encoding
        self._types: dict[str, gguf.GGMLQuantizationType] = {}

    def announce(self, tensors: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        """Write everything but the weights: `tensors` are names and shapes, in the order in which they will come."""
        for name, shape in tensors:
            kind = self._types[name] = type_for(name, shape, self._encoding)
            bytes_shape = gguf.quant_shape_to_byte_shape(shape, kind)
            self.writer.add_tensor_info(name, bytes_shape, _ANY_BYTES, prod(bytes_shape), raw_dtype=kind)
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_ti_data_to_file()
        self.writer.write_padding(self._out, self._out.tell())

    def write(self, name: str, rows: torch.Tensor) -> None:
        """The next rows of a tensor. Raises ExportError for what f16 cannot hold."""
        self._out.write(encode(rows, self._types[name], name).data)

    def end_tensor(self) -> None:
        """After the last rows of a tensor."""
        # A tensor begins at a multiple of the alignment, as the file's data does.
        self.writer.write_padding(self._out, self._out.tell())

    @property
    def _out(self) -> BinaryIO:
        file: BinaryIO = self.writer.fout[0]
        return file


@contextmanager
def gguf_file(out: Path, config: Config, *, kind: Literal["model", "adapter"], encoding: Encoding) -> Iterator[GgufFile]:
    """A file under a temporary name, which becomes `out` when everything is written."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".partial-{out.name}")
    writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[architecture_of(config)])
    try:
        writer.add_type(kind)
        writer.add_file_type(FILE_TYPES[encoding])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        yield GgufFile(writer, encoding)
        writer.close()
        partial.replace(out)
    except BaseException:
        with suppress(OSError):  # where the disk is full, it cannot write what it still holds either
            writer.close()
        partial.unlink(missing_ok=True)
        raise
