"""`export`: a sealed dataset as files that `datasets.load_dataset` opens as they are, written line by line.

<file>.parquet   in the order in which the rows are trained
<file>.jsonl     the same, but for a few rows that come first because they show the type of tool calls
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import orjson

from ruminate.accumulator.making.manifest import AsideOrigin, PairOrigin, Rehearsed, RowOrigin
from ruminate.command.datasets.columns import FORMS, for_json_lines, for_parquet, leading, origin_for_json_lines, parse, schema
from ruminate.command.datasets.fetched import Fetched, Line
from ruminate.command.datasets.files import CONFIGS, DATA_FILES, Config, DataFile, FileName, Split
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
    config: Config = "default"


class _Named(NamedTuple):
    """What of a record is said of the pairs and questions that it gives."""

    recorded_id: str
    conversation: str
    domain: str | None
    difficulty: str | None


@dataclass(slots=True)
class Export:
    """Writes the files of one dataset. Raises NotARow, ArtifactDamaged, OSError; what was begun is not left behind."""

    dataset: Fetched
    batch_id: str
    with_origin: bool
    generated: Mapping[int, Collection[str]] = field(default_factory=dict)
    """By number of an earlier batch: the hashes of the lines of its train.jsonl whose thinking was written afterwards."""
    told: Callable[[], None] = lambda: None
    _named: dict[int, _Named] | None = None

    def write(self, name: FileName, kind: Format, folder: Path) -> Written:
        """Write one file."""
        file = DATA_FILES[name]
        path = folder / f"{name}.{kind}"
        leaders = list(leading(self.dataset.lines(file), FORMS[file.config], where=file.path))
        if kind == "parquet":
            rows = self._write_parquet(path, file)
        else:
            rows = self._write_json_lines(path, file, {number for number, _ in leaders})
        sha256, size_bytes = hash_file(path)
        calls = tuple(sorted(column for _, column in leaders))
        return Written(path.name, file.split, rows, size_bytes, sha256, calls, file.config)

    def _write_parquet(self, path: Path, file: DataFile) -> int:
        import pyarrow as pa  # noqa: PLC0415 - 45 MB that no other verb needs
        import pyarrow.parquet as pq  # noqa: PLC0415

        columns = schema(FORMS[file.config], with_origin=self.with_origin)
        written = 0
        with whole_file(path) as out, pq.ParquetWriter(out, columns, compression="zstd") as writer:
            for group in self._groups(file):
                writer.write_batch(pa.RecordBatch.from_pylist(group, schema=columns))
                written += len(group)
                group.clear()  # else it stands in memory until the next is whole
        return written

    def _groups(self, file: DataFile) -> Iterator[list[dict[str, Any]]]:
        group: list[dict[str, Any]] = []
        size = 0
        for line in self.dataset.rows(file):
            group.append(self._row(line, "parquet", file))
            size += len(line.data)
            if len(group) >= _GROUP_ROWS or size >= _GROUP_BYTES:
                yield group
                group, size = [], 0
        if group:
            yield group

    def _write_json_lines(self, path: Path, file: DataFile, leaders: set[int]) -> int:
        written = 0
        with whole_file(path) as out:
            for first in (True, False) if leaders else (False,):
                for line in self.dataset.rows(file):
                    if (line.number in leaders) is first:
                        out.write(orjson.dumps(self._row(line, "jsonl", file), option=orjson.OPT_APPEND_NEWLINE))
                        written += 1
        return written

    def _row(self, line: Line, kind: Format, file: DataFile) -> dict[str, Any]:
        self.told()
        sealed = parse(line.data, FORMS[file.config], where=f"{file.path} line {line.number}")
        row = for_parquet(sealed) if kind == "parquet" else for_json_lines(sealed)
        if self.with_origin:
            origin = {"batch": self.batch_id, "split": file.split, "line": line.number} | self._origin(line)
            row["origin"] = origin if kind == "parquet" else origin_for_json_lines(origin)
        return row

    def _origin(self, line: Line) -> dict[str, Any]:
        """Where a line comes from, beside its place in this dataset."""
        origin = line.origin
        match origin:
            case RowOrigin() | Rehearsed():
                return self._of_row(origin, line.number)
            case PairOrigin():
                rejected = self._record(origin.rejected)
                chosen = None if origin.chosen is None else self._record(origin.chosen).recorded_id
                return {
                    "kind": origin.kind,
                    "chosen_recorded_id": chosen,
                    "rejected_recorded_id": rejected.recorded_id,
                    "domain": rejected.domain,
                    "difficulty": rejected.difficulty,
                    "sha256": origin.sha256,
                }
            case _:
                return self._record(origin.offset)._asdict() | {"sha256": origin.sha256}

    def _of_row(self, row: RowOrigin | Rehearsed, number: int) -> dict[str, Any]:
        batch, line = (self.batch_id, number) if isinstance(row, RowOrigin) else (row.named, row.line + 1)
        return {
            "origin": row.origin,
            "fresh_batch": batch,
            "fresh_line": line,
            "recorded_id": None if row.recorded_id is None else str(row.recorded_id),
            "event_id": row.event_id,
            "conversation": row.conversation,
            "reasoning": row.reasoning,
            "thinking": self._thinking(row),
            "domain": row.domain,
            "difficulty": row.difficulty,
            "sha256": row.sha256,
        }

    def _thinking(self, row: RowOrigin | Rehearsed) -> str:
        """Of a rehearsed row, what the batch says in which it was fresh; of an anchor's nobody says anything."""
        if not row.reasoning:
            return "none"
        if isinstance(row, RowOrigin):
            return "generated" if row.generated_thinking else "captured"
        generated = None if row.number is None else self.generated.get(row.number)
        return "unknown" if generated is None else "generated" if row.sha256 in generated else "captured"

    def _record(self, offset: int) -> _Named:
        """What is said of a record that gives pairs or questions: only of those is anything kept."""
        if self._named is None:
            wanted = {offset for pair in self.dataset.pairs() for offset in (pair.chosen, pair.rejected) if offset is not None}
            wanted |= {question.offset for question in self.dataset.questions()}
            self._named = {each.offset: _named(each) for each in self.dataset.named() if each.offset in wanted}
        return self._named.get(offset) or _Named("", "", None, None)


def _named(row: RowOrigin | AsideOrigin) -> _Named:
    domain, difficulty = (row.domain, row.difficulty) if isinstance(row, RowOrigin) else (None, None)
    return _Named(str(row.recorded_id), row.conversation, domain, difficulty)


def puzzling(written: list[Written]) -> str | None:
    """Which columns of JSONL have no tool calls in the first file of a config and some in a later: who opens both must be told.

    None where the types that a reader guesses from the first file fit every other.
    """
    columns: set[str] = set()
    for config in CONFIGS:
        files = [file for file in written if file.config == config and file.name.endswith(".jsonl") and file.rows]
        columns |= {column for file in files[1:] for column in file.tool_calls_in if column not in files[0].tool_calls_in}
    return " and ".join(sorted(columns)) or None
