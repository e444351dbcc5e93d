"""The tensors of safetensors files, read some rows at a time.

By plain reads and not by a memory map: what is mapped counts as ours once it was looked at, up to the whole of a base.
Format: 8 bytes with the length of a JSON header, the header (name → dtype, shape, place), the data.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch

from ruminate.trainer.export.encodings import ExportError

_DTYPES: Final = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_BLOCK_BYTES: Final = 16 * 2**20
"""So large are the rows that are held together, in float32: encoding needs several times their memory."""


class Tensors(Protocol):
    """Matrices and vectors by name, of which rows can be had."""

    def names(self) -> list[str]:
        """All of them."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Rows first."""
        ...

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` up to `stop`; of a vector, its values."""
        ...


@dataclass(frozen=True)
class _Place:
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


class Weights:
    """The tensors of a model folder, sharded or not, or of one file. Raises ExportError for what is no safetensors."""

    def __init__(self, folder: Path, file: str = "model.safetensors") -> None:
        index = folder / f"{file}.index.json"
        names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else [file]
        self._places: dict[str, _Place] = {}
        for name in names:
            self._places |= _read_header(folder / name)

    def names(self) -> list[str]:
        return list(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._places[name].shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        place = self._places[name]
        row_bytes = prod(place.shape[1:]) * place.dtype.itemsize
        with place.file.open("rb", buffering=0) as file:
            file.seek(place.offset + start * row_bytes)
            read = np.fromfile(file, np.uint8, (stop - start) * row_bytes)
        if len(read) != (stop - start) * row_bytes:
            raise ExportError(f"{place.file} ends in the middle of {name}; fetch it again")
        return torch.from_numpy(read).view(place.dtype).reshape(stop - start, *place.shape[1:])


def read_whole(tensors: Tensors, name: str) -> torch.Tensor:
    """One tensor with all of its rows."""
    return tensors.rows(name, 0, tensors.shape(name)[0])


def blocks_of(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Where to cut a tensor, (start, stop) of its rows: blocks of about equal size, so that none of them is a single row."""
    rows = shape[0]
    blocks = max(1, -(-rows * prod(shape[1:]) * 4 // _BLOCK_BYTES))
    edges = [rows * number // blocks for number in range(blocks + 1)]
    return [(start, stop) for start, stop in pairwise(edges) if start < stop]


def _read_header(file: Path) -> dict[str, _Place]:
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise ExportError(f"{name} in {file} is {entry['dtype']}; only {', '.join(_DTYPES)} can be exported")
    return {
        name: _Place(file, _DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }
