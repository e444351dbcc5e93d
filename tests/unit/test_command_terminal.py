"""What all verbs do alike: how they end, what they print, how they find a broker, and that each explains itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer
from typer.testing import CliRunner

from ruminate.command.__main__ import _run, app
from ruminate.command.connection import NothingRuns, find_settings
from ruminate.command.terminal import complaints, console, line, run
from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.topics import TopicsDiffer


async def raising(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NothingRuns("nothing runs"), 1),
        (BrokerUnavailable("no broker answers"), 1),
        (PermissionError("not yours"), 1),
        (KeyError("foreseen by the verb"), 1),
        (IndexError("typed wrongly"), 2),
    ],
)
def test_what_was_foreseen_is_one_line_and_an_exit(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        run(raising(error), failures=(KeyError,), mistakes=(IndexError,))
    assert ended.value.exit_code == code
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"ruminate: {error}\n")


def test_topics_that_up_may_not_change_are_one_line_with_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        _run(raising(TopicsDiffer("interaction-recorded-v1: partitions is 6 and should be 12. The way is a new topic")))
    assert capsys.readouterr().err.count("\n") == 1


def test_what_was_not_foreseen_keeps_its_traceback_and_an_interruption_is_no_fault() -> None:
    with pytest.raises(ZeroDivisionError):
        run(raising(ZeroDivisionError()))
    with pytest.raises(typer.Exit) as ended:
        run(raising(KeyboardInterrupt()))
    assert ended.value.exit_code == 130


def test_texts_of_others_are_words_neither_to_the_terminal_nor_to_what_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    for out in (console, complaints):
        line(out, "qwen3:8b :warning: [red]not red[/dim] \x1b[2J" + "x" * 300)
    said = capsys.readouterr()
    assert said.out == said.err == "qwen3:8b :warning: [red]not red[/dim] \\x1b[2J" + "x" * 300 + "\n"


def verbs(command: Any, *names: str) -> Iterator[Any]:
    """The command and everything below it, each by what is typed."""
    yield pytest.param(command, id=" ".join(names))
    for name, each in getattr(command, "commands", {}).items():
        yield from verbs(each, *names, name)


@pytest.mark.parametrize("command", list(verbs(typer.main.get_command(app), "ruminate")))
def test_every_verb_and_each_of_its_options_explains_itself(command: Any) -> None:
    assert command.help
    assert [each.name for each in command.params if not each.help] == []


@pytest.mark.parametrize(
    "words",
    [
        ("acls", "plan"),
        ("topics", "plan", "--kafka", "127.0.0.1:1"),
        ("topics", "plan"),
        ("dlq", "list"),
        ("datasets", "list"),
        ("datasets", "rebuild", "--kafka", "127.0.0.1:1"),
        ("tail", "reasoning-assessed-v1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_in_one_line_by_every_verb(tmp_path: Path, words: tuple[str, ...]) -> None:
    environment = {"RUMINATE_KAFKA_REPLICATION": "many", "RUMINATE_KAFKA_BOOTSTRAP": "127.0.0.1:1"}
    state = () if words[0] == "acls" else ("--state", str(tmp_path))
    said = CliRunner().invoke(app, [*words, *state], env=environment)
    assert said.exit_code == 1
    assert said.stderr.startswith("ruminate: RUMINATE_KAFKA_REPLICATION: ")
    assert said.stderr.count("\n") == 1


def test_the_store_of_a_loop_goes_with_the_broker_of_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(kafka: str | None) -> tuple[str, str, str]:
        settings = find_settings(tmp_path, kafka)
        return settings.kafka_bootstrap, settings.kafka_profile, settings.store_uri

    for name in ("BOOTSTRAP", "PROFILE"):
        monkeypatch.delenv(f"RUMINATE_KAFKA_{name}", raising=False)
    monkeypatch.setenv("RUMINATE_STORE_URI", "file:///environment/store")
    addresses = {"kafka": "127.0.0.1:1111", "kafka_profile": "embedded", "store": "file:///loop/store"}
    others = {"gateway": "", "collector": "", "nodes": {}, "operations": {}, "target": "tiny"}
    (tmp_path / "addresses.json").write_bytes(orjson.dumps(addresses | others))
    loop = ("127.0.0.1:1111", "embedded", "file:///loop/store")
    assert found(None) == found("127.0.0.1:1111") == loop
    assert found("other:9092") == ("other:9092", "kafka", "file:///environment/store")


def test_where_nothing_runs_both_ways_out_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUMINATE_KAFKA_BOOTSTRAP", raising=False)
    with pytest.raises(NothingRuns, match=r"ruminate up --state .*--kafka HOST:PORT"):
        find_settings(tmp_path, None)
