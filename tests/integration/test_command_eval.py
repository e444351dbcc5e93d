"""`ruminate eval`: versions on a real node are asked the operator's questions and printed side by side."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ruminate.shared.ollama import OllamaClient
from ruminate.shared.store import hash_file
from tests.plugins.node import TALK, Script, running_node, write_scripted_model

BLUE = "Blue is the answer."
WORSE: Script = {**TALK, "\n\n": ("Adapted",)}
"""Answers otherwise where it does not think."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A node with two versions."""
    folder = tmp_path_factory.mktemp("models")
    with running_node(tmp_path_factory.mktemp("node")) as node:

        async def make() -> None:
            async with OllamaClient(node.url) as client:
                for name, script in (("mine:v1", TALK), ("mine:v2", WORSE)):
                    model = write_scripted_model(folder / f"{name[-2:]}.gguf", script)
                    sha256, _ = hash_file(model)
                    await client.push_blob(model, sha256)
                    await client.create(name, files={"model.gguf": sha256}, parameters={"num_thread": 1})

        asyncio.run(make())
        yield node.url


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "colours.jsonl"
    lines = [{"question": f"What is {number}?", "check": {"kind": "exact", "content": BLUE}} for number in range(12)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def evaluate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ruminate.command", "eval", *arguments, "--answer-tokens", "32"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env={"COLUMNS": "120", "PATH": ""})


def test_two_versions_are_compared_on_the_same_questions(url: str, questions: Path) -> None:
    done = evaluate("mine:v1", "mine:v2", "--node", url, "--set", str(questions), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    right = {each["mode"]: each["versions"] for each in told["measures"] if each["measure"] == "right"}
    assert right["thinking"]["mine:v2"]["value"] == 1.0
    assert right["direct"]["mine:v1"]["value"] == 1.0
    assert right["direct"]["mine:v2"]["value"] == 0.0
    assert right["direct"]["mine:v2"]["change"]["high"] < 0
    assert len(told["answers"]) == 24


def test_a_table_says_what_is_no_accident(url: str, questions: Path) -> None:
    done = evaluate("mine:v1", "mine:v2", "--node", url, "--set", f"colours={questions}")
    assert done.returncode == 0, done.stderr
    assert "colours, direct: 12 questions" in done.stdout
    assert "beside mine:v1" in done.stdout
    assert "-100.0 (-100.0 to" in done.stdout and "*" in done.stdout
    assert url in done.stdout


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "has no question in it"),
        ('{"question": "1?"}', "line 1: the line: Value error, give either a reference or a check"),
    ],
)
def test_a_file_that_asks_nothing_is_refused_by_its_name(url: str, tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(line, encoding="utf-8")
    done = evaluate("mine:v1", "--node", url, "--set", str(path))
    assert done.returncode == 2
    assert says in done.stderr and "mine.jsonl" in done.stderr


def test_without_a_loop_a_version_has_to_be_named_as_the_node_names_it(url: str, questions: Path, tmp_path: Path) -> None:
    done = evaluate("v7", "--node", url, "--set", str(questions), "--state", str(tmp_path))
    assert done.returncode == 1
    assert "nothing runs in" in done.stderr


def test_a_node_that_is_away_is_named(questions: Path) -> None:
    done = evaluate("v7", "--node", "http://127.0.0.1:9", "--set", str(questions))
    assert done.returncode == 2
    assert "127.0.0.1:9" in done.stderr and "--node" in done.stderr
