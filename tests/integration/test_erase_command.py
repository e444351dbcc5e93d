"""`ruminate erase` as it is typed, beside the eraser as it runs, on the embedded broker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ruminate.command.__main__ import app
from ruminate.embedded.broker import embedded_broker
from ruminate.schemas.flow import INTERACTION_RECORDED, REASONING_ASSESSED
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics
from tests.integration.erasing import BYSTANDERS, MARKER, every_record, holding, plant


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[ServiceSettings]:
    """A broker of our own with the planted log."""
    with embedded_broker() as broker:
        found = ServiceSettings(kafka_bootstrap=broker.bootstrap, kafka_profile="embedded", state_dir=tmp_path)

        async def begin() -> None:
            await ensure_topics(found)
            async with KafkaBus(found, reader="tests") as bus:
                await plant(bus)

        asyncio.run(begin())
        yield found


def environment(settings: ServiceSettings) -> dict[str, str]:
    return {
        "RUMINATE_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "RUMINATE_KAFKA_PROFILE": settings.kafka_profile,
        "RUMINATE_STATE_DIR": str(settings.state_dir),
        "RUMINATE_ERASURE_SETTLE_SECONDS": "0.3",
        "RUMINATE_LOG_LEVEL": "error",
        "COLUMNS": "200",
    }


def typed(settings: ServiceSettings, *words: str, answer: str | None = None) -> Result:
    state = str(settings.state_dir / "no-loop-here")
    return CliRunner().invoke(app, [*words, "--state", state], env=environment(settings), input=answer)


@contextmanager
def eraser(settings: ServiceSettings) -> Iterator[None]:
    command = [sys.executable, "-W", "error", "-m", "ruminate.eraser"]
    with subprocess.Popen(command, env=os.environ | environment(settings)) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def left(settings: ServiceSettings, text: str) -> dict[str, int]:
    async def look() -> dict[str, int]:
        async with KafkaBus(settings, reader="tests") as bus:
            return holding(await every_record(bus), text)

    return asyncio.run(look())


def test_what_is_asked_for_is_erased_and_shown_and_its_dead_letters_no_longer_stand(settings: ServiceSettings) -> None:
    refused = typed(settings, "erase", "--conversation", "c-forget", answer="n\n")
    assert refused.exit_code == 1
    assert "nothing was asked for" in refused.stdout
    assert "erase it? [y/N]" in refused.stderr
    assert "nobody has asked" in typed(settings, "erase", "list").stdout

    before = left(settings, MARKER)
    withdrawn = typed(settings, "erase", "--agent", "ledger", "--withdraw", "--yes", "--json")
    assert json.loads(withdrawn.stdout)["state"] == "withdrawn"
    with eraser(settings):
        # Until now, so that it covers the one that occurs long before, and all others of the conversation with it.
        erased = typed(settings, "erase", "--conversation", "c-forget", "--reason", "a letter", "--wait", "--json", "--yes")
        assert erased.exit_code == 0, erased.stderr
        assert left(settings, MARKER) == {} != before
        assert set(left(settings, BYSTANDERS[0])) == set(before)
    said = json.loads(erased.stdout)
    assert said["state"] == "finished"
    assert said["gone_by"] is None, "an embedded broker compacts nothing"
    assert said["erased"][INTERACTION_RECORDED.name] == 4
    assert said["erased"][REASONING_ASSESSED.name] == 8

    listed = json.loads(typed(settings, "erase", "list", "--json").stdout)
    assert [each["state"] for each in listed] == ["withdrawn", "finished"]
    shown = typed(settings, "erase", "show", said["id"][:8])
    assert "a letter" in shown.stdout
    assert "an embedded broker forgets all when it stops" in shown.stdout
    assert typed(settings, "erase", "show", "zzz").exit_code == 1

    # Readers of all kinds take what was erased for what it is.
    letters = typed(settings, "dlq", "list", "--all").stdout
    assert "dropped" in letters
    tail = typed(settings, "tail", INTERACTION_RECORDED.name, "--no-follow", "--json")
    assert [json.loads(each)["data"]["interaction_id"] for each in tail.stdout.splitlines()].count("o-1") == 1
    why = typed(settings, "why", "i-1")
    assert "erasure of this conversation asked for" in why.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "say what is to be forgotten"),
        (("--conversation", "c", "--agent", "a"), "one thing"),
        (("--agent", "a", "--source", "/a"), "--source goes with --interaction"),
        (("--conversation", ""), "--conversation: String should have at least 1 character"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    settings = ServiceSettings(state_dir=tmp_path)
    refused = typed(settings, "erase", *words, "--yes")
    assert refused.exit_code == 2
    assert says in refused.stderr
