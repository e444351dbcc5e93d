"""The work of an import: files of every kind, in flat memory, from where it stopped, once in effect, and a report at the end."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ruminate.command.__main__ import app
from ruminate.command.imports.progress import CannotGoOn, path_of
from ruminate.command.imports.records import CannotRead, Place, container_of, read_records
from ruminate.command.imports.sinks import KafkaSink, NotAcknowledged, Ready, Sent
from ruminate.command.imports.told import Options, Refused
from ruminate.command.imports.work import Import, Outcome, import_file
from ruminate.schemas.flow import INTERACTION_COMPLETED
from ruminate.shared.memory import MemoryBroker, MemoryBus

SECRET = "Rumpelstilzchen"


def record(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": f"{number}!"}]}


def written(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def nothing(*_: Any) -> None:
    """Hears how far it is, and says nothing."""


class Kept:
    """Takes everything, until it is told to be away."""

    tells_duplicates = False

    def __init__(self, most: int = 10**9) -> None:
        self.ids: list[str] = []
        self.most = most

    async def send(self, batch: Sequence[Ready], source: str) -> list[Sent]:
        if len(self.ids) + len(batch) > self.most:
            raise NotAcknowledged("away")
        self.ids.extend(ready.payload.interaction_id for ready in batch)
        return ["taken"] * len(batch)


def asked(state: Path, **more: Any) -> Import:
    return Import(**{"options": Options(target="qwen3"), "form": None, "destination": "tests", "state": state} | more)


def run(file: Path, what: Import, sink: Any) -> Outcome:
    return asyncio.run(import_file(file, what, sink, nothing))


# Files.


def test_every_kind_of_file_gives_the_same_records_and_goes_on_behind_any_of_them(tmp_path: Path) -> None:
    rows = [{"number": str(number), "text": 'a,\n"b"'} for number in range(5)]
    jsonl = written(tmp_path / "a.jsonl", [rows[0], "", *rows[1:]])
    array, page = tmp_path / "a.json", tmp_path / "page.json"
    array.write_bytes(b"\xef\xbb\xbf" + json.dumps(rows, indent=1).encode())
    page.write_text(json.dumps({"data": rows, "meta": {"page": 1}}))
    table = tmp_path / "a.csv"
    with table.open("w", newline="") as out:
        writer = csv.DictWriter(out, ["number", "text"])
        writer.writeheader()
        writer.writerows(rows)
    for path, container in ((jsonl, "jsonl"), (array, "array"), (page, "pages"), (table, "csv")):
        assert container_of(path) == container
        found = list(read_records(path, container_of(path), Place()))
        assert [each.value for each in found] == rows
        assert [each.number for each in found] == [1, 2, 3, 4, 5]
        for stop in (0, 2, 4):
            assert [each.value for each in read_records(path, container_of(path), found[stop].after)] == rows[stop + 1 :]
    assert [each.line for each in read_records(jsonl, "jsonl", Place())] == [1, 3, 4, 5, 6]
    assert [each.line for each in read_records(table, "csv", Place())] == [2, 4, 6, 8, 10]


def test_one_object_over_several_lines_is_a_record_and_a_broken_file_says_behind_which_record(tmp_path: Path) -> None:
    document = tmp_path / "trace.json"
    document.write_text(json.dumps({"id": "t"}, indent=2))
    assert container_of(document) == "document"
    assert [each.value for each in read_records(document, "document", Place())] == [{"id": "t"}]
    broken = tmp_path / "broken.json"
    broken.write_text('[{"a": 1}, {"a": ' + SECRET)
    with pytest.raises(CannotRead, match="behind record 1") as error:
        list(read_records(broken, "array", Place()))
    assert SECRET not in str(error.value)
    latin = tmp_path / "latin.csv"
    latin.write_bytes("id,text\n1,x\n2,Zürich\n".encode("latin-1"))
    with pytest.raises(CannotRead, match="not UTF-8"):
        list(read_records(latin, "csv", Place()))
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(CannotRead, match="empty"):
        container_of(empty)


def test_lines_that_are_no_objects_and_rows_that_do_not_fit_are_refused_alone(tmp_path: Path) -> None:
    lines = written(tmp_path / "a.jsonl", [record(1), "{" + SECRET, "[1]", record(2)])
    found = [each.value for each in read_records(lines, "jsonl", Place())]
    assert [each.reason for each in found if isinstance(each, Refused)] == ["not_json", "not_an_object"]
    assert not any(SECRET in each.says for each in found if isinstance(each, Refused))
    table = tmp_path / "a.csv"
    table.write_text("id,text\n1,x\n2\n3,x,y\n")
    assert [isinstance(each.value, Refused) for each in read_records(table, "csv", Place())] == [False, True, True]


# The work.


def test_an_import_that_was_cut_off_goes_on_behind_what_was_acknowledged(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", [*(record(number) for number in range(1200)), "{", *map(record, range(1200, 3000))])
    what, state = asked(tmp_path), path_of(tmp_path, tmp_path / "a.jsonl", "tests")
    first, second, whole = Kept(most=2000), Kept(), Kept()
    with pytest.raises(NotAcknowledged, match="records are done"):
        run(file, what, first)
    assert state.exists()
    outcome = run(file, what, second)
    assert not state.exists()
    run(file, asked(tmp_path / "other"), whole)
    assert first.ids + second.ids == whole.ids
    assert len(set(whole.ids)) == 3000
    counts = outcome.counts
    assert (counts.records, counts.taken, dict(counts.refused)) == (3001, 3000, {"not_json": 1})
    assert [(each["line"], each["record"]) for each in counts.listed] == [(1201, 1201)]
    assert 0 < outcome.resumed_at_record < 2001


def test_a_limit_ends_a_run_and_the_next_one_goes_on(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", [record(number) for number in range(10)])
    sink = Kept()
    outcomes = [run(file, asked(tmp_path, limit=4), sink) for _ in range(3)]
    assert [outcome.finished for outcome in outcomes] == [False, False, True]
    assert [outcome.counts.taken for outcome in outcomes] == [4, 8, 10]
    assert len(set(sink.ids)) == len(sink.ids) == 10


def test_a_changed_file_and_changed_options_are_refused_with_the_way_out(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", [record(number) for number in range(10)])
    run(file, asked(tmp_path, limit=4), Kept())
    with pytest.raises(CannotGoOn, match=r"training_allowed.*--restart"):
        run(file, asked(tmp_path, options=Options(target="qwen3", training_allowed=True)), Kept())
    written(file, [record(number) for number in range(9)])
    with pytest.raises(CannotGoOn, match=r"has changed since 4 of its records.*--restart"):
        run(file, asked(tmp_path), Kept())
    sink = Kept()
    assert run(file, asked(tmp_path, restart=True), sink).finished
    assert len(sink.ids) == 9


def test_an_import_that_runs_twice_is_the_same_events(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", [record(number) for number in range(100)])

    async def scenario() -> None:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="import") as bus:
            for _ in range(2):
                outcome = await import_file(file, asked(tmp_path), KafkaSink(bus), nothing)
                assert (outcome.counts.taken, outcome.counts.duplicates) == (100, None)
        values = [bytes(each.value or b"") for each in broker.records(INTERACTION_COMPLETED.name)]
        assert len(values) == 200
        assert len(set(values)) == 100
        sources = {
            value for each in broker.records(INTERACTION_COMPLETED.name) for name, value in each.headers if name == "ce_source"
        }
        assert sources == {b"/imports/openai"}

    asyncio.run(scenario())


def test_a_long_conversation_is_sent_in_pieces_and_noted_as_a_whole(tmp_path: Path) -> None:
    turns = [{"role": role, "content": "x" * 20_000} for _ in range(60) for role in ("user", "assistant")]
    file = written(tmp_path / "a.jsonl", [{"messages": turns}, record(1)])
    largest = 0

    class Weighing(Kept):
        async def send(self, batch: Sequence[Ready], source: str) -> list[Sent]:
            nonlocal largest
            largest = max(largest, sum(len(ready.value) for ready in batch))
            return await super().send(batch, source)

    sink = Weighing()
    assert run(file, asked(tmp_path), sink).counts.taken == len(sink.ids) == 61
    assert largest < 8_000_000  # all prefixes together are ten times that
    cut = Kept(most=40)
    with pytest.raises(NotAcknowledged, match="0 records are done"):
        run(file, asked(tmp_path), cut)
    assert run(file, asked(tmp_path), Kept()).counts.taken == 61


def test_output_of_a_batch_finds_its_requests_in_any_order(tmp_path: Path) -> None:
    def answer(number: int) -> dict[str, Any]:
        body = {"id": f"chatcmpl-{number}", "choices": [{"message": {"content": f"{number}!"}}]}
        return {"custom_id": f"r-{number}", "response": {"status_code": 200, "body": body}, "error": None}

    def request(number: int) -> dict[str, Any]:
        return {"custom_id": f"r-{number}", "body": {"messages": [{"role": "user", "content": f"{number}?"}]}}

    output = written(tmp_path / "out.jsonl", [answer(number) for number in range(50)])
    requests = written(tmp_path / "in.jsonl", ["", *(request(number) for number in reversed(range(49)))])
    outcome = run(output, asked(tmp_path, requests=requests), Kept())
    assert (outcome.counts.taken, dict(outcome.counts.refused)) == (49, {"no_request": 1})


# The verb.


def typed(*words: str) -> Result:
    return CliRunner().invoke(app, ["import", *words])


def test_a_dry_run_says_what_it_took_the_file_for_what_would_be_taken_and_that_nothing_is_learned(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", [record(1), {"messages": [{"role": SECRET, "content": SECRET}]}, record(2)])
    report = tmp_path / "report.json"
    said = typed(str(file), "--target", "qwen3", "--dry-run", "--state", str(tmp_path), "--report", str(report))
    assert said.exit_code == 1, said.stderr
    assert "openai (record 1: it has messages with roles)" in said.stdout
    assert "3 records: 2 interactions would be taken" in said.stdout
    assert "refused, unknown_role: 1" in said.stdout
    assert "line 2: a message has a role" in said.stdout
    assert "no model learns from them" in said.stdout
    assert SECRET not in said.stdout + said.stderr
    found = json.loads(report.read_text())
    assert (found["taken"], found["refused"], found["training_allowed"]) == (2, {"unknown_role": 1}, False)
    assert found["files"][0]["listed"][0]["line"] == 2
    assert not (tmp_path / "imports").exists()
    clean = written(tmp_path / "b.jsonl", [record(1)])
    taken = typed(str(clean), "--target", "qwen3", "--dry-run", "--training-allowed", "--state", str(tmp_path))
    assert taken.exit_code == 0
    assert "models may learn" in taken.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model", "gpt-4o"), "OLD=TARGET"),
        (("--occurred-at", "yesterday"), "ISO 8601"),
        (("--to", "http", "--collector", "http://127.0.0.1:9"), "no collector answers"),
        (("--kafka", "127.0.0.1:9"), "127.0.0.1:9"),
        ((), "nothing runs in"),
    ],
)
def test_what_cannot_run_is_exit_2_and_one_line(
    tmp_path: Path, words: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUMINATE_KAFKA_BOOTSTRAP", raising=False)
    file = written(tmp_path / "a.jsonl", [record(1)])
    said = typed(str(file), "--target", "qwen3", "--state", str(tmp_path / "state"), *words)
    assert said.exit_code == 2
    assert says in said.stderr
    assert said.stderr.count("\n") == 1
    nothing_known = written(tmp_path / "b.jsonl", [{"text": SECRET}])
    said = typed(str(nothing_known), "--dry-run")
    assert said.exit_code == 2
    assert SECRET not in said.stderr
