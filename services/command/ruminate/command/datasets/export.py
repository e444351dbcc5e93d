"""`export`: a sealed dataset as files that `datasets.load_dataset` opens as they are, written row by row.

<split>.parquet   in the order in which the rows are trained
<split>.jsonl     the same, but for at most two rows that come first because they show the type of tool calls
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from ruminate.command.datasets.columns import for_json_lines, for_parquet, leading, origin_of, parse, schema
from ruminate.command.datasets.fetched import Fetched, Line, Split
from ruminate.command.datasets.look import FILES
from ruminate.shared.store import hash_file, whole_file

Format = Literal["parquet", "jsonl"]

_GROUP_ROWS: Final = 1000
_GROUP_BYTES: Final = 16 * 1024 * 1024
"""A row group of Parquet is written at whichever comes first: what is in memory of a dataset."""


@dataclass(frozen=True, slots=True)
class Written:
    """One file of an export."""

    name: str
    split: Split
    rows: int
    size_bytes: int
    sha256: str
    tool_calls_in: tuple[str, ...]
    """The columns in which some row has tool calls."""


class Export:
    """Writes the splits of one dataset. Raises NotARow, ArtifactDamaged, OSError; what was begun is not left behind."""

    def __init__(self, dataset: Fetched, *, batch_id: str, with_origin: bool, told: Callable[[], None] = lambda: None) -> None:
        self._dataset = dataset
        self._batch_id = batch_id
        self._with_origin = with_origin
        self._told = told

    def write(self, split: Split, kind: Format, folder: Path) -> Written:
        """Write one file."""
        path = folder / f"{split}.{kind}"
        leaders = list(leading(self._dataset.lines(split), where=FILES[split]))
        if kind == "parquet":
            rows = self._write_parquet(path, split)
        else:
            rows = self._write_json_lines(path, split, {number for number, _ in leaders})
        sha256, size_bytes = hash_file(path)
        return Written(path.name, split, rows, size_bytes, sha256, tuple(sorted(column for _, column in leaders)))

    def _write_parquet(self, path: Path, split: Split) -> int:
        import pyarrow as pa  # noqa: PLC0415 - 45 MB that no other verb needs
        import pyarrow.parquet as pq  # noqa: PLC0415

        columns = schema(with_origin=self._with_origin)
        written = 0
        with whole_file(path) as out, pq.ParquetWriter(out, columns, compression="zstd") as writer:
            for group in self._groups(split):
                writer.write_batch(pa.RecordBatch.from_pylist(group, schema=columns))
                written += len(group)
                group.clear()  # else it stands in memory until the next is whole
        return written

    def _groups(self, split: Split) -> Iterator[list[dict[str, Any]]]:
        group: list[dict[str, Any]] = []
        size = 0
        for line in self._dataset.rows(split):
            group.append(self._row(line, for_parquet, split))
            size += len(line.data)
            if len(group) >= _GROUP_ROWS or size >= _GROUP_BYTES:
                yield group
                group, size = [], 0
        if group:
            yield group

    def _write_json_lines(self, path: Path, split: Split, leaders: set[int]) -> int:
        written = 0
        with whole_file(path) as out:
            for first in (True, False) if leaders else (False,):
                for line in self._dataset.rows(split):
                    if (line.number in leaders) is first:
                        out.write(orjson.dumps(self._row(line, for_json_lines, split), option=orjson.OPT_APPEND_NEWLINE))
                        written += 1
        return written

    def _row(self, line: Line, form: Callable[[Any], dict[str, Any]], split: Split) -> dict[str, Any]:
        self._told()
        row = form(parse(line.data, where=f"{FILES[split]} line {line.number}"))
        if self._with_origin:
            row["origin"] = origin_of(line.origin, batch=self._batch_id, line=line.number)
        return row


def puzzling(written: list[Written]) -> str | None:
    """Which column of JSONL has no tool calls in the first file and some in the second: readers that open both must be told.

    None where the types that a reader guesses from the first file fit every other.
    """
    files = [file for file in written if file.name.endswith(".jsonl") and file.rows]
    columns = sorted({column for file in files[1:] for column in file.tool_calls_in if column not in files[0].tool_calls_in})
    return " and ".join(columns) or None
