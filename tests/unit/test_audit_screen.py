"""What `ruminate audit` shows, and where it finds broker and store."""

from __future__ import annotations

import io
from pathlib import Path

import orjson
import pytest
import typer
from rich.console import Console

from ruminate.command.audit.findings import ADVICE, Report
from ruminate.command.audit.verb import audit, show
from ruminate.command.connection import NothingRuns, find_settings
from ruminate.schemas.envelope import moment
from ruminate.schemas.flow import INTERACTION_COMPLETED, INTERACTION_RECORDED
from tests.unit.audit_history import START_MS, History, sound


def screen(report: Report) -> str:
    out = io.StringIO()
    show(report, Console(file=out, width=160, markup=False, emoji=False, highlight=False))
    return out.getvalue()


def test_a_clean_audit_fits_on_one_screen_and_says_so(tmp_path: Path) -> None:
    history = sound(tmp_path)
    history.again(INTERACTION_COMPLETED, value=b"garbage")
    history.collect()
    said = screen(history.audit())
    assert "no fault: nothing was lost, nothing doubled" in said
    assert "every topic has its beginning" in said
    assert "2 batches, 6 rows, 4 artifacts" in said
    assert "pending at trainer: 1" in said
    assert "dead letters that wait for you (ruminate dlq list): 1" in said
    assert len(said.splitlines()) < 24


def test_a_fault_is_shown_with_its_place_its_meaning_and_what_to_do(tmp_path: Path) -> None:
    history = sound(tmp_path)
    for record in history.records(INTERACTION_RECORDED.name):
        history.remove(record)
    report = history.audit()
    said = screen(report)
    assert "missing_effect: 6" in said
    assert "and 1 more (--json)" in said
    assert ADVICE["missing_effect"].means in said
    assert ADVICE["missing_effect"].do in said
    fault = report.faults[0]
    assert f"{fault.topic} {fault.partition}:{fault.offset} {fault.event_id}" in said
    assert "docs/runbooks/audit.md" in said


def test_the_horizon_is_shown_with_the_topic_that_has_it(tmp_path: Path) -> None:
    history = sound(tmp_path)
    history.whole_since_ms[INTERACTION_COMPLETED.name] = START_MS
    said = screen(history.audit())
    at = f"{moment(START_MS):%Y-%m-%d %H:%M:%S} UTC"
    assert f"judged from {at} on" in said
    assert f"{INTERACTION_COMPLETED.name} is whole since {at}" in said


def test_nothing_that_others_wrote_moves_the_cursor(tmp_path: Path) -> None:
    history = sound(tmp_path)
    record = history.again(INTERACTION_COMPLETED, value=b"garbage")
    history.bury(INTERACTION_COMPLETED, "collector", history.at(record), "crashed")
    history.settle(INTERACTION_COMPLETED, "collector", "dropped", why="[red]\x1b[2J gone")
    said = screen(history.audit())
    assert "[red]\\x1b[2J gone" in said
    assert "\x1b" not in said


def exit_of(state: Path) -> int:
    with pytest.raises(typer.Exit) as ended:
        audit(state, as_json=True)
    return ended.value.exit_code


def test_a_loop_that_does_not_run_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.delenv("RUMINATE_KAFKA_BOOTSTRAP", raising=False)
    assert exit_of(tmp_path) == 2
    said = capfdbinary.readouterr()
    assert orjson.loads(said.out)["clean"] is None
    assert b"could not judge: nothing runs in" in said.err


def test_an_audit_that_fails_itself_does_not_end_as_one_that_found_a_fault(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "addresses.json").write_bytes(orjson.dumps({"kafka": "127.0.0.1:1"}))  # of a version that wrote less
    assert exit_of(tmp_path) == 2
    said = capfdbinary.readouterr()
    assert orjson.loads(said.out)["could_not_judge"] == "the audit itself failed with KeyError; the trace above says where"
    assert b"Traceback" in said.err


def test_the_report_is_json(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.complete("a")
    (record,) = history.records(INTERACTION_COMPLETED.name)
    history.committed["collector", INTERACTION_COMPLETED.name] = {record.partition: 1}
    found = orjson.loads(orjson.dumps(history.audit().as_json()))
    assert found["clean"] is False
    assert found["fault_counts"] == {"missing_effect": 1}
    (fault,) = found["faults"]
    assert fault["topic"] == INTERACTION_COMPLETED.name
    assert fault["means"] == ADVICE["missing_effect"].means


ADDRESSES = {
    "kafka": "127.0.0.1:1111",
    "kafka_profile": "embedded",
    "gateway": "",
    "collector": "",
    "nodes": {},
    "operations": {},
    "target": "tiny",
    "store": "file:///loop/store",
}


def test_broker_and_store_are_those_that_are_named_else_of_the_loop_else_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(kafka: str | None = None, store: str | None = None) -> tuple[str, str, str]:
        settings = find_settings(tmp_path, kafka, store)
        return settings.kafka_bootstrap, settings.kafka_profile, settings.store_uri

    monkeypatch.delenv("RUMINATE_KAFKA_BOOTSTRAP", raising=False)
    monkeypatch.delenv("RUMINATE_KAFKA_PROFILE", raising=False)
    monkeypatch.delenv("RUMINATE_STORE_URI", raising=False)
    with pytest.raises(NothingRuns, match="ruminate up"):
        found()
    monkeypatch.setenv("RUMINATE_KAFKA_BOOTSTRAP", "kafka:9092")
    monkeypatch.setenv("RUMINATE_STORE_URI", "file:///environment/store")
    assert found() == ("kafka:9092", "kafka", "file:///environment/store")
    assert found("other:9092") == ("other:9092", "kafka", "file:///environment/store")
    (tmp_path / "addresses.json").write_bytes(orjson.dumps(ADDRESSES))
    assert found() == ("127.0.0.1:1111", "embedded", "file:///loop/store")
    assert found("other:9092", "file:///named") == ("other:9092", "kafka", "file:///named")
    assert found(store=str(tmp_path / "store")) == ("127.0.0.1:1111", "embedded", (tmp_path / "store").as_uri())
